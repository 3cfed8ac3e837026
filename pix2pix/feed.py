"""Where training pairs come from: held on the device, or streamed from disk by worker processes.

Either way the same rows of jitter (`EpochPlan.rows`) give the same crops, bit for bit.
"""

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.util import Finalize
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from . import devices
from .augment import crop
from .decoding import Samples
from .encoding import RGB8, Encoding
from .errors import UserError
from .pair_files import PairFiles
from .params import Size

# Of what is free on the device, the rest being for the training itself.
CACHE_SHARE = 0.5
# Batches that each worker has ready.
PREFETCHED = 4

Rows = NDArray[np.int64]


class Feed(Protocol):
    """A split to train on or to validate with.

    Attributes:
        names: of the pairs, in order.
        size_px: height and width of the stored images.
        reads: whether `items` may have to wait for a disk.
    """

    names: tuple[str, ...]
    size_px: tuple[int, int]
    reads: bool

    def items(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """What `crops` needs for each batch, on the device.

        Args:
            batches: int64 [batch, 4] each, see `EpochPlan.rows`.
        """

    def crops(self, item: Tensor, image_px: Size) -> tuple[Tensor, Tensor]:
        """Inputs and targets, [batch, channels, height, width] each, on the device, as they are stored.

        It takes the same operations for items of the same shape, so that it can be captured.
        """


class CachedFeed:
    """Pairs that live on the device and are cropped there; an item is the batch's rows of jitter."""

    reads = False

    def __init__(
        self, names: tuple[str, ...], pixels: Tensor, sides: tuple[Encoding, Encoding] = (RGB8, RGB8)
    ) -> None:
        """`pixels`: [pairs, input's and target's channels, height, width] on the device."""
        self.names, self.pixels, self.sides = names, pixels, sides
        self.size_px = pixels.shape[-2], pixels.shape[-1]

    def items(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        # One transfer an epoch.
        rows = torch.from_numpy(np.concatenate(batches)).to(self.pixels.device)
        first = 0
        for batch in batches:
            yield rows[first : first + len(batch)]
            first += len(batch)

    def crops(self, item: Tensor, image_px: Size) -> tuple[Tensor, Tensor]:
        return _apart(crop(self.pixels, item, image_px), self.sides)


@contextmanager
def lost_workers_named(wanted: int | str) -> Iterator[None]:
    """Turn the end of a process that reads pairs into one line; torch raises wherever the trainer is.

    Args:
        wanted: run.loader_workers.

    Raises:
        UserError: one was killed, or died for want of memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        reason = str(error).partition(".")[0].rpartition(") ")[2]
        raise UserError(
            f"run.loader_workers = {wanted}: a process that reads pairs {reason}; if memory or /dev/shm ran "
            "out, lower it or train.batch; the same command goes on from the last checkpoint"
        ) from error


class StreamedFeed:
    """Pairs that are read and cropped by worker processes; an item is the batch of crops itself.

    Args:
        workers: processes; 0 reads in this one.
        persistent: the workers stay from one epoch to the next.
    """

    reads = True

    def __init__(
        self, files: PairFiles, image_px: Size, device: torch.device, workers: int, persistent: bool = True
    ) -> None:
        self.names, self.size_px, self.sides = files.names, files.size_px, files.sides
        self.workers = workers
        self._device = device
        self._batches: list[Rows] = []
        is_over = multiprocessing.RawValue(ctypes.c_bool, False)
        # Before the children are ended, also where this process is itself a child, which atexit is not for.
        Finalize(None, setattr, (is_over, "value", True), exitpriority=0)
        self._loader = DataLoader(
            _Crops(files, image_px),
            batch_sampler=self._batches,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            prefetch_factor=PREFETCHED if workers else None,
            persistent_workers=persistent and workers > 0,
            worker_init_fn=partial(_leave_signals_to_the_trainer, is_over),
            # It draws a seed for its workers every epoch: not from the state that dropout draws from.
            generator=torch.Generator(),
        )

    def items(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        self._batches[:] = batches
        for item in self._delivered():
            if isinstance(item, UserError):
                # A new one: an exception that this frame holds would hold the frame, and it the workers.
                raise UserError(str(item))
            yield item.to(self._device, non_blocking=True)

    def _delivered(self) -> Iterator[Tensor | UserError]:
        batches = iter(self._loader)
        while True:
            try:
                item = next(batches)
            except StopIteration:
                return
            except ConnectionResetError as error:
                # A worker was killed while it sent; torch may see that later than its pipe does.
                raise RuntimeError("DataLoader worker (unknown) is killed by signal: Killed") from error
            yield item

    def crops(self, item: Tensor, image_px: Size) -> tuple[Tensor, Tensor]:
        return _apart(item, self.sides)


def _joined(pair: tuple[Samples, Samples]) -> Tensor:
    """A pair in one tensor, of `PairFiles.joined_dtype`: one crop of it cuts both sides."""
    return torch.from_numpy(np.concatenate(pair))


def _apart(joined: Tensor, sides: tuple[Encoding, Encoding]) -> tuple[Tensor, Tensor]:
    """The two sides of joined pairs [batch, channels, …], each in its own type."""
    source, target = torch.split(joined, [side.channels for side in sides], 1)
    return source.to(getattr(torch, sides[0].dtype)), target.to(getattr(torch, sides[1].dtype))


class _Crops(Dataset[Tensor | UserError]):
    """Batches by their rows of jitter; nothing is kept from one to the next."""

    def __init__(self, files: PairFiles, image_px: Size) -> None:
        self._files, self._image_px = files, image_px

    def __getitems__(self, rows: Rows) -> Tensor | UserError:
        try:
            return torch.cat([self._crop(row) for row in rows])
        except UserError as error:
            # A worker's exception would arrive with the worker's traceback in its one line.
            return error

    def _crop(self, row: NDArray[np.int64]) -> Tensor:
        stored = _joined(self._files.read(int(row[0])))[None]
        return crop(stored, torch.tensor([[0, *row[1:]]]), self._image_px)


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_trainer(is_over: ctypes.c_bool, worker: int) -> None:
    """A signal to the whole group must not end a worker before the trainer has written its checkpoint."""

    def end(signum: int, frame: FrameType | None) -> None:
        # At its exit Python ends its children with this signal and waits for them.
        if is_over.value:
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)


def in_batches(rows: Rows, batch: int) -> list[Rows]:
    """Rows of jitter in their order, the last batch possibly smaller."""
    return [rows[first : first + batch] for first in range(0, len(rows), batch)]


@dataclass(frozen=True)
class Placement:
    """Whether the pairs are held on the device, and the decision in words."""

    cached: bool
    words: str


def place(wanted: str, splits: Sequence[PairFiles], device: torch.device, shared_by: int = 1) -> Placement:
    """Resolve train.cache.

    Args:
        wanted: auto, device or stream. auto holds what takes at most half of the memory that is free.
        shared_by: processes that would each hold the pairs in this memory.
    """
    needed, free = sum(files.pixel_bytes for files in splits) * shared_by, devices.free_bytes(device)
    cached = needed <= CACHE_SHARE * free if wanted == "auto" else wanted == "device"
    pairs = " + ".join(str(len(files)) for files in splits)
    where = f"held on {device.type}" if cached else "streamed from disk"
    words = (
        f"{pairs} pairs of {needed / 1e6:.1f} MB {where} ({free / 1e9:.1f} GB free; train.cache = {wanted})"
    )
    return Placement(cached, words)


def loader_workers(wanted: int | str, device: torch.device, shared_by: int = 1) -> int:
    """Resolve run.loader_workers: auto is up to 8 of the cores, but one where the cores do the training."""
    if wanted != "auto":
        return int(wanted)
    return 1 if device.type == "cpu" else max(1, min(8, devices.available_cores() // shared_by))


def open_split(
    files: PairFiles,
    placement: Placement,
    image_px: Size,
    device: torch.device,
    workers: int,
    persistent: bool,
) -> tuple[Feed, str]:
    """A split ready to train on, and its digest; every pair is read once.

    Args:
        image_px: size of the crops.
        workers, persistent: see `StreamedFeed`.
    """
    if not placement.cached:
        return StreamedFeed(files, image_px, device, workers, persistent), files.sha256()
    try:
        dtype = getattr(torch, files.joined_dtype.name)
        pixels = torch.empty((len(files), *files.joined_shape), dtype=dtype, device=device)
    except (MemoryError, RuntimeError) as error:
        if not devices.is_exhausted(error):
            raise
        raise UserError(
            f"train.cache = 'device': {len(files)} pairs of {files.pixel_bytes / 1e6:.1f} MB are more than "
            f"{device.type} has free; use auto or stream"
        ) from error

    def keep(index: int, pair: tuple[Samples, Samples]) -> None:
        pixels[index].copy_(_joined(pair))

    digest = files.sha256(keep)
    return CachedFeed(files.names, pixels, files.sides), digest
