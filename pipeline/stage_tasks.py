"""dvc.yaml's stages as Prefect tasks: which are to run, each in its order, the slot `gpu`, the progress."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from graphlib import TopologicalSorter
from time import monotonic
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from prefect.tasks import Task

from pix2pix.download import DownloadError
from pix2pix.errors import UserError

from .outcome import artifact_key
from .stage_process import TRAIN, Ended, StageProcesses
from .workspace import Workspace

GPU_LIMIT = "gpu"
NEEDS_GPU = {TRAIN}
# A slot that nobody renews is free again after this.
LEASE_S = 60
# Between two looks at a slot that is taken, so that a cancelled run does not go on waiting.
SLOT_POLL_S = 3.0
# A source that is down for a moment, an hour at most.
NETWORK_DELAYS_S = [10.0, 60.0, 600.0]
RESTORED = "unchanged, restored from cache"
_DONE_OF = re.compile(r"\w+: (\d+)/(\d+) ")


class Plan:
    """The stages in an order to run them in, and those that are to run.

    Attributes:
        graph: every stage with those that it needs.
        order: each stage after those.
        to_run: the stages that have something to do, or may have once those before them have run.
    """

    def __init__(self, graph: dict[str, set[str]], settled: set[str], force: bool) -> None:
        self.graph = graph
        self.order = list(TopologicalSorter(graph).static_order())
        self.force = force
        self.to_run: list[str] = []
        for stage in self.order:
            if force or stage not in settled or graph[stage] & set(self.to_run):
                self.to_run.append(stage)


def settled(made: Workspace) -> set[str]:
    """The stages that `dvc repro` would not run; what the cache still holds need not lie in the worktree.

    The dry run itself fails on a stage whose dependencies were never there; that stage is not settled, and
    whatever else may be wrong is said by the stage's own task.
    """
    said = made.dvc("repro", "--dry", "--allow-missing", check=False).stdout
    return set(re.findall(r"^Stage '(.+)' didn't change, skipping", said, re.MULTILINE))


# --- the stages --------------------------------------------------------------------------------------


def run_stages(
    made: Workspace, plan: Plan, deployment: str, stage_timeout_h: float, gpu_timeout_h: float
) -> Ended:
    """Every stage as a task of its name, each after those it needs; how the first that failed ended.

    Args:
        deployment: whose progress is shown.
        stage_timeout_h: hours after which a stage is ended.
        gpu_timeout_h: hours to wait for the slot `gpu`.
    """
    settled = [] if plan.force else [stage for stage in plan.order if stage not in plan.to_run]
    return _Run(made, plan, _restored(made, settled), deployment, stage_timeout_h, gpu_timeout_h).whole()


def _restored(made: Workspace, stages: Sequence[str]) -> Sequence[str]:
    """Put what is up to date into the worktree, all at once; nothing where the cache has lost some of it."""
    if not stages:
        return []
    try:
        made.dvc("checkout", *stages)
    except UserError:
        return []
    return stages


class _Run:
    """The stages of one flow run."""

    def __init__(
        self,
        made: Workspace,
        plan: Plan,
        restored: Sequence[str],
        deployment: str,
        stage_timeout_h: float,
        gpu_timeout_h: float,
    ) -> None:
        self._plan = plan
        self._restored = restored
        self._deployment = deployment
        self._stage_timeout_h = stage_timeout_h
        self._gpu_timeout_h = gpu_timeout_h
        self._processes = StageProcesses(made.root)
        self._ends: dict[str, Ended] = {}

    def whole(self) -> Ended:
        """Run all of them; how the first that failed ended."""
        plan, ends = self._plan, self._ends
        futures: dict[str, PrefectFuture[Any]] = {}
        try:
            for stage in plan.order:
                needed = [futures[before] for before in sorted(plan.graph[stage])]
                futures[stage] = self._task(stage).submit(return_state=False, wait_for=needed)
            for future in futures.values():
                future.wait()
        except BaseException:
            # Prefect was told to cancel or to end; it would wait for the threads, and they for their stages.
            self._processes.stop()
            raise
        failed = [ends[stage] for stage in plan.order if stage in ends and ends[stage].status]
        if failed:
            return failed[0]
        lost = [stage for stage in plan.order if not futures[stage].state.is_completed()]
        return Ended(1, f"{lost[0]}: {futures[lost[0]].state.message}") if lost else Ended(0)

    def _task(self, stage: str) -> Task[[], State[Any]]:
        def may_succeed_later(run: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
            # The stage itself has said so, and nobody wants it to end.
            ended = self._ends.get(stage)
            return (
                not self._processes.stopping
                and ended is not None
                and ended.status == DownloadError.exit_status
            )

        def run() -> State[Any]:
            return self._stage(stage)

        return task(
            name=stage,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=len(NETWORK_DELAYS_S),
            retry_delay_seconds=NETWORK_DELAYS_S,
            retry_condition_fn=may_succeed_later,
        )(run)

    def _stage(self, stage: str) -> State[Any]:
        log = get_run_logger()
        if stage in self._restored:
            log.info(RESTORED)
            return Completed(message=RESTORED)
        progress = _Progress(artifact_key(self._deployment, stage))

        def tell(line: str) -> None:
            log.info("%s", line)
            progress.see(line)

        try:
            with self._slot(stage):
                ended = self._processes.run(
                    stage, tell, force=self._plan.force, timeout_s=self._stage_timeout_h * 3600
                )
        except UserError as error:
            ended = Ended(error.exit_status, str(error))
        self._ends[stage] = ended
        if ended.status > 128:
            # Not the stage's own failing: the whole run ends, and the next one goes on.
            self._processes.stop()
        if ended.status:
            # A state and no exception, which would add its traceback to a line that says it all.
            return Failed(message=ended.line, data=ended.status)
        progress.finish()
        if ended.restored:
            log.info(RESTORED)
        return Completed(message=RESTORED if ended.restored else "done")

    @contextmanager
    def _slot(self, stage: str) -> Iterator[None]:
        if stage not in NEEDS_GPU:
            yield
            return
        with ExitStack() as held:
            end = monotonic() + self._gpu_timeout_h * 3600
            while not self._processes.stopping:
                try:
                    held.enter_context(
                        concurrency(
                            GPU_LIMIT,
                            strict=True,
                            lease_duration=LEASE_S,
                            timeout_seconds=SLOT_POLL_S,
                            # A training does not end because Prefect's server is being restarted.
                            raise_on_lease_renewal_failure=False,
                        )
                    )
                    break
                except TimeoutError:
                    if monotonic() > end:
                        raise UserError(
                            f"{stage}: no slot of {GPU_LIMIT} was free for {self._gpu_timeout_h:g} h; "
                            f"`prefect gcl inspect {GPU_LIMIT}` shows who holds it"
                        ) from None
                except ConcurrencySlotAcquisitionError as error:
                    raise UserError(
                        f"{stage}: there is no slot of {GPU_LIMIT} to be had ({error}); "
                        f"`prefect gcl create {GPU_LIMIT} --limit 1` makes one"
                    ) from None
            yield


@dataclass
class _Progress:
    """The bar on Prefect's page, from the lines that a stage writes where there is no terminal."""

    key: str
    artifact: Any = None

    def see(self, line: str) -> None:
        share = share_done(line)
        if share is not None:
            self._show(share, line)

    def finish(self) -> None:
        if self.artifact is not None:
            self._show(100.0, "done")

    def _show(self, share: float, text: str) -> None:
        # An ornament: a server that is being restarted must not end a training.
        with suppress(Exception):
            if self.artifact is None:
                self.artifact = create_progress_artifact(share, key=self.key, description=text)
            else:
                update_progress_artifact(self.artifact, share, description=text)


def share_done(line: str) -> float | None:
    """Per cent done, where a line of a stage says how far it is: `train: 120/400 steps, 3 min left`."""
    found = _DONE_OF.match(line)
    return 100 * int(found[1]) / int(found[2]) if found and int(found[2]) else None
