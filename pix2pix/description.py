"""What the networks of a recipe are made of: every layer with its output, parameters and multiply-adds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .discriminator import Discriminator
from .generator import Generator
from .params import Params, height_width


@dataclass(frozen=True)
class Layer:
    """A layer in the order of computation.

    Attributes:
        output: its shape without the batch: channels, height, width.
        multiply_adds: of its convolution for one image; a transposed one is counted at its input, where it
            multiplies, and not at its output as in some published figures.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Description:
    """A network for one image."""

    title: str
    layers: Sequence[Layer]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)


def describe(params: Params) -> tuple[Description, Description]:
    """The generator and the discriminator of these parameters, for one pair of image_px; RGB where the data
    decides."""
    model, size = params.model, height_width(params.prepare.image_px)
    inputs, outputs = params.channels
    # Shapes without values: a large network on large images takes gigabytes.
    with torch.device("meta"):
        generator = Generator(
            levels=params.levels, in_channels=inputs, out_channels=outputs, **model.generator_choices
        )
        discriminator = Discriminator(**(choices := model.discriminator_choices(inputs, outputs)))
    name = {"unet": "U-Net", "encoder-decoder": "encoder–decoder"}[model.architecture]
    field = discriminator.receptive_field_px
    seen = "input and output" if model.conditional else "the output alone"
    return (
        _described(
            f"generator: {name}, {params.levels} levels",
            generator,
            torch.empty(1, inputs, *size, device="meta"),
        ),
        _described(
            f"discriminator: patches of {field}×{field} px, sees {seen}",
            discriminator,
            torch.empty(1, choices["in_channels"], *size, device="meta"),
        ),
    )


def _described(title: str, network: nn.Module, example: Tensor) -> Description:
    leaves = {name: module for name, module in network.named_modules() if not list(module.children())}
    outputs: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> object:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            outputs[name] = tuple(output.shape[1:])

        return leaves[name].register_forward_hook(hook)

    for name in leaves:
        note(name)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network.eval()(example)
    root = type(network).__name__
    return Description(
        title,
        [
            _layer(name, leaves[name], shape, counter.get_flop_counts(), root)
            for name, shape in outputs.items()
            if not isinstance(leaves[name], nn.Identity)
        ],
    )


def _layer(
    name: str,
    module: nn.Module,
    output: tuple[int, ...],
    flops: Mapping[str, Mapping[object, int]],
    root: str,
) -> Layer:
    kind = type(module).__name__
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        kernel, stride = module.kernel_size[0], module.stride[0]
        word = "deconv" if isinstance(module, nn.ConvTranspose2d) else "conv"
        kind = f"{word} {kernel}×{kernel}, stride {stride}"
    elif kind == "Norm":
        kind = f"{module.kind} norm"
    elif kind == "Dropout":
        kind = "dropout 0.5"
    return Layer(
        name,
        kind,
        output,
        sum(parameter.numel() for parameter in module.parameters()),
        # A multiply-add is two operations.
        sum(flops.get(f"{root}.{name}", {}).values()) // 2,
    )
