"""The losses, worked out by hand."""

import math

import pytest
import torch

from pix2pix.losses import discriminator_loss, generator_adversarial, l1

LOGITS = torch.tensor([[0.0, 2.0]])
LN_2 = math.log(2)


@pytest.mark.parametrize(
    ("kind", "generator", "real", "fake"),
    [
        ("bce", (LN_2 + 0.126928) / 2, (LN_2 + 0.126928) / 2, (LN_2 + 2.126928) / 2),
        ("lsgan", (1 + 1) / 2, (1 + 1) / 2, (0 + 4) / 2),
        ("hinge", -(0 + 2) / 2, (1 + 0) / 2, (1 + 3) / 2),
    ],
)
def test_every_kind_has_the_value_worked_out_by_hand(
    kind: str, generator: float, real: float, fake: float
) -> None:
    values = (
        generator_adversarial(kind, LOGITS),
        discriminator_loss(kind, LOGITS, real=True),
        discriminator_loss(kind, LOGITS, real=False),
    )
    assert [value.shape for value in values] == [()] * 3
    assert [float(value) for value in values] == pytest.approx([generator, real, fake], abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"), [("bce", (LN_2, LN_2, LN_2)), ("lsgan", (1, 1, 0)), ("hinge", (0, 1, 1))]
)
def test_a_discriminator_without_an_opinion_costs(kind: str, expected: tuple[float, ...]) -> None:
    logits = torch.zeros(2, 1, 30, 30)
    values = [generator_adversarial(kind, logits)]
    values += [discriminator_loss(kind, logits, real) for real in (True, False)]
    assert [float(value) for value in values] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["bce", "lsgan", "hinge"])
def test_each_side_pulls_the_logits_its_own_way(kind: str) -> None:
    logits = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True)
    (wants_real,) = torch.autograd.grad(generator_adversarial(kind, logits), logits)
    (real,) = torch.autograd.grad(discriminator_loss(kind, logits, real=True), logits)
    (fake,) = torch.autograd.grad(discriminator_loss(kind, logits, real=False), logits)
    assert (wants_real < 0).all() and (real < 0).all()
    # The least squares of a fake are at 0, the others' nowhere.
    pulled = torch.tensor([-1.0, 0.0, 1.0]) if kind == "lsgan" else torch.ones(3)
    assert torch.equal(fake.sign(), pulled)


def test_hinge_asks_no_more_of_what_is_judged_right_by_a_margin() -> None:
    sure = torch.tensor([1.5, 3.0])
    assert discriminator_loss("hinge", sure, real=True) == 0
    assert discriminator_loss("hinge", -sure, real=False) == 0
    assert generator_adversarial("hinge", sure) == -2.25


def test_bce_stays_finite_for_any_logit() -> None:
    far = torch.tensor([-1000.0, 1000.0])
    assert generator_adversarial("bce", far) == 500
    assert discriminator_loss("bce", far, real=False) == 500


@pytest.mark.parametrize("kind", ["none", "wgan", ""])
def test_an_unknown_kind_is_an_error(kind: str) -> None:
    with pytest.raises(ValueError, match="no adversarial loss is called"):
        generator_adversarial(kind, LOGITS)
    with pytest.raises(ValueError, match="no adversarial loss is called"):
        discriminator_loss(kind, LOGITS, real=True)


def test_l1_is_the_mean_absolute_difference() -> None:
    assert l1(torch.tensor([1.0, -1.0]), torch.tensor([-1.0, -0.5])) == (2 + 0.5) / 2
