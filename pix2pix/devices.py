"""Which device computes, said in words."""

import ctypes
import os
import sys

import torch

from .errors import UserError


def choose(wanted: str) -> tuple[torch.device, str]:
    """Resolve train.device.

    Args:
        wanted: auto, cpu, cuda or mps.

    Returns:
        The device and one phrase that says what it is and why it was taken.

    Raises:
        UserError: it does not exist here.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(name for name, here in present.items() if here) if wanted == "auto" else wanted
    if not present[name]:
        raise UserError(f"train.device = {wanted!r}: no such device here; use auto or cpu")
    reason = "train.device asks for it" if wanted != "auto" else _why(present, name)
    if name == "cuda":
        return torch.device("cuda", 0), f"{torch.cuda.get_device_name(0)} ({reason})"
    return torch.device(name), f"{name} ({reason})"


def _why(present: dict[str, bool], name: str) -> str:
    missing = [other for other in ("cuda", "mps") if not present[other]]
    return (
        "no GPU found"
        if name == "cpu"
        else f"auto: {name} found" + ("" if "cuda" not in missing else ", no cuda")
    )


def set_threads(wanted: int | str) -> int:
    """Set and return the CPU threads of torch; auto is every core this process may use.

    Called once, before tensors are made, so it also settles how their memory is kept.
    """
    keep_freed_memory()
    threads = available_cores() if wanted == "auto" else int(wanted)
    torch.set_num_threads(threads)
    return threads


def compute_exactly() -> None:
    """Full float32 on a GPU, added up in a fixed order: measured pixels are those of the exported file."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


def keep_freed_memory() -> None:
    """Let the C library keep what tensors free instead of handing every large block back to the system.

    By default glibc maps blocks above 32 MB anew each time and returns the top of its heap, so each step
    pays for thousands of page faults. Elsewhere than on Linux with glibc this does nothing.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt(mmap_threshold, 2**30)
    mallopt(trim_threshold, 2**31 - 1)


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
