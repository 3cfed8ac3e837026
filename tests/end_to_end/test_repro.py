"""`dvc repro` with the real tools: what runs again and what does not, and that bytes repeat."""

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from .conftest import Project, store

ALL = ["fetch", "prepare", "train", "evaluate", "export", "register"]


def champion(project: Project) -> mlflow.entities.model_registry.ModelVersion:
    return store(project).get_model_version_by_alias("tiny", "champion")


def read_json(project: Project, name: str) -> dict:
    return json.loads((project.root / "reports" / name).read_text())


# --- the first run -----------------------------------------------------------------------------------


def test_first_repro_runs_all_stages_and_registers_a_champion(
    first_run: tuple[Project, subprocess.CompletedProcess[str]],
) -> None:
    project, done = first_run
    assert project.ran(done) == ALL
    version = champion(project)
    assert str(version.version) == "1"
    assert version.tags["onnx_sha256"] == read_json(project, "export.json")["onnx_sha256"]


def test_metrics_have_every_yardstick(first_run: tuple[Project, object]) -> None:
    metrics = read_json(first_run[0], "metrics.json")
    distances = {f"{kind}_efficientnet_lite0{end}" for kind, end in (("fd", ""), ("kd", ""), ("kd", "_std"))}
    assert set(metrics) == {
        "images", "split_sha256", "weights_sha256", "features", "model", "input_as_output", "floor",
    }  # fmt: skip
    assert metrics["images"] == 8
    assert set(metrics["model"]) == set(metrics["input_as_output"]) == {"l1", "psnr_db", "ssim"} | distances
    assert set(metrics["floor"]) == distances
    assert metrics["split_sha256"] == read_json(first_run[0], "data.json")["splits"]["test"]["sha256"]


def test_metrics_are_those_of_the_exported_file(first_run: tuple[Project, object]) -> None:
    """L1 computed from generator.onnx on the prepared test images, by other code."""
    project = first_run[0]
    session = ort.InferenceSession(
        project.root / "models" / "generator.onnx", providers=["CPUExecutionProvider"]
    )
    with (project.root / "reports" / "per_image.csv").open() as file:
        rows = {row["name"]: float(row["l1"]) for row in csv.DictReader(file)}
    differences = {}
    for source in sorted((project.root / "data/pairs/test/input").glob("*.png")):
        image, target = (
            np.asarray(Image.open(path)) for path in (source, source.parents[1] / "target" / source.name)
        )
        output = session.run(["translated"], {"image": image[None]})[0][0]
        differences[source.stem] = np.abs(output.astype(int) - target).mean() / 255
    assert rows == pytest.approx(differences, abs=1e-4)
    assert read_json(project, "metrics.json")["model"]["l1"] == pytest.approx(
        np.mean(list(rows.values())), abs=1e-6
    )


def test_the_exported_file_measured_again_has_the_numbers_of_the_weights(
    first_run: tuple[Project, object],
) -> None:
    """What an old champion is compared by is what `evaluate` would have said of it."""
    project = first_run[0]
    code = (
        "import json; from pathlib import Path; from pix2pix import params, remeasurement;"
        "found = remeasurement.measure(params.load().evaluate, Path('models/generator.onnx'));"
        "print(json.dumps(found))"
    )
    found = json.loads(project.run(sys.executable, "-c", code).stdout)
    metrics = read_json(project, "metrics.json")
    assert found.keys() == {"images", "split_sha256", "features", "model"}
    assert all(found[key] == metrics[key] for key in ("images", "split_sha256", "features"))
    # The two runtimes may differ by one level of 255 on a pixel in a thousand.
    assert found["model"] == pytest.approx(metrics["model"], rel=1e-2)
    assert found["model"]["l1"] == pytest.approx(metrics["model"]["l1"], abs=1e-5)


