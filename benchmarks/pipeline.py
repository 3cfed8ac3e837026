"""Pairs from disk to updated weights: how they come, and a training step with its data."""

import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.autograd import DeviceType

from pix2pix import feed, images, synthetic
from pix2pix.pair_files import PairFiles

from . import reference
from .alternating import Comparison, alternate
from .ours import Shape, Training, Way, items
from .train_step import CALLS_ON_CUDA, settings_of_each

# As many as facades has; beyond the first hundred they are links to these.
PAIRS, DISTINCT = 400, 100


def write_pairs(folder: Path, shape: Shape, count: int) -> None:
    """The same pairs as the reference reads them, combined at 256 px, and as `prepare` leaves them."""
    raw, prepared = folder / "raw", folder / "train"
    raw.mkdir()
    for side in ("input", "target"):
        (prepared / side).mkdir(parents=True)
    for index in range(count):
        if index >= DISTINCT:
            for side in (raw, prepared / "input", prepared / "target"):
                (side / f"{index:06}.png").hardlink_to(side / f"{index % DISTINCT:06}.png")
            continue
        photo, labels = synthetic.draw_pair(seed=1, index=index, image_px=256)
        images.write_png(raw / f"{index:06}.png", np.concatenate([labels, photo], 1))
        for side, pixels in (("input", labels), ("target", photo)):
            stored = images.resize(pixels, shape.load_px, shape.load_px, "area")
            images.write_prepared(prepared / side / f"{index:06}.png", stored)


def raw_files(folder: Path) -> list[Path]:
    """Of `write_pairs`, for the reference."""
    return sorted((folder / "raw").iterdir())


def prepared_files(folder: Path) -> PairFiles:
    """Of `write_pairs`, for ours."""
    return PairFiles.find(folder / "train")


@contextmanager
def on_disk(shape: Shape, count: int) -> Iterator[tuple[list[Path], PairFiles]]:
    """Both, of as many pairs."""
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(Path(folder), shape, count)
        yield raw_files(Path(folder)), prepared_files(Path(folder))


def opened(files: PairFiles, shape: Shape, device: torch.device, cache: str) -> feed.Feed:
    """The feed that train.cache = device or stream gives."""
    placement = feed.place(cache, [files], device)
    workers = feed.loader_workers("auto", device)
    return feed.open_split(files, placement, shape.px, device, workers, persistent=True)[0]


def crops(source: feed.Feed, shape: Shape) -> Callable[[], object]:
    """Gives the next batch of crops on the device."""
    batches = items(source, shape)
    return lambda: source.crops(next(batches), shape.px)


def data(shape: Shape, *, device: torch.device, rounds: int, calls: int = 20) -> Comparison:
    """A batch of crops on the device: decoded by the reference's loader, streamed and held by ours."""
    count = max(PAIRS, 2 * shape.batch)
    with on_disk(shape, count) as (raw, files):
        decoded = reference.loader(raw, shape)
        ways: dict[str, Callable[[], object]] = {
            "reference": lambda: [side.to(device) for side in next(decoded)],
            "streamed": crops(opened(files, shape, device, "stream"), shape),
            "held": crops(opened(files, shape, device, "device"), shape),
        }
        compared = alternate(ways, rounds=rounds, calls=calls, device=device)
        decoded.close()
        return compared


@dataclass(frozen=True)
class Compared:
    """What `compare` gives.

    Attributes:
        whole: a step with its data, the reference's from disk and ours as train.cache = auto has it.
        alone: ours with data, and always on the same pairs: what is left when no data has to come.
        gpu_share: of the time of ours with data, that kernels run on the GPU; None elsewhere.
    """

    whole: Comparison
    alone: Comparison
    gpu_share: float | None


def compare(shape: Shape, way: Way, *, device: torch.device, rounds: int) -> Compared:
    """A step with its data, and how much of the time goes into what."""
    way.settle(device)
    calls = CALLS_ON_CUDA if device.type == "cuda" else 1
    with on_disk(shape, max(PAIRS, shape.batch)) as (raw, files):
        decoded = reference.loader(raw, shape)
        source = opened(files, shape, device, "auto")
        training = Training(shape, device, source, way)
        ways = {"reference": reference.step(shape, device, decoded), "ours": training.step}
        whole = alternate(
            ways, rounds=rounds, calls=calls, device=device, before=settings_of_each(way, device)
        )
        way.settle(device)
        # A feed that streams has one epoch at a time.
        item = next(items(opened(files, shape, device, "auto"), shape)).clone()
        computing = {"with data": training.step, "same pairs": lambda: training.repeat(item)}
        alone = alternate(computing, rounds=rounds, calls=calls, device=device)
        gpu_share = None
        if device.type == "cuda":
            # Profiled steps take longer, their kernels do not.
            seconds = statistics.median(alone.seconds["with data"])
            gpu_share = min(1.0, kernel_seconds(training.step, calls) / seconds)
        decoded.close()
    return Compared(whole, alone, gpu_share)


def kernel_seconds(step: Callable[[], object], steps: int) -> float:
    """Seconds a step that kernels run on the GPU, by torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    return seconds_of_kernels(profile.events()) / steps


def seconds_of_kernels(events: Iterable[Any]) -> float:
    """Of all kernels among a profile's events; copies and what the host does are none."""
    return sum(
        event.time_range.elapsed_us() / 1e6
        for event in events
        if event.device_type == DeviceType.CUDA
        and not event.is_user_annotation
        and not event.name.startswith(("Memcpy", "Memset"))
    )
