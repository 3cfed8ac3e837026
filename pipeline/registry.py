"""The MLflow model registry: register what the files describe, and judge it."""

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from pix2pix import pair_set
from pix2pix.decoding import Samples
from pix2pix.encoding import Encoding
from pix2pix.errors import UserError
from pix2pix.files import sha256_file, sha256_json
from pix2pix.params import PARAMS_FILE, Params
from pix2pix.translator import Translator

from . import delivery, gate, lineage, promotion, rebuilt_run, tracking
from .promotion import CHALLENGER, CHAMPION

log = logging.getLogger(__name__)

EXPORTED = Path("models/generator.onnx")
REPORTS = Path("reports")
TEST_INPUTS = Path("data/pairs/test/input")
# auto, or never: what is registered then stays challenger, and somebody else moves the alias.
PROMOTE_VARIABLE = "PIX2PIX_PROMOTE"
# What became of a version, in its tag decision_kind, beside the gate's own kinds.
HELD, DECLINED = "held", "declined"
WARM_START_TAG = "warm_start"
# What a file says of where its weights come from.
ORIGIN = ("data_sha256", "params_sha256", "code_sha256", tracking.IMPORTED_TAG)
# Measures an ONNX file on the test split of today: the keys images, split_sha256, features and model.
Measure = Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Registered:
    """A version in the registry and what became of it.

    Attributes:
        alias: champion or challenger.
        created: it was not there before.
        held: the gate's decision to make it champion, where that has not been carried out.
        instead_of: who was champion when that was decided.
    """

    model_name: str
    version: str
    alias: str
    reason: str
    created: bool
    held: gate.Decision | None = None
    instead_of: str | None = None


def register(
    params: Params, card: str, measure: Measure | None = None, *, promote: bool | None = None
) -> Registered:
    """Make sure that the generator in models/ is in the registry, with its run, and judge it.

    Idempotent: the version is found by the digest of its file, the run by that of its weights, and either
    is made from the files where the store has lost it.

    Args:
        card: the model card.
        measure: for a champion that was measured on another test split or by other features; without it
            such a champion stays.
        promote: whether to carry out what the gate decides, or to hold it for `carry_out` or `decline`;
            None is as PIX2PIX_PROMOTE says.

    Raises:
        UserError: the store cannot be reached or has lost the version's file, an earlier stage has not run,
            the champion had to be measured again and could not be, or PIX2PIX_PROMOTE is neither auto nor
            never.
    """
    promote = _may_promote() if promote is None else promote
    metrics = tracking.read_json(REPORTS / "metrics.json")
    data = tracking.read_json(REPORTS / "data.json")
    name, digest = params.registry.model_name, sha256_file(tracking.there(EXPORTED))
    export = tracking.read_json(REPORTS / "export.json")
    _refuse_mixture(params, metrics, export, digest)
    with tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        run_id = rebuilt_run.run_of(mlflow, params, metrics["weights_sha256"], data, _imported(export))
        rebuilt_run.record_evaluation(mlflow, run_id, metrics)
        version = version_of(client, name, digest)
        created = version is None
        if version is None:
            tags = _tags(params, metrics, export)
            version = _create(mlflow, name, run_id, tags, card)
        else:
            _refuse_lost(client, name, version)
            _update(client, name, version, run_id, metrics, card)
        candidate = _Candidate(client, name, version, metrics, gate.Policy.of(params.registry), measure)
        done = _judge(candidate)
        done = replace(done, created=created)
        if done.held and promote:
            return _carry_out(client, done)
        if done.alias == CHALLENGER and promotion.standing(client, name).challenger != version:
            client.set_registered_model_alias(name, CHALLENGER, version)
        return done


def carry_out(
    done: Registered, how: promotion.How | None = None, because: str = "", by: str = ""
) -> Registered:
    """Make a held version champion; what to write down of it, where a person has decided.

    Raises:
        UserError: another version became champion meanwhile, or the store cannot be reached.
    """
    with tracking.reachable() as mlflow:
        return _carry_out(mlflow.MlflowClient(), done, how, because, by)


def decline(done: Registered, reason: str) -> Registered:
    """Leave a held version challenger, for good: the gate does not take it up again, only a person does.

    Raises:
        UserError: the store cannot be reached.
    """
    with tracking.reachable() as mlflow:
        _write_decision(mlflow.MlflowClient(), done, DECLINED, reason)
    return replace(done, reason=reason, held=None)


def _may_promote() -> bool:
    value = os.environ.get(PROMOTE_VARIABLE) or "auto"
    if value not in ("auto", "never"):
        raise UserError(f"{PROMOTE_VARIABLE}={value}: expected auto or never")
    return value == "auto"


