"""What of `evaluate`'s settings the numbers follow."""

import pytest
import torch
from torch import Tensor

from pix2pix.measurement import Distances
from pix2pix.metrics import SetDistance
from pix2pix.params import Evaluate


class Means:
    """Stands for a feature extractor: the means of an image's channels and of its halves."""

    name = "efficientnet-lite0"

    def __call__(self, pixels: Tensor) -> Tensor:
        floats = pixels.float() / 255
        return torch.cat([floats.mean((2, 3)), floats[:, :, ::2].mean((2, 3))], 1)


def images(count: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed)).byte()


def test_the_kernel_distance_is_over_as_many_subsets_of_as_many_images_as_asked_for() -> None:
    extractor, real, other = Means(), images(20, 1), images(12, 2)
    seen = set()
    for subsets, size in ((3, 5), (4, 5), (3, 6)):
        settings = Evaluate(
            features="efficientnet-lite0", features_path="", kd_subsets=subsets, kd_subset_size=size
        )
        distances = Distances(extractor, settings, len(real), {"model": len(other)})  # type: ignore[arg-type]
        distances.add_targets(real)
        distances.add("model", other)
        expected = SetDistance(6, len(real), len(other), subsets, size)
        expected.add_real(extractor(real))
        expected.add(extractor(other))
        found = distances.found()["model"]
        assert (found["kd_efficientnet_lite0"], found["kd_efficientnet_lite0_std"]) == pytest.approx(
            expected.kernel()
        )
        seen.add(found["kd_efficientnet_lite0"])
    assert len(seen) == 3
