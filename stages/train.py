"""data/pairs → models/generator.safetensors, reports/losses.csv, validation.csv and samples/."""

import csv
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from pipeline import lineage, live_run
from pix2pix import checkpoint, devices, feed, memory, pair_set, processes, training, training_state
from pix2pix.checkpoint import CheckpointFolder, GeneratorConfig
from pix2pix.errors import UserError
from pix2pix.events import (
    LOSS_COLUMNS,
    VALIDATION_COLUMNS,
    Collapsed,
    Diverged,
    Event,
    Interrupted,
)
from pix2pix.feed import Feed
from pix2pix.files import atomic_file, atomic_folder, remove_partials, sha256_file, sha256_json
from pix2pix.pair_files import PairFiles
from pix2pix.params import Model, Params, Size, said_size, unet_levels
from pix2pix.processes import Group

from . import OUTCOME_VARIABLE
from .following import SAMPLE_NAMES, follow
from .runner import Stopped, run

log = logging.getLogger(__name__)

PAIRS = Path("data/pairs")
SPLITS = ("train", "val")
GENERATOR = Path("models/generator.safetensors")
LOSSES, VALIDATION, SAMPLES = (
    Path("reports/losses.csv"),
    Path("reports/validation.csv"),
    Path("reports/samples"),
)
# What decides how a training runs and not what comes of it.
NOT_OF_THE_RESULT = ("cache", "processes", "on_collapse")
# What each host may have as it likes.
OF_ONE_HOST = {"progress", "loader_workers", "tracking", "tracked_grids"}


def train(params: Params) -> None:
    """Train, or go on with a training that was interrupted, and write the generator and its curves."""
    device, _ = devices.choose(params.train.device)
    if processes.started_by_torchrun():
        with _last_words():
            _train_in_group(params, device.type)
        return
    count = processes.resolve(params.train.processes, params.train.batch, device)
    if count == 1:
        _train_in_group(params, device.type)
    else:
        # How the stage ended is for this process to say.
        outcome = os.environ.pop(OUTCOME_VARIABLE, None)
        try:
            ended = processes.launch("stages.train", count)
        finally:
            if outcome:
                os.environ[OUTCOME_VARIABLE] = outcome
        _pass_on(ended)


def _train_in_group(params: Params, device: str) -> None:
    with processes.joined(device, params.train.batch) as group:
        stop = _Stop(group)
        if not group.leads:
            logging.disable()
        try:
            _train(params, group, stop)
        except (Interrupted, Diverged, Collapsed) as ending:
            # torchrun ends all as soon as one has failed, and the leader had a run to close.
            group.largest(0)
            if isinstance(ending, Interrupted):
                raise Stopped(stop.signum) from None
            raise


def _train(params: Params, group: Group, stop: "_Stop") -> None:
    device, why = devices.choose(params.train.device, group.local_rank)
    threads = devices.set_threads(params.train.threads, group.local_count)
    determinism = devices.prefer_determinism(params.train.deterministic, device)
    geometry = pair_set.Geometry.read(PAIRS / "pairs.json")
    precision = devices.choose_precision(params.train.precision, device, geometry.image_px)
    train_feed, val_feed, digests, placed = _open_pairs(params, geometry.image_px, device, group)
    config, fingerprint, data = _identity(params, geometry, digests, device)
    group.refuse_others(_work(params, data, config.code_sha256, device, precision))
    folder = CheckpointFolder(_checkpoints(), fingerprint)
    if group.leads:
        folder.lock()
    each = f"{group.count} processes with {threads} CPU threads each"
    log.info(
        "training on %s, %s, %s, %s px; %s",
        why,
        each if group.count > 1 else f"{threads} CPU threads",
        precision,
        said_size(config.image_px),
        determinism,
    )
    log.info("%s", placed)
    if group.leads:
        _warn_of_slowness_and_shortage(params, config, device, group, threads)
    with (
        feed.lost_workers_named(params.run.loader_workers),
        memory.exhaustion_named(config, params.model, params.train, device, group),
    ):
        state = training_state.new_state(config, params.model, params.train, device, group)
        events = training.fit(
            state,
            params.model,
            params.train,
            train_feed,
            val_feed,
            image_px=config.image_px,
            device=device,
            folder=folder,
            checkpoint_every_epochs=params.run.checkpoint_every_epochs,
            log_every_steps=params.run.log_every_steps,
            encodings=(config.input, config.target),
            stop_requested=stop.requested,
            group=group,
        )
        if not group.leads:
            stop.note_signals()
            for _ in events:
                pass
            return
        with live_run.training_run(params, fingerprint, data) as tracked:
            stop.note_signals()
            _lead(events, params, config, tracked, folder, val_feed.names)
    processes.leave_done()
    folder.remove()


