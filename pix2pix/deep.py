"""What Pillow cannot decode: PNG and TIFF of 16 bits, floats, any number of channels; NumPy's .npy.

TIFF and PNG are read with tifffile and imagecodecs, of one author: of the well-kept libraries the only ones
that read 16-bit colour, floats and any number of channels. They are loaded only where such a file is met.
"""

import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageFile

from . import profiles
from .decoding import (
    ON_ITS_SIDE,
    ORIENTATION,
    SAMPLES_A_PIXEL,
    Kind,
    Limits,
    Samples,
    UnreadableImage,
    refuse_pages,
    upright,
)

# An array of so many channels and of no more rows than an image has channels has them in another order.
MANY_CHANNELS = 16
# Each strip or tile is a step in Python; this many are a few seconds.
MAX_SEGMENTS = 100_000
ASSOCIATED, UNASSOCIATED = 1, 2
MIN_IS_WHITE, MIN_IS_BLACK, RGB, SEPARATED = 0, 1, 2, 5
ICC_PROFILE = 34675
# Compressions that tifffile gives no more room than a strip or tile takes: none, LZW, deflate (three numbers
# for it), PackBits, LZMA and Zstandard (two). The others decode whatever their own header claims.
BOUNDED = frozenset({1, 5, 8, 32946, 50013, 32773, 34925, 34926, 50000})
PNG_SIGNATURE, INFLATED_AT_ONCE = b"\x89PNG\r\n\x1a\n", 2**20

# It reports what is odd about a file; what matters of that is an error of ours.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


# --- PNG ---------------------------------------------------------------------------------------------


def decode_png(path: Path, opened: ImageFile.ImageFile) -> tuple[Samples, bool]:
    """A 16-bit PNG that Pillow has opened and measured: uint16 [height, width, channels]; has it alpha?"""
    import imagecodecs

    orientation = opened.getexif().get(ORIENTATION, 1)
    has_alpha = opened.has_transparency_data
    content = path.read_bytes()
    _refuse_surplus(content, opened.height, opened.width)
    samples: Samples = imagecodecs.png_decode(content)
    samples = samples.reshape(*samples.shape[:2], -1)
    if samples.dtype != np.uint16:
        raise UnreadableImage(f"does not decode (its header says 16 bits, its pixels {samples.dtype})")
    if profile := opened.info.get("icc_profile"):
        samples = _in_srgb(samples, has_alpha, profile)
    return upright(samples, orientation), has_alpha


