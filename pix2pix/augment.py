"""Joint jitter: the same random crop and mirror for both sides of a pair, keyed by epoch and sample."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .encoding import RGB8, Encoding
from .params import Size, height_width


@dataclass(frozen=True)
class EpochPlan:
    """The order of one epoch and the jitter of each sample in it, indexed by sample, not by position."""

    order: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    mirror: NDArray[np.bool_]

    def rows(self) -> NDArray[np.int64]:
        """The epoch in its order: [samples, 4], a sample and its jitter a row, as `crop` takes them."""
        return np.stack(
            [self.order, *(jitter[self.order] for jitter in (self.top, self.left, self.mirror))], 1
        )


def plan_epoch(samples: int, margin_px: Size, seed: int, epoch: int) -> EpochPlan:
    """Draw an epoch from (seed, epoch) alone, so that a resumed run meets the crops it would have met.

    Args:
        margin_px: stored side less the crop's side, or both sides' margins; crops start at 0 to margin_px.
    """
    below, right = height_width(margin_px)
    random = np.random.default_rng([seed, epoch])
    return EpochPlan(
        order=random.permutation(samples),
        top=random.integers(0, below + 1, samples),
        left=random.integers(0, right + 1, samples),
        mirror=random.random(samples) < 0.5,
    )


def crop(images: Tensor, rows: Tensor, image_px: Size) -> Tensor:
    """Cut crops out of stored images, all at once, on the device that holds them.

    Args:
        images: [all samples, channels, stored height, stored width], of any type.
        rows: int64 [batch, 4] on the same device: sample, top, left, and 1 where it is mirrored.

    Returns:
        [batch, channels, height, width], of the same type.
    """
    if images.dtype == torch.uint16:
        # torch has uint16, but few operations on it.
        return crop(images.view(torch.int16), rows, image_px).view(torch.uint16)
    height, width = height_width(image_px)
    _, top, left, mirror = rows.unsqueeze(2).unbind(1)
    down, along = (torch.arange(side, device=images.device) for side in (height, width))
    across = left + torch.where(mirror == 1, width - 1 - along, along)
    # Whole images first: where each pixel of a crop lies is then the same for every channel. On a CPU
    # this takes a fifth of the time of one indexing of all four dimensions.
    batch, (_, channels, _, stored_width) = len(rows), images.shape
    place = ((top + down)[:, :, None] * stored_width + across[:, None, :]).view(batch, 1, -1)
    stored = images.index_select(0, rows[:, 0]).view(batch, channels, -1)
    return stored.gather(2, place.expand(-1, channels, -1)).view(batch, channels, height, width)


def to_unit_range(
    pixels: Tensor, encoding: Encoding = RGB8, bounds: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Samples → float32 -1…1: uint8 0…255, say, or what the encoding's range is; beyond it is at its end.

    Class indices become one channel a class, 1 in that of the pixel's class and -1 in the others.

    Args:
        pixels: […, channels, height, width].
        bounds: the encoding's `low_and_half`, where it is at hand: a CUDA graph cannot fetch it.
    """
    values = pixels.float()
    if encoding.classes:
        indices = torch.arange(encoding.classes, dtype=values.dtype, device=values.device)
        return (values == indices[:, None, None]).float() * 2.0 - 1.0
    if not encoding.low:
        return values / (encoding.white / 2) - 1.0
    low, half = bounds or low_and_half(encoding, values.device)
    return ((values - low) / half - 1.0).clamp(-1.0, 1.0)


def to_pixels(images: Tensor, encoding: Encoding = RGB8) -> Tensor:
    """float -1…1 → samples, of whole numbers rounded half to even: what a user gets."""
    if encoding.low:
        low, half = low_and_half(encoding, images.device)
        values = (images + 1.0) * half + low
    else:
        values = (images + 1.0) * (encoding.white / 2)
    if encoding.dtype == "float32":
        return values
    return values.round().clamp(0, int(encoding.white)).to(getattr(torch, encoding.dtype))


def low_and_half(encoding: Encoding, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the range begins and half its width: float32 [channels, 1, 1] each."""
    low, high = encoding.bounds
    start, half = (
        torch.tensor(values, dtype=torch.float32, device=device) for values in (low, (high - low) / 2)
    )
    return start[:, None, None], half[:, None, None]
