"""Own data in three commands, with the real tools: what changes there runs what depends on it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pix2pix import synthetic
from pix2pix.pairs import split_of

from .conftest import TINY, Project, checkout


def write_pair(folder: Path, name: str, index: int) -> None:
    photo, labels = synthetic.draw_pair(seed=9, index=index, image_px=40)
    Image.fromarray(photo).save(folder / "photos" / "A" / f"{name}.jpg")
    Image.fromarray(labels).save(folder / "photos" / "B" / f"{name}.png")


def split_sizes(project: Project) -> dict[str, int]:
    report = json.loads((project.root / "reports" / "data.json").read_text())
    return {split: row["pairs"] for split, row in report["splits"].items()}


def stale(project: Project) -> dict[str, str]:
    """The stages that would run after prepare, with why."""
    found = json.loads(project.dvc("status", "--json").stdout)
    return {stage: str(why) for stage, why in found.items() if stage not in ("fetch", "prepare")}


def test_a_changed_an_added_and_a_removed_file_run_what_depends_on_them_and_no_more(tmp_path: Path) -> None:
    data = tmp_path / "somebody's pairs – ü"
    for side in "AB":
        (data / "photos" / side).mkdir(parents=True)
    names = [f"Bild {index}" for index in range(40)]
    for index, name in enumerate(names):
        write_pair(data, name, index)
    project = checkout(tmp_path / "project", data)
    said = project.pix2pix("init-dataset", str(data), "--like", "quickstart").stdout
    assert f"{data}: 40 pairs, folders A/ and B/" in said
    project.pix2pix("preset", "mine")
    project.set(**{section: keys for section, keys in TINY.items() if section != "dataset"})
    assert project.ran(project.dvc("repro", "train")) == ["fetch", "prepare", "train"]
    before = split_sizes(project)

    of = {
        split: [name for name in names if split_of(f"photos__{name}", 0.1, 0.1) == split] for split in before
    }
    changed = data / "photos" / "A" / f"{of['test'][0]}.jpg"
    Image.fromarray(255 - np.asarray(Image.open(changed))).save(changed)
    # The test split alone: no training.
    assert project.ran(project.dvc("repro", "train")) == ["fetch", "prepare"]
    assert split_sizes(project) == before

    added = next(name for name in map(str, range(100)) if split_of(f"photos__{name}", 0.1, 0.1) == "train")
    write_pair(data, added, 99)
    assert project.ran(project.dvc("repro", "prepare")) == ["fetch", "prepare"]
    assert split_sizes(project) == {**before, "train": before["train"] + 1}
    assert "data/pairs/train" in stale(project)["train"]
    assert "data/pairs/val" not in stale(project)["train"]

    for side, suffix in (("A", "jpg"), ("B", "png")):
        (data / "photos" / side / f"{added}.{suffix}").unlink()
    # As it was: restored, nothing has to run but what looks at the folder.
    assert "train" not in project.ran(project.dvc("repro", "train"))
    assert split_sizes(project) == before

    # A file that is no image changes nothing behind fetch.
    (data / "notes.txt").write_text("mine")
    assert project.ran(project.dvc("repro", "train")) == ["fetch"]
