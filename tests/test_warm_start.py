"""A training that begins with an exported generator begins with its very weights."""

import shutil
from pathlib import Path

import pytest
import torch

from pix2pix import onnx_export, warm_start
from pix2pix.errors import UserError
from pix2pix.files import cached_model, sha256_file
from pix2pix.generator import Generator


def generator(seed: int, **choices: object) -> Generator:
    torch.manual_seed(seed)
    return Generator(**{"levels": 5, "channels": 4, **choices})  # type: ignore[arg-type]


def pulled(trained: Generator, folder: Path) -> str:
    """Export a generator into the cache; its digest."""
    exported = folder / "generator.onnx"
    onnx_export.export(exported, trained.eval(), in_channels=3, opset=20, metadata={})
    digest = sha256_file(exported)
    cached_model(digest).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(exported, cached_model(digest))
    return digest


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"norm": "batch"},
        {"upsample": "resize"},
        {"architecture": "encoder-decoder", "dropout_blocks": ()},
        {"down_bias": True},
    ],
)
def test_every_kind_of_generator_gives_its_weights_bit_for_bit(
    choices: dict[str, object], tmp_path: Path
) -> None:
    trained, fresh = generator(1, **choices), generator(2, **choices)
    for name, value in trained.state_dict().items():
        if value.is_floating_point():
            # Not what a fresh one has anyway: zeros, ones.
            value.add_(torch.rand_like(value))
            assert not torch.equal(value, fresh.state_dict()[name])
    warm_start.load(fresh, pulled(trained, tmp_path))
    for name, value in trained.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(fresh.state_dict()[name], value), name


def test_what_is_not_in_the_cache_or_damaged_is_one_line(tmp_path: Path) -> None:
    digest = pulled(generator(1), tmp_path)
    cached_model(digest).write_bytes(b"damaged")
    for missing in (digest, "0" * 64):
        with pytest.raises(UserError, match=r"train.warm_start = .* is not there or damaged; `pix2pix pull"):
            warm_start.load(generator(2), missing)


def test_another_network_is_refused_with_the_first_name_and_both_shapes(tmp_path: Path) -> None:
    digest = pulled(generator(1), tmp_path)
    with pytest.raises(UserError) as caught:
        warm_start.load(generator(2, channels=8), digest)
    assert "down.0.conv.weight has shape (4, 3, 4, 4), expected (8, 3, 4, 4)" in str(caught.value)
    with pytest.raises(UserError, match=r"is of another network: down.0.conv.bias has shape none"):
        warm_start.load(generator(2, down_bias=True), digest)
