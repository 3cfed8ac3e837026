"""PyTorch → ONNX: uint8 images in and out, and the proof that both give the same pixels."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from .augment import to_pixels, to_unit_range
from .decoding import Samples
from .encoding import RGB8, Encoding
from .errors import UserError
from .files import atomic_file
from .generator import Generator
from .translator import INPUT, OUTPUT

CPU = torch.device("cpu")


class PixelGenerator(nn.Module):
    """A generator that takes and gives pixels, so that no consumer can get scaling or rounding wrong."""

    def __init__(self, generator: Generator, source: Encoding = RGB8, target: Encoding = RGB8) -> None:
        super().__init__()
        self.generator = generator
        self.source, self.target = source, target

    def forward(self, image: Tensor) -> Tensor:
        """The source's samples [batch, height, width, channels] → the target's."""
        translated = self.generator(to_unit_range(image.permute(0, 3, 1, 2), self.source))
        return to_pixels(translated, self.target).permute(0, 2, 3, 1)


def export(
    path: Path,
    generator: Generator,
    *,
    in_channels: int,
    opset: int,
    metadata: Mapping[str, str],
    source: Encoding = RGB8,
    target: Encoding = RGB8,
) -> None:
    """Write one self-contained ONNX file; equal weights and metadata give equal bytes.

    Input `image` and output `translated` are [batch, height, width, channels] of the encodings' types, uint8
    for 8-bit images; the batch is any, height and width any multiple of 2^levels.

    Args:
        in_channels: of the image, which for class indices is one.
    """
    multiple = generator.multiple
    # Twice the smallest size, at which nothing vanishes. That sizes are free is said afterwards: traced with
    # symbols for them the exporter writes the same nodes and takes five times as long.
    example = torch.zeros(2, 2 * multiple, 3 * multiple, in_channels, dtype=getattr(torch, source.dtype))
    with _quiet():
        program = torch.onnx.export(
            PixelGenerator(generator, source, target).eval(),
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = _with_free_sizes(program.model_proto)
    _clear_metadata(model)
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


def _with_free_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Say batch, height and width instead of the example's; no node of a generator holds a size.

    The proof looks at other sizes and batches than the example's.
    """
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for dimension, name in zip(
            value.type.tensor_type.shape.dim[:3], ("batch", "height", "width"), strict=True
        ):
            dimension.dim_param = name
    return onnx.shape_inference.infer_shapes(model)


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
    """How two sets of images differ: the largest difference in levels, the share of pixels that do.

    Levels of 255; of 16 bits and floats levels of 65,535, where up to two are noise and not counted.
    """

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
    pieces: Iterable[Samples],
    on_images: Callable[[int], None] = lambda done: None,
    source: Encoding = RGB8,
    target: Encoding = RGB8,
    device: torch.device = CPU,
) -> Parity:
    """Run both on the same images, piece by piece.

    Args:
        pieces: batches of images, [n, height, width, channels] in the source's encoding.
        on_images: called after each piece with the number of its images.
        device: where PyTorch's generator computes, to which it is moved.
    """
    reference = PixelGenerator(generator, source, target).eval().to(device)
    # Of floats a level is a 65,535th of their range.
    low, high = target.bounds
    level = (high - low) / 65535 if target.dtype == "float32" else 1
    counted_from = noise_levels(target)
    pixels = differing = largest = 0
    for images in pieces:
        # A copy: what Pillow gives may not be written to, of which torch warns.
        piece = np.array(images, order="C")
        ours = exported.run([OUTPUT], {INPUT: piece})[0].astype(np.float64)
        theirs = reference(torch.from_numpy(piece).to(device)).cpu().numpy().astype(np.float64)
        difference = np.abs(ours - theirs) / level
        # A pixel differs when any of its channels does.
        worst_channel = difference.max(axis=-1)
        pixels += worst_channel.size
        differing += int(np.count_nonzero(worst_channel > counted_from))
        largest = max(largest, int(np.ceil(worst_channel.max())))
        on_images(len(piece))
    return Parity(pixels, largest, differing / pixels)


def noise_levels(target: Encoding) -> int:
    """Levels that are no difference: none of 255, and two of 65,535, the last bits of 32-bit floats."""
    return 0 if target.dtype == "uint8" else 2


def levels(target: Encoding) -> int:
    """Steps of a channel's scale: 255 or 65,535."""
    return 255 if target.dtype == "uint8" else 65535


def refuse_difference(name: str, parity: Parity, max_differing_share: float, target: Encoding = RGB8) -> None:
    """Raises UserError when the exported file does not give PyTorch's pixels.

    None may differ by more than one level of 255, whatever the depth.
    """
    allowed = levels(target) // 255
    if parity.max_level_difference > allowed or parity.differing_share > max_differing_share:
        raise UserError(
            f"export: {name}: ONNX and PyTorch differ on {parity.differing_share:.3%} of the pixels, "
            f"by up to {parity.max_level_difference} levels of {levels(target)}; allowed is {allowed} on "
            f"export.max_differing_share = {max_differing_share:.3%}. The file was not kept: please report it"
        )
