"""How close outputs are to targets: per image (L1, PSNR, SSIM) and as distributions (Fréchet, kernel)."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

# Identical images have no noise to compare with; 100 dB stands for "identical" in files and means.
MAX_PSNR_DB = 100.0


@dataclass(frozen=True)
class PerImage:
    """One value an image: l1 on the 0–1 scale, psnr in dB (at most 100), ssim from -1 to 1."""

    l1: NDArray[np.float64]
    psnr_db: NDArray[np.float64]
    ssim: NDArray[np.float64]

    def means(self) -> dict[str, float]:
        """The mean of each over all images."""
        return {
            "l1": self.l1.mean().item(),
            "psnr_db": self.psnr_db.mean().item(),
            "ssim": self.ssim.mean().item(),
        }


def per_image(outputs: Tensor, targets: Tensor) -> PerImage:
    """Compare images pixel by pixel.

    L1 is the mean of |a-b|/255; PSNR 10·log10(255²/MSE); SSIM that of Wang et al. 2004 with an
    11×11 Gaussian window of σ = 1.5.

    Args:
        outputs, targets: uint8 [n, channels, height, width], at least 11 px on a side.
    """
    rows: list[tuple[float, float, float]] = []
    # One at a time: memory does not grow with the number of images.
    for output, target in zip(outputs, targets, strict=True):
        a, b = output[None].double() / 255, target[None].double() / 255
        mse = float(((a - b) ** 2).mean())
        psnr_db = min(MAX_PSNR_DB, -10 * np.log10(mse)) if mse else MAX_PSNR_DB
        # In double its convolutions take 30 times as long.
        ssim = structural_similarity_index_measure(a.float(), b.float(), data_range=1.0)
        assert isinstance(ssim, Tensor)
        rows.append((float((a - b).abs().mean()), float(psnr_db), float(ssim)))
    return PerImage(*(np.array(column) for column in zip(*rows, strict=True)))


class _Features(nn.Module):
    """Stands where torchmetrics expects a network: the features are computed once, for all metrics."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.num_features = size

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, other: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features [n, size] (Heusel et al. 2017).

    Biased upwards on few images: compare values of the same number of images only.
    """
    metric = FrechetInceptionDistance(feature=_Features(real.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(other.double(), real=False)
    return float(metric.compute())


def kernel_distance(
    real: Tensor, other: Tensor, subsets: int, subset_size: int, seed: int = 0
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel (x·y/size + 1)³ (Bińkowski et al. 2018).

    Unbiased for any number of images; near 0, also a little below, for two samples of one distribution.

    Args:
        real, other: features [n, size].
        subsets, subset_size: the mean is over this many random subsets of this many images, or of all
            images where there are fewer.

    Returns:
        Mean and standard deviation over the subsets.
    """
    with warnings.catch_warnings():
        # It warns that it keeps all features; they were in memory before.
        warnings.simplefilter("ignore")
        metric = KernelInceptionDistance(
            feature=_Features(real.shape[1]),
            subsets=subsets,
            subset_size=min(subset_size, len(real), len(other)),
        )
    metric.update(real.double(), real=True)
    metric.update(other.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, std = metric.compute()
    return float(mean), float(std)
