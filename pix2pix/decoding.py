"""Decoding: an image file of any usual kind → samples, upright and as a person sees it, within limits.

Files are told by their content, never by their suffix. Pillow decodes what has 8 bits a channel; `deep`
what it cannot: 16 bits, floats, any number of channels.
"""

import logging
import math
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from . import profiles
from .errors import UserError

Samples = NDArray[Any]
Alpha = Literal["white", "black", "keep"]

# Pillow may try no other: some of its readers start programs (EPS) or read other files.
FORMATS = ("PNG", "TIFF", "JPEG", "WEBP", "BMP")
NPY, TIFFS = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Modes that hold more than 8 bits a channel; turning them into RGB would silently throw detail away.
DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
DEEP_RAW_MODES = (";16B", ";16L", ";16N")
GREY_MODES = frozenset({"1", "L", "LA", "La"})
ORIENTATION, NEW_SUBFILE_TYPE, BITS_PER_SAMPLE, EXTRA_SAMPLES = 0x0112, 254, 258, 338
# How a stored image is turned upright, by the value of EXIF's Orientation.
UPRIGHT: dict[int, Callable[[Samples], Samples]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],
    7: lambda stored: stored.swapaxes(0, 1)[::-1, ::-1],
    8: lambda stored: stored.swapaxes(0, 1)[::-1],
}
ON_ITS_SIDE = range(5, 9)
# An image has few channels; this many samples a pixel are in proportion, more are counted as pixels.
SAMPLES_A_PIXEL = 4
# Encoders make about ten scans of a progressive JPEG, and each takes the time of the whole image.
JPEG_SCAN, MAX_SCANS = b"\xff\xda", 100
# Whole numbers that a 32-bit float holds exactly.
EXACT_IN_FLOAT32 = 2**24

# Each image is held against its own Limits here, before its pixels are decoded.
Image.MAX_IMAGE_PIXELS = None
# What it does not know it reports beside raising; `deep` may know it.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL + 1)


class UnreadableImage(UserError):
    """An image that cannot be used; the text says why and names no file."""


