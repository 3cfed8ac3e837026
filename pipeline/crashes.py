"""Runs of this machine that ended without a word, told to Prefect by those that come after them."""

from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from . import workspace


def report(own: str = "") -> None:
    """Mark what would be shown as running for good as Crashed.

    That is the runs that ended with all who could have told, as in a power cut, and the tasks of a flow that
    was killed, which its worker knows nothing of. Call it before the next workspace is made, which removes
    those that tell of them.

    Args:
        own: the id of the run that calls; retried in Prefect after a kill, it finds its own workspace.
    """
    with get_client(sync_client=True) as client:
        for name in workspace.crashed():
            # Not every workspace is a run's, nor every run this server's.
            with suppress(ValueError, ObjectNotFound):
                _report(client, client.read_flow_run(UUID(name)), alive=name == own)


def _report(client: SyncPrefectClient, run: FlowRun, alive: bool) -> None:
    gone: State[Any] = Crashed(message="its process is gone")
    running = TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING]))
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
        task_run_filter=TaskRunFilter(state=running),
    )
    for found in tasks:
        client.set_task_run_state(found.id, gone, force=True)
    # A retry that is still to begin is alive as well.
    if run.state is not None and not (alive or run.state.is_final() or run.state.is_scheduled()):
        client.set_flow_run_state(run.id, gone, force=True)
