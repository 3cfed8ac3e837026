"""What is wrong with a data set as a whole, or looks so: collected pair by pair, then said in words."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from . import pair_facts
from .images import Pixels, resize
from .manifest import Split
from .near_duplicates import near_pairs
from .pair_facts import Facts, FloatArray, SideFacts
from .pair_list import Texts

# Named in the report, of each kind; how many there are is said as well.
NAMED = 50
# Pairs with nearly equal hashes whose pixels are looked at: so many across splits, and so many within one.
COMPARED = 500
# Mean difference in levels of 255, at 32 px, up to which two pictures are nearly the same.
SAME_LEVELS = 12.0
# Pairs from which on it is said that their sides have no edges in common, and how little that is: 606 facades
# with the labels of others come to 6.4, with their own to 85, 180 maps to 56.
MANY_PAIRS, NOTHING_IN_COMMON = 100, 8.0

Place = tuple[Split, str]
ReadPair = Callable[[Place], tuple[Pixels, Pixels]]
# Two pairs by their number, and in how many bits their hashes differ.
Candidate = tuple[int, int, int]


@dataclass(frozen=True)
class Twins:
    """Two pairs that look nearly the same."""

    first: Place
    second: Place
    bits: int

    @property
    def is_leak(self) -> bool:
        """Whether they are in different splits."""
        return self.first[0] != self.second[0]

    def __str__(self) -> str:
        return f"{shown(self.first)} and {shown(self.second)}"


@dataclass(frozen=True)
class Findings:
    """What looks wrong, each in order of the pairs.

    Attributes:
        empty: pairs with a side that shows nothing, and which.
        misaligned: where the target lies from the input, as shares of width and height.
        shift: where all targets lie from their inputs, if that is sure.
        are_strangers: whether inputs and targets have no edges in common.
        aligned_pairs: pairs whose edges were compared.
        uncompared_leaks, uncompared_duplicates: candidates beyond those whose pixels were looked at.
    """

    twins: list[Twins]
    uncompared_leaks: int
    uncompared_duplicates: int
    empty: dict[Place, str]
    misaligned: dict[Place, tuple[float, float]]
    shift: tuple[float, float] | None
    are_strangers: bool
    aligned_pairs: int

    @property
    def leaks(self) -> list[Twins]:
        return [twins for twins in self.twins if twins.is_leak]

    @property
    def duplicates(self) -> list[Twins]:
        return [twins for twins in self.twins if not twins.is_leak]

    def report(self) -> dict[str, Any]:
        """The content of `checks` in reports/data.json; mappings alone, since dvc draws lists."""
        kinds = {
            "leaks": {str(twins): f"{twins.bits} of 128 bits differ" for twins in self.leaks},
            "near_duplicates": {str(twins): f"{twins.bits} of 128 bits differ" for twins in self.duplicates},
            "empty": {shown(place): why for place, why in self.empty.items()},
            "misaligned": {shown(place): shift_in_words(shift) for place, shift in self.misaligned.items()},
        }
        return {
            **{
                kind: {"count": len(all_), "named": dict(list(all_.items())[:NAMED])}
                for kind, all_ in kinds.items()
            },
            **({"not_compared": not_compared} if (not_compared := self._not_compared()) else {}),
            "alignment": self.alignment(),
        }

    def alignment(self) -> str:
        """What the edges of all pairs together say."""
        if not self.aligned_pairs:
            return "not measured"
        of = f"edges of {self.aligned_pairs} pairs"
        if self.shift:
            return f"{of}: {shift_in_words(self.shift)}"
        if self.are_strangers:
            return f"{of}: inputs and targets have none in common; are they the right partners?"
        return f"{of}: no common shift"

    def _not_compared(self) -> dict[str, int]:
        counts = {
            "in different splits": self.uncompared_leaks,
            "within a split": self.uncompared_duplicates,
        }
        return {where: count for where, count in counts.items() if count}

    def warnings(self) -> list[str]:
        """A line for each kind, with an example."""
        examples = (
            ("nearly the same in different splits", [str(twins) for twins in self.leaks]),
            ("nearly the same", [str(twins) for twins in self.duplicates]),
            ("empty", [f"{shown(place)}, {why}" for place, why in self.empty.items()]),
            ("askew", [f"{shown(place)}, {shift_in_words(by)}" for place, by in self.misaligned.items()]),
        )
        lines = [
            f"{what}: {found[0]}" + (f"; and {len(found) - 1} more" if len(found) > 1 else "")
            for what, found in examples
            if found
        ]
        lines += [
            f"not compared: {count:,} more couples {where} whose hashes are nearly equal"
            for where, count in self._not_compared().items()
        ]
        return [*lines, self.alignment()] if self.shift or self.are_strangers else lines


@dataclass
class _Colours:
    """Levels of one side over all pairs."""

    sums: NDArray[np.float64] | None = None
    histogram: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(pair_facts.HISTOGRAM_BINS, np.int64)
    )
    pixels: int = 0
    pairs: int = 0
    means: float = 0.0
    squares: float = 0.0

    def add(self, side: SideFacts, pixels: int) -> None:
        sums = np.asarray(side.sums, np.float64)
        self.sums = sums if self.sums is None else self.sums + sums
        self.histogram += np.asarray(side.histogram, np.int64)
        self.pixels += pixels
        self.pairs += 1
        self.means += side.mean
        self.squares += side.mean**2

    def report(self) -> dict[str, Any]:
        assert self.sums is not None
        channels = "rgb" if len(self.sums) == 3 else [str(index) for index in range(len(self.sums))]
        mean = self.means / self.pairs
        width = 256 // pair_facts.HISTOGRAM_BINS
        return {
            "mean": dict(zip(channels, (round(value / self.pixels, 2) for value in self.sums), strict=True)),
            # From image to image, by their mean levels.
            "spread": round(max(0.0, self.squares / self.pairs - mean**2) ** 0.5, 2),
            "histogram": {
                f"{index * width}-{(index + 1) * width - 1}": round(count / int(self.histogram.sum()), 5)
                for index, count in enumerate(self.histogram.tolist())
            },
        }


@dataclass
class Collector:
    """Takes the facts of one pair after the other; a hundred thousand pairs take 24 bytes each, and names.

    Args:
        derived: whether inputs are made from their targets, which alone are compared then.
    """

    derived: bool = False
    _places: Texts = field(default_factory=Texts)
    _hashes: "array[int]" = field(default_factory=lambda: array("Q"))
    _empty: dict[Place, str] = field(default_factory=dict)
    _misaligned: dict[Place, tuple[float, float]] = field(default_factory=dict)
    _surface: NDArray[np.float64] | Literal[0] = 0
    _surfaces: int = 0
    _input: _Colours = field(default_factory=_Colours)
    _target: _Colours = field(default_factory=_Colours)

    def add(self, place: Place, facts: Facts) -> None:
        self._input.add(facts.input, facts.pixels)
        self._target.add(facts.target, facts.pixels)
        empty = [name for name, side in (("input", facts.input), ("target", facts.target)) if side.is_empty]
        if empty:
            self._empty[place] = f"{' and '.join(empty)} of one colour, or nearly"
        if len(empty) < 2:
            self._places.append(shown(place))
            first = facts.target if self.derived else facts.input
            self._hashes.extend((first.hash, facts.target.hash))
        if facts.surface is not None:
            self._surface = self._surface + facts.surface.astype(np.float64)
            self._surfaces += 1
        if facts.shift:
            self._misaligned[place] = facts.shift

    def _place(self, index: int) -> Place:
        split, _, name = self._places[index].partition("/")
        return cast("Split", split), name

    def colours(self) -> dict[str, Any]:
        """Colour statistics by side, for reports/data.json."""
        return {"input": self._input.report(), "target": self._target.report()}

    def findings(self, read: ReadPair) -> Findings:
        """All that looks wrong.

        Args:
            read: gives input and target of a pair, for those with nearly equal hashes.
        """
        hashes = np.asarray(self._hashes, np.uint64).reshape(-1, 2)
        across, within = self._candidates(hashes)
        twins = [
            Twins(self._place(a), self._place(b), bits)
            for a, b, bits in (*across[:COMPARED], *within[:COMPARED])
        ]
        twins = [both for both in twins if _look_the_same(read(both.first), read(both.second))]
        shift, are_strangers = None, False
        if self._surfaces:
            mean: FloatArray = np.asarray(self._surface / self._surfaces, np.float32)
            mean = mean / mean.std()
            shift = pair_facts.sure_shift(mean)
            are_strangers = self._surfaces >= MANY_PAIRS and pair_facts.peak(mean) < NOTHING_IN_COMMON
        return Findings(
            twins,
            max(0, len(across) - COMPARED),
            max(0, len(within) - COMPARED),
            self._empty,
            self._misaligned,
            shift,
            are_strangers,
            self._surfaces,
        )

    def _candidates(self, hashes: NDArray[np.uint64]) -> tuple[list[Candidate], list[Candidate]]:
        """Pairs with nearly equal hashes: those in different splits, and those in one."""
        across: list[Candidate] = []
        within: list[Candidate] = []
        splits = np.array([place.partition("/")[0] for place in self._places])
        for candidate in near_pairs(hashes):
            (within if splits[candidate[0]] == splits[candidate[1]] else across).append(candidate)
        return across, within


def shown(place: Place) -> str:
    return f"{place[0]}/{place[1]}"


def shift_in_words(shift: tuple[float, float]) -> str:
    """Such as "the target lies 9.4 % of the width to the right and 3.1 % of the height lower"."""
    right, down = shift
    words = []
    if right:
        words.append(f"{abs(right):.1%} of the width to the {'right' if right > 0 else 'left'}")
    if down:
        words.append(f"{abs(down):.1%} of the height {'lower' if down > 0 else 'higher'}")
    return f"the target lies {' and '.join(words)}"


def _look_the_same(first: tuple[Pixels, Pixels], second: tuple[Pixels, Pixels]) -> bool:
    for a, b in zip(first, second, strict=True):
        small = [resize(np.ascontiguousarray(pixels), 32, 32, "area").astype(np.float32) for pixels in (a, b)]
        if np.abs(small[0] - small[1]).mean() > SAME_LEVELS:
            return False
    return True
