"""The training loop. It yields events; who listens is not its business."""

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from . import collapse, devices
from .augment import low_and_half, plan_epoch, to_unit_range
from .checkpoint import CheckpointFolder
from .encoding import RGB8, Encoding
from .events import (
    Collapsed,
    Event,
    Finished,
    Interrupted,
    LossPoint,
    Started,
    Stepped,
    Validated,
    Warned,
)
from .feed import Feed, in_batches
from .params import Model, Size, Train, height_width
from .processes import ALONE, Group
from .repeated import RepeatedStep, Run, cuda_graph
from .step import LOSS_NAMES, Objective, learning_rate, training_step
from .training_state import LossWindow, State, UnreadLosses
from .validation import validate, validation_batches

Moment = float | torch.cuda.Event
# In so many steps a GPU is waited for if nothing else does.
MOST_WAITS = 1000


class DataClock:
    """How much of the time goes into waiting for data.

    On a GPU, which the host runs ahead of, it is the GPU's time between the work before and after the wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waits: list[tuple[Moment, Moment]] = []
        self._waited_s, self._asked = 0.0, time.monotonic()

    def over(self, items: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same items."""
        while True:
            begun = self._moment()
            item = next(items, None)
            self._waits.append((begun, self._moment()))
            if len(self._waits) == MOST_WAITS:
                self._add_up()
            if item is None:
                return
            yield item

    def share(self) -> float:
        """Since it was last asked: 0 to 1. Asked when all steps so far are done, it makes no GPU wait."""
        self._add_up()
        now = time.monotonic()
        share = self._waited_s / max(now - self._asked, 1e-9)
        self._waited_s, self._asked = 0.0, now
        return share

    def _moment(self) -> Moment:
        if self._device.type != "cuda":
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _add_up(self) -> None:
        self._waited_s += sum(_seconds_between(begun, ended) for begun, ended in self._waits)
        self._waits.clear()


def _seconds_between(begun: Moment, ended: Moment) -> float:
    if isinstance(begun, float):
        assert isinstance(ended, float)
        return ended - begun
    assert not isinstance(ended, float)
    ended.synchronize()
    seconds: float = begun.elapsed_time(ended) / 1e3
    return seconds


def fit(
    state: State,
    model: Model,
    recipe: Train,
    train: Feed,
    val: Feed,
    *,
    image_px: Size,
    device: torch.device,
    folder: CheckpointFolder,
    checkpoint_every_epochs: int,
    log_every_steps: int,
    encodings: tuple[Encoding, Encoding] = (RGB8, RGB8),
    stop_requested: Callable[[], bool] = lambda: False,
    group: Group = ALONE,
) -> Iterator[Event]:
    """Train from wherever `folder` has a checkpoint to the end, yielding events; the last is Finished.

    Args:
        train: stored at load_px, cropped to image_px with jitter.
        val: stored at image_px.
        encodings: of the inputs and of the targets.
        stop_requested: asked after every step and every batch of a validation; in a group all give the same
            answer.
        group: of which this process trains its share of every batch. Only the leader uses `folder` and
            validates.

    Raises:
        Diverged: a loss is no longer a number; the last checkpoint stays.
        Collapsed: a sign of collapse, where the recipe says to stop.
        Interrupted: `stop_requested` said so; the checkpoint has this very step.
    """
    if saved := group.told(folder.load() if group.leads else None):
        with folder.taken_up():
            state.from_checkpoint(saved, device, group, recipe.seed)
    steps_per_epoch = math.ceil(len(train.names) / recipe.batch)
    step = repeated_step(
        state, model, recipe, train, image_px=image_px, device=device, encodings=encodings, group=group
    )
    clock = DataClock(device)
    live = LossWindow(log_every_steps, group)
    unread = UnreadLosses(live, state.window, group=group)

    def stop_if_asked() -> None:
        if stop_requested():
            unread.read(state.step)
            _save(state, folder, device, group)
            raise Interrupted(state.step)

    begun, is_within = divmod(state.step, steps_per_epoch)
    yield Started(state.step, begun, steps_per_epoch * recipe.epochs)
    # One that a request to stop has cut off.
    if not is_within and begun and all(row[1] != begun for row in state.validation_rows):
        yield from _validation(state, recipe, val, begun, device, encodings, stop_if_asked, group)

    for epoch in range(begun, recipe.epochs):
        rows = plan_epoch(len(train.names), _margins(train, image_px), recipe.seed, epoch).rows()
        lr = learning_rate(recipe.lr, epoch, recipe.epochs, recipe.decay_share)
        state.set_learning_rate(lr)
        state.generator.train()
        batches = in_batches(rows, recipe.batch)[state.step % steps_per_epoch :]
        shares, weights = zip(*(group.share(batch) for batch in batches), strict=True)
        items = train.items(shares)
        for item, weight in zip(clock.over(items) if train.reads else items, weights, strict=True):
            # The product is a copy: the next step may write to the same place.
            is_due = unread.add(step(item, weight) * weight)
            state.step += 1
            yield Stepped(state.step, epoch)
            if is_due:
                unread.read(state.step)
            if means := live.full():
                yield LossPoint(state.step, epoch, means, lr, group.largest_share(clock.share()))
            if _collect_row(state, state.window.full(), epoch, lr):
                sign = collapse.discriminator_won(state.loss_rows, recipe.losses_every, recipe.gan_loss)
                yield from _warned(sign, state, recipe)
            # After the last step of an epoch its validation asks.
            if state.step % steps_per_epoch:
                stop_if_asked()
        unread.read(state.step)
        done = epoch + 1
        yield from _validation(state, recipe, val, done, device, encodings, stop_if_asked, group)
        if done < recipe.epochs:
            stop_if_asked()
            if done % checkpoint_every_epochs == 0:
                _save(state, folder, device, group)

    # What the last windows hold is shown too: a short run may have no other point.
    lr = learning_rate(recipe.lr, recipe.epochs - 1, recipe.epochs, recipe.decay_share)
    if means := live.take():
        yield LossPoint(state.step, recipe.epochs - 1, means, lr, group.largest_share(clock.share()))
    _collect_row(state, state.window.take(), recipe.epochs - 1, lr)
    yield _finished(state, recipe)


