"""The MLflow run of a training, live: told while it trains, and it trains on when nobody listens."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from pix2pix.params import Params

from . import lineage, tracking
from .tracking import PLACE_TAG, REPORTS

log = logging.getLogger(__name__)

# Of the ten that a stage has to end: the rest is for its step, its checkpoint and Python's own end.
STOP_S = 3.0
THREAD = "telling MLflow"


class TrainingRun:
    """What a training tells MLflow, in a thread of its own: a store that hangs holds up no step and no end.

    The first failure is said once and ends the telling, not the training.
    """

    def __init__(self, begin: Callable[[Any], None] | None, grids: int) -> None:
        self._grids_left = grids
        self._actions: SimpleQueue[Callable[[Any], Any] | None] = SimpleQueue()
        self._begun = Event()
        # A daemon: whoever waits for an answer that never comes does not keep this process.
        self._thread = Thread(target=self._talk, args=(begin,), name=THREAD, daemon=True)
        if begin:
            self._thread.start()

    def losses(self, step: int, values: Mapping[str, float]) -> None:
        """A point of the loss curves."""
        self._tell(lambda mlflow: mlflow.log_metrics(dict(values), step=step, synchronous=True))

    def validated(self, step: int, epoch: int, l1: float, grid: Path) -> None:
        """A validation: its L1, and its grid until run.tracked_grids of them are sent."""
        self._tell(lambda mlflow: mlflow.log_metrics({"val_l1": l1}, step=step, synchronous=True))
        if self._grids_left > 0:
            self._grids_left -= 1
            self._tell(lambda mlflow: tracking.log_grid(mlflow, grid, epoch))

    def collapsed(self, message: str) -> None:
        """A sign of collapse was seen: the run bears it as a tag, the last one where there are several."""
        self._tell(lambda mlflow: mlflow.set_tag("collapse", message))

    def finish(self, weights_sha256: str) -> None:
        """The training is complete and its files are in place."""
        self._tell(lambda mlflow: mlflow.set_tag("weights_sha256", weights_sha256))
        self._tell(lambda mlflow: mlflow.log_artifact(str(REPORTS / "losses.csv")))
        self._end("FINISHED")

    def stop(self, status: str) -> None:
        """The training ends early: KILLED by the user or FAILED; the store has a moment to hear of it."""
        self._end(status, STOP_S)

    def await_opening(self) -> None:
        """Until the run is open, or the store was given up."""
        if self._thread.is_alive():
            self._begun.wait()

    def _end(self, status: str, patience_s: float | None = None) -> None:
        self._tell(lambda mlflow: mlflow.end_run(status))
        self._tell(None)
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def _tell(self, action: Callable[[Any], Any] | None) -> None:
        if self._thread.is_alive():
            self._actions.put(action)

    def _talk(self, begin: Callable[[Any], None]) -> None:
        mlflow: Any = None
        try:
            mlflow = tracking.connect()
            begin(mlflow)
            self._begun.set()
            while action := self._actions.get():
                action(mlflow)
        except Exception as error:
            _lose(mlflow, error)
        finally:
            self._begun.set()


@contextmanager
def training_run(params: Params, fingerprint: str, data: Mapping[str, Any]) -> Iterator[TrainingRun]:
    """Open the run of a training; one with this fingerprint that was interrupted is taken up again."""

    def begin(mlflow: Any) -> None:
        _open_run(mlflow, params, fingerprint, data)

    tracked = TrainingRun(begin if params.run.tracking else None, params.run.tracked_grids)
    try:
        tracked.await_opening()
        yield tracked
    except Exception:
        # An interruption is an order, not a failure.
        tracked.stop("FAILED")
        raise
    except BaseException:
        tracked.stop("KILLED")
        raise


def _open_run(mlflow: Any, params: Params, fingerprint: str, data: Mapping[str, Any]) -> None:
    experiment_id = tracking.use_experiment(mlflow, params.registry.model_name)
    unfinished = mlflow.search_runs(
        [experiment_id],
        f"tags.fingerprint = '{fingerprint}' and attributes.status != 'FINISHED'",
        max_results=1,
        output_format="list",
    )
    if unfinished:
        mlflow.start_run(run_id=unfinished[0].info.run_id, log_system_metrics=True)
        mlflow.set_tag(PLACE_TAG, tracking.place())
        return
    tags = {"fingerprint": fingerprint, "data_sha256": str(data["train"]), PLACE_TAG: tracking.place()}
    tags |= lineage.tags()
    mlflow.start_run(experiment_id=experiment_id, tags=tags, log_system_metrics=True)
    mlflow.log_params(tracking.flat(params))
    tracking.log_dataset(mlflow, params, str(data["train"]))


def _lose(mlflow: Any, error: Exception) -> None:
    """Say once that the store is lost and let go of the run, which MLflow would try to end at exit."""
    log.warning(
        "MLflow at %s cannot be written (%s); training goes on, the files are complete",
        tracking.store_name(),
        tracking.reason(error),
    )
    if mlflow is not None:
        with suppress(Exception):
            mlflow.end_run("KILLED")
