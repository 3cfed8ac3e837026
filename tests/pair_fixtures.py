"""Prepared pairs to train on."""

from pathlib import Path

import numpy as np

from pix2pix.encoding import RGB8, Encoding
from pix2pix.images import lossless_suffix, write_prepared
from pix2pix.params import Size, height_width


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
