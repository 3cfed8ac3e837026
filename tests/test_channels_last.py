"""Images and weights pixel by pixel, as on a GPU: the same training in another order of memory."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from training_fixtures import CONFIG, CPU, MODEL, equal, finished, recipe, run

from pix2pix import devices
from pix2pix.checkpoint import GeneratorConfig
from pix2pix.encoding import Encoding
from pix2pix.events import Interrupted
from pix2pix.feed import CachedFeed
from pix2pix.generator import Norm
from pix2pix.params import Model
from pix2pix.training import repeated_step
from pix2pix.training_state import State, new_state

GREY = Encoding(1, "uint8")
ONE_CHANNEL = replace(CONFIG, in_channels=1, out_channels=1, input=GREY, target=GREY)


@pytest.fixture
def channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "wants_channels_last", lambda device, precision: True)


def pairs(config: GeneratorConfig, count: int, side: int, seed: int = 0) -> CachedFeed:
    channels = config.in_channels + config.out_channels
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=random)
    return CachedFeed(tuple(map(str, range(count))), pixels, (config.input, config.target))


def stepped(config: GeneratorConfig, model: Model, batch: int) -> State:
    """A training after one step without dropout."""
    train, feed = recipe(batch=batch), pairs(config, 4, 36)
    state = new_state(replace(config, dropout_blocks=()), model, train, CPU)
    step = repeated_step(state, model, train, feed, image_px=32, device=CPU)
    step(torch.tensor([[index, 1, 2, index % 2] for index in range(batch)]))
    return state


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("config", [CONFIG, ONE_CHANNEL], ids=["3 channels", "1 channel"])
def test_a_step_is_that_of_contiguous_memory(
    monkeypatch: pytest.MonkeyPatch, config: GeneratorConfig, layers: int, batch: int
) -> None:
    model = MODEL.model_copy(update={"discriminator_layers": layers})
    plain = stepped(config, model, batch)
    monkeypatch.setattr(devices, "wants_channels_last", lambda device, precision: True)
    other = stepped(config, model, batch)
    for name in ("generator", "discriminator"):
        pairs_of_weights = zip(
            getattr(plain, name).parameters(), getattr(other, name).parameters(), strict=True
        )
        for weight, its in pairs_of_weights:
            assert weight.grad is not None and its.grad is not None
            torch.testing.assert_close(its.grad, weight.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("config", [CONFIG, ONE_CHANNEL], ids=["3 channels", "1 channel"])
def test_weights_with_a_side_of_1_have_its_strides_too(
    channels_last: None, config: GeneratorConfig, layers: int
) -> None:
    """They are as well contiguous, but CUDA's fused Adam wants the gradients' own: pytorch/pytorch#106951."""
    state = new_state(config, MODEL.model_copy(update={"discriminator_layers": layers}), recipe(), CPU)
    for network in (state.generator, state.discriminator):
        for weight in network.parameters():
            if weight.dim() == 4:
                _, channels, height, width = weight.shape
                expected = (channels * height * width, 1, width * channels, channels)
                assert weight.stride() == expected


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("config", [CONFIG, ONE_CHANNEL], ids=["3 channels", "1 channel"])
def test_an_interrupted_training_ends_as_if_it_had_never_stopped(
    tmp_path: Path, channels_last: None, config: GeneratorConfig, layers: int
) -> None:
    feeds = pairs(config, 4, 36), pairs(config, 3, 32, seed=9)
    options = {
        "config": config,
        "feeds": feeds,
        "model": MODEL.model_copy(update={"discriminator_layers": layers}),
    }
    whole = finished(run(tmp_path / "whole", recipe(), **options))
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", recipe(), stop_at=3, **options)
    states: list[State] = []
    rest = finished(run(tmp_path / "cut", recipe(), on_state=states.append, **options))
    assert equal(rest.state, whole.state)
    assert rest.loss_rows == whole.loss_rows
    # The moments too are where the fused Adam looks for them.
    for optimizer in (states[0].generator_optimizer, states[0].discriminator_optimizer):
        for weight, moments in optimizer.state.items():
            assert moments["exp_avg"].stride() == moments["exp_avg_sq"].stride() == weight.stride()


def gradients(kind: str, x: Tensor, incoming: Tensor) -> list[Tensor]:
    norm = Norm(x.shape[1], kind).to(x.dtype)
    x = x.clone().requires_grad_()
    return list(torch.autograd.grad(norm(x), [x, *norm.parameters()], incoming))


def test_the_gradients_of_one_image_s_norm_do_not_depend_on_the_order_of_memory() -> None:
    torch.manual_seed(0)
    x, incoming = (torch.randn(1, 8, 5, 6, dtype=torch.float64) for _ in range(2))
    expected = gradients("instance", x, incoming)
    for also in (x, x.contiguous(memory_format=torch.channels_last)):
        found = gradients("instance", also, incoming.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_image_is_normalised_in_training_to_the_bits_of_instance_norm(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = Norm(16, "instance")
    torch.nn.init.normal_(norm.weight)
    twin = copy.deepcopy(norm)
    x, incoming = (torch.randn(1, 16, 31, 17, dtype=dtype) for _ in range(2))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    output, expected = norm(ours), F.instance_norm(theirs, weight=twin.weight, bias=twin.bias)
    assert torch.equal(output, expected)
    output.backward(incoming)
    expected.backward(incoming)
    for one, other in ((ours, theirs), (norm.weight, twin.weight), (norm.bias, twin.bias)):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad, other.grad)
