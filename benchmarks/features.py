"""Milliseconds an image of the EfficientNet features by batch size: why features.CPU_BATCH is what it is."""

import statistics
import time
from dataclasses import replace

import torch

from pix2pix import features

SIZES = (1, 2, 4, 8, 16, 48)


def milliseconds(device: torch.device, *, images: int, rounds: int) -> dict[int, float]:
    """The median for each batch size, all sizes in turns."""
    extractor = features.load("efficientnet-lite0", device=device)
    pixels = torch.randint(0, 256, (images, 3, 128, 128), dtype=torch.uint8)
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(rounds):
        for size in SIZES:
            started = time.perf_counter()
            replace(extractor, batch=size)(pixels)
            times[size].append(1e3 * (time.perf_counter() - started) / images)
    return {size: statistics.median(values) for size, values in times.items()}
