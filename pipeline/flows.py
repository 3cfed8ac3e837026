"""The Prefect flow `retrain`: dvc.yaml's stages as tasks in a worktree, then the registry, then its page.

Orchestration is Prefect's, versioning DVC's, the registry MLflow's; here is what lies between them.
"""

import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, chdir, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from graphlib import TopologicalSorter
from threading import Thread
from time import monotonic, sleep
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.futures import PrefectFuture
from prefect.states import Completed, Crashed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task
from pydantic import Field

from pix2pix import remeasurement
from pix2pix.download import DownloadError
from pix2pix.errors import UserError
from pix2pix.params import Params

from . import approval, crashes, outcome, presets, registry, tracking, workspace
from .registry import Registered
from .repro import CARD, check_source
from .source import refreshed
from .stage_process import Ended, StageProcesses
from .workspace import Workspace

GPU_LIMIT = "gpu"
NEEDS_GPU = {"train"}
# A slot that nobody renews is free again after this.
LEASE_S = 60
# Between two looks at a slot that is taken, so that a cancelled run does not go on waiting.
SLOT_POLL_S = 3.0
# A source that is down for a moment, an hour at most.
NETWORK_DELAYS_S = [10.0, 60.0, 600.0]
# For a flow that was orphaned to end its stage and to tell Prefect.
TELLING_S = 30.0
_DONE_OF = re.compile(r"\w+: (\d+)/(\d+) ")

Preset = Annotated[str, Field(json_schema_extra={"enum": list(presets.names())})]
Hours = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class _Request:
    """What a run was asked to do with what it finds to do."""

    deployment: str
    force: bool
    promote: Literal["auto", "never", "ask"]
    warm_start: Literal["none", "champion"]
    ask_timeout_h: float
    stage_timeout_h: float
    gpu_timeout_h: float


@flow(name="retrain", task_runner=ThreadPoolTaskRunner(max_workers=1))  # type: ignore[arg-type]
def retrain(
    preset: Preset | None = None,
    overrides: dict[str, Any] | None = None,
    refresh: bool = False,
    force: bool = False,
    promote: Literal["auto", "never", "ask"] = "auto",
    warm_start: Literal["none", "champion"] = "none",
    ask_timeout_h: Hours = 24,
    stage_timeout_h: Hours = 48,
    gpu_timeout_h: Hours = 48,
) -> State[Any]:
    """Run what has changed, leave a commit on retrain/DEPLOYMENT, register, promote what is better.

    Args:
        preset: a file in presets/, laid over the committed params.yaml.
        overrides: values over that by dotted key, such as {"train.epochs": 3}.
        refresh: ask the server for what is new, or look at an own archive, and pin dataset.sha256 to it, over
            any other pin. Folders are always looked at.
        force: run every stage, restoring none.
        promote: make a generator that the gate finds better champion (auto), only when a person agrees, on
            this page or by `pix2pix approve` (ask), or leave the champion alone (never).
        warm_start: where something has to be trained, begin with the champion's weights.
        ask_timeout_h: hours after which a question that nobody answered counts as a no.
        stage_timeout_h: hours after which a stage is ended.
        gpu_timeout_h: hours to wait for the slot `gpu`.
    """
    asked = _Request(
        runtime.deployment.name or "local",
        force,
        promote,
        warm_start,
        ask_timeout_h,
        stage_timeout_h,
        gpu_timeout_h,
    )
    if runtime.deployment.id:
        Thread(target=_end_with_the_worker, args=(str(runtime.flow_run.id),), daemon=True).start()
    try:
        # MLflow takes seconds to load, which git and dvc take too.
        Thread(target=tracking.connect, daemon=True).start()
        crashes.report()
        with workspace.workspace(str(runtime.flow_run.id), asked.deployment) as made:
            params = workspace.set_params(made, preset, overrides or {})
            check_source(params, made.root)
            if refresh:
                params = refreshed(made, params, NETWORK_DELAYS_S)
            if asked.warm_start == "champion":
                params = _as_last_started(made, params)
            return _retrain(made, params, asked)
    except UserError as error:
        get_run_logger().error("%s", error)
        return Failed(message=str(error))


def _end_with_the_worker(run: str) -> None:
    """Nobody could cancel a flow whose worker was killed, and a restarted worker does not know it."""
    worker = os.getppid()
    while os.getppid() == worker:
        sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    # Where the server is gone as well, Prefect goes on trying to tell it; that is for the next one then.
    sleep(TELLING_S)
    workspace.leave_trace(run)
    os.kill(os.getpid(), signal.SIGKILL)


