"""The picture of the data: pairs as training sees them, and below them what looks wrong."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from . import images
from .data_checks import Findings, Place, Twins, shown
from .errors import plain
from .images import Pixels
from .manifest import Split
from .pair_grid import below_each_other, left_and_right, pair_grid, spread
from .params import Size, height_width

# Training pairs, and examples of each thing that looks wrong.
PAIRS, EXAMPLES = 6, 4
# Lines of what is said in words alone, and letters of a line.
TOLD, LETTERS = 10, 150

ReadPair = Callable[[Split, str], tuple[Pixels, Pixels]]


def draw(
    findings: Findings,
    names: Mapping[Split, Sequence[str]],
    read: ReadPair,
    image_px: Size,
    columns: tuple[str, str] = ("input", "target"),
    told: Mapping[str, Sequence[str]] | None = None,
) -> Pixels:
    """All of reports/data.png.

    Args:
        read: gives input and target of a prepared pair, as a person sees them.
        image_px: the size at which pairs of several splits are shown beside each other.
        columns: the names of the two sides, with what is not shown of them.
        told: what there is no picture of, such as files that could not be used: lines by their title.
    """
    size = height_width(image_px)

    def cells(place: Place) -> list[Pixels]:
        return [images.resize(side, *size, "area") for side in read(*place)]

    train = [names["train"][index] for index in spread(len(names["train"]), PAIRS)]
    pictures = [pair_grid([read("train", name) for name in train], train, columns)]
    for title, found in (
        ("nearly the same, in different splits", findings.leaks),
        ("nearly the same", findings.duplicates),
    ):
        if found:
            pictures.append(_twins(title, found[:EXAMPLES], cells))
    if findings.misaligned:
        pictures.append(_askew(dict(list(findings.misaligned.items())[:EXAMPLES]), cells))
    if findings.empty:
        empty = list(findings.empty)[:EXAMPLES]
        grid = images.labelled_grid(
            ["input", "target"],
            [cells(place) for place in empty],
            [shown(place) for place in empty],
            title="a side that shows nothing",
        )
        pictures.append(grid)
    pictures += [_words(title, lines) for title, lines in (told or {}).items() if lines]
    return below_each_other(pictures)


def _words(title: str, lines: Sequence[str]) -> Pixels:
    shown_ = [" ".join(plain(line).split()) for line in lines[:TOLD]]
    shown_ = [line if len(line) <= LETTERS else f"{line[:LETTERS]}…" for line in shown_]
    more = [f"and {len(lines) - TOLD:,} more"] if len(lines) > TOLD else []
    return images.text_panel(title, [*shown_, *more])


def _twins(title: str, found: Sequence[Twins], cells: Callable[[Place], list[Pixels]]) -> Pixels:
    return images.labelled_grid(
        ["input", "target", "input", "target"],
        [cells(twins.first) + cells(twins.second) for twins in found],
        [left_and_right(shown(twins.first), shown(twins.second)) for twins in found],
        title=title,
    )


def _askew(found: Mapping[Place, tuple[float, float]], cells: Callable[[Place], list[Pixels]]) -> Pixels:
    rows = []
    for place, (right, down) in found.items():
        source, target = cells(place)
        back = (-round(down * target.shape[0]), -round(right * target.shape[1]))
        moved = np.roll(target, back, (0, 1))
        rows.append([source, target, _over(source, target), _over(source, moved)])
    return images.labelled_grid(
        ["input", "target", "both", "both, target moved back"],
        rows,
        [shown(place) for place in found],
        title="sides that lie askew",
    )


def _over(first: Pixels, second: Pixels) -> Pixels:
    return ((first.astype(np.uint16) + second) // 2).astype(np.uint8)