def _refuse_mixture(
    params: Params, metrics: Mapping[str, Any], export: Mapping[str, Any], onnx_sha256: str
) -> None:
    """Raises UserError where the described, measured, exported and present generator are not the same."""
    made = export["metadata"]
    if export["onnx_sha256"] != onnx_sha256:
        raise UserError(f"{EXPORTED}: is not the file of {REPORTS / 'export.json'}; `dvc repro` mends it")
    if made["weights_sha256"] != metrics["weights_sha256"]:
        raise UserError(
            f"{REPORTS / 'metrics.json'}: measures other weights than {EXPORTED} holds; `dvc repro` mends it"
        )
    # Else it would be registered as what params.yaml names by now.
    for key, asked, found in (
        ("name", params.dataset.name, made["dataset"]),
        ("direction", params.dataset.direction, made["direction"]),
    ):
        if asked != found:
            raise UserError(
                f"{PARAMS_FILE}: dataset.{key} = {asked!r}: {EXPORTED} is of {found!r}; `dvc repro` mends it"
            )
    # As stages/train.py digests them; imported weights do not say what they were trained with.
    recipe = sha256_json(params.model_dump(mode="json", include={"model", "train"}))
    if made["params_sha256"] not in ("", recipe):
        raise UserError(
            f"{PARAMS_FILE}: model and train are not what {EXPORTED} was trained with; `dvc repro` mends it"
        )


def version_of(client: Any, name: str, onnx_sha256: str) -> str | None:
    """The version that holds the ONNX file of this digest; None where the registry has none."""
    # The name is compared here: MLflow's filters know no escape for an apostrophe.
    found = client.search_model_versions(f"tags.onnx_sha256 = '{onnx_sha256}'")
    return next((str(version.version) for version in found if version.name == name), None)


def model_id_of(version: Any) -> str:
    """Of the logged model that holds a version's files; empty for a version that holds none of its own."""
    found = re.fullmatch(r"models:/(m-[^/]+)", version.source or "")
    return found[1] if found else ""


def _refuse_lost(client: Any, name: str, number: str) -> None:
    """Raises UserError where the store knows the version and has its file no more."""
    model_id = model_id_of(client.get_model_version(name, number))
    if not model_id:
        return
    place, files = tracking.store_name(), []
    try:
        place = client.get_logged_model(model_id).artifact_location
        files = client.list_logged_model_artifacts(model_id)
    except Exception as error:
        # Where files are kept may not answer while the registry does; then they are not known to be gone.
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            return
    if any(file.path.endswith(".onnx") for file in files):
        return
    remedy = f"delete version {number} in MLflow (`make ui`), then `pix2pix register`"
    database = tracking.database()
    if database and place.startswith("file:") and not place.startswith(f"{database.parent.as_uri()}/"):
        # MLflow's addresses are absolute.
        remedy = f"move the folder back, or delete {database}, then `pix2pix register`"
    raise UserError(f"{name} version {number}: its file is gone from {place}; {remedy}")


def _update(client: Any, name: str, version: str, run_id: str, metrics: Mapping[str, Any], card: str) -> None:
    """The same file may have been measured anew, by other features or on other pairs."""
    known = client.get_model_version(name, version)
    # dvc writes the lock after the stages; the call after dvc sees the final one.
    lock = {key: value for key, value in lineage.tags().items() if key == lineage.LOCK_TAG}
    tags = {"split_sha256": metrics["split_sha256"], "metrics": _compact(metrics), **lock}
    for key, value in tags.items():
        if known.tags.get(key) != value:
            client.set_model_version_tag(name, version, key, value)
    for key, value in lock.items():
        client.set_tag(run_id, key, value)
    if known.description != card:
        client.update_model_version(name, version, description=card)


def _imported(export: Mapping[str, Any]) -> str:
    """The digest of the file that the weights were imported from; empty where they were trained here."""
    imported: str = export["metadata"][tracking.IMPORTED_TAG]
    return imported


