"""Pictures: read as a person sees them or refused in words, resized as named, arranged where they belong."""

import random
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pix2pix import images
from pix2pix.decoding import Limits
from pix2pix.errors import UserError
from pix2pix.images import Pixels, UnreadableImage

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def solid(color: tuple[int, int, int], height: int = 4, width: int = 4) -> Pixels:
    return np.full((height, width, 3), color, dtype=np.uint8)


def png(path: Path, width: int, height: int, bits: int, color_type: int, data: bytes) -> Path:
    """A PNG made by hand, for what Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableImage) as refused:
        images.read_rgb(path)
    line = str(refused.value)
    # The caller puts the file's name in front.
    assert str(path.parent) not in line
    assert "\n" not in line
    return line


# --- reading -----------------------------------------------------------------------------------------

UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_camera_turned_on_its_side_gives_an_upright_image(tmp_path: Path, orientation: int) -> None:
    stored, exif = noise(3, 5), Image.Exif()
    exif[0x0112] = orientation
    # An uncompressed TIFF is what Pillow maps into memory, with the width and height that it will have.
    for name in ("a.png", "a.tif"):
        Image.fromarray(stored).save(tmp_path / name, exif=exif)
        assert np.array_equal(images.read_rgb(tmp_path / name), UPRIGHT[orientation](stored))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".webp"])
def test_lossless_files_come_back_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    pixels = noise(7, 12)
    images.write_image(tmp_path / f"a{suffix}", pixels)
    read = images.read_rgb(tmp_path / f"a{suffix}")
    assert read.dtype == np.uint8
    assert np.array_equal(read, pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG"])
def test_a_jpeg_is_written_almost_as_it_was(tmp_path: Path, suffix: str) -> None:
    pixels = solid((200, 30, 60), 16, 16)
    images.write_image(tmp_path / f"a{suffix}", pixels)
    assert np.abs(images.read_rgb(tmp_path / f"a{suffix}").astype(int) - pixels).max() <= 3


def test_every_suffix_that_is_looked_for_can_be_written_and_read(tmp_path: Path) -> None:
    for suffix in images.IMAGE_SUFFIXES:
        images.write_image(tmp_path / f"a{suffix}", solid(GREEN, 8, 6))
        assert images.read_rgb(tmp_path / f"a{suffix}").shape == (8, 6, 3)


def test_png_compression_does_not_change_a_pixel(tmp_path: Path) -> None:
    pixels = noise(9, 9)
    for level in (0, 1, 9):
        images.write_png(tmp_path / "a.png", pixels, compress_level=level)
        assert np.array_equal(images.read_rgb(tmp_path / "a.png"), pixels)


def palette() -> Image.Image:
    return Image.fromarray(np.hstack([solid(RED), solid(BLUE)])).quantize(2)


def palette_with_transparency() -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *BLUE])
    image.info["transparency"] = 1
    return image


def cmyk(*ink: int) -> Image.Image:
    return Image.new("CMYK", (4, 4), ink)


@pytest.mark.parametrize(
    ("make", "seen", "suffix"),
    [
        (lambda: Image.new("L", (4, 4), 77), solid((77, 77, 77)), ".png"),
        (lambda: Image.new("1", (4, 4), 1), solid(WHITE), ".png"),
        (palette, np.hstack([solid(RED), solid(BLUE)]), ".png"),
        (lambda: cmyk(0, 255, 255, 0), solid(RED), ".tif"),
        (lambda: cmyk(0, 0, 0, 255), solid(BLACK), ".tif"),
        (lambda: Image.new("RGBA", (4, 4), (*RED, 255)), solid(RED), ".png"),
        (lambda: Image.new("RGBA", (4, 4), (*RED, 0)), solid(WHITE), ".png"),
        (lambda: Image.new("RGBA", (4, 4), (*BLACK, 51)), solid((204, 204, 204)), ".png"),
        (lambda: Image.new("LA", (4, 4), (0, 0)), solid(WHITE), ".png"),
        (palette_with_transparency, solid(WHITE), ".png"),
    ],
    ids=[
        "grey",
        "black and white",
        "palette",
        "cmyk red",
        "cmyk black",
        "opaque",
        "transparent",
        "half transparent",
        "grey transparent",
        "palette transparent",
    ],
)
def test_every_kind_of_image_is_read_as_a_person_sees_it(
    tmp_path: Path, make: Callable[[], Image.Image], seen: Pixels, suffix: str
) -> None:
    make().save(tmp_path / f"a{suffix}")
    assert np.array_equal(images.read_rgb(tmp_path / f"a{suffix}"), seen)


def test_a_name_with_spaces_and_other_letters_is_read(tmp_path: Path) -> None:
    file = tmp_path / "größe 1 – 図.png"
    images.write_png(file, solid(RED))
    assert np.array_equal(images.read_rgb(file), solid(RED))


# --- refusing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_a_channel_are_refused_not_cut_down(
    tmp_path: Path, color_type: int, channels: int
) -> None:
    row = b"\0" + bytes([1, 2]) * channels * 4
    file = png(tmp_path / "a.png", 4, 4, 16, color_type, row * 4)
    assert refusal(file).startswith("holds more than 8 bits a channel")


def test_the_same_png_with_eight_bits_is_read(tmp_path: Path) -> None:
    file = png(tmp_path / "a.png", 4, 4, 8, 2, (b"\0" + bytes(GREEN) * 4) * 4)
    assert np.array_equal(images.read_rgb(file), solid(GREEN))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_tiffs_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    assert refusal(tmp_path / "a.tif").startswith("holds more than 8 bits a channel")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "does not decode (cannot identify image file)"),
        (b"these are words, not pixels\n", "does not decode (cannot identify image file)"),
        (bytes(range(256)) * 8, "does not decode (cannot identify image file)"),
        (b"\x89PNG\r\n\x1a\n", "does not decode ("),
    ],
    ids=["zero bytes", "text", "garbage", "only a signature"],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert refusal(tmp_path / "a.png").startswith(said)


@pytest.mark.parametrize("suffix", sorted(images.IMAGE_SUFFIXES))
def test_a_truncated_image_is_refused_not_filled_up_with_grey(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    images.write_image(file, noise(64, 64))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert refusal(file).startswith("does not decode (")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.png") == "is not there"


def test_a_folder_called_like_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    assert "directory" in refusal(tmp_path / "a.png")


def test_a_small_file_that_claims_millions_of_pixels_is_refused(tmp_path: Path) -> None:
    file = png(tmp_path / "a.png", 20_000, 20_000, 8, 2, b"")
    assert refusal(file) == "claims 20,000×20,000 px, more than prepare.max_pixels = 100,000,000 allows"


def test_an_unreadable_image_is_a_users_mistake_not_a_bug() -> None:
    assert issubclass(UnreadableImage, UserError)


@pytest.mark.parametrize("suffix", sorted(images.IMAGE_SUFFIXES))
def test_damaged_bytes_give_pixels_or_a_reason_and_never_another_exception(
    tmp_path: Path, suffix: str
) -> None:
    # A damaged header may claim gigabytes, which a test need not hold.
    limits = Limits(max_pixels=10_000)
    chance, file, exif = random.Random(suffix), tmp_path / f"a{suffix}", Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {} if suffix == ".bmp" else {"exif": exif}
    if suffix == ".npy":
        images.write_image(file, noise(24, 40))
    else:
        Image.fromarray(noise(24, 40)).save(file, **options)
    whole, refused = file.read_bytes(), 0
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 3, 9])):
            damaged[chance.randrange(chance.choice([60, 200, len(whole)]))] = chance.randrange(256)
        file.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert images.read_rgb(file, limits).dtype == np.uint8
            except UnreadableImage:
                refused += 1
    assert refused


# --- resizing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(3, 4), (13, 7), (16, 16), (40, 5)])
@pytest.mark.parametrize("method", ["nearest", "area", "bicubic"])
def test_every_method_gives_exactly_the_size_that_was_asked_for(height: int, width: int, method: str) -> None:
    resized = images.resize(noise(12, 10), height, width, method)
    assert resized.shape == (height, width, 3)
    assert resized.dtype == np.uint8


@pytest.mark.parametrize("method", ["nearest", "area", "bicubic"])
def test_an_image_of_the_right_size_is_not_touched(method: str) -> None:
    pixels = noise(12, 10)
    assert np.array_equal(images.resize(pixels, 12, 10, method), pixels)


@pytest.mark.parametrize("side_px", [3, 11, 32, 143])
def test_nearest_invents_no_colours(side_px: int) -> None:
    labels = np.random.default_rng(1).integers(0, 4, (29, 31))
    label_map = np.array([RED, GREEN, BLUE, BLACK], np.uint8)[labels]
    resized = images.resize(label_map, side_px, side_px, "nearest")
    assert {tuple(color) for color in resized.reshape(-1, 3).tolist()} <= {RED, GREEN, BLUE, BLACK}


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_area_is_the_mean_of_what_a_pixel_covers(factor: int) -> None:
    pixels = noise(4 * factor, 5 * factor)
    mean = pixels.reshape(4, factor, 5, factor, 3).mean((1, 3))
    # Pillow rounds after each of its two passes.
    assert np.abs(images.resize(pixels, 4, 5, "area") - mean).max() <= 1


def test_area_where_it_enlarges_goes_smoothly_from_pixel_to_pixel() -> None:
    edge = np.hstack([solid(BLACK, 1, 1), solid(WHITE, 1, 1)])
    row = images.resize(edge, 1, 8, "area")[0, :, 0].astype(int)
    assert (np.diff(row) >= 0).all()
    assert len(set(row.tolist())) > 2


def test_methods_differ_so_that_the_choice_means_something() -> None:
    resized = [images.resize(noise(30, 30), 8, 8, method) for method in ("nearest", "area", "bicubic")]
    assert not any(np.array_equal(a, b) for a, b in zip(resized, [*resized[1:], resized[0]], strict=True))


# --- arranging ---------------------------------------------------------------------------------------

CELLS = [[(200, 0, 0), (0, 200, 0), (0, 0, 200)], [(200, 200, 0), (0, 200, 200), (200, 0, 200)]]


def place(grid: Pixels, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Where a colour lies: top, left, height, width; it fills that rectangle."""
    rows, columns = np.nonzero((grid == color).all(2))
    top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    assert len(rows) == (bottom - top) * (right - left)
    return int(top), int(left), int(bottom - top), int(right - left)


