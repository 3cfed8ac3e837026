"""How close outputs are to targets: per image (L1, PSNR, SSIM) and as distributions (Fréchet, kernel)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

# Identical images have no noise to compare with; 100 dB stands for "identical" in files and means.
MAX_PSNR_DB = 100.0
Unit = Callable[[Tensor], Tensor]


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

    @classmethod
    def joined(cls, pieces: "Sequence[PerImage]") -> "PerImage":
        """What was measured in pieces, in order."""
        return cls(
            *(np.concatenate(column) for column in zip(*(vars(p).values() for p in pieces), strict=True))
        )


def of_255(pixels: Tensor) -> Tensor:
    """uint8 → float64 from 0 to 1."""
    return pixels.double() / 255


def per_image(
    outputs: Tensor, targets: Tensor, output_unit: Unit = of_255, target_unit: Unit = of_255
) -> PerImage:
    """Compare images pixel by pixel.

    On the 0–1 scale L1 is the mean of |a-b|; PSNR 10·log10(1/MSE); SSIM that of Wang et al. 2004 with an
    11×11 Gaussian window of σ = 1.5, channel by channel.

    Args:
        outputs, targets: [n, channels, height, width], at least 11 px on a side.
        output_unit, target_unit: one image of each [channels, height, width] → float64 from 0 to 1.
    """
    rows: list[tuple[float, float, float]] = []
    # One at a time: memory does not grow with the number of images.
    for output, target in zip(outputs, targets, strict=True):
        a, b = output_unit(output)[None], target_unit(target)[None]
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


class _Moments(FrechetInceptionDistance):
    """Means and covariances of features [n, size], summed up in float64."""

    def __init__(self, size: int) -> None:
        super().__init__(feature=_Features(size))
        self.set_dtype(torch.float64)


class SetDistance:
    """How far a set of images is from the real ones, by features that come in pieces, in order.

    Memory does not grow with the number of images: moments are summed up, and of the features only those are
    kept that a random subset takes. Of fewer images than a feature vector has values all are kept, and the
    Fréchet distance is found in the space that they span.

    Args:
        size: of a feature vector.
        real_count, other_count: how many images there will be.
        subsets, subset_size, seed: see `kernel_distance`.
    """

    def __init__(
        self, size: int, real_count: int, other_count: int, subsets: int, subset_size: int, seed: int = 0
    ) -> None:
        # Moments of few images would be mostly zeros.
        self._summed = _Moments(size) if real_count + other_count >= size else None
        self._few = (_Rows(real_count, size), _Rows(other_count, size)) if self._summed is None else None
        subset_size = min(subset_size, real_count, other_count)
        drawn: tuple[list[Tensor], list[Tensor]] = ([], [])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for _ in range(subsets):
                for rows, count in zip(drawn, (real_count, other_count), strict=True):
                    rows.append(torch.randperm(count)[:subset_size].clone())
        self._real, self._other = (_Kept(torch.stack(rows), size) for rows in drawn)

    def add_real(self, features: Tensor) -> None:
        """The next real images: float32 [n, size]."""
        self._sum(features, real=True)
        self._real.add(features)

    def add(self, features: Tensor) -> None:
        """The next of the other images: float32 [n, size]."""
        self._sum(features, real=False)
        self._other.add(features)

    def _sum(self, features: Tensor, real: bool) -> None:
        if self._summed is not None:
            self._summed.update(features.double(), real=real)
        if self._few is not None:
            self._few[0 if real else 1].add(features)

    def frechet(self) -> float:
        """See `frechet_distance`."""
        if self._summed is not None:
            return float(self._summed.compute())
        assert self._few is not None
        real, other = _in_their_span(*(rows.all.double() for rows in self._few))
        moments = _Moments(real.shape[1])
        moments.update(real, real=True)
        moments.update(other, real=False)
        return float(moments.compute())

    def kernel(self) -> tuple[float, float]:
        """See `kernel_distance`."""
        distances = torch.stack(
            [
                poly_mmd(real, other)
                for real, other in zip(self._real.subsets(), self._other.subsets(), strict=True)
            ]
        )
        return float(distances.mean()), float(distances.std(unbiased=False))


class _Rows:
    """float32 features that come in pieces, in one block that is there from the start.

    Pieces kept one by one would lie between the large blocks that the networks take and give back, which then
    no longer fit where they were: of 1,400 images a process was seen to hold 0.8 to 5.7 GB.
    """

    def __init__(self, count: int, size: int) -> None:
        self.all = torch.empty(count, size)
        self._filled = 0

    def add(self, features: Tensor) -> None:
        self.all[self._filled : self._filled + len(features)] = features
        self._filled += len(features)


class _Kept:
    """Of features that come in pieces, those that a subset takes.

    Args:
        rows: int64 [subsets, subset_size]: the images of each subset.
        size: of a feature vector.
    """

    def __init__(self, rows: Tensor, size: int) -> None:
        self._rows = rows
        self._wanted = torch.unique(rows)
        self._features = _Rows(len(self._wanted), size)
        self._seen = 0

    def add(self, features: Tensor) -> None:
        first, last = torch.searchsorted(
            self._wanted, torch.tensor([self._seen, self._seen + len(features)])
        ).tolist()
        self._features.add(features[self._wanted[first:last] - self._seen])
        self._seen += len(features)

    def subsets(self) -> Iterator[Tensor]:
        for rows in self._rows:
            yield self._features.all[torch.searchsorted(self._wanted, rows)].double()


def frechet_distance(real: Tensor, other: Tensor) -> float:
    """Fréchet distance of Gaussians fitted to two sets of features, float32 [n, size] (Heusel et al. 2017).

    Biased upwards on few images: compare values of the same number of images only.
    """
    return _distance(real, other, subsets=1, subset_size=1).frechet()


def _in_their_span(*sets: Tensor) -> Sequence[Tensor]:
    """The same few points by their coordinates in the space that they span; distances are the same there.

    With fewer images than features, covariances are mostly zeros, whose eigenvalues take seconds to find.
    """
    basis = torch.linalg.qr(torch.cat(sets).T).Q
    return [points @ basis for points in sets]


def kernel_distance(
    real: Tensor, other: Tensor, subsets: int, subset_size: int, seed: int = 0
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel (x·y/size + 1)³ (Bińkowski et al. 2018).

    Unbiased for any number of images; near 0, also a little below, for two samples of one distribution.

    Args:
        real, other: features, float32 [n, size].
        subsets, subset_size: the mean is over this many random subsets of this many images, or of all
            images where there are fewer.

    Returns:
        Mean and standard deviation over the subsets.
    """
    return _distance(real, other, subsets, subset_size, seed).kernel()


def _distance(real: Tensor, other: Tensor, subsets: int, subset_size: int, seed: int = 0) -> SetDistance:
    distance = SetDistance(real.shape[1], len(real), len(other), subsets, subset_size, seed)
    distance.add_real(real)
    distance.add(other)
    return distance
