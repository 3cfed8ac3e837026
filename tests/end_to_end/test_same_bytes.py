"""The same inputs give the same bytes, in any place; what the registry lost is put back."""

import json
import sys
from pathlib import Path

import mlflow

from .conftest import STAGES, Project, store


def champion(project: Project) -> mlflow.entities.model_registry.ModelVersion:
    return store(project).get_model_version_by_alias("tiny", "champion")


def read_json(project: Project, name: str) -> dict:
    return json.loads((project.root / "reports" / name).read_text())


def test_repeating_everything_gives_the_same_bytes(project: Project) -> None:
    before = project.outputs()
    assert project.ran(project.dvc("repro", "-f")) == list(STAGES)
    assert project.outputs() == before


def test_tracking_changes_no_output_nor_does_the_place_or_the_hash_seed(
    project: Project, tmp_path: Path
) -> None:
    """A worktree elsewhere, without MLflow while training, under another PYTHONHASHSEED."""
    before = project.outputs()
    project.run("git", "worktree", "add", "-q", "--detach", str(tmp_path / "else where"))
    elsewhere = Project(tmp_path / "else where", project.data)
    elsewhere.set(run={"tracking": False})
    assert elsewhere.ran(elsewhere.dvc("repro", "-f", PYTHONHASHSEED="7")) == list(STAGES)
    assert elsewhere.outputs() == before
    # And it registered with the main checkout's store.
    assert not (elsewhere.root / "mlflow.db").exists()
    assert champion(project).tags["onnx_sha256"] == read_json(project, "export.json")["onnx_sha256"]


# --- the registry ------------------------------------------------------------------------------------


def test_a_lost_store_is_rebuilt_without_training(project: Project) -> None:
    assert not (project.root / "mlflow.db").exists()
    before = project.outputs()
    done = project.pix2pix("repro")
    assert "trained" not in done.stdout + done.stderr
    assert "champion" in done.stdout
    version = champion(project)
    run = store(project).get_run(version.run_id)
    assert run.data.params["train.lr"] == "0.0002"
    assert run.data.metrics["test/l1"] == read_json(project, "metrics.json")["model"]["l1"]
    assert project.outputs() == before
    assert "version 1" in project.pix2pix("repro").stdout


def test_a_server_that_is_down_fails_registering_in_one_line(project: Project) -> None:
    uri = "http://127.0.0.1:9"
    done = project.run(sys.executable, "-m", "stages.register", ok=False, MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: MLflow at {uri} does not answer")
    assert done.stderr.count("\n") == 1


def test_training_goes_on_without_a_server_and_says_so_once(project: Project) -> None:
    before = (project.root / "models" / "generator.safetensors").read_bytes()
    done = project.run(sys.executable, "-m", "stages.train", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert (done.stdout + done.stderr).count("cannot be written") == 1
    assert (project.root / "models" / "generator.safetensors").read_bytes() == before
