"""`refresh`: look at a run's source again before any stage, and pin dataset.sha256 to what it has now.

The stage `fetch` is a function of params.yaml and may not ask anybody what is new. So the flow asks, leaves
what it got where the stage looks first, and writes its digest into the run's params.yaml.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from pix2pix import datasets
from pix2pix.archives import is_archive
from pix2pix.download import DownloadError, fetch_file
from pix2pix.errors import UserError
from pix2pix.files import sha256_file
from pix2pix.params import Dataset, Params

from .workspace import Workspace, set_params

PUBLISHED = "pix2pix/datasets.py"
# As often as stages say how far they are where there is no terminal.
LINE_EVERY_S = 10.0


def archive_digest(dataset: Dataset) -> str:
    """The SHA-256 of the archive that the source has now; empty where the source is none.

    A published set is asked for at its addresses, the user's mirror first, and downloaded if it is not what
    the user's cache holds. A folder and the module that draws the embedded set are dependencies of `fetch`,
    so DVC looks at them in every run.

    Args:
        dataset: its sha256 does not matter here.

    Raises:
        DownloadError: the network failed; a later try may succeed.
        UserError: no address has the archive, or it cannot be read. What the cache held is still there.
    """
    if dataset.source == PUBLISHED:
        entry = datasets.entry(dataset.name)
        return sha256_file(
            fetch_file(
                datasets.addresses(entry),
                entry.archive,
                looks_right=is_archive,
                refresh=True,
                on_progress=_lines(),
            )
        )
    source = Path(dataset.source)
    # The module that draws a set is a file too, and relative.
    if not source.is_absolute() or not source.is_file():
        return ""
    try:
        return sha256_file(source)
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror})") from None


def refreshed(made: Workspace, params: Params, retry_delays_s: list[float]) -> Params:
    """Pin the run's dataset.sha256 to what the source has now, in a task of its own, `refresh`.

    A digest that params.yaml, a preset or an override pins gives way in this run: to refresh is to take what
    is there. The cache key and the commit then name the data, and not only the place it came from.

    Args:
        retry_delays_s: pauses before the further tries that a failing network gets.

    Raises:
        DownloadError, UserError: as `archive_digest`, after the last try. Nothing was run or changed.
    """
    failures: list[UserError] = []
    found = ""

    def refresh() -> State[Any]:
        nonlocal found
        failures.clear()
        log = get_run_logger()
        try:
            with _logged_by(log):
                found = archive_digest(params.dataset)
        except UserError as error:
            failures.append(error)
            # A state and no exception, which would add its traceback to a line that says it all.
            return Failed(message=str(error))
        message = f"dataset.sha256 = {found}" if found else f"every run looks at {params.dataset.source}"
        log.info("%s", message)
        return Completed(message=message)

    state: State[Any] = task(
        name="refresh",
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(retry_delays_s),
        retry_delay_seconds=retry_delays_s,
        retry_condition_fn=lambda *_: bool(failures) and isinstance(failures[-1], DownloadError),
    )(refresh)(return_state=True)
    if state.is_failed() and failures:
        raise failures[-1]
    # A bug's own exception, with its traceback.
    state.result()
    return set_params(made, None, {"dataset.sha256": found}) if found else params


def _lines() -> Callable[[int, int | None], None]:
    """A download's progress as lines of the log, as rarely as a stage's."""
    last = time.monotonic()

    def tell(done_bytes: int, total_bytes: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            total = f"/{total_bytes / 1e6:.0f}" if total_bytes else ""
            logging.getLogger("pix2pix").info("refresh: %.0f%s MB", done_bytes / 1e6, total)

    return tell


@contextmanager
def _logged_by(log: "logging.Logger | logging.LoggerAdapter[logging.Logger]") -> Iterator[None]:
    """What pix2pix says meanwhile, told to the task's log, which Prefect's page shows."""

    class Passed(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.log(record.levelno, "%s", record.getMessage())

    ours, handler = logging.getLogger("pix2pix"), Passed()
    level, propagate = ours.level, ours.propagate
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    # Prefect's handler at the root would say it once more.
    ours.propagate = False
    try:
        yield
    finally:
        ours.setLevel(level)
        ours.propagate = propagate
        ours.removeHandler(handler)
