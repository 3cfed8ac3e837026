"""Decoding: every usual kind of image as a person sees it, in its own depth; bombs refused in time."""

import os
import struct
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from pix2pix import images
from pix2pix.decoding import Kind, Limits, Samples, UnreadableImage, decode, decode_classes, probe
from pix2pix.errors import UserError

RED, WHITE16 = (255, 0, 0), 65535
MB = 1_000_000


def samples(channels: int, dtype: str = "uint16", height: int = 5, width: int = 7) -> Samples:
    values = np.random.default_rng(channels).random((height, width, channels))
    return (values * (1 if dtype == "float32" else np.iinfo(dtype).max)).astype(dtype)


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(width: int, height: int, bits: int, colour: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def tiff(
    width: int,
    height: int,
    data: bytes,
    *,
    strips: int = 1,
    bits: int = 16,
    channels: int = 1,
    compression: int = 8,
) -> bytes:
    """A grey TIFF made by hand, deflated if nothing is said, all of whose strips are the same bytes."""
    rows = -(-height // strips)

    def build(offset: int) -> bytes:
        tags = [
            (256, "I", [width]),
            (257, "I", [height]),
            (258, "H", [bits] * channels),
            (259, "H", [compression]),
            (262, "H", [1]),
            (273, "I", [offset] * strips),
            (277, "H", [channels]),
            (278, "I", [rows]),
            (279, "I", [len(data)] * strips),
        ]
        entries, beside, at = b"", b"", 8 + 2 + 12 * len(tags) + 4
        for tag, kind, values in tags:
            packed = struct.pack(f"<{len(values)}{kind}", *values)
            place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", at + len(beside))
            beside += packed if len(packed) > 4 else b""
            entries += struct.pack("<HHI", tag, {"H": 3, "I": 4}[kind], len(values)) + place
        return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + beside

    return build(len(build(0))) + data


@cache
def zeros(megabytes: int) -> bytes:
    """So many megabytes of zeros, deflated to a thousandth."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(MB)) for _ in range(megabytes)) + packer.flush()


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(UnreadableImage) as refused:
        decode(path, **options)
    line = str(refused.value)
    assert str(path.parent) not in line
    assert "\n" not in line
    return line


# --- read for what they are --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 12])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_what_a_file_can_hold_comes_back_bit_for_bit(
    tmp_path: Path, suffix: str, channels: int, dtype: str
) -> None:
    file, written = tmp_path / f"a{suffix}", samples(channels, dtype)
    if suffix == ".png" and images.lossless_suffix(channels, dtype) != ".png":
        with pytest.raises(ValueError, match="not for a PNG"):
            images.write_image(file, written)
        return
    images.write_image(file, written)
    read = decode(file, "keep")
    assert (read.dtype, read.shape) == (written.dtype, written.shape)
    assert np.array_equal(read, written)
    kind = probe(file)
    has_alpha = suffix == ".png" and channels in (2, 4)
    assert kind == Kind(5, 7, channels - has_alpha, dtype, has_alpha)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_a_16_bit_png_made_by_hand_keeps_all_16_bits(tmp_path: Path, colour: int, channels: int) -> None:
    pixels = samples(channels)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    (tmp_path / "a.png").write_bytes(png(7, 5, 16, colour, chunk(b"IDAT", zlib.compress(rows))))
    assert np.array_equal(decode(tmp_path / "a.png", "keep"), pixels)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits"])
@pytest.mark.parametrize("layout", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_tiffs_of_every_inner_order_are_the_same_image(
    tmp_path: Path, compression: str | None, layout: str, tile: tuple[int, int] | None
) -> None:
    pixels = samples(3, height=20, width=33)
    stored = pixels if layout == "contig" else np.moveaxis(pixels, 2, 0)
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="rgb", planarconfig=layout, compression=compression, tile=tile
    )
    assert np.array_equal(decode(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float16", "float64"])
@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_other_numbers_come_as_floats_of_the_same_value(tmp_path: Path, suffix: str, dtype: str) -> None:
    values = (np.arange(35).reshape(5, 7) - 10).astype(dtype)
    if suffix == ".tif":
        tifffile.imwrite(tmp_path / "a.tif", values)
    else:
        np.save(tmp_path / "a.npy", values)
    read = decode(tmp_path / f"a{suffix}")
    assert read.dtype == np.float32
    assert np.array_equal(read[..., 0], values)
    assert probe(tmp_path / f"a{suffix}").dtype == "float32"


def test_white_of_12_bits_is_white(tmp_path: Path) -> None:
    rows = b"\xff\xf0\x00\x80\x00\x00"  # 4095, 0, 2048 and padding
    file = tmp_path / "a.tif"
    file.write_bytes(tiff(4, 1, zlib.compress(rows), bits=12))
    assert decode(file)[0, :3, 0].tolist() == [WHITE16, 0, round(2048 * WHITE16 / 4095)]


def test_ink_and_inverted_grey_of_16_bits_are_what_a_person_sees(tmp_path: Path) -> None:
    ink = np.array([[[0, WHITE16, WHITE16, 0], [0, 0, 0, WHITE16]]], np.uint16)
    tifffile.imwrite(tmp_path / "cmyk.tif", ink, photometric="separated")
    assert decode(tmp_path / "cmyk.tif").tolist() == [[[WHITE16, 0, 0], [0, 0, 0]]]
    tifffile.imwrite(tmp_path / "w.tif", np.array([[0, 1000]], np.uint16), photometric="miniswhite")
    assert decode(tmp_path / "w.tif")[..., 0].tolist() == [[WHITE16, WHITE16 - 1000]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_deep_images_are_turned_upright_as_pillow_turns_the_others(
    tmp_path: Path, orientation: int, dtype: str
) -> None:
    pixels = samples(3, dtype)
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=[tag])
    plain, exif = (
        Image.fromarray((pixels >> 8 if dtype == "uint16" else pixels).astype(np.uint8)),
        Image.Exif(),
    )
    exif[274] = orientation
    plain.save(tmp_path / "b.png", exif=exif)
    expected, read = decode(tmp_path / "b.png"), decode(tmp_path / "a.tif")
    assert np.array_equal(read >> 8 if dtype == "uint16" else read, expected)
    assert (probe(tmp_path / "a.tif").height, probe(tmp_path / "b.png").width) == expected.shape[:2]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_alpha_is_laid_on_white_or_black_or_kept(tmp_path: Path, dtype: str) -> None:
    full = np.iinfo(dtype).max
    images.write_image(tmp_path / "a.png", np.array([[[full, 0, 0, full // 5], [0, 0, 0, 0]]], dtype))
    white, black, kept = (decode(tmp_path / "a.png", alpha) for alpha in ("white", "black", "keep"))
    assert white.tolist() == [[[full, full // 5 * 4, full // 5 * 4], [full, full, full]]]
    assert black.tolist() == [[[full // 5, 0, 0], [0, 0, 0]]]
    assert kept.shape == (1, 2, 4)
    images.write_image(tmp_path / "g.png", np.array([[[full, full // 5]]], dtype))
    assert decode(tmp_path / "g.png", "black").tolist() == [[[full // 5]]]
    assert decode(tmp_path / "g.png", "keep").tolist() == [[[full, full // 5]]]


def test_a_fourth_channel_that_is_no_alpha_is_a_channel(tmp_path: Path) -> None:
    for dtype in ("uint8", "uint16"):
        pixels = samples(4, dtype)
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unspecified"])
        assert np.array_equal(decode(tmp_path / "a.tif"), pixels)
        pairs = samples(2, dtype)
        tifffile.imwrite(tmp_path / "b.tif", pairs, photometric="minisblack", planarconfig="contig")
        assert np.array_equal(decode(tmp_path / "b.tif"), pairs)


def test_alpha_that_colours_were_multiplied_by_is_divided_out(tmp_path: Path) -> None:
    stored = np.array([[[13_107, 0, 0, WHITE16 // 5 * 2]]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    assert decode(tmp_path / "a.tif", "keep").tolist() == [[[32768, 0, 0, 26214]]]


def adobe_to_srgb(colour: tuple[int, int, int]) -> np.ndarray:
    """By the formulas: Adobe RGB (1998), 4.3.4, and IEC 61966-2-1; both have the white D65."""
    linear = (np.array(colour) / 255) ** (563 / 256)
    to_xyz = [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    from_xyz = [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    linear = np.clip(np.array(from_xyz) @ np.array(to_xyz) @ linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255


@pytest.mark.parametrize("colour", [(200, 100, 50), (60, 120, 200), (128, 128, 128), (90, 140, 90)])
def test_an_embedded_profile_gives_the_colours_that_a_person_sees(
    tmp_path: Path, colour: tuple[int, int, int]
) -> None:
    profile, seen = imagecodecs.cms_profile("adobergb"), adobe_to_srgb(colour)
    Image.new("RGB", (2, 2), colour).save(tmp_path / "a.png", icc_profile=profile)
    assert np.abs(decode(tmp_path / "a.png")[0, 0] - seen).max() <= 1.5
    Image.new("RGBA", (2, 2), (*colour, 128)).save(tmp_path / "t.png", icc_profile=profile)
    kept = decode(tmp_path / "t.png", "keep")[0, 0]
    assert np.abs(kept[:3] - seen).max() <= 1.5
    assert kept[3] == 128
    deep = np.full((2, 2, 3), colour, np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", iccprofile=profile)
    assert np.abs(decode(tmp_path / "a.tif")[0, 0] / 257 - seen).max() <= 1
    coded = imagecodecs.png_encode(deep)
    coded = coded[:33] + chunk(b"iCCP", b"a\0\0" + zlib.compress(profile)) + coded[33:]
    (tmp_path / "d.png").write_bytes(coded)
    assert np.array_equal(decode(tmp_path / "d.png"), decode(tmp_path / "a.tif"))


def test_a_profile_that_is_srgb_or_broken_changes_no_bit(tmp_path: Path) -> None:
    pixels = samples(3, "uint8")
    for profile in (imagecodecs.cms_profile("srgb"), b"no profile", b""):
        Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
        assert np.array_equal(decode(tmp_path / "a.png"), pixels)


def test_grey_with_a_profile_of_its_own_stays_grey(tmp_path: Path) -> None:
    profile = imagecodecs.cms_profile("gray", gamma=1.0)
    Image.new("L", (2, 2), 55).save(tmp_path / "a.png", icc_profile=profile)
    read = decode(tmp_path / "a.png")
    assert read.shape == (2, 2, 1)
    # Linear 55/255 is 0.503 in sRGB.
    assert abs(int(read[0, 0, 0]) - 128) <= 1
    Image.new("LA", (2, 2), (55, 99)).save(tmp_path / "t.png", icc_profile=profile)
    assert decode(tmp_path / "t.png", "keep")[0, 0].tolist() == [read[0, 0, 0], 99]


@pytest.mark.parametrize("truth", [".png", ".tif", ".npy", ".jpg", ".webp", ".bmp"])
def test_a_suffix_that_lies_is_not_believed(tmp_path: Path, truth: str) -> None:
    images.write_image(tmp_path / f"a{truth}", samples(3, "uint8", 16, 16))
    expected = decode(tmp_path / f"a{truth}")
    lie = tmp_path / ("b.png" if truth != ".png" else "b.jpg")
    (tmp_path / f"a{truth}").rename(lie)
    assert np.array_equal(decode(lie), expected)


# --- class indices -----------------------------------------------------------------------------------


def test_class_indices_are_read_from_grey_palettes_and_arrays(tmp_path: Path) -> None:
    indices = np.arange(20, dtype=np.uint8).reshape(4, 5)
    palette = Image.fromarray(indices, "P")
    palette.putpalette([*RED] * 256)
    palette.save(tmp_path / "p.png")
    Image.fromarray(indices).save(tmp_path / "l.png")
    Image.fromarray(indices.astype(np.uint16)).save(tmp_path / "d.png")
    tifffile.imwrite(tmp_path / "t.tif", indices.astype(np.int32))
    np.save(tmp_path / "n.npy", indices.astype(np.int64))
    for name in ("p.png", "l.png", "d.png", "t.tif", "n.npy"):
        read = decode_classes(tmp_path / name, 20)
        assert read.dtype == np.uint8
        assert np.array_equal(read[..., 0], indices), name
    assert decode_classes(tmp_path / "n.npy", 300).dtype == np.uint16
    with pytest.raises(
        UnreadableImage, match=r"the class index 19, but prepare\.classes = 19 allows 0 to 18"
    ):
        decode_classes(tmp_path / "l.png", 19)
    np.save(tmp_path / "n.npy", -indices.astype(np.int64))
    with pytest.raises(UnreadableImage, match="the class index -19"):
        decode_classes(tmp_path / "n.npy", 20)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_indices_of_few_bits_are_those_that_are_stored(tmp_path: Path, bits: int) -> None:
    row = bytes([0]) + bytes([0b00011011] * bits)
    (tmp_path / "a.png").write_bytes(png(8, 2, bits, 0, chunk(b"IDAT", zlib.compress(row * 2))))
    stored = {1: [0, 0, 0, 1, 1, 0, 1, 1], 2: [0, 1, 2, 3] * 2, 4: [1, 11] * 4}[bits]
    assert decode_classes(tmp_path / "a.png", 2**bits)[..., 0].tolist() == [stored] * 2


def test_what_holds_colours_or_fractions_is_no_map_of_classes(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.zeros((2, 2), np.float32))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 2, 3), np.uint16), photometric="rgb")
    for name, said in (("a.png", "has colours"), ("a.npy", "of float32"), ("a.tif", "3 channels of uint16")):
        with pytest.raises(UnreadableImage, match=said):
            decode_classes(tmp_path / name, 5)


# --- refused by name ---------------------------------------------------------------------------------


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        np.save(tmp_path / "a.npy", np.full((2, 2), value, np.float32))
        assert refusal(tmp_path / "a.npy") == "holds NaN or infinite values; fill them in"
    np.save(tmp_path / "a.npy", np.full((2, 2), 1e300))
    assert refusal(tmp_path / "a.npy") == "holds NaN or infinite values; fill them in"
    np.save(tmp_path / "a.npy", np.full((2, 2), 2**40))
    assert refusal(tmp_path / "a.npy").startswith("holds int64 values beyond ±16,777,216")
    np.save(tmp_path / "a.npy", np.full((2, 2), 1j))
    assert refusal(tmp_path / "a.npy") == "holds complex128 values, which are no samples of an image"


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_an_array_of_the_other_byte_order_is_the_same_image(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", samples(3, dtype).astype(np.dtype(dtype).newbyteorder(">")))
    read = decode(tmp_path / "a.npy")
    assert read.dtype == dtype and np.array_equal(read, samples(3, dtype))
    assert probe(tmp_path / "a.npy") == Kind(5, 7, 3, dtype)


def test_an_array_is_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    np.save(tmp_path / "a.npy", np.array([[Bomb()]]), allow_pickle=True)
    assert "Python objects" in refusal(tmp_path / "a.npy")
    assert not (tmp_path / "exploded").exists()


def test_shapes_that_are_no_image_are_refused(tmp_path: Path) -> None:
    expected = "expected [height, width] or [height, width, channels]"
    for shape, said in (
        ((4,), f"has the shape (4,); {expected}"),
        ((2, 2, 2, 2), f"has the shape (2, 2, 2, 2); {expected}"),
        ((0, 4), "holds no pixels"),
        ((4, 4, 0), "holds no pixels"),
        (
            (3, 64, 64),
            "has the shape (3, 64, 64), which looks like [channels, height, width]; save it as "
            "[height, width, channels]",
        ),
    ):
        np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
        assert refusal(tmp_path / "a.npy") == said


def test_a_tiff_of_several_pages_is_refused_but_a_thumbnail_is_no_page(tmp_path: Path) -> None:
    for dtype in ("uint8", "uint16"):
        page = samples(3, dtype)
        tifffile.imwrite(tmp_path / "a.tif", np.stack([page, page]), photometric="rgb")
        assert refusal(tmp_path / "a.tif").startswith("has several pages")
        with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
            writer.write(page, photometric="rgb")
            writer.write(page[:2, :2], photometric="rgb", subfiletype=1)
        assert np.array_equal(decode(tmp_path / "b.tif"), page)


def test_a_script_that_is_called_an_image_is_not_run(tmp_path: Path) -> None:
    """Pillow would hand EPS to Ghostscript."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    assert refusal(tmp_path / "a.png") == "does not decode (cannot identify image file)"


def test_a_pipe_called_like_an_image_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert refusal(tmp_path / "a.png") == "is not a regular file"


def test_a_file_or_an_image_beyond_the_limits_is_refused(tmp_path: Path) -> None:
    images.write_image(tmp_path / "a.npy", samples(1, "float32", 600, 500))
    assert refusal(tmp_path / "a.npy", limits=Limits(max_file_mb=1)) == (
        "has 1.3 MB, more than prepare.max_file_mb = 1 allows"
    )
    for suffix in (".png", ".tif", ".npy", ".jpg", ".webp", ".bmp"):
        file = tmp_path / f"a{suffix}"
        images.write_image(file, samples(3, "uint8", 40, 50))
        assert decode(file, limits=Limits(max_pixels=2000)).shape == (40, 50, 3)
        for read in (decode, probe):
            with pytest.raises(
                UnreadableImage, match=r"claims 50×40 px, more than prepare\.max_pixels = 1,999"
            ):
                read(file, limits=Limits(max_pixels=1999))
    images.write_image(tmp_path / "a.tif", samples(12, "uint8", 10, 10))
    assert refusal(tmp_path / "a.tif", limits=Limits(max_pixels=299)).startswith(
        "claims 10×10 px of 12 channels"
    )


BOMBS = {
    "png": ("a.png", lambda: png(20_000, 20_000, 8, 2, chunk(b"IDAT", zeros(500))), "claims 20,000×20,000"),
    "16-bit png": ("a.png", lambda: png(20_000, 20_000, 16, 2, chunk(b"IDAT", zeros(500))), "claims"),
    "png longer than it says": (
        "a.png",
        lambda: png(100, 100, 16, 2, chunk(b"IDAT", zeros(500))),
        "holds more pixels than its header says",
    ),
    "text in a png": ("a.png", lambda: png(4, 4, 16, 2, chunk(b"zTXt", b"a\0\0" + zeros(500))), "too large"),
    "tiff": ("a.tif", lambda: tiff(60_000, 60_000, zeros(500)), "claims 60,000×60,000 px"),
    "8-bit tiff": ("a.tif", lambda: tiff(60_000, 60_000, zeros(500), bits=8), "claims 60,000×60,000 px"),
    "channels of a tiff": ("a.tif", lambda: tiff(6000, 6000, zeros(9), channels=20_000), "20000 channels"),
    "strip of a tiff": ("a.tif", lambda: tiff(100, 100, zeros(500)), "does not decode"),
    "strips of a tiff": (
        "a.tif",
        lambda: tiff(10, 2_000_000, zlib.compress(bytes(20)), strips=2_000_000),
        "is cut into 2,000,000 pieces",
    ),
    "npy": (
        "a.npy",
        lambda: (
            b"\x93NUMPY\x01\0"
            + struct.pack("<H", 77)
            + b"{'descr': '<f4', 'fortran_order': False, 'shape': (900000, 900000), }".ljust(76)
            + b"\n"
        ),
        "does not decode",
    ),
    "webp": (
        "a.webp",
        lambda: b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + (16382).to_bytes(3, "little") * 2,
        "does not decode",
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_decompression_bomb_is_refused_in_bounded_memory_and_time(tmp_path: Path, bomb: str) -> None:
    name, make, said = BOMBS[bomb]
    (tmp_path / name).write_bytes(make())
    # In a process of its own, which may have no more memory than a small image needs.
    code = """
import resource, sys
from pathlib import Path
import imagecodecs, tifffile, numpy
from pix2pix.decoding import UnreadableImage, decode
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)
try:
    decode(Path(sys.argv[1]))
except UnreadableImage as refused:
    print(refused)
"""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert said in done.stdout
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    ("name", "number", "encode"),
    [
        ("JPEG2000", 34712, imagecodecs.jpeg2k_encode),
        ("PNG", 34933, imagecodecs.png_encode),
        ("JPEGXL", 50002, imagecodecs.jpegxl_encode),
        ("JPEGXR", 34934, imagecodecs.jpegxr_encode),
        ("WEBP", 50001, lambda grey: imagecodecs.webp_encode(np.zeros((*grey.shape, 3), np.uint8))),
        ("LERC", 34887, imagecodecs.lerc_encode),
        ("JPEG", 7, lambda grey: imagecodecs.jpeg8_encode(grey.astype(np.uint8))),
        ("12345", 12345, lambda grey: b"a code of somebody's own"),
    ],
)
def test_a_tiff_whose_compression_brings_a_size_of_its_own_is_refused_by_name(
    tmp_path: Path, name: str, number: int, encode: Callable[[Samples], bytes]
) -> None:
    inner = encode(np.zeros((400, 400), np.uint16))
    file = tmp_path / "a.tif"
    file.write_bytes(tiff(16, 16, inner, compression=number))
    for read in (decode, probe):
        with pytest.raises(UnreadableImage) as refused:
            read(file, limits=Limits(max_pixels=1000))
        assert str(refused.value) == (
            f"is compressed as {name}, which may hold more pixels than the file says; save it with LZW, "
            "deflate or no compression"
        )


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "lzma", "zstd", None])
def test_compressions_that_stay_within_the_size_of_the_file_are_read(
    tmp_path: Path, compression: str | None
) -> None:
    deep = samples(3)
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", compression=compression)
    assert np.array_equal(decode(tmp_path / "a.tif"), deep)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_damaged_deep_images_give_samples_or_a_reason(tmp_path: Path, suffix: str) -> None:
    file, chance = tmp_path / f"a{suffix}", np.random.default_rng(1)
    images.write_image(file, samples(3, "uint16", 24, 40))
    whole, refused = file.read_bytes(), 0
    for _ in range(150):
        damaged = bytearray(whole)
        for at in chance.integers(0, [60, 200, len(whole)][chance.integers(3)], chance.integers(1, 9)):
            damaged[at] = chance.integers(256)
        file.write_bytes(damaged[: chance.integers(1, len(damaged))] if chance.random() < 0.2 else damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert decode(file, limits=Limits(max_pixels=10_000)).ndim == 3
            except UnreadableImage:
                refused += 1
    assert refused


def test_without_the_libraries_for_deep_images_the_line_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.write_image(tmp_path / "a.tif", samples(3))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match=r"a\.tif: needs the package tifffile; install it"):
        decode(tmp_path / "a.tif")


def test_plain_images_need_neither_of_them(tmp_path: Path) -> None:
    images.write_image(tmp_path / "a.png", samples(3, "uint8"))
    code = (
        "import sys, pathlib; from pix2pix import images; images.read_rgb(pathlib.Path(sys.argv[1]));"
        "sys.exit('tifffile' in sys.modules or 'imagecodecs' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "a.png"], check=False).returncode == 0


def test_a_jpeg_of_a_thousand_scans_is_refused_and_one_of_ten_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture = Image.fromarray(samples(3, "uint8", 64, 64))
    picture.save(path, progressive=True)
    assert decode(path).shape == (64, 64, 3)
    content = path.read_bytes()
    last, end = content.rindex(b"\xff\xda"), len(content) - 2
    path.write_bytes(content[:last] + content[last:end] * 1000 + content[end:])
    with pytest.raises(UnreadableImage, match=r"is a JPEG of 1,009 scans; save it again"):
        decode(path)
