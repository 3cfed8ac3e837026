"""What a figure was measured on."""

import platform
from pathlib import Path

import torch


def processor() -> str:
    """The first core's model, as the system names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def described(device: torch.device, threads: int) -> str:
    """What computes, in a few words."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{processor()}, {threads} threads" if device.type == "cpu" else device.type
