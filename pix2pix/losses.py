"""The losses of arXiv 1611.07004, section 3.1."""

import torch
import torch.nn.functional as F
from torch import Tensor


def adversarial(logits: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of logits of any shape against "all real" or "all fake", averaged; ≥ 0.

    With fresh weights the logits are near 0 and this is near ln 2.
    """
    wanted = torch.ones_like(logits) if real else torch.zeros_like(logits)
    return F.binary_cross_entropy_with_logits(logits, wanted)


def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference; 0 to 2 for images in [-1, 1]."""
    return F.l1_loss(output, target)
