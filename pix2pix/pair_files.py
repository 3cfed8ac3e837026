"""Prepared pairs on disk: what is known of a split without holding its pixels."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .decoding import Samples, UnreadableImage
from .encoding import Encoding
from .errors import UserError
from .pair_set import PREPARED, read_prepared, refuse_other, split_sha256

SIDES = ("input", "target")


@dataclass(frozen=True)
class PairFiles:
    """The pairs of data/pairs/SPLIT, in order of name.

    Attributes:
        size_px: height and width of every image.
        sides: channels and type of every input's and every target's samples; of the rest the files say
            nothing.
        suffixes: of the inputs' and the targets' files.
    """

    folder: Path
    names: tuple[str, ...]
    size_px: tuple[int, int]
    sides: tuple[Encoding, Encoding]
    suffixes: tuple[str, str]

    @classmethod
    def find(cls, folder: Path) -> "PairFiles":
        """List a split; of its images only the first pair is read.

        Raises:
            UserError: there is none, or it does not decode.
        """
        names, suffix = _listed(folder / SIDES[0])
        if not names:
            raise UserError(f"{folder}: has no pairs; `dvc repro prepare` makes them")
        others = (ending for ending in PREPARED if (folder / SIDES[1] / f"{names[0]}{ending}").exists())
        suffixes = suffix, next(others, suffix)
        source, target = (
            _decoded(folder / side / f"{names[0]}{ending}")
            for side, ending in zip(SIDES, suffixes, strict=True)
        )
        height, width = source.shape[:2]
        return cls(folder, names, (height, width), (_kind(source), _kind(target)), suffixes)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def joined_dtype(self) -> np.dtype:
        """Of a pair in one array: the type of both sides, or of two the wider one, which holds all values."""
        return np.result_type(*(np.dtype(side.dtype) for side in self.sides))

    @property
    def joined_shape(self) -> tuple[int, int, int]:
        """Of a pair in one array, the input's channels before the target's: channels, height, width."""
        return (sum(side.channels for side in self.sides), *self.size_px)

    @property
    def pixel_bytes(self) -> int:
        """What all pairs take in memory, each in one array."""
        return len(self) * int(np.prod(self.joined_shape)) * self.joined_dtype.itemsize

    def refuse_other(self, source: Encoding, target: Encoding, whose: str) -> None:
        """Raises UserError where these pairs are not what a generator takes and gives."""
        refuse_other(self.sides, (source, target), whose)

    def read(self, index: int) -> tuple[Samples, Samples]:
        """One pair's input and target: [channels, height, width] each.

        Raises:
            UserError: a file does not decode or is of another size or kind than the rest.
        """
        source, target = (
            self._read_side(self.folder / side / f"{self.names[index]}{suffix}", kind)
            for side, suffix, kind in zip(SIDES, self.suffixes, self.sides, strict=True)
        )
        return source, target

    def _read_side(self, path: Path, kind: Encoding) -> Samples:
        samples = _decoded(path)
        (height, width), (found_height, found_width) = self.size_px, samples.shape[:2]
        if (found_height, found_width) != (height, width):
            raise UserError(
                f"{path}: is {found_width}×{found_height} px, not {width}×{height} px as the others are; "
                "`dvc repro prepare` makes it anew"
            )
        if _kind(samples) != kind:
            raise UserError(
                f"{path}: has {_kind(samples)}, not {kind} as the others have; "
                "`dvc repro prepare` makes it anew"
            )
        return samples.transpose(2, 0, 1)

    def batches(self, size: int) -> Iterator[tuple[Samples, Samples]]:
        """All pairs in order, read as they are asked for: at most `size` inputs and their targets a time."""
        for first in range(0, len(self), size):
            pairs = [self.read(index) for index in range(first, min(first + size, len(self)))]
            sources, targets = zip(*pairs, strict=True)
            yield np.stack(sources), np.stack(targets)

    def sha256(
        self, keep: Callable[[int, tuple[Samples, Samples]], object] | None = None, workers: int = 8
    ) -> str:
        """The digest that reports/data.json has for this split: every pair is read once, none is held.

        Args:
            keep: called with the index and the two sides of each pair, from several threads.
        """

        def digest(index: int) -> tuple[str, str]:
            pair = self.read(index)
            if keep:
                keep(index, pair)
            # Of the two images as prepare wrote them, pixel by pixel.
            found = hashlib.sha256()
            for side in pair:
                found.update(side.transpose(1, 2, 0).tobytes())
            return self.names[index], found.hexdigest()

        digests: list[tuple[str, str]] = []
        with ThreadPoolExecutor(workers) as pool:
            # What waits in the pool is held in memory, so it gets no more than this at a time.
            for first in range(0, len(self), 1024):
                digests += pool.map(digest, range(first, min(first + 1024, len(self))))
        return split_sha256(digests)


def _listed(folder: Path) -> tuple[tuple[str, ...], str]:
    """The names of one side's images, in order, and how all their files end."""
    for suffix in PREPARED:
        # No list of paths: of 100,000 pairs it would be most of what is held.
        if names := tuple(sorted(file.stem for file in folder.glob(f"*{suffix}"))):
            return names, suffix
    return (), PREPARED[0]


def _decoded(path: Path) -> Samples:
    try:
        return read_prepared(path)
    except UnreadableImage as error:
        raise UserError(f"{path}: {error}; `dvc repro prepare` makes it anew") from None


def _kind(samples: Samples) -> Encoding:
    return Encoding(channels=samples.shape[2], dtype=str(samples.dtype))
