"""The U-Net: its size, its shape, and what its norm does."""

import pytest
import torch
from torch import nn

from pix2pix.generator import Generator, Norm


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


# The counts of the paper's networks as the reference implementation builds them.
@pytest.mark.parametrize(("levels", "expected"), [(8, 54_413_955), (7, 41_828_995)])
def test_parameter_counts_are_those_of_the_reference(levels: int, expected: int) -> None:
    with torch.device("meta"):
        assert parameters(Generator(levels=levels, channels=64)) == expected


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_parameter_count_does_not_depend_on_the_norm(norm: str) -> None:
    with torch.device("meta"):
        assert parameters(Generator(levels=8, channels=64, norm=norm)) == 54_413_955


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 32), (96, 160)])
def test_output_has_the_size_of_the_input(height: int, width: int) -> None:
    generator = Generator(levels=5, channels=4, in_channels=1, out_channels=2).eval()
    assert generator(torch.zeros(3, 1, height, width)).shape == (3, 2, height, width)


def test_output_lies_between_minus_one_and_one() -> None:
    torch.manual_seed(0)
    output = Generator(levels=5, channels=4).eval()(torch.randn(1, 3, 32, 32) * 100)
    assert output.abs().max() <= 1


def test_encoder_halves_to_one_pixel_and_widths_double_up_to_eight_times() -> None:
    generator = Generator(levels=8, channels=4)
    assert [down.conv.out_channels for down in generator.down] == [4, 8, 16, 32, 32, 32, 32, 32]
    x = torch.zeros(1, 3, 256, 256)
    for down in generator.down:
        x = down(x)
    assert x.shape == (1, 32, 1, 1)


def test_norm_is_missing_at_the_outermost_and_innermost_level_only() -> None:
    generator = Generator(levels=6, channels=2)
    assert [down.norm is not None for down in generator.down] == [False, True, True, True, True, False]
    assert [up.norm is not None for up in generator.up] == [True, True, True, True, True, False]


def test_the_only_bias_of_a_convolution_is_the_last_ones() -> None:
    generator = Generator(levels=6, channels=2)
    biased = [name for name, weight in generator.named_parameters() if name.endswith("conv.bias")]
    assert biased == ["up.5.conv.bias"]


def test_dropout_sits_where_it_is_asked_for() -> None:
    generator = Generator(levels=8, channels=2, dropout_blocks=(2, 4))
    assert [n for n, up in enumerate(generator.up, 1) if up.dropout] == [2, 4]


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    generator, x = Generator(levels=5, channels=4), torch.randn(1, 3, 32, 32)
    assert not torch.equal(generator(x), generator(x))
    generator.eval()
    assert torch.equal(generator(x), generator(x))


def test_batch_norm_in_training_mode_at_batch_1_is_instance_norm() -> None:
    torch.manual_seed(0)
    trained = Generator(levels=5, channels=4, norm="batch", dropout_blocks=()).train()
    instance = Generator(levels=5, channels=4, norm="instance", dropout_blocks=()).eval()
    instance.load_state_dict(trained.state_dict())
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(trained(x), instance(x), rtol=0, atol=1e-6)


def test_batch_norm_in_eval_mode_gives_each_image_the_picture_it_gets_alone() -> None:
    torch.manual_seed(0)
    generator = Generator(levels=5, channels=4, norm="batch").eval()
    x = torch.randn(3, 3, 32, 32)
    alone = torch.cat([generator(image[None]) for image in x])
    torch.testing.assert_close(generator(x), alone, rtol=0, atol=1e-6)


def test_batch_norm_in_training_mode_mixes_the_images_of_a_batch() -> None:
    torch.manual_seed(0)
    norm, x = Norm(2, "batch"), torch.randn(2, 2, 4, 4)
    assert not torch.allclose(norm(x)[:1], norm(x[:1]))
    reference = nn.BatchNorm2d(2)
    torch.testing.assert_close(norm(x), reference(x))


def test_initial_weights_follow_the_paper() -> None:
    torch.manual_seed(0)
    generator = Generator(levels=7, channels=16)
    weights = torch.cat([p.flatten() for n, p in generator.named_parameters() if n.endswith("conv.weight")])
    scales = torch.cat([p for n, p in generator.named_parameters() if n.endswith("norm.weight")])
    biases = torch.cat([p for n, p in generator.named_parameters() if n.endswith("bias")])
    assert weights.mean().abs() < 1e-4 and abs(weights.std() - 0.02) < 1e-4
    assert abs(scales.mean() - 1) < 3e-3 and abs(scales.std() - 0.02) < 3e-3
    assert not biases.any()
