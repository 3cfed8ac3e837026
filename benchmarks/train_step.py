"""One training step of ours against the reference's procedure.

Ours is the step that `stages.train` takes: it cuts its crops from pairs on the device, and on CUDA it is
captured and computes in bfloat16. The reference's is given its tensors for nothing.

Ours also tells the C library to keep what tensors free (devices.keep_freed_memory), which torch by itself
does not. The ratio without that difference, the reference too keeping it, is given beside.
"""

import ctypes
import sys
from pathlib import Path

import torch

from pix2pix import devices

from . import reference
from .alternating import Comparison, alternate
from .ours import Shape, Training, held

# A GPU is waited for once in so many steps, as a training does.
CALLS_ON_CUDA = 25
TRACED_STEPS = 5


def compare(
    shape: Shape, *, device: torch.device, precision: str = "auto", rounds: int
) -> dict[str, Comparison]:
    """Both in turns, with the reference's memory as torch leaves it (`own`) and as ours is kept (`kept`)."""
    devices.prefer_determinism(False, device)
    ways = {
        "reference": reference.step(shape, device),
        "ours": Training(shape, device, held(shape, device), precision).step,
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
    devices.keep_freed_memory()
    compared["kept"] = alternate(ways, rounds=rounds, calls=calls, device=device)
    return compared


def _return_freed_memory() -> None:
    """What glibc does after a while if it is told nothing: blocks above 32 MB are mapped anew each time.

    Its thresholds adapt themselves up to these values; see mallopt(3), M_MMAP_THRESHOLD.
    """
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 32 * 2**20)
    mallopt(trim_threshold, 64 * 2**20)


def trace(shape: Shape, device: torch.device, precision: str, path: Path) -> str:
    """Profile a few steps of ours into a file for chrome://tracing; a table of what takes longest."""
    training = Training(shape, device, held(shape, device), precision)
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
