"""Signs of collapse: said at the right moment, once, and of no healthy run."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pix2pix.collapse import (
    ALIKE_SHARE,
    NEUTRAL_LOSS,
    WON_SHARE,
    WON_STEPS,
    discriminator_won,
    outputs_alike,
)
from pix2pix.losses import discriminator_loss


def rows(losses: Sequence[tuple[float, float]], every: int) -> list[list[float]]:
    """losses.csv of these losses of the discriminator: real, fake."""
    return [[every * n, 1, 0.7, 0.2, real, fake, 2e-4] for n, (real, fake) in enumerate(losses, 1)]


def said_at(losses: Sequence[tuple[float, float]], every: int) -> list[int]:
    """The steps at which a training with these losses warns, asked after each row as the loop does."""
    table = rows(losses, every)
    return [int(table[n - 1][0]) for n in range(1, len(table) + 1) if discriminator_won(table[:n], every)]


LOW, HEALTHY = (0.01, 0.02), (0.6, 0.65)
BOUND = WON_SHARE * NEUTRAL_LOSS["bce"]


@pytest.mark.parametrize("every", [1, 50, 300, 1000, 5000])
def test_a_discriminator_that_has_won_is_told_once_when_the_window_has_filled(every: int) -> None:
    window = -(-WON_STEPS // every)
    assert said_at([LOW] * (3 * window), every) == [window * every]
    assert said_at([LOW] * (window - 1), every) == []
    assert said_at([HEALTHY] * 3 + [LOW] * (2 * window), every) == [(3 + window) * every]


def test_a_discriminator_that_wins_again_is_told_again() -> None:
    assert said_at([LOW] * 3 + [HEALTHY] + [LOW] * 5, 500) == [1000, 3000]


@pytest.mark.parametrize(
    "losses",
    [
        [HEALTHY] * 50,
        [(0.01, 0.5)] * 50,
        [(0.5, 0.01)] * 50,
        ([LOW] * 9 + [HEALTHY]) * 5,
        [(BOUND, BOUND)] * 50,
        [],
    ],
    ids=["healthy", "only real", "only fake", "low for moments", "at the bound", "none"],
)
def test_a_healthy_discriminator_is_not_told(losses: list[tuple[float, float]]) -> None:
    assert said_at(losses, 100) == []


@pytest.mark.parametrize("kind", NEUTRAL_LOSS)
def test_the_bound_is_the_same_share_of_what_any_loss_is_for_who_cannot_tell(kind: str) -> None:
    # Half-way between "real" and "fake": probability a half, the mean of both labels, neither side's margin.
    logits = torch.full((1, 1, 4, 4), 0.5 if kind == "lsgan" else 0.0)
    for real in (True, False):
        assert float(discriminator_loss(kind, logits, real)) == pytest.approx(NEUTRAL_LOSS[kind])
    bound = WON_SHARE * NEUTRAL_LOSS[kind]
    for share, told in ((0.99, True), (1.01, False)):
        table = rows([(share * bound, share * bound)] * 2, 500)
        assert (discriminator_won(table, 500, kind) is not None) == told


def test_what_is_said_names_the_step_and_the_knobs() -> None:
    line = discriminator_won(rows([LOW] * 4, 300), 300)
    assert line is not None and "\n" not in line
    assert line.startswith(
        f"step 1200: the discriminator's losses have been below {BOUND:.2g} for 1200 steps"
    )
    for knob in ("model.discriminator_channels", "train.gan_loss", "train.lr"):
        assert knob in line


def pictures(spread: int, seed: int = 0) -> np.ndarray:
    """Six pictures around grey that differ by up to `spread` levels on either side."""
    random = np.random.default_rng(seed)
    return random.integers(128 - spread, 129 + spread, (6, 16, 16, 3)).astype(np.uint8)


def test_outputs_that_ignore_their_inputs_are_told() -> None:
    same = np.repeat(pictures(100)[:1], 6, axis=0)
    line = outputs_alike(4000, same, pictures(100, seed=1))
    assert line is not None and "\n" not in line
    assert line.startswith("step 4000: outputs for different inputs differ by 0.0% of what their targets do")
    for knob in ("train.lambda_l1", "model.architecture", "train.lr"):
        assert knob in line


@pytest.mark.parametrize(("spread", "alike"), [(0, True), (2, True), (30, False), (100, False)])
def test_the_bound_is_a_share_of_what_the_targets_differ_by(spread: int, alike: bool) -> None:
    targets = pictures(100, seed=1)
    share = pictures(spread).std(axis=0).mean() / targets.std(axis=0).mean()
    assert (share < ALIKE_SHARE) == alike
    assert (outputs_alike(1000, pictures(spread), targets) is not None) == alike


def test_one_picture_or_targets_that_are_all_the_same_say_nothing() -> None:
    flat = np.full((6, 8, 8, 3), 128, np.uint8)
    assert outputs_alike(1000, flat[:1], flat[:1]) is None
    assert outputs_alike(1000, flat, flat) is None


def test_a_fresh_generator_may_have_outputs_that_are_alike() -> None:
    same, targets = np.repeat(pictures(100)[:1], 6, axis=0), pictures(100, seed=1)
    assert outputs_alike(999, same, targets) is None
    assert outputs_alike(1000, same, targets) is not None
