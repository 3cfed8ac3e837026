"""Tiles: the untiled picture within stated levels, without seams, in memory that does not grow."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from PIL import Image

from pix2pix import images, onnx_export
from pix2pix.encoding import RGB8, Encoding
from pix2pix.errors import UserError
from pix2pix.generator import Generator
from pix2pix.images import Pixels
from pix2pix.tiling import Axis, Statistics, TiledTranslator
from pix2pix.translator import Translator

ROOT = Path(__file__).parents[1]
PX = 32


def landscape(height: int, width: int) -> Pixels:
    """Soft shapes, dark on the left and bright on the right, so that tiles' statistics differ."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return (soft * np.linspace(0.15, 1, width)[:, None]).astype(np.uint8)


def exported(path: Path, norm: str = "instance") -> Path:
    torch.manual_seed(0)
    generator = Generator(levels=5, channels=8, norm=norm)
    onnx_export.export(path, generator.eval(), in_channels=3, opset=20, metadata={"multiple": str(PX)})
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("tiling") / "generator.onnx")


def difference(one: Pixels, other: Pixels) -> np.ndarray:
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    return np.abs(one.astype(int) - other)


# --- how an image is cut -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tile_px", "overlap_px"),
    [(32, 0), (64, 0), (64, 1), (64, 32), (96, 20), (96, 64), (256, 64), (256, 160), (256, 224)],
)
def test_tiles_cover_every_side_once_in_all_and_share_what_was_asked_for(
    tile_px: int, overlap_px: int
) -> None:
    step_px = (tile_px - overlap_px) // PX * PX
    for length in (1, 31, 32, 64, 65, 97, 300, 511, 512, 1000):
        axis = Axis.of(length, PX, tile_px, step_px, overlap_px)
        padded = -(-length // PX) * PX
        assert all(start % PX == 0 for start in axis.starts)
        assert (axis.starts[0], axis.starts[-1] + axis.tile_px) == (0, padded)
        assert all(there - here <= step_px for here, there in zip(axis.starts, axis.starts[1:], strict=False))
        summed, cores = np.zeros(padded), np.zeros(padded)
        for start, share, core in zip(axis.starts, axis.weights(), axis.cores(), strict=True):
            assert share.shape == (axis.tile_px,) and share.min() >= 0
            summed[start : start + axis.tile_px] += share
            assert 0 <= core.start < core.stop <= axis.tile_px
            cores[start + core.start : start + core.stop] += 1
        assert np.allclose(summed, 1) and (cores == 1).all()


def test_a_blend_is_as_wide_as_the_overlap_and_in_the_middle_of_what_tiles_share() -> None:
    axis = Axis.of(96, 32, tile_px=64, step_px=32, blend_px=16)
    first, second = axis.weights()
    assert axis.starts == (0, 32)
    assert (first[:40] == 1).all() and (first[56:] == 0).all()
    assert np.allclose(first[40:56], 1 - (np.arange(16) + 0.5) / 16)
    assert np.allclose(second[8:24], (np.arange(16) + 0.5) / 16)


# --- the picture -------------------------------------------------------------------------------------


def test_an_image_of_one_tile_has_the_untiled_pixels(model: Path) -> None:
    for size in ((1, 1), (5, 40), (64, 64), (33, 64)):
        picture = landscape(*size)
        assert np.array_equal(TiledTranslator(model, 64, 32)(picture), Translator(model)(picture)), size


@pytest.mark.parametrize("statistics", ["image", "tile"])
@pytest.mark.parametrize("size", [(1, 200), (65, 64), (97, 130), (300, 70)])
@pytest.mark.parametrize("kind", [RGB8, Encoding(7, "uint16"), Encoding(1, "float32")], ids=str)
def test_a_network_that_changes_nothing_gives_every_pixel_back(
    tmp_path: Path, size: tuple[int, int], statistics: Statistics, kind: Encoding
) -> None:
    shape = ["batch", "height", "width", kind.channels]
    type_ = helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["translated"])],
        "identity",
        [helper.make_tensor_value_info("image", type_, shape)],
        [helper.make_tensor_value_info("translated", type_, shape)],
    )
    identity = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    identity.metadata_props.add(key="multiple", value=str(PX))
    if kind != RGB8:
        for side in ("input", "target"):
            identity.metadata_props.add(key=side, value=json.dumps(kind.to_json()))
    onnx.save(identity, tmp_path / "identity.onnx")
    noise = np.random.default_rng(1).uniform(0, kind.white, (*size, kind.channels)).astype(kind.dtype)
    for overlap_px in (0, 20, 32):
        tiled = TiledTranslator(tmp_path / "identity.onnx", 64, overlap_px, statistics)
        given = tiled(noise)
        assert given.dtype == noise.dtype
        assert np.allclose(given, noise, rtol=0, atol=1e-6 if kind.dtype == "float32" else 0)


def test_with_the_images_statistics_a_pixel_far_from_all_borders_is_the_untiled_one(model: Path) -> None:
    # 192 px are shared: the blend lies farther from the edges of tiles than this network sees.
    picture = landscape(277, 301)
    untiled = Translator(model)(picture)
    assert difference(TiledTranslator(model, 256, 64)(picture), untiled).max() <= 1
    assert difference(TiledTranslator(model, 256, 64, "tile")(picture), untiled).max() > 3


