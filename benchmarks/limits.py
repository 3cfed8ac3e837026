"""What the device could do at most: a large matrix product and a large copy, measured on the spot."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from pix2pix import step

from . import reference
from .ours import Shape

# Every weight is read forwards and backwards; Adam reads it, its gradient and both moments, and writes all
# but the gradient: nine times four bytes.
BYTES_A_WEIGHT = 36


@dataclass(frozen=True)
class Limits:
    """Floating-point operations and bytes a second."""

    flops: float
    bytes: float

    def seconds(self, shape: Shape) -> float:
        """Of a training step that computes and moves no more than it has to."""
        flops, moved = work(shape)
        return max(flops / self.flops, moved / self.bytes)


def measure(device: torch.device, precision: str) -> Limits:
    """By products of large matrices of the precision that is trained in, and by copying a large tensor."""
    side, copied = (8192, 2**30) if device.type == "cuda" else (2048, 2**27)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.rand(side, side, dtype=dtype, device=device) for _ in range(2))
    image, kernel = a.view(1, side, 64, side // 64), b.view(side, side, 1, 1)
    # The same product twice: on some CPUs the library behind convolutions makes more of it.
    products = (lambda: a @ b, lambda: torch.conv2d(image, kernel))
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Limits(
        2 * side**3 / min(_seconds(product, device) for product in products),
        # Each byte is read and written.
        2 * copied / _seconds(lambda: target.copy_(source), device),
    )


def _seconds(way: Callable[[], object], device: torch.device) -> float:
    def once() -> float:
        started = time.perf_counter()
        way()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(9))


def work(shape: Shape) -> tuple[int, int]:
    """Floating-point operations of a step of ours, and bytes of weights, gradients and moments it moves."""
    with torch.device("meta"):
        generator, discriminator = reference.networks(shape, torch.device("meta"))
        source, target = (torch.empty(shape.batch, 3, shape.px, shape.px) for _ in range(2))
    idle, also_idle = (torch.optim.SGD(network.parameters()) for network in (generator, discriminator))
    with FlopCounterMode(display=False) as counted:
        objective = step.Objective("bce", 100.0, conditional=True)
        step.training_step(generator, discriminator, idle, also_idle, source, target, objective)
    weights = sum(weight.numel() for network in (generator, discriminator) for weight in network.parameters())
    return counted.get_total_flops(), BYTES_A_WEIGHT * weights


def peak_mb(device: torch.device) -> float:
    """The most memory that this process has held so far: on the GPU where it computes on one."""
    return torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else host_peak_mb()


def host_peak_mb() -> float:
    """The same, of the machine's own memory."""
    # Linux counts in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
