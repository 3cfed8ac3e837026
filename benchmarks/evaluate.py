"""Features a second by batch size on this machine: why features.CPU_BATCH is what it is.

python -m benchmarks.evaluate
"""

import statistics
import time
from dataclasses import replace

import torch

from pix2pix import devices, features

IMAGES, ROUNDS = 48, 3


def main() -> None:
    """Print milliseconds an image for each batch size, all sizes in turns."""
    device, words = devices.choose("auto")
    threads = devices.set_threads("auto")
    extractor = features.load("efficientnet-lite0", device=device)
    pixels = torch.randint(0, 256, (IMAGES, 3, 128, 128), dtype=torch.uint8)
    sizes = (1, 2, 4, 8, 16, 48)
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(ROUNDS):
        for size in sizes:
            started = time.perf_counter()
            replace(extractor, batch=size)(pixels)
            times[size].append((time.perf_counter() - started) / IMAGES)
    print(f"{words}, {threads} threads, torch {torch.__version__}")
    for size, values in times.items():
        print(f"batch {size:3}  {1e3 * statistics.median(values):6.1f} ms an image")


if __name__ == "__main__":
    main()
