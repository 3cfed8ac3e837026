"""A training as it is seen from outside: on the terminal, in the tracker, as pictures."""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import torch

from pipeline import live_run
from pix2pix import images
from pix2pix.checkpoint import CheckpointFolder, GeneratorConfig
from pix2pix.events import Event, Finished, LossPoint, Started, Stepped, Validated, Warned
from pix2pix.params import Params

from .console import Update, duration, progress

log = logging.getLogger(__name__)

# Of the time; less is not worth a word.
SLOW_DATA_SHARE = 0.2
# Of the time left.
WORTH_SAYING_S = 5.0
# Not one that a kill left half-written, whose name begins with a dot.
SAMPLE_NAMES = "epoch-*.png"


def follow(
    events: Iterator[Event],
    params: Params,
    tracked: live_run.TrainingRun,
    folder: CheckpointFolder,
    names: Sequence[str],
    config: GeneratorConfig,
) -> Finished:
    """Show, track and draw what happens until the training is finished."""
    started = next(events)
    assert isinstance(started, Started)
    if started.step:
        log.info("going on from the checkpoint at step %d of %d", started.step, started.total_steps)
    total, epochs = started.total_steps, params.train.epochs
    clock = _Clock(started.step, params.train.batch)
    pace = _Pace(total, params)
    with progress("train", total=total, unit="steps", style=params.run.progress) as update:
        for event in events:
            match event:
                case Stepped(step):
                    update(step)
                case LossPoint(step, epoch, losses, lr, data_share):
                    rate = clock.images_per_s(step)
                    pace.point(step, rate, data_share)
                    _show_losses(update, step, f"epoch {epoch + 1}/{epochs}", losses, rate)
                    tracked.losses(step, {**losses, "lr": lr, "images_per_s": rate, **_memory()})
                case Validated(step, epoch, l1):
                    _draw(event, folder.path / "samples", names, config)
                    tracked.validated(step, epoch, l1, folder.path / "samples" / _sample_name(epoch))
                    log.info("epoch %d: validation L1 %.4f", epoch, l1)
                case Warned(step, message):
                    log.warning("%s", message)
                    tracked.collapsed(message)
                case Finished():
                    kept = f"; kept the weights of epoch {event.epoch}" if event.epoch != epochs else ""
                    taken_s, done = clock.elapsed(), step - started.step
                    log.info(
                        "trained %d steps in %s, %.1f a second%s",
                        done,
                        duration(taken_s),
                        done / taken_s,
                        kept,
                    )
                    return event
    raise AssertionError("a training ends with Finished or an exception")


def _show_losses(update: Update, step: int, where: str, losses: dict[str, float], rate: float) -> None:
    update(
        step,
        text=f"{where}  G {losses['g_adversarial']:.2f}  L1 {losses['g_l1']:.3f}  "
        f"D {losses['d_real']:.2f}/{losses['d_fake']:.2f}  {rate:.1f} images/s",
    )


class _Clock:
    """Images per second since the last time it was asked."""

    def __init__(self, step: int, batch: int) -> None:
        self._batch = batch
        self._begun = self._asked = time.monotonic()
        self._step = step

    def images_per_s(self, step: int) -> float:
        now = time.monotonic()
        rate = (step - self._step) * self._batch / max(now - self._asked, 1e-9)
        self._asked, self._step = now, step
        return rate

    def elapsed(self) -> float:
        return time.monotonic() - self._begun


class _Pace:
    """Says once how long it will take, and once if the GPU or the cores wait for data."""

    def __init__(self, total_steps: int, params: Params) -> None:
        self._total_steps, self._params = total_steps, params
        self._points = 0
        self._has_warned = False

    def point(self, step: int, images_per_s: float, data_share: float) -> None:
        self._points += 1
        # The first has the start in it: of the workers that read pairs, on a GPU of all that a capture takes.
        if self._points == 1:
            return
        batch, workers = self._params.train.batch, self._params.run.loader_workers
        left_s = (self._total_steps - step) * batch / images_per_s
        if self._points == 2 and left_s >= WORTH_SAYING_S:
            log.info(
                "%.1f images/s: the other %d steps take about %s",
                images_per_s,
                self._total_steps - step,
                duration(left_s),
            )
        if data_share > SLOW_DATA_SHARE and not self._has_warned:
            self._has_warned = True
            log.warning(
                "step %d: %.0f %% of the time goes into waiting for pairs from disk; raise "
                "run.loader_workers (now %s), or train.cache: device holds them",
                step,
                100 * data_share,
                workers,
            )


def _memory() -> dict[str, float]:
    memory = {"memory_mb": psutil.Process().memory_info().rss / 2**20}
    if torch.cuda.is_available():
        memory["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return memory


def _sample_name(epoch: int) -> str:
    return f"epoch-{epoch:04d}.png"


def _draw(event: Validated, folder: Path, names: Sequence[str], config: GeneratorConfig) -> None:
    sides = {"input": config.input, "target": config.target, "output": config.target}
    shown = (event.inputs, event.targets, event.outputs)
    rows = list(zip(*map(lambda side, pixels: side.picture(pixels), sides.values(), shown), strict=True))
    grid = images.labelled_grid(
        [side.heading(name) for name, side in sides.items()],
        rows,
        names[: len(rows)],
        title=f"validation after epoch {event.epoch}, L1 {event.l1:.4f}",
    )
    images.save_picture(folder / _sample_name(event.epoch), grid)
