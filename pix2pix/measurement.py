"""A generator's outputs on the test split → the numbers of metrics.json."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from . import metrics
from .decoding import Samples
from .encoding import Encoding
from .features import Extractor
from .images import Pixels
from .metrics import PerImage, SetDistance
from .params import Evaluate, distance_names


def per_image(outputs: Samples, encoding: Encoding, targets: Samples, target_encoding: Encoding) -> PerImage:
    """A generator's outputs, or inputs taken as outputs, against the targets.

    Where the two differ in channels, the output's picture is compared.

    Args:
        outputs, targets: [n, channels, height, width], each in its encoding.
    """
    channels = target_encoding.channels
    return metrics.per_image(
        torch.from_numpy(outputs),
        torch.from_numpy(targets),
        lambda pixels: _unit(encoding, channels, pixels),
        lambda pixels: _unit(target_encoding, channels, pixels),
    )


def _unit(encoding: Encoding, channels: int, pixels: Tensor) -> Tensor:
    unit = encoding.unit_in(pixels.permute(1, 2, 0).numpy(), channels)
    return torch.from_numpy(unit).permute(2, 0, 1).contiguous()


def pictures(samples: Samples, encoding: Encoding) -> Pixels:
    """What a person and a feature extractor see of samples [n, channels, height, width]: uint8 [n, 3, …].

    The extractors were trained on 8-bit RGB photos. One channel is shown to them as grey, of more than three
    the first three; `Encoding.picture`.
    """
    if encoding.picture_is_itself:
        return samples
    return np.ascontiguousarray(encoding.rgb(samples.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))


class Distances:
    """The Fréchet and the kernel distance of sets of images from the real targets, given piece by piece.

    Args:
        targets: how many real targets there will be.
        compared: how many images each set will have, by name.
    """

    def __init__(
        self, extractor: Extractor, settings: Evaluate, targets: int, compared: Mapping[str, int]
    ) -> None:
        self._extractor, self._settings = extractor, settings
        self._targets, self._compared = targets, compared
        self._sets: dict[str, SetDistance] = {}

    def add_targets(self, pixels: Pixels | Tensor) -> None:
        """The next real targets: uint8 [n, 3, height, width]."""
        features = self._extractor(torch.as_tensor(pixels))
        for name in self._compared:
            self._set(name, features).add_real(features)

    def add(self, name: str, pixels: Pixels | Tensor) -> None:
        """The next images of a set, like the targets."""
        features = self._extractor(torch.as_tensor(pixels))
        self._set(name, features).add(features)

    def _set(self, name: str, features: Tensor) -> SetDistance:
        if name not in self._sets:
            self._sets[name] = SetDistance(
                features.shape[1],
                self._targets,
                self._compared[name],
                self._settings.kd_subsets,
                self._settings.kd_subset_size,
            )
        return self._sets[name]

    def found(self) -> dict[str, dict[str, float]]:
        """For each name the two distances under their names, and the kernel distance's spread as NAME_std."""
        frechet_name, kernel_name = distance_names(self._extractor.name)
        found = {}
        for name, distance in self._sets.items():
            kernel, kernel_std = distance.kernel()
            found[name] = {
                frechet_name: distance.frechet(),
                kernel_name: kernel,
                f"{kernel_name}_std": kernel_std,
            }
        return found


def rounded(report: object) -> object:
    """The report to seven significant digits: what is left is noise of the order in which sums are taken."""
    if isinstance(report, dict):
        return {name: rounded(value) for name, value in report.items()}
    return float(f"{report:.7g}") if isinstance(report, float) else report