def _retrain(made: Workspace, params: Params, asked: _Request) -> State[Any]:
    log = get_run_logger()
    with ThreadPoolExecutor() as pool:
        before = pool.submit(outcome.champion, params)
        graph = pool.submit(made.graph)
        settled = _settled(made)
        plan = _Plan(graph.result(), settled, asked.force)
        champion = before.result()
    if asked.warm_start == "champion" and "train" in plan.to_run:
        params = _started_from_champion(made, params)
        plan = _Plan(plan.graph, _settled(made), asked.force)
    if not plan.to_run:
        known = outcome.registered(params, made.root)
        # A decision that a run did not live to carry out, or was not allowed to, is still to be carried out.
        if known and not (known.held and asked.promote != "never"):
            message = f"nothing has changed; {params.registry.model_name} version {known.version} is of this"
            log.info("%s", message)
            return Completed(name="Unchanged", message=message)
    # Of runs that were killed with all that could have said so.
    outcome.close_dead_runs(params, made)
    log.info("to look at: %s", ", ".join(plan.to_run) or "nothing; the registry has to be told")
    ended = _run_stages(made, plan, asked.stage_timeout_h, asked.gpu_timeout_h)
    # A trainer that was killed, or that found nobody to tell its end to.
    outcome.close_dead_runs(params, made)
    if ended.status:
        # Killed from outside: what is there goes on from the checkpoint the next time.
        kind = Crashed if ended.status > 128 else Failed
        return kind(message=ended.line)
    return _finish(made, params, asked, champion)


def _as_last_started(made: Workspace, params: Params) -> Params:
    """The parameters with what the branch's last training began with.

    Were it the champion's digest at once, every new champion would be a change, and its heir trained from it
    with nothing new to learn.
    """
    last = dict(workspace.last_params(made).get("train", {})).get("warm_start", "")
    return workspace.set_params(made, None, {"train.warm_start": last})


def _started_from_champion(made: Workspace, params: Params) -> Params:
    delivered = outcome.deliver_champion(params)
    if delivered is None:
        get_run_logger().info("there is no champion yet: training begins with fresh weights")
        return workspace.set_params(made, None, {"train.warm_start": ""})
    get_run_logger().info("training begins with the weights of version %s", delivered.version)
    return workspace.set_params(made, None, {"train.warm_start": delivered.onnx_sha256})


def _finish(made: Workspace, params: Params, asked: _Request, champion: Any) -> State[Any]:
    log = get_run_logger()
    if workspace.has_remote(made):
        made.dvc("push")
        log.info("pushed to the DVC remote")
    commit = workspace.leave_commit(made, f"{made.branch}: {params.registry.model_name} retrained")
    log.info("%s is %s", made.branch, commit)
    with chdir(made.root):
        # The stage has registered already, if it ran; a restored one runs no code. Neither promotes: what
        # becomes champion has its commit.
        measure = partial(remeasurement.measure, params.evaluate)
        card = CARD.read_text(encoding="utf-8")
        registered = registry.register(params, card, measure, promote=False)
        outcome.tag_commit(registered, commit)
        publish = partial(outcome.publish, params, champion, asked.deployment, made.branch, commit)
        if registered.held:
            registered = _settle_held(registered, asked, partial(publish, registered))
        publish(registered)
    message = _in_words(registered)
    log.info("%s", message)
    return Completed(message=message)


def _settle_held(done: Registered, asked: _Request, show: Callable[[], None]) -> Registered:
    """Do with the gate's decision for a version what the run was asked to do with it."""
    assert done.held is not None
    if asked.promote == "auto":
        return registry.carry_out(done)
    if asked.promote == "never":
        return done
    # What is asked about is to be seen on the page.
    show()
    get_run_logger().info("waiting for an answer: pix2pix approve %s --because …", runtime.flow_run.name)
    answer = approval.ask(outcome.question(done), asked.ask_timeout_h)
    if answer.approve:
        return registry.carry_out(done, "approved", f"{answer.because} ({done.reason})", answer.by)
    return registry.decline(done, f"declined by {answer.by}: {answer.because}")


def _in_words(registered: Registered) -> str:
    verb = "registered as" if registered.created else "is"
    name, version = registered.model_name, registered.version
    would = "the gate would promote it: " if registered.held else ""
    return f"{name} {verb} version {version}, {registered.alias}: {would}{registered.reason}"


# --- what is to be done ------------------------------------------------------------------------------


class _Plan:
    """The graph in an order to run it in, and what of it is settled."""

    def __init__(self, graph: dict[str, set[str]], settled: set[str], force: bool) -> None:
        self.graph = graph
        self.order = list(TopologicalSorter(graph).static_order())
        self.force = force
        self.to_run: list[str] = []
        for stage in self.order:
            if force or stage not in settled or graph[stage] & set(self.to_run):
                self.to_run.append(stage)