@dataclass(frozen=True)
class Limits:
    """What a file may claim before anything of it is decoded: pixels, and megabytes (10⁶) on disk."""

    max_pixels: int = 100_000_000
    max_file_mb: int = 512

    def check_file(self, bytes_: int) -> None:
        """Raises UnreadableImage where the file is larger."""
        if bytes_ > self.max_file_mb * 1_000_000:
            # Rounded up, so that the number is above the limit.
            found_mb = math.ceil(bytes_ / 1e5) / 10
            raise UnreadableImage(
                f"has {found_mb:,.1f} MB, more than prepare.max_file_mb = {self.max_file_mb} allows"
            )

    def check_pixels(self, height: int, width: int, channels: int = SAMPLES_A_PIXEL) -> None:
        """Raises UnreadableImage where the image has no pixels or more, or too many channels for its size."""
        if height < 1 or width < 1 or channels < 1:
            raise UnreadableImage("holds no pixels")
        pixels = max(height * width, height * width * channels // SAMPLES_A_PIXEL)
        if pixels > self.max_pixels:
            many = f" of {channels} channels" if channels > SAMPLES_A_PIXEL else ""
            raise UnreadableImage(
                f"claims {width:,}×{height:,} px{many}, more than prepare.max_pixels = "
                f"{self.max_pixels:,} allows"
            )


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Kind:
    """What `decode` will give, told from the header.

    Attributes:
        channels: without alpha, where that is transparency.
        dtype: uint8, uint16 or float32.
        has_alpha: whether there is transparency to keep or to composite.
    """

    height: int
    width: int
    channels: int
    dtype: str
    has_alpha: bool = False


def probe(path: Path, limits: Limits = DEFAULT_LIMITS) -> Kind:
    """Read a header.

    Raises:
        UnreadableImage: it is no image of a known kind, or beyond the limits.
    """
    from . import deep

    with _open(path, limits) as opened:
        if not isinstance(opened, ImageFile.ImageFile):
            kind = deep.probe_npy(path, limits) if opened == "npy" else deep.probe_tiff(path, limits)
            return kind
        channels = 1 if _is_grey(opened) else 3
        dtype = "uint16" if _is_deep(opened) else "uint8"
        width, height = opened.size
        # Of a TIFF Pillow gives the size as it will be.
        if opened.format != "TIFF" and _orientation(opened) in ON_ITS_SIDE:
            height, width = width, height
        return Kind(height, width, channels, dtype, opened.has_transparency_data)


def decode(path: Path, alpha: Alpha = "white", limits: Limits = DEFAULT_LIMITS) -> Samples:
    """Decode an image as a person sees it: upright, palettes, CMYK and embedded profiles as sRGB.

    Args:
        alpha: white or black lays transparency on that colour; keep makes it the last channel.

    Returns:
        uint8, uint16 or float32 [height, width, channels]; grey has one channel. Whole numbers of other
        kinds come as float32.

    Raises:
        UnreadableImage: it does not decode, is beyond the limits, or holds values that are no numbers.
    """
    from . import deep

    with _open(path, limits) as opened:
        if isinstance(opened, ImageFile.ImageFile) and not _is_deep(opened):
            return _decode_8_bits(opened, alpha)
        if isinstance(opened, ImageFile.ImageFile):
            samples, has_alpha = deep.decode_png(path, opened)
        elif opened == "npy":
            samples, has_alpha = deep.decode_npy(path, limits), False
        else:
            samples, has_alpha = deep.decode_tiff(path, limits)
        samples = _as_known_type(samples)
        return lay_on(samples, alpha) if has_alpha and alpha != "keep" else samples


def decode_classes(path: Path, classes: int, limits: Limits = DEFAULT_LIMITS) -> Samples:
    """Decode a label map whose values are class indices; of a palette the indices, not the colours.

    Returns:
        uint8, or uint16 for more than 256 classes, [height, width, 1], below `classes`.

    Raises:
        UnreadableImage: it does not decode, has colours or fractions, or an index that is no class.
    """
    from . import deep

    with _open(path, limits) as opened:
        if isinstance(opened, ImageFile.ImageFile):
            if opened.mode in ("P", "1", "L"):
                spread = _spread(opened)
                indices = np.asarray(ImageOps.exif_transpose(opened)) // spread
            elif opened.mode.startswith("I"):
                indices = upright(np.asarray(opened), opened.getexif().get(ORIENTATION, 1))
            else:
                raise UnreadableImage(f"has colours (mode {opened.mode}), where class indices are expected")
        else:
            indices = deep.decode_npy(path, limits) if opened == "npy" else deep.decode_tiff(path, limits)[0]
    indices = indices.reshape(*indices.shape[:2], -1)
    if indices.shape[2] != 1 or indices.dtype.kind not in "uib":
        raise UnreadableImage(
            f"holds {indices.shape[2]} channels of {indices.dtype}, where class indices are expected"
        )
    for found in (int(indices.min()), int(indices.max())):
        if not 0 <= found < classes:
            raise UnreadableImage(
                f"holds the class index {found}, but prepare.classes = {classes} allows 0 to {classes - 1}"
            )
    return indices.astype(np.uint8 if classes <= 256 else np.uint16)


def lay_on(samples: Samples, colour: str) -> Samples:
    """Composite samples whose last channel is alpha on white or black, in their own depth.

    c·α + background·(1 − α), α from 0 to 1.
    """
    full = full_scale(samples.dtype)
    alpha = samples[..., -1:].astype(np.float64) / full
    background = full if colour == "white" else 0
    laid = samples[..., :-1] * alpha + background * (1 - alpha)
    return (laid if samples.dtype.kind == "f" else laid.round()).astype(samples.dtype)


def upright(samples: Samples, orientation: int) -> Samples:
    """Turn a stored image as EXIF's Orientation says; an unknown value says nothing."""
    turn = UPRIGHT.get(orientation)
    return np.ascontiguousarray(turn(samples)) if turn else samples


def full_scale(dtype: Any) -> float:
    """The value that stands for white: 255, 65535, or 1 for floats."""
    return float(np.iinfo(dtype).max) if np.dtype(dtype).kind == "u" else 1.0


@contextmanager
def _open(path: Path, limits: Limits) -> Iterator[ImageFile.ImageFile | str]:
    """The image opened by Pillow; or `npy` or `tiff`, which need readers of their own."""
    with refused_in_words(path), ExitStack() as files:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise UnreadableImage("is a directory")
        if not stat.S_ISREG(found.st_mode):
            # A pipe would be waited for, a device read without end.
            raise UnreadableImage("is not a regular file")
        limits.check_file(found.st_size)
        file = files.enter_context(path.open("rb"))
        signature = file.read(6)
        if signature == NPY:
            yield "npy"
            return
        is_tiff = signature[:4] in TIFFS
        try:
            # By its path Pillow would map an uncompressed TIFF into memory, with a wrong width if it lies on
            # its side.
            image = Image.open(file if is_tiff else path, formats=FORMATS)
        # What Pillow does not know at all may still be a TIFF with more channels than it has modes for.
        except (UnidentifiedImageError, SyntaxError):
            if not is_tiff:
                raise
            yield "tiff"
            return
        with image:
            if is_tiff and _is_beyond_pillow(image):
                yield "tiff"
                return
            limits.check_pixels(image.height, image.width)
            if is_tiff:
                _refuse_pages(image)
            if image.info.get("progressive"):
                _refuse_scans(path.read_bytes())
            yield image


def _refuse_scans(content: bytes) -> None:
    """Few bytes can ask for thousands of scans of a large image, which take hours."""
    # Not to be met within a scan, where a zero follows every 255.
    if (scans := content.count(JPEG_SCAN)) > MAX_SCANS:
        raise UnreadableImage(f"is a JPEG of {scans:,} scans; save it again with any program")


def _refuse_pages(image: ImageFile.ImageFile) -> None:
    """A second page that is no smaller copy of the first would be lost without a word."""
    try:
        image.seek(1)
    except EOFError:
        return
    is_thumbnail = int(image.tag_v2.get(NEW_SUBFILE_TYPE, 0)) & 1  # type: ignore[attr-defined]
    image.seek(0)
    if not is_thumbnail:
        refuse_pages()


def refuse_pages() -> None:
    """Raises UnreadableImage, in the words for a TIFF with several pages."""
    raise UnreadableImage("has several pages; save each as a file, or all channels as one page")


@contextmanager
def refused_in_words(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises at damaged bytes into UnreadableImage."""
    try:
        yield
    except UnreadableImage:
        raise
    except FileNotFoundError:
        raise UnreadableImage("is not there") from None
    except ImportError as error:
        raise UserError(
            f"{path}: needs the package {error.name}; install it: pip install {error.name}"
        ) from None
    # Decoders of others' bytes fail in every way there is.
    except Exception as error:
        lines = str(error).replace(str(path), "").strip(" '\"").splitlines()
        reason = (lines[0][:150] if lines else "") or type(error).__name__
        raise UnreadableImage(f"does not decode ({reason})") from None


def _is_deep(image: ImageFile.ImageFile) -> bool:
    # Pillow makes 8-bit RGB of 16-bit colour unasked; only the decoder's raw mode tells.
    raw_modes = [str(tile.args) for tile in image.tile]
    return image.mode in DEEP_MODES or any(deep in mode for mode in raw_modes for deep in DEEP_RAW_MODES)


def _is_beyond_pillow(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow would lose something of a TIFF unasked.

    More than 8 bits; or a last channel that is no alpha, such as near infrared, which it drops or takes for
    one.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, extra = (np.atleast_1d(tags.get(tag, 0)) for tag in (BITS_PER_SAMPLE, EXTRA_SAMPLES))
    has_plain_last = EXTRA_SAMPLES in tags and 0 in extra
    is_unsaid = image.mode == "LA" and EXTRA_SAMPLES not in tags
    return _is_deep(image) or bool(bits.max() > 8) or has_plain_last or is_unsaid


def _spread(image: ImageFile.ImageFile) -> int:
    """By how much Pillow multiplies grey of 2 and 4 bits, so that white becomes 255."""
    raw_modes = [str(tile.args) for tile in image.tile]
    return next(
        (255 // (2**bits - 1) for bits in (2, 4) if any(f"L;{bits}" in mode for mode in raw_modes)), 1
    )


def _is_grey(image: ImageFile.ImageFile) -> bool:
    # Pillow opens grey of 16 bits with alpha as RGBA.
    is_deep_grey = any(str(tile.args).startswith("LA;16") for tile in image.tile)
    return image.mode in GREY_MODES or image.mode in DEEP_MODES or is_deep_grey


def _orientation(image: ImageFile.ImageFile) -> int:
    """As the header has it. Pillow's own word on a PNG would cost decoding all of it."""
    exif = Image.Exif()
    if image.format == "PNG":
        exif.load(image.info.get("exif") or b"")
    else:
        exif = image.getexif()
    return int(exif.get(ORIENTATION, 1))


def _decode_8_bits(image: ImageFile.ImageFile, alpha: Alpha) -> Samples:
    profile = image.info.get("icc_profile")
    is_grey = _is_grey(image)
    seen: Image.Image = ImageOps.exif_transpose(image)
    if seen.has_transparency_data:
        seen = seen.convert("RGBA")
        if profile:
            opacity = seen.getchannel("A")
            seen = profiles.to_srgb(seen.convert("L" if is_grey else "RGB"), profile)
            seen.putalpha(opacity)
        if alpha == "keep":
            return np.asarray(seen)[..., [0, 3]] if is_grey else np.asarray(seen)
        seen = Image.alpha_composite(Image.new("RGBA", seen.size, alpha), seen).convert("RGB")
    else:
        seen = profiles.to_srgb(seen, profile) if profile else seen.convert("RGB")
    # Of RGB made from grey all three are alike.
    return np.asarray(seen)[..., :1] if is_grey else np.asarray(seen)


def _as_known_type(samples: Samples) -> Samples:
    """uint8, uint16 and float32 as they are; other numbers as float32."""
    if samples.dtype == bool:
        return samples.astype(np.uint8) * 255
    if samples.dtype in (np.uint8, np.uint16):
        return samples
    if samples.dtype.kind not in "uif":
        raise UnreadableImage(f"holds {samples.dtype} values, which are no samples of an image")
    if samples.dtype.kind in "ui" and max(abs(int(samples.min())), int(samples.max())) > EXACT_IN_FLOAT32:
        raise UnreadableImage(
            f"holds {samples.dtype} values beyond ±{EXACT_IN_FLOAT32:,}; save it as 16 bits or as floats"
        )
    with np.errstate(over="ignore"):
        numbers: Samples = samples.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise UnreadableImage("holds NaN or infinite values; fill them in")
    return numbers
