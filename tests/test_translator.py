"""The translator: any size in, the same size out, the pixels of the file; one line for what is none."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from registry_fixtures import noise, run_onnx

from pix2pix.errors import UserError
from pix2pix.translator import Translator

pytest_plugins = ["registry_fixtures"]


@pytest.fixture
def model(tmp_path: Path, exported: bytes) -> Path:
    path = tmp_path / "generator.onnx"
    path.write_bytes(exported)
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        Translator(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


def identity(path: Path, source: str, target: str, multiple: str = "") -> Path:
    """A valid ONNX file that gives back what it gets."""
    shape = ["batch", "height", "width", 3]
    graph = helper.make_graph(
        [helper.make_node("Identity", [source], [target])],
        "identity",
        [helper.make_tensor_value_info(source, TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(target, TensorProto.UINT8, shape)],
    )
    foreign = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if multiple:
        foreign.metadata_props.add(key="multiple", value=multiple)
    onnx.save(foreign, path)
    return path


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (5, 7), (33, 65), (31, 32), (32, 32), (64, 96), (1, 200)]
)
def test_any_size_comes_back_at_its_size(model: Path, height: int, width: int) -> None:
    picture = noise(height, width)
    translated = Translator(model)(picture)
    assert (translated.shape, translated.dtype) == (picture.shape, np.uint8)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96)])
def test_a_multiple_gives_the_files_own_pixels(model: Path, height: int, width: int) -> None:
    picture = noise(height, width)
    translated = Translator(model)(picture)
    assert np.array_equal(translated, run_onnx(model, picture[None])[0])
    # Neither a copy of the input nor one colour.
    assert not np.array_equal(translated, picture)
    assert translated.std() > 1


def test_other_sizes_are_mirrored_at_the_lower_and_right_edge_only(tmp_path: Path, model: Path) -> None:
    picture = noise(33, 40)
    rows, columns = [*range(33), *range(31, 0, -1)], [*range(40), *range(38, 14, -1)]
    mirrored = picture[rows][:, columns]
    assert mirrored.shape == (64, 64, 3)
    expected = run_onnx(model, mirrored[None])[0, :33, :40]
    assert np.array_equal(Translator(model)(picture), expected)
    unchanged = Translator(identity(tmp_path / "identity.onnx", "image", "translated", multiple="32"))
    for size in ((1, 1), (5, 7), (33, 65)):
        assert np.array_equal(unchanged(noise(*size)), noise(*size))


def test_a_picture_is_translated_the_same_each_time(model: Path) -> None:
    translator, picture = Translator(model), noise(40, 50)
    first = translator(picture)
    translator(noise(64, 64, seed=1))
    assert np.array_equal(translator(picture), first)
    assert np.array_equal(picture, noise(40, 50))


def test_the_files_metadata_is_at_hand(model: Path) -> None:
    translator = Translator(model)
    assert translator.multiple == 32
    assert translator.metadata["direction"] == "BtoA"


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.onnx") == "not found"
    assert refused(tmp_path) == "not found"


def test_what_is_no_onnx_file_is_one_line(tmp_path: Path, exported: bytes) -> None:
    for name, content in (
        ("empty", b""),
        ("text", b"no model\n" * 100),
        ("half", exported[: len(exported) // 2]),
    ):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        assert refused(path).startswith("is not an ONNX file ("), name


def test_an_onnx_file_of_others_is_one_line(tmp_path: Path) -> None:
    foreign = identity(tmp_path / "foreign.onnx", "x", "y", multiple="32")
    assert refused(foreign) == "is not a generator exported by this project (tensors x, y)"
    unmarked = identity(tmp_path / "unmarked.onnx", "image", "translated")
    assert refused(unmarked).startswith("is not a generator exported by this project")


def test_translating_needs_no_torch() -> None:
    code = "import sys, pix2pix.translator; print(sorted({'torch', 'mlflow', 'dvc'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
