"""The loop and its events."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair_fixtures import load_split, write_split
from torch import Tensor, nn
from training_fixtures import CONFIG, CPU, MODEL, equal, events, finished, pairs, recipe, run

from pix2pix import collapse, training, training_state, validation
from pix2pix.checkpoint import CheckpointFolder
from pix2pix.encoding import RGB8, Encoding, of_classes
from pix2pix.events import (
    Collapsed,
    Diverged,
    Event,
    Interrupted,
    LossPoint,
    Started,
    Stepped,
    Validated,
    Warned,
)
from pix2pix.feed import CachedFeed, Feed, Placement, open_split
from pix2pix.generator import Generator
from pix2pix.pair_files import PairFiles
from pix2pix.params import Model
from pix2pix.step import LOSS_NAMES, learning_rate
from pix2pix.training import fit
from pix2pix.training_state import State

# --- the loop ----------------------------------------------------------------------------------------


def test_the_rate_that_is_scheduled_is_the_rate_that_is_used(tmp_path: Path) -> None:
    rows = finished(run(tmp_path, recipe(epochs=4, losses_every=4))).loss_rows
    assert [row[-1] for row in rows] == [learning_rate(0.0002, epoch, 4, 0.5) for epoch in range(4)]


def test_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (
        finished(run(tmp_path / name, recipe(seed=seed))) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert equal(first.state, again.state)
    assert first.loss_rows == again.loss_rows
    assert not equal(first.state, other.state)


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6, 8, 11, 12])
def test_an_interrupted_run_ends_as_if_it_had_never_stopped(tmp_path: Path, stop_at: int) -> None:
    """Within an epoch, and in the validation after its last step; weights and curves."""
    train = recipe(epochs=3, keep="best", losses_every=5)
    whole = finished(run(tmp_path / "whole", train))
    with pytest.raises(Interrupted) as interrupted:
        run(tmp_path / "cut", train, stop_at=stop_at)
    assert interrupted.value.step == stop_at
    rest = run(tmp_path / "cut", train)
    assert rest[0] == Started(stop_at, stop_at // 4, 12)
    assert equal(finished(rest).state, whole.state)
    assert finished(rest).loss_rows == whole.loss_rows
    assert finished(rest).validation_rows == whole.validation_rows
    assert finished(rest).epoch == whole.epoch


@pytest.mark.parametrize("epochs", [2, 1], ids=["between epochs", "at the end"])
def test_a_validation_is_cut_off_and_is_the_first_thing_that_a_resumed_run_does(
    tmp_path: Path, epochs: int
) -> None:
    train, val = recipe(epochs=epochs), pairs(9, 32, seed=9)
    validated = 0

    class Counted(CachedFeed):
        def crops(self, *arguments: Any) -> tuple[Tensor, Tensor]:
            nonlocal validated
            validated += 1
            return super().crops(*arguments)

    counted = Counted(val.names, val.pixels)
    with pytest.raises(Interrupted) as interrupted:
        run(tmp_path / "cut", train, stop_at=4, feeds=(pairs(4, 36), counted))
    assert (interrupted.value.step, validated) == (4, 1)
    rest = run(tmp_path / "cut", train, feeds=(pairs(4, 36), counted))
    assert isinstance(rest[1], Validated) and rest[1].epoch == 1
    whole = finished(run(tmp_path / "whole", train, feeds=(pairs(4, 36), val)))
    assert equal(finished(rest).state, whole.state)
    assert finished(rest).loss_rows == whole.loss_rows
    assert finished(rest).validation_rows == whole.validation_rows


def test_a_request_to_stop_after_the_last_validation_just_finishes(tmp_path: Path) -> None:
    assert finished(run(tmp_path, recipe(), stop_if=lambda state: len(state.validation_rows) == 3)).state


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    train = recipe(epochs=4)
    whole = finished(run(tmp_path / "whole", train))
    state = training_state.new_state(CONFIG, MODEL, train, CPU)
    folder = CheckpointFolder(tmp_path / "killed", "f")
    options = {
        "image_px": 32,
        "device": CPU,
        "folder": folder,
        "checkpoint_every_epochs": 2,
        "log_every_steps": 2,
    }
    for event in fit(state, MODEL, train, pairs(4, 36), pairs(3, 32, seed=9), **options):
        if isinstance(event, Stepped) and event.step == 11:
            break
    rest = run(tmp_path / "killed", train, checkpoint_every=2)
    assert rest[0] == Started(8, 2, 16)
    assert equal(finished(rest).state, whole.state)
    assert finished(rest).loss_rows == whole.loss_rows


def test_losses_csv_has_a_row_for_every_window_and_one_for_the_rest(tmp_path: Path) -> None:
    rows = finished(run(tmp_path, recipe(epochs=2, losses_every=3))).loss_rows
    assert [row[:2] for row in rows] == [[3, 1], [6, 2], [8, 2]]


def test_how_often_is_logged_and_checkpointed_does_not_change_the_result(tmp_path: Path) -> None:
    train = recipe(epochs=3)
    often, seldom = (run(tmp_path / str(every), train, checkpoint_every=every) for every in (1, 100))
    assert equal(finished(often).state, finished(seldom).state)


def test_validation_comes_every_few_epochs_and_at_the_end(tmp_path: Path) -> None:
    seen = run(tmp_path, recipe(epochs=5, validate_every=2))
    validations = [event for event in seen if isinstance(event, Validated)]
    assert [event.epoch for event in validations] == [2, 4, 5]
    assert validations[0].outputs.shape == validations[0].inputs.shape == (2, 32, 32, 3)
    assert validations[0].outputs.dtype == np.uint8
    assert finished(seen).validation_rows == [[e.step, e.epoch, e.l1] for e in validations]


def test_validation_l1_is_that_of_the_pixels_a_user_gets(tmp_path: Path) -> None:
    seen = run(tmp_path, recipe(sample_images=3))
    last = next(event for event in reversed(seen) if isinstance(event, Validated))
    difference = np.abs(last.outputs.astype(int) - last.targets.astype(int)) / 255
    assert last.l1 == pytest.approx(difference.mean(), rel=1e-6)


def test_keep_best_ships_the_epoch_with_the_lowest_validation_l1(tmp_path: Path) -> None:
    seen = run(tmp_path, recipe(epochs=6, lr=0.1, decay_share=0.0, keep="best"))
    done = finished(seen)
    curve = {row[1]: row[2] for row in done.validation_rows}
    best = min(curve, key=lambda epoch: curve[epoch])
    assert done.epoch == best != 6, "the recipe must make the last epoch worse, or this proves nothing"
    generator = CONFIG.build()
    generator.load_state_dict(done.state)
    l1, *_ = validation.validate(generator, pairs(3, 32, seed=9), CPU, kept=1)
    assert l1 == pytest.approx(curve[best], abs=1e-9)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(tmp_path: Path) -> None:
    def poison(state: State) -> None:
        original = state.generator_optimizer.step

        def step(*arguments: object) -> object:
            if state.step == 4:
                with torch.no_grad():
                    next(state.generator.parameters()).fill_(float("nan"))
            return original(*arguments)

        state.generator_optimizer.step = step  # type: ignore[method-assign]

    # The weights break at the end of step 5; step 6 is the first to show it.
    with pytest.raises(Diverged, match=r"at step 6;.*train\.lr"):
        run(tmp_path, recipe(), on_state=poison)
    assert torch.load(tmp_path / "f" / "checkpoint.pt", weights_only=True)["step"] == 4


def test_pairs_that_are_held_are_not_waited_for(tmp_path: Path) -> None:
    """However short a step is, and the host slow to tell of the next one."""
    points = [event for event in run(tmp_path, recipe()) if isinstance(event, LossPoint)]
    assert points and not any(point.data_share for point in points)


def test_the_time_spent_waiting_for_data_is_measured_between_points(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(training.time, "monotonic", lambda: now)

    def slow(seconds: float) -> Iterator[Tensor]:
        nonlocal now
        for _ in range(3):
            now += seconds
            yield torch.zeros(1)

    clock = training.DataClock(CPU)
    for seconds, share in ((3.0, 0.75), (0.0, 0.0), (1.0, 0.5)):
        for _ in clock.over(slow(seconds)):
            now += 1.0
        assert clock.share() == pytest.approx(share)


@pytest.mark.parametrize(("item_s", "share"), [(0.5, 0.0), (1.0, 0.0), (4.0, 0.75)])
def test_a_gpu_that_has_steps_to_do_does_not_wait_for_data(
    monkeypatch: pytest.MonkeyPatch, item_s: float, share: float
) -> None:
    """Steps take it a second each; the host is told of them at once and waits for the next item."""
    now = done_at = 0.0

    class Event:
        """Is reached when the GPU has done what it was told before."""

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: object) -> None:
            self.at = max(now, done_at)

        def synchronize(self) -> None:
            nonlocal now
            now = max(now, self.at)

        def elapsed_time(self, later: "Event") -> float:
            return 1e3 * (later.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(training.time, "monotonic", lambda: now)
    monkeypatch.setattr(training, "MOST_WAITS", 7)

    def slow(count: int) -> Iterator[Tensor]:
        nonlocal now
        for _ in range(count):
            now += item_s
            yield torch.zeros(1)

    clock = training.DataClock(torch.device("cuda"))
    shares = []
    for _ in range(2):
        for _ in clock.over(slow(20)):
            done_at = max(now, done_at) + 1.0
        # As where the losses are read.
        now = max(now, done_at)
        shares.append(clock.share())
    # Before an epoch's first item the GPU has nothing to do.
    assert shares == pytest.approx([share] * 2, abs=0.05)


def test_live_losses_are_means_over_their_own_window(tmp_path: Path) -> None:
    points = [event for event in run(tmp_path, recipe(batch=3)) if isinstance(event, LossPoint)]
    assert [point.step for point in points] == [2, 4, 6]
    points = [event for event in run(tmp_path / "odd", recipe(batch=4)) if isinstance(event, LossPoint)]
    assert [point.step for point in points] == [2, 3], "the rest of a window is not lost"
    assert set(points[0].losses) == set(LOSS_NAMES)


@pytest.mark.parametrize("batch", [1, 2])
def test_streamed_pairs_train_the_same_weights_as_held_ones_and_take_over_in_mid_epoch(
    tmp_path: Path, batch: int
) -> None:
    """Dropout included: no worker draws from its random state."""
    splits = (write_split(tmp_path / "train", 5, 36), write_split(tmp_path / "val", 3, 32))

    def feeds(cached: bool) -> tuple[Feed, Feed]:
        first, second = (
            open_split(PairFiles.find(split), Placement(cached, ""), 32, CPU, 1, persistent=True)[0]
            for split in splits
        )
        return first, second

    train = recipe(batch=batch, losses_every=1)
    held = finished(run(tmp_path / "held", train, feeds=feeds(cached=True)))
    streamed = finished(run(tmp_path / "streamed", train, feeds=feeds(cached=False)))
    with pytest.raises(Interrupted):
        run(tmp_path / "both", train, feeds=feeds(cached=True), stop_at=4)
    both = finished(run(tmp_path / "both", train, feeds=feeds(cached=False)))
    for other in (streamed, both):
        assert equal(held.state, other.state)
        assert held.loss_rows == other.loss_rows
        assert held.validation_rows == other.validation_rows


KINDS = {
    "16-bit grey to RGB": (Encoding(1, "uint16"), RGB8),
    "16 bits on both sides": (
        Encoding(2, "uint16", range="percentiles", low=(99.0, 0.0), high=(60_000.0, 4.0)),
        Encoding(1, "uint16"),
    ),
    "classes to floats": (
        of_classes(5),
        Encoding(1, "float32", range="percentiles", low=(0.1,), high=(0.8,)),
    ),
}


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS.keys())
def test_rectangles_of_any_pixels_train_the_same_weights_streamed_as_held(
    tmp_path: Path, kinds: tuple[Encoding, Encoding]
) -> None:
    splits = (
        write_split(tmp_path / "train", 5, (36, 72), kinds),
        write_split(tmp_path / "val", 3, (32, 64), kinds),
    )
    train = recipe(batch=2, sample_images=3)
    config = replace(
        CONFIG,
        image_px=(32, 64),
        in_channels=kinds[0].network_channels,
        out_channels=kinds[1].network_channels,
        input=kinds[0],
        target=kinds[1],
    )
    seen = {}
    for cached in (True, False):
        feeds = (
            open_split(PairFiles.find(split), Placement(cached, ""), (32, 64), CPU, 1, persistent=True)[0]
            for split in splits
        )
        seen[cached] = run(tmp_path / str(cached), train, feeds=feeds, config=config)
    held, streamed = map(finished, seen.values())
    assert equal(held.state, streamed.state)
    assert held.loss_rows == streamed.loss_rows
    assert held.validation_rows == streamed.validation_rows
    # What is shown are the stored samples, and the L1 is that of the outputs in the target's range.
    last = next(event for event in reversed(seen[True]) if isinstance(event, Validated))
    stored = load_split(splits[1])
    for shown, samples in ((last.inputs, stored.inputs), (last.targets, stored.targets)):
        assert shown.dtype == samples.dtype
        assert np.array_equal(shown.transpose(0, 3, 1, 2), samples)
    assert last.outputs.dtype == last.targets.dtype
    units = (kinds[1].unit(samples) for samples in (last.outputs, last.targets))
    assert last.l1 == pytest.approx(np.abs(np.subtract(*units)).mean(), rel=1e-9)


@pytest.mark.parametrize("batch", [3, 4, 7])
def test_a_last_small_batch_is_used_too(tmp_path: Path, batch: int) -> None:
    seen = run(tmp_path, recipe(epochs=1, batch=batch, losses_every=1))
    assert len(finished(seen).loss_rows) == math.ceil(4 / batch)


# --- the ablations -----------------------------------------------------------------------------------


ABLATIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"architecture": "encoder-decoder"}, {}),
    ({"upsample": "resize"}, {}),
    ({"dropout_blocks": ()}, {}),
    ({"norm": "batch"}, {"batch": 2}),
    ({}, {"batch": 2}),
    ({"conditional": False}, {}),
    ({"discriminator_layers": 0}, {}),
    ({"discriminator_layers": 2}, {}),
    ({}, {"gan_loss": "lsgan"}),
    ({}, {"gan_loss": "hinge"}),
    ({}, {"gan_loss": "none"}),
    ({}, {"lambda_l1": 0.0}),
    ({}, {"lambda_l1": 10.0}),
    ({}, {"lr": 1e-3}),
    ({}, {"beta1": 0.9}),
]


def test_every_parameter_of_an_ablation_changes_what_is_trained(tmp_path: Path) -> None:
    trained = []
    for number, (model, train) in enumerate(ABLATIONS):
        done = finished(run(tmp_path / str(number), recipe(epochs=1, **train), model=changed(model)))
        assert all(torch.isfinite(weight).all() for weight in done.state.values())
        trained.append(done)
    for first in range(len(trained)):
        for second in range(first):
            assert not equal(trained[first].state, trained[second].state), (
                ABLATIONS[first],
                ABLATIONS[second],
            )


def test_a_warm_start_begins_with_the_named_weights_and_a_fresh_discriminator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = training_state.new_state(CONFIG, MODEL, recipe(), CPU)
    named: list[str] = []

    def load(generator: Generator, digest: str) -> None:
        named.append(digest)
        with torch.no_grad():
            for weight in generator.parameters():
                weight.fill_(0.5)

    monkeypatch.setattr("pix2pix.warm_start.load", load)
    warm = training_state.new_state(CONFIG, MODEL, recipe(warm_start="a" * 64), CPU)
    assert named == ["a" * 64]
    assert all(bool((weight == 0.5).all()) for weight in warm.generator.parameters())
    assert equal(warm.discriminator.state_dict(), fresh.discriminator.state_dict())
    assert (
        not finished(run(tmp_path, recipe(warm_start="a" * 64))).state.keys() - fresh.generator.state_dict()
    )


def changed(model: dict[str, Any]) -> Model:
    return Model.model_validate(MODEL.model_dump() | model)


@pytest.mark.parametrize(("conditional", "channels"), [(True, 6), (False, 3)])
def test_an_unconditional_discriminator_is_built_for_the_output_alone(
    conditional: bool, channels: int
) -> None:
    state = training_state.new_state(CONFIG, changed({"conditional": conditional}), recipe(), CPU)
    assert state.discriminator.convs[0].in_channels == channels
    pixels = training_state.new_state(CONFIG, changed({"discriminator_layers": 0}), recipe(), CPU)
    assert pixels.discriminator.receptive_field_px == 1


def test_a_training_by_l1_alone_writes_zeros_for_what_it_does_not_have(tmp_path: Path) -> None:
    states: list[State] = []
    train = recipe(gan_loss="none", losses_every=2)
    done = finished(run(tmp_path, train, on_state=states.append))
    assert [row[2:6:2] + row[5:6] for row in done.loss_rows] == [[0.0, 0.0, 0.0]] * 6
    assert all(row[3] > 0 for row in done.loss_rows)
    fresh = training_state.new_state(CONFIG, MODEL, train, CPU)
    assert equal(states[0].discriminator.state_dict(), fresh.discriminator.state_dict())
    assert not equal(states[0].generator.state_dict(), fresh.generator.state_dict())


@pytest.mark.parametrize("train", [{"gan_loss": "none"}, {"gan_loss": "hinge", "lambda_l1": 0.0}], ids=str)
def test_an_interrupted_ablation_ends_as_if_it_had_never_stopped(
    tmp_path: Path, train: dict[str, Any]
) -> None:
    model = changed({"architecture": "encoder-decoder", "conditional": False})
    whole = finished(run(tmp_path / "whole", recipe(**train), model=model))
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", recipe(**train), stop_at=5, model=model)
    rest = finished(run(tmp_path / "cut", recipe(**train), model=model))
    assert equal(rest.state, whole.state)
    assert rest.loss_rows == whole.loss_rows


# --- collapse ----------------------------------------------------------------------------------------


@pytest.fixture
def won(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any loss of the discriminator is low, and four steps of it are long; outputs never alike."""
    monkeypatch.setattr(collapse, "WON_STEPS", 4)
    monkeypatch.setattr(collapse, "WON_SHARE", 1e9)
    monkeypatch.setattr(collapse, "ALIKE_SHARE", 0.0)


