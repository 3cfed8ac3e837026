"""One training step: both networks updated from one pass of each, and the optimiser that does it."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import losses
from .params import Train

LOSS_NAMES = ("g_adversarial", "g_l1", "d_real", "d_fake")


@dataclass(frozen=True)
class Objective:
    """What the networks are trained for: G minimises its adversarial loss + lambda_l1 · L1.

    Attributes:
        gan_loss: bce, lsgan, hinge, or none for L1 alone.
        conditional: the discriminator sees the input beside the output.
    """

    gan_loss: str
    lambda_l1: float
    conditional: bool


def training_step(
    generator: nn.Module,
    discriminator: nn.Module,
    generator_optimizer: torch.optim.Optimizer,
    discriminator_optimizer: torch.optim.Optimizer,
    source: Tensor,
    target: Tensor,
    objective: Objective,
    precision: str = "fp32",
    weight: float = 1.0,
) -> Tensor:
    """Update both networks from one pass of each, as the TensorFlow tutorial does.

    The discriminator sees the real pair once and the fake pair once; its weights' gradients and the
    fake's gradient are taken separately from the same graph.

    Args:
        source, target: [batch, channels, height, width] in [-1, 1].
        precision: bf16 lets both networks compute in bfloat16 by autocast; weights, their gradients, losses
            and optimisers stay as they are.
        weight: of this batch's losses where it is one process's share of a larger batch.

    Returns:
        The losses before the update, unweighted and detached: [4] in the order of LOSS_NAMES. Without an
        adversarial loss the discriminator is neither asked nor updated, and its losses are 0.
    """
    computing = torch.autocast(source.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    with computing:
        output = generator(source).to(source.dtype)
    g_l1 = losses.l1(output, target)
    generator_optimizer.zero_grad(set_to_none=True)
    if objective.gan_loss == "none":
        torch.autograd.backward(objective.lambda_l1 * g_l1 * weight)
        generator_optimizer.step()
        none = torch.zeros_like(g_l1)
        return torch.stack([none, g_l1, none, none]).detach()

    fake, real = (
        torch.cat([source, image], 1) if objective.conditional else image for image in (output, target)
    )
    with computing:
        fake_logits, real_logits = (discriminator(pair).to(pair.dtype) for pair in (fake, real))
    g_adversarial = losses.generator_adversarial(objective.gan_loss, fake_logits)
    d_real = losses.discriminator_loss(objective.gan_loss, real_logits, real=True)
    d_fake = losses.discriminator_loss(objective.gan_loss, fake_logits, real=False)

    (output_gradient,) = torch.autograd.grad(g_adversarial * weight, output, retain_graph=True)
    discriminator_optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward((d_real + d_fake) * weight, inputs=list(discriminator.parameters()))
    torch.autograd.backward([output, objective.lambda_l1 * g_l1 * weight], [output_gradient, None])
    generator_optimizer.step()
    discriminator_optimizer.step()
    return torch.stack([g_adversarial, g_l1, d_real, d_fake]).detach()


def learning_rate(lr: float, epoch: int, epochs: int, decay_share: float) -> float:
    """The rate in an epoch (from 0): constant, then linear towards 0 over the last decay_share of them.

    lr·(1 − max(0, e+1−n)/(n_decay+1)) with n constant epochs: the reference implementation's schedule.
    """
    decay = round(epochs * decay_share)
    constant = epochs - decay
    return lr * (1 - max(0, epoch + 1 - constant) / (decay + 1))


def adam(network: nn.Module, recipe: Train) -> torch.optim.Adam:
    """Adam as the paper has it; fused: one pass over weights and moments, not one for each operation.

    On CUDA the rate and the count of steps are tensors there, so that a step can be captured in a graph.
    """
    device = next(network.parameters()).device
    on_cuda = device.type == "cuda"
    return torch.optim.Adam(
        network.parameters(),
        lr=torch.tensor(recipe.lr, device=device) if on_cuda else recipe.lr,
        betas=(recipe.beta1, 0.999),
        fused=device.type in ("cpu", "cuda"),
        capturable=on_cuda,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Of every group; a rate that is a tensor stays that tensor, which a captured step reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
