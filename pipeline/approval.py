"""A person's yes or no to a challenger: asked on Prefect's page, answered there or by `pix2pix approve`."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Timer
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import FlowPauseTimeout, NotPausedError
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.input import RunInput
from prefect.settings import PREFECT_API_URL
from pydantic import Field
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from pix2pix.errors import UserError

from . import promotion
from .champions import MAX_REASON, reason_given

NOBODY = "retrain"
# Between two looks at whether somebody has answered.
POLL_S = 3
# Prefect fails a run that nobody answers; before that we answer ourselves.
MARGIN_S = 600
RETRY_S = 10
# How Prefect says that a run waits no longer; the last where somebody answers in the same moment.
_ANSWERED = (NotPausedError, FlowPauseTimeout, RuntimeError)


class Approval(RunInput):
    """The form on Prefect's page."""

    approve: bool = Field(description="On: the challenger becomes champion. Off: it stays challenger.")
    because: str = Field(min_length=1, max_length=MAX_REASON, description="Why; it is kept with the version.")
    by: str = Field(min_length=1, max_length=100, description="Your name.")


def ask(question: str, timeout_h: float) -> Approval:
    """Pause the flow run that calls this until somebody has answered.

    Args:
        question: Markdown, shown above the form.
        timeout_h: hours after which the answer is no, by nobody.
    """
    run = UUID(str(runtime.flow_run.id))
    nobody = {
        "approve": False,
        "because": f"nobody answered within {timeout_h:g} h",
        "by": NOBODY,
    }
    timer = Timer(timeout_h * 3600, _answer_unless_answered, (run, nobody))
    timer.daemon = True
    timer.start()
    try:
        return pause_flow_run(
            wait_for_input=Approval.with_initial_data(description=question),
            timeout=int(timeout_h * 3600 + MARGIN_S),
            poll_interval=POLL_S,
        )
    finally:
        timer.cancel()


def _answer_unless_answered(run: UUID, answer: dict[str, object]) -> None:
    import httpx

    # A server that is being restarted has until Prefect fails the run.
    patient = Retrying(
        retry=retry_if_exception_type(httpx.HTTPError),
        stop=stop_after_delay(MARGIN_S - RETRY_S),
        wait=wait_fixed(RETRY_S),
        reraise=True,
    )
    with suppress(*_ANSWERED):
        patient(resume_flow_run, run, run_input=answer)


def answer(run: str, approve: bool, because: str) -> FlowRun:
    """Answer for a waiting run.

    Args:
        run: its name or id.

    Raises:
        UserError: no such run waits, no reason, or Prefect's server does not answer.
    """
    because = reason_given(because)
    with _server():
        waiting = _paused(run)
        try:
            resume_flow_run(
                waiting.id, run_input={"approve": approve, "because": because, "by": promotion.who()}
            )
        except _ANSWERED:
            raise UserError(f"{run}: has been answered meanwhile") from None
    return waiting


def _paused(run: str) -> FlowRun:
    named = (
        FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run)]))
        if _is_id(run)
        else FlowRunFilter(name=FlowRunFilterName(any_=[run]))
    )
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=named)
        paused = [one for one in found if one.state and one.state.is_paused()]
        if len(paused) == 1:
            return paused[0]
        only_paused = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED]))
        others = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=only_paused))
    if paused:
        raise UserError(f"{run}: names {len(paused)} waiting runs; give the id, which their pages show")
    what = f"is {found[0].state_name} and waits for no answer" if found else "there is no such run"
    names = ", ".join(sorted(str(one.name) for one in others)) or "none"
    raise UserError(f"{run}: {what}; waiting: {names}")


def _is_id(run: str) -> bool:
    try:
        UUID(run)
    except ValueError:
        return False
    return True


@contextmanager
def _server() -> Iterator[None]:
    import httpx

    if not PREFECT_API_URL.value():
        raise UserError("PREFECT_API_URL: is not set; run this in the project's folder, or set it")
    try:
        yield
    except httpx.HTTPError as error:
        raise UserError(
            f"Prefect at {PREFECT_API_URL.value()} does not answer ({type(error).__name__}); start it with "
            "`make servers`, or set PREFECT_API_URL"
        ) from error
