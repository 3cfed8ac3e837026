"""How the figures move with the batch, the images' size and the number of pairs; and the memory they take."""

import importlib.util
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pix2pix import devices
from pix2pix.errors import UserError

from . import limits, pipeline, reference
from .ours import Shape, Training, Way, held

BATCHES, SIZES_PX, FEWEST_PAIRS = (1, 2, 4, 8, 16, 32, 64), (64, 128, 256, 512), 100
# A point is measured for so long, or for its fewest calls.
SECONDS, FEWEST_CALLS = 2.0, 2
# The reference first. Pairs of ours are streamed from disk, or held on the device.
WAYS = {
    "train_step": ("reference", "ours"),
    "data": ("reference", "streamed", "held"),
    "pipeline": ("reference", "streamed", "held"),
    "inference": ("PyTorch, training mode", "exported file"),
}
FROM_DISK = ("data", "pipeline")
CACHES = {"streamed": "stream", "held": "device"}


@dataclass(frozen=True)
class Point:
    """One way of one benchmark at one size of everything.

    Attributes:
        of, way: keys of WAYS and one of its values.
        varied: batch, px or pairs.
        pairs: on disk, or on the device where none come from disk.
    """

    of: str
    way: str
    varied: str
    shape: Shape
    pairs: int

    @property
    def value(self) -> int:
        return {"batch": self.shape.batch, "px": self.shape.px, "pairs": self.pairs}[self.varied]

    def __str__(self) -> str:
        return f"{self.of}, by {self.varied}: {self.value:,}, {self.way}"


@dataclass(frozen=True)
class Measured:
    """Images a second, and the most memory in MB where it tells something; all None where it did not suffice.

    Attributes:
        peak_mb: of the device that computes.
        host_mb: of the process in the machine's own memory, without those that read for it.
    """

    images_per_s: float | None = None
    peak_mb: float | None = None
    host_mb: float | None = None


def points(of: str, shape: Shape, most_pairs: int) -> Iterator[list[Point]]:
    """All of a benchmark around this shape: the ways of each size together."""

    def ways(varied: str, shape: Shape, pairs: int) -> list[Point]:
        return [Point(of, way, varied, shape, pairs) for way in WAYS[of]]

    for batch in BATCHES:
        # What is left over of an epoch is no batch.
        yield ways("batch", replace(shape, batch=batch), max(FEWEST_PAIRS, 2 * batch))
    for px in SIZES_PX:
        yield ways("px", replace(shape, px=px), max(FEWEST_PAIRS, 2 * shape.batch))
    pairs = FEWEST_PAIRS
    while of in FROM_DISK and pairs <= most_pairs:
        yield ways("pairs", shape, pairs)
        pairs *= 10


def measure(
    points: Sequence[Point], device_name: str, threads: int, way: Way
) -> Iterator[tuple[Point, Measured]]:
    """Points of the same shape and pairs, one after the other, each in a process of its own.

    So its memory is its own, and what one tells the C library does not reach the next.
    """
    spawn = multiprocessing.get_context("spawn")
    first = points[0]
    with tempfile.TemporaryDirectory() as folder:
        if first.of in FROM_DISK:
            pipeline.write_pairs(Path(folder), first.shape, first.pairs)
        for point in points:
            found = Measured()
            # Linux kills a process that takes the last of the memory.
            with (
                suppress(BrokenProcessPool),
                ProcessPoolExecutor(max_workers=1, mp_context=spawn) as process,
            ):
                found = process.submit(measured, point, Path(folder), device_name, threads, way).result()
            yield point, found


def measured(point: Point, folder: Path, device_name: str, threads: int, way: Way) -> Measured:
    """A point, in this process; `folder` has its pairs."""
    torch.set_num_threads(threads)
    device = devices.choose(device_name)[0]
    try:
        found = _timed(_call(point, folder, device, threads, way), point.shape.batch, device)
        # Each of its processes holds both generators, and has exported one.
        return Measured(found.images_per_s) if point.of == "inference" else found
    except UserError:
        # More pairs than can be held.
        return Measured()
    except (MemoryError, RuntimeError) as error:
        if not devices.is_exhausted(error):
            raise
        return Measured()


