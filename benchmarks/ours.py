"""A training of ours, step by step as `stages.train` runs it, at sizes of one's choice."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from pix2pix import devices
from pix2pix.augment import plan_epoch
from pix2pix.checkpoint import GeneratorConfig
from pix2pix.feed import CachedFeed, Feed, in_batches
from pix2pix.params import Model, Train, load, unet_levels
from pix2pix.training import repeated_step
from pix2pix.training_state import new_state

PARAMS = Path(__file__).parents[1] / "params.yaml"


@dataclass(frozen=True)
class Shape:
    """Of what is trained: the images' side, the channels of both networks' first layers, the batch."""

    px: int
    channels: int
    batch: int

    @property
    def load_px(self) -> int:
        return round(self.px * 286 / 256)

    def __str__(self) -> str:
        return f"{self.px} px, {self.channels} channels, batch {self.batch}"


@dataclass(frozen=True)
class Way:
    """How ours trains, in params.yaml's words; the defaults are those of every preset."""

    precision: str = "auto"
    norm: str = "instance"
    deterministic: bool = True

    def settle(self, device: torch.device) -> None:
        """Set what of it, and of memory, is set for the whole process, as `stages.train` does."""
        devices.prefer_determinism(self.deterministic, device)
        devices.keep_freed_memory()


def recipe(shape: Shape, way: Way) -> tuple[GeneratorConfig, Model, Train]:
    """The committed recipe with this shape and way, and the paper's dropout."""
    params = load(PARAMS)
    model = params.model.model_copy(
        update={
            "generator_channels": shape.channels,
            "discriminator_channels": shape.channels,
            "discriminator_layers": 3,
            "dropout_blocks": (1, 2, 3),
            "norm": way.norm,
        }
    )
    train = params.train.model_copy(
        update={"batch": shape.batch, "precision": way.precision, "deterministic": way.deterministic}
    )
    config = GeneratorConfig(
        levels=unet_levels(shape.px),
        **model.generator_choices,
        image_px=shape.px,
        dataset="benchmark",
        direction="AtoB",
        params_sha256="",
        data_sha256="",
        code_sha256="",
    )
    return config, model, train


def held(shape: Shape, device: torch.device, pairs: int = 64) -> CachedFeed:
    """Pairs of noise that live on the device."""
    pairs = -(-pairs // shape.batch) * shape.batch
    pixels = torch.randint(0, 256, (pairs, 6, shape.load_px, shape.load_px), dtype=torch.uint8, device=device)
    return CachedFeed(tuple(map(str, range(pairs))), pixels)


class Training:
    """Crops, both networks, both optimisers; on CUDA captured and, unless told otherwise, in bfloat16."""

    def __init__(self, shape: Shape, device: torch.device, feed: Feed, way: Way) -> None:
        config, model, train = recipe(shape, way)
        state = new_state(config, model, train, device)
        self._step = repeated_step(state, model, train, feed, image_px=shape.px, device=device)
        self._items = items(feed, shape)

    def step(self) -> Tensor:
        """One step on the next pairs; its losses, which nobody waits for."""
        return self._step(next(self._items))

    def repeat(self, item: Tensor) -> Tensor:
        """A step on pairs that are there already."""
        return self._step(item)


def items(feed: Feed, shape: Shape) -> Iterator[Tensor]:
    """Batches of one epoch after the other, without the smaller ones at their ends."""
    margin_px = feed.size_px[0] - shape.px
    for epoch in count():
        rows = plan_epoch(len(feed.names), margin_px, seed=1, epoch=epoch).rows()
        yield from feed.items(in_batches(rows[: len(rows) // shape.batch * shape.batch], shape.batch))
