"""Trainings of a few steps on a few pairs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pix2pix import training_state
from pix2pix.checkpoint import CheckpointFolder, GeneratorConfig
from pix2pix.events import Event, Finished
from pix2pix.feed import CachedFeed, Feed
from pix2pix.params import Model, Train
from pix2pix.processes import ALONE, Group
from pix2pix.training import fit
from pix2pix.training_state import State

CPU = torch.device("cpu")
MODEL = Model(
    architecture="unet",
    in_channels="auto",
    out_channels="auto",
    generator_channels=2,
    upsample="deconv",
    dropout_blocks=(1, 2),
    norm="instance",
    discriminator_channels=2,
    discriminator_layers=1,
    conditional=True,
)
CONFIG = GeneratorConfig(
    levels=5,
    channels=2,
    norm="instance",
    dropout_blocks=(1, 2),
    image_px=32,
    dataset="test",
    direction="AtoB",
    params_sha256="",
    data_sha256="",
    code_sha256="",
)


def recipe(**changes: object) -> Train:
    values: dict[str, object] = {
        "epochs": 3,
        "decay_share": 0.5,
        "batch": 1,
        "lr": 0.0002,
        "beta1": 0.5,
        "gan_loss": "bce",
        "lambda_l1": 100.0,
        "seed": 1,
        "validate_every": 1,
        "sample_images": 2,
        "losses_every": 3,
        "keep": "last",
        "on_collapse": "warn",
        "device": "cpu",
        "threads": 1,
        "cache": "auto",
        "precision": "auto",
        "cuda_graph": "auto",
        "deterministic": True,
        "processes": 1,
        "warm_start": "",
    }
    return Train.model_validate(values | changes)


def pairs(count: int, side: int, seed: int = 0) -> CachedFeed:
    random = np.random.default_rng(seed)
    inputs = random.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    pixels = torch.from_numpy(np.concatenate([inputs, 255 - inputs], 1))
    return CachedFeed(tuple(map(str, range(count))), pixels)


def run(*arguments: Any, **options: Any) -> list[Event]:
    """All events of a training; see `events`."""
    return list(events(*arguments, **options))


def events(
    folder: Path,
    train: Train,
    stop_at: int | None = None,
    stop_if: Callable[[State], bool] | None = None,
    on_state: Callable[[State], None] | None = None,
    checkpoint_every: int = 1,
    model: Model = MODEL,
    feeds: Iterable[Feed] | None = None,
    group: Group = ALONE,
    config: GeneratorConfig = CONFIG,
    log_every: int = 2,
) -> Iterator[Event]:
    """Train on a few pairs; optionally ask to stop once a step is reached, or once something is so."""
    shape = {name: getattr(model, name) for name in ("architecture", "upsample", "norm", "dropout_blocks")}
    state = training_state.new_state(replace(config, **shape), model, train, CPU, group)
    if on_state:
        on_state(state)

    def stop_requested() -> bool:
        wants = (stop_at is not None and state.step >= stop_at) or (stop_if is not None and stop_if(state))
        # As the stage does: one that is asked is for all.
        return bool(group.largest(int(wants)))

    return fit(
        state,
        model,
        train,
        *(feeds or (pairs(4, 36), pairs(3, 32, seed=9))),
        image_px=config.image_px,
        device=CPU,
        folder=CheckpointFolder(folder, "f"),
        checkpoint_every_epochs=checkpoint_every,
        log_every_steps=log_every,
        stop_requested=stop_requested,
        encodings=(config.input, config.target),
        group=group,
    )


def finished(seen: list[Event]) -> Finished:
    assert isinstance(seen[-1], Finished)
    return seen[-1]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
