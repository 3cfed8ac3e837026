"""The U-Net: its size, its shape, and what its norm does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pix2pix import onnx_export
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


# --- the variants ------------------------------------------------------------------------------------


def variant(**arguments: Any) -> Generator:
    torch.manual_seed(0)
    return Generator(**{"levels": 5, "channels": 4, "dropout_blocks": (), **arguments})


VARIANTS: list[dict[str, Any]] = [
    {},
    {"architecture": "encoder-decoder"},
    {"upsample": "resize"},
    {"norm": "running"},
    {"norm": "batch"},
    {"down_bias": True},
    {"dropout_blocks": (2,)},
]


def test_every_argument_makes_another_network() -> None:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    outputs = []
    for arguments in VARIANTS:
        network = variant(**arguments).train()
        with torch.no_grad():
            # The same weights wherever the shapes are the same.
            for weight in network.parameters():
                weight.copy_(torch.arange(weight.numel()).sin().reshape(weight.shape) / 5)
        outputs.append(network(x))
    for first in range(len(outputs)):
        for second in range(first):
            assert not torch.allclose(outputs[first], outputs[second]), (VARIANTS[first], VARIANTS[second])


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96)])
def test_every_variant_gives_an_image_of_the_inputs_size(
    arguments: dict[str, Any], height: int, width: int
) -> None:
    output = variant(**arguments)(torch.randn(2, 3, height, width))
    assert output.shape == (2, 3, height, width)
    assert output.std() > 0


def cut_off(network: Generator) -> Generator:
    """The network with nothing coming up from below its outermost level."""
    with torch.no_grad():
        for parameter in network.up[-2].parameters():
            parameter.zero_()
    return network.eval()


def test_only_a_unet_has_a_way_around_the_bottleneck() -> None:
    one, other = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32)
    unet, plain = cut_off(variant()), cut_off(variant(architecture="encoder-decoder"))
    assert not torch.equal(unet(one), unet(other))
    assert torch.equal(plain(one), plain(other))


def test_an_encoder_decoder_is_a_unet_without_the_weights_of_its_skips() -> None:
    unet, plain = variant(), variant(architecture="encoder-decoder")
    x = torch.randn(2, 3, 32, 32)
    state = plain.state_dict()
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if weight.shape == state[name].shape:
                weight.copy_(state[name])
            else:
                skipped = weight.shape[0] - state[name].shape[0]
                assert skipped == state[name].shape[0], "a skip is as wide as what comes from below"
                weight[:skipped].zero_()
                weight[skipped:].copy_(state[name])
    torch.testing.assert_close(unet.eval()(x), plain.eval()(x), rtol=0, atol=1e-6)


def test_an_encoder_decoder_halves_the_inputs_of_all_decoder_blocks_but_the_innermost() -> None:
    with torch.device("meta"):
        unet, plain = (Generator(levels=8, channels=64, architecture=a) for a in ("unet", "encoder-decoder"))
    widths = [up.conv.in_channels for up in plain.up]
    assert widths == [512, 512, 512, 512, 512, 256, 128, 64]
    assert [up.conv.in_channels for up in unet.up] == [512, *(2 * width for width in widths[1:])]
    decoders = [512 * 512] * 3 + [512 * 512, 512 * 256, 256 * 128, 128 * 64, 64 * 3]
    assert parameters(unet) - parameters(plain) == 16 * sum(decoders[1:])


def test_resize_repeats_every_pixel_and_convolves() -> None:
    up = variant(upsample="resize").up[-1]
    assert isinstance(up.conv, nn.Conv2d)
    assert (up.conv.kernel_size, up.conv.stride, up.conv.padding) == ((3, 3), (1, 1), (1, 1))
    x = torch.randn(1, 8, 6, 5)
    repeated = x.relu().repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(up(x), up.conv(repeated))


def test_deconv_leaves_a_checkerboard_of_a_flat_map_and_resize_none() -> None:
    flat = torch.ones(1, 8, 8, 8)
    inner = (0, 0, slice(4, -4), slice(4, -4))
    checkered = {
        kind: float(variant(upsample=kind).up[-1](flat)[inner].detach().std())
        for kind in ("deconv", "resize")
    }
    assert checkered["deconv"] > 1e-3
    assert checkered["resize"] < 1e-6


def test_the_variant_with_biases_has_one_wherever_the_encoder_has_no_norm() -> None:
    with torch.device("meta"):
        plain, biased = Generator(levels=8, channels=64), Generator(levels=8, channels=64, down_bias=True)
    added = set(dict(biased.named_parameters())) - set(dict(plain.named_parameters()))
    assert added == {"down.0.conv.bias", "down.7.conv.bias"}
    assert parameters(biased) == 54_413_955 + 64 + 512


def test_the_variant_with_biases_is_the_references_but_for_biases_that_its_norms_take_away() -> None:
    """The reference's norms have no scale and no shift here, but a bias in front of each: 54,409,603."""
    with torch.device("meta"):
        network = Generator(levels=8, channels=64, down_bias=True)
    scales = sum(module.weight.numel() for module in network.modules() if isinstance(module, Norm))
    assert parameters(network) - 2 * scales + scales == 54_409_603


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_are_used_and_never_changed(training: bool) -> None:
    norm, reference = Norm(3, "running").train(training), nn.BatchNorm2d(3).eval()
    with torch.no_grad():
        for name, value in norm.state_dict().items():
            value.copy_(torch.rand(3) + 0.5)
            reference.state_dict()[name].copy_(value)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(norm(x), reference(x))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@pytest.mark.parametrize("kind", ["instance", "batch"])
def test_only_imported_weights_have_running_statistics(kind: str) -> None:
    assert set(Norm(2, kind).state_dict()) == {"weight", "bias"}
    assert set(Norm(2, "running").state_dict()) == {"weight", "bias", "running_mean", "running_var"}


def test_drawing_keeps_dropout_and_nothing_else_in_training_mode() -> None:
    network = variant(norm="batch", dropout_blocks=(1, 3)).train()
    assert network.draw_dropout() is network
    training = {name for name, module in network.named_modules() if module.training}
    assert training == {"up.0.dropout", "up.2.dropout"}
    x = torch.randn(1, 3, 32, 32)
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize(("blocks", "has"), [((), False), ((1,), True), ((4,), True)])
def test_whether_there_is_dropout_to_draw(blocks: tuple[int, ...], has: bool) -> None:
    network = variant(dropout_blocks=blocks)
    assert network.has_dropout is has
    x = torch.randn(1, 3, 32, 32)
    network.draw_dropout()
    assert torch.equal(network(x), network(x)) is not has


@pytest.mark.parametrize(
    "arguments",
    [
        {"architecture": "encoder-decoder", "norm": "running"},
        {"upsample": "resize", "down_bias": True, "dropout_blocks": (1, 2)},
    ],
    ids=str,
)
def test_onnx_gives_pytorchs_pixels_of_every_variant(tmp_path: Path, arguments: dict[str, Any]) -> None:
    network = variant(**arguments).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith(("bias", "running_mean")):
                value.normal_(0, 0.1)
            elif name.endswith("running_var"):
                value.uniform_(0.01, 0.1)
    path = tmp_path / "generator.onnx"
    onnx_export.export(path, network, in_channels=3, opset=20, metadata={"multiple": "32"})
    run = onnx_export.session(path)
    for count, height, width in ((3, 32, 64), (1, 96, 32)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        parity = onnx_export.compare(run, network, [pixels])
        assert parity.max_level_difference <= 1
        assert parity.differing_share < 1e-3
        assert run.run(["translated"], {"image": pixels})[0].std() > 1