@pytest.mark.parametrize(("cell_px", "shown_px"), [(32, 192), (64, 192), (128, 256), (256, 256), (500, 500)])
@pytest.mark.parametrize("title", ["", "validation after epoch 1"])
def test_a_grid_shows_every_image_in_its_row_and_column(cell_px: int, shown_px: int, title: str) -> None:
    rows = [[solid(color, cell_px, cell_px) for color in row] for row in CELLS]
    grid = images.labelled_grid(["input", "target", "output"], rows, ["one", "two"], title)
    top = 44 if title else 22
    assert grid.shape[0] == top + 2 * (shown_px + 6)
    first_left = place(grid, CELLS[0][0])[1]
    assert grid.shape[1] == first_left + 3 * (shown_px + 6)
    for row, colors in enumerate(CELLS):
        for column, color in enumerate(colors):
            at = (top + row * (shown_px + 6), first_left + column * (shown_px + 6))
            assert place(grid, color) == (*at, shown_px, shown_px)


def test_a_grid_has_headings_above_and_names_beside_its_images() -> None:
    rows = [[solid(RED, 192, 192), solid(GREEN, 192, 192)]]
    grid = images.labelled_grid(["input", "target"], rows, ["0001"])
    _, left, _, _ = place(grid, RED)
    ink = np.all(grid < 128, axis=2)
    for column in (0, 1):
        start = left + column * 198
        assert ink[:22, start : start + 192].any()
    assert ink[22:, :left].any()
    blank = images.labelled_grid(["", ""], rows, [""])
    assert not np.all(blank < 128, axis=2).any()


