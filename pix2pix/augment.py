"""Joint jitter: the same random crop and mirror for both sides of a pair, keyed by epoch and sample."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class EpochPlan:
    """The order of one epoch and the jitter of each sample in it, indexed by sample, not by position."""

    order: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    mirror: NDArray[np.bool_]


def plan_epoch(samples: int, margin_px: int, seed: int, epoch: int) -> EpochPlan:
    """Draw an epoch from (seed, epoch) alone, so that a resumed run meets the crops it would have met.

    Args:
        margin_px: stored side less the crop's side; crops start at 0 to margin_px.
    """
    random = np.random.default_rng([seed, epoch])
    return EpochPlan(
        order=random.permutation(samples),
        top=random.integers(0, margin_px + 1, samples),
        left=random.integers(0, margin_px + 1, samples),
        mirror=random.random(samples) < 0.5,
    )


def crop(images: Tensor, samples: NDArray[np.int64], plan: EpochPlan, image_px: int) -> Tensor:
    """Cut the planned crops out of stored images.

    Args:
        images: uint8 [all samples, channels, stored side, stored side].
        samples: indices of the samples of this batch.

    Returns:
        float32 [batch, channels, image_px, image_px] in [-1, 1].
    """
    crops = []
    for sample in samples.tolist():
        top, left = int(plan.top[sample]), int(plan.left[sample])
        piece = images[sample, :, top : top + image_px, left : left + image_px]
        crops.append(piece.flip(-1) if plan.mirror[sample] else piece)
    return to_unit_range(torch.stack(crops))


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 0…255 → float32 -1…1."""
    return pixels.float() / 127.5 - 1.0


def to_pixels(images: Tensor) -> Tensor:
    """float -1…1 → uint8 0…255, rounded half to even: what a user gets."""
    return ((images + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
