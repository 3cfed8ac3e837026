"""Encodings: what a side's files have in common, how their samples reach the network and come back."""

import functools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pix2pix import encoding, images, metrics, onnx_export, pair_set
from pix2pix.augment import crop, low_and_half, plan_epoch, to_pixels, to_unit_range
from pix2pix.checkpoint import GeneratorConfig, load_generator, save_generator
from pix2pix.decoding import Samples, UnreadableImage
from pix2pix.encoding import RGB8, Encoding, KindCounts, decide, measured, of_classes
from pix2pix.errors import UserError
from pix2pix.generator import Generator
from pix2pix.translator import Translator

U16, F32 = "uint16", "float32"


def kinds(**counts: int) -> KindCounts:
    """g8=3 stands for three grey images of 8 bits; g, c, a, h: grey, colour, with alpha, 7 channels."""
    made: KindCounts = Counter()
    for name, count in counts.items():
        channels = {"g": 1, "c": 3, "a": 3, "h": 7}[name[0]]
        dtype = {"8": "uint8", "6": U16, "f": F32}[name[1]]
        made[channels, dtype, name[0] == "a"] += count
    return made


# --- what a side's files have in common --------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "alpha", "channels", "dtype"),
    [
        ({"c8": 9}, "white", 3, "uint8"),
        ({"g8": 9}, "white", 1, "uint8"),
        ({"g8": 90, "c8": 10}, "white", 3, "uint8"),
        ({"g8": 99, "c8": 1}, "white", 1, "uint8"),
        ({"c8": 99, "g8": 1}, "white", 3, "uint8"),
        ({"c8": 99, "c6": 1}, "white", 3, "uint8"),
        ({"c8": 90, "c6": 10}, "white", 3, U16),
        ({"c6": 9}, "white", 3, U16),
        ({"h6": 9, "c6": 1}, "white", 7, U16),
        ({"gf": 9, "g8": 1}, "white", 1, F32),
        ({"a8": 1, "c8": 99}, "white", 3, "uint8"),
        ({"a8": 1, "c8": 99}, "keep", 4, "uint8"),
        ({"c8": 9}, "keep", 3, "uint8"),
        ({}, "white", 3, "uint8"),
    ],
)
def test_a_side_is_what_most_of_its_files_are_and_a_few_odd_ones_widen_nothing(
    found: dict[str, int], alpha: encoding.Alpha, channels: int, dtype: str
) -> None:
    decided = decide(kinds(**found), alpha, 0.02)
    assert (decided.channels, decided.dtype) == (channels, dtype)


def grey(dtype: str, value: float = 1.0) -> Samples:
    full = 1 if dtype == F32 else np.iinfo(dtype).max
    return np.full((2, 2, 1), value * full, dtype)


def test_what_loses_nothing_is_fitted() -> None:
    assert Encoding(3).fit(grey("uint8")).shape == (2, 2, 3)
    assert Encoding(1).fit(np.repeat(grey("uint8", 0.5), 3, 2)).shape == (2, 2, 1)
    assert Encoding(1, U16).fit(np.full((2, 2, 1), 200, np.uint8)).max() == 200 * 257
    kept = Encoding(4, alpha="keep").fit(grey("uint8", 0.5))
    assert kept[0, 0].tolist() == [127, 127, 127, 255]
    assert Encoding(2, U16, alpha="keep").fit(grey("uint8"))[0, 0].tolist() == [65535, 65535]
    for untouched in (grey("uint8"), np.zeros((2, 2, 7), np.uint8)):
        assert Encoding(untouched.shape[2]).fit(untouched) is untouched


@pytest.mark.parametrize(
    ("wanted", "given", "said"),
    [
        (Encoding(1), np.arange(12, dtype=np.uint8).reshape(2, 2, 3), "has 3 channels, where 1 is expected"),
        (Encoding(7), grey("uint8"), "has 1 channel, where 7 are expected"),
        (Encoding(3), grey(U16), "holds uint16 values, where uint8 is expected"),
        (Encoding(1, U16), grey(F32), "holds float32 values, where uint16 is expected"),
        (Encoding(1, F32), grey(F32, 1.5), "holds values from 1.5 to 1.5, but floats at full scale"),
        (Encoding(4), np.zeros((2, 2, 3), np.uint8), "has 3 channels, where 4 are expected"),
    ],
)
def test_what_would_lose_or_invent_something_is_refused(wanted: Encoding, given: Samples, said: str) -> None:
    with pytest.raises(UnreadableImage, match=said):
        wanted.fit(given)


