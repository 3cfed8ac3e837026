"""The MLflow model registry: register what the files describe, pull what an alias names."""

import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from pix2pix import images
from pix2pix.errors import UserError
from pix2pix.files import atomic_file, sha256_file, user_cache
from pix2pix.params import Params, distance_names

from . import gate, lineage, tracking

log = logging.getLogger(__name__)

EXPORTED = Path("models/generator.onnx")
REPORTS = Path("reports")
TEST_INPUTS = Path("data/pairs/test/input")
CHAMPION, CHALLENGER = "champion", "challenger"
# A tag, since aliases keep no history.
WAS_CHAMPION = "was_champion"


@dataclass(frozen=True)
class Registered:
    """A version in the registry and what became of it."""

    model_name: str
    version: str
    alias: str
    reason: str
    created: bool


def register(params: Params, card: str) -> Registered:
    """Make sure that the generator in models/ is in the registry, with its run, and judge it.

    Idempotent: the version is found by the digest of its file, the run by that of its weights, and either
    is made from the files where the store has lost it.

    Raises:
        UserError: the store cannot be reached, or an earlier stage has not run.
    """
    metrics = tracking.read_json(REPORTS / "metrics.json")
    data = tracking.read_json(REPORTS / "data.json")
    name, digest = params.registry.model_name, sha256_file(tracking.there(EXPORTED))
    export = tracking.read_json(REPORTS / "export.json")
    _refuse_mixture(metrics, export, digest)
    with tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        run_id = tracking.run_of(mlflow, params, metrics["weights_sha256"], data)
        tracking.record_evaluation(mlflow, run_id, metrics)
        version = _find(client, name, digest)
        created = version is None
        if version is None:
            tags = _tags(params, metrics, export)
            version = _create(mlflow, name, run_id, tags, card)
        else:
            _update(client, name, version, metrics, card)
        alias, reason = _judge(client, name, version, metrics)
        return Registered(name, version, alias, reason, created)


def _refuse_mixture(metrics: Mapping[str, Any], export: Mapping[str, Any], onnx_sha256: str) -> None:
    """Raises UserError where the measured, the exported and the present generator are not the same."""
    if export["onnx_sha256"] != onnx_sha256:
        raise UserError(f"{EXPORTED}: is not the file of {REPORTS / 'export.json'}; `dvc repro` mends it")
    if export["metadata"]["weights_sha256"] != metrics["weights_sha256"]:
        raise UserError(
            f"{REPORTS / 'metrics.json'}: measures other weights than {EXPORTED} holds; `dvc repro` mends it"
        )


def _find(client: Any, name: str, onnx_sha256: str) -> str | None:
    # The name is compared here: MLflow's filters know no escape for an apostrophe.
    found = client.search_model_versions(f"tags.onnx_sha256 = '{onnx_sha256}'")
    return next((str(version.version) for version in found if version.name == name), None)


def _update(client: Any, name: str, version: str, metrics: Mapping[str, Any], card: str) -> None:
    """The same file may have been measured anew, by other features or on other pairs."""
    known = client.get_model_version(name, version)
    # dvc writes the lock after the stage that registered; the call after dvc sees the final one.
    lock = {key: value for key, value in lineage.tags().items() if key == "dvc_lock_sha256"}
    tags = {"split_sha256": metrics["split_sha256"], "metrics": _compact(metrics), **lock}
    for key, value in tags.items():
        if known.tags.get(key) != value:
            client.set_model_version_tag(name, version, key, value)
    if known.description != card:
        client.update_model_version(name, version, description=card)


def _tags(params: Params, metrics: Mapping[str, Any], export: Mapping[str, Any]) -> dict[str, str]:
    return {
        **lineage.tags(),
        "onnx_sha256": export["onnx_sha256"],
        "weights_sha256": metrics["weights_sha256"],
        "split_sha256": metrics["split_sha256"],
        # As the file itself says, so that one finds the other.
        **{key: export["metadata"][key] for key in ("data_sha256", "params_sha256", "code_sha256")},
        "dataset": params.dataset.name,
        "direction": params.dataset.direction,
        # What the gate needs of a champion whose files are no longer here.
        "metrics": _compact(metrics),
    }


