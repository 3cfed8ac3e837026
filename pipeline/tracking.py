"""MLflow's store, the way to it, and what each of our runs there bears: a view of what the files say."""

import errno
import json
import logging
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from pix2pix.errors import UserError
from pix2pix.params import Params

from . import lineage

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


# --- what a run bears --------------------------------------------------------------------------------


def place() -> str:
    """Where this process is at work: HOST:FOLDER."""
    return f"{platform.node()}:{Path.cwd()}"


def flat(params: Params) -> dict[str, str]:
    """Every parameter under its dotted key."""
    sections = params.model_dump(mode="json")
    return {
        f"{section}.{key}": str(value) for section, keys in sections.items() for key, value in keys.items()
    }


def log_dataset(mlflow: Any, params: Params, sha256: str) -> None:
    """The data set that the open run trained on, by the digest of its training pairs."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    source = CodeDatasetSource(tags={"dataset.source": params.dataset.source})
    # MLflow's digests have at most 36 characters.
    dataset = MetaDataset(source, name=params.dataset.name, digest=sha256[:36])  # type: ignore[abstract]
    mlflow.log_input(dataset, context="training")


def log_grid(mlflow: Any, grid: Path, epoch: int) -> None:
    """A grid of samples, as a picture of the open run."""
    from PIL import Image

    with Image.open(grid) as image:
        mlflow.log_image(image, key="validation", step=epoch, synchronous=True)


# --- reports -----------------------------------------------------------------------------------------


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