def _settled(made: Workspace) -> set[str]:
    """The stages that `dvc repro` would not run; what the cache still holds need not lie in the worktree.

    The dry run itself fails on a stage whose dependencies were never there; that stage is not settled, and
    whatever else may be wrong is said by the stage's own task.
    """
    said = made.dvc("repro", "--dry", "--allow-missing", check=False).stdout
    return set(re.findall(r"^Stage '(.+)' didn't change, skipping", said, re.MULTILINE))


# --- the stages --------------------------------------------------------------------------------------


def _run_stages(made: Workspace, plan: _Plan, stage_timeout_h: float, gpu_timeout_h: float) -> Ended:
    """Every stage as a task of its name, each after those it needs; how the first that failed ended."""
    stages = StageProcesses(made.root)
    settled = (
        [] if plan.force else _restored(made, [stage for stage in plan.order if stage not in plan.to_run])
    )
    ends: dict[str, Ended] = {}
    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        for stage in plan.order:
            run = _stage_task(
                stage, stages, stage in settled, plan.force, stage_timeout_h, gpu_timeout_h, ends
            )
            futures[stage] = run.submit(
                return_state=False, wait_for=[futures[needed] for needed in sorted(plan.graph[stage])]
            )
        for future in futures.values():
            future.wait()
    except BaseException:
        # Prefect was told to cancel or to end; it would wait for the threads, and they for their stages.
        stages.stop()
        raise
    failed = [ends[stage] for stage in plan.order if stage in ends and ends[stage].status]
    lost = [stage for stage in plan.order if not failed and not futures[stage].state.is_completed()]
    if lost:
        return Ended(1, f"{lost[0]}: {futures[lost[0]].state.message}")
    return failed[0] if failed else Ended(0)


def _restored(made: Workspace, stages: Sequence[str]) -> Sequence[str]:
    """Put what is up to date into the worktree, all at once; nothing where the cache has lost some of it."""
    if not stages:
        return []
    try:
        made.dvc("checkout", *stages)
    except UserError:
        return []
    return stages


def _stage_task(
    stage: str,
    stages: StageProcesses,
    settled: bool,
    force: bool,
    stage_timeout_h: float,
    gpu_timeout_h: float,
    ends: dict[str, Ended],
) -> Task[[], State[Any]]:
    def run() -> State[Any]:
        log = get_run_logger()
        if settled:
            log.info("unchanged, restored from cache")
            return Completed(message="unchanged, restored from cache")
        progress = _Progress(stage)

        def tell(line: str) -> None:
            log.info("%s", line)
            progress.see(line)

        try:
            with _slot(stage, stages, gpu_timeout_h):
                ended = stages.run(stage, tell, force=force, timeout_s=stage_timeout_h * 3600)
        except UserError as error:
            ended = Ended(error.exit_status, str(error))
        ends[stage] = ended
        if ended.status > 128:
            # Not the stage's own failing: the whole run ends, and the next one goes on.
            stages.stop()
        if ended.status:
            # A state and no exception, which would add its traceback to a line that says it all.
            return Failed(message=ended.line, data=ended.status)
        progress.finish()
        if ended.restored:
            log.info("unchanged, restored from cache")
        return Completed(message="unchanged, restored from cache" if ended.restored else "done")

    return task(
        name=stage,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(NETWORK_DELAYS_S),
        retry_delay_seconds=NETWORK_DELAYS_S,
        retry_condition_fn=_network_failed(stages, stage, ends),
    )(run)


def _network_failed(
    stages: StageProcesses, stage: str, ends: dict[str, Ended]
) -> Callable[[Task[..., Any], TaskRun, State[Any]], bool]:
    """Whether another try may succeed: the stage itself has said so, and nobody wants it to end."""

    def condition(run: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
        return not stages.stopping and stage in ends and ends[stage].status == DownloadError.exit_status

    return condition


@contextmanager
def _slot(stage: str, stages: StageProcesses, timeout_h: float) -> Iterator[None]:
    if stage not in NEEDS_GPU:
        yield
        return
    with ExitStack() as held:
        end = monotonic() + timeout_h * 3600
        while not stages.stopping:
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
                        f"{stage}: no slot of {GPU_LIMIT} was free for {timeout_h:g} h; "
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

    stage: str
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
                key = self.stage.replace("_", "-")
                self.artifact = create_progress_artifact(share, key=key, description=text)
            else:
                update_progress_artifact(self.artifact, share, description=text)


def share_done(line: str) -> float | None:
    """Per cent done, where a line of a stage says how far it is: `train: 120/400 steps, 3 min left`."""
    found = _DONE_OF.match(line)
    return 100 * int(found[1]) / int(found[2]) if found and int(found[2]) else None
