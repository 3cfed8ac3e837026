"""A split on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pair_fixtures import load_split, write_split

from pix2pix import feed
from pix2pix.encoding import RGB8, Encoding
from pix2pix.errors import UserError
from pix2pix.images import write_png
from pix2pix.pair_files import PairFiles

DEEP = (Encoding(7, "uint16"), Encoding(1, "float32"))


@pytest.mark.parametrize("kinds", [(RGB8, RGB8), (Encoding(1, "uint16"), RGB8), DEEP], ids=str)
def test_digest_and_pixels_are_those_of_the_split_in_memory(
    tmp_path: Path, kinds: tuple[Encoding, Encoding]
) -> None:
    folder = write_split(tmp_path, 5, (36, 40), kinds)
    files, held = PairFiles.find(folder), load_split(folder)
    assert (files.names, len(files), files.size_px) == (held.names, 5, (36, 40))
    assert files.sides == kinds
    kept = {}
    assert files.sha256(keep=kept.__setitem__) == files.sha256() == held.sha256
    for index in range(5):
        for pair in (files.read(index), kept[index]):
            for side, samples in zip(pair, (held.inputs[index], held.targets[index]), strict=True):
                assert side.dtype == samples.dtype and np.array_equal(side, samples)


@pytest.mark.parametrize(
    ("kinds", "of_a_pixel"), [((RGB8, RGB8), 6), ((Encoding(1, "uint16"), RGB8), 8), (DEEP, 32)], ids=str
)
def test_what_pairs_take_in_memory_is_what_they_take_where_they_are_held(
    tmp_path: Path, kinds: tuple[Encoding, Encoding], of_a_pixel: int
) -> None:
    files = PairFiles.find(write_split(tmp_path, 3, (36, 40), kinds))
    held, _ = feed.open_split(files, feed.Placement(True, ""), 32, torch.device("cpu"), 1, persistent=True)
    assert isinstance(held, feed.CachedFeed)
    assert files.pixel_bytes == held.pixels.nbytes == 3 * 36 * 40 * of_a_pixel


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_batches_are_all_pairs_in_order(tmp_path: Path, size: int) -> None:
    files = PairFiles.find(write_split(tmp_path, 5, 36, (RGB8, Encoding(1, "uint16"))))
    batches = list(files.batches(size))
    sizes = [len(inputs) for inputs, _ in batches]
    assert all(count == size for count in sizes[:-1]) and 0 < sizes[-1] <= size
    for joined, single in zip(
        zip(*batches, strict=True), zip(*map(files.read, range(5)), strict=True), strict=True
    ):
        assert np.array_equal(np.concatenate(joined), np.stack(single))


def damaged(folder: Path) -> Path:
    file = folder / "target" / "00002.png"
    file.write_bytes(file.read_bytes()[:100])
    return file


def resized(folder: Path) -> Path:
    file = folder / "input" / "00002.png"
    write_png(file, np.zeros((16, 20, 3), np.uint8))
    return file


def of_another_kind(folder: Path) -> Path:
    file = folder / "target" / "00002.png"
    write_png(file, np.zeros((32, 32, 1), np.uint16))
    return file


def gone(folder: Path) -> Path:
    file = folder / "target" / "00002.png"
    file.unlink()
    return file


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (damaged, "does not decode"),
        (resized, "is 20×16 px, not 32×32 px"),
        (gone, "not there"),
        (of_another_kind, "has 1 channel of uint16, not 3 channels of uint8"),
    ],
)
def test_a_file_that_is_not_what_prepare_wrote_is_named(tmp_path: Path, spoil: object, said: str) -> None:
    folder = write_split(tmp_path, 4, 32)
    assert callable(spoil)
    file = spoil(folder)
    with pytest.raises(UserError) as refused:
        PairFiles.find(folder).sha256()
    assert str(refused.value).startswith(f"{file}: ")
    assert said in str(refused.value) and "dvc repro prepare" in str(refused.value)


def test_a_folder_without_pairs_says_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no pairs; `dvc repro prepare` makes them"):
        PairFiles.find(tmp_path / "train")