def _call(point: Point, folder: Path, device: torch.device, threads: int, way: Way) -> Callable[[], object]:
    """What is done once for each batch; each side with the settings that it runs with."""
    if point.of == "inference":
        # Not above: loader processes that are forked with onnxruntime in them abort at their end.
        from . import inference

        return inference.ways(point.shape, threads)[point.way]
    if point.way == "reference":
        if device.type == "cuda":
            reference.settle()
        return _reference(point, folder, device)
    way.settle(device)
    return _ours(point, folder, device, way)


def _reference(point: Point, folder: Path, device: torch.device) -> Callable[[], object]:
    if point.of == "train_step":
        return reference.step(point.shape, device)
    decoded = reference.loader(pipeline.raw_files(folder), point.shape)
    if point.of == "pipeline":
        return reference.step(point.shape, device, decoded)
    return lambda: [side.to(device) for side in next(decoded)]


def _ours(point: Point, folder: Path, device: torch.device, way: Way) -> Callable[[], object]:
    if point.of == "train_step":
        return Training(point.shape, device, held(point.shape, device), way).step
    source = pipeline.opened(pipeline.prepared_files(folder), point.shape, device, CACHES[point.way])
    if point.of == "pipeline":
        return Training(point.shape, device, source, way).step
    return pipeline.crops(source, point.shape)


def _timed(call: Callable[[], object], batch: int, device: torch.device) -> Measured:
    call()
    _wait(device)
    calls, begun = 0, time.perf_counter()
    while calls < FEWEST_CALLS or time.perf_counter() - begun < SECONDS:
        call()
        calls += 1
        if calls % 20 == 0:
            _wait(device)
    _wait(device)
    seconds = time.perf_counter() - begun
    return Measured(calls * batch / seconds, limits.peak_mb(device), limits.host_peak_mb())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


# --- the picture -------------------------------------------------------------------------------------

TITLES = {
    "train_step": "A training step,\nnothing from disk",
    "data": "Pairs from disk\nto crops",
    "pipeline": "A training step\nwith its pairs",
    "inference": "The generator\nalone",
}
LABELS = {"batch": "images in a batch", "px": "side of the images in px", "pairs": "pairs on disk"}
COLOURS = {
    "reference": "0.55",
    "PyTorch, training mode": "0.55",
    "streamed": "tab:orange",
    "held": "tab:blue",
    "ours": "tab:blue",
    "exported file": "tab:blue",
}
# Of these the memory tells something.
MEMORY_BY = {"train_step": "batch", "pipeline": "pairs"}


def refuse_to_draw() -> None:
    """Before hours of measuring.

    Raises:
        UserError: there is nothing to draw with.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "--plot: needs matplotlib, which is not installed here; install it or leave --plot out"
        )


def draw(path: Path, found: dict[Point, Measured], title: str) -> None:
    """A row for each benchmark, a panel for each thing that is varied."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [of for of in WAYS if any(point.of == of for point in found)]
    figure = Figure(figsize=(12, 3 * len(rows) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels: Any = figure.subplots(len(rows), 4, squeeze=False)
    for of, row in zip(rows, panels, strict=True):
        for axes, varied in zip(row, LABELS, strict=False):
            _panel(axes, {point: one.images_per_s for point, one in found.items()}, of, varied, "images/s")
        memory = {point: one.peak_mb for point, one in found.items()}
        _panel(row[3], memory, of, MEMORY_BY.get(of, ""), "MB at the peak")
        row[0].annotate(
            TITLES[of],
            (-0.36, 0.5),
            xycoords="axes fraction",
            rotation=90,
            ha="center",
            va="center",
            fontsize=10,
            fontweight="bold",
        )
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _panel(axes: Any, found: dict[Point, float | None], of: str, varied: str, unit: str) -> None:
    from matplotlib.ticker import LogLocator

    for way in WAYS[of]:
        line = [
            (point.value, value)
            for point, value in found.items()
            if (point.of, point.way, point.varied) == (of, way, varied) and value is not None
        ]
        if line:
            axes.plot(*zip(*line, strict=True), marker="o", markersize=4, label=way, color=COLOURS[way])
    values = sorted({point.value for point in found if (point.of, point.varied) == (of, varied)})
    if not values:
        axes.axis("off")
        return
    axes.set_xscale("log")
    axes.set_xticks([], minor=True)
    axes.set_xticks(values, [f"{value:,}" for value in values])
    # Held pairs are a different order of magnitude from those that are read.
    if varied == "px" or of == "data":
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            formatted("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(LABELS[varied], fontsize=8)
    axes.set_ylabel(unit, fontsize=8)
    axes.tick_params(which="both", labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
