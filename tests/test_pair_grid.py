"""Pictures of pairs: which ones, where, and under which names."""

import numpy as np
import pytest

from pix2pix import images
from pix2pix.images import Pixels
from pix2pix.pair_grid import below_each_other, pair_grid, spread


def solid(value: int) -> Pixels:
    return np.full((64, 64, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("count", "labels", "headings"),
    [
        (4, ["left: p0\nright: p1", "left: p2\nright: p3"], ["input", "target"] * 2),
        (3, ["p0", "p1", "p2"], ["input", "target"]),
    ],
)
def test_the_names_before_a_row_say_which_pair_is_which(
    count: int, labels: list[str], headings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[object, ...]] = []
    original = images.labelled_grid

    def spied(columns: list[str], rows: list[list[Pixels]], names: list[str]) -> Pixels:
        seen.append((columns, [[int(cell[0, 0, 0]) for cell in row] for row in rows], names))
        return original(columns, rows, names)

    monkeypatch.setattr(images, "labelled_grid", spied)
    cells = [(solid(2 * i), solid(2 * i + 1)) for i in range(count)]
    pair_grid(cells, [f"p{i}" for i in range(count)])
    shown = [[2 * i, 2 * i + 1] for i in range(count)]
    if count == 4:
        shown = [shown[0] + shown[1], shown[2] + shown[3]]
    assert seen == [(headings, shown, labels)]


@pytest.mark.parametrize(
    ("count", "shown", "indices"), [(10, 5, [0, 2, 4, 6, 8]), (3, 6, [0, 1, 2]), (0, 6, [])]
)
def test_what_is_shown_is_spread_evenly(count: int, shown: int, indices: list[int]) -> None:
    assert spread(count, shown) == indices


def test_pictures_of_any_width_go_below_each_other_on_white() -> None:
    whole = below_each_other([solid(0), np.zeros((10, 100, 3), np.uint8)])
    assert whole.shape == (64 + 14 + 10, 100, 3)
    assert not whole[:64, :64].any() and (whole[:64, 64:] == 255).all() and (whole[64:78] == 255).all()
