"""Model files from strangers: refused in one line that says what differs, and nothing in them is run."""

import ast
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from pix2pix import features, files, reference, warm_start
from pix2pix.checkpoint import CheckpointFolder, GeneratorConfig, load_generator, save_generator
from pix2pix.errors import UserError
from pix2pix.generator import Generator
from pix2pix.tiling import TiledTranslator
from pix2pix.translator import Translator

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
CONFIG = GeneratorConfig(
    levels=5,
    channels=2,
    norm="instance",
    dropout_blocks=(1,),
    image_px=32,
    dataset="test",
    direction="AtoB",
    params_sha256="",
    data_sha256="",
    code_sha256="",
)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.place),)


def load_checkpoint(path: Path) -> None:
    folder = CheckpointFolder(path.parent, "f")
    folder.path.mkdir()
    path.rename(folder.path / "checkpoint.pt")
    folder.load()


def load_warm_start(path: Path) -> None:
    digest = files.sha256_file(path)
    files.cached_model(digest).parent.mkdir(parents=True, exist_ok=True)
    path.rename(files.cached_model(digest))
    warm_start.load(CONFIG.build(), digest)


READERS: dict[str, Callable[[Path], object]] = {
    "generator.safetensors": load_generator,
    "checkpoint": load_checkpoint,
    "generator.onnx": Translator,
    "generator.onnx in tiles": TiledTranslator,
    "warm start": load_warm_start,
    "efficientnet-lite0": lambda path: features.load("efficientnet-lite0", str(path)),
    "inception": lambda path: features.load("inception-2015-12-05", str(path)),
}


