"""How a version of the data differs from another: from what reports/data.json has of each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .encoding import RGB8
from .pairs import COMMONEST_SIZES

SETTINGS = (
    "dataset",
    "layout",
    "derive",
    "direction",
    "image_px",
    "load_px",
    "resize_input",
    "resize_target",
    "input",
    "target",
    "range_input",
    "range_target",
)
# What reports of 8-bit RGB once left out.
UNSAID = {"input": str(RGB8), "target": str(RGB8), "range_input": "full", "range_target": "full"}
SIDES = ("input", "target")
CHECKS = ("leaks", "near_duplicates", "empty", "misaligned", "dark")


@dataclass(frozen=True)
class SideDrift:
    """Of one side.

    Attributes:
        means: mean level by channel, before and after.
        moved: by how many levels of 255 the mean moved, in the channel where it moved most.
        in_spreads: the same in standard deviations of the images' means before.
        histograms: how far apart they are, 0 to 1: the share of pixels that would have to change their bin
            (total variation distance).
    """

    means: dict[str, tuple[float, float]]
    moved: float
    in_spreads: float
    histograms: float


@dataclass(frozen=True)
class Drift:
    """What differs between two versions.

    Attributes:
        settings: values of params.yaml and the like, before and after, where they differ.
        pairs: by split, before and after; `rejects` and `checks` count likewise.
        new_sizes: sizes that did not occur before, with how many pairs came in them.
        new_size_share: of all pairs.
        are_sizes_cut: whether there may be more sizes than a report keeps, so that none is known to be new.
        sides: None where a version has no colour statistics, or other channels.
        same_pixels: splits that have not changed at all.
    """

    settings: dict[str, tuple[Any, Any]]
    pairs: dict[str, tuple[int, int]]
    same_pixels: list[str]
    rejects: tuple[int, int]
    checks: dict[str, tuple[int, int]]
    new_sizes: dict[str, int]
    new_size_share: float
    are_sizes_cut: bool
    sides: dict[str, SideDrift] | None

    @property
    def is_none(self) -> bool:
        """Whether both versions are the same data, prepared in the same way."""
        return (
            not self.settings
            and len(self.same_pixels) == len(self.pairs)
            and self.rejects[0] == self.rejects[1]
        )


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Drift:
    """The drift from one reports/data.json to another."""
    splits = list(dict.fromkeys([*before["splits"], *after["splits"]]))
    rows = {split: [version["splits"].get(split, {}) for version in (before, after)] for split in splits}
    new_sizes = {
        size: count for size, count in after["source_sizes"].items() if size not in before["source_sizes"]
    }
    total = sum(row["pairs"] for row in after["splits"].values())
    return Drift(
        settings={
            key: (old, new)
            for key in SETTINGS
            if (old := before.get(key, UNSAID.get(key))) != (new := after.get(key, UNSAID.get(key)))
        },
        pairs={split: (old.get("pairs", 0), new.get("pairs", 0)) for split, (old, new) in rows.items()},
        same_pixels=[split for split, (old, new) in rows.items() if old.get("sha256") == new.get("sha256")],
        rejects=(len(before["rejects"]), len(after["rejects"])),
        checks={kind: (_count(before, kind), _count(after, kind)) for kind in CHECKS},
        new_sizes=new_sizes,
        new_size_share=sum(new_sizes.values()) / total if total else 0.0,
        are_sizes_cut=len(before["source_sizes"]) >= COMMONEST_SIZES,
        sides=_sides(before, after),
    )


def lines(drift: Drift) -> Iterator[str]:
    """What a person reads, a line for each kind."""
    for key, (old, new) in drift.settings.items():
        yield f"{key:15}{old} → {new}"
    yield f"{'pairs':15}" + "   ".join(
        f"{split} {_change(*counts)}{' (other pixels)' if _is_other(drift, split) else ''}"
        for split, counts in drift.pairs.items()
    )
    yield f"{'unusable':15}{_change(*drift.rejects)}"
    changed = {kind: counts for kind, counts in drift.checks.items() if any(counts)}
    if changed:
        named = (f"{kind.replace('_', '-')} {_change(*counts)}" for kind, counts in changed.items())
        yield f"{'warnings':15}" + "   ".join(named)
    if drift.new_sizes:
        sizes = ", ".join(f"{size} ({count})" for size, count in list(drift.new_sizes.items())[:3])
        new = f"new among the {COMMONEST_SIZES} commonest" if drift.are_sizes_cut else "new"
        yield f"{'sizes':15}{drift.new_size_share:.1%} of the pairs come in sizes that are {new}: {sizes}"
    if drift.sides is None:
        yield f"{'colours':15}cannot be compared: one version has none, or another number of channels"
        return
    for name, side in drift.sides.items():
        means = "  ".join(f"{channel} {old:.1f} → {new:.1f}" for channel, (old, new) in side.means.items())
        yield f"{name:15}{means}   {_brightness(side)}; histograms {side.histograms:.1%} apart"


def _brightness(side: SideDrift) -> str:
    if abs(side.moved) < 0.05:
        return "as bright as before"
    moves = {channel: new - old for channel, (old, new) in side.means.items()}
    is_tint = min(move / side.moved for move in moves.values()) < 0.5
    where = f" in {max(moves, key=lambda channel: abs(moves[channel]))}" if is_tint else ""
    return (
        f"{'brighter' if side.moved > 0 else 'darker'}{where} by {abs(side.moved):.1f} of 255 levels, "
        f"{abs(side.in_spreads):.0%} of what images differ by among themselves"
    )


def _is_other(drift: Drift, split: str) -> bool:
    old, new = drift.pairs[split]
    return old == new and split not in drift.same_pixels


def _change(old: int, new: int) -> str:
    return f"{new:,}" if old == new else f"{old:,} → {new:,}"


def _count(version: Mapping[str, Any], kind: str) -> int:
    return int(version.get("checks", {}).get(kind, {}).get("count", 0))


def _sides(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, SideDrift] | None:
    if "colours" not in before or "colours" not in after:
        return None
    sides = {}
    for name in SIDES:
        old, new = before["colours"][name], after["colours"][name]
        if old["mean"].keys() != new["mean"].keys():
            return None
        means = {channel: (old["mean"][channel], new["mean"][channel]) for channel in old["mean"]}
        # Not their mean, which a tint leaves as it was.
        moved = max((b - a for a, b in means.values()), key=abs)
        # A set of one and the same picture has no spread; a level is the least that counts.
        in_spreads = moved / max(old["spread"], 1.0)
        apart = sum(abs(old["histogram"][key] - new["histogram"][key]) for key in old["histogram"]) / 2
        sides[name] = SideDrift(means, moved, in_spreads, apart)
    return sides
