"""`python -m benchmarks.data_checks data/pairs`: what the checks of the data say of prepared pairs as they
are, and of the same pairs with known faults planted in them.
"""

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from PIL import Image

from pix2pix import images, pair_facts
from pix2pix.data_checks import Collector, Findings, Place
from pix2pix.errors import UserError
from pix2pix.images import Pixels
from pix2pix.manifest import Split
from pix2pix.pairs import SPLITS

Sides = tuple[Pixels, Pixels]

# One pair in ten gets the fault.
EVERY = 10
JPEG_QUALITY = 75


def main(folder: Annotated[Path, typer.Argument(help="As `dvc repro prepare` leaves it.")]) -> None:
    """Print, for each fault, in how many pairs it was planted and in how many it was found."""
    sides = list(_read(folder))
    if not sides:
        raise UserError(f"{folder}: holds no prepared pairs; `dvc repro prepare` makes them")
    untouched = _findings(sides)
    print(f"{len(sides)} pairs as they are")
    print(f"  nearly the same {len(untouched.twins)}, empty {len(untouched.empty)}", end=", ")
    print(f"askew {len(untouched.misaligned)}; {untouched.alignment()}")
    planted = range(0, len(sides), EVERY)
    print(f"with a fault in {len(planted)} of them, found in")
    for name, count in (
        ("resized, and saved as JPEG, into another split", _copies(sides, planted)),
        ("one side of one colour", _counted(planted, _with(sides, planted, _blank).empty)),
        *(
            (f"target moved by {share:.0%}", _askew(sides, planted, share))
            for share in (0.03, 0.05, 0.1, 0.2)
        ),
    ):
        print(f"  {count:4}  {name}")
    print("with a fault in every pair")
    for name, faulty in (
        ("target moved by 5%", [_moved(pair, 0.05) for pair in sides]),
        ("target of the pair before", [(a, sides[at - 1][1]) for at, (a, _) in enumerate(sides)]),
    ):
        print(f"  {name}: {_findings(faulty).alignment()}")


def _read(folder: Path) -> Iterator[Sides]:
    for split in SPLITS:
        for file in sorted((folder / split / "input").glob("*.png")):
            yield images.read_rgb(file), images.read_rgb(folder / split / "target" / file.name)


def _findings(sides: list[Sides], splits: dict[int, Split] | None = None) -> Findings:
    collector = Collector()
    for index, (source, target) in enumerate(sides):
        split = (splits or {}).get(index, "train")
        collector.add((split, str(index)), pair_facts.measure(source, target))
    return collector.findings(lambda place: sides[int(place[1])])


def _with(sides: list[Sides], planted: range, fault: Callable[[Sides], Sides]) -> Findings:
    return _findings([fault(pair) if at in planted else pair for at, pair in enumerate(sides)])


def _blank(pair: Sides) -> Sides:
    return pair[0], np.full_like(pair[1], 255)


def _moved(pair: Sides, share: float) -> Sides:
    """What is moved out at one side is lost, as with a camera; what comes in is the edge, repeated."""
    height, width = pair[1].shape[:2]
    move = np.array([[1, 0, round(share * width)], [0, 1, 0]], np.float32)
    moved = cv2.warpAffine(pair[1], move, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return pair[0], np.asarray(moved, np.uint8)


def _askew(sides: list[Sides], planted: range, share: float) -> int:
    return _counted(planted, _with(sides, planted, lambda pair: _moved(pair, share)).misaligned)


def _counted(planted: range, found: Iterable[Place]) -> int:
    return sum(int(place[1]) in planted for place in found)


def _copies(sides: list[Sides], planted: range) -> int:
    def again(pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        file = io.BytesIO()
        smaller = Image.fromarray(pixels).resize((width * 3 // 4, height * 3 // 4), Image.Resampling.LANCZOS)
        smaller.save(file, "JPEG", quality=JPEG_QUALITY)
        with Image.open(file) as read:
            return np.asarray(read.resize((width, height), Image.Resampling.BICUBIC))

    copies = [(again(sides[at][0]), again(sides[at][1])) for at in planted]
    splits: dict[int, Split] = {len(sides) + at: "test" for at in range(len(copies))}
    return len(_findings([*sides, *copies], splits).leaks)


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
