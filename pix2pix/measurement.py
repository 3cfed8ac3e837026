"""A generator's outputs on the test split → the numbers of metrics.json."""

from collections.abc import Mapping

import torch
from torch import Tensor

from . import metrics
from .features import Extractor
from .images import Pixels
from .params import Evaluate, distance_names


def distances(
    extractor: Extractor, settings: Evaluate, targets: Pixels, compared: Mapping[str, Pixels | Tensor]
) -> dict[str, dict[str, float]]:
    """The Fréchet and the kernel distance of sets of images from the real targets.

    Args:
        targets: uint8 [n, 3, height, width].
        compared: sets of images like the targets, by name.

    Returns:
        For each name the two distances under their names, and the kernel distance's spread as NAME_std.
    """
    frechet_name, kernel_name = distance_names(extractor.name)
    real = extractor(torch.from_numpy(targets))
    found = {}
    for name, pixels in compared.items():
        other = extractor(torch.as_tensor(pixels))
        kernel, kernel_std = metrics.kernel_distance(
            real, other, settings.kd_subsets, settings.kd_subset_size
        )
        found[name] = {
            frechet_name: metrics.frechet_distance(real, other),
            kernel_name: kernel,
            f"{kernel_name}_std": kernel_std,
        }
    return found


def rounded(report: object) -> object:
    """The report to seven significant digits: what is left is noise of the order in which sums are taken."""
    if isinstance(report, dict):
        return {name: rounded(value) for name, value in report.items()}
    return float(f"{report:.7g}") if isinstance(report, float) else report