def test_the_difference_to_the_untiled_result_is_a_level_in_the_mean(
    model: Path, record_property: Callable[[str, object], None]
) -> None:
    picture = landscape(300, 420)
    untiled = Translator(model)(picture)
    kinds: tuple[Statistics, ...] = ("image", "tile")
    found = {
        kind: difference(TiledTranslator(model, 128, 64, kind)(picture), untiled).mean() for kind in kinds
    }
    record_property("mean_difference_in_levels", {kind: float(mean) for kind, mean in found.items()})
    assert found["image"] < 1.5
    assert found["tile"] > 3 * found["image"]


def test_colours_do_not_step_at_the_borders_of_tiles(model: Path) -> None:
    picture = landscape(128, 1024)
    untiled = Translator(model)(picture).astype(float)

    def step(kind: Statistics) -> float:
        tiled = TiledTranslator(model, 192, 64, kind)
        error = tiled(picture) - untiled
        borders = tiled.axes(picture)[1].borders[1:-1]
        assert len(borders) > 5
        sides = [(error[:, border - 16 : border], error[:, border : border + 16]) for border in borders]
        return float(np.mean([np.abs(after.mean((0, 1)) - before.mean((0, 1))) for before, after in sides]))

    assert step("image") < 0.4 * step("tile")


def test_fixed_statistics_need_one_pass_and_have_no_seams_either_way(tmp_path: Path) -> None:
    running = exported(tmp_path / "running.onnx", norm="running")
    picture = landscape(100, 130)
    told: list[tuple[int, int]] = []
    image = TiledTranslator(running, 64, 32)(picture, lambda *tiles: told.append(tiles))
    assert np.array_equal(image, TiledTranslator(running, 64, 32, "tile")(picture))
    assert told == [(number, 12) for number in range(1, 13)]


def test_progress_counts_every_tile_once_for_each_norm_and_once_for_the_result(model: Path) -> None:
    told: list[tuple[int, int]] = []
    TiledTranslator(model, 64, 32)(landscape(64, 96), lambda *tiles: told.append(tiles))
    # Three norms on the way down, four on the way up.
    assert told == [(number, 16) for number in range(1, 17)]


# --- what cannot be cut ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tile_px", "overlap_px", "line"),
    [
        (100, 0, "--tile 100: {model} takes multiples of 32 px; the nearest is 96"),
        (5, 0, "--tile 5: {model} takes multiples of 32 px; the nearest is 32"),
        (
            64,
            33,
            "--overlap 33: tiles of 64 px that begin at multiples of 32 px share 32 px at most; "
            "take --tile 96 or more",
        ),
    ],
)
def test_a_tile_that_the_network_does_not_take_names_one_that_it_does(
    model: Path, tile_px: int, overlap_px: int, line: str
) -> None:
    with pytest.raises(UserError) as caught:
        TiledTranslator(model, tile_px, overlap_px)
    assert str(caught.value) == line.format(model=model)


# --- memory ------------------------------------------------------------------------------------------

TRANSLATE = """
import resource, sys
from collections.abc import Callable
from pathlib import Path
import numpy as np
from pix2pix.tiling import TiledTranslator
from pix2pix.translator import Translator

model, height, tile = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
translate = TiledTranslator(model, tile, 32, sys.argv[4]) if tile else Translator(model)
translate(np.zeros((height, 512, 3), np.uint8))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak_bytes(model: Path, height: int, tile_px: int, statistics: Statistics = "image") -> int:
    command = [sys.executable, "-c", TRANSLATE, str(model), str(height), str(tile_px), statistics]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, cwd=model.parent
    )
    return int(done.stdout)


@pytest.mark.parametrize("statistics", ["image", "tile"])
def test_memory_grows_by_the_pictures_alone(model: Path, statistics: Statistics) -> None:
    small, large = 512, 6144
    grown = peak_bytes(model, large, 256, statistics) - peak_bytes(model, small, 256, statistics)
    # The image and its translation, and what an allocator may keep.
    assert grown < 2 * 3 * 512 * (large - small) + 16 * 2**20


def test_an_image_too_large_for_the_memory_is_one_line_that_names_the_knob(
    tmp_path: Path, model: Path
) -> None:
    images.write_png(tmp_path / "large.png", np.zeros((4096, 4096, 3), np.uint8))

    def limited(*options: str) -> "subprocess.CompletedProcess[str]":
        code = (
            "import onnxruntime, numpy, pix2pix.tiling, resource, sys; from pipeline.cli import main;"
            "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
            "resource.setrlimit(resource.RLIMIT_AS, (used + 900 * 2**20, resource.RLIM_INFINITY));"
            "main(sys.argv[1:])"
        )
        arguments = ["translate", "large.png", "out.png", "--model", str(model), *options]
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    refused = limited()
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "error: out.png: not made, 4096 × 4096 px are too many for the memory at once; try --tile 1024\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.png"]
    done = limited("--tile", "1024", "--statistics", "tile")
    assert done.returncode == 0, done.stderr
    assert images.read_rgb(tmp_path / "out.png").shape == (4096, 4096, 3)
