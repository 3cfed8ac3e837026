"""The embedded dataset: reproducible, flat in its labels, and the photo where the labels say it is."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2pix.synthetic import PALETTE, SPLITS, draw_pair, write_dataset

DIGEST = """
import hashlib
from pix2pix.synthetic import draw_pair
print(hashlib.sha256(b"".join(image.tobytes() for i in (0, 5) for image in draw_pair(2017, i))).hexdigest())
"""

Pair = tuple[np.ndarray, np.ndarray]


def _where(labels: np.ndarray, kind: str) -> np.ndarray:
    return (labels == PALETTE[kind]).all(-1)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [draw_pair(2017, index) for index in range(60)]


@pytest.mark.parametrize("image_px", [32, 64, 128, 200])
def test_a_pair_is_two_images_of_bytes_at_the_size_asked_for(image_px: int) -> None:
    for image in draw_pair(1, 2, image_px):
        assert image.shape == (image_px, image_px, 3)
        assert image.dtype == np.uint8


def test_same_seed_and_index_give_the_same_bytes_in_another_process() -> None:
    ours = b"".join(image.tobytes() for index in (0, 5) for image in draw_pair(2017, index))
    for hash_seed in ("1", "77"):
        theirs = subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
        assert theirs.stdout.strip() == hashlib.sha256(ours).hexdigest()


def test_another_seed_gives_other_pairs() -> None:
    for ours, theirs in zip(draw_pair(1, 0), draw_pair(2, 0), strict=True):
        assert (ours != theirs).any()


def test_labels_use_the_whole_palette_and_no_other_colour(pairs: list[Pair]) -> None:
    used = {colour for _, labels in pairs for colour in map(tuple, labels[::2, ::2].reshape(-1, 3).tolist())}
    assert used == set(PALETTE.values())


def test_every_facade_has_windows_a_door_and_a_street(pairs: list[Pair]) -> None:
    for _, labels in pairs:
        for kind in ("background", "facade", "window", "door", "molding"):
            assert _where(labels, kind).mean() > 0.005, kind


def test_windows_hold_glass_darker_than_their_wall(pairs: list[Pair]) -> None:
    for photo, labels in pairs:
        glass, wall = photo[_where(labels, "window")], photo[_where(labels, "facade")]
        assert np.percentile(glass.mean(1), 5) < np.median(wall.mean(1)) - 20


@pytest.mark.parametrize(
    ("kind", "axis"), [("window", 1), ("facade", 0), ("molding", 0), ("sill", 1), ("blind", 1), ("shop", 1)]
)
def test_photo_edges_lie_where_the_label_edges_lie(pairs: list[Pair], kind: str, axis: int) -> None:
    """From pixel to pixel the photo changes most where the labels do, not one, two or three pixels beside."""
    change_at = dict.fromkeys(range(-3, 4), 0.0)
    for photo, labels in pairs:
        change = np.abs(np.diff(photo.astype(float), axis=axis)).sum(-1)
        edges = np.diff(_where(labels, kind), axis=axis)
        for shift in change_at:
            change_at[shift] += change[np.roll(edges, shift, axis)].sum()
    there = change_at.pop(0)
    assert there > 1.4 * max(change_at.values()), (there, change_at)


def test_the_labels_tell_most_of_the_wall_colour(pairs: list[Pair]) -> None:
    """Houses with the same elements share a material: the best guess is not the mean of all walls."""
    walls = np.array([photo[_where(labels, "facade")].mean(0) for photo, labels in pairs])
    kinds = ("cornice", "balcony", "blind", "shop", "pillar")
    elements = np.array([[_where(labels, kind).any() for kind in kinds] for _, labels in pairs])
    groups = [walls[(elements == row).all(1)] for row in np.unique(elements, axis=0)]
    unexplained = sum(((group - group.mean(0)) ** 2).sum() for group in groups)
    assert unexplained < 0.4 * ((walls - walls.mean(0)) ** 2).sum()


def test_every_split_is_written_with_its_count_and_no_two_pairs_are_equal(tmp_path: Path) -> None:
    splits = {"train": 12, "val": 3, "test": 5}
    seen: list[tuple[int, int]] = []
    write_dataset(
        tmp_path, seed=3, image_px=64, splits=splits, on_pair=lambda *progress: seen.append(progress)
    )
    for split, count in splits.items():
        names = sorted(path.name for path in (tmp_path / split).iterdir())
        assert names == [f"{number:04d}.png" for number in range(1, count + 1)]
    files = sorted(tmp_path.rglob("*.png"))
    assert len({file.read_bytes() for file in files}) == len(files) == 20
    assert seen == [(number, 20) for number in range(1, 21)]


def test_a_file_is_photo_left_and_labels_right_and_reads_back_unchanged(tmp_path: Path) -> None:
    write_dataset(tmp_path, seed=3, image_px=64, splits={"train": 2, "val": 1})
    photo, labels = draw_pair(3, 2, 64)
    stored = np.asarray(Image.open(tmp_path / "val" / "0001.png"))
    assert (stored == np.concatenate([photo, labels], axis=1)).all()


def test_a_pair_does_not_depend_on_how_many_others_there_are(tmp_path: Path) -> None:
    write_dataset(tmp_path / "few", seed=3, image_px=64, splits={"train": 2})
    write_dataset(tmp_path / "many", seed=3, image_px=64, splits={"train": 6, "test": 1})
    for name in ("0001.png", "0002.png"):
        assert (tmp_path / "few/train" / name).read_bytes() == (tmp_path / "many/train" / name).read_bytes()


def test_the_default_splits_are_300_pairs() -> None:
    assert SPLITS == {"train": 200, "val": 20, "test": 80}
