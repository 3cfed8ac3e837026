"""The losses of arXiv 1611.07004, section 3.1, and the forms of the adversarial one that came after."""

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_adversarial(kind: str, fake_logits: Tensor) -> Tensor:
    """How far the discriminator is from taking the generated images for real; a scalar.

    Args:
        kind: bce (the paper's, in its non-saturating form; near ln 2 with fresh weights), lsgan (Mao et al.
            2017, arXiv 1611.04076) or hinge (Lim and Ye 2017, arXiv 1705.02894).
        fake_logits: of any shape; positive says real.
    """
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))
    if kind == "lsgan":
        return F.mse_loss(fake_logits, torch.ones_like(fake_logits))
    if kind == "hinge":
        return -fake_logits.mean()
    raise ValueError(f"no adversarial loss is called {kind!r}")


def discriminator_loss(kind: str, logits: Tensor, real: bool) -> Tensor:
    """How far the discriminator is from judging "all real" or "all fake"; a scalar, at least 0."""
    if kind == "hinge":
        return F.relu(1 - logits if real else 1 + logits).mean()
    wanted = torch.ones_like(logits) if real else torch.zeros_like(logits)
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(logits, wanted)
    if kind == "lsgan":
        return F.mse_loss(logits, wanted)
    raise ValueError(f"no adversarial loss is called {kind!r}")


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference; 0 to 2 for images in [-1, 1]."""
    return F.l1_loss(output, target)