def test_percentiles_leave_outliers_out_channel_by_channel() -> None:
    values = np.random.default_rng(0).uniform(1000, 3000, (20, 50, 60, 2)).astype(np.uint16)
    values[..., 1] = 500
    values[0, 0, 0] = 65535
    found = measured(Encoding(2, U16, range="percentiles"), iter(values), 20, (1, 99))
    assert found.low[0] == pytest.approx(1020, abs=10)
    assert found.high[0] == pytest.approx(2980, abs=10)
    # A channel that is the same everywhere still has a width.
    assert found.low[1] == 500 < found.high[1]
    assert (found.unit(values) >= 0).all() and (found.unit(values) <= 1).all()


# --- to the network and back -------------------------------------------------------------------------


class Unchanged(nn.Module):
    """A generator that gives back what it gets: what is left is scaling and rounding."""

    multiple = 2

    def forward(self, x: Tensor) -> Tensor:
        return x


RANGED = Encoding(1, U16, range="percentiles", low=(1000.0,), high=(40000.0,))


DEPTH = Encoding(1, F32, range="percentiles", low=(-400.0,), high=(900.0,))


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Encoding], Path]:
    """Exported files of `Unchanged`, one for each encoding: exporting takes seconds."""
    folder = tmp_path_factory.mktemp("unchanged")

    @functools.cache
    def file(side: Encoding) -> Path:
        path, said = folder / f"{len(list(folder.iterdir()))}.onnx", json.dumps(side.to_json())
        onnx_export.export(
            path,
            Unchanged(),  # type: ignore[arg-type]
            in_channels=side.channels,
            opset=20,
            metadata={"multiple": "2", "input": said, "target": said},
            source=side,
            target=side,
        )
        return path

    return file


def every_value(side: Encoding) -> tuple[Samples, float]:
    """All levels of 16 bits within the range, and what two of them are worth."""
    (least, *_), (most, *_) = side.bounds
    values = np.linspace(least, most, 65536).astype(side.dtype).reshape(256, 256, 1).repeat(side.channels, 2)
    return values, (most - least) * 2 / 65536 if side.dtype == F32 else {"uint8": 0, U16: 2}[side.dtype]


@pytest.mark.parametrize(
    "side", [RGB8, Encoding(3, U16), Encoding(5, U16), RANGED, Encoding(3, F32), DEPTH], ids=str
)
def test_scaling_in_and_rounding_out_add_at_most_two_levels_of_65536(side: Encoding) -> None:
    values, noise = every_value(side)
    tensor = torch.from_numpy(values).permute(2, 0, 1)[None]
    back = to_pixels(to_unit_range(tensor, side), side)[0].permute(1, 2, 0).numpy()
    assert back.dtype == values.dtype
    assert np.abs(back.astype(np.float64) - values).max() <= noise


@pytest.mark.parametrize("side", [Encoding(5, U16), RANGED, DEPTH], ids=str)
def test_the_exported_file_takes_and_gives_the_datas_type_and_adds_no_more(
    unchanged: Callable[[Encoding], Path], side: Encoding
) -> None:
    values, noise = every_value(side)
    through = Translator(unchanged(side))(values)
    assert through.dtype == values.dtype
    assert np.abs(through.astype(np.float64) - values).max() <= noise


def test_16_bit_images_at_the_ends_of_their_range_do_not_wrap_around() -> None:
    beyond = torch.tensor([-1.5, -1.0, 1.0, 1.5])[:, None, None]
    assert to_pixels(beyond, Encoding(1, U16)).flatten().tolist() == [0, 0, 65535, 65535]
    dark = to_unit_range(
        torch.tensor([0, 1000, 40000, 65535], dtype=torch.int32)[:, None, None, None], RANGED
    )
    assert dark.flatten().tolist() == [-1, -1, 1, 1]


