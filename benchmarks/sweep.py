"""How a training's speed moves with the batch, the images' size and the number of pairs; and its memory."""

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pix2pix import devices, images
from pix2pix.errors import UserError
from pix2pix.pair_files import PairFiles

from . import limits
from .ours import Shape, Training, Way, held
from .pipeline import opened

BATCHES, SIZES_PX = (1, 2, 4, 8, 16, 32, 64), (64, 128, 256, 512)
# A point is measured for so long, or for its fewest steps.
SECONDS, FEWEST_STEPS = 3.0, 3
DISTINCT = 100


@dataclass(frozen=True)
class Point:
    """One training of a few steps.

    Attributes:
        varied: batch, px or pairs.
        cache: where pairs from disk are then, `device` or `stream`; empty for noise that is held.
    """

    varied: str
    shape: Shape
    pairs: int = 64
    cache: str = ""

    @property
    def kind(self) -> str:
        """What is varied, and where the pairs are."""
        return f"{self.varied}, {self.cache}" if self.cache else self.varied

    @property
    def value(self) -> int:
        return {"batch": self.shape.batch, "px": self.shape.px, "pairs": self.pairs}[self.varied]


@dataclass(frozen=True)
class Measured:
    """Images a second, and the most memory in MB; all None where the memory did not suffice.

    Attributes:
        peak_mb: of the device that trains.
        host_mb: of the training's process in the machine's own memory, without those that read for it.
    """

    images_per_s: float | None = None
    peak_mb: float | None = None
    host_mb: float | None = None


def points(shape: Shape, most_pairs: int) -> Iterator[Point]:
    """All of a sweep around this shape."""
    for batch in BATCHES:
        yield Point("batch", replace(shape, batch=batch))
    for px in SIZES_PX:
        yield Point("px", replace(shape, px=px))
    for cache in ("device", "stream"):
        pairs = 100
        while pairs <= most_pairs:
            yield Point("pairs", shape, pairs, cache)
            pairs *= 10


def measure(point: Point, device_name: str, threads: int, way: Way) -> Measured:
    """A point in a process of its own, so that its memory is its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as process:
        return process.submit(_measured, point, device_name, threads, way).result()


def _measured(point: Point, device_name: str, threads: int, way: Way) -> Measured:
    torch.set_num_threads(threads)
    device = devices.choose(device_name)[0]
    way.settle(device)
    try:
        with tempfile.TemporaryDirectory() as folder:
            # Only what is measured is held.
            feed = (
                opened(_linked(Path(folder), point), point.shape, device, point.cache)
                if point.cache
                else held(point.shape, device)
            )
            training = Training(point.shape, device, feed, way)
            return _timed(training, point.shape, device)
    except UserError:
        # More pairs than can be held.
        return Measured()
    except RuntimeError as error:
        if not devices.is_exhausted(error):
            raise
        return Measured()


def _timed(training: Training, shape: Shape, device: torch.device) -> Measured:
    for _ in range(2):
        training.step()
    _wait(device)
    steps, begun = 0, time.perf_counter()
    while steps < FEWEST_STEPS or time.perf_counter() - begun < SECONDS:
        training.step()
        steps += 1
        if steps % 20 == 0:
            _wait(device)
    _wait(device)
    seconds = time.perf_counter() - begun
    return Measured(steps * shape.batch / seconds, limits.peak_mb(device), limits.host_peak_mb())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _linked(folder: Path, point: Point) -> PairFiles:
    """As many pairs as are asked for, a hundred of them distinct: the others are links to these."""
    side_px = point.shape.load_px
    noise = np.random.default_rng(0)
    for side in ("input", "target"):
        (folder / side).mkdir()
        for index in range(point.pairs):
            path = folder / side / f"{index:06}.png"
            if index < DISTINCT:
                images.write_prepared(path, noise.integers(0, 256, (side_px, side_px, 3), np.uint8))
            else:
                path.hardlink_to(folder / side / f"{index % DISTINCT:06}.png")
    return PairFiles.find(folder)


def draw(path: Path, measured: dict[Point, Measured], title: str) -> None:
    """A panel for each of batch, size and number of pairs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels: Any = figure.subplots(1, 4)
    for axes, kinds, what, label in (
        (panels[0], ("batch",), "images_per_s", "images a second by batch"),
        (panels[1], ("px",), "images_per_s", "images a second by side in px"),
        (panels[2], ("pairs, device", "pairs, stream"), "images_per_s", "images a second by pairs"),
        (panels[3], ("pairs, device", "pairs, stream"), "peak_mb", "memory in MB by pairs"),
    ):
        for kind in kinds:
            found = [
                (point.value, getattr(value, what)) for point, value in measured.items() if point.kind == kind
            ]
            known = [(x, y) for x, y in found if y is not None]
            name = {"pairs, device": "held on the device", "pairs, stream": "streamed"}.get(kind, kind)
            axes.plot(*zip(*known, strict=True), marker="o", markersize=4, label=name)
        axes.set_xscale("log")
        axes.set_xticks([], minor=True)
        axes.set_xticks([x for x, _ in found], [f"{x:,}" for x, _ in found])
        axes.set_ylim(bottom=0)
        axes.set_title(label, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if len(kinds) > 1:
            axes.legend(fontsize=8, frameon=False)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=100, metadata={"Software": None})
