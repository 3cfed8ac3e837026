"""Signs that a training has collapsed, read from what it has written down so far."""

import math
from collections.abc import Sequence

import numpy as np

from .images import Pixels

# A discriminator of a healthy run comes near zero for moments, not for this long: 1,000 steps are two and a
# half epochs of facades.
WON_STEPS, WON_SHARE = 1000, 0.07
# What a discriminator loses that cannot tell: the share is of that.
NEUTRAL_LOSS = {"bce": math.log(2), "lsgan": 0.25, "hinge": 1.0}
# Outputs for different inputs that differ by less than this share of what their targets differ by.
ALIKE_SHARE = 0.05
# Before, a fresh generator's outputs may well be alike.
SETTLED_STEPS = 1000


def discriminator_won(
    loss_rows: Sequence[Sequence[float]], losses_every: int, gan_loss: str = "bce"
) -> str | None:
    """Whether both discriminator losses have just been near zero for `WON_STEPS` steps.

    It looks at the rows alone, so a resumed training says it at the same step, and once: only when the
    window has just filled.

    Args:
        loss_rows: step, epoch, g_adversarial, g_l1, d_real, d_fake, lr; a row every `losses_every` steps.
        gan_loss: of NEUTRAL_LOSS; any other has no discriminator that could win.

    Returns:
        One sentence with the step and the knobs to try, or None.
    """
    if gan_loss not in NEUTRAL_LOSS:
        return None
    rows, bound = max(1, -(-WON_STEPS // losses_every)), WON_SHARE * NEUTRAL_LOSS[gan_loss]

    def low(row: Sequence[float]) -> bool:
        return max(row[4], row[5]) < bound

    if len(loss_rows) < rows or not all(map(low, loss_rows[-rows:])):
        return None
    if len(loss_rows) > rows and low(loss_rows[-rows - 1]):
        return None
    return (
        f"step {int(loss_rows[-1][0])}: the discriminator's losses have been below {bound:.2g} for "
        f"{rows * losses_every} steps, so it teaches the generator little; try a smaller "
        "model.discriminator_channels, another train.gan_loss, or a lower train.lr"
    )


def outputs_alike(step: int, outputs: Pixels, targets: Pixels) -> str | None:
    """Whether the generator gives nearly the same picture whatever the input.

    Measured as the standard deviation over the images, averaged over pixels, of the outputs against that of
    their targets.

    Args:
        outputs, targets: uint8 [n, height, width, channels] for n different inputs.

    Returns:
        One sentence with the step and the knobs to try, or None; None too for fewer than two images or in
        the first `SETTLED_STEPS` steps.
    """
    if len(outputs) < 2 or step < SETTLED_STEPS:
        return None
    ours, theirs = (float(images.astype(np.float32).std(axis=0).mean()) for images in (outputs, targets))
    if theirs == 0 or ours >= ALIKE_SHARE * theirs:
        return None
    return (
        f"step {step}: outputs for different inputs differ by {ours / theirs:.1%} of what their targets do, "
        "so the generator ignores its input; try a higher train.lambda_l1, model.architecture: unet, "
        "or a lower train.lr"
    )
