"""Joint jitter."""

import numpy as np
import torch

from pix2pix.augment import crop, plan_epoch, to_pixels, to_unit_range


def _coordinates(samples: int, side: int) -> torch.Tensor:
    """Images whose pixels say where they lie: channel 0 the row, 1 the column, 2 the sample."""
    rows = torch.arange(side).expand(samples, side).unsqueeze(2).expand(-1, -1, side)
    numbers = torch.arange(samples)[:, None, None].expand(-1, side, side)
    return torch.stack([rows, rows.transpose(1, 2), numbers], 1).to(torch.uint8)


def test_both_sides_of_a_pair_get_the_same_crop_and_mirror() -> None:
    images = _coordinates(20, 36)
    plan = plan_epoch(20, margin_px=4, seed=3, epoch=5)
    samples = plan.order[:7]
    assert torch.equal(crop(images, samples, plan, 32), crop(images.clone(), samples, plan, 32))
    pixels = to_pixels(crop(images, samples, plan, 32))
    for sample, piece in zip(samples, pixels, strict=True):
        assert (piece[2] == sample).all()
        rows = torch.arange(32) + int(plan.top[sample])
        columns = torch.arange(32) + int(plan.left[sample])
        assert torch.equal(piece[0, :, 0].long(), rows)
        assert torch.equal(piece[1, 0].long(), columns.flip(0) if plan.mirror[sample] else columns)


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
