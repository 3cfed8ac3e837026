"""One training step of ours against the reference's procedure.

The reference's procedure: eager, float32; the discriminator is updated first, from a pass on real and a pass
on the detached fake; the fake is then scored again for the generator's update; Adam is not fused.

Ours also tells the C library to keep what tensors free (devices.keep_freed_memory), which torch by itself
does not. The ratio without that difference, the reference too keeping it, is given beside.
"""

import ctypes
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from pix2pix import devices, losses, step
from pix2pix.discriminator import Discriminator
from pix2pix.generator import Generator
from pix2pix.params import unet_levels

from .alternating import Comparison, alternate


def compare(
    *, px: int, channels: int, batch: int, device: torch.device, rounds: int, calls: int = 1
) -> dict[str, Comparison]:
    """Both in turns, with the reference's memory as torch leaves it (`own`) and as ours is kept (`kept`)."""
    reference, ours = _reference(px, channels, batch, device), _ours(px, channels, batch, device)
    compared = {}
    if device.type == "cpu" and sys.platform == "linux":
        compared["own"] = alternate(
            {"reference": reference, "ours": ours},
            rounds=rounds,
            calls=calls,
            device=device,
            before={"reference": _return_freed_memory, "ours": devices.keep_freed_memory},
        )
    devices.keep_freed_memory()
    compared["kept"] = alternate(
        {"reference": reference, "ours": ours}, rounds=rounds, calls=calls, device=device
    )
    return compared


def _return_freed_memory() -> None:
    """What glibc does after a while if it is told nothing: blocks above 32 MB are mapped anew each time.

    Its thresholds adapt themselves up to these values; see mallopt(3), M_MMAP_THRESHOLD.
    """
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 32 * 2**20)
    mallopt(trim_threshold, 64 * 2**20)


def _networks(px: int, channels: int, device: torch.device) -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    generator = Generator(levels=unet_levels(px), channels=channels, norm="batch").to(device)
    return generator, Discriminator(channels=channels, norm="batch").to(device)


def _pair(px: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    source, target = (torch.rand(batch, 3, px, px, device=device) * 2 - 1 for _ in range(2))
    return source, target


def _ours(px: int, channels: int, batch: int, device: torch.device) -> Callable[[], object]:
    generator, discriminator = _networks(px, channels, device)
    source, target = _pair(px, batch, device)
    optimizers = [
        torch.optim.Adam(
            network.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=device.type in ("cpu", "cuda")
        )
        for network in (generator, discriminator)
    ]
    objective = step.Objective("bce", 100.0, conditional=True)
    return lambda: step.training_step(generator, discriminator, *optimizers, source, target, objective)


def _reference(px: int, channels: int, batch: int, device: torch.device) -> Callable[[], object]:
    generator, discriminator = _networks(px, channels, device)
    source, target = _pair(px, batch, device)
    g_optimizer, d_optimizer = (
        torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for network in (generator, discriminator)
    )

    def update() -> None:
        output = generator(source)
        discriminator.requires_grad_(True)
        d_optimizer.zero_grad()
        fake_logits = discriminator(torch.cat([source, output.detach()], 1))
        d_fake = losses.discriminator_loss("bce", fake_logits, real=False)
        real_logits = discriminator(torch.cat([source, target], 1))
        d_real = losses.discriminator_loss("bce", real_logits, real=True)
        ((d_fake + d_real) * 0.5).backward()
        d_optimizer.step()
        discriminator.requires_grad_(False)
        g_optimizer.zero_grad()
        g_adversarial = losses.generator_adversarial("bce", discriminator(torch.cat([source, output], 1)))
        (g_adversarial + 100 * losses.l1(output, target)).backward()
        g_optimizer.step()

    return update