def _lead(
    events: Iterator[Event],
    params: Params,
    config: GeneratorConfig,
    tracked: live_run.TrainingRun,
    folder: CheckpointFolder,
    names: Sequence[str],
) -> None:
    """Follow the training to its end and write its outputs."""
    try:
        finished = follow(events, params, tracked, folder, names, config)
    except Diverged as diverged:
        tracked.collapsed(str(diverged))
        raise
    except Interrupted as interrupted:
        log.warning("train: stopped at step %d; the same command goes on from there", interrupted.step)
        raise
    checkpoint.save_generator(GENERATOR, finished.state, config)
    _write_csv(LOSSES, LOSS_COLUMNS, finished.loss_rows)
    _write_csv(VALIDATION, VALIDATION_COLUMNS, finished.validation_rows)
    with atomic_folder(SAMPLES) as samples:
        for file in sorted((folder.path / "samples").glob(SAMPLE_NAMES)):
            (samples / file.name).write_bytes(file.read_bytes())
    tracked.finish(sha256_file(GENERATOR))


@contextmanager
def _last_words() -> Iterator[None]:
    """What one of several processes dies of is said once, by the process that launched them."""
    if not processes.is_launched():
        yield
        return
    try:
        yield
    except UserError as error:
        processes.leave_last_words(error.exit_status, str(error), isinstance(error, processes.PeerLost))
        sys.exit(error.exit_status)
    except Stopped as stopped:
        sys.exit(128 + stopped.signum)
    except Exception:
        processes.leave_last_words(1, traceback.format_exc(), is_of_another=False)
        sys.exit(1)
    finally:
        # torchrun's signal, as another process has ended, would meet the exit of torch's own modules.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _pass_on(ended: processes.Ended) -> None:
    """End as the processes did that this one launched."""
    if ended.killed_by:
        name = signal.Signals(ended.killed_by).name
        log.error("train: a process was ended by %s; the same command goes on from the checkpoint", name)
        # Whoever started this process sees what it would see of a training by one.
        if ended.killed_by != signal.SIGKILL:
            signal.signal(ended.killed_by, signal.SIG_DFL)
        os.kill(os.getpid(), ended.killed_by)
    if ended.status > 128:
        raise Stopped(ended.status - 128)
    if ended.status == 1:
        print(ended.words, file=sys.stderr, flush=True)
        sys.exit(1)
    if ended.status:
        error = UserError(ended.words)
        error.exit_status = ended.status
        raise error


def _open_pairs(
    params: Params, image_px: Size, device: torch.device, group: Group
) -> tuple[Feed, Feed, dict[str, str], str]:
    """Both splits, held or streamed; their digests by name; where they are, in words."""
    splits = [PairFiles.find(PAIRS / name) for name in SPLITS]
    # GPUs have their own memory each.
    shared_by = group.local_count if device.type == "cpu" else 1
    placement = feed.place(params.train.cache, splits, device, shared_by)
    workers = feed.loader_workers(params.run.loader_workers, device, group.local_count)
    (train_feed, train_sha256), (val_feed, val_sha256) = (
        feed.open_split(split, placement, image_px, device, workers, persistent=split is splits[0])
        for split in splits
    )
    digests = dict(zip(SPLITS, (train_sha256, val_sha256), strict=True))
    return train_feed, val_feed, digests, placement.words


def _identity(
    params: Params,
    geometry: pair_set.Geometry,
    digests: dict[str, str],
    device: torch.device,
) -> tuple[GeneratorConfig, str, dict[str, Any]]:
    """What the generator will say of itself, the training's fingerprint, and what it knows of the data.

    Two trainings with one fingerprint, by as many processes, end with the same bits, so one may go on where
    the other stopped. Where the pairs are held and how many processes train is no part of it.

    Args:
        digests: of the splits, by name.
    """
    recipe = params.model_dump(mode="json", include={"model", "train"})
    data = {**digests, **asdict(geometry)}
    _refuse_other_channels(params.model, geometry)
    config = GeneratorConfig(
        levels=unet_levels(geometry.image_px),
        **params.model.generator_choices,
        image_px=geometry.image_px,
        dataset=geometry.dataset,
        direction=geometry.direction,
        params_sha256=sha256_json(recipe),
        data_sha256=digests["train"],
        code_sha256=checkpoint.code_sha256(),
        in_channels=geometry.input.network_channels,
        out_channels=geometry.target.network_channels,
        input=geometry.input,
        target=geometry.target,
    )
    machine = {
        "torch": str(torch.__version__),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": devices.resolve_threads(params.train.threads),
        "precision": devices.choose_precision(params.train.precision, device, geometry.image_px),
    }
    for key in NOT_OF_THE_RESULT:
        del recipe["train"][key]
    made_of = {name: value for name, value in asdict(config).items() if name != "params_sha256"}
    fingerprint = sha256_json({"config": made_of, "recipe": recipe, "data": data, "machine": machine})
    return config, fingerprint, data


