"""Several outputs for one input: dropout as the noise z of arXiv 1611.07004, section 3.2.

The exported file is deterministic; only the PyTorch weights can be drawn from.
"""

from pathlib import Path

import numpy as np
import torch

from . import devices
from .augment import to_pixels, to_unit_range
from .checkpoint import load_generator
from .decoding import Samples
from .errors import UserError
from .images import pad
from .translator import TooLargeError


class Sampler:
    """Draws outputs of a generator.

    Raises:
        UserError: the file is missing or not ours, or its generator has no dropout to draw.
    """

    def __init__(self, path: Path) -> None:
        generator, config = load_generator(path)
        self.input, self.target = config.input, config.target
        if not generator.has_dropout:
            raise UserError(
                f"{path}: has no dropout, so every sample would be the same; "
                "train with model.dropout_blocks: [1, 2, 3]"
            )
        self._generator = generator.draw_dropout()

    @torch.inference_mode()
    def __call__(self, image: Samples, samples: int, seed: int) -> Samples:
        """Draw outputs of any size.

        Args:
            image: [height, width, channels] as `input` says.
            seed: the same seed draws the same samples of the same image.

        Returns:
            [samples, height, width, channels] as `target` says.

        Raises:
            TooLargeError: the memory does not suffice for the network's layers.
        """
        torch.manual_seed(seed)
        height, width = image.shape[:2]
        padded = torch.from_numpy(pad(image, self._generator.multiple)).permute(2, 0, 1)[None]
        # One at a time: each is normalised by its own statistics.
        try:
            unit = to_unit_range(padded, self.input)
            drawn = [to_pixels(self._generator(unit), self.target)[0] for _ in range(samples)]
        except (MemoryError, RuntimeError) as error:
            if not devices.is_exhausted(error):
                raise
            raise TooLargeError(f"{width} × {height} px are too many for the memory at once") from None
        outputs = torch.stack(drawn).permute(0, 2, 3, 1).numpy()
        return np.ascontiguousarray(outputs[:, :height, :width])
