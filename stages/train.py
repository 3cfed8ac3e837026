"""data/pairs → models/generator.safetensors, reports/losses.csv, validation.csv and samples/."""

import csv
import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch

from pipeline import lineage, tracking
from pix2pix import checkpoint, devices, images, pair_set, training
from pix2pix.checkpoint import CheckpointFolder, GeneratorConfig
from pix2pix.files import atomic_file, atomic_folder, sha256_file, sha256_json
from pix2pix.pair_set import PairSet
from pix2pix.params import Params, unet_levels

from .console import Update, duration, progress
from .runner import Stopped, run

log = logging.getLogger(__name__)

PAIRS = Path("data/pairs")
GENERATOR = Path("models/generator.safetensors")
LOSSES, VALIDATION, SAMPLES = (
    Path("reports/losses.csv"),
    Path("reports/validation.csv"),
    Path("reports/samples"),
)


def train(params: Params) -> None:
    """Train, or go on with a training that was interrupted, and write the generator and its curves."""
    device, why = devices.choose(params.train.device)
    threads = devices.set_threads(params.train.threads)
    # Convolutions on a GPU that add up in a fixed order: the same seed gives the same weights.
    torch.backends.cudnn.deterministic = True
    train_pairs, val_pairs = pair_set.load_split(PAIRS / "train"), pair_set.load_split(PAIRS / "val")
    config, fingerprint, data = _identity(params, train_pairs, val_pairs, device, threads)
    folder = CheckpointFolder(_checkpoints(), fingerprint)
    folder.lock()
    state = training.new_state(config, params.model, params.train, device)
    log.info(
        "training on %s, %d CPU threads, %d pairs of %d px", why, threads, len(train_pairs), config.image_px
    )
    with _stop_flag() as stop, tracking.training_run(params, fingerprint, data) as tracked:
        events = training.fit(
            state,
            params.model,
            params.train,
            train_pairs,
            val_pairs,
            image_px=config.image_px,
            device=device,
            folder=folder,
            checkpoint_every_epochs=params.run.checkpoint_every_epochs,
            log_every_steps=params.run.log_every_steps,
            stop_requested=lambda: bool(stop),
        )
        try:
            finished = _follow(events, params, tracked, folder, val_pairs.names)
        except training.Diverged as diverged:
            tracked.collapsed(str(diverged))
            raise
        except training.Interrupted as interrupted:
            log.warning("train: stopped at step %d; the same command goes on from there", interrupted.step)
            raise Stopped(stop[0]) from None
        checkpoint.save_generator(GENERATOR, finished.state, config)
        _write_csv(LOSSES, training.LOSS_COLUMNS, finished.loss_rows)
        _write_csv(VALIDATION, training.VALIDATION_COLUMNS, finished.validation_rows)
        with atomic_folder(SAMPLES) as samples:
            for file in sorted((folder.path / "samples").glob("*.png")):
                (samples / file.name).write_bytes(file.read_bytes())
        tracked.finish(sha256_file(GENERATOR))
    folder.remove()


def _identity(
    params: Params, train_pairs: PairSet, val_pairs: PairSet, device: torch.device, threads: int
) -> tuple[GeneratorConfig, str, dict[str, Any]]:
    """What the generator will say of itself, the training's fingerprint, and what it knows of the data.

    Two trainings with one fingerprint end with the same bits, so one may go on where the other stopped.
    """
    geometry = pair_set.Geometry.read(PAIRS / "pairs.json")
    recipe = params.model_dump(mode="json", include={"model", "train"})
    data = {"train": train_pairs.sha256, "val": val_pairs.sha256, **vars(geometry)}
    config = GeneratorConfig(
        levels=unet_levels(geometry.image_px),
        **params.model.generator_choices,
        image_px=geometry.image_px,
        dataset=geometry.dataset,
        direction=geometry.direction,
        params_sha256=sha256_json(recipe),
        data_sha256=train_pairs.sha256,
        code_sha256=checkpoint.code_sha256(),
    )
    machine = {"torch": str(torch.__version__), "device": str(device), "threads": threads}
    fingerprint = sha256_json({"config": vars(config), "recipe": recipe, "data": data, "machine": machine})
    return config, fingerprint, data