def _compact(metrics: Mapping[str, Any]) -> str:
    kept = {name: metrics[name] for name in ("images", "split_sha256", "features", "model")}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def _create(mlflow: Any, name: str, run_id: str, tags: Mapping[str, str], card: str) -> str:
    import onnx
    from mlflow.exceptions import MlflowException

    client, example = mlflow.MlflowClient(), _example()
    try:
        client.create_registered_model(
            name, description="pix2pix generator; the alias champion is the one to use"
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    with _active(mlflow, run_id):
        info = mlflow.onnx.log_model(
            onnx.load(EXPORTED),
            name="generator",
            signature=_signature(),
            input_example={"image": example},
            pip_requirements=_requirements(),
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
            metadata={"onnx_sha256": tags["onnx_sha256"]},
        )
        # Beside the pictures that it names.
        mlflow.log_text(card, "evaluation/model_card.md")
    version = client.create_model_version(
        name, source=info.model_uri, run_id=run_id, model_id=info.model_id, tags=dict(tags), description=card
    )
    return str(version.version)


@contextmanager
def _active(mlflow: Any, run_id: str) -> Iterator[None]:
    """The run as the active one, which a logged model belongs to; its status and end stay as they were."""
    client = mlflow.MlflowClient()
    before = client.get_run(run_id).info
    try:
        with mlflow.start_run(run_id=run_id, log_system_metrics=False):
            yield
    finally:
        client.set_terminated(run_id, before.status, before.end_time)


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    pixels = (np.dtype(np.uint8), (-1, -1, -1, 3))
    return ModelSignature(
        inputs=Schema([TensorSpec(*pixels, name="image")]),
        outputs=Schema([TensorSpec(*pixels, name="translated")]),
    )


def _example() -> images.Pixels:
    first = sorted(tracking.there(TEST_INPUTS).glob("*.png"))[0]
    return images.read_rgb(first)[None]


def _requirements() -> list[str]:
    """What a consumer needs, at the versions that the file was proven with."""
    runtime = "onnxruntime" if sys.platform == "darwin" else "onnxruntime-gpu"
    return [f"{package}=={metadata.version(package)}" for package in ("mlflow", "numpy", "onnx", runtime)]


def _judge(client: Any, name: str, version: str, metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Give the version its alias; a version that is champion stays so."""
    champion = champion_of(client, name)
    known = client.get_model_version(name, version).tags
    if champion == version:
        return CHAMPION, known["decision"] if WAS_CHAMPION in known else "it was made champion by hand"
    standing = None
    if champion is not None:
        tags = client.get_model_version(name, champion).tags
        standing = json.loads(tags["metrics"]) if "metrics" in tags else {"split_sha256": None}
    _, metric = distance_names(metrics["features"]["name"])
    decision = gate.decide(metrics, standing, metric)
    if decision.promote and champion is None and _had_champions(client, name):
        decision = gate.Decision(False, "the champion was withdrawn by hand; only a person names the next")
    elif decision.promote and champion is not None and WAS_CHAMPION in known:
        # It lost its place to a better one or by hand; running again must not undo that.
        decision = gate.Decision(
            False, f"it was champion before version {champion}; only a person gives the place back"
        )
    alias = CHAMPION if decision.promote else CHALLENGER
    client.set_model_version_tag(name, version, "decision", decision.reason)
    if decision.promote:
        client.set_model_version_tag(name, version, WAS_CHAMPION, "true")
        if _holder(client, name, CHALLENGER) == version:
            client.delete_registered_model_alias(name, CHALLENGER)
    client.set_registered_model_alias(name, alias, version)
    return alias, decision.reason


def _had_champions(client: Any, name: str) -> bool:
    found = client.search_model_versions(f"tags.{WAS_CHAMPION} = 'true'")
    return any(version.name == name for version in found)


def champion_of(client: Any, name: str) -> str | None:
    """The champion's version, or None where the model has none."""
    return _holder(client, name, CHAMPION)


def _holder(client: Any, name: str, alias: str) -> str | None:
    # A database gives the version as a number, a server as text.
    aliases: Mapping[str, Any] = client.get_registered_model(name).aliases
    return str(aliases[alias]) if alias in aliases else None


# --- pulling -----------------------------------------------------------------------------------------


def pull(uri: str) -> Path:
    """The ONNX file that `models:/NAME@ALIAS` or `models:/NAME/VERSION` stands for, from the cache if there.

    Raises:
        UserError: the store cannot be reached, or has no such model, alias or version.
    """
    name, separator, which = _split_uri(uri)
    database = tracking.database()
    if database and not database.exists():
        # MLflow would make an empty one there.
        raise UserError(
            f"{uri}: there is no {database}; `make repro` in the project's folder registers a model, "
            "or set MLFLOW_TRACKING_URI to a store that has one"
        )
    from mlflow.exceptions import MlflowException

    with tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        try:
            if separator == "@":
                version = client.get_model_version_by_alias(name, which)
            else:
                version = client.get_model_version(name, which)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise UserError(f"{uri}: {_what_there_is(client, name, which)}") from None
        digest = version.tags.get("onnx_sha256", "")
        cached = user_cache("models") / f"{digest}.onnx"
        if digest and cached.is_file() and sha256_file(cached) == digest:
            return cached
        return _download(mlflow, f"models:/{name}/{version.version}", digest, cached)


def _split_uri(uri: str) -> tuple[str, str, str]:
    rest = uri.removeprefix("models:/")
    for separator in ("@", "/"):
        name, found, which = rest.partition(separator)
        if uri.startswith("models:/") and name and found and which:
            if separator == "/" and which.isdecimal() and len(which) > 9:
                # More than a database's number holds, which it does not say in a line.
                raise UserError(f"{uri}: there is no such version")
            return name, found, which
    raise UserError(
        f"{uri}: is not a model; expected models:/NAME@ALIAS, models:/NAME/VERSION or a file.onnx"
    )


def _what_there_is(client: Any, name: str, which: str) -> str:
    models = {model.name: model for model in client.search_registered_models()}
    if name not in models:
        known = ", ".join(sorted(models)) or "none yet; `make repro` registers one"
        return f"no model {name} in {tracking.store_name()}; models there: {known}"
    aliases = ", ".join(f"@{alias} (version {version})" for alias, version in models[name].aliases.items())
    return f"{name} has no {which}; it has {aliases or 'versions without an alias'}"


def _download(mlflow: Any, uri: str, digest: str, cached: Path) -> Path:
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        try:
            local = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
        except (MlflowException, OSError) as error:
            raise UserError(
                f"{uri}: its file cannot be fetched from {tracking.store_name()} ({tracking.reason(error)})"
            ) from error
        files = sorted(local.rglob("*.onnx"))
        if digest and not files:
            raise UserError(
                f"{uri}: its file is gone from the store; delete the version and register it anew"
            )
        if len(files) != 1:
            raise UserError(
                f"{uri}: holds {len(files)} ONNX files, expected one; was it registered by this project?"
            )
        found = sha256_file(files[0])
        if digest and found != digest:
            raise UserError(f"{uri}: its file has SHA-256 {found}, registered was {digest}; do not use it")
        with atomic_file(cached.with_name(f"{found}.onnx")) as partial:
            shutil.copyfile(files[0], partial)
    return cached.with_name(f"{found}.onnx")
