"""All that a training has made so far: what a checkpoint holds, and what a fresh one begins with."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import devices, warm_start
from .checkpoint import GeneratorConfig
from .discriminator import Discriminator
from .events import Diverged
from .generator import Generator
from .params import Model, Train
from .processes import ALONE, Group
from .step import LOSS_NAMES, adam, set_learning_rate


class LossWindow:
    """Mean losses over consecutive windows of steps."""

    def __init__(self, every: int, group: Group = ALONE) -> None:
        self.every, self.group = every, group
        self.sums = torch.zeros(len(LOSS_NAMES), dtype=torch.float64)
        self.steps = 0

    def add(self, rows: Tensor) -> None:
        """Count steps, at most as many as are missing: float64 [steps, 4] on the CPU."""
        # One after the other, or a training cut in two would add up to other last bits.
        for row in rows:
            self.sums += row
        self.steps += len(rows)

    def full(self) -> dict[str, float] | None:
        """The means when the window is full, emptying it; else None."""
        return self.take() if self.steps == self.every else None

    def take(self) -> dict[str, float] | None:
        """The means of what the window holds, emptying it; None when it holds nothing."""
        if not self.steps:
            return None
        means = self.group.mean(self.sums / self.steps).tolist()
        self.sums.zero_()
        self.steps = 0
        return dict(zip(LOSS_NAMES, means, strict=True))


class UnreadLosses:
    """The losses of the last steps, which stay on the device until a window of them is full.

    Looking at every step's would make a GPU wait for each of them.
    """

    def __init__(self, *windows: LossWindow, group: Group = ALONE) -> None:
        self._windows, self._group = windows, group
        self._rows: list[Tensor] = []

    def add(self, losses: Tensor) -> bool:
        """Note a step's losses, [4], which nobody else may write to; whether they fill a window."""
        self._rows.append(losses)
        return any(window.steps + len(self._rows) == window.every for window in self._windows)

    def read(self, step: int) -> None:
        """Count all of them in the windows; in a group all do so together.

        Args:
            step: the number of the last one.

        Raises:
            Diverged: one of them, in any process, is no number.
        """
        first_bad_step = -1
        if self._rows:
            rows = torch.stack(self._rows).cpu().double()
            self._rows.clear()
            if (bad := ~rows.isfinite().all(1)).any():
                first_bad_step = step - len(rows) + 1 + int(bad.nonzero()[0])
            for window in self._windows:
                window.add(rows)
        if (first_bad_step := self._group.largest(first_bad_step)) >= 0:
            raise Diverged(
                f"training: a loss became NaN or infinite at step {first_bad_step}; "
                "lower train.lr and run it again"
            )


@dataclass
class State:
    """Everything that a resumed run needs to end as if it had never stopped."""

    generator: Generator
    discriminator: Discriminator
    generator_optimizer: torch.optim.Adam
    discriminator_optimizer: torch.optim.Adam
    window: LossWindow
    step: int = 0
    loss_rows: list[list[float]] = field(default_factory=list)
    validation_rows: list[list[float]] = field(default_factory=list)
    best_l1: float = math.inf
    best_epoch: int = 0
    best: dict[str, Tensor] | None = None

    _MODULES = ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer")
    _VALUES = ("step", "loss_rows", "validation_rows", "best_l1", "best_epoch", "best")

    def tensors(self) -> list[Tensor]:
        """All weights and moments there are; a fresh optimiser has its moments after its first step."""
        found: list[Tensor] = []
        for network in (self.generator, self.discriminator):
            found += [*network.parameters(), *network.buffers()]
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            found += [value for moments in optimizer.state.values() for value in moments.values()]
        return found

    def set_learning_rate(self, lr: float) -> None:
        """Of both networks."""
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            set_learning_rate(optimizer, lr)

    def to_checkpoint(self, device: torch.device, group: Group = ALONE) -> dict[str, Any]:
        """As plain tensors and numbers; every process of the group takes part."""
        saved = {name: getattr(self, name).state_dict() for name in self._MODULES}
        saved |= {name: getattr(self, name) for name in self._VALUES}
        saved["window"] = (group.mean(self.window.sums), self.window.steps)
        saved["random"] = group.gathered(_random_state(device))
        return saved

    def from_checkpoint(
        self, saved: dict[str, Any], device: torch.device, group: Group = ALONE, seed: int = 0
    ) -> None:
        """Take up a checkpoint, torch's random state included.

        A group of another size than the one that wrote it draws new random numbers from there on, by `seed`.
        """
        for name in self._MODULES:
            getattr(self, name).load_state_dict(saved[name])
        for name in self._VALUES:
            setattr(self, name, saved[name])
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            for settings in optimizer.param_groups:
                if isinstance(settings["lr"], Tensor):
                    settings["lr"] = settings["lr"].to(device)
        self.window.sums, self.window.steps = saved["window"]
        if len(saved["random"]) == group.count:
            _set_random_state(saved["random"][group.rank], device)
        else:
            torch.manual_seed(group.seed(seed, self.step))


def _random_state(device: torch.device) -> list[Tensor]:
    """Of the CPU and, where it has one of its own, the device."""
    if device.type == "cuda":
        return [torch.get_rng_state(), torch.cuda.get_rng_state(device)]
    if device.type == "mps":
        return [torch.get_rng_state(), torch.mps.get_rng_state()]
    return [torch.get_rng_state()]


def _set_random_state(saved: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(saved[0].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(saved[1].cpu(), device)
    elif device.type == "mps":
        torch.mps.set_rng_state(saved[1].cpu())


def new_state(
    config: GeneratorConfig, model: Model, recipe: Train, device: torch.device, group: Group = ALONE
) -> State:
    """Fresh networks and optimisers; weights and dropout follow from recipe.seed.

    Every process of a group has the same weights and dropout of its own.

    Raises:
        UserError: the generator that recipe.warm_start names cannot be had or is of another network.
    """
    torch.manual_seed(recipe.seed)
    generator = config.build()
    if recipe.warm_start:
        warm_start.load(generator, recipe.warm_start)
    generator = generator.to(device)
    choices = model.discriminator_choices(config.in_channels, config.out_channels)
    discriminator = Discriminator(**choices).to(device)
    precision = devices.choose_precision(recipe.precision, device, config.image_px)
    if devices.wants_channels_last(device, precision):
        for network in (generator, discriminator):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if group.count > 1:
        torch.manual_seed(group.seed(recipe.seed, 0))
    return State(
        generator,
        discriminator,
        adam(generator, recipe),
        adam(discriminator, recipe),
        LossWindow(recipe.losses_every, group),
    )
