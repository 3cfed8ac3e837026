"""Pairs from disk to updated weights: how they come, and a training step with its data."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from pix2pix import devices, feed, images, synthetic
from pix2pix.pair_files import PairFiles

from . import reference
from .alternating import Comparison, alternate
from .ours import Shape, Training, items

PAIRS = 96


@contextmanager
def on_disk(shape: Shape, count: int) -> Iterator[tuple[list[Path], PairFiles]]:
    """The same pairs as the reference reads them, combined at 256 px, and as `prepare` leaves them."""
    with tempfile.TemporaryDirectory() as folder:
        raw, prepared = Path(folder) / "raw", Path(folder) / "train"
        raw.mkdir()
        for side in ("input", "target"):
            (prepared / side).mkdir(parents=True)
        for index in range(count):
            photo, labels = synthetic.draw_pair(seed=1, index=index, image_px=256)
            images.write_png(raw / f"{index:06}.png", np.concatenate([labels, photo], 1))
            for side, pixels in (("input", labels), ("target", photo)):
                stored = images.resize(pixels, shape.load_px, shape.load_px, "area")
                images.write_prepared(prepared / side / f"{index:06}.png", stored)
        yield sorted(raw.iterdir()), PairFiles.find(prepared)


def opened(files: PairFiles, shape: Shape, device: torch.device, cache: str) -> feed.Feed:
    """The feed that train.cache = device or stream gives."""
    placement = feed.place(cache, [files], device)
    workers = feed.loader_workers("auto", device)
    return feed.open_split(files, placement, shape.px, device, workers, persistent=True)[0]


def data(shape: Shape, *, device: torch.device, rounds: int, calls: int = 20) -> Comparison:
    """A batch of crops on the device: decoded by the reference's loader, streamed and held by ours."""
    count = max(PAIRS, 2 * shape.batch)
    with on_disk(shape, count) as (raw, files):
        decoded = reference.loader(raw, shape)
        ways = {"reference": lambda: [side.to(device) for side in next(decoded)]}
        for name, cache in (("streamed", "stream"), ("held", "device")):
            source = opened(files, shape, device, cache)
            batches = items(source, shape)
            ways[name] = lambda source=source, batches=batches: [  # type: ignore[misc]
                *source.crops(next(batches), shape.px)
            ]
        compared = alternate(ways, rounds=rounds, calls=calls, device=device)
        decoded.close()
        return compared


def compare(
    shape: Shape, *, device: torch.device, precision: str = "auto", rounds: int
) -> tuple[Comparison, Comparison]:
    """A step with its data, the reference's from disk and ours as train.cache = auto has it; ours alone."""
    devices.prefer_determinism(False, device)
    devices.keep_freed_memory()
    calls = 25 if device.type == "cuda" else 1
    with on_disk(shape, max(PAIRS, shape.batch)) as (raw, files):
        decoded = reference.loader(raw, shape)
        source = opened(files, shape, device, "auto")
        training = Training(shape, device, source, precision)
        ways = {"reference": reference.step(shape, device, decoded), "ours": training.step}
        whole = alternate(ways, rounds=rounds, calls=calls, device=device)
        # The same pairs again and again: what is left of a step when no data has to come.
        item = next(items(source, shape)).clone()
        computing = {"with data": training.step, "computing": lambda: training.repeat(item)}
        alone = alternate(computing, rounds=rounds, calls=calls, device=device)
        decoded.close()
    return whole, alone