def _refuse_surplus(png: bytes, height: int, width: int) -> None:
    """The decoder would inflate all that follows the last pixel, a thousand bytes for each in the file."""
    # Eight bytes are the most for a pixel; a byte before each row, of which an interlaced image has more.
    left = 8 * height * width + 8 * (height + width)
    inflater = zlib.decompressobj()
    position = len(PNG_SIGNATURE)
    while position + 8 <= len(png) and not inflater.eof:
        length, kind = struct.unpack_from(">I4s", png, position)
        pending = png[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
        while pending and not inflater.eof:
            left -= len(inflater.decompress(pending, INFLATED_AT_ONCE))
            if left < 0:
                raise UnreadableImage("holds more pixels than its header says")
            pending = inflater.unconsumed_tail
        position += length + 12


def _in_srgb(samples: Samples, has_alpha: bool, profile: bytes) -> Samples:
    if not has_alpha:
        return profiles.deep_to_srgb(samples, profile)
    return np.concatenate([profiles.deep_to_srgb(samples[..., :-1], profile), samples[..., -1:]], 2)


# --- NumPy -------------------------------------------------------------------------------------------


def _open_npy(path: Path, limits: Limits) -> Samples:
    # Mapped, so that the shape is known, and compared with the file's length, before anything is read.
    array: Samples = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim not in (2, 3):
        raise UnreadableImage(
            f"has the shape {array.shape}; expected [height, width] or [height, width, channels]"
        )
    if array.ndim == 3 and array.shape[0] <= SAMPLES_A_PIXEL < MANY_CHANNELS <= array.shape[2]:
        raise UnreadableImage(
            f"has the shape {array.shape}, which looks like [channels, height, width]; save it as "
            "[height, width, channels]"
        )
    array = array.reshape(*array.shape[:2], -1) if array.size else array
    limits.check_pixels(*array.shape)
    return array


def probe_npy(path: Path, limits: Limits) -> Kind:
    """See `decoding.probe`."""
    array = _open_npy(path, limits)
    height, width, channels = array.shape
    return Kind(height, width, channels, _known_type(array.dtype))


def decode_npy(path: Path, limits: Limits) -> Samples:
    """The array as it is stored, never unpickled: [height, width, channels]."""
    array = _open_npy(path, limits)
    return np.array(array, array.dtype.newbyteorder("="))


def _known_type(dtype: Any) -> str:
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype in (np.uint8, np.uint16, bool):
        return "uint16" if dtype == np.uint16 else "uint8"
    return "float32"


# --- TIFF --------------------------------------------------------------------------------------------


def probe_tiff(path: Path, limits: Limits) -> Kind:
    """See `decoding.probe`."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = _checked_page(file, limits)
        channels = 3 if page.photometric == SEPARATED else page.samplesperpixel
        has_alpha = _has_alpha(page)
        dtype = "uint16" if 8 < page.bitspersample < 16 else _known_type(page.dtype)
        height, width = page.imagelength, page.imagewidth
        if _orientation(page) in ON_ITS_SIDE:
            height, width = width, height
        return Kind(height, width, channels - has_alpha, dtype, has_alpha)


def decode_tiff(path: Path, limits: Limits) -> tuple[Samples, bool]:
    """The first page, white is bright and CMYK is RGB: [height, width, channels]; has it alpha?"""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = _checked_page(file, limits)
        # One worker: prepare has one for each core already.
        samples: Samples = page.asarray(maxworkers=1)
        planes_first = page.axes.startswith("S")
        samples = np.moveaxis(samples, 0, -1) if planes_first else samples
        samples = samples.reshape(page.imagelength, page.imagewidth, -1)
        photometric, has_alpha, bits = page.photometric, _has_alpha(page), page.bitspersample
        is_premultiplied = has_alpha and page.extrasamples[0] == ASSOCIATED
        orientation = _orientation(page)
        profile = page.tags[ICC_PROFILE].value if ICC_PROFILE in page.tags else None
    if samples.dtype.kind == "u" and bits < 8 * samples.dtype.itemsize:
        # 12 bits in 16, say: its white is 4095.
        full = np.iinfo(samples.dtype).max
        samples = (samples * (full / (2**bits - 1))).round().astype(samples.dtype)
    if photometric == MIN_IS_WHITE and samples.dtype.kind == "u":
        samples = np.iinfo(samples.dtype).max - samples
    if photometric == SEPARATED:
        samples = _rgb_of_ink(samples)
    if is_premultiplied:
        samples = _unpremultiplied(samples)
    if profile and samples.dtype == np.uint16:
        samples = _in_srgb(samples, has_alpha, profile)
    return upright(samples, orientation), has_alpha


def _checked_page(file: Any, limits: Limits) -> Any:
    page = file.pages[0]
    limits.check_pixels(page.imagelength, page.imagewidth, page.samplesperpixel)
    if page.compression not in BOUNDED:
        name = getattr(page.compression, "name", str(page.compression))
        raise UnreadableImage(
            f"is compressed as {name.replace('_', ' ')}, which may hold more pixels than the file says; save "
            "it with LZW, deflate or no compression"
        )
    if page.imagedepth != 1:
        raise UnreadableImage(f"holds a volume of {page.imagedepth} slices; save each as a file")
    if page.photometric not in (MIN_IS_WHITE, MIN_IS_BLACK, RGB, SEPARATED):
        name = getattr(page.photometric, "name", str(page.photometric))
        raise UnreadableImage(
            f"holds {name.replace('_', ' ')} values of {page.bitspersample} bits; save it as RGB"
        )
    if page.photometric == SEPARATED and (
        page.samplesperpixel != 4 or page.dtype not in (np.uint8, np.uint16)
    ):
        raise UnreadableImage(f"holds {page.samplesperpixel} inks; save it as RGB")
    if page.dtype is None:
        raise UnreadableImage(f"holds samples of {page.bitspersample} bits, which are of no known kind")
    if page.is_tiled:
        # A tile is decoded whole, however small the image.
        limits.check_pixels(page.tilelength, page.tilewidth, page.samplesperpixel)
    if len(page.dataoffsets) > MAX_SEGMENTS:
        raise UnreadableImage(f"is cut into {len(page.dataoffsets):,} pieces, more than {MAX_SEGMENTS:,}")
    try:
        second = file.pages[1]
    except IndexError:
        return page
    if not second.is_reduced:
        refuse_pages()
    return page


def _has_alpha(page: Any) -> bool:
    colours = {MIN_IS_WHITE: 1, MIN_IS_BLACK: 1, RGB: 3}.get(int(page.photometric))
    extra = tuple(page.extrasamples)
    return len(extra) == 1 and extra[0] in (ASSOCIATED, UNASSOCIATED) and page.samplesperpixel - 1 == colours


def _orientation(page: Any) -> int:
    tag = page.tags.get(ORIENTATION)
    return int(tag.value) if tag is not None else 1


def _rgb_of_ink(samples: Samples) -> Samples:
    """(1 − ink)·(1 − black), as Pillow has it for 8 bits."""
    full = np.iinfo(samples.dtype).max
    paper = 1 - samples.astype(np.float64) / full
    return (paper[..., :3] * paper[..., 3:] * full).round().astype(samples.dtype)


def _unpremultiplied(samples: Samples) -> Samples:
    """Colours that were stored multiplied by alpha; where nothing is seen, nothing is known: black."""
    is_float = samples.dtype.kind == "f"
    full = 1.0 if is_float else float(np.iinfo(samples.dtype).max)
    colours, alpha = samples[..., :-1].astype(np.float64), samples[..., -1:].astype(np.float64) / full
    divided = np.divide(colours, alpha, out=np.zeros_like(colours), where=alpha > 0)
    divided = divided if is_float else divided.clip(0, full).round()
    return np.concatenate([divided, samples[..., -1:]], 2).astype(samples.dtype)
