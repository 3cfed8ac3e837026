"""MLflow runs: a view of what the files say. Training goes on without a server; registering does not."""

import csv
import errno
import json
import logging
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory, gettempdir
from threading import Event, Thread
from typing import Any

from pix2pix.errors import UserError
from pix2pix.files import sha256_json
from pix2pix.params import Params

from . import lineage

log = logging.getLogger(__name__)

# Seven tries with growing pauses, MLflow's default, would hold up a training for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A server with its files on S3 would send us there, to an address that may be known to the server alone.
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")
# Its news of database migrations and monitors is nobody's.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
# A bar that counts the one file of a model, and addresses of pages between our own lines.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

REPORTS = Path("reports")
# Where a run is, or was last, at work: HOST:FOLDER.
PLACE_TAG = "place"
# The digest of the file that weights were imported from, which were not trained here.
IMPORTED_TAG = "imported_sha256"
# Of the ten that a stage has to end: the rest is for its step, its checkpoint and Python's own end.
STOP_S = 3.0
THREAD = "telling MLflow"


class Unreachable(UserError):
    """The store did not answer or could not be used; what it holds is not known."""


def store_uri() -> str:
    """The tracking store: MLFLOW_TRACKING_URI, or mlflow.db in the project's main checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{lineage.home() / 'mlflow.db'}"


def database() -> Path | None:
    """The file of a store that is an SQLite database; None for any other."""
    prefix = "sqlite:///"
    # What follows the question mark is for SQLite.
    file = store_uri().partition("?")[0]
    return Path(file.removeprefix(prefix)).absolute() if file.startswith(prefix) else None


def refuse_missing(what: str) -> None:
    """For who only reads or changes what is there: MLflow would make an empty database where there is none.

    Args:
        what: the model or address that was asked for.

    Raises:
        UserError: the store is a database that does not exist.
    """
    file = database()
    if file and not file.exists():
        raise UserError(
            f"{what}: there is no {file}; `make repro` in the project's folder registers a model, "
            "or set MLFLOW_TRACKING_URI to a store that has one"
        )


def store_name() -> str:
    """The tracking store as it may be shown: without the password of its address."""
    return _without_password(store_uri())


def connect() -> Any:
    """The mlflow module, pointed at the store. Imported here: it takes seconds to load."""
    import mlflow

    # A store that does not answer is said in one line, ours; these would say it again for every try, or with
    # a traceback.
    for name in (
        "urllib3.connectionpool",
        "mlflow.system_metrics.system_metrics_monitor",
        "mlflow.store.db.utils",
    ):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    make_database()
    mlflow.set_tracking_uri(store_uri())
    mlflow.set_registry_uri(store_uri())
    return mlflow


def make_database() -> None:
    """Make the store's database if it has one and it is not there; any number of processes may at once.

    MLflow makes its tables one by one in the file itself: a second process that opens it meanwhile fails, and
    so does the next one after a kill. Here the file appears whole, the first one made.
    """
    file = database()
    if file is None or file.exists():
        return
    from mlflow import MlflowClient

    # What stands in the way of this stands in MLflow's way too, and is said at the first question.
    with suppress(Exception), TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
        whole = Path(folder) / file.name
        MlflowClient(tracking_uri=f"sqlite:///{whole}").search_experiments(max_results=1)
        # Unlike a rename, a link leaves alone what another process has put there and uses already.
        file.hardlink_to(whole)


@contextmanager
def reachable() -> Iterator[Any]:
    """Yield mlflow; an unreachable store becomes one line.

    Raises:
        Unreachable: the server does not answer, the database cannot be opened, the address is none.
        UserError: a disk is full or read-only.
    """
    mlflow = connect()
    try:
        # Whatever goes wrong with the first, harmless question is the store's doing and no bug of ours.
        mlflow.MlflowClient().search_registered_models(max_results=1)
    except Exception as error:
        raise _unusable(error) from error
    try:
        yield mlflow
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            # The store's disk, or that of the files which MLflow makes on the way to it.
            raise UserError(
                f"MLflow at {store_name()} cannot be written ({error.strerror}); make room on its disk "
                f"and in {gettempdir()}, and run it again"
            ) from error
        if not _is_lost(error):
            raise
        raise _unusable(error) from error


def _is_lost(error: Exception) -> bool:
    """Whether the store has gone away, as opposed to having refused something."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        # What a database says that is locked, or whose disk is full, and a server that has lost its own.
        if error.error_code == "TEMPORARILY_UNAVAILABLE":
            return True
        # A request without an answer has no error code of the server's own.
        return re.search(r"Max retries exceeded|API request to .* failed with", str(error)) is not None
    return isinstance(error, RequestException | OperationalError)