def _tags(params: Params, metrics: Mapping[str, Any], export: Mapping[str, Any]) -> dict[str, str]:
    start = params.train.warm_start
    return {
        **lineage.tags(),
        "onnx_sha256": export["onnx_sha256"],
        "weights_sha256": metrics["weights_sha256"],
        "split_sha256": metrics["split_sha256"],
        # As the file itself says, so that one finds the other.
        **{key: export["metadata"][key] for key in ORIGIN if export["metadata"][key]},
        # The generator that the training began with: without its file it cannot be made again.
        **({WARM_START_TAG: start} if start and not _imported(export) else {}),
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
            signature=_signature(Translator(tracking.there(EXPORTED))),
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


def _signature(translator: Translator) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def tensor(side: Encoding, name: str) -> TensorSpec:
        return TensorSpec(np.dtype(side.dtype), (-1, -1, -1, side.channels), name=name)

    return ModelSignature(
        inputs=Schema([tensor(translator.input, "image")]),
        outputs=Schema([tensor(translator.target, "translated")]),
    )


def _example() -> Samples:
    return pair_set.read_prepared(pair_set.prepared_files(tracking.there(TEST_INPUTS))[0])[None]


def _requirements() -> list[str]:
    """What a consumer needs, at the versions that the file was proven with."""
    runtime = "onnxruntime" if sys.platform == "darwin" else "onnxruntime-gpu"
    return [f"{package}=={metadata.version(package)}" for package in ("mlflow", "numpy", "onnx", runtime)]


@dataclass(frozen=True)
class _Candidate:
    """A version that is to be judged: where it is, what was measured of it, by which policy."""

    client: Any
    name: str
    version: str
    metrics: Mapping[str, Any]
    policy: gate.Policy
    measure: Measure | None


def _judge(candidate: _Candidate) -> Registered:
    """What the version is to be: held where the gate would promote it; a champion stays one."""
    client, name, version = candidate.client, candidate.name, candidate.version
    now = promotion.settle(client, name)
    if now.champion == version:
        return Registered(name, version, CHAMPION, _how_it_became(now), created=False)
    tags = client.get_model_version(name, version).tags
    if tags.get("decision_kind") == DECLINED:
        done = Registered(name, version, CHALLENGER, tags["decision"], created=False)
    else:
        decision = _decide(candidate, now)
        held = decision if decision.promote else None
        done = Registered(name, version, CHALLENGER, decision.reason, False, held, now.champion)
        said = f"to be made champion: {decision.reason}" if held else decision.reason
        _write_decision(client, done, HELD if held else decision.kind, said)
    return done


def _decide(candidate: _Candidate, now: promotion.Standing) -> gate.Decision:
    """The gate's decision, but where a person has decided otherwise before."""
    client, name, metrics, policy = candidate.client, candidate.name, candidate.metrics, candidate.policy
    champion = client.get_model_version(name, now.champion) if now.champion is not None else None
    measured = promotion.read_measurement(champion.tags.get("metrics", "")) if champion is not None else None
    decision = gate.decide(metrics, measured, policy)
    if decision.measure_again and candidate.measure is not None:
        decision = gate.decide(metrics, _measured_again(candidate, champion, candidate.measure), policy)
    if decision.promote and now.champion is None and _was_withdrawn(client, name, now):
        return gate.Decision("rejected", "the champion was withdrawn by hand; only a person names the next")
    if decision.promote and now.champion is not None and now.was_champion(candidate.version):
        # It lost its place to a better one or by hand; running again must not undo that.
        return gate.Decision(
            "rejected", f"it was champion before version {now.champion}; only a person gives the place back"
        )
    return decision


def _carry_out(
    client: Any, done: Registered, how: promotion.How | None = None, because: str = "", by: str = ""
) -> Registered:
    assert done.held is not None
    kind: promotion.How = "first" if done.held.kind == "first" else "promoted"
    because = because or done.held.reason
    promotion.place(client, done.model_name, done.version, how or kind, because, done.instead_of, by)
    # Afterwards: a version whose promotion failed stays held, and the next run tries again.
    _write_decision(client, done, done.held.kind, done.held.reason)
    return replace(done, alias=CHAMPION, reason=because, held=None)


def _write_decision(client: Any, done: Registered, kind: str, reason: str) -> None:
    tags = client.get_model_version(done.model_name, done.version).tags
    for key, value in (("decision", reason), ("decision_kind", kind)):
        if tags.get(key) != value:
            client.set_model_version_tag(done.model_name, done.version, key, value)


def _how_it_became(now: promotion.Standing) -> str:
    last = now.moves[-1] if now.moves else None
    if last is None or last.to != now.champion:
        return "it was made champion in MLflow itself, or before moves were logged"
    if last.how in ("by hand", "approved"):
        return f"it was made champion by hand: {last.because}"
    return (
        f"it became champion again by a rollback: {last.because}" if last.how == "rollback" else last.because
    )


def _was_withdrawn(client: Any, name: str, now: promotion.Standing) -> bool:
    """Whether a former champion is still there; a deleted one was not withdrawn, but is gone."""
    former = {move.to for move in now.moves}
    return any(promotion.find(client, name, version) is not None for version in former)


def _measured_again(candidate: _Candidate, champion: Any, measure: Measure) -> Mapping[str, Any]:
    """The champion measured on the challenger's test split with its features; done once for each."""
    kept = promotion.read_measurement(champion.tags.get(measured_key(candidate.metrics), ""))
    if kept:
        return kept
    log.info("measuring the champion, version %s, on this test split", champion.version)
    try:
        found = measure(delivery.pull(f"models:/{candidate.name}/{champion.version}"))
    except tracking.Unreachable:
        raise
    except UserError as error:
        raise type(error)(
            f"the champion, version {champion.version}, cannot be measured on this test split: {error} "
            f"(`pix2pix promote {candidate.version} --because …` replaces it by hand)"
        ) from error
    candidate.client.set_model_version_tag(
        candidate.name, champion.version, measured_key(found), _compact(found)
    )
    return found


def measured_key(metrics: Mapping[str, Any]) -> str:
    """The tag of a version that keeps what was measured of it on the split and with the features of these."""
    return f"measured_{sha256_json([metrics['split_sha256'], metrics['features']])[:16]}"
