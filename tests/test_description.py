"""`pix2pix describe`: every layer, and totals that are MODEL's."""

from typing import Any

import pytest
from conftest import ROOT
from torch import nn
from torch.profiler import ProfilerActivity, profile

from pix2pix.description import Description, describe
from pix2pix.discriminator import Discriminator
from pix2pix.generator import Generator
from pix2pix.params import Params, height_width, read_yaml, validate


def params(image_px: Any = 64, **model: Any) -> Params:
    values = read_yaml(ROOT / "params.yaml")
    values["prepare"]["image_px"] = image_px
    small = {"generator_channels": 4, "discriminator_channels": 4, "dropout_blocks": [1]}
    values["model"] |= small | model
    return validate(values, "params.yaml")


@pytest.fixture(scope="module")
def published() -> tuple[Description, Description]:
    """The paper's networks at 256 px."""
    blocks = [1, 2, 3]
    return describe(params(256, generator_channels=64, discriminator_channels=64, dropout_blocks=blocks))


def test_the_published_networks_have_the_published_counts(published: tuple[Description, Description]) -> None:
    generator, discriminator = published
    assert (generator.parameters, discriminator.parameters) == (54_413_955, 2_768_705)
    assert generator.multiply_adds / 1e9 == pytest.approx(6.05, abs=0.005)
    assert discriminator.multiply_adds / 1e9 == pytest.approx(3.20, abs=0.005)


def test_a_description_takes_no_memory_however_large_the_images() -> None:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        generator, _ = describe(params(4096, generator_channels=64))
    assert generator.layers[0].output == (64, 2048, 2048)
    assert sum(max(0, event.self_cpu_memory_usage) for event in seen.key_averages()) < 1e6


def test_the_layers_are_those_of_the_paper_in_the_order_of_computation(
    published: tuple[Description, Description],
) -> None:
    generator, discriminator = published
    assert generator.title == "generator: U-Net, 8 levels"
    assert discriminator.title == "discriminator: patches of 70×70 px, sees input and output"
    convs = [layer for layer in generator.layers if layer.name.endswith("conv")]
    assert [layer.output[1] for layer in convs] == [
        128,
        64,
        32,
        16,
        8,
        4,
        2,
        1,
        2,
        4,
        8,
        16,
        32,
        64,
        128,
        256,
    ]
    assert [layer.output[0] for layer in convs[:8]] == [64, 128, 256, 512, 512, 512, 512, 512]
    assert convs[-1].output == (3, 256, 256)
    assert {layer.kind for layer in convs} == {"conv 4×4, stride 2", "deconv 4×4, stride 2"}
    assert [layer.name for layer in generator.layers if layer.kind == "dropout 0.5"] == [
        f"up.{block}.dropout" for block in range(3)
    ]
    assert discriminator.layers[-1].output == (1, 30, 30)


def test_multiply_adds_of_a_layer_are_those_counted_by_hand(
    published: tuple[Description, Description],
) -> None:
    generator, discriminator = published
    by_name = {layer.name: layer for layer in (*generator.layers, *discriminator.layers)}
    assert by_name["down.1.conv"].multiply_adds == 64 * 128 * 16 * 64 * 64
    assert by_name["up.7.conv"].multiply_adds == 128 * 3 * 16 * 128 * 128
    assert by_name["last"].multiply_adds == 512 * 1 * 16 * 30 * 30
    assert by_name["up.0.norm"].multiply_adds == by_name["up.0.dropout"].multiply_adds == 0


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(
    ("image_px", "model"),
    [
        (32, {}),
        ([32, 64], {}),
        (96, {"norm": "batch"}),
        (64, {"architecture": "encoder-decoder"}),
        (64, {"upsample": "resize"}),
        (64, {"architecture": "encoder-decoder", "upsample": "resize", "dropout_blocks": []}),
    ],
)
def test_no_parameter_of_a_generator_is_left_out(image_px: Any, model: dict[str, Any]) -> None:
    chosen = params(image_px, discriminator_layers=2, **model)
    generator, _ = describe(chosen)
    names = ("architecture", "upsample", "norm", "dropout_blocks")
    built = Generator(
        levels=chosen.levels, channels=4, **{name: getattr(chosen.model, name) for name in names}
    )
    assert generator.parameters == parameters(built)
    assert generator.layers[-1].output == (3, *height_width(chosen.prepare.image_px))


@pytest.mark.parametrize("layers", range(6))
@pytest.mark.parametrize("conditional", [True, False])
def test_no_parameter_of_a_discriminator_is_left_out(layers: int, conditional: bool) -> None:
    _, discriminator = describe(params(128, discriminator_layers=layers, conditional=conditional))
    built = Discriminator(in_channels=6 if conditional else 3, channels=4, layers=layers)
    assert discriminator.parameters == parameters(built)
    field = (1, 16, 34, 70, 142, 286)[layers]
    sees = "input and output" if conditional else "the output alone"
    assert discriminator.title == f"discriminator: patches of {field}×{field} px, sees {sees}"


def test_the_words_follow_the_parameters() -> None:
    generator, _ = describe(params(64, architecture="encoder-decoder", upsample="resize", norm="batch"))
    assert generator.title == "generator: encoder–decoder, 6 levels"
    kinds = {layer.name: layer.kind for layer in generator.layers}
    assert kinds["up.1.conv"] == "conv 3×3, stride 1"
    assert kinds["up.1.norm"] == "batch norm"


def test_an_encoder_decoder_is_smaller_than_the_unet_and_resize_cheaper_in_weights_only() -> None:
    unet, _ = describe(params())
    plain, _ = describe(params(architecture="encoder-decoder"))
    resize, _ = describe(params(upsample="resize"))
    assert plain.parameters < unet.parameters and plain.multiply_adds < unet.multiply_adds
    assert resize.parameters < unet.parameters and resize.multiply_adds > unet.multiply_adds


def test_two_descriptions_of_one_recipe_are_equal() -> None:
    assert describe(params()) == describe(params()) != describe(params(discriminator_layers=2))
