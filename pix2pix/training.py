"""The training loop. It yields events; who listens is not its business."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import collapse, warm_start
from .augment import crop, plan_epoch, to_pixels, to_unit_range
from .checkpoint import CheckpointFolder, GeneratorConfig
from .discriminator import Discriminator
from .errors import UserError
from .generator import Generator
from .images import Pixels
from .pair_set import PairSet
from .params import Model, Train
from .step import LOSS_NAMES, Objective, adam, learning_rate, training_step

LOSS_COLUMNS = ("step", "epoch", *LOSS_NAMES, "lr")
VALIDATION_COLUMNS = ("step", "epoch", "l1")


# --- events ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Started:
    """Before the first step; `step` is above 0 when a checkpoint was found."""

    step: int
    epoch: int
    total_steps: int


@dataclass(frozen=True)
class Stepped:
    """A step is done; yielded for every one, so it carries nothing that would need the device to wait."""

    step: int
    epoch: int


@dataclass(frozen=True)
class LossPoint:
    """Means of the losses over the last `log_every_steps` steps."""

    step: int
    epoch: int
    losses: dict[str, float]
    lr: float


@dataclass(frozen=True)
class Validated:
    """Validation L1 (0–1 scale) and the fixed images: uint8 [n, height, width, 3] each."""

    step: int
    epoch: int
    l1: float
    inputs: Pixels
    outputs: Pixels
    targets: Pixels


@dataclass(frozen=True)
class Finished:
    """The weights to ship, and the curves: rows of losses.csv and of validation.csv."""

    state: dict[str, Tensor]
    epoch: int
    loss_rows: list[list[float]]
    validation_rows: list[list[float]]


@dataclass(frozen=True)
class Warned:
    """A sign of collapse: one sentence with the step and the knobs to try."""

    step: int
    message: str


Event = Started | Stepped | LossPoint | Validated | Warned | Finished


class Interrupted(Exception):
    """The run was asked to stop; its state is in the checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(f"interrupted at step {step}")
        self.step = step


class Diverged(UserError):
    """A loss became NaN or infinite."""


class Collapsed(UserError):
    """A sign of collapse, with train.on_collapse = stop."""


# --- the loop ----------------------------------------------------------------------------------------


class LossWindow:
    """Mean losses over consecutive windows of steps, summed on the device."""

    def __init__(self, every: int, device: torch.device) -> None:
        self.every = every
        # Apple's devices have no float64; a window's sum does not need it.
        precise = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(len(LOSS_NAMES), dtype=precise, device=device)
        self.steps = 0

    def add(self, values: Tensor) -> dict[str, float] | None:
        """Count a step; the means when the window is full, else None."""
        self.sums += values
        self.steps += 1
        return self.take() if self.steps == self.every else None

    def take(self) -> dict[str, float] | None:
        """The means of what the window holds, emptying it; None when it holds nothing."""
        if not self.steps:
            return None
        means = (self.sums / self.steps).tolist()
        self.sums.zero_()
        self.steps = 0
        return dict(zip(LOSS_NAMES, means, strict=True))


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

    def to_checkpoint(self, device: torch.device) -> dict[str, Any]:
        """As plain tensors and numbers."""
        saved = {name: getattr(self, name).state_dict() for name in self._MODULES}
        saved |= {name: getattr(self, name) for name in self._VALUES}
        saved["window"] = (self.window.sums, self.window.steps)
        saved["random"] = torch.get_rng_state()
        if device.type == "cuda":
            saved["random_device"] = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            saved["random_device"] = torch.mps.get_rng_state()
        return saved

    def from_checkpoint(self, saved: dict[str, Any], device: torch.device) -> None:
        """Take up a checkpoint, torch's random state included."""
        for name in self._MODULES:
            getattr(self, name).load_state_dict(saved[name])
        for name in self._VALUES:
            setattr(self, name, saved[name])
        self.window.sums, self.window.steps = saved["window"]
        torch.set_rng_state(saved["random"].cpu())
        if device.type == "cuda":
            torch.cuda.set_rng_state(saved["random_device"].cpu(), device)
        elif device.type == "mps":
            torch.mps.set_rng_state(saved["random_device"].cpu())


