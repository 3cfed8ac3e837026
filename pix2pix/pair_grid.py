"""Pictures of pairs for people: input and target next to each other, two pairs a row."""

from collections.abc import Iterable, Sequence

import numpy as np

from . import images
from .images import Pixels


def spread(count: int, shown: int) -> list[int]:
    """At most `shown` indices below `count`, spread evenly: neighbours in a list of names are often alike."""
    step = max(1, count // shown)
    return list(range(0, count, step))[:shown]


def pair_grid(
    pairs: Iterable[tuple[Pixels, Pixels]],
    names: Sequence[str],
    columns: tuple[str, str] = ("input", "target"),
) -> Pixels:
    """A grid of pairs under headings, two a row where that comes out even.

    Args:
        pairs: uint8 [height, width, 3], all of one size.
        names: one for each pair, shown before its row.
    """
    rows, labels = [list(pair) for pair in pairs], list(names)
    headings = list(columns)
    # Two pairs a row make a picture that fits a screen.
    if len(rows) % 2 == 0:
        rows = [rows[i] + rows[i + 1] for i in range(0, len(rows), 2)]
        labels = [left_and_right(labels[i], labels[i + 1]) for i in range(0, len(labels), 2)]
        headings *= 2
    return np.asarray(images.labelled_grid(headings, rows, labels))


def left_and_right(left: str, right: str) -> str:
    """The name of a row that shows two pairs."""
    return f"left: {left}\nright: {right}"


def below_each_other(pictures: Sequence[Pixels]) -> Pixels:
    """Pictures of any width in one, on white."""
    gap, width = 14, max(picture.shape[1] for picture in pictures)
    height = sum(picture.shape[0] + gap for picture in pictures) - gap
    whole = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for picture in pictures:
        whole[top : top + picture.shape[0], : picture.shape[1]] = picture
        top += picture.shape[0] + gap
    return whole
