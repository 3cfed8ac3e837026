"""The registry: what the files describe is in it, once, and what is amiss is not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from registry_fixtures import (
    CHAMPION_URI,
    LOSSES,
    MODEL_NAME,
    VALIDATION,
    Project,
    aliases,
    client,
    digest,
    register,
    runs,
    versions,
)

from pipeline import delivery, live_run, registry, tracking
from pipeline.registry import Registered
from pix2pix.errors import UserError
from pix2pix.files import sha256_file

pytest_plugins = ["registry_fixtures"]

FIRST = "the first version is the champion: kd_efficientnet_lite0 0.2"


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
    with live_run.training_run(project.params(), "f1", {"train": digest("train pairs")}) as tracked:
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
