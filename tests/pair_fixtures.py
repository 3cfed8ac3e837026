"""Prepared pairs to train on, and what prepare wrote, read in the plainest way."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pix2pix.decoding import Samples
from pix2pix.encoding import RGB8, Encoding
from pix2pix.images import lossless_suffix, write_prepared
from pix2pix.pair_set import prepared_files, read_prepared, split_sha256
from pix2pix.params import Size, height_width


@dataclass(frozen=True)
class PairSet:
    """Prepared pairs in memory, in order of name.

    Attributes:
        inputs, targets: [pairs, channels, height, width]; uint8, uint16 or float32.
        sha256: the digest that reports/data.json has for this split.
    """

    names: tuple[str, ...]
    inputs: Samples
    targets: Samples
    sha256: str


def load_split(folder: Path) -> PairSet:
    """Read data/pairs/SPLIT into memory."""
    inputs, targets = (
        [read_prepared(file) for file in prepared_files(folder / side)] for side in ("input", "target")
    )
    names = [file.stem for file in prepared_files(folder / "input")]
    digests = [
        (name, hashlib.sha256(source.tobytes() + target.tobytes()).hexdigest())
        for name, source, target in zip(names, inputs, targets, strict=True)
    ]
    sides = (np.stack(side).transpose(0, 3, 1, 2) for side in (inputs, targets))
    return PairSet(tuple(names), *sides, split_sha256(digests))


def write_split(
    folder: Path, count: int, image_px: Size, kinds: tuple[Encoding, Encoding] = (RGB8, RGB8)
) -> Path:
    """Pairs of noise; every one differs from the rest."""
    random = np.random.default_rng(count)
    for side, kind in zip(("input", "target"), kinds, strict=True):
        (folder / side).mkdir(parents=True)
        shape = (*height_width(image_px), kind.channels)
        for number in range(count):
            if kind.dtype == "float32":
                samples = random.random(shape, np.float32)
            else:
                samples = random.integers(0, kind.classes or int(kind.white) + 1, shape, kind.dtype)
            write_prepared(
                folder / side / f"{number:05}{lossless_suffix(kind.channels, kind.dtype)}", samples
            )
    return folder