def _warn_of_slowness_and_shortage(
    params: Params, config: GeneratorConfig, device: torch.device, group: Group, threads: int
) -> None:
    """On a CPU; a GPU says itself that its memory is full, and is not slowed down by threads."""
    if device.type != "cpu":
        return
    cores = devices.available_cores()
    if threads * group.local_count > cores:
        log.warning(
            "%d threads share %d cores, which can make a training several times slower; train.threads: auto "
            "gives each its own",
            threads * group.local_count,
            cores,
        )
    if said := memory.shortage_foreseen(config, params.model, params.train, device, group):
        log.warning("memory may run out, and the system end the training: %s", said)


def _work(
    params: Params, data: dict[str, Any], code_sha256: str, device: torch.device, precision: str
) -> dict[str, str]:
    """What decides the steps of a training and when its processes wait for each other."""
    steering = params.model_dump(mode="json", include={"model", "train", "run"})
    for key in OF_ONE_HOST:
        del steering["run"][key]
    keys = {
        f"{name}.{key}": str(value) for name, section in steering.items() for key, value in section.items()
    }
    return keys | {
        "pairs": sha256_json(data),
        "code": code_sha256,
        "device": device.type,
        "precision": precision,
        "torch": str(torch.__version__),
    }


def _refuse_other_channels(model: Model, geometry: pair_set.Geometry) -> None:
    for key, wanted, found in (
        ("in_channels", model.in_channels, geometry.input),
        ("out_channels", model.out_channels, geometry.target),
    ):
        if wanted not in ("auto", found.network_channels):
            raise UserError(
                f"params.yaml: model.{key} = {wanted}: the prepared pairs have {found}; "
                "set it to auto, or bring the data that it is for"
            )


def _checkpoints() -> Path:
    return lineage.home() / ".checkpoints"


def remove_stale(params: Params) -> None:
    """Remove what interrupted trainings left, but not what these parameters would go on with.

    And what any stage has left half-written as it was killed.
    """
    for folder in ("data", "models", "reports"):
        for path in remove_partials(Path(folder)):
            log.info("removed %s", path)
    if not _checkpoints().is_dir():
        return
    kept = None
    if (PAIRS / "pairs.json").exists():
        device, _ = devices.choose(params.train.device)
        geometry = pair_set.Geometry.read(PAIRS / "pairs.json")
        digests = {split: PairFiles.find(PAIRS / split).sha256() for split in SPLITS}
        _, kept, _ = _identity(params, geometry, digests, device)
    removed, left = checkpoint.remove_stale(_checkpoints(), kept)
    for path in removed:
        log.info("removed %s", path)
    for path in left:
        log.info("kept %s: it belongs to a running training, or the next one goes on from it", path)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([[_number(value) for value in row] for row in rows])


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.7g}"


class _Stop:
    """Whether any process of the group was asked to stop; all have the same answer at the same step."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._asked: list[int] = []
        self.signum = 0

    def requested(self) -> bool:
        # One process's signal is for all.
        self.signum = self._group.largest(self._asked[0] if self._asked else 0)
        return bool(self.signum)

    def note_signals(self) -> None:
        """From here to the end of this process, for `requested`; a second Ctrl-C stops at once.

        Before, there is nothing that a checkpoint could save, and a signal stops where it falls.
        """

        def note(signum: int, frame: FrameType | None) -> None:
            # SIGTERM comes more than once of itself, see `runner`, up to the end of this process.
            if signum == signal.SIGTERM:
                signal.signal(signum, signal.SIG_IGN)
            elif self._asked:
                raise Stopped(signum)
            self._asked.append(signum)

        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, note)


if __name__ == "__main__":
    run(remove_stale if sys.argv[1:] == ["--remove-stale"] else train)
