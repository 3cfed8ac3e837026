"""Joint jitter."""

import numpy as np
import pytest
import torch

from pix2pix.augment import crop, plan_epoch, to_pixels, to_unit_range
from pix2pix.params import Size, height_width


def _coordinates(samples: int, side: int) -> torch.Tensor:
    """Images whose pixels say where they lie: channel 0 the row, 1 the column, 2 the sample."""
    rows = torch.arange(side).expand(samples, side).unsqueeze(2).expand(-1, -1, side)
    numbers = torch.arange(samples)[:, None, None].expand(-1, side, side)
    return torch.stack([rows, rows.transpose(1, 2), numbers], 1).to(torch.uint8)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize(("image_px", "margins"), [(32, 4), ((20, 34), (16, 2)), ((36, 8), (0, 28))])
def test_crops_are_those_that_slicing_and_flipping_gives(batch: int, image_px: Size, margins: Size) -> None:
    images = _coordinates(20, 36)
    plan = plan_epoch(20, margins, seed=3, epoch=5)
    height, width = height_width(image_px)
    for first in range(0, 20, batch):
        rows = plan.rows()[first : first + batch]
        pieces = crop(images, torch.from_numpy(rows), image_px)
        assert pieces.dtype == torch.uint8 and pieces.shape == (len(rows), 3, height, width)
        for sample, piece in zip(plan.order[first : first + batch], pieces, strict=True):
            top, left = int(plan.top[sample]), int(plan.left[sample])
            expected = images[sample, :, top : top + height, left : left + width]
            assert torch.equal(piece, expected.flip(-1) if plan.mirror[sample] else expected)


def test_a_rows_jitter_is_its_samples_wherever_in_the_epoch_it_comes() -> None:
    plan = plan_epoch(20, margin_px=4, seed=3, epoch=5)
    for sample, top, left, mirror in plan.rows().tolist():
        assert (top, left, mirror) == (plan.top[sample], plan.left[sample], plan.mirror[sample])


def test_every_sample_comes_once_an_epoch() -> None:
    assert sorted(plan_epoch(50, 4, seed=0, epoch=0).order.tolist()) == list(range(50))


def test_jitter_reaches_every_offset_and_mirrors_half() -> None:
    plan = plan_epoch(4000, margin_px=30, seed=0, epoch=0)
    assert set(plan.top) == set(plan.left) == set(range(31))
    assert 0.45 < plan.mirror.mean() < 0.55


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    first, again = plan_epoch(30, 4, seed=1, epoch=2), plan_epoch(30, 4, seed=1, epoch=2)
    assert all(np.array_equal(vars(first)[name], vars(again)[name]) for name in vars(first))
    for other in (plan_epoch(30, 4, seed=1, epoch=3), plan_epoch(30, 4, seed=2, epoch=2)):
        assert not np.array_equal(first.order, other.order)
        assert not np.array_equal(first.top, other.top)


def test_pixels_survive_the_way_to_unit_range_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    unit = to_unit_range(pixels)
    assert unit.min() == -1 and unit.max() == 1
    assert torch.equal(to_pixels(unit), pixels)


def test_values_outside_the_range_become_black_or_white() -> None:
    assert to_pixels(torch.tensor([-3.0, -1.0, 1.0, 3.0])).tolist() == [0, 0, 255, 255]
