"""The PatchGAN: its size and what one of its logits can see."""

import pytest
import torch

from pix2pix.discriminator import Discriminator


def test_parameter_count_is_that_of_the_reference() -> None:
    with torch.device("meta"):
        network = Discriminator(channels=64)
    assert sum(weight.numel() for weight in network.parameters()) == 2_768_705


FIELDS = {0: 1, 1: 16, 2: 34, 3: 70, 4: 142, 5: 286}


# arXiv 1611.07004, appendix 6.1.2.
@pytest.mark.parametrize(("layers", "patches"), [(0, 256), (1, 126), (2, 62), (3, 30), (4, 14), (5, 6)])
def test_256_px_give_the_published_number_of_logits(layers: int, patches: int) -> None:
    network = Discriminator(channels=2, layers=layers)
    assert network(torch.zeros(1, 6, 256, 256)).shape == (1, 1, patches, patches)


@pytest.mark.parametrize(("layers", "field"), FIELDS.items())
def test_a_logit_sees_a_patch_of_the_published_size(layers: int, field: int) -> None:
    torch.manual_seed(0)
    network = Discriminator(channels=1, layers=layers).double()
    assert network.receptive_field_px == field
    # The instance norm sees the whole image; without it only the convolutions' reach is left.
    network.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in network.norms)
    side = max(32, 2 * field + 64)
    pair = torch.randn(1, 6, side, side, dtype=torch.double, requires_grad=True)
    logits = network(pair)
    middle = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], pair)
    seen = gradient.abs().sum((0, 1)) > 0
    for axis in (0, 1):
        reached = seen.any(axis).nonzero().flatten()
        assert int(reached.max() - reached.min()) + 1 == field
    assert int(seen.sum()) == field**2, "every pixel of the patch, and none outside"


@pytest.mark.parametrize("layers", FIELDS)
@pytest.mark.parametrize("in_channels", [3, 6])
def test_the_input_may_be_a_pair_or_the_output_alone(layers: int, in_channels: int) -> None:
    network = Discriminator(in_channels=in_channels, channels=2, layers=layers)
    assert network.convs[0].in_channels == in_channels
    network(torch.zeros(1, in_channels, 256, 256))
    with pytest.raises(RuntimeError, match="channels"):
        network(torch.zeros(1, 9 - in_channels, 256, 256))


def test_the_pixel_discriminator_is_the_references() -> None:
    network = Discriminator(channels=64, layers=0)
    shapes = [tuple(conv.weight.shape) for conv in (*network.convs, network.last)]
    assert shapes == [(64, 6, 1, 1), (128, 64, 1, 1), (1, 128, 1, 1)]
    assert [norm.weight.shape for norm in network.norms if not isinstance(norm, torch.nn.Identity)] == [
        (128,)
    ]
    # Weights, the biases of the first and the last, scale and shift.
    assert sum(weight.numel() for weight in network.parameters()) == 6 * 64 + 64 + 64 * 128 + 256 + 128 + 1


def test_the_pixel_discriminator_judges_every_pixel_by_itself() -> None:
    torch.manual_seed(0)
    network = Discriminator(channels=4, layers=0)
    pair = torch.randn(1, 6, 8, 8)
    order = torch.randperm(64)
    shuffled = pair.flatten(2)[:, :, order].reshape(pair.shape)
    expected = network(pair).flatten()[order]
    torch.testing.assert_close(network(shuffled).flatten(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layers", FIELDS)
def test_strides_widths_and_norms_are_those_of_the_paper(layers: int) -> None:
    network = Discriminator(channels=2, layers=layers)
    convs = [*network.convs, network.last]
    assert [conv.stride[0] for conv in convs] == [2] * layers + [1] * (2 if layers else 3)
    widths = [2 * min(2**n, 8) for n in range(max(layers, 1) + 1)]
    assert [conv.out_channels for conv in convs] == [*widths, 1]
    assert [conv.bias is not None for conv in convs] == [True, *[False] * (len(widths) - 1), True]
    assert [isinstance(norm, torch.nn.Identity) for norm in network.norms] == [True] + [False] * (
        len(widths) - 1
    )