def _checkpoints() -> Path:
    return lineage.home() / ".checkpoints"


def remove_stale_checkpoints(params: Params) -> None:
    """Remove what interrupted trainings left, but not what these parameters would go on with."""
    kept = None
    if (PAIRS / "pairs.json").exists():
        device, _ = devices.choose(params.train.device)
        threads = devices.set_threads(params.train.threads)
        train_pairs, val_pairs = pair_set.load_split(PAIRS / "train"), pair_set.load_split(PAIRS / "val")
        _, kept, _ = _identity(params, train_pairs, val_pairs, device, threads)
    removed, left = checkpoint.remove_stale(_checkpoints(), kept)
    for path in removed:
        log.info("removed %s", path)
    for path in left:
        log.info("kept %s: it belongs to a running training, or the next one goes on from it", path)


def _follow(
    events: Iterator[training.Event],
    params: Params,
    tracked: tracking.TrainingRun,
    folder: CheckpointFolder,
    names: Sequence[str],
) -> training.Finished:
    """Show, track and draw what happens until the training is finished."""
    started = next(events)
    assert isinstance(started, training.Started)
    if started.step:
        log.info("going on from the checkpoint at step %d of %d", started.step, started.total_steps)
    total, epochs = started.total_steps, params.train.epochs
    clock = _Clock(started.step, params.train.batch)
    with progress("train", total=total, unit="steps", style=params.run.progress) as update:
        for event in events:
            match event:
                case training.Stepped(step):
                    update(step)
                case training.LossPoint(step, epoch, losses, lr):
                    rate = clock.images_per_s(step)
                    _show_losses(update, step, f"epoch {epoch + 1}/{epochs}", losses, rate)
                    tracked.losses(step, {**losses, "lr": lr, "images_per_s": rate, **_memory()})
                case training.Validated(step, epoch, l1):
                    _draw(event, folder.path / "samples", names)
                    tracked.validated(step, epoch, l1, folder.path / "samples" / _sample_name(epoch))
                    log.info("epoch %d: validation L1 %.4f", epoch, l1)
                case training.Warned(step, message):
                    log.warning("%s", message)
                    tracked.collapsed(message)
                case training.Finished():
                    kept = f"; kept the weights of epoch {event.epoch}" if event.epoch != epochs else ""
                    log.info("trained %d steps in %s%s", step - started.step, duration(clock.elapsed()), kept)
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


def _memory() -> dict[str, float]:
    memory = {"memory_mb": psutil.Process().memory_info().rss / 2**20}
    if torch.cuda.is_available():
        memory["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return memory


def _sample_name(epoch: int) -> str:
    return f"epoch-{epoch:04d}.png"


def _draw(event: training.Validated, folder: Path, names: Sequence[str]) -> None:
    rows = list(zip(event.inputs, event.targets, event.outputs, strict=True))
    grid = images.labelled_grid(
        ["input", "target", "output"],
        rows,
        names[: len(rows)],
        title=f"validation after epoch {event.epoch}, L1 {event.l1:.4f}",
    )
    images.save_picture(folder / _sample_name(event.epoch), grid)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([[_number(value) for value in row] for row in rows])


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.7g}"


@contextmanager
def _stop_flag() -> Iterator[list[int]]:
    """A list that holds the number of the signal that asked to stop; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def ask(signum: int, frame: FrameType | None) -> None:
        if asked:
            raise Stopped(signum)
        asked.append(signum)

    before = {signum: signal.signal(signum, ask) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


if __name__ == "__main__":
    run(remove_stale_checkpoints if sys.argv[1:] == ["--remove-stale"] else train)
