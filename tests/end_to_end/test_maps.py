"""The recipe of maps on real pairs, made small: halves of 600 px, and no test split of their own."""

import csv
import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from numpy.typing import NDArray
from PIL import Image

from pix2pix.files import sha256_file
from pix2pix.translator import Translator

from .conftest import STAGES, Project, checkout, store

SAMPLE = SHARED / "datasets" / "maps-sample.tar.gz"
# By their names 55 and 152 fall into the tenth of train that validates. 126 and 207 are in train and in
# val, as other pictures.
TRAIN = ("3", "29", "34", "45", "47", "55", "68", "75", "126", "152", "207", "240")
VALIDATES = {"55", "152"}
VAL = ("4", "26", "126", "207")
IMAGE_PX, LOAD_PX = 64, 72
SMALL = {
    "prepare": {"image_px": IMAGE_PX},
    "model": {"generator_channels": 2, "discriminator_channels": 2},
    "train": {"epochs": 1, "validate_every": 1, "losses_every": 5, "threads": 1},
    "evaluate": {"features": "efficientnet-lite0", "kd_subsets": 4},
    "run": {"tracking": False},
}

pytestmark = pytest.mark.skipif(not SAMPLE.is_file(), reason=f"{SAMPLE} is not there")
Run = tuple[Project, subprocess.CompletedProcess[str]]


def repack(archive: Path) -> None:
    """A few pairs of the sample as maps.tar.gz, laid out like the official one."""
    wanted = {f"maps/train/{name}.jpg" for name in TRAIN} | {f"maps/val/{name}.jpg" for name in VAL}
    with tarfile.open(SAMPLE) as sample, tarfile.open(archive, "w:gz", compresslevel=1) as few:
        for member in sample:
            if member.name in wanted:
                few.addfile(member, sample.extractfile(member))


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A project after `pix2pix preset maps` and `dvc repro`, made small; not to be changed."""
    folder = tmp_path_factory.mktemp("maps")
    (folder / "mirror").mkdir()
    repack(folder / "mirror" / "maps.tar.gz")
    project = checkout(folder / "project", folder / "mirror")
    project.pix2pix("preset", "maps")
    project.set(**SMALL)
    mirror = {"PIX2PIX_MIRROR": str(project.data), "PIX2PIX_CACHE": str(folder / "cache")}
    return project, project.dvc("repro", **mirror)


@pytest.fixture(scope="module")
def published() -> dict[tuple[str, str], NDArray[np.uint8]]:
    """The combined images of the archive by split and name."""
    images = {}
    with tarfile.open(SAMPLE) as sample:
        for member in sample:
            path = Path(member.name)
            split, name = path.parent.name, path.stem
            if name in {"train": TRAIN, "val": VAL}.get(split, ()):
                file = sample.extractfile(member)
                assert file
                images[split, name] = np.asarray(Image.open(io.BytesIO(file.read())))
    return images


def read(project: Project, split: str, side: str) -> dict[str, NDArray[np.uint8]]:
    folder = project.root / "data" / "pairs" / split / side
    return {file.stem: np.asarray(Image.open(file)) for file in folder.glob("*.png")}


def report(project: Project, name: str) -> dict:
    return json.loads((project.root / "reports" / name).read_text())


def test_the_stages_run_and_the_mirrors_smaller_archive_is_named(maps: Run) -> None:
    project, done = maps
    assert project.ran(done) == list(STAGES)
    said = done.stdout + done.stderr
    assert "maps.tar.gz: holds 12 train, 4 val images; published are 1096 train, 1098 val" in said
    raw = project.root / "data" / "raw"
    assert {folder.name: len(list(folder.iterdir())) for folder in raw.iterdir()} == {"train": 12, "val": 4}


def test_val_becomes_test_and_validation_pairs_come_from_train(maps: Run) -> None:
    project, _ = maps
    names = {split: set(read(project, split, "input")) for split in ("train", "val", "test")}
    assert names == {"train": set(TRAIN) - VALIDATES, "val": VALIDATES, "test": set(VAL)}
    data = report(project, "data.json")
    assert data["split_rule"] == "the data's own val as test; 10% of its train as val, by name"
    assert {split: row["pairs"] for split, row in data["splits"].items()} == {
        "train": 10,
        "val": 2,
        "test": 4,
    }
    assert data["source_sizes"] == {"600×600": 16}
    assert data["rejects"] == {}


@pytest.mark.parametrize(
    ("split", "origin", "side_px"),
    [("train", "train", LOAD_PX), ("val", "train", IMAGE_PX), ("test", "val", IMAGE_PX)],
)
def test_the_input_is_the_aerial_half_and_the_target_the_map(
    maps: Run, published: dict[tuple[str, str], NDArray[np.uint8]], split: str, origin: str, side_px: int
) -> None:
    for side, half in (("input", np.s_[:, :600]), ("target", np.s_[:, 600:])):
        for name, pixels in read(maps[0], split, side).items():
            whole = published[origin, name][half]
            assert whole.shape == (600, 600, 3)
            assert pixels.shape == (side_px, side_px, 3)
            # By area: every pixel is the mean of what it covers, so each half keeps its mean.
            for rows in (slice(0, 300), slice(300, 600)):
                part = slice(rows.start * side_px // 600, rows.stop * side_px // 600)
                assert pixels[part].mean((0, 1)) == pytest.approx(whole[rows].mean((0, 1)), abs=1)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_inputs_are_dark_as_photos_are_and_targets_light_as_maps_are(maps: Run, split: str) -> None:
    means = {side: np.mean(list(read(maps[0], split, side).values())) for side in ("input", "target")}
    assert means["input"] < 150
    assert means["target"] > 200


def test_training_and_evaluation_saw_these_pairs(maps: Run) -> None:
    project, _ = maps
    with (project.root / "reports" / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [5, 10]
    # ln 2: the discriminator's fresh weights tell nothing.
    assert float(rows[0]["g_adversarial"]) == pytest.approx(np.log(2), abs=0.1)
    metrics = report(project, "metrics.json")
    assert metrics["images"] == 4
    assert metrics["split_sha256"] == report(project, "data.json")["splits"]["test"]["sha256"]


def test_what_was_trained_is_exported_and_registered_under_the_presets_name(maps: Run) -> None:
    project, _ = maps
    onnx = project.root / "models" / "generator.onnx"
    exported = report(project, "export.json")
    assert exported["onnx_sha256"] == sha256_file(onnx)
    assert Translator(onnx)(np.zeros((90, 100, 3), np.uint8)).shape == (90, 100, 3)
    assert report(project, "registration.json")["metrics"] == report(project, "metrics.json")["model"]
    (version,) = store(project).search_model_versions("name='pix2pix-maps'")
    assert version.tags["onnx_sha256"] == exported["onnx_sha256"]
