"""The registry: what the files describe is in it, once; what an alias names comes out of it, unharmed."""

import json
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import onnx
import pytest
from mlflow import MlflowClient
from registry_fixtures import (
    CHAMPION_URI,
    LOSSES,
    MODEL_NAME,
    VALIDATION,
    Project,
    Server,
    digest,
    noise,
    run_onnx,
)

from pipeline import champions, delivery, promotion, registry, tracking
from pipeline.registry import Registered
from pix2pix.encoding import Encoding
from pix2pix.errors import UserError
from pix2pix.files import sha256_file, write_json

pytest_plugins = ["registry_fixtures"]

FIRST = "the first version is the champion: kd_efficientnet_lite0 0.2"


def register(project: Project, card: str = "# a card") -> Registered:
    return registry.register(project.params(), card)


def client() -> MlflowClient:
    return MlflowClient(tracking.store_uri(), tracking.store_uri())


def aliases() -> dict[str, str]:
    return {name: str(v) for name, v in client().get_registered_model(MODEL_NAME).aliases.items()}


def versions() -> list[str]:
    return sorted(str(version.version) for version in client().search_model_versions())


def runs() -> list[Any]:
    ids = [experiment.experiment_id for experiment in client().search_experiments()]
    return list(client().search_runs(ids))


def refused(project: Project) -> str:
    with pytest.raises(UserError) as caught:
        register(project)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- register ----------------------------------------------------------------------------------------


def test_the_first_version_becomes_champion_with_all_that_describes_it(project: Project, store: Path) -> None:
    metrics = project.make("a", 0.2)
    registered = register(project, "# the card")
    assert registered == Registered(MODEL_NAME, "1", "champion", FIRST, created=True)
    assert aliases() == {"champion": "1"}
    version = client().get_model_version(MODEL_NAME, "1")
    assert version.description == "# the card"
    kept = json.loads(version.tags["metrics"])
    assert kept == {name: metrics[name] for name in ("images", "split_sha256", "features", "model")}
    expected = {
        "onnx_sha256": sha256_file(project.model),
        "weights_sha256": digest("a"),
        "split_sha256": digest("test pairs"),
        "data_sha256": digest("train pairs"),
        "dataset": "embedded",
        "direction": "BtoA",
        "decision": FIRST,
        "decision_kind": "first",
    }
    assert {name: version.tags.get(name) for name in expected} == expected
    assert len(version.tags["params_sha256"]) == len(version.tags["environment_sha256"]) == 64


def test_the_run_is_made_from_the_files_where_the_store_has_none(project: Project, store: Path) -> None:
    metrics = project.make("a", 0.2)
    register(project, "# the card")
    (run,) = runs()
    assert client().get_model_version(MODEL_NAME, "1").run_id == run.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == tracking.flat(project.params())
    assert run.data.tags["weights_sha256"] == digest("a")
    assert "losses.csv" in run.data.tags["rebuilt_from"]

    def curve(name: str) -> dict[int, float]:
        points = client().get_metric_history(run.info.run_id, name)
        return {point.step: point.value for point in points}

    assert curve("g_l1") == LOSSES
    assert curve("val_l1") == VALIDATION
    assert set(curve("d_fake")) == set(LOSSES)
    for group, prefix in (("model", "test"), ("input_as_output", "input_as_output"), ("floor", "floor")):
        for name, value in metrics[group].items():
            assert run.data.metrics[f"{prefix}/{name}"] == value

    def files(folder: str | None = None) -> set[str]:
        return {file.path for file in client().list_artifacts(run.info.run_id, folder)}

    assert {"losses.csv", "evaluation"} <= files()
    assert {f"evaluation/{name}" for name in ("test_grid.png", "worst.png", "data.json")} <= files(
        "evaluation"
    )
    assert any(name.startswith("images/validation+step+2+") for name in files("images"))


def test_registering_again_changes_nothing(champion: Project) -> None:
    (before,), version = runs(), client().get_model_version(MODEL_NAME, "1")
    again = register(champion)
    assert again == Registered(MODEL_NAME, "1", "champion", FIRST, created=False)
    assert versions() == ["1"]
    (after,) = runs()
    assert after.info.end_time == before.info.end_time
    assert after.data.metrics == before.data.metrics
    now = client().get_model_version(MODEL_NAME, "1")
    assert (now.tags, now.last_updated_timestamp) == (version.tags, version.last_updated_timestamp)