def _finished(state: State, recipe: Train) -> Finished:
    best = state.best if recipe.keep == "best" and state.best is not None else None
    return Finished(
        state=best or {name: value.detach().cpu() for name, value in state.generator.state_dict().items()},
        epoch=state.best_epoch if best else recipe.epochs,
        loss_rows=state.loss_rows,
        validation_rows=state.validation_rows,
    )


def repeated_step(
    state: State,
    model: Model,
    recipe: Train,
    train: Feed,
    *,
    image_px: Size,
    device: torch.device,
    encodings: tuple[Encoding, Encoding] = (RGB8, RGB8),
    record: Callable[[Run], Run] | None = None,
    group: Group = ALONE,
) -> RepeatedStep:
    """A whole step, from an item of `train` to the losses: crops, both networks, both optimisers.

    Args:
        encodings: of the inputs and of the targets.
        record: see `RepeatedStep`; None is a CUDA graph where the device has them and the recipe allows it.
    """
    objective = Objective(recipe.gan_loss, recipe.lambda_l1, model.conditional)
    precision = devices.choose_precision(recipe.precision, device, image_px)
    layout = (
        torch.channels_last if devices.wants_channels_last(device, precision) else torch.contiguous_format
    )

    bounds = [low_and_half(encoding, device) for encoding in encodings]
    generator = group.joined(state.generator)
    # Without an adversarial loss it has no gradients to be averaged.
    discriminator = state.discriminator if recipe.gan_loss == "none" else group.joined(state.discriminator)

    def step(item: Tensor, weight: float) -> Tensor:
        source, target = (
            to_unit_range(side, encoding, known).contiguous(memory_format=layout)
            for side, encoding, known in zip(train.crops(item, image_px), encodings, bounds, strict=True)
        )
        return training_step(
            generator,
            discriminator,
            state.generator_optimizer,
            state.discriminator_optimizer,
            source,
            target,
            objective,
            precision,
            weight,
        )

    # The averaging over processes is not captured.
    if device.type == "cuda" and recipe.cuda_graph == "auto" and group.count == 1:
        record = record or cuda_graph
    return RepeatedStep(step, state.tensors, recipe.batch // group.count, record)


def _save(state: State, folder: CheckpointFolder, device: torch.device, group: Group) -> None:
    saved = state.to_checkpoint(device, group)
    if group.leads:
        folder.save(saved)
    # Nobody ends, and has the leader ended with it, before it is written.
    group.largest(0)


def _collect_row(state: State, means: dict[str, float] | None, epoch: int, lr: float) -> bool:
    if means:
        state.loss_rows.append([state.step, epoch + 1, *(means[name] for name in LOSS_NAMES), lr])
    return bool(means)


def _warned(message: str | None, state: State, recipe: Train) -> Iterator[Warned]:
    if message:
        yield Warned(state.step, message)
        if recipe.on_collapse == "stop":
            raise Collapsed(
                f"training: {message}. Stopped, as train.on_collapse = stop says; with warn it goes on from "
                "its last checkpoint"
            )


def _margins(train: Feed, image_px: Size) -> tuple[int, int]:
    (stored_height, stored_width), (height, width) = train.size_px, height_width(image_px)
    return stored_height - height, stored_width - width


def _validation(
    state: State,
    recipe: Train,
    val: Feed,
    epoch: int,
    device: torch.device,
    encodings: tuple[Encoding, Encoding],
    stop_if_asked: Callable[[], None],
    group: Group,
) -> Iterator[Event]:
    """The validation that is due after so many epochs, if one is, and what it warns of.

    Whoever does not lead only hears with the leader whether to stop.
    """
    if epoch % recipe.validate_every and epoch != recipe.epochs:
        return
    sign = None
    if group.leads:
        # Two, or nothing could be said of their likeness.
        kept = max(2, recipe.sample_images)
        l1, *seen = validate(state.generator, val, device, kept, encodings, stop_if_asked)
        inputs, outputs, targets = (samples.transpose(0, 2, 3, 1) for samples in seen)
        _note_validation(state, recipe, epoch, l1)
        shown = (samples[: recipe.sample_images] for samples in (inputs, outputs, targets))
        yield Validated(state.step, epoch, l1, *shown)
        sign = collapse.outputs_alike(state.step, outputs, targets)
    else:
        for _ in validation_batches(val, device):
            stop_if_asked()
    yield from _warned(group.told(sign), state, recipe)


def _note_validation(state: State, recipe: Train, epoch: int, l1: float) -> None:
    """A row of the curve; the best weights are remembered where the recipe keeps them."""
    state.validation_rows.append([state.step, epoch, l1])
    if recipe.keep == "best" and l1 < state.best_l1:
        state.best_l1, state.best_epoch = l1, epoch
        state.best = {
            name: value.detach().cpu().clone() for name, value in state.generator.state_dict().items()
        }
