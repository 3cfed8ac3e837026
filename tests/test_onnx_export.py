"""The exported file: the same pixels, at any size, and the same bytes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pix2pix import devices, onnx_export
from pix2pix.errors import UserError
from pix2pix.generator import Generator
from pix2pix.onnx_export import Parity, compare, session

ROOT = Path(__file__).parents[1]


def tiny(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    return Generator(levels=5, channels=4).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "generator.onnx"
    onnx_export.export(path, tiny(), in_channels=3, opset=20, metadata={"dataset": "test", "multiple": "32"})
    return path


def pixels(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def batches(images: np.ndarray, size: int) -> list[np.ndarray]:
    return [images[first : first + size] for first in range(0, len(images), size)]


@pytest.mark.parametrize(
    ("count", "height", "width", "batch"),
    [(3, 32, 32, 1), (8, 32, 32, 8), (3, 64, 32, 2), (2, 96, 160, 1), (1, 256, 256, 1)],
)
def test_onnx_gives_pytorchs_pixels_at_any_batch_and_size(
    exported: Path, count: int, height: int, width: int, batch: int
) -> None:
    parity = compare(session(exported), tiny(), batches(pixels(count, height, width), batch))
    assert parity.pixels == count * height * width
    assert parity.max_level_difference <= 1
    assert parity.differing_share < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch computes on a CUDA device")
def test_the_proof_s_other_side_is_computed_on_a_gpu_in_float32(exported: Path) -> None:
    devices.compute_exactly()
    generator = tiny()
    parity = compare(
        session(exported), generator, batches(pixels(8, 256, 256), 8), device=torch.device("cuda")
    )
    assert all(weight.is_cuda for weight in generator.parameters())
    assert parity.max_level_difference <= 1
    assert parity.differing_share < 1e-3


@pytest.mark.filterwarnings("error")
def test_images_that_may_not_be_written_to_are_compared_without_a_word(exported: Path) -> None:
    """As those that Pillow gives; torch warns of them."""
    images = pixels(1, 32, 32)
    images.flags.writeable = False
    assert compare(session(exported), tiny(), [images]).max_level_difference <= 1


@pytest.mark.parametrize(
    "choices", [{"upsample": "resize"}, {"architecture": "encoder-decoder"}, {"norm": "batch"}], ids=str
)
def test_no_kind_of_generator_holds_the_size_that_it_was_traced_at(
    tmp_path: Path, choices: dict[str, str]
) -> None:
    torch.manual_seed(0)
    generator = Generator(levels=5, channels=4, **choices).eval()  # type: ignore[arg-type]
    onnx_export.export(tmp_path / "generator.onnx", generator, in_channels=3, opset=20, metadata={})
    exported = session(tmp_path / "generator.onnx")
    for count, height, width in ((3, 32, 32), (1, 96, 160)):
        parity = compare(exported, generator, [pixels(count, height, width)])
        assert parity.max_level_difference <= 1
        assert parity.differing_share < 1e-3


@pytest.mark.parametrize("opset", [20, 23])
def test_every_opset_that_params_allows_gives_pytorchs_pixels(tmp_path: Path, opset: int) -> None:
    file = tmp_path / "generator.onnx"
    onnx_export.export(file, tiny(), in_channels=3, opset=opset, metadata={})
    assert [used.version for used in onnx.load(file).opset_import if not used.domain] == [opset]
    assert compare(session(file), tiny(), [pixels(1, 64, 32)]).max_level_difference <= 1


def test_an_image_is_the_same_alone_and_in_a_batch(exported: Path) -> None:
    run, images = session(exported), pixels(4, 64, 64)
    together = run.run(["translated"], {"image": images})[0]
    alone = np.concatenate([run.run(["translated"], {"image": image[None]})[0] for image in images])
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_another_generator_is_told_apart(exported: Path) -> None:
    parity = compare(session(exported), tiny(seed=1), [pixels(1, 32, 32)])
    assert parity.max_level_difference > 1
    with pytest.raises(UserError, match="ONNX and PyTorch differ"):
        onnx_export.refuse_difference("batch_1", parity, 0.001)


@pytest.mark.parametrize(
    ("parity", "refused"),
    [
        (Parity(1000, 1, 0.0005), False),
        (Parity(1000, 0, 0.0), False),
        (Parity(1000, 2, 0.0001), True),
        (Parity(1000, 1, 0.002), True),
    ],
)
def test_more_than_rounding_is_refused(parity: Parity, refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match=r"export\.max_differing_share"):
            onnx_export.refuse_difference("batch_8", parity, 0.001)
    else:
        onnx_export.refuse_difference("batch_8", parity, 0.001)


def test_the_file_is_one_and_says_what_it_takes(exported: Path) -> None:
    assert [file.name for file in exported.parent.iterdir()] == [exported.name]
    model = onnx.load(exported)
    for value, name in ((model.graph.input[0], "image"), (model.graph.output[0], "translated")):
        assert value.name == name
        tensor = value.type.tensor_type
        assert tensor.elem_type == onnx.TensorProto.UINT8
        dimensions = [d.dim_param or d.dim_value for d in tensor.shape.dim]
        assert dimensions == ["batch", "height", "width", 3]
    assert {entry.key: entry.value for entry in model.metadata_props} == {"dataset": "test", "multiple": "32"}
    assert model.opset_import[0].version == 20


def test_nothing_of_this_machine_is_in_the_file(exported: Path) -> None:
    content = exported.read_bytes()
    assert str(ROOT).encode() not in content
    assert b"site-packages" not in content
    assert b".py" not in content


def test_the_same_weights_give_the_same_bytes_in_any_process_and_place(
    exported: Path, tmp_path: Path
) -> None:
    program = """
import torch
from pathlib import Path
from pix2pix import devices, onnx_export
from pix2pix.generator import Generator
torch.manual_seed(0)
generator = Generator(levels=5, channels=4).eval()
metadata = {"multiple": "32", "dataset": "test"}
onnx_export.export(Path("g.onnx"), generator, in_channels=3, opset=20, metadata=metadata)
"""
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    assert (tmp_path / "g.onnx").read_bytes() == exported.read_bytes()
