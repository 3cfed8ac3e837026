"""The step and the loop."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pix2pix import losses, training
from pix2pix.checkpoint import CheckpointFolder, GeneratorConfig
from pix2pix.discriminator import Discriminator
from pix2pix.generator import Generator
from pix2pix.pair_set import PairSet
from pix2pix.params import Model, Train
from pix2pix.training import Finished, LossPoint, State, Validated, fit, learning_rate, training_step

CPU = torch.device("cpu")
MODEL = Model(
    architecture="unet",
    generator_channels=2,
    upsample="deconv",
    dropout_blocks=(1, 2),
    norm="instance",
    discriminator_channels=2,
    discriminator_layers=1,
    conditional=True,
)
OBJECTIVE = training.Objective("bce", 100.0, conditional=True)
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
    }
    return Train.model_validate(values | changes)


def pair_set(count: int, side: int, seed: int = 0) -> PairSet:
    random = np.random.default_rng(seed)
    inputs = random.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return PairSet(tuple(map(str, range(count))), inputs, 255 - inputs, "digest")


def run(
    folder: Path,
    train: Train,
    stop_at: int | None = None,
    on_state: Callable[[State], None] | None = None,
    checkpoint_every: int = 1,
) -> list[training.Event]:
    """Train on a few pairs; optionally ask to stop once a step is reached."""
    state = training.new_state(CONFIG, MODEL, train, CPU)
    if on_state:
        on_state(state)
    events = fit(
        state,
        MODEL,
        train,
        pair_set(4, 36),
        pair_set(3, 32, seed=9),
        image_px=32,
        device=CPU,
        folder=CheckpointFolder(folder, "f"),
        checkpoint_every_epochs=checkpoint_every,
        log_every_steps=2,
        stop_requested=lambda: stop_at is not None and state.step >= stop_at,
    )
    return list(events)


def finished(events: list[training.Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- one step ----------------------------------------------------------------------------------------


@pytest.fixture
def networks() -> tuple[Generator, Discriminator, Tensor, Tensor]:
    torch.manual_seed(0)
    generator = Generator(levels=5, channels=4, dropout_blocks=()).double()
    discriminator = Discriminator(channels=4, layers=2).double()
    return generator, discriminator, torch.rand(2, 3, 32, 32).double(), torch.rand(2, 3, 32, 32).double()


def first_losses(seed: int, last_scale: float) -> list[float]:
    torch.manual_seed(seed)
    generator, discriminator = Generator(levels=6, channels=8), Discriminator(channels=64)
    with torch.no_grad():
        discriminator.last.weight.mul_(last_scale)
    source, target = torch.rand(1, 3, 64, 64) * 2 - 1, torch.rand(1, 3, 64, 64) * 2 - 1
    optimizers = [torch.optim.Adam(network.parameters()) for network in (generator, discriminator)]
    values = training_step(generator, discriminator, *optimizers, source, target, OBJECTIVE)
    return [float(values[training.LOSS_NAMES.index(name)]) for name in ("g_adversarial", "d_real", "d_fake")]


def test_a_discriminator_that_says_nothing_costs_exactly_ln_2() -> None:
    assert first_losses(seed=0, last_scale=0.0) == pytest.approx([math.log(2)] * 3, rel=1e-6)


def test_fresh_weights_have_adversarial_losses_near_ln_2() -> None:
    """Fresh logits have a variance v of about 1.7 around 0, which adds about v/8 to ln 2."""
    means = np.mean([first_losses(seed, last_scale=1.0) for seed in range(5)], axis=0)
    assert means == pytest.approx([math.log(2) + 1.7 / 8] * 3, abs=0.35)


def test_one_shared_pass_updates_both_networks_as_separate_passes_do(networks: tuple) -> None:
    """In float64, against losses and gradients written out one network at a time."""
    generator, discriminator, source, target = networks
    g_twin, d_twin = copy.deepcopy(generator), copy.deepcopy(discriminator)
    ours = [torch.optim.Adam(net.parameters(), lr=1e-3, fused=True) for net in (generator, discriminator)]
    theirs = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (g_twin, d_twin)]
    for _ in range(5):
        values = training_step(generator, discriminator, *ours, source, target, OBJECTIVE)

        output = g_twin(source)
        g_adversarial = losses.generator_adversarial("bce", d_twin(torch.cat([source, output], 1)))
        g_l1 = losses.l1(output, target)
        g_gradients = torch.autograd.grad(g_adversarial + 100 * g_l1, list(g_twin.parameters()))
        d_real = losses.discriminator_loss("bce", d_twin(torch.cat([source, target], 1)), real=True)
        d_fake = losses.discriminator_loss("bce", d_twin(torch.cat([source, output.detach()], 1)), real=False)
        d_gradients = torch.autograd.grad(d_real + d_fake, list(d_twin.parameters()))
        for net, gradients, optimizer in zip(
            (g_twin, d_twin), (g_gradients, d_gradients), theirs, strict=True
        ):
            for weight, gradient in zip(net.parameters(), gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
        torch.testing.assert_close(values, torch.stack([g_adversarial, g_l1, d_real, d_fake]))
    for net, twin in ((generator, g_twin), (discriminator, d_twin)):
        for weight, other in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(weight, other, rtol=0, atol=1e-10)


def test_the_generator_is_drawn_to_the_target_by_lambda(networks: tuple) -> None:
    generator, discriminator, source, target = networks
    optimizers = [torch.optim.Adam(net.parameters(), lr=2e-3) for net in (generator, discriminator)]
    first = training_step(generator, discriminator, *optimizers, source, target, OBJECTIVE)[1]
    for _ in range(40):
        last = training_step(generator, discriminator, *optimizers, source, target, OBJECTIVE)[1]
    assert last < 0.7 * first


# --- schedule ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(1, 2e-4), (100, 2e-4), (101, 2e-4 * (1 - 1 / 101)), (200, 2e-4 * (1 - 100 / 101))],
)
def test_rate_is_constant_for_half_the_epochs_then_falls_linearly(epoch: int, expected: float) -> None:
    assert learning_rate(2e-4, epoch - 1, 200, 0.5) == pytest.approx(expected, rel=1e-12)


def test_without_decay_the_rate_stays() -> None:
    assert {learning_rate(1e-3, epoch, 30, 0.0) for epoch in range(30)} == {1e-3}


def test_the_rate_that_is_scheduled_is_the_rate_that_is_used(tmp_path: Path) -> None:
    rows = finished(run(tmp_path, recipe(epochs=4, losses_every=4))).loss_rows
    assert [row[-1] for row in rows] == [learning_rate(0.0002, epoch, 4, 0.5) for epoch in range(4)]


# --- the loop ----------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (
        finished(run(tmp_path / name, recipe(seed=seed))) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert equal(first.state, again.state)
    assert first.loss_rows == again.loss_rows
    assert not equal(first.state, other.state)


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6, 8, 11])
def test_an_interrupted_run_ends_as_if_it_had_never_stopped(tmp_path: Path, stop_at: int) -> None:
    """Within an epoch and at its last step, before and after validations; weights and curves."""
    train = recipe(epochs=3, keep="best", losses_every=5)
    whole = finished(run(tmp_path / "whole", train))
    with pytest.raises(training.Interrupted) as interrupted:
        run(tmp_path / "cut", train, stop_at=stop_at)
    assert interrupted.value.step == stop_at
    rest = run(tmp_path / "cut", train)
    assert rest[0] == training.Started(stop_at, stop_at // 4, 12)
    assert equal(finished(rest).state, whole.state)
    assert finished(rest).loss_rows == whole.loss_rows
    assert finished(rest).validation_rows == whole.validation_rows
    assert finished(rest).epoch == whole.epoch


def test_a_request_to_stop_at_the_very_last_step_just_finishes(tmp_path: Path) -> None:
    assert finished(run(tmp_path, recipe(), stop_at=12)).state


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    train = recipe(epochs=4)
    whole = finished(run(tmp_path / "whole", train))
    state = training.new_state(CONFIG, MODEL, train, CPU)
    folder = CheckpointFolder(tmp_path / "killed", "f")
    options = {
        "image_px": 32,
        "device": CPU,
        "folder": folder,
        "checkpoint_every_epochs": 2,
        "log_every_steps": 2,
    }
    for event in fit(state, MODEL, train, pair_set(4, 36), pair_set(3, 32, seed=9), **options):
        if isinstance(event, training.Stepped) and event.step == 11:
            break
    rest = run(tmp_path / "killed", train, checkpoint_every=2)
    assert rest[0] == training.Started(8, 2, 16)
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
    events = run(tmp_path, recipe(epochs=5, validate_every=2))
    validations = [event for event in events if isinstance(event, Validated)]
    assert [event.epoch for event in validations] == [2, 4, 5]
    assert validations[0].outputs.shape == validations[0].inputs.shape == (2, 32, 32, 3)
    assert validations[0].outputs.dtype == np.uint8
    assert finished(events).validation_rows == [[e.step, e.epoch, e.l1] for e in validations]


def test_validation_l1_is_that_of_the_pixels_a_user_gets(tmp_path: Path) -> None:
    events = run(tmp_path, recipe(sample_images=3))
    last = next(event for event in reversed(events) if isinstance(event, Validated))
    difference = np.abs(last.outputs.astype(int) - last.targets.astype(int)) / 255
    assert last.l1 == pytest.approx(difference.mean(), rel=1e-6)


def test_keep_best_ships_the_epoch_with_the_lowest_validation_l1(tmp_path: Path) -> None:
    events = run(tmp_path, recipe(epochs=6, lr=0.1, decay_share=0.0, keep="best"))
    done = finished(events)
    curve = {row[1]: row[2] for row in done.validation_rows}
    best = min(curve, key=lambda epoch: curve[epoch])
    assert done.epoch == best != 6, "the recipe must make the last epoch worse, or this proves nothing"
    generator = CONFIG.build()
    generator.load_state_dict(done.state)
    l1, _ = training.validate(generator, pair_set(3, 32, seed=9), CPU, kept=1)
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
    with pytest.raises(training.Diverged, match=r"at step 6;.*train\.lr"):
        run(tmp_path, recipe(), on_state=poison)
    assert torch.load(tmp_path / "f" / "checkpoint.pt", weights_only=True)["step"] == 4


def test_live_losses_are_means_over_their_own_window(tmp_path: Path) -> None:
    points = [event for event in run(tmp_path, recipe(batch=3)) if isinstance(event, LossPoint)]
    assert [point.step for point in points] == [2, 4, 6]
    points = [event for event in run(tmp_path / "odd", recipe(batch=4)) if isinstance(event, LossPoint)]
    assert [point.step for point in points] == [2, 3], "the rest of a window is not lost"
    assert set(points[0].losses) == set(training.LOSS_NAMES)


@pytest.mark.parametrize("batch", [3, 4, 7])
def test_a_last_small_batch_is_used_too(tmp_path: Path, batch: int) -> None:
    events = run(tmp_path, recipe(epochs=1, batch=batch, losses_every=1))
    assert len(finished(events).loss_rows) == math.ceil(4 / batch)
