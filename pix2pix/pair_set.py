"""Prepared pairs, read back: what training, evaluation and export know of the data."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import images
from .files import write_json
from .images import Pixels


@dataclass(frozen=True)
class Geometry:
    """What a consumer of prepared pairs must know about them: data/pairs/pairs.json."""

    dataset: str
    direction: str
    image_px: int
    load_px: int

    def write(self, path: Path) -> None:
        write_json(path, vars(self))

    @classmethod
    def read(cls, path: Path) -> "Geometry":
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class PairSet:
    """Prepared pairs in memory, in order of name.

    Attributes:
        inputs, targets: uint8 [pairs, 3, side, side].
        sha256: the digest that reports/data.json has for this split.
    """

    names: tuple[str, ...]
    inputs: Pixels
    targets: Pixels
    sha256: str

    def __len__(self) -> int:
        return len(self.names)


def split_sha256(digests: Iterable[tuple[str, str]]) -> str:
    """One digest for a split, from (name, digest of the pixels) in order of name."""
    whole = hashlib.sha256()
    for name, digest in sorted(digests):
        whole.update(f"{name}\0{digest}\n".encode())
    return whole.hexdigest()


def load_split(folder: Path, workers: int = 8) -> PairSet:
    """Read data/pairs/SPLIT into memory: 6 × side² bytes a pair."""
    names = sorted(file.stem for file in (folder / "input").glob("*.png"))
    with ThreadPoolExecutor(workers) as pool:
        inputs = _stack(
            pool.map(images.read_rgb, [folder / "input" / f"{name}.png" for name in names]), names
        )
        targets = _stack(
            pool.map(images.read_rgb, [folder / "target" / f"{name}.png" for name in names]), names
        )
    digests = []
    for name, source, target in zip(names, inputs, targets, strict=True):
        digest = hashlib.sha256(source.transpose(1, 2, 0).tobytes())
        digest.update(target.transpose(1, 2, 0).tobytes())
        digests.append((name, digest.hexdigest()))
    return PairSet(tuple(names), inputs, targets, split_sha256(digests))


def _stack(read: Iterator[Pixels], names: Sequence[str]) -> Pixels:
    stacked: Pixels | None = None
    for index, pixels in enumerate(read):
        if stacked is None:
            stacked = np.empty((len(names), 3, *pixels.shape[:2]), np.uint8)
        stacked[index] = pixels.transpose(2, 0, 1)
    assert stacked is not None, "prepare leaves no split empty"
    return stacked
