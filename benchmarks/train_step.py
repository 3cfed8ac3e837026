"""One training step of ours against the reference's procedure, alternating in one process; ratios.

    python -m benchmarks.train_step                     # 128 px, 32 channels, on the CPU
    python -m benchmarks.train_step --px 256 --channels 64 --device cuda

The reference's procedure: the discriminator is updated first, from a pass on real and a pass on the detached
fake; the fake is then scored again for the generator's update; Adam is not fused.
"""

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from torch import Tensor

from pix2pix import devices, losses, training
from pix2pix.discriminator import Discriminator
from pix2pix.generator import Generator
from pix2pix.params import unet_levels


def main(
    px: Annotated[int, typer.Option(min=32)] = 128,
    channels: int = 32,
    batch: int = 1,
    device: str = "cpu",
    threads: int = 2,
    rounds: int = 7,
    steps: int = 12,
) -> None:
    """Time both in turns and print the median of each and of their ratio."""
    where, words = devices.choose(device)
    devices.set_threads(threads)
    print(
        f"{words}, {threads} threads, torch {torch.__version__}: {px} px, {channels} channels, batch {batch}"
    )
    ways = {"reference": _reference(px, channels, batch, where), "ours": _ours(px, channels, batch, where)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for step in ways.values():
        _timed(step, 3, where)
    for _ in range(rounds):
        for name, step in ways.items():
            times[name].append(_timed(step, steps, where))
    ratios = [theirs / ours for theirs, ours in zip(times["reference"], times["ours"], strict=True)]
    for name, values in times.items():
        print(f"{name:10} {1e3 * statistics.median(values):8.2f} ms/step")
    print(f"ratio      {statistics.median(ratios):8.2f}  (from {min(ratios):.2f} to {max(ratios):.2f})")


def _timed(step: Callable[[], object], steps: int, device: torch.device) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps


def _networks(px: int, channels: int, device: torch.device) -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    generator = Generator(levels=unet_levels(px), channels=channels).to(device)
    return generator, Discriminator(channels=channels).to(device)


def _pair(px: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return tuple(torch.rand(batch, 3, px, px, device=device) * 2 - 1 for _ in range(2))  # type: ignore[return-value]


def _ours(px: int, channels: int, batch: int, device: torch.device) -> Callable[[], object]:
    generator, discriminator = _networks(px, channels, device)
    source, target = _pair(px, batch, device)
    optimizers = [
        torch.optim.Adam(
            network.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=device.type in ("cpu", "cuda")
        )
        for network in (generator, discriminator)
    ]
    return lambda: training.training_step(
        generator, discriminator, *optimizers, source, target, training.Objective("bce", 100.0, True)
    )


def _reference(px: int, channels: int, batch: int, device: torch.device) -> Callable[[], object]:
    generator, discriminator = _networks(px, channels, device)
    source, target = _pair(px, batch, device)
    g_optimizer, d_optimizer = (
        torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for network in (generator, discriminator)
    )

    def step() -> None:
        output = generator(source)
        discriminator.requires_grad_(True)
        d_optimizer.zero_grad()
        d_fake = losses.discriminator_loss(
            "bce", discriminator(torch.cat([source, output.detach()], 1)), real=False
        )
        d_real = losses.discriminator_loss("bce", discriminator(torch.cat([source, target], 1)), real=True)
        ((d_fake + d_real) * 0.5).backward()
        d_optimizer.step()
        discriminator.requires_grad_(False)
        g_optimizer.zero_grad()
        g_adversarial = losses.generator_adversarial("bce", discriminator(torch.cat([source, output], 1)))
        (g_adversarial + 100 * losses.l1(output, target)).backward()
        g_optimizer.step()

    return step


if __name__ == "__main__":
    typer.run(main)
