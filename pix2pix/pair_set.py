"""Prepared pairs: what is written beside them, the files of a split, and the digest that names it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    """What a consumer of prepared pairs must know about them: data/pairs/pairs.json.

    Attributes:
        resize_target: how targets came to their size, and training targets come to the test images'.
    """

    dataset: str
    direction: str
    image_px: Size
    load_px: Size
    input: Encoding = RGB8
    target: Encoding = RGB8
    resize_target: str = "area"

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


def prepared_files(folder: Path) -> list[Path]:
    """The files of one side of a split, in order of name."""
    return sorted((file for file in folder.iterdir() if file.suffix in PREPARED), key=lambda file: file.stem)


def read_prepared(file: Path) -> Samples:
    """One side of a prepared pair, bit for bit: [height, width, channels]."""
    return decode(file, "keep", PREPARE_HAS_LIMITED)
