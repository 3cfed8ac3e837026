"""One step, and its learning rate."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pix2pix.discriminator import Discriminator
from pix2pix.generator import Generator
from pix2pix.step import LOSS_NAMES, Objective, learning_rate, set_learning_rate, training_step

OBJECTIVE = Objective("bce", 100.0, conditional=True)


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
    return [float(values[LOSS_NAMES.index(name)]) for name in ("g_adversarial", "d_real", "d_fake")]


def test_a_discriminator_that_says_nothing_costs_exactly_ln_2() -> None:
    assert first_losses(seed=0, last_scale=0.0) == pytest.approx([math.log(2)] * 3, rel=1e-6)


def test_fresh_weights_have_adversarial_losses_near_ln_2() -> None:
    """Fresh logits have a variance v of about 1.7 around 0, which adds about v/8 to ln 2."""
    means = np.mean([first_losses(seed, last_scale=1.0) for seed in range(5)], axis=0)
    assert means == pytest.approx([math.log(2) + 1.7 / 8] * 3, abs=0.35)


# Written out once more: G's loss on the fake's logits, D's on the real's and on the fake's.
ADVERSARIAL: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "bce": (
        lambda fake: F.softplus(-fake).mean(),
        lambda real: F.softplus(-real).mean(),
        lambda fake: F.softplus(fake).mean(),
    ),
    "lsgan": (
        lambda fake: (fake - 1).square().mean(),
        lambda real: (real - 1).square().mean(),
        lambda fake: fake.square().mean(),
    ),
    "hinge": (
        lambda fake: -fake.mean(),
        lambda real: (1 - real).clamp(min=0).mean(),
        lambda fake: (1 + fake).clamp(min=0).mean(),
    ),
}


@pytest.mark.parametrize("kind", ADVERSARIAL)
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("lambda_l1", [100.0, 0.0])
def test_one_shared_pass_updates_both_networks_as_separate_passes_do(
    networks: tuple, kind: str, conditional: bool, lambda_l1: float
) -> None:
    """In float64, against losses and gradients written out one network at a time."""
    generator, discriminator, source, target = networks
    if not conditional:
        discriminator = Discriminator(in_channels=3, channels=4, layers=2).double()
    g_twin, d_twin = copy.deepcopy(generator), copy.deepcopy(discriminator)
    ours = [torch.optim.Adam(net.parameters(), lr=1e-3, fused=True) for net in (generator, discriminator)]
    theirs = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (g_twin, d_twin)]
    wants_real, judges_real, judges_fake = ADVERSARIAL[kind]

    def seen(image: Tensor) -> Tensor:
        return d_twin(torch.cat([source, image], 1) if conditional else image)

    objective = Objective(kind, lambda_l1, conditional)
    for _ in range(3):
        values = training_step(generator, discriminator, *ours, source, target, objective)

        output = g_twin(source)
        g_adversarial = wants_real(seen(output))
        g_l1 = (output - target).abs().mean()
        g_gradients = torch.autograd.grad(g_adversarial + lambda_l1 * g_l1, list(g_twin.parameters()))
        d_real, d_fake = judges_real(seen(target)), judges_fake(seen(output.detach()))
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


def test_without_an_adversarial_loss_a_step_is_one_of_l1_and_leaves_the_discriminator(
    networks: tuple,
) -> None:
    generator, discriminator, source, target = networks
    twin, before = copy.deepcopy(generator), copy.deepcopy(discriminator.state_dict())
    ours = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (generator, discriminator)]
    theirs = torch.optim.Adam(twin.parameters(), lr=1e-3)
    for _ in range(3):
        values = training_step(
            generator, discriminator, *ours, source, target, Objective("none", 7.0, conditional=True)
        )
        theirs.zero_grad()
        l1 = (twin(source) - target).abs().mean()
        (7.0 * l1).backward()
        theirs.step()
        torch.testing.assert_close(values, torch.stack([0 * l1, l1, 0 * l1, 0 * l1]))
        assert not values.requires_grad
    for weight, other in zip(generator.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-10)
    assert all(torch.equal(value, before[name]) for name, value in discriminator.state_dict().items())
    assert all(weight.grad is None for weight in discriminator.parameters())
    assert not ours[1].state


def test_without_an_adversarial_loss_the_discriminator_is_not_even_asked(networks: tuple) -> None:
    generator, _, source, target = networks
    optimizer = torch.optim.Adam(generator.parameters())
    nobody: Any = nn.Module()
    values = training_step(
        generator, nobody, optimizer, optimizer, source, target, Objective("none", 1.0, conditional=False)
    )
    assert float(values[1]) > 0


@pytest.mark.parametrize(("kind", "expected"), [("lsgan", (1, 1, 0)), ("hinge", (0, 1, 1))])
def test_first_losses_of_a_discriminator_that_says_nothing(
    networks: tuple, kind: str, expected: tuple[float, ...]
) -> None:
    generator, discriminator, source, target = networks
    with torch.no_grad():
        discriminator.last.weight.zero_()
    optimizers = [torch.optim.Adam(net.parameters()) for net in (generator, discriminator)]
    values = training_step(
        generator, discriminator, *optimizers, source, target, Objective(kind, 100.0, conditional=True)
    )
    assert values[[0, 2, 3]].tolist() == pytest.approx(expected, abs=1e-12)


def test_the_generator_is_drawn_to_the_target_by_lambda(networks: tuple) -> None:
    generator, discriminator, source, target = networks
    optimizers = [torch.optim.Adam(net.parameters(), lr=2e-3) for net in (generator, discriminator)]
    first = training_step(generator, discriminator, *optimizers, source, target, OBJECTIVE)[1]
    for _ in range(40):
        last = training_step(generator, discriminator, *optimizers, source, target, OBJECTIVE)[1]
    assert last < 0.7 * first


# --- precision ---------------------------------------------------------------------------------------


def test_bf16_computes_the_networks_in_bfloat16_and_keeps_weights_moments_and_losses() -> None:
    torch.manual_seed(0)
    networks = Generator(levels=5, channels=4, dropout_blocks=()), Discriminator(channels=4, layers=2)
    twins = copy.deepcopy(networks)
    source, target = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    computed = set()
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.register_forward_hook(lambda module, inputs, output: computed.add(output.dtype))
    losses = []
    for pair, precision in ((networks, "bf16"), (twins, "fp32")):
        optimizers = [torch.optim.Adam(network.parameters(), lr=1e-4, fused=True) for network in pair]
        losses.append(training_step(*pair, *optimizers, source, target, OBJECTIVE, precision))
        tensors = [value for network in pair for value in network.parameters()]
        gradients = [weight.grad for weight in tensors]
        moments = [value for o in optimizers for state in o.state.values() for value in state.values()]
        assert {tensor.dtype for tensor in (*tensors, *gradients, *moments, losses[-1])} == {torch.float32}
    assert computed == {torch.bfloat16}
    torch.testing.assert_close(losses[0], losses[1], rtol=2e-2, atol=0)
    assert not torch.equal(losses[0], losses[1])


def test_a_rate_that_is_a_tensor_stays_that_tensor() -> None:
    weight = nn.Parameter(torch.ones(1))
    rate = torch.tensor(1.0)
    captured, plain = torch.optim.SGD([weight], lr=rate), torch.optim.SGD([weight], lr=1.0)
    for optimizer in (captured, plain):
        set_learning_rate(optimizer, 0.25)
    assert captured.param_groups[0]["lr"] is rate and rate == 0.25
    assert plain.param_groups[0]["lr"] == 0.25


# --- schedule ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(1, 2e-4), (100, 2e-4), (101, 2e-4 * (1 - 1 / 101)), (200, 2e-4 * (1 - 100 / 101))],
)
def test_rate_is_constant_for_half_the_epochs_then_falls_linearly(epoch: int, expected: float) -> None:
    assert learning_rate(2e-4, epoch - 1, 200, 0.5) == pytest.approx(expected, rel=1e-12)


def test_without_decay_the_rate_stays() -> None:
    assert {learning_rate(1e-3, epoch, 30, 0.0) for epoch in range(30)} == {1e-3}