def test_losses_and_samples_are_complete(first_run: tuple[Project, object]) -> None:
    reports = first_run[0].root / "reports"
    with (reports / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [4, 8, 12, 16]
    assert set(rows[0]) == {"step", "epoch", "g_adversarial", "g_l1", "d_real", "d_fake", "lr"}
    assert [file.name for file in sorted((reports / "samples").iterdir())] == [
        "epoch-0001.png",
        "epoch-0002.png",
    ]
    assert not (first_run[0].root / ".checkpoints").exists() or not list(
        (first_run[0].root / ".checkpoints").iterdir()
    )


def test_the_run_in_mlflow_tells_what_the_files_tell(first_run: tuple[Project, object]) -> None:
    project = first_run[0]
    client = store(project)
    run = client.get_run(champion(project).run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.lr"] == "0.0002"
    assert {
        "fingerprint",
        "git_commit",
        "git_dirty",
        "dvc_lock_sha256",
        "data_sha256",
        "environment_sha256",
        "weights_sha256",
    } <= set(run.data.tags)
    metrics = read_json(project, "metrics.json")
    assert run.data.metrics["test/l1"] == metrics["model"]["l1"]
    assert {"val_l1", "images_per_s", "memory_mb", "lr", "g_l1"} <= set(run.data.metrics)
    assert run.inputs.dataset_inputs[0].dataset.name == "tiny"


def test_version_and_run_name_the_lock_that_dvc_has_written_after_them(project: Project) -> None:
    # As if the stage had just registered: the lock had no entry of it yet.
    lock = project.root / "dvc.lock"
    before = lock.read_text()
    lock.write_text(before.partition("  register:")[0])
    project.pix2pix("register")
    lock.write_text(before)
    project.pix2pix("register")
    version = champion(project)
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    assert version.tags["dvc_lock_sha256"] == digest
    assert store(project).get_run(version.run_id).data.tags["dvc_lock_sha256"] == digest


# --- what runs again ---------------------------------------------------------------------------------


def test_nothing_changed_runs_nothing_and_is_quick(project: Project) -> None:
    before = (project.root / "dvc.lock").read_text()
    assert project.ran(project.dvc("repro")) == []
    assert (project.root / "dvc.lock").read_text() == before
    assert project.run("git", "status", "--porcelain").stdout == ""


def test_another_learning_rate_runs_training_and_what_follows(project: Project) -> None:
    project.set(train={"lr": 0.001})
    done = project.dvc("repro")
    assert project.ran(done) == ["train", "evaluate", "export", "register"]


def test_one_changed_training_image_is_noticed_and_test_images_stay(own_data: Project) -> None:
    own_data.dvc("repro")
    before = read_json(own_data, "data.json")
    image = own_data.data / "train" / "3.png"
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    assert own_data.ran(own_data.dvc("repro", "prepare")) == ["fetch", "prepare"]
    after = read_json(own_data, "data.json")
    assert after["splits"]["test"] == before["splits"]["test"]
    assert after["splits"]["train"] != before["splits"]["train"]
    stale = json.loads(own_data.dvc("status", "--json").stdout)
    assert "data/pairs/train" in str(stale["train"])
    assert "data/pairs/test" not in str(stale["evaluate"])


def test_a_champion_of_another_test_split_is_measured_again_by_the_stage(own_data: Project) -> None:
    own_data.dvc("repro")
    before = read_json(own_data, "metrics.json")
    for name in ("0", "1"):
        image = Image.open(own_data.data / "test" / f"{name}.png")
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(own_data.data / "test" / f"{name}-more.png")
    own_data.set(train={"seed": 2})
    done = own_data.dvc("repro")
    assert "measuring the champion, version 1, on this test split" in done.stdout + done.stderr
    first = store(own_data).get_model_version("tiny", "1")
    (again,) = [json.loads(value) for key, value in first.tags.items() if key.startswith("measured_")]
    after = read_json(own_data, "metrics.json")
    assert (again["images"], after["images"]) == (before["images"] + 2, before["images"] + 2)
    assert again["split_sha256"] == after["split_sha256"] != before["split_sha256"]
    second = store(own_data).get_model_version("tiny", "2")
    assert second.tags["decision_kind"] in ("promoted", "rejected", "tie")
    assert f"against the champion's {again['model']['l1']:.4g} is" in second.tags["decision"]


def test_a_changed_interval_of_logging_runs_nothing(project: Project) -> None:
    project.set(run={"log_every_steps": 3, "checkpoint_every_epochs": 1})
    assert project.ran(project.dvc("repro")) == []


def test_a_typo_in_a_key_is_refused_by_name_and_nothing_is_lost(project: Project) -> None:
    before = project.outputs()
    project.set(train={"lrr": 0.001})
    by_hand = project.dvc("repro", ok=False)
    assert by_hand.returncode == 255
    assert "error: params.yaml: train.lrr: unknown key; did you mean train.lr?" in by_hand.stderr
    quietly = project.pix2pix("repro", ok=False)
    assert quietly.returncode == 2
    assert quietly.stderr == "error: params.yaml: train.lrr: unknown key; did you mean train.lr?\n"
    project.run("git", "checkout", "params.yaml")
    # dvc had removed what training made; it is restored, and nothing runs.
    assert project.ran(project.dvc("repro")) == []
    assert project.outputs() == before


def test_what_ran_before_is_restored_in_a_worktree_and_after_going_back(
    project: Project, tmp_path: Path
) -> None:
    before = project.outputs()
    project.set(train={"lr": 0.001})
    project.dvc("repro", "train")
    project.run("git", "checkout", "params.yaml", "dvc.lock", "reports")
    assert project.ran(project.dvc("repro")) == []
    assert project.outputs() == before
    project.run("git", "worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
    tree = Project(tmp_path / "tree", project.data)
    tree.dvc("config", "--local", "cache.dir", str(project.root / ".dvc" / "cache"))
    # Also where the lock says nothing.
    (tree.root / "dvc.lock").unlink()
    assert tree.ran(tree.dvc("repro")) == []
    assert tree.outputs() == before
