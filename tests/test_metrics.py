"""The metrics against their definitions."""

import gc
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import KernelInceptionDistance

from pix2pix import metrics


def images(count: int = 3, side: int = 32, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(seed)).byte()


def test_l1_and_psnr_follow_their_formulas() -> None:
    a, b = images(seed=1), images(seed=2)
    found = metrics.per_image(a, b)
    difference = (a.double() - b.double()).numpy()
    assert found.l1 == pytest.approx(np.abs(difference).mean((1, 2, 3)) / 255)
    assert found.psnr_db == pytest.approx(10 * np.log10(255**2 / (difference**2).mean((1, 2, 3))))


def test_identical_images_are_perfect_and_finite() -> None:
    found = metrics.per_image(images(), images()).means()
    assert found == {"l1": 0.0, "psnr_db": 100.0, "ssim": pytest.approx(1.0)}


def test_black_against_white_is_as_bad_as_it_gets() -> None:
    black, white = torch.zeros(1, 3, 16, 16).byte(), torch.full((1, 3, 16, 16), 255).byte()
    found = metrics.per_image(black, white).means()
    assert found["l1"] == 1.0
    assert found["psnr_db"] == 0.0
    assert found["ssim"] == pytest.approx(0.0, abs=1e-3)


def test_ssim_of_constant_images_follows_the_formula() -> None:
    """Without variance only the luminance term is left (Wang et al. 2004, equation 6; K1 = 0.01)."""
    a, b = torch.full((1, 3, 16, 16), 100).byte(), torch.full((1, 3, 16, 16), 150).byte()
    x, y, c = 100 / 255, 150 / 255, 0.01**2
    expected = (2 * x * y + c) / (x * x + y * y + c)
    assert metrics.per_image(a, b).ssim[0] == pytest.approx(expected, abs=5e-4)


def test_frechet_distance_of_known_gaussians() -> None:
    """|μ₁-μ₂|² + tr(Σ₁ + Σ₂ - 2(Σ₁Σ₂)^½), written out for samples with exact moments."""
    random = np.random.default_rng(0)
    x = random.normal(size=(500, 4))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    a, b = torch.from_numpy(x), torch.from_numpy(3 * x + [1, 2, 0, 0])
    # Σ₁ = I, Σ₂ = 9 I, |μ₁-μ₂|² = 5.
    assert metrics.frechet_distance(a, b) == pytest.approx(5 + 4 * (1 + 9 - 2 * 3), rel=1e-6)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_of_all_images_follows_the_formula() -> None:
    """The unbiased estimate with the kernel (x·y/size + 1)³, written out."""
    random = np.random.default_rng(0)
    features = (
        random.normal(size=(20, 6)).astype("float32"),
        random.normal(0.5, size=(20, 6)).astype("float32"),
    )
    x, y = (side.astype("float64") for side in features)
    kernel = lambda a, b: (a @ b.T / 6 + 1) ** 3  # noqa: E731
    off_diagonal = lambda k: (k.sum() - np.trace(k)) / (20 * 19)  # noqa: E731
    expected = off_diagonal(kernel(x, x)) + off_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean()
    found, std = metrics.kernel_distance(*map(torch.from_numpy, features), subsets=2, subset_size=20)
    assert found == pytest.approx(expected, rel=1e-9)
    assert std == pytest.approx(0, abs=1e-12)


def test_frechet_distance_of_few_images_is_that_of_their_covariances() -> None:
    real, other = torch.randn(9, 64).double(), 2 * torch.randn(7, 64).double() + 1
    means = ((real.mean(0) - other.mean(0)) ** 2).sum()
    product = torch.cov(real.T) @ torch.cov(other.T)
    roots = torch.linalg.eigvals(product).sqrt().real.sum()
    expected = means + torch.cov(real.T).trace() + torch.cov(other.T).trace() - 2 * roots
    assert metrics.frechet_distance(real, other) == pytest.approx(float(expected), rel=1e-5)


def test_kernel_distance_is_unbiased_and_the_frechet_distance_is_not() -> None:
    """Two samples of one distribution: the one is near 0 on few images, the other far from it."""
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(60, 16, generator=random), torch.randn(60, 16, generator=random)
    far = metrics.kernel_distance(a, b + 0.5, 50, 30)[0]
    assert abs(metrics.kernel_distance(a, b, 50, 30)[0]) < 0.1 * far
    assert metrics.frechet_distance(a, b) > 1


def test_kernel_distance_is_the_same_each_time_and_leaves_the_random_state_alone() -> None:
    a, b = torch.randn(30, 8), torch.randn(40, 8)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = metrics.kernel_distance(a, b, 10, 20)
    assert torch.equal(torch.get_rng_state(), before)
    assert metrics.kernel_distance(a, b, 10, 20) == first


def test_fewer_images_than_a_subset_are_all_used() -> None:
    mean, std = metrics.kernel_distance(torch.randn(7, 8), torch.randn(9, 8), subsets=4, subset_size=50)
    assert math.isfinite(mean) and math.isfinite(std)


def test_worse_images_have_larger_distances() -> None:
    """Features of noise added in steps; both distances rank them."""
    random = torch.Generator().manual_seed(0)
    real, other = torch.randn(80, 12, generator=random), torch.randn(80, 12, generator=random)
    noise = torch.randn(80, 12, generator=random)
    for distance in (metrics.frechet_distance, lambda a, b: metrics.kernel_distance(a, b, 50, 40)[0]):
        values = [distance(real, other + scale * noise) for scale in (0, 0.7, 1.5, 3)]
        assert values == sorted(values)


@pytest.mark.parametrize("size", [12, 128], ids=["summed up", "in the span of few images"])
@pytest.mark.parametrize("piece", [1, 7, 64])
def test_features_in_pieces_have_the_distances_of_all_at_once_and_of_torchmetrics(
    piece: int, size: int
) -> None:
    random = torch.Generator().manual_seed(0)
    real, other = torch.randn(60, size, generator=random), torch.randn(45, size, generator=random) + 0.3
    distance = metrics.SetDistance(size, 60, 45, subsets=10, subset_size=20, seed=3)
    # In turns, as they come.
    for ours, theirs in itertools.zip_longest(other.split(piece), real.split(piece)):
        if ours is not None:
            distance.add(ours)
        if theirs is not None:
            distance.add_real(theirs)
    whole = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=10, subset_size=20)
    whole.update(real.double(), real=True)
    whole.update(other.double(), real=False)
    torch.manual_seed(3)
    assert distance.kernel() == pytest.approx([float(value) for value in whole.compute()], rel=1e-9)
    assert distance.frechet() == pytest.approx(metrics.frechet_distance(real, other), rel=1e-9)


def live_tensors() -> int:
    gc.collect()
    return sum(isinstance(thing, Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("size", [4, 900], ids=["summed up", "in the span of few images"])
def test_of_features_no_more_are_kept_than_the_subsets_take_and_no_piece_by_itself(size: int) -> None:
    distance = metrics.SetDistance(size, 500, 300, subsets=3, subset_size=10)
    before: list[int] = []
    for _ in range(50):
        distance.add_real(torch.randn(10, size))
        distance.add(torch.randn(6, size))
        before.append(live_tensors())
    assert len(set(before)) == 1
    for kept in (distance._real, distance._other):
        assert 10 <= len(kept._features.all) <= 30
    assert math.isfinite(distance.frechet())
    assert math.isfinite(distance.kernel()[0])