def new_state(config: GeneratorConfig, model: Model, recipe: Train, device: torch.device) -> State:
    """Fresh networks and optimisers; weights and dropout follow from recipe.seed.

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
    return State(
        generator,
        discriminator,
        adam(generator, recipe),
        adam(discriminator, recipe),
        LossWindow(recipe.losses_every, device),
    )


def fit(
    state: State,
    model: Model,
    recipe: Train,
    train: PairSet,
    val: PairSet,
    *,
    image_px: int,
    device: torch.device,
    folder: CheckpointFolder,
    checkpoint_every_epochs: int,
    log_every_steps: int,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Train from wherever `folder` has a checkpoint to the end, yielding events; the last is Finished.

    Args:
        train: stored at load_px, cropped to image_px with jitter.
        val: stored at image_px.
        stop_requested: asked after every step.

    Raises:
        Diverged: a loss is no longer a number; the last checkpoint stays.
        Collapsed: a sign of collapse, where the recipe says to stop.
        Interrupted: `stop_requested` said so; the checkpoint has this very step.
    """
    if saved := folder.load(device):
        state.from_checkpoint(saved, device)
    sources = torch.from_numpy(train.inputs).to(device)
    targets = torch.from_numpy(train.targets).to(device)
    steps_per_epoch = math.ceil(len(train) / recipe.batch)
    objective = Objective(recipe.gan_loss, recipe.lambda_l1, model.conditional)
    live = LossWindow(log_every_steps, device)
    # The number of the first step whose losses were not finite, kept on the device: looking at every
    # step's losses would make a GPU wait for each of them.
    first_bad_step = torch.full((), -1, device=device)
    yield Started(state.step, state.step // steps_per_epoch, steps_per_epoch * recipe.epochs)

    for epoch in range(state.step // steps_per_epoch, recipe.epochs):
        plan = plan_epoch(len(train), sources.shape[-1] - image_px, recipe.seed, epoch)
        lr = learning_rate(recipe.lr, epoch, recipe.epochs, recipe.decay_share)
        for optimizer in (state.generator_optimizer, state.discriminator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = lr
        state.generator.train()
        for position in range(state.step % steps_per_epoch, steps_per_epoch):
            samples = plan.order[position * recipe.batch : (position + 1) * recipe.batch]
            values = training_step(
                state.generator,
                state.discriminator,
                state.generator_optimizer,
                state.discriminator_optimizer,
                crop(sources, samples, plan, image_px),
                crop(targets, samples, plan, image_px),
                objective,
            )
            state.step += 1
            bad = ~torch.isfinite(values).all() & (first_bad_step < 0)
            first_bad_step = torch.where(bad, state.step, first_bad_step)
            yield Stepped(state.step, epoch)
            if means := live.add(values):
                _refuse_divergence(first_bad_step)
                yield LossPoint(state.step, epoch, means, lr)
            if _collect_row(state, state.window.add(values), epoch, lr) and recipe.gan_loss != "none":
                yield from _warned(
                    collapse.discriminator_won(state.loss_rows, recipe.losses_every), state, recipe
                )
            # After the last step of an epoch its validation comes first, or a resumed run would miss it.
            if position + 1 < steps_per_epoch and stop_requested():
                _refuse_divergence(first_bad_step)
                folder.save(state.to_checkpoint(device))
                raise Interrupted(state.step)
        _refuse_divergence(first_bad_step)
        done, last = epoch + 1, epoch + 1 == recipe.epochs
        if done % recipe.validate_every == 0 or last:
            yield (seen := _validate(state, recipe, val, done, device))
            yield from _warned(collapse.outputs_alike(state.step, seen.outputs, seen.targets), state, recipe)
        stopping = stop_requested() and not last
        if stopping or (done % checkpoint_every_epochs == 0 and not last):
            folder.save(state.to_checkpoint(device))
        if stopping:
            raise Interrupted(state.step)

    # What the last windows hold is shown too: a short run may have no other point.
    lr = state.generator_optimizer.param_groups[0]["lr"]
    if means := live.take():
        yield LossPoint(state.step, recipe.epochs - 1, means, lr)
    _collect_row(state, state.window.take(), recipe.epochs - 1, lr)
    best = state.best if recipe.keep == "best" and state.best is not None else None
    yield Finished(
        state=best or {name: value.detach().cpu() for name, value in state.generator.state_dict().items()},
        epoch=state.best_epoch if best else recipe.epochs,
        loss_rows=state.loss_rows,
        validation_rows=state.validation_rows,
    )


def _collect_row(state: State, means: dict[str, float] | None, epoch: int, lr: float) -> bool:
    if means:
        state.loss_rows.append([state.step, epoch + 1, *(means[name] for name in LOSS_NAMES), lr])
    return bool(means)


def _warned(message: str | None, state: State, recipe: Train) -> Iterator[Warned]:
    if message:
        yield Warned(state.step, message)
        if recipe.on_collapse == "stop":
            raise Collapsed(f"training: {message}. Stopped, as train.on_collapse = stop says")


def _refuse_divergence(first_bad_step: Tensor) -> None:
    if (step := int(first_bad_step)) >= 0:
        raise Diverged(
            f"training: a loss became NaN or infinite at step {step}; lower train.lr and run it again"
        )


def _validate(state: State, recipe: Train, val: PairSet, epoch: int, device: torch.device) -> Validated:
    """Validation L1 over every pair; remembers the best weights where the recipe keeps them."""
    l1, outputs = validate(state.generator, val, device, kept=recipe.sample_images)
    state.validation_rows.append([state.step, epoch, l1])
    if recipe.keep == "best" and l1 < state.best_l1:
        state.best_l1, state.best_epoch = l1, epoch
        state.best = {
            name: value.detach().cpu().clone() for name, value in state.generator.state_dict().items()
        }
    shown = slice(0, recipe.sample_images)
    return Validated(
        step=state.step,
        epoch=epoch,
        l1=l1,
        inputs=val.inputs[shown].transpose(0, 2, 3, 1),
        outputs=outputs.transpose(0, 2, 3, 1),
        targets=val.targets[shown].transpose(0, 2, 3, 1),
    )


@torch.inference_mode()
def validate(generator: Generator, pairs: PairSet, device: torch.device, kept: int) -> tuple[float, Pixels]:
    """Mean absolute difference (0–1 scale) over the pixels a user gets, and the first `kept` outputs.

    Returns:
        L1, and uint8 [kept, channels, height, width].
    """
    generator.eval()
    total = 0.0
    outputs: list[Tensor] = []
    for source, target in zip(pairs.inputs, pairs.targets, strict=True):
        output = to_pixels(generator(to_unit_range(torch.from_numpy(source).to(device))[None]))[0].cpu()
        total += float((output.int() - torch.from_numpy(target).int()).abs().float().mean()) / 255
        if len(outputs) < kept:
            outputs.append(output)
    generator.train()
    return total / len(pairs), torch.stack(outputs).numpy()
