"""PyTorch → ONNX: uint8 images in and out, and the proof that both give the same pixels."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from .augment import to_pixels, to_unit_range
from .errors import UserError
from .files import atomic_file
from .generator import Generator
from .images import Pixels
from .translator import INPUT, OUTPUT


class PixelGenerator(nn.Module):
    """A generator that takes and gives pixels, so that no consumer can get scaling or rounding wrong."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [batch, height, width, channels] → the same."""
        translated = self.generator(to_unit_range(image.permute(0, 3, 1, 2)))
        return to_pixels(translated).permute(0, 2, 3, 1)


def export(
    path: Path, generator: Generator, *, in_channels: int, opset: int, metadata: Mapping[str, str]
) -> None:
    """Write one self-contained ONNX file; equal weights and metadata give equal bytes.

    Input `image` and output `translated` are uint8 [batch, height, width, channels]; the batch is any,
    height and width any multiple of 2^levels.
    """
    multiple = generator.multiple
    # The example must be larger than the smallest size in every dimension, or it would be taken for fixed.
    example = torch.zeros(2, 2 * multiple, 3 * multiple, in_channels, dtype=torch.uint8)
    height, width = torch.export.Dim("h", min=1, max=256), torch.export.Dim("w", min=1, max=256)
    shapes = {INPUT: {0: torch.export.Dim("batch"), 1: multiple * height, 2: multiple * width}}
    with _quiet():
        program = torch.onnx.export(
            PixelGenerator(generator).eval(),
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _clear_metadata(model)
    _name_dimensions(model)
    for key in sorted(metadata):
        model.metadata_props.add(key=key, value=metadata[key])
    onnx.checker.check_model(model)
    with atomic_file(path) as partial:
        partial.write_bytes(model.SerializeToString(deterministic=True))


def _clear_metadata(model: onnx.ModelProto) -> None:
    """Remove what differs between runs: stack traces with paths, and text in the order of a hash."""
    del model.metadata_props[:]
    graph = model.graph
    carriers: list[Any] = [
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ]
    for function in model.functions:
        carriers += [function, *function.node, *function.value_info]
    for carrier in carriers:
        del carrier.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""


def _name_dimensions(model: onnx.ModelProto) -> None:
    """Say batch, height and width instead of the exporter's products."""
    for value in (*model.graph.input, *model.graph.output):
        for dimension, name in zip(
            value.type.tensor_type.shape.dim[:3], ("batch", "height", "width"), strict=True
        ):
            dimension.dim_param = name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its steps on stdout and warns of its own internals."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


# --- the proof ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parity:
    """How two sets of images differ: the largest difference in levels of 255, the share of pixels that do."""

    pixels: int
    max_level_difference: int
    differing_share: float


def session(path: Path) -> ort.InferenceSession:
    """The exported file on the CPU, where every machine can check it."""
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def compare(
    exported: ort.InferenceSession,
    generator: Generator,
    images: Pixels,
    batch: int,
    on_images: Callable[[int], None] = lambda done: None,
) -> Parity:
    """Run both on the same images, in batches.

    Args:
        images: uint8 [n, height, width, channels].
    """
    reference = PixelGenerator(generator).eval()
    pixels = differing = largest = 0
    for first in range(0, len(images), batch):
        piece = np.ascontiguousarray(images[first : first + batch])
        ours = exported.run([OUTPUT], {INPUT: piece})[0].astype(np.int16)
        theirs = reference(torch.from_numpy(piece)).numpy().astype(np.int16)
        difference = np.abs(ours - theirs)
        # A pixel differs when any of its channels does.
        worst_channel = difference.max(axis=-1)
        pixels += worst_channel.size
        differing += int(np.count_nonzero(worst_channel))
        largest = max(largest, int(worst_channel.max()))
        on_images(len(piece))
    return Parity(pixels, largest, differing / pixels)


def refuse_difference(name: str, parity: Parity, max_differing_share: float) -> None:
    """Raises UserError when the exported file does not give PyTorch's pixels."""
    if parity.max_level_difference > 1 or parity.differing_share > max_differing_share:
        raise UserError(
            f"export: {name}: ONNX and PyTorch differ on {parity.differing_share:.3%} of the pixels, "
            f"by up to {parity.max_level_difference} levels of 255; allowed is 1 level on "
            f"export.max_differing_share = {max_differing_share:.3%}. The file was not kept: please report it"
        )