def _unusable(error: Exception) -> Unreachable:
    if "Max retries exceeded" in str(error):
        return Unreachable(
            f"MLflow at {store_name()} does not answer; start it, or set MLFLOW_TRACKING_URI to one that runs"
        )
    if "database is locked" in str(error):
        return Unreachable(
            f"MLflow at {store_name()} stayed locked by another process that writes to it; try again, or see "
            "which process has the file open"
        )
    return Unreachable(
        f"MLflow at {store_name()} cannot be used ({reason(error)}); "
        "set MLFLOW_TRACKING_URI to a server that runs or to sqlite:///FILE, or unset it"
    )


def reason(error: Exception) -> str:
    """The first line of an error, fit for one of ours."""
    lines = str(error).strip().splitlines()
    return _without_password(lines[0])[:200] if lines else type(error).__name__


def _without_password(text: str) -> str:
    return re.sub(r"(://[^:/@\s]*):[^/@\s]*@", r"\1:***@", text)


def use_experiment(mlflow: Any, name: str) -> str:
    """The id of the experiment, made where it is missing."""
    found = mlflow.get_experiment_by_name(name)
    if found:
        if found.lifecycle_stage == "deleted":
            # The name stays taken, so a deleted experiment can only be taken up again.
            mlflow.MlflowClient().restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    # Beside the database, not in whatever folder this process happens to stand.
    file = database()
    beside = (file.parent / "mlartifacts").as_uri() if file else None
    return str(mlflow.create_experiment(name, artifact_location=beside))


# --- a training, live --------------------------------------------------------------------------------


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
            self._tell(lambda mlflow: _log_grid(mlflow, grid, epoch))

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
            mlflow = connect()
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
    experiment_id = use_experiment(mlflow, params.registry.model_name)
    unfinished = mlflow.search_runs(
        [experiment_id],
        f"tags.fingerprint = '{fingerprint}' and attributes.status != 'FINISHED'",
        max_results=1,
        output_format="list",
    )
    if unfinished:
        mlflow.start_run(run_id=unfinished[0].info.run_id, log_system_metrics=True)
        mlflow.set_tag(PLACE_TAG, _place())
        return
    tags = {"fingerprint": fingerprint, "data_sha256": str(data["train"]), PLACE_TAG: _place()}
    tags |= lineage.tags()
    mlflow.start_run(experiment_id=experiment_id, tags=tags, log_system_metrics=True)
    mlflow.log_params(flat(params))
    _log_dataset(mlflow, params, str(data["train"]))


def _place() -> str:
    return f"{platform.node()}:{Path.cwd()}"


def _lose(mlflow: Any, error: Exception) -> None:
    """Say once that the store is lost and let go of the run, which MLflow would try to end at exit."""
    log.warning(
        "MLflow at %s cannot be written (%s); training goes on, the files are complete",
        store_name(),
        reason(error),
    )
    if mlflow is not None:
        with suppress(Exception):
            mlflow.end_run("KILLED")


def flat(params: Params) -> dict[str, str]:
    """Every parameter under its dotted key."""
    sections = params.model_dump(mode="json")
    return {
        f"{section}.{key}": str(value) for section, keys in sections.items() for key, value in keys.items()
    }


def _log_dataset(mlflow: Any, params: Params, sha256: str) -> None:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    source = CodeDatasetSource(tags={"dataset.source": params.dataset.source})
    # MLflow's digests have at most 36 characters.
    dataset = MetaDataset(source, name=params.dataset.name, digest=sha256[:36])  # type: ignore[abstract]
    mlflow.log_input(dataset, context="training")


def _log_grid(mlflow: Any, grid: Path, epoch: int) -> None:
    from PIL import Image

    with Image.open(grid) as image:
        mlflow.log_image(image, key="validation", step=epoch, synchronous=True)


# --- afterwards, from the files ----------------------------------------------------------------------


