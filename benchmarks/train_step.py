"""One training step of ours against the reference's procedure.

Ours is the step that `stages.train` takes: it cuts its crops from pairs on the device, and on CUDA it is
captured and computes in bfloat16. The reference's is given its tensors for nothing.

Ours also tells the C library to keep what tensors free (devices.keep_freed_memory), which torch by itself
does not. The ratio without that difference, the reference too keeping it, is given beside.
"""

import ctypes
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from pix2pix import devices

from . import reference
from .alternating import Comparison, alternate
from .ours import Shape, Training, Way, held

# A GPU is waited for once in so many steps, as a training does.
CALLS_ON_CUDA = 25
TRACED_STEPS = 5


def compare(shape: Shape, way: Way, *, device: torch.device, rounds: int) -> dict[str, Comparison]:
    """Both in turns, with the reference's memory as torch leaves it (`own`) and as ours is kept (`kept`)."""
    ways = {
        "reference": reference.step(shape, device),
        "ours": Training(shape, device, held(shape, device), way).step,
    }
    calls = CALLS_ON_CUDA if device.type == "cuda" else 1
    compared = {}
    if device.type == "cpu" and sys.platform == "linux":
        compared["own"] = alternate(
            ways,
            rounds=rounds,
            calls=calls,
            device=device,
            before={"reference": _return_freed_memory, "ours": devices.keep_freed_memory},
        )
    way.settle(device)
    compared["kept"] = alternate(
        ways, rounds=rounds, calls=calls, device=device, before=settings_of_each(way, device)
    )
    return compared


def settings_of_each(way: Way, device: torch.device) -> dict[str, Callable[[], None]] | None:
    """Where cuDNN computes, each side has the settings that it runs with."""
    if device.type != "cuda":
        return None
    return {"reference": reference.settle, "ours": lambda: way.settle(device)}


def price_of_determinism(shape: Shape, way: Way, *, device: torch.device, rounds: int) -> Comparison:
    """A step of ours with cuDNN's fastest convolutions and with deterministic ones; elsewhere all are."""
    feed = held(shape, device)
    both = {"fastest": replace(way, deterministic=False), "deterministic": replace(way, deterministic=True)}
    return alternate(
        {name: Training(shape, device, feed, one).step for name, one in both.items()},
        rounds=rounds,
        calls=CALLS_ON_CUDA if device.type == "cuda" else 1,
        device=device,
        before={name: partial(one.settle, device) for name, one in both.items()},
    )


def _return_freed_memory() -> None:
    """What glibc does after a while if it is told nothing: blocks above 32 MB are mapped anew each time.

    Its thresholds adapt themselves up to these values; see mallopt(3), M_MMAP_THRESHOLD.
    """
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 32 * 2**20)
    mallopt(trim_threshold, 64 * 2**20)


def trace(shape: Shape, device: torch.device, way: Way, path: Path) -> str:
    """Profile a few steps of ours into a file for chrome://tracing; a table of what takes longest."""
    way.settle(device)
    training = Training(shape, device, held(shape, device), way)
    for _ in range(TRACED_STEPS):
        training.step()
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(TRACED_STEPS):
            training.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    profile.export_chrome_trace(str(path))
    by = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table: str = profile.key_averages().table(sort_by=by, row_limit=12, max_name_column_width=48)
    return table
