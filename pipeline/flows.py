"""The Prefect flow `retrain`: dvc.yaml's stages as tasks in a worktree, then the registry, then its page.

Orchestration is Prefect's, versioning DVC's, the registry MLflow's; here is what lies between them.
"""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from dataclasses import dataclass
from functools import partial
from threading import Thread
from time import sleep
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed, Crashed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from pix2pix import remeasurement
from pix2pix.errors import UserError
from pix2pix.params import Params

from . import approval, crashes, outcome, presets, registry, retrain_branch, stage_tasks, tracking, workspace
from .registry import Registered
from .repro import CARD, check_source
from .source import refreshed
from .stage_process import TRAIN
from .stage_tasks import NETWORK_DELAYS_S, Plan
from .workspace import Workspace

# For a flow that was orphaned to end its stage and to tell Prefect.
TELLING_S = 30.0

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
        crashes.report(str(runtime.flow_run.id))
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
        # Of runs that were killed with all that could have said so.
        pool.submit(outcome.close_dead_runs, made)
        before = pool.submit(outcome.champion, params)
        graph = pool.submit(made.graph)
        settled = stage_tasks.settled(made)
        plan = Plan(graph.result(), settled, asked.force)
        champion = before.result()
    if asked.warm_start == "champion" and TRAIN in plan.to_run:
        params = _started_from_champion(made, params)
        plan = Plan(plan.graph, stage_tasks.settled(made), asked.force)
    if not plan.to_run:
        known = outcome.registered(params, made.root)
        # A decision that a run did not live to carry out, or was not allowed to, is still to be carried out.
        if known and not (known.held and asked.promote != "never"):
            message = f"nothing has changed; {params.registry.model_name} version {known.version} is of this"
            log.info("%s", message)
            return Completed(name="Unchanged", message=message)
    log.info("to look at: %s", ", ".join(plan.to_run) or "nothing; the registry has to be told")
    ended = stage_tasks.run_stages(made, plan, asked.deployment, asked.stage_timeout_h, asked.gpu_timeout_h)
    # A trainer that was killed, or that found nobody to tell its end to.
    outcome.close_dead_runs(made)
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
    last = retrain_branch.last_params(made).get("train", {}).get("warm_start", "")
    return workspace.set_params(made, None, {"train.warm_start": last})


def _started_from_champion(made: Workspace, params: Params) -> Params:
    delivered = outcome.deliver_champion(params)
    if delivered is None:
        get_run_logger().info("there is no champion yet: training begins with fresh weights")
        return workspace.set_params(made, None, {"train.warm_start": ""})
    get_run_logger().info("training begins with the weights of version %s", delivered.version)
    return workspace.set_params(made, None, {"train.warm_start": delivered.onnx_sha256})


def _finish(made: Workspace, params: Params, asked: _Request, champion: str | None) -> State[Any]:
    log = get_run_logger()
    if workspace.has_remote(made):
        made.dvc("push")
        log.info("pushed to the DVC remote")
    commit = retrain_branch.leave_commit(made, f"{made.branch}: {params.registry.model_name} retrained")
    log.info("%s is %s", made.branch, commit)
    with chdir(made.root):
        # The stage has registered already, if it ran; a restored one runs no code. Neither promotes: what
        # becomes champion has its commit.
        measure = partial(remeasurement.measure, params.evaluate)
        card = CARD.read_text(encoding="utf-8")
        registered = registry.register(params, card, measure, promote=False)
        outcome.tag_commit(registered, commit)
        publish = partial(_publish, champion, asked.deployment, made.branch, commit)
        if registered.held:
            registered = _settle_held(registered, asked, partial(publish, registered))
        publish(registered)
    message = _in_words(registered)
    log.info("%s", message)
    return Completed(message=message)


def _publish(champion: str | None, deployment: str, branch: str, commit: str, done: Registered) -> None:
    """What is shown of a version; where it cannot be, the version is registered all the same."""
    try:
        outcome.publish(champion, deployment, branch, commit, done)
    except Exception as error:
        get_run_logger().warning("not everything is on the run's page: %s", tracking.reason(error))


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