def warnings(seen: list[Event]) -> list[int]:
    return [event.step for event in seen if isinstance(event, Warned)]


@pytest.mark.parametrize(("every", "step"), [(1, 4), (2, 4), (3, 6), (5, 5)])
def test_a_discriminator_that_has_won_is_warned_of_once_and_the_training_goes_on(
    won: None, tmp_path: Path, every: int, step: int
) -> None:
    seen = run(tmp_path, recipe(losses_every=every))
    assert warnings(seen) == [step]
    message = next(event.message for event in seen if isinstance(event, Warned))
    assert message.startswith(f"step {step}: the discriminator's losses have been below")
    assert finished(seen).loss_rows[-1][0] == 12


def test_a_warning_changes_no_weight(won: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warned = run(tmp_path / "warned", recipe(losses_every=2))
    monkeypatch.setattr(collapse, "WON_SHARE", 0.0)
    healthy = run(tmp_path / "healthy", recipe(losses_every=2))
    assert (warnings(warned), warnings(healthy)) == ([4], [])
    assert equal(finished(warned).state, finished(healthy).state)


@pytest.mark.parametrize(("stop_at", "before", "after"), [(3, [], [4]), (5, [4], []), (4, [4], [])])
def test_a_resumed_training_warns_at_the_same_step_and_not_again(
    won: None, tmp_path: Path, stop_at: int, before: list[int], after: list[int]
) -> None:
    train, seen = recipe(losses_every=2), []
    with pytest.raises(Interrupted):
        for event in events(tmp_path, train, stop_at=stop_at):
            seen.append(event)
    assert warnings(seen) == before
    assert warnings(run(tmp_path, train)) == after


def test_a_training_that_is_told_to_stops_at_the_first_sign(won: None, tmp_path: Path) -> None:
    train, seen = recipe(losses_every=3, on_collapse="stop"), []
    for _ in range(2):
        seen.clear()
        with pytest.raises(Collapsed) as collapsed:
            for event in events(tmp_path, train):
                seen.append(event)
        line = str(collapsed.value)
        assert "\n" not in line
        assert line.startswith("training: step 6: the discriminator's losses")
        assert "train.on_collapse" in line
        assert warnings(seen) == [6]
    assert seen[0] == Started(4, 1, 12), "it went on from its checkpoint, and met the sign again"


def test_without_an_adversarial_loss_no_discriminator_can_win(won: None, tmp_path: Path) -> None:
    assert warnings(run(tmp_path, recipe(gan_loss="none", losses_every=1))) == []


def deaf(state: State) -> None:
    """The generator's last layer gives the same picture whatever it is given."""
    nn.init.zeros_(state.generator.up[-1].conv.weight)


def test_outputs_that_ignore_their_inputs_are_warned_of_after_the_validation_that_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.collapse, "SETTLED_STEPS", 0)
    seen = run(tmp_path, recipe(epochs=1, lr=1e-9), on_state=deaf)
    assert warnings(seen) == [4]
    order = [type(event) for event in seen]
    assert order.index(Warned) == order.index(Validated) + 1
    message = next(event.message for event in seen if isinstance(event, Warned))
    assert message.startswith("step 4: outputs for different inputs differ by 0.0%")


def test_two_outputs_are_compared_where_one_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.collapse, "SETTLED_STEPS", 0)
    seen = run(tmp_path, recipe(epochs=1, lr=1e-9, sample_images=1), on_state=deaf)
    assert warnings(seen) == [4]
    (shown,) = (event for event in seen if isinstance(event, Validated))
    assert len(shown.inputs) == len(shown.outputs) == len(shown.targets) == 1


def test_outputs_that_ignore_their_inputs_stop_a_training_that_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.collapse, "SETTLED_STEPS", 0)
    with pytest.raises(Collapsed, match=r"^training: step 4: outputs for different inputs differ by 0\.0%"):
        run(tmp_path, recipe(lr=1e-9, on_collapse="stop"), on_state=deaf)
    assert not (tmp_path / "f" / "checkpoint.pt").exists(), "no checkpoint after the sign"


def test_outputs_that_follow_their_inputs_are_not_warned_of(tmp_path: Path) -> None:
    def loud(state: State) -> None:
        with torch.no_grad():
            state.generator.up[-1].conv.weight.mul_(30)

    assert warnings(run(tmp_path, recipe(on_collapse="stop"), on_state=loud)) == []
