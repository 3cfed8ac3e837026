"""Which device computes, said in words."""

import ctypes
import math
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

from .errors import UserError
from .params import Size, height_width

# Of smaller images a step has too little arithmetic in it to gain (docs/benchmarks.md).
CPU_BF16_PIXELS = 256 * 256

CONTROL_GROUPS, OWN_CONTROL_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

# As torch and the C library say it; only CUDA's has a class of its own.
EXHAUSTED = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed")


def choose(wanted: str, number: int = 0) -> tuple[torch.device, str]:
    """Resolve train.device.

    Args:
        wanted: auto, cpu, cuda or mps.
        number: of the CUDA device.

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
        return torch.device("cuda", number), f"{torch.cuda.get_device_name(number)} ({reason})"
    return torch.device(name), f"{name} ({reason})"


def _why(present: dict[str, bool], name: str) -> str:
    missing = [other for other in ("cuda", "mps") if not present[other]]
    return (
        "no GPU found"
        if name == "cpu"
        else f"auto: {name} found" + ("" if "cuda" not in missing else ", no cuda")
    )


def choose_precision(wanted: str, device: torch.device, image_px: Size) -> str:
    """Resolve train.precision: auto is bf16 where a step is faster for it, fp32 elsewhere.

    It is on a GPU that computes in it, and from 256 × 256 px on a CPU with AVX-512 BF16 or AMX.

    Args:
        wanted: auto, bf16 or fp32.
        device: that trains.
        image_px: size of the images it trains on.

    Returns:
        bf16 or fp32. Weights, moments and losses are float32 either way.

    Raises:
        UserError: bf16 is asked for where it cannot be had.
    """
    if device.type == "cuda":
        can = gains = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        can = device.type == "cpu"
        gains = can and math.prod(height_width(image_px)) >= CPU_BF16_PIXELS and _cpu_multiplies_bf16()
    if wanted == "bf16" and not can:
        raise UserError(f"train.precision = 'bf16': this {device.type} has no bfloat16; use auto or fp32")
    return ("bf16" if gains else "fp32") if wanted == "auto" else wanted


def _cpu_multiplies_bf16() -> bool:
    """Not only converts it, which other CPUs do as well, at a loss."""
    # An older torch does not tell.
    has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def wants_channels_last(device: torch.device, precision: str) -> bool:
    """Whether images are kept pixel by pixel: what matrix units take, and 1.2 times slower on a CPU."""
    return device.type == "cuda" and precision == "bf16"


def prefer_determinism(deterministic: bool, device: torch.device) -> str:
    """Set train.deterministic, and that float32 is float32; returns what it costs, in words for the log."""
    _compute_in_float32()
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
    if device.type != "cuda":
        return "deterministic"
    if deterministic:
        return (
            "deterministic: cuDNN may only use convolutions that add up in a fixed order, not the fastest "
            "(train.deterministic)"
        )
    return "not deterministic: the fastest convolutions, and the same seed gives other bits each time"


def set_threads(wanted: int | str, shared_by: int = 1) -> int:
    """Set and return the CPU threads of torch, see `resolve_threads`.

    Called once, before tensors are made, so it also settles how their memory is kept.
    """
    keep_freed_memory()
    torch.set_num_threads(threads := resolve_threads(wanted, shared_by))
    return threads


def resolve_threads(wanted: int | str, shared_by: int = 1) -> int:
    """Resolve train.threads: auto is every core this process may use, or its share of them."""
    return max(1, available_cores() // shared_by) if wanted == "auto" else int(wanted)


def compute_exactly() -> None:
    """Full float32 on a GPU, added up in a fixed order: measured pixels are those of the exported file."""
    _compute_in_float32()
    torch.backends.cudnn.deterministic = True


def _compute_in_float32() -> None:
    """By default cuDNN cuts the factors of a convolution in float32 to the 10 bits of TF32."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


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


def images_at_once(most: int, height: int, width: int) -> int:
    """How many images go through a network together where none of them has to: `most` up to 256 × 256 px.

    Of larger ones fewer, for the same memory; at least one.
    """
    return max(1, min(most, most * 256 * 256 // (height * width)))


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_bytes(device: torch.device) -> int:
    """Memory that this process can still have on a device."""
    if device.type == "cuda":
        # What torch holds without using it is free as well.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min(_system_free_bytes(), _group_free_bytes(), _limit_free_bytes())


def _system_free_bytes() -> int:
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    # Elsewhere than on Linux: half of what the machine has.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _group_free_bytes() -> int:
    """What a container's limit leaves, or that of a service or job: version 2 of Linux' control groups."""
    group, least = CONTROL_GROUPS, sys.maxsize
    with suppress(OSError, StopIteration):
        lines = OWN_CONTROL_GROUP.read_text(encoding="utf-8").splitlines()
        own = next(line for line in lines if line.startswith("0::"))
        group /= own.removeprefix("0::").strip("/")
    for each in (group, *group.parents):
        with suppress(OSError, ValueError):
            limit = int((each / "memory.max").read_text(encoding="ascii"))
            held = int((each / "memory.current").read_text(encoding="ascii"))
            lines = (each / "memory.stat").read_text(encoding="ascii").splitlines()
            # Files that were read once go when the memory is wanted.
            cached = int(dict(line.split() for line in lines)["inactive_file"])
            least = min(least, limit - held + cached)
        if each == CONTROL_GROUPS:
            break
    return least


def _limit_free_bytes() -> int:
    """What `ulimit -v` leaves."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            return limit - pages * os.sysconf("SC_PAGE_SIZE")
    return sys.maxsize


def is_exhausted(error: BaseException) -> bool:
    """Whether an error is that of a device or machine without enough memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in EXHAUSTED)