def test_a_deleted_store_is_made_again_from_the_files(
    project: Project, store: Path, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.make("a", 0.2)
    register(project)
    store.unlink()
    shutil.rmtree(store.parent / "mlartifacts")
    # Another path, since MLflow keeps the old file open; another store to it all the same.
    shutil.copyfile(empty_database, tmp_path / "new.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new.db'}")
    again = register(project)
    assert (again.version, again.alias, again.created) == ("1", "champion", True)
    (run,) = runs()
    points = client().get_metric_history(run.info.run_id, "g_l1")
    assert {point.step: point.value for point in points} == LOSSES
    assert delivery.pull(CHAMPION_URI).read_bytes() == project.model.read_bytes()


def test_a_version_whose_file_the_store_has_lost_is_refused_and_registered_anew_once_it_is_deleted(
    project: Project, store: Path
) -> None:
    project.make("a", 0.2)
    register(project)
    shutil.rmtree(store.parent / "mlartifacts")
    line = refused(project)
    assert line.startswith(
        f"{MODEL_NAME} version 1: its file is gone from {store.parent.as_uri()}/mlartifacts/"
    )
    assert line.endswith("; delete version 1 in MLflow (`make ui`), then `pix2pix register`")
    client().delete_model_version(MODEL_NAME, "1")
    again = register(project)
    assert (again.version, again.alias, again.created) == ("2", "champion", True)
    assert delivery.pull(CHAMPION_URI).read_bytes() == project.model.read_bytes()


def test_a_store_that_was_moved_is_refused_and_made_again_from_the_files(
    project: Project, store: Path, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.make("a", 0.2)
    register(project)
    before, moved = (store.parent / "mlartifacts").as_uri(), tmp_path / "moved" / "mlflow.db"
    moved.parent.mkdir()
    shutil.move(store.parent / "mlartifacts", moved.parent)
    shutil.copyfile(store, moved)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{moved}")
    line = refused(project)
    assert line.startswith(f"{MODEL_NAME} version 1: its file is gone from {before}/")
    assert line.endswith(f"; move the folder back, or delete {moved}, then `pix2pix register`")
    # As if deleted: MLflow keeps the old file open.
    new = moved.with_name("new.db")
    shutil.copyfile(empty_database, new)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{new}")
    assert register(project).created
    assert delivery.pull(CHAMPION_URI).read_bytes() == project.model.read_bytes()
    assert not (tmp_path / "mlartifacts").exists()


def test_a_tracked_training_gets_the_version_and_keeps_its_end(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    with tracking.training_run(project.params(), "f1", {"train": digest("train pairs")}) as tracked:
        tracked.losses(50, {"g_l1": 0.5})
        tracked.finish(digest("a"))
    (trained,) = runs()
    client().set_terminated(trained.info.run_id, "FINISHED", end_time=trained.info.start_time + 1234)
    register(project)
    (run,) = runs()
    assert run.info.run_id == trained.info.run_id
    assert "rebuilt_from" not in run.data.tags
    assert run.data.metrics["test/l1"] == 0.1125
    assert (run.info.status, run.info.end_time - run.info.start_time) == ("FINISHED", 1234)


def test_a_better_generator_is_promoted_and_the_worse_stays_challenger(champion: Project) -> None:
    champion.make("worse", 0.3)
    worse = register(champion)
    assert (worse.version, worse.alias) == ("2", "challenger")
    assert worse.reason == "kd_efficientnet_lite0 0.3 against the champion's 0.2 is 50 % worse"
    assert aliases() == {"champion": "1", "challenger": "2"}
    champion.make("better", 0.1)
    better = register(champion)
    assert (better.version, better.alias) == ("3", "champion")
    assert aliases() == {"champion": "3", "challenger": "2"}
    decision = client().get_model_version(MODEL_NAME, "3").tags["decision"]
    assert decision == "kd_efficientnet_lite0 0.1 against the champion's 0.2 is 50 % better"
    champion.make("a", 0.2)
    dethroned = register(champion)
    assert (dethroned.version, dethroned.alias, dethroned.created) == ("1", "challenger", False)
    assert aliases() == {"champion": "3", "challenger": "1"}


def test_what_the_gate_promotes_can_be_held_and_carried_out_later(champion: Project) -> None:
    champion.make("b", 0.1)
    held = registry.register(champion.params(), "# card", promote=False)
    assert (held.version, held.alias, held.instead_of) == ("2", "challenger", "1")
    assert aliases() == {"champion": "1", "challenger": "2"}
    tags = client().get_model_version(MODEL_NAME, "2").tags
    assert (tags["decision_kind"], tags["decision"]) == ("held", f"to be made champion: {held.reason}")
    done = registry.carry_out(held, "approved", "sharper", "somebody")
    assert (done.alias, done.reason, done.held) == ("champion", "sharper", None)
    assert aliases() == {"champion": "2"}
    assert client().get_model_version(MODEL_NAME, "2").tags["decision_kind"] == "promoted"
    last = promotion.standing(client(), MODEL_NAME).moves[-1]
    assert (last.how, last.by, last.because) == ("approved", "somebody", "sharper")


def test_a_held_version_is_promoted_by_the_next_that_may(
    champion: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion.make("b", 0.1)
    monkeypatch.setenv("PIX2PIX_PROMOTE", "never")
    assert register(champion).alias == "challenger"
    monkeypatch.setenv("PIX2PIX_PROMOTE", "perhaps")
    assert refused(champion) == "PIX2PIX_PROMOTE=perhaps: expected auto or never"
    monkeypatch.delenv("PIX2PIX_PROMOTE")
    assert register(champion).alias == "champion"
    assert aliases() == {"champion": "2"}


def test_a_declined_version_stays_challenger_until_a_person_promotes_it(champion: Project) -> None:
    champion.make("b", 0.1)
    held = registry.register(champion.params(), "# card", promote=False)
    assert registry.decline(held, "declined by somebody: blurred").reason == "declined by somebody: blurred"
    again = register(champion)
    assert (again.alias, again.reason, again.held) == ("challenger", "declined by somebody: blurred", None)
    assert aliases() == {"champion": "1", "challenger": "2"}
    champions.promote(MODEL_NAME, "2", "a second look")
    assert register(champion).alias == "champion"


def test_a_held_version_is_not_promoted_over_a_champion_that_came_meanwhile(champion: Project) -> None:
    champion.make("b", 0.1)
    held = registry.register(champion.params(), "# card", promote=False)
    champion.make("c", 0.05)
    assert register(champion).version == "3"
    with pytest.raises(UserError, match="changed from version 1 to version 3 meanwhile"):
        registry.carry_out(held)
    assert aliases()["champion"] == "3"


def test_another_test_split_is_not_compared(champion: Project) -> None:
    champion.make("b", 0.1, split="other pairs")
    other = register(champion)
    assert (other.version, other.alias) == ("2", "challenger")
    assert "another test split" in other.reason
    assert aliases() == {"champion": "1", "challenger": "2"}


class Measure:
    """Stands for the measurement of an ONNX file: notes what it is given and answers as it is told."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.files: list[bytes] = []

    def __call__(self, onnx: Path) -> dict[str, Any]:
        self.files.append(onnx.read_bytes())
        return self.answer


def test_a_champion_of_another_split_is_measured_again_once_with_its_own_file(
    project: Project, store: Path
) -> None:
    project.make("a", 0.2)
    register(project)
    champions_file = project.model.read_bytes()
    measure = Measure(project.metrics("a", 0.5, split="more pairs"))
    project.make("b", 0.3, split="more pairs")
    better = registry.register(project.params(), "# b", measure)
    assert better.reason == "kd_efficientnet_lite0 0.3 against the champion's 0.5 is 40 % better"
    assert (better.alias, measure.files) == ("champion", [champions_file])
    tags = client().get_model_version(MODEL_NAME, "1").tags
    assert json.loads(tags["metrics"])["model"]["kd_efficientnet_lite0"] == 0.2
    (again,) = [json.loads(value) for key, value in tags.items() if key.startswith("measured_")]
    assert (again["split_sha256"], again["model"]["kd_efficientnet_lite0"]) == (digest("more pairs"), 0.5)

    measure = Measure(project.metrics("b", 0.4))
    for weights, kd in (("c", 0.39), ("d", 0.6), ("c", 0.39)):
        project.make(weights, kd)
        assert registry.register(project.params(), "# card", measure).alias == "challenger"
    assert len(measure.files) == 1


def test_a_champion_of_other_features_is_measured_again_with_these(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    register(project)
    metrics = project.make("b", 0.3)
    features = {"name": "efficientnet-lite0", "weights_sha256": digest("another extractor")}
    write_json(project.folder / "reports/metrics.json", {**metrics, "features": features})
    measure = Measure({**metrics, "features": features, "model": metrics["model"]})
    assert registry.register(project.params(), "# b", measure).reason.startswith(
        "kd_efficientnet_lite0 0.3 against the champion's 0.3 is equal"
    )
    assert len(measure.files) == 1


def test_fewer_test_images_are_refused_before_anything_is_measured(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    register(project)
    metrics = project.make("b", 0.1, split="fewer pairs")
    write_json(project.folder / "reports/metrics.json", {**metrics, "images": 11})
    measure = Measure(metrics)
    fewer = registry.register(project.params(), "# b", measure)
    assert fewer.reason == "measured on 11 test images only, the champion on 12"
    assert client().get_model_version(MODEL_NAME, "2").tags["decision_kind"] == "invalid"
    assert (fewer.alias, measure.files) == ("challenger", [])


def test_a_champion_that_cannot_be_measured_again_stays_and_is_named(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    register(project)
    project.make("b", 0.1, split="more pairs")

    def fails(onnx: Path) -> dict[str, Any]:
        raise UserError("no weights for the features")

    with pytest.raises(UserError) as caught:
        registry.register(project.params(), "# b", fails)
    assert str(caught.value) == (
        "the champion, version 1, cannot be measured on this test split: no weights for the features "
        "(`pix2pix promote 2 --because …` replaces it by hand)"
    )
    assert aliases() == {"champion": "1"}


@pytest.mark.parametrize(
    ("changed", "kind"), [({"l1": float("nan")}, "invalid"), ({"kd_efficientnet_lite0": 0.8}, "rejected")]
)
def test_a_first_version_that_is_invalid_or_does_harm_is_no_champion(
    project: Project, store: Path, changed: dict[str, float], kind: str
) -> None:
    metrics = project.make("a", 0.2)
    metrics["model"] |= changed
    (project.folder / "reports/metrics.json").write_text(json.dumps(metrics))
    first = register(project)
    assert first.alias == "challenger"
    assert aliases() == {"challenger": "1"}
    assert client().get_model_version(MODEL_NAME, "1").tags["decision_kind"] == kind
    project.make("b", 0.3)
    assert register(project).reason == "the first version is the champion: kd_efficientnet_lite0 0.3"


def test_the_policy_is_that_of_the_parameters(champion: Project) -> None:
    champion.make("b", 0.195)
    assert "more than 10 % better is needed" in register(champion).reason
    params = champion.params(registry={"min_improvement": 0.01})
    assert registry.register(params, "# b").alias == "champion"


def test_a_champion_withdrawn_by_hand_is_not_replaced(champion: Project) -> None:
    client().delete_registered_model_alias(MODEL_NAME, "champion")
    champion.make("b", 0.1)
    withdrawn = register(champion)
    assert (withdrawn.alias, withdrawn.reason) == (
        "challenger",
        "the champion was withdrawn by hand; only a person names the next",
    )


def test_a_roll_back_by_hand_outlives_the_next_run(champion: Project) -> None:
    champion.make("b", 0.1)
    assert register(champion).alias == "champion"
    client().set_registered_model_alias(MODEL_NAME, "champion", "1")
    again = register(champion)
    assert (again.version, again.alias, again.created) == ("2", "challenger", False)
    assert "only a person gives the place back" in again.reason
    assert aliases() == {"champion": "1", "challenger": "2"}
    champion.make("c", 0.15)
    assert register(champion).alias == "champion"


def test_a_promoted_challenger_is_no_longer_challenger(champion: Project) -> None:
    champion.make("b", 0.3)
    assert register(champion).alias == "challenger"
    client().delete_model_version(MODEL_NAME, "1")
    assert register(champion).alias == "champion"
    assert aliases() == {"champion": "2"}


def test_a_new_measurement_of_the_champion_is_what_the_next_is_compared_with(champion: Project) -> None:
    champion.make("a", 0.5, split="more pairs")
    assert register(champion, "# a new card").created is False
    version = client().get_model_version(MODEL_NAME, "1")
    assert version.tags["split_sha256"] == digest("more pairs")
    assert version.description == "# a new card"
    (run,) = runs()
    assert run.data.metrics["test/kd_efficientnet_lite0"] == 0.5
    champion.make("b", 0.4, split="more pairs")
    assert register(champion).reason == "kd_efficientnet_lite0 0.4 against the champion's 0.5 is 20 % better"


def test_a_name_with_an_apostrophe_is_found_again(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    params = project.params(registry={"model_name": "o'neill's 50 % model"})
    assert registry.register(params, "# card").version == "1"
    assert registry.register(params, "# card").created is False
    assert delivery.pull("models:/o'neill's 50 % model@champion").is_file()


# --- what a consumer gets ----------------------------------------------------------------------------


def test_the_registered_model_gives_the_pixels_of_the_file(champion: Project) -> None:
    tracking.connect()
    batch = np.stack([noise(64, 32, seed) for seed in (1, 2)])
    translated = mlflow.pyfunc.load_model(CHAMPION_URI).predict({"image": batch})["translated"]
    assert translated.dtype == np.uint8
    assert translated.shape == batch.shape
    assert np.array_equal(translated, run_onnx(champion.model, batch))


def test_the_logged_file_keeps_its_bytes_and_says_what_it_needs(champion: Project) -> None:
    tracking.connect()
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=CHAMPION_URI))
    assert (folder / "model.onnx").read_bytes() == champion.model.read_bytes()
    runtime = "onnxruntime" if sys.platform == "darwin" else "onnxruntime-gpu"
    needed = [f"{name}=={metadata.version(name)}" for name in ("mlflow", "numpy", "onnx", runtime)]
    assert (folder / "requirements.txt").read_text().split() == needed
    assert "python" in (folder / "conda.yaml").read_text()


def test_the_signature_is_named_pixels(champion: Project) -> None:
    tracking.connect()
    signature = mlflow.models.get_model_info(CHAMPION_URI).signature
    for schema, name in ((signature.inputs, "image"), (signature.outputs, "translated")):
        (tensor,) = schema.inputs
        assert (tensor.name, tensor.type, tensor.shape) == (name, np.dtype(np.uint8), (-1, -1, -1, 3))


# --- what stops it -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "missing",
    [
        "reports/metrics.json",
        "reports/data.json",
        "reports/export.json",
        "reports/losses.csv",
        "reports/validation.csv",
        "reports/test_grid.png",
        "models/generator.onnx",
        "data/pairs/test/input",
    ],
)
def test_a_missing_file_is_one_line_and_leaves_no_version(
    project: Project, store: Path, missing: str
) -> None:
    project.make("a", 0.2)
    path = project.folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert refused(project) == f"{missing}: not there yet; `dvc repro` makes it"
    assert versions() == []
    assert {run.info.status for run in runs()} <= {"FINISHED"}


def test_what_the_stage_does_not_depend_on_may_be_missing(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    for name in ("per_image.csv", "data.png"):
        (project.folder / "reports" / name).unlink()
    assert register(project).created
    (run,) = runs()
    shown = {file.path for file in client().list_artifacts(run.info.run_id, "evaluation")}
    assert "evaluation/worst.png" in shown and "evaluation/data.png" not in shown


def test_a_registration_that_was_stopped_is_completed_with_the_same_run(
    project: Project, store: Path
) -> None:
    project.make("a", 0.2)
    shutil.rmtree(project.folder / "data" / "pairs" / "test" / "input")
    refused(project)
    (run,) = runs()
    project.make("a", 0.2)
    assert register(project).version == "1"
    assert [found.info.run_id for found in runs()] == [run.info.run_id]


def test_measured_and_exported_weights_must_be_the_same(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    exported, report = project.model.read_bytes(), (project.folder / "reports/export.json").read_bytes()
    project.make("b", 0.1)
    project.model.write_bytes(exported)
    assert refused(project).startswith("models/generator.onnx: is not the file of reports/export.json")
    (project.folder / "reports/export.json").write_bytes(report)
    assert refused(project).startswith("reports/metrics.json: measures other weights than")
    assert runs() == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"dataset": {"name": "facades"}},
            "dataset.name = 'facades': models/generator.onnx is of 'embedded'",
        ),
        (
            {"dataset": {"direction": "AtoB"}},
            "dataset.direction = 'AtoB': models/generator.onnx is of 'BtoA'",
        ),
        ({"train": {"epochs": 11}}, "model and train are not what models/generator.onnx was trained with"),
        ({"model": {"norm": "batch"}}, "model and train are not what models/generator.onnx was trained with"),
    ],
)
def test_a_generator_of_other_parameters_is_not_registered_as_one_of_these(
    project: Project, store: Path, changed: dict[str, Any], said: str
) -> None:
    """A preset was laid, and no `dvc repro` followed."""
    project.make("a", 0.2)
    with pytest.raises(UserError) as caught:
        registry.register(project.params(**changed, registry={"model_name": "other"}), "# card")
    assert str(caught.value) == f"params.yaml: {said}; `dvc repro` mends it"
    assert (versions(), runs()) == ([], [])


def test_imported_weights_are_registered_whatever_the_training_would_be_and_without_one(
    project: Project, store: Path
) -> None:
    project.make("a", 0.2, imported=True)
    params = project.params(train={"epochs": 11, "warm_start": "ab" * 32})
    assert registry.register(params, "# card").version == "1"
    (run,) = runs()
    version = client().get_model_version(MODEL_NAME, "1")
    for tags in (run.data.tags, version.tags):
        assert tags["imported_sha256"] == digest("latest_net_G.pth")
        assert not {"data_sha256", "params_sha256", "code_sha256", "warm_start", "rebuilt_from"} & set(tags)
    assert {key.partition(".")[0] for key in run.data.params} == {
        "dataset", "prepare", "evaluate", "export", "registry", "run",
    }  # fmt: skip
    assert run.inputs.dataset_inputs == []


def test_no_server_is_one_line_that_names_it(
    project: Project, no_server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    project.make("a", 0.2)
    line = f"MLflow at {no_server} does not answer; start it, or set MLFLOW_TRACKING_URI to one that runs"
    assert refused(project) == line
    with pytest.raises(UserError) as caught:
        delivery.pull(CHAMPION_URI)
    assert str(caught.value) == line
    assert capfd.readouterr() == ("", "")


# --- pull --------------------------------------------------------------------------------------------


@pytest.fixture
def two_versions(champion: Project) -> dict[str, bytes]:
    """Version 1 is the champion, 2 the challenger; the bytes of their files."""
    files = {"1": champion.model.read_bytes()}
    champion.make("b", 0.3)
    register(champion)
    return {**files, "2": champion.model.read_bytes()}


def not_pulled(uri: str) -> str:
    with pytest.raises(UserError) as caught:
        delivery.pull(uri)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_alias_or_a_version_gives_its_file(two_versions: dict[str, bytes]) -> None:
    for which, version in (("@champion", "1"), ("@challenger", "2"), ("/1", "1"), ("/2", "2")):
        pulled = delivery.pull(f"models:/{MODEL_NAME}{which}")
        assert pulled.read_bytes() == two_versions[version]
        assert pulled.parent == Path(os.environ["PIX2PIX_CACHE"]) / "models"


def test_what_is_not_there_is_answered_with_what_is(two_versions: dict[str, bytes], store: Path) -> None:
    there = f"{MODEL_NAME} has no {{}}; it has @challenger (version 2), @champion (version 1)"
    for which in ("@production", "/3", "/three"):
        line = f"models:/{MODEL_NAME}{which}: {there.format(which[1:])}"
        assert not_pulled(f"models:/{MODEL_NAME}{which}") == line
    client().delete_registered_model_alias(MODEL_NAME, "champion")
    hint = f"it has @challenger (version 2); --model models:/{MODEL_NAME}@challenger takes that one"
    assert not_pulled(CHAMPION_URI).endswith(f"has no champion; {hint}")
    many = f"models:/{MODEL_NAME}/{'9' * 20}"
    assert not_pulled(many) == f"{many}: there is no such version"
    line = not_pulled("models:/big@champion")
    assert line == f"models:/big@champion: no model big in sqlite:///{store}; models there: {MODEL_NAME}"


def test_an_empty_store_says_how_to_fill_it(project: Project, store: Path) -> None:
    assert not_pulled(CHAMPION_URI).endswith("models there: none yet; `make repro` registers one")


def test_pulling_makes_no_store(project: Project) -> None:
    line = not_pulled(CHAMPION_URI)
    assert line.startswith(f"{CHAMPION_URI}: there is no {project.folder / 'mlflow.db'}; `make repro`")
    assert list(project.folder.iterdir()) == []


@pytest.mark.parametrize("uri", ["models:/", "models:/a", "models:/a@", "models:/@b", "models:/a/", "tiny"])
def test_what_is_no_address_of_a_model_is_said(uri: str) -> None:
    assert not_pulled(uri) == (
        f"{uri}: is not a model; expected models:/NAME@ALIAS, models:/NAME/VERSION or a file.onnx"
    )


def test_a_cached_file_is_used_again_and_a_damaged_one_replaced(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    register(project)
    pulled = delivery.pull(CHAMPION_URI)
    first = pulled.stat()
    assert delivery.pull(CHAMPION_URI) == pulled
    assert (pulled.stat().st_ino, pulled.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    pulled.write_bytes(b"damaged")
    assert delivery.pull(CHAMPION_URI).read_bytes() == project.model.read_bytes()
    # With the file in the cache the store's own copy is not needed.
    shutil.rmtree(store.parent / "mlartifacts")
    assert delivery.pull(CHAMPION_URI).read_bytes() == project.model.read_bytes()


def test_a_file_that_is_not_the_registered_one_is_refused(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    register(project)
    (stored,) = (store.parent / "mlartifacts").rglob("*.onnx")
    stored.write_bytes(project.exported)
    line = not_pulled(CHAMPION_URI)
    assert "its file has SHA-256" in line
    assert line.endswith("do not use it")
    assert list(Path(os.environ["PIX2PIX_CACHE"]).rglob("*.onnx")) == []
    stored.unlink()
    assert "its file is gone from the store" in not_pulled(CHAMPION_URI)


def test_a_model_of_another_project_is_pulled_if_it_is_one_onnx_file(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    tracking.connect()
    experiment = tracking.use_experiment(mlflow, "theirs")
    with mlflow.start_run(experiment_id=experiment):
        mlflow.onnx.log_model(
            onnx.load(project.model),
            name="theirs",
            registered_model_name="theirs",
            pip_requirements=[],
            save_as_external_data=False,
        )
    assert delivery.pull("models:/theirs/1").read_bytes() == project.model.read_bytes()
    assert not_pulled("models:/theirs@champion").endswith("it has versions without an alias")


# --- a team's server ---------------------------------------------------------------------------------


def test_a_server_keeps_and_gives_the_file(project: Project, server: Server) -> None:
    project.make("a", 0.2)
    assert register(project).alias == "champion"
    assert register(project).created is False
    project.make("b", 0.1)
    assert register(project).version == "2"
    assert aliases() == {"champion": "2"}
    pulled = delivery.pull(CHAMPION_URI)
    assert pulled.read_bytes() == project.model.read_bytes()
    assert not_pulled(f"models:/{MODEL_NAME}@production").endswith("it has @champion (version 2)")
    assert not_pulled(f"models:/{MODEL_NAME}/9").endswith("it has @champion (version 2)")
    line = not_pulled("models:/big@champion")
    assert line.startswith(f"models:/big@champion: no model big in {server.uri}; models there: ")
    assert MODEL_NAME in line
    assert not (project.folder / "mlflow.db").exists()


def test_the_signature_has_the_types_and_channels_of_the_file() -> None:
    file = SimpleNamespace(input=Encoding(7, "uint16"), target=Encoding(1, "float32"))
    signature = registry._signature(file)  # type: ignore[arg-type]
    tensors = [
        (tensor.name, str(tensor.type), tensor.shape) for tensor in (*signature.inputs, *signature.outputs)
    ]
    assert tensors == [("image", "uint16", (-1, -1, -1, 7)), ("translated", "float32", (-1, -1, -1, 1))]
