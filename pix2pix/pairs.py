"""Pairs: finding them in a folder, splitting them, preparing them."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from . import images
from .errors import UserError
from .images import IMAGE_SUFFIXES, Pixels, UnreadableImage
from .pair_set import split_sha256
from .params import Prepare

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_FOLDERS: dict[str, Split] = {"train": "train", "val": "val", "validation": "val", "test": "test"}
SIDES = ("A", "B")
# What file systems take.
MAX_NAME_BYTES = 255


@dataclass(frozen=True)
class Pair:
    """Where one pair comes from: one combined file (A on the left, B on the right), or two files."""

    name: str
    split: Split | None
    a: Path
    b: Path | None = None

    @property
    def is_combined(self) -> bool:
        return self.b is None


@dataclass(frozen=True)
class Reject:
    """A file that cannot be used and why, in words that fit behind its name."""

    file: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """What became of a pair: its name, the digest of its pixels, the size its sides came in."""

    name: str
    sha256: str
    source_size: str


# --- finding -----------------------------------------------------------------------------------------


def find_pairs(folder: Path) -> tuple[list[Pair], list[Reject]]:
    """Find the pairs below a folder, in a fixed order.

    A folder called train, val or test anywhere on a file's path is its split; one called A or B its side;
    what is left of the path is its name. Files without a side are combined images. Hidden files and macOS's
    `__MACOSX` are passed over.
    """
    sides: dict[tuple[Split | None, str], dict[str, Path]] = {}
    rejects: list[Reject] = []
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in IMAGE_SUFFIXES or not file.is_file():
            continue
        relative = PurePosixPath(file.relative_to(folder).as_posix())
        if any(part.startswith(".") or part == "__MACOSX" for part in relative.parts):
            continue
        split, side, name = _place(relative)
        if problem := _name_problem(name):
            rejects.append(Reject(repr(str(relative)), problem))
            continue
        found = sides.setdefault((split, name), {})
        if side in found or (found and (side == "" or "" in found)):
            rejects.append(Reject(str(relative), f"a second file for the pair {name}"))
        else:
            found[side] = file
    pairs = []
    has_splits = any(split for split, _ in sides)
    for (split, name), found in sides.items():
        files = {side: str(file.relative_to(folder)) for side, file in found.items()}
        if has_splits and split is None:
            rejects += [Reject(name, "lies outside the split folders") for name in files.values()]
        elif "" in found:
            pairs.append(Pair(name, split, found[""]))
        elif len(found) == len(SIDES):
            pairs.append(Pair(name, split, found["A"], found["B"]))
        else:
            ((side, lonely),) = files.items()
            other = "B" if side == "A" else "A"
            rejects.append(Reject(lonely, f"has no partner of the same name in {other}/"))
    return pairs, rejects


def _place(relative: PurePosixPath) -> tuple[Split | None, str, str]:
    split: Split | None = None
    side = ""
    rest = []
    for folder in relative.parts[:-1]:
        # train, A and a each say one thing; trainA says both.
        joined = re.fullmatch(r"(train|val|validation|test)[_-]?([ab])", folder, re.IGNORECASE)
        if split is None and not side and joined:
            split, side = SPLIT_FOLDERS[joined[1].lower()], joined[2].upper()
        elif split is None and folder.lower() in SPLIT_FOLDERS:
            split = SPLIT_FOLDERS[folder.lower()]
        elif not side and folder.upper() in SIDES:
            side = folder.upper()
        else:
            rest.append(folder)
    # macOS takes letters like é apart; a name must be the same text wherever it was typed.
    return split, side, unicodedata.normalize("NFC", "__".join([*rest, relative.stem]))


def _name_problem(name: str) -> str:
    # Surrogates stand for bytes that are no UTF-8.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "has a name that is not plain text"
    too_long = len(f"{name}.png".encode()) > MAX_NAME_BYTES
    return "has too long a name, with its folders" if too_long else ""


# --- splitting ---------------------------------------------------------------------------------------


def split_of(name: str, val_share: float, test_share: float) -> Split:
    """The split that a pair's name puts it in: the same whatever else the data set holds.

    The first 64 bits of the name's SHA-256, as a number in [0, 1), fall into test, val or train.
    """
    digest = hashlib.sha256(name.encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < test_share:
        return "test"
    return "val" if position < test_share + val_share else "train"


def assign_splits(
    pairs: Sequence[Pair], val_share: float, test_share: float
) -> tuple[dict[Split, list[Pair]], str]:
    """Put every pair in its split; official splits are kept.

    A set with train and val only is tested on val, as maps and cityscapes are, and takes its validation
    pairs from train; one with train and test only does the latter as well.

    Returns:
        The pairs by split, each in order of name, and the rule in words. A split may be empty.

    Raises:
        UserError: there are official splits but no train among them.
    """
    official = {pair.split for pair in pairs} - {None}
    if official == {"train", "val", "test"}:
        rule = "the data's own train, val and test"
        choose: Callable[[Pair], Split] = lambda pair: pair.split or "train"  # noqa: E731
    elif official in ({"train", "val"}, {"train", "test"}):
        held_out = "val" if "val" in official else "test"
        rule = f"the data's own {held_out} as test; {val_share:.0%} of its train as val, by name"
        choose = lambda pair: "test" if pair.split == held_out else split_of(pair.name, val_share, 0)  # noqa: E731
    elif official in (set(), {"train"}):
        rule = f"{val_share:.0%} val and {test_share:.0%} test, by name"
        choose = lambda pair: split_of(pair.name, val_share, test_share)  # noqa: E731
    else:
        raise UserError(f"data/raw: has {' and '.join(sorted(map(str, official)))} but no train folder")
    splits: dict[Split, list[Pair]] = {split: [] for split in SPLITS}
    for pair in sorted(pairs, key=lambda pair: pair.name):
        splits[choose(pair)].append(pair)
    return splits, rule


def check_not_empty(counts: dict[Split, int], rule: str) -> None:
    """Raises UserError naming the first split without enough usable pairs.

    A distance between distributions needs two test and two training images.
    """
    for split, count in counts.items():
        if count < (1 if split == "val" else 2):
            total = sum(counts.values())
            mend = {
                "train": "lower prepare.val_share and prepare.test_share",
                "val": "raise prepare.val_share",
                "test": "raise prepare.test_share",
            }
            raise UserError(
                f"data/raw: the {split} split {'has one pair, too few' if count else 'is empty'} "
                f"({total} usable pairs, split: {rule}); "
                f"add pairs or {mend[split]}"
            )


# --- preparing ---------------------------------------------------------------------------------------


def read_pair(pair: Pair) -> tuple[Pixels, Pixels]:
    """Decode the two sides of a pair, A first: uint8 [height, width, 3] each, of one size.

    Raises:
        UnreadableImage: a side does not decode, or the two do not match.
    """
    if pair.is_combined:
        both = images.read_rgb(pair.a)
        width = both.shape[1]
        if width % 2:
            raise UnreadableImage(f"has an odd width of {width} px, so it has no two equal halves")
        return both[:, : width // 2], both[:, width // 2 :]
    assert pair.b is not None
    a = images.read_rgb(pair.a)
    try:
        b = images.read_rgb(pair.b)
    except UnreadableImage as error:
        # Pairs are named by their file in A/, which is not the broken one here.
        raise UnreadableImage(f"has a partner, {pair.b.name} in B/, that {error}") from None
    if a.shape != b.shape:
        raise UnreadableImage(f"its sides differ in size: A {_size(a)}, B {_size(b)}")
    return a, b


def prepare_pair(
    pair: Pair, folder: Path, side_px: int, direction: str, resize_input: str, resize_target: str
) -> Prepared:
    """Write folder/input/NAME.png and folder/target/NAME.png, square, side_px on a side.

    Raises:
        UnreadableImage: see `read_pair`.
    """
    a, b = read_pair(pair)
    source, target = (a, b) if direction == "AtoB" else (b, a)
    digest = hashlib.sha256()
    for side, pixels, method in (("input", source, resize_input), ("target", target, resize_target)):
        resized = np.ascontiguousarray(images.resize(pixels, side_px, side_px, method))
        images.write_png(folder / side / f"{pair.name}.png", resized)
        digest.update(resized.tobytes())
    return Prepared(pair.name, digest.hexdigest(), _size(a))


def prepare_splits(
    splits: dict[Split, list[Pair]],
    folder: Path,
    raw: Path,
    prepare: Prepare,
    direction: str,
    on_pair: Callable[[int], None],
    workers: int,
) -> tuple[dict[Split, list[Prepared]], list[Reject]]:
    """Prepare every pair on all cores; training pairs at load_px, the others at image_px.

    Decoding, resizing and encoding run outside Python's lock, so threads are enough.
    """
    done: dict[Split, list[Prepared]] = {split: [] for split in SPLITS}
    rejects = []
    finished = 0
    with ThreadPoolExecutor(workers) as pool:
        for split, pairs in splits.items():
            for side in ("input", "target"):
                (folder / split / side).mkdir(parents=True)
            side_px = prepare.load_px if split == "train" else prepare.image_px
            arguments = (folder / split, side_px, direction, prepare.resize_input, prepare.resize_target)
            jobs = [pool.submit(prepare_pair, pair, *arguments) for pair in pairs]
            try:
                for pair, job in zip(pairs, jobs, strict=True):
                    try:
                        done[split].append(job.result())
                    except UnreadableImage as error:
                        rejects.append(Reject(str(pair.a.relative_to(raw)), str(error)))
                    finished += 1
                    on_pair(finished)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return done, rejects


def summary(
    done: dict[Split, list[Prepared]], rejects: Sequence[Reject], rule: str, prepare: Prepare
) -> dict[str, Any]:
    """The content of reports/data.json."""
    sizes = Counter(pair.source_size for pairs in done.values() for pair in pairs)
    return {
        "split_rule": rule,
        "image_px": prepare.image_px,
        "load_px": prepare.load_px,
        "resize_input": prepare.resize_input,
        "resize_target": prepare.resize_target,
        "splits": {
            split: {
                "pairs": len(pairs),
                "sha256": split_sha256((pair.name, pair.sha256) for pair in pairs),
            }
            for split, pairs in done.items()
        },
        "source_sizes": dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:20]),
        # By file, not as a list: dvc would try to draw one.
        "rejects": {reject.file: reject.reason for reject in rejects},
    }


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}×{pixels.shape[0]}"