@pytest.mark.parametrize("form", ["pickle", "zip", "legacy"])
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_no_reader_runs_what_is_in_a_pickle(
    tmp_path: Path, reader: Callable[[Path], object], form: str
) -> None:
    path, place = tmp_path / "model", tmp_path / "executed"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"weight": Bomb(place)}, protocol=2))
        pickle.loads(path.read_bytes())
        assert place.exists(), "the file must be one that would run"
        place.rmdir()
    else:
        torch.save({"weight": Bomb(place)}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError) as caught:
        reader(path)
    assert not place.exists()
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    "module",
    sorted((*ROOT.glob("pix2pix/*.py"), *ROOT.glob("pipeline/*.py"), *ROOT.glob("stages/*.py"))),
    ids=str,
)
def test_no_module_can_unpickle(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert "weights_only=True" in ast.unparse(node)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False"


# --- safetensors -------------------------------------------------------------------------------------


def altered(
    path: Path, config: dict[str, Any] | None = None, weights: dict[str, Tensor] | None = None
) -> Path:
    """Our own file with other fields or tensors."""
    save_generator(path, CONFIG.build().state_dict(), CONFIG)
    with safetensors.safe_open(path, framework="pt") as file:
        fields = json.loads(file.metadata()["config"]) | (config or {})
        state = {name: file.get_tensor(name) for name in file.keys()} | (weights or {})  # noqa: SIM118
    safetensors.torch.save_file(state, path, {"config": json.dumps(fields)})
    return path


@pytest.mark.parametrize(
    ("config", "said"),
    [
        # Each would take more memory than there is, or more time than anybody has, if it were built.
        ({"channels": 2_000_000}, "expected (2000000, 3, 4, 4)"),
        ({"channels": 10**18}, "is not a generator of this project ("),
        ({"in_channels": 10**12}, "expected (2, 1000000000000, 4, 4)"),
        ({"levels": 10**9}, "levels = 1000000000 with "),
        ({"levels": 0}, "levels = 0 with "),
        ({"levels": 2.5}, "is not a generator of this project ("),
        ({"surprise": 1}, "surprise"),
        ({"dropout_blocks": 3}, "is not a generator of this project ("),
    ],
    ids=str,
)
def test_numbers_in_a_file_are_believed_only_when_its_weights_agree(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    path = altered(tmp_path / "generator.safetensors", config)
    with pytest.raises(UserError) as caught:
        load_generator(path)
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)


def test_weights_that_are_no_floats_are_named(tmp_path: Path) -> None:
    name = "down.0.conv.weight"
    path = altered(tmp_path / "g.safetensors", weights={name: torch.zeros(2, 3, 4, 4, dtype=torch.int64)})
    with pytest.raises(UserError, match=f"{name} is torch.int64, expected torch.float32"):
        load_generator(path)


@pytest.mark.parametrize("length", [2**63, 2**32, 100 * 2**20, 10])
def test_a_header_that_lies_about_its_length_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "generator.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"a": {}}' * 10)
    with pytest.raises(UserError, match="is not a generator of this project"):
        load_generator(path)


# --- checkpoints -------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [{"step": 1}, {"generator": {"a": torch.zeros(1)}}, [1, 2]])
def test_a_checkpoint_of_something_else_says_how_to_start_anew(tmp_path: Path, saved: Any) -> None:
    folder, network = CheckpointFolder(tmp_path, "f"), Generator(levels=5, channels=2)
    folder.path.mkdir()
    torch.save(saved, folder.path / "checkpoint.pt")
    state = folder.load()
    assert state
    with pytest.raises(UserError) as caught, folder.taken_up():
        network.load_state_dict(state["generator"])
    line = str(caught.value)
    assert line.startswith(f"{folder.path / 'checkpoint.pt'}: is of another training (")
    assert line.endswith("remove it to start from the beginning") and "\n" not in line


# --- the reference's files ---------------------------------------------------------------------------


def reference_state(levels: int, tensors: int = 0) -> dict[str, Tensor]:
    """The outermost and the innermost module of so many levels, and so many tensors more."""
    inner = "model.model.1." + "model.3." * (levels - 2) + "model.1.weight"
    widths = {"model.model.0.weight": 4, "model.model.3.weight": 8, inner: 32}
    state = {name: torch.zeros(width, 3, 4, 4) for name, width in widths.items()}
    return state | {f"more.{number}": torch.zeros(1) for number in range(tensors)}


@pytest.mark.parametrize("tensors", [0, 3000])
def test_levels_of_the_references_are_believed_only_when_the_weights_are_there(
    tmp_path: Path, tensors: int
) -> None:
    """A thousand levels of this width take half a gigabyte; of 512 channels, 50."""
    path = tmp_path / "latest_net_G.pth"
    torch.save(reference_state(1000, tensors), path)
    allocated = peak_allocation(lambda: load_generator_of(path))
    assert allocated < 50e6


def load_generator_of(path: Path) -> None:
    said = "its names say 1000 levels, but it has 3 tensors|missing, expected shape"
    with pytest.raises(UserError, match=said):
        reference.load_generator(reference.read_state(path))


def peak_allocation(act: Callable[[], None]) -> int:
    """Bytes of tensors that were made and not at once let go."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        act()
    return sum(max(0, event.self_cpu_memory_usage) for event in seen.key_averages())


@pytest.mark.parametrize(
    "value",
    [torch.zeros(1).expand(10**9, 3, 4, 4), torch.zeros(4, 3, 4, 4).to_sparse()],
    ids=["expanded", "sparse"],
)
def test_a_tensor_that_is_larger_than_what_the_file_holds_is_refused(tmp_path: Path, value: Tensor) -> None:
    path = tmp_path / "latest_net_G.pth"
    torch.save({"model.model.0.weight": value}, path)
    with pytest.raises(UserError) as caught:
        reference.load_generator(reference.read_state(path))
    assert str(caught.value).startswith(f"{path}: model.model.0.weight says it has shape [")


# --- ONNX --------------------------------------------------------------------------------------------


def foreign(path: Path, multiple: str = "32", kind: int = TensorProto.UINT8, axes: int = 4) -> Path:
    shape = ["batch", "height", "width", 3][:axes]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["translated"])],
        "identity",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("translated", kind, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model.metadata_props.add(key="multiple", value=multiple)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("multiple", ["", "0", "-32", "48", "2048", "65536", "many", "1e3", "1" + "0" * 4000])
def test_a_multiple_that_is_none_is_named(tmp_path: Path, multiple: str) -> None:
    with pytest.raises(UserError, match=r"is not a generator exported by this project \(multiple = "):
        Translator(foreign(tmp_path / "g.onnx", multiple))


def test_tensors_of_another_kind_or_shape_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"image is tensor\(float\) .*expected tensor\(uint8\) "):
        Translator(foreign(tmp_path / "g.onnx", kind=TensorProto.FLOAT))
    with pytest.raises(UserError, match=r"image is tensor\(uint8\) .'batch', 'height', 'width'., expected "):
        Translator(foreign(tmp_path / "g.onnx", axes=3))


def test_weights_outside_the_file_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    (tmp_path / "models").mkdir()
    path = foreign(tmp_path / "models" / "g.onnx")
    model = onnx.load(path)
    tensor = model.graph.initializer.add(name="stolen", data_type=TensorProto.UINT8, dims=[64])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "../secret", "length": "64"}.items():
        tensor.external_data.add(key=key, value=value)
    model.graph.node.add(op_type="Identity", input=["stolen"], output=["copy"])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="is not an ONNX file"):
        Translator(path)
