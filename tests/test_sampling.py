"""Several outputs for one input: the tutorial's stochastic mode."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import translation
from pix2pix.augment import to_pixels, to_unit_range
from pix2pix.checkpoint import GeneratorConfig, save_generator
from pix2pix.errors import UserError
from pix2pix.generator import Generator
from pix2pix.images import Pixels, write_png
from pix2pix.sampling import Sampler
from pix2pix.translator import TooLargeError

CONFIG = GeneratorConfig(
    levels=5,
    channels=4,
    norm="instance",
    dropout_blocks=(1, 2),
    image_px=32,
    dataset="test",
    direction="AtoB",
    params_sha256="",
    data_sha256="",
    code_sha256="",
)


def generator(config: GeneratorConfig = CONFIG) -> Generator:
    """Weights large enough that dropout shows in the pixels."""
    torch.manual_seed(3)
    network = config.build()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("conv.weight"):
                weight.mul_(5)
    return network


def sampler(folder: Path, config: GeneratorConfig = CONFIG) -> Sampler:
    path = folder / "generator.safetensors"
    save_generator(path, generator(config).state_dict(), config)
    return Sampler(path)


def image(height: int = 32, width: int = 32, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_same_seed_draws_the_same_samples_and_another_seed_others(tmp_path: Path) -> None:
    draw = sampler(tmp_path)
    first = draw(image(), 3, 7)
    torch.rand(5)
    assert np.array_equal(draw(image(), 3, 7), first)
    assert np.array_equal(sampler(tmp_path)(image(), 3, 7), first)
    assert not np.array_equal(draw(image(), 3, 8), first)


def test_samples_of_one_image_differ_from_each_other(tmp_path: Path) -> None:
    samples = sampler(tmp_path)(image(), 4, 1)
    assert samples.dtype == np.uint8
    assert samples.shape == (4, 32, 32, 3)
    for first in range(4):
        for second in range(first):
            assert np.abs(samples[first].astype(int) - samples[second]).max() > 3


def test_more_samples_of_a_seed_begin_with_the_fewer(tmp_path: Path) -> None:
    draw = sampler(tmp_path)
    assert np.array_equal(draw(image(), 4, 1)[:2], draw(image(), 2, 1))


def test_samples_follow_the_input(tmp_path: Path) -> None:
    draw = sampler(tmp_path)
    assert not np.array_equal(draw(image(), 1, 1), draw(image(seed=1), 1, 1))


@pytest.mark.parametrize(("height", "width"), [(20, 30), (33, 64), (1, 50), (70, 5)])
def test_any_size_comes_back_at_its_own(tmp_path: Path, height: int, width: int) -> None:
    draw = sampler(tmp_path)
    samples = draw(image(height, width), 2, 1)
    assert samples.shape == (2, height, width, 3)
    bottom, right = -height % 32, -width % 32
    padded = np.pad(image(height, width), ((0, bottom), (0, right), (0, 0)), mode="reflect")
    assert np.array_equal(samples, draw(padded, 2, 1)[:, :height, :width])


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_samples_are_the_papers_training_mode_with_batches_of_one(tmp_path: Path, norm: str) -> None:
    config = replace(CONFIG, norm=norm)
    samples = sampler(tmp_path, config)(image(), 3, 5)
    trained = generator(config).train()
    x = to_unit_range(torch.from_numpy(image()).permute(2, 0, 1)[None])
    torch.manual_seed(5)
    with torch.inference_mode():
        expected = torch.cat([to_pixels(trained(x)) for _ in range(3)]).permute(0, 2, 3, 1).numpy()
    assert np.abs(samples.astype(int) - expected).max() <= (0 if norm == "instance" else 1)


def test_a_generator_with_running_statistics_is_drawn_from_too(tmp_path: Path) -> None:
    samples = sampler(tmp_path, replace(CONFIG, norm="running"))(image(), 2, 1)
    assert not np.array_equal(samples[0], samples[1])


def test_a_generator_without_dropout_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        sampler(tmp_path, replace(CONFIG, dropout_blocks=()))
    assert str(refused.value) == (
        f"{tmp_path / 'generator.safetensors'}: has no dropout, so every sample would be the same; "
        "train with model.dropout_blocks: [1, 2, 3]"
    )


def test_an_exported_file_cannot_be_drawn_from(tmp_path: Path) -> None:
    path = tmp_path / "generator.onnx"
    path.write_bytes(b"\x08\x0a onnx")
    with pytest.raises(UserError, match="is not a generator of this project"):
        Sampler(path)
    with pytest.raises(UserError, match="not found"):
        Sampler(tmp_path / "none.safetensors")


def test_an_image_that_is_too_large_for_the_memory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    draw = sampler(tmp_path)
    monkeypatch.setattr(draw._generator, "forward", refuse)
    with pytest.raises(TooLargeError, match=r"^64 × 32 px are too many for the memory at once$"):
        draw(image(32, 64), 2, 1)
    write_png(tmp_path / "in.png", image(32, 64))
    place = tmp_path / "out"
    with pytest.raises(
        UserError, match=r"in\.png: not made, 64 × 32 px are too many for the memory at once; "
    ):
        translation.draw([tmp_path / "in.png"], place, draw, samples=2, seed=1)
