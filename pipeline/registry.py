"""The MLflow model registry: register what the files describe, pull what an alias names."""

import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

from pix2pix import images
from pix2pix.errors import UserError
from pix2pix.files import atomic_file, sha256_file, sha256_json
from pix2pix.params import Params, distance_names

from . import gate, lineage, tracking

log = logging.getLogger(__name__)

EXPORTED = Path("models/generator.onnx")
REPORTS = Path("reports")
TEST_INPUTS = Path("data/pairs/test/input")
CHAMPION, CHALLENGER = "champion", "challenger"


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
    if not EXPORTED.is_file():
        raise UserError(f"{EXPORTED}: not there yet; `dvc repro` makes it")
    with tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        run_id = tracking.run_of(mlflow, params, metrics["weights_sha256"], data)
        tracking.record_evaluation(mlflow, run_id, metrics)
        name, digest = params.registry.model_name, sha256_file(EXPORTED)
        version = _find(client, name, digest)
        created = version is None
        if version is None:
            tags = _tags(params, metrics, data, digest)
            version = _create(mlflow, name, run_id, tags, card)
        alias, reason = _judge(client, name, version, metrics)
        return Registered(name, version, alias, reason, created)


def _find(client: Any, name: str, onnx_sha256: str) -> str | None:
    quoted = name.replace("'", "\\'")
    found = client.search_model_versions(f"name = '{quoted}' and tags.onnx_sha256 = '{onnx_sha256}'")
    return str(found[0].version) if found else None


def _tags(
    params: Params, metrics: Mapping[str, Any], data: Mapping[str, Any], onnx_sha256: str
) -> dict[str, str]:
    return {
        **lineage.tags(),
        "onnx_sha256": onnx_sha256,
        "weights_sha256": metrics["weights_sha256"],
        "split_sha256": metrics["split_sha256"],
        "data_sha256": data["splits"]["train"]["sha256"],
        "params_sha256": sha256_json(params.model_dump(mode="json", exclude={"run"})),
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

    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(
            name, description="pix2pix generator; the alias champion is the one to use"
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # An active run of a live training must not be disturbed, so the run is named, not opened twice.
    with mlflow.start_run(run_id=run_id, log_system_metrics=False):
        info = mlflow.onnx.log_model(
            onnx.load(EXPORTED),
            name="generator",
            signature=_signature(),
            input_example={"image": _example()},
            pip_requirements=_requirements(),
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
            metadata={"onnx_sha256": tags["onnx_sha256"]},
        )
        mlflow.log_text(card, "model_card.md")
    version = client.create_model_version(
        name, source=info.model_uri, run_id=run_id, model_id=info.model_id, tags=dict(tags), description=card
    )
    return str(version.version)


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    pixels = (np.dtype(np.uint8), (-1, -1, -1, 3))
    return ModelSignature(
        inputs=Schema([TensorSpec(*pixels, name="image")]),
        outputs=Schema([TensorSpec(*pixels, name="translated")]),
    )


def _example() -> images.Pixels:
    first = sorted(TEST_INPUTS.glob("*.png"))[0]
    return images.read_rgb(first)[None]


def _requirements() -> list[str]:
    """What a consumer needs, at the versions that the file was proven with."""
    runtime = "onnxruntime" if sys.platform == "darwin" else "onnxruntime-gpu"
    return [f"{package}=={metadata.version(package)}" for package in ("mlflow", "numpy", "onnx", runtime)]


def _judge(client: Any, name: str, version: str, metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Give the version its alias; a version that is champion stays so."""
    champion = champion_of(client, name)
    if champion == version:
        return CHAMPION, "it is the champion"
    standing = None
    if champion is not None:
        tags = client.get_model_version(name, champion).tags
        standing = json.loads(tags["metrics"]) if "metrics" in tags else {"split_sha256": None, "model": {}}
    _, metric = distance_names(metrics["features"]["name"])
    decision = gate.decide(metrics, standing, metric)
    alias = CHAMPION if decision.promote else CHALLENGER
    client.set_model_version_tag(name, version, "decision", decision.reason)
    client.set_registered_model_alias(name, alias, version)
    if decision.promote and client.get_registered_model(name).aliases.get(CHALLENGER) == version:
        client.delete_registered_model_alias(name, CHALLENGER)
    return alias, decision.reason


def champion_of(client: Any, name: str) -> str | None:
    """The champion's version, or None where the model has none."""
    aliases: Mapping[str, Any] = client.get_registered_model(name).aliases
    return str(aliases[CHAMPION]) if CHAMPION in aliases else None


# --- pulling -----------------------------------------------------------------------------------------


def pull(uri: str) -> Path:
    """The ONNX file that `models:/NAME@ALIAS` or `models:/NAME/VERSION` stands for, from the cache if there.

    Raises:
        UserError: the store cannot be reached, or has no such model, alias or version.
    """
    name, separator, which = _split_uri(uri)
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
        cached = _cache() / f"{digest}.onnx"
        if digest and cached.is_file() and sha256_file(cached) == digest:
            return cached
        return _download(mlflow, f"models:/{name}/{version.version}", digest, cached)


def _split_uri(uri: str) -> tuple[str, str, str]:
    rest = uri.removeprefix("models:/")
    for separator in ("@", "/"):
        name, found, which = rest.partition(separator)
        if uri.startswith("models:/") and name and found and which:
            return name, found, which
    raise UserError(
        f"{uri}: is not a model; expected models:/NAME@ALIAS, models:/NAME/VERSION or a file.onnx"
    )


def _what_there_is(client: Any, name: str, which: str) -> str:
    models = {model.name: model for model in client.search_registered_models()}
    if name not in models:
        known = ", ".join(sorted(models)) or "none yet; `make repro` registers one"
        return f"no model {name} in {tracking.store_uri()}; models there: {known}"
    aliases = ", ".join(f"@{alias} (version {version})" for alias, version in models[name].aliases.items())
    return f"{name} has no {which}; it has {aliases or 'versions without an alias'}"


def _download(mlflow: Any, uri: str, digest: str, cached: Path) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        local = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
        files = sorted(local.rglob("*.onnx"))
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


def _cache() -> Path:
    root = os.environ.get("PIX2PIX_CACHE")
    return (Path(root) if root else user_cache_path("pix2pix")) / "models"
