"""Prepared pairs, read back: what training, evaluation and export know of the data."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .decoding import Limits, Samples, decode
from .encoding import RGB8, Encoding
from .errors import UserError
from .files import write_json
from .params import Size

PREPARED = (".png", ".tif")
# Prepared pairs are as large as prepare made them.
PREPARE_HAS_LIMITED = Limits(max_pixels=2**40, max_file_mb=2**30)


@dataclass(frozen=True)
class Geometry:
    """What a consumer of prepared pairs must know about them: data/pairs/pairs.json."""

    dataset: str
    direction: str
    image_px: Size
    load_px: Size
    input: Encoding = RGB8
    target: Encoding = RGB8

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Geometry":
        fields = json.loads(path.read_text(encoding="utf-8"))
        sides = {side: Encoding.of(fields[side]) for side in ("input", "target") if side in fields}
        sizes = {name: _size(fields[name]) for name in ("image_px", "load_px")}
        return cls(**{**fields, **sizes, **sides})


def _size(value: Any) -> Size:
    return tuple(value) if isinstance(value, list) else value


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

    def __len__(self) -> int:
        return len(self.names)

    def refuse_other(self, source: Encoding, target: Encoding, whose: str) -> None:
        """Raises UserError where these pairs are not what a generator takes and gives."""
        found, other = (
            Encoding(channels=samples.shape[1], dtype=str(samples.dtype))
            for samples in (self.inputs, self.targets)
        )
        refuse_other((found, other), (source, target), whose)


def refuse_other(found: tuple[Encoding, Encoding], wanted: tuple[Encoding, Encoding], whose: str) -> None:
    """Raises UserError where prepared pairs are not what a generator takes and gives.

    Args:
        found: channels and type of the inputs' and of the targets' samples.
        wanted: the generator's, of which nothing else is compared.
        whose: the generator's file.
    """
    for side, has, needs in zip(("input", "target"), found, wanted, strict=True):
        if (has.channels, has.dtype) != (needs.channels, needs.dtype):
            raise UserError(
                f"{whose}: is for {needs} as {side}, but data/pairs has {has}; "
                "`dvc repro` trains one for the present pairs"
            )


def split_sha256(digests: Iterable[tuple[str, str]]) -> str:
    """One digest for a split, from (name, digest of the pixels) in order of name."""
    whole = hashlib.sha256()
    for name, digest in sorted(digests):
        update_split(whole, name, digest)
    return whole.hexdigest()


def update_split(whole: "hashlib._Hash", name: str, digest: str) -> None:
    """Take the next pair, in order of name, into a split's digest."""
    whole.update(f"{name}\0{digest}\n".encode())


def load_split(folder: Path, workers: int = 8) -> PairSet:
    """Read data/pairs/SPLIT into memory: 6 × side² bytes for a pair of 8-bit RGB."""
    names, files = [file.stem for file in prepared_files(folder / "input")], {}
    with ThreadPoolExecutor(workers) as pool:
        for side in ("input", "target"):
            files[side] = _stack(pool.map(read_prepared, prepared_files(folder / side)), names)
    inputs, targets = files["input"], files["target"]
    digests = []
    for name, source, target in zip(names, inputs, targets, strict=True):
        digest = hashlib.sha256(source.transpose(1, 2, 0).tobytes())
        digest.update(target.transpose(1, 2, 0).tobytes())
        digests.append((name, digest.hexdigest()))
    return PairSet(tuple(names), inputs, targets, split_sha256(digests))


def prepared_files(folder: Path) -> list[Path]:
    """The files of one side of a split, in order of name."""
    return sorted((file for file in folder.iterdir() if file.suffix in PREPARED), key=lambda file: file.stem)


def read_prepared(file: Path) -> Samples:
    """One side of a prepared pair, bit for bit: [height, width, channels]."""
    return decode(file, "keep", PREPARE_HAS_LIMITED)


def _stack(read: Iterator[Samples], names: Sequence[str]) -> Samples:
    stacked: Samples | None = None
    for index, pixels in enumerate(read):
        if stacked is None:
            stacked = np.empty((len(names), pixels.shape[2], *pixels.shape[:2]), pixels.dtype)
        stacked[index] = pixels.transpose(2, 0, 1)
    assert stacked is not None, "prepare leaves no split empty"
    return stacked