def run_of(
    mlflow: Any, params: Params, weights_sha256: str, data: Mapping[str, Any], imported_sha256: str = ""
) -> str:
    """The id of the run that trained these weights; rebuilt from the files where the store lost it.

    Of imported weights it says where they come from, and nothing of a training that they did not have here.
    """
    experiment_id = use_experiment(mlflow, params.registry.model_name)
    found = mlflow.search_runs(
        [experiment_id], f"tags.weights_sha256 = '{weights_sha256}'", max_results=1, output_format="list"
    )
    if found:
        return str(found[0].info.run_id)
    return _rebuild(mlflow, params, weights_sha256, data, imported_sha256, experiment_id)


def _rebuild(
    mlflow: Any,
    params: Params,
    weights_sha256: str,
    data: Mapping[str, Any],
    imported_sha256: str,
    experiment_id: str,
) -> str:
    from mlflow.entities import Metric

    train_sha256 = data["splits"]["train"]["sha256"]
    points = [
        Metric(name, float(row[name]), 0, int(row["step"]))
        for row in _rows(REPORTS / "losses.csv")
        for name in row
        if name not in ("step", "epoch")
    ]
    points += [
        Metric("val_l1", float(row["l1"]), 0, int(row["step"])) for row in _rows(REPORTS / "validation.csv")
    ]
    origin = {
        "data_sha256": train_sha256,
        "rebuilt_from": "reports/losses.csv, reports/validation.csv, params.yaml",
    }
    if imported_sha256:
        origin = {IMPORTED_TAG: imported_sha256}
    tags = {**lineage.tags(), **origin, PLACE_TAG: _place()}
    not_theirs = ("model.", "train.") if imported_sha256 else ()
    with mlflow.start_run(experiment_id=experiment_id, tags=tags, log_system_metrics=False) as run:
        mlflow.log_params({k: v for k, v in flat(params).items() if not k.startswith(not_theirs)})
        if not imported_sha256:
            _log_dataset(mlflow, params, train_sha256)
        # A request to MLflow may hold 1000 metrics.
        for first in range(0, len(points), 1000):
            mlflow.MlflowClient().log_batch(run.info.run_id, metrics=points[first : first + 1000])
        mlflow.log_artifact(str(REPORTS / "losses.csv"))
        grids = sorted((REPORTS / "samples").glob("epoch-*.png"))
        for grid in grids[-params.run.tracked_grids :] if params.run.tracked_grids else []:
            _log_grid(mlflow, grid, int(grid.stem.rpartition("-")[2]))
        # The last word: a run without it is not found and made again.
        mlflow.set_tag("weights_sha256", weights_sha256)
        return str(run.info.run_id)


def record_evaluation(mlflow: Any, run_id: str, metrics: Mapping[str, Any]) -> None:
    """Add the test metrics, their baselines and the test pictures to a run that lacks them.

    Raises:
        UserError: a picture is not there yet.
    """
    from mlflow.entities import Metric, RunTag

    client, digest = mlflow.MlflowClient(), sha256_json(metrics)
    if client.get_run(run_id).data.tags.get("evaluation_sha256") == digest:
        return
    files = [there(REPORTS / name) for name in ("test_grid.png", "worst.png", "metrics.json", "data.json")]
    # Those the stage `register` does not depend on, so nobody may have restored them.
    files += [file for name in ("per_image.csv", "data.png") if (file := REPORTS / name).exists()]
    now_ms = int(time.time() * 1000)
    points = [
        Metric(f"{prefix}/{name}", value, now_ms, 0)
        for group, prefix in (("model", "test"), ("input_as_output", "input_as_output"), ("floor", "floor"))
        for name, value in metrics[group].items()
    ]
    client.log_batch(run_id, metrics=points)
    for file in files:
        client.log_artifact(run_id, str(file), "evaluation")
    tags = {"split_sha256": metrics["split_sha256"], "evaluation_sha256": digest}
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def there(path: Path) -> Path:
    """The same path.

    Raises:
        UserError: what an earlier stage makes there is not there yet.
    """
    if not path.exists():
        raise UserError(f"{path}: not there yet; `dvc repro` makes it")
    return path


def read_json(path: Path) -> Any:
    """A report of an earlier stage.

    Raises:
        UserError: it is not there yet.
    """
    return json.loads(there(path).read_text(encoding="utf-8"))


def _rows(path: Path) -> list[dict[str, str]]:
    with there(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
