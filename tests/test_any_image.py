"""Pairs of other kinds than 8-bit RGB squares, through every stage from raw files to a translated image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import ROOT
from pair_fixtures import load_split

from pipeline import model_card, translation
from pix2pix import check_pictures, checkpoint, images, onnx_export, pair_set, pairs, remeasurement
from pix2pix.decoding import Samples, decode
from pix2pix.encoding import RGB8, Encoding
from pix2pix.errors import UserError
from pix2pix.generator import Generator
from pix2pix.pair_list import Pair
from pix2pix.params import Combined, Params, read_yaml, validate
from pix2pix.sampling import Sampler
from pix2pix.tiling import TiledTranslator
from pix2pix.translator import Translator
from stages.evaluate import evaluate
from stages.export import export
from stages.prepare import prepare
from stages.train import train

PAIRS = 30


def params(**prepare_: Any) -> Params:
    values = read_yaml(ROOT / "params.yaml")
    values["dataset"] |= {"name": "mine", "source": "/mine", "direction": "AtoB"}
    values["registry"]["model_name"] = "mine"
    values["prepare"] |= {
        "image_px": 32,
        "val_share": 0.2,
        "test_share": 0.2,
        "resize_input": "area",
    } | prepare_
    values["model"] |= {"generator_channels": 2, "discriminator_channels": 2, "discriminator_layers": 1}
    values["train"] |= {"epochs": 1, "sample_images": 1, "threads": 1}
    values["evaluate"] |= {"kd_subsets": 2, "kd_subset_size": 4}
    values["run"]["tracking"] = False
    return validate(values, "params.yaml")


def raw(side: str, channels: int, dtype: str, scale: float, suffix: str, count: int = PAIRS) -> None:
    for index in range(count):
        rows, columns = np.mgrid[:40, :50] / 50
        waves = [np.sin(3 * columns * (k + 1) + index) * np.cos(2 * rows + k) for k in range(channels)]
        file = Path(f"data/raw/{side}/{index:03}{suffix}")
        file.parent.mkdir(parents=True, exist_ok=True)
        images.write_image(file, (np.abs(np.stack(waves, -1)) * scale).astype(dtype))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def in_tiles(file: Path) -> TiledTranslator:
    return TiledTranslator(file, 64, 16)


def read_json(path: str) -> Any:
    return json.loads(Path(path).read_text())


def through_all_stages(given: Params) -> Samples:
    for stage in (prepare, train, evaluate, export):
        stage(given)
    translation.translate([Path("data/raw/A")], Path("out"), "models/generator.onnx")
    (first, *_), count = sorted(Path("out").iterdir()), len(list(Path("out").iterdir()))
    assert count == PAIRS
    return decode(first, "keep")


def test_satellite_to_depth_keeps_16_bits_seven_channels_and_floats_to_the_end() -> None:
    raw("A", 7, "uint16", 4000, ".tif")
    raw("B", 1, "float32", 700, ".tif")
    given = params(image_px=[32, 64], range_input="percentiles", range_target="percentiles")
    translated = through_all_stages(given)
    assert (translated.shape, translated.dtype) == ((40, 50, 1), np.float32)
    geometry = pair_set.Geometry.read(Path("data/pairs/pairs.json"))
    assert (geometry.image_px, geometry.load_px) == ((32, 64), (36, 72))
    assert (geometry.input.channels, geometry.input.dtype) == (7, "uint16")
    # The range is the training split's, and the outputs lie within it.
    stored = load_split(Path("data/pairs/train")).targets
    low, high = geometry.target.low[0], geometry.target.high[0]
    assert stored.min() <= low < np.median(stored) < high <= stored.max()
    assert low <= translated.min() < translated.max() <= high
    session = onnxruntime.InferenceSession("models/generator.onnx")
    kinds = [(v.type, v.shape[3]) for v in (*session.get_inputs(), *session.get_outputs())]
    assert kinds == [("tensor(uint16)", 7), ("tensor(float)", 1)]
    # In tiles as whole: the same kind of values, and nearly the same.
    bands = np.random.default_rng(0).integers(0, 4000, (70, 100, 7), dtype=np.uint16)
    whole, tiled = (make(Path("models/generator.onnx"))(bands) for make in (Translator, in_tiles))
    assert (tiled.dtype, tiled.shape) == (whole.dtype, whole.shape)
    assert np.abs(tiled - whole).mean() < 0.01 * (high - low)
    # What looks wrong is looked for within the range: 4,000 of 65,535 would be nothing.
    report = read_json("reports/data.json")
    assert report["checks"]["empty"]["count"] == 0
    assert [len(report["colours"][side]["mean"]) for side in ("input", "target")] == [7, 1]
    assert report["colours"]["input"]["spread"] > 1
    assert report["range_target"] == f"{low:.4g} to {high:.4g}"
    measured = read_json("reports/metrics.json")
    assert 0 < measured["model"]["l1"] < 1
    assert set(measured["input_as_output"]) == set(measured["model"])
    again = remeasurement.measure(given.evaluate, Path("models/generator.onnx"))
    assert again["model"]["l1"] == pytest.approx(measured["model"]["l1"], rel=1e-3)
    card = model_card.write(given, measured, read_json("reports/data.json"), read_json("reports/export.json"))
    assert "7 channels of uint16 in, 1 channel of float32 out" in card
    assert "at 32×64 px" in card
    # Other pairs than it was trained for are one line, whoever measures.
    raw("A", 3, "uint8", 255, ".tif")
    prepare(params(range_target="percentiles"))
    for stage in (evaluate, export):
        with pytest.raises(
            UserError, match=r"safetensors: is for 7 channels of uint16 as input, but data/pairs has"
        ):
            stage(given)
    with pytest.raises(UserError, match=r"onnx: is for 7 channels of uint16 as input"):
        remeasurement.measure(given.evaluate, Path("models/generator.onnx"))


def test_a_file_that_gives_other_pixels_than_pytorch_is_not_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    raw("A", 3, "uint8", 255, ".png")
    raw("B", 3, "uint8", 255, ".png")
    given = params()
    for stage in (prepare, train, export):
        stage(given)
    file = Path("models/generator.onnx")
    before = file.read_bytes(), Path("reports/export.json").read_bytes()
    # Another generator's file, as an exporter with a flaw would write one.
    torch.manual_seed(1)
    onnx_export.export(
        Path("other.onnx"), Generator(levels=5, channels=2), in_channels=3, opset=20, metadata={}
    )
    other = onnx_export.session(Path("other.onnx"))
    monkeypatch.setattr(onnx_export, "session", lambda path: other)
    with pytest.raises(UserError, match=r"export: batch_1: ONNX and PyTorch differ on .* was not kept"):
        export(given)
    assert (file.read_bytes(), Path("reports/export.json").read_bytes()) == before
    assert [path.name for path in Path("models").iterdir() if path.name.startswith(".gen")] == []


def test_the_largest_file_is_prepares_to_say() -> None:
    raw("A", 3, "float32", 1, ".npy")
    raw("B", 3, "uint8", 255, ".png")
    large = np.zeros((300, 300, 3), np.float32)
    np.save(Path("data/raw/A/000.npy"), large)
    prepare(params(max_bad_share=0.1, max_file_mb=1))
    reason = "has 1.1 MB, more than prepare.max_file_mb = 1 allows"
    assert read_json("reports/data.json")["rejects"] == {"A/000.npy": reason}
    prepare(params(max_bad_share=0.1, max_file_mb=2))
    reason = "its sides differ in size: A 300×300, B 50×40"
    assert read_json("reports/data.json")["rejects"] == {"A/000.npy": reason}


def test_class_indices_to_16_bit_colour_with_alpha() -> None:
    raw("A", 1, "uint8", 4.99, ".png")
    raw("B", 4, "uint16", 65535, ".png")
    given = params(classes=5, resize_input="nearest", alpha="keep")
    translated = through_all_stages(given)
    assert (translated.shape, translated.dtype) == ((40, 50, 4), np.uint16)
    _, config = checkpoint.load_generator(Path("models/generator.safetensors"))
    assert (config.in_channels, config.out_channels) == (5, 4)
    stored = load_split(Path("data/pairs/test")).inputs
    assert set(np.unique(stored)) <= set(range(5))
    levels = [
        parity["max_level_difference"] for parity in read_json("reports/export.json")["parity"].values()
    ]
    assert max(levels) <= 2
    sampler = Sampler(Path("models/generator.safetensors"))
    source = Path("data/raw/A/000.png")
    translation.draw([source], Path("drawn"), sampler, 2, 1, sampler.input, sampler.target)
    drawn = [decode(Path(f"drawn/000-{number}.png"), "keep") for number in (1, 2)]
    assert drawn[0].dtype == np.uint16
    assert not np.array_equal(*drawn)
    with pytest.raises(UserError, match=r"out\.jpg: cannot hold this image .*; write a \.png file"):
        translation.translate([source], Path("out.jpg"), "models/generator.onnx")
    # What is no label map is named, and the others are translated.
    images.write_png(Path("data/raw/A/001.png"), np.full((8, 8, 1), 5, np.uint8))
    with pytest.raises(UserError, match=r"001\.png holds the class index 5, but prepare\.classes = 5"):
        translation.translate([Path("data/raw/A")], Path("again"), "models/generator.onnx")
    # A project's limits hold for what it translates.
    limits = (ROOT / "params.yaml").read_text().replace("max_pixels: 100000000", "max_pixels: 1999")
    Path("params.yaml").write_text(limits)
    with pytest.raises(UserError, match=r"claims 50×40 px, more than prepare\.max_pixels = 1,999 allows"):
        translation.translate([source], Path("large.png"), "models/generator.onnx")


def test_an_interrupted_prepare_of_any_pixels_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    raw("A", 7, "uint16", 65535, ".tif")
    raw("B", 1, "float32", 0.9, ".npy")

    def fail(*_: Any) -> None:
        raise RuntimeError("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(check_pictures, "draw", fail)
        with pytest.raises(RuntimeError, match="interrupted"):
            prepare(params())
    monkeypatch.setattr(pairs, "sides", fail)
    prepare(params())
    assert {file.suffix for file in Path("data/pairs").rglob("0*")} == {".tif"}


def test_a_pinned_number_of_channels_refuses_other_data() -> None:
    raw("A", 1, "uint8", 255, ".png")
    raw("B", 3, "uint8", 255, ".png")
    given = params()
    prepare(given)
    for key, wanted, found in (("in_channels", 3, "1 channel"), ("out_channels", 1, "3 channels")):
        pinned = given.model_copy(update={"model": given.model.model_copy(update={key: wanted})})
        with pytest.raises(UserError) as refused:
            train(pinned)
        assert str(refused.value) == (
            f"params.yaml: model.{key} = {wanted}: the prepared pairs have {found} of uint8; "
            "set it to auto, or bring the data that it is for"
        )
    train(given.model_copy(update={"model": given.model.model_copy(update={"in_channels": 1})}))


def test_a_stray_file_of_another_kind_is_named_and_changes_no_channel() -> None:
    raw("A", 1, "uint8", 255, ".png", 60)
    raw("B", 1, "uint8", 255, ".png", 60)
    images.write_png(
        Path("data/raw/A/007.png"), np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    )
    prepare(params())
    report = read_json("reports/data.json")
    assert report["rejects"] == {"A/007.png": "has 3 channels, where 1 is expected"}
    assert (report["input"], report["target"]) == ("1 channel of uint8", "1 channel of uint8")
    assert load_split(Path("data/pairs/test")).inputs.shape[1] == 1


def test_floats_beyond_their_full_scale_stop_with_the_key_to_set() -> None:
    raw("A", 1, "uint8", 255, ".png")
    raw("B", 1, "float32", 700, ".npy")
    with pytest.raises(UserError, match=r"set prepare\.range_input or range_target to percentiles"):
        prepare(params())
    prepare(params(range_target="percentiles"))


def test_files_beyond_the_limits_of_params_are_named() -> None:
    raw("A", 1, "uint8", 255, ".png")
    raw("B", 1, "uint8", 255, ".png")
    with pytest.raises(UserError, match=r"claims 50×40 px, more than prepare\.max_pixels = 1,999 allows"):
        prepare(params(max_pixels=1999))
    prepare(params(max_pixels=2000))


def test_combined_images_of_16_bits_and_alpha_are_cut_in_two(tmp_path: Path) -> None:
    combined: Combined
    both = np.random.default_rng(0).integers(0, 65536, (4, 6, 4), dtype=np.uint16)
    images.write_png(tmp_path / "a.png", both)
    side, pair = Encoding(4, "uint16", "keep"), Pair("a", None, "a.png")
    for combined, axis in (("side-by-side", 1), ("stacked", 0)):
        a, b = pairs.read_pair(pair, tmp_path, combined, (side, side))
        assert np.array_equal(np.concatenate([a, b], axis), both)
    with pytest.raises(UserError, match="is a combined image; class indices need a file of their own"):
        pairs.read_pair(pair, tmp_path, "stacked", (Encoding(1, classes=3), side))


@pytest.fixture(scope="module")
def rgb8(tmp_path_factory: pytest.TempPathFactory) -> tuple[Generator, Path]:
    """A generator of 8-bit RGB and its exported file."""
    torch.manual_seed(0)
    generator, file = Generator(levels=5, channels=2).eval(), tmp_path_factory.mktemp("rgb8") / "g.onnx"
    metadata = {"multiple": "32"}
    onnx_export.export(file, generator, in_channels=3, opset=20, metadata=metadata, source=RGB8, target=RGB8)
    return generator, file


def test_evaluation_takes_pairs_of_any_size_and_crops_exactly(rgb8: tuple[Generator, Path]) -> None:
    """Smaller than the padding, too; the pixels are those that `translate` gives."""
    from stages.evaluate import _translate

    generator, file = rgb8
    config = checkpoint.GeneratorConfig(5, 2, "instance", (), 32, "d", "AtoB", "", "", "")
    translator = Translator(file)
    for height, width in ((7, 5), (33, 50), (64, 32), (1, 1)):
        inputs = np.random.default_rng(0).integers(0, 256, (2, 3, height, width), dtype=np.uint8)
        outputs = _translate(generator, inputs, torch.device("cpu"), config)
        assert outputs.shape == inputs.shape
        expected = translator(inputs[1].transpose(1, 2, 0))
        assert np.abs(outputs[1].transpose(1, 2, 0).astype(int) - expected).max() <= 1


def test_the_floor_invents_no_colours_where_targets_have_few() -> None:
    """Training targets are made as small as the test images in the way in which these came to be."""
    from stages.evaluate import _at_size

    labels = np.kron(np.random.default_rng(0).integers(0, 2, (1, 3, 12, 12)), np.ones((3, 3))) * 255
    stored = labels.astype(np.uint8)
    assert set(np.unique(_at_size(stored, 32, 32, "nearest"))) == {0, 255}
    assert len(np.unique(_at_size(stored, 32, 32, "bicubic"))) > 2


def test_a_generator_of_8_bit_rgb_scales_and_rounds_in_no_more_steps_than_needed(
    rgb8: tuple[Generator, Path],
) -> None:
    graph = onnx.load(rgb8[1]).graph
    first, last = ([node.op_type for node in nodes] for nodes in (graph.node[:4], graph.node[-6:]))
    assert first == ["Transpose", "Cast", "Div", "Sub"]
    assert last == ["Add", "Mul", "Round", "Clip", "Cast", "Transpose"]