def test_a_name_of_two_lines_takes_no_more_width_than_its_longer_line() -> None:
    rows = [[solid(RED, 64, 64)]]
    one, two = (images.labelled_grid(["input"], rows, [name]) for name in ("0001", "0001\n0041"))
    assert one.shape == two.shape
    assert not np.array_equal(one, two)


def test_images_that_are_not_square_keep_their_shape() -> None:
    grid = images.labelled_grid(["input"], [[solid(RED, 32, 96)]], [""])
    assert place(grid, RED)[2:] == (64, 192)


def test_every_row_needs_its_name() -> None:
    with pytest.raises(ValueError, match="zip"):
        images.labelled_grid(["input"], [[solid(RED)], [solid(RED)]], ["one"])


def test_a_saved_picture_is_the_picture_and_nothing_beside_it(tmp_path: Path) -> None:
    pixels = noise(6, 9)
    images.save_picture(tmp_path / "reports" / "a.png", pixels)
    assert np.array_equal(images.read_rgb(tmp_path / "reports" / "a.png"), pixels)
    assert [file.name for file in (tmp_path / "reports").iterdir()] == ["a.png"]


def test_names_with_other_letters_than_english_ones_are_drawn() -> None:
    pytest.importorskip("matplotlib", reason="its font has the letters")
    cell = np.zeros((64, 64, 3), np.uint8)
    drawn = [images.labelled_grid(["a"], [[cell]], [name]) for name in ("ü", "é", "я", "\uffff")]
    assert all((one[:, :20] != drawn[-1][:, :20]).any() for one in drawn[:-1])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("method", ["area", "bicubic"])
def test_what_is_transparent_lends_no_colour_to_what_is_seen(dtype: str, method: str) -> None:
    full = 1 if dtype == "float32" else np.iinfo(dtype).max
    pixels = np.zeros((12, 12, 4), dtype)
    pixels[:, :5] = (full, 0, 0, full)
    # Hidden.
    pixels[:, 5:] = (0, full, 0, 0)
    resized = images.resize(pixels, 4, 4, method, has_alpha=True)
    assert resized.dtype == dtype and resized.shape == (4, 4, 4)
    assert np.allclose(resized[:, :2, :3], (full, 0, 0), atol=full / 1000)
    assert np.array_equal(resized[..., 3], images.resize(pixels, 4, 4, method)[..., 3])
    assert 0 < resized[0, 1, 3] < full
    assert np.array_equal(resized[:, 3, :3], np.broadcast_to(pixels[0, 11, :3], (4, 3)))
    assert images.resize(pixels, 4, 4, method)[0, 1, 1] > 0


def test_a_text_panel_is_as_large_as_its_words() -> None:
    small, large = images.text_panel("a", ["b"]), images.text_panel("a", ["b", "c" * 80])
    assert small.shape[0] < large.shape[0] and small.shape[1] < large.shape[1]
    assert small.min() < 100
