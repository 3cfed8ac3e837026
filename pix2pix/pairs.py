"""Pairs: splitting them, preparing them."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import images
from .decoding import DEFAULT_LIMITS, Limits, Samples, UnreadableImage, decode
from .encoding import RGB8, Encoding
from .errors import UserError
from .layouts import Reject
from .manifest import Split
from .pair_list import Pair, Pairs
from .pair_set import update_split
from .params import Combined, Derive, Direction, Params, Resize, Size, height_width, said_size

SPLITS: tuple[Split, ...] = ("train", "val", "test")
# How many of the sizes that pairs come in a report has.
COMMONEST_SIZES = 20


@dataclass(frozen=True)
class Recipe:
    """What decides a prepared pair's pixels, beside its files."""

    direction: Direction
    combined: Combined
    derive: Derive
    resize_input: Resize
    resize_target: Resize
    image_px: Size
    load_px: Size
    input: Encoding = RGB8
    target: Encoding = RGB8
    limits: Limits = DEFAULT_LIMITS

    @classmethod
    def of(cls, params: Params, source: Encoding = RGB8, target: Encoding = RGB8) -> "Recipe":
        return cls(
            direction=params.dataset.direction,
            combined=params.dataset.combined,
            derive=params.dataset.derive,
            resize_input=params.prepare.resize_input,
            resize_target=params.prepare.resize_target,
            image_px=params.prepare.image_px,
            load_px=params.prepare.load_px,
            input=source,
            target=target,
            limits=Limits(params.prepare.max_pixels, params.prepare.max_file_mb),
        )

    def size_px(self, split: Split) -> Size:
        """The size that pairs of a split are stored at."""
        return self.load_px if split == "train" else self.image_px


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
) -> tuple[dict[Split, Pairs], str]:
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
    splits: dict[Split, Pairs] = {split: Pairs() for split in SPLITS}
    for index in sorted(range(len(pairs)), key=lambda index: pairs[index].name):
        pair = pairs[index]
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


def read_pair(
    pair: Pair,
    raw: Path,
    combined: Combined,
    encodings: tuple[Encoding, Encoding] = (RGB8, RGB8),
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Samples, Samples]:
    """Decode the two sides of a pair, A first: [height, width, channels] each, of one size.

    Args:
        raw: the folder that the pair's paths are relative to.
        encodings: of A and B.

    Raises:
        UnreadableImage: a side does not decode or is of another kind, or the two do not match.
    """
    encoding_a, encoding_b = encodings
    if pair.b is None:
        if encoding_a.classes or encoding_b.classes:
            raise UnreadableImage("is a combined image; class indices need a file of their own, in A/ or B/")
        a, b = halves(decode(raw / pair.a, encoding_a.alpha, limits), combined)
        return encoding_a.fit(a), encoding_b.fit(b)
    a = encoding_a.read(raw / pair.a, limits)
    try:
        b = encoding_b.read(raw / pair.b, limits)
    except UnreadableImage as error:
        # Pairs are named by the file of side A, which is not the broken one here.
        raise UnreadableImage(f"has a partner, {pair.b}, that {error}") from None
    if a.shape[:2] != b.shape[:2]:
        raise UnreadableImage(f"its sides differ in size: A {_size(a)}, B {_size(b)}")
    return a, b


def halves(both: Samples, combined: Combined) -> tuple[Samples, Samples]:
    """A combined image cut into its sides, A first.

    Raises:
        UnreadableImage: it has no two equal halves.
    """
    height, width = both.shape[:2]
    if combined == "stacked":
        if height % 2:
            raise UnreadableImage(f"has an odd height of {height} px, so it has no two equal halves")
        return both[: height // 2], both[height // 2 :]
    if width % 2:
        raise UnreadableImage(f"has an odd width of {width} px, so it has no two equal halves")
    return both[:, : width // 2], both[:, width // 2 :]


def sides(pair: Pair, raw: Path, recipe: Recipe, size_px: Size) -> tuple[Samples, Samples, str]:
    """Input and target of a pair as training sees them, and the size they came in.

    Args:
        size_px: the side of a square, or height and width.

    Returns:
        [height, width, channels] each, as the recipe's encodings say. A derived side A is made at this size,
        so that a line is as wide and a blur as strong as is seen, whatever size the photo has.

    Raises:
        UnreadableImage: see `read_pair`.
    """
    forwards = recipe.direction == "AtoB"
    method_a, method_b = recipe.resize_input, recipe.resize_target
    encoding_a, encoding_b = recipe.input, recipe.target
    if not forwards:
        method_a, method_b, encoding_a, encoding_b = method_b, method_a, encoding_b, encoding_a
    height, width = height_width(size_px)
    if recipe.derive == "none":
        a, b = read_pair(pair, raw, recipe.combined, (encoding_a, encoding_b), recipe.limits)
        size = _size(a)
        a = images.resize(a, height, width, method_a, encoding_a.has_alpha)
        b = images.resize(b, height, width, method_b, encoding_b.has_alpha)
    else:
        # OpenCV takes a while to load and most data brings both sides.
        from . import derive

        b = encoding_b.read(raw / pair.a, recipe.limits)
        size = _size(b)
        b = images.resize(b, height, width, method_b, encoding_b.has_alpha)
        a = derive.derive(b, recipe.derive, pair.name)
    source, target = (a, b) if forwards else (b, a)
    return source, target, size


@dataclass
class SplitTally:
    """A split's pairs as they come in, in order of name."""

    pairs: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, name: str, sha256: str) -> None:
        self.pairs += 1
        update_split(self.digest, name, sha256)


def summary(
    tallies: Mapping[Split, SplitTally],
    sizes: Mapping[str, int],
    rejects: Sequence[Reject],
    rule: str,
    recipe: Recipe,
) -> dict[str, Any]:
    """What reports/data.json has of the pairs.

    Args:
        sizes: how many pairs came in each size.
    """
    return {
        "split_rule": rule,
        # No list, which dvc would try to draw.
        "image_px": recipe.image_px if isinstance(recipe.image_px, int) else said_size(recipe.image_px),
        "load_px": recipe.load_px if isinstance(recipe.load_px, int) else said_size(recipe.load_px),
        "resize_input": recipe.resize_input,
        "resize_target": recipe.resize_target,
        "splits": {
            split: {"pairs": tally.pairs, "sha256": tally.digest.hexdigest()}
            for split, tally in tallies.items()
        },
        "source_sizes": dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:COMMONEST_SIZES]),
        # By file, not as a list: dvc would try to draw one.
        "rejects": {reject.file: reject.reason for reject in rejects},
    }


def _size(pixels: Samples) -> str:
    return f"{pixels.shape[1]}×{pixels.shape[0]}"