def test_8_bit_rgb_takes_the_very_steps_that_it_took_before() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    unit = to_unit_range(pixels)
    assert torch.equal(unit, pixels.float() / 127.5 - 1.0)
    noisy = torch.rand(10_000) * 2.2 - 1.1
    assert torch.equal(to_pixels(noisy), ((noisy + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8))


@pytest.mark.parametrize("dtype", ["uint8", U16, F32])
def test_a_crop_of_any_type_is_the_crop_of_its_values(dtype: str) -> None:
    side = Encoding(2, dtype)
    stored = (np.random.default_rng(0).random((6, 2, 12, 12)) * side.white).astype(dtype)
    rows = plan_epoch(6, (4, 2), 1, 0).rows()
    assert rows[:, 3].any()
    piece = crop(torch.from_numpy(stored), torch.from_numpy(rows), (8, 10))
    expected = crop(torch.from_numpy(stored.astype(np.float64)), torch.from_numpy(rows), (8, 10))
    assert (piece.shape, piece.numpy().dtype) == ((6, 2, 8, 10), stored.dtype)
    assert np.array_equal(piece.numpy(), expected.numpy())
    # As they are for the network: by bounds at hand as by those fetched anew.
    ranged = replace(side, range="percentiles", low=(0.0, 0.1), high=(side.white, side.white / 2))
    held = to_unit_range(piece, ranged, low_and_half(ranged, torch.device("cpu")))
    assert torch.equal(held, to_unit_range(piece, ranged))


@pytest.mark.parametrize("classes", [7, 300])
def test_class_indices_are_one_hot_for_the_network(classes: int) -> None:
    side = of_classes(classes)
    assert (side.channels, side.network_channels) == (1, classes)
    indices = np.random.default_rng(0).integers(0, classes, (1, 64, 32)).astype(side.dtype)
    seen = to_unit_range(torch.from_numpy(indices)[:, None], side)
    expected = np.where(indices[:, None] == np.arange(classes)[:, None, None], 1.0, -1.0)
    assert np.array_equal(seen.numpy(), expected)


def test_more_classes_than_a_byte_holds_are_16_bit_indices_in_the_file(tmp_path: Path) -> None:
    side, classes = of_classes(300), 300
    indices = np.random.default_rng(0).integers(0, classes, (1, 64, 32)).astype(U16)
    torch.manual_seed(0)
    generator, file = Generator(levels=5, channels=2, in_channels=classes).eval(), tmp_path / "g.onnx"
    onnx_export.export(file, generator, in_channels=1, opset=20, metadata={"multiple": "32"}, source=side)
    taken = onnxruntime.InferenceSession(file).get_inputs()[0]
    assert (taken.type, taken.shape[3]) == (f"tensor({side.dtype})", 1)
    parity = onnx_export.compare(
        onnx_export.session(file), generator, [indices[..., None]], source=side, target=RGB8
    )
    onnx_export.refuse_difference("classes", parity, 0.001)


def test_a_file_says_what_its_samples_mean_and_one_that_contradicts_itself_is_refused(
    unchanged: Callable[[Encoding], Path], tmp_path: Path
) -> None:
    translator, file = Translator(unchanged(RANGED)), tmp_path / "g.onnx"
    assert (translator.input, translator.target) == (RANGED, RANGED)
    model = onnx.load(unchanged(RANGED))

    def refusal(said: str) -> str:
        del model.metadata_props[:]
        for key, value in {**translator.metadata, "input": said}.items():
            model.metadata_props.add(key=key, value=value)
        onnx.save(model, file)
        with pytest.raises(UserError) as refused:
            Translator(file)
        return str(refused.value)

    assert "its input is 1 channel of uint16, but its metadata says 2 channels of uint8" in refusal(
        json.dumps(Encoding(2, "uint8").to_json())
    )
    for nonsense in ("{", "[]", '{"chanels": 1}', '{"dtype": "object"}', '{"low": [1]}', '{"low": 3}'):
        assert "says nothing sensible of its input; export it again" in refusal(nonsense)


def test_a_generator_keeps_its_encodings_and_an_old_file_without_them_is_8_bit_rgb(tmp_path: Path) -> None:
    config = GeneratorConfig(
        5, 2, "instance", (), 32, "d", "AtoB", "p", "d", "c", in_channels=1, input=RANGED, target=RGB8
    )
    save_generator(tmp_path / "g.safetensors", config.build().state_dict(), config)
    assert load_generator(tmp_path / "g.safetensors")[1] == config
    geometry = pair_set.Geometry("d", "AtoB", 32, 36, input=RANGED)
    geometry.write(tmp_path / "pairs.json")
    assert pair_set.Geometry.read(tmp_path / "pairs.json") == geometry
    (tmp_path / "old.json").write_text('{"dataset": "d", "direction": "AtoB", "image_px": 32, "load_px": 36}')
    assert pair_set.Geometry.read(tmp_path / "old.json").target == RGB8


# --- what a person and a metric see ------------------------------------------------------------------


def test_pictures_are_8_bit_rgb_and_their_heading_says_what_is_left_out() -> None:
    ramp = np.array([0, 30000, 65535], np.uint16)[:, None, None]
    assert Encoding(1, U16).picture(ramp)[:, 0].tolist() == [[0] * 3, [117] * 3, [255] * 3]
    seven = np.stack([ramp[..., 0]] * 2 + [ramp[::-1, :, 0]] + [ramp[..., 0]] * 4, -1)
    assert Encoding(7, U16).picture(seven)[0, 0].tolist() == [0, 0, 255]
    assert Encoding(2, U16).picture(seven[..., 1:3])[0, 0].tolist() == [0, 0, 0]
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert RGB8.picture(pixels) is pixels
    classes = of_classes(30).picture(np.arange(30, dtype=np.uint8)[:, None, None])
    assert len({tuple(colour) for colour in classes[:, 0].tolist()}) == 30
    headings = {
        side.heading("input") for side in (Encoding(1), Encoding(2), RGB8, Encoding(7), of_classes(30))
    }
    assert headings == {
        "input",
        "input (channel 1 of 2)",
        "input (channels 1 to 3 of 7)",
        "input (30 classes)",
    }


def test_metrics_of_16_bits_and_floats_are_those_of_the_same_picture_in_8_bits() -> None:
    a, b = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 16, 16), dtype=np.uint8)
    expected = metrics.per_image(torch.from_numpy(a), torch.from_numpy(b)).means()
    for side, scale in ((Encoding(3, U16), 257), (Encoding(3, F32), 1 / 255)):
        wide = [torch.from_numpy((pixels.astype(np.float64) * scale).astype(side.dtype)) for pixels in (a, b)]

        def unit(pixels: Tensor, side: Encoding = side) -> Tensor:
            return torch.from_numpy(side.unit(pixels.permute(1, 2, 0).numpy())).permute(2, 0, 1)

        assert metrics.per_image(*wide, unit, unit).means() == pytest.approx(expected, rel=1e-5)


