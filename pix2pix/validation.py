"""Validation: L1 over every pair of a split, as a user gets the pixels."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from . import devices
from .augment import to_pixels, to_unit_range
from .decoding import Samples
from .encoding import RGB8, Encoding
from .feed import Feed, Rows, in_batches
from .generator import Generator

# At 256 px.
VALIDATION_BATCH = 16


def validation_batches(pairs: Feed, device: torch.device) -> list[Rows]:
    """Every pair in order, uncropped: one by one where that is the fastest; a GPU would wait."""
    rows = np.zeros((len(pairs.names), 4), np.int64)
    rows[:, 0] = np.arange(len(rows))
    most = 1 if device.type == "cpu" else VALIDATION_BATCH
    return in_batches(rows, devices.images_at_once(most, *pairs.size_px))


@torch.inference_mode()
def validate(
    generator: Generator,
    pairs: Feed,
    device: torch.device,
    kept: int,
    encodings: tuple[Encoding, Encoding] = (RGB8, RGB8),
    after_batch: Callable[[], None] = lambda: None,
) -> tuple[float, Samples, Samples, Samples]:
    """Mean absolute difference (0–1 scale) over the pixels a user gets, and the first `kept` pairs.

    Of 8 bits at full scale it is added up in whole numbers, so it is the same for any size of batch.

    Args:
        encodings: of the inputs and of the targets.
        after_batch: called after each of `validation_batches`; what it raises ends the validation.

    Returns:
        L1, and the pairs' inputs, outputs and targets: [kept, channels, height, width] each.
    """
    generator.eval()
    source_encoding, target_encoding = encodings
    is_whole = target_encoding.dtype == "uint8" and target_encoding.range == "full"
    levels = torch.zeros((), dtype=torch.int64, device=device)
    difference, values = 0.0, 0
    shown: list[tuple[Tensor, Tensor, Tensor]] = []
    for item in pairs.items(validation_batches(pairs, device)):
        source, target = pairs.crops(item, pairs.size_px)
        output = to_pixels(generator(to_unit_range(source, source_encoding)), target_encoding)
        values += output.numel()
        if is_whole:
            levels += (output.int() - target.int()).abs().sum()
        else:
            units = (
                target_encoding.unit(np.moveaxis(side.cpu().numpy(), 1, -1)) for side in (output, target)
            )
            difference += float(np.abs(np.subtract(*units)).sum())
        if sum(len(seen) for seen, _, _ in shown) < kept:
            shown.append((source.cpu(), output.cpu(), target.cpu()))
        after_batch()
    generator.train()
    difference += int(levels) / 255
    inputs, outputs, targets = (
        np.concatenate([piece.numpy() for piece in side])[:kept] for side in zip(*shown, strict=True)
    )
    return difference / values, inputs, outputs, targets
