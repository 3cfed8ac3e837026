"""The exported file against PyTorch's training-mode inference, which is how the reference tests."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from pix2pix import onnx_export
from pix2pix.generator import Generator
from pix2pix.params import unet_levels

from .alternating import Comparison, alternate
from .ours import Shape


def compare(shape: Shape, *, threads: int, rounds: int) -> Comparison:
    """Both in turns on the CPU, pixels in and pixels out."""
    return alternate(ways(shape, threads), rounds=rounds, calls=3)


def ways(shape: Shape, threads: int) -> dict[str, Callable[[], object]]:
    """What translates a batch of noise, each way.

    PyTorch's memory is as torch leaves it, not kept as in our training: that is no part of the reference.
    """
    torch.manual_seed(0)
    generator = Generator(levels=unet_levels(shape.px), channels=shape.channels, norm="batch")
    pixels = np.random.default_rng(0).integers(0, 256, (shape.batch, shape.px, shape.px, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generator.onnx"
        onnx_export.export(path, generator, in_channels=3, opset=20, metadata={})
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that went on spinning would take the cores of the other way.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    generator.train()

    @torch.no_grad()
    def reference() -> None:
        source = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        output = generator(source).permute(0, 2, 3, 1)
        ((output + 1) * 127.5).round().clamp(0, 255).byte().numpy()

    def exported() -> None:
        session.run([onnx_export.OUTPUT], {onnx_export.INPUT: pixels})

    return {"PyTorch, training mode": reference, "exported file": exported}