def test_an_input_of_other_channels_is_compared_as_its_picture() -> None:
    pixels = np.zeros((1, 1, 3), np.uint8)
    pixels[0, 0] = 255, 0, 0
    assert RGB8.unit_in(pixels, 1).tolist() == [[[pytest.approx(1 / 3)]]]
    assert Encoding(1).unit_in(pixels[..., :1], 3).tolist() == [[[1, 1, 1]]]
    assert RGB8.unit_in(pixels, 3).tolist() == [[[1, 0, 0]]]


def test_prepared_pairs_are_files_that_other_programs_open(tmp_path: Path) -> None:
    for channels, dtype, mode in ((1, "uint8", "L"), (3, U16, "RGB"), (1, U16, "I;16"), (1, F32, "F")):
        file = tmp_path / f"a{images.lossless_suffix(channels, dtype)}"
        images.write_image(file, (np.random.default_rng(0).random((4, 6, channels)) * 9).astype(dtype))
        assert Image.open(file).mode == mode


def test_transparency_that_was_kept_is_seen_as_a_checkerboard() -> None:
    side = Encoding(4, "uint8", "keep")
    samples = np.full((2, 16, 16, 4), (255, 0, 0, 0), np.uint8)
    samples[:, :8, :, 3] = 255
    picture = side.picture(samples)
    assert picture.shape == (2, 16, 16, 3)
    assert (picture[:, :8] == (255, 0, 0)).all()
    assert picture[0, 8, [0, 7, 8, 15], 0].tolist() == [200, 200, 240, 240]
    assert side.heading("input") == "input (transparent: chequered)"
    # Metrics are of the channels as they are.
    assert (side.rgb(samples) == (255, 0, 0)).all()
    infrared = Encoding(4, "uint8")
    assert (infrared.picture(samples) == (255, 0, 0)).all()
    assert infrared.heading("input") == "input (channels 1 to 3 of 4)"
