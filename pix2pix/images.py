"""Reading, writing and arranging pictures. Arrays are uint8 [height, width, 3] everywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFile, ImageFont, ImageOps

from .errors import UserError
from .files import atomic_file

Pixels = NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
# Modes that hold more than 8 bits a channel; turning them into RGB would silently throw detail away.
DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
DEEP_RAW_MODES = (";16B", ";16L", ";16N")


class UnreadableImage(UserError):
    """An image that cannot be used; the text says why and names no file."""


def read_rgb(path: Path) -> Pixels:
    """Decode an image as a person sees it: upright, grey and palette values as RGB, transparency on white.

    Returns:
        uint8 [height, width, 3].

    Raises:
        UnreadableImage: it does not decode, is empty, or holds more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            _refuse_deep(image)
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            return np.asarray(upright.convert("RGB"))
    except UnreadableImage:
        raise
    except Image.DecompressionBombError:
        raise UnreadableImage("has more pixels than can be trusted (over 178 million)") from None
    except FileNotFoundError:
        raise UnreadableImage("is not there") from None
    except (OSError, ValueError, SyntaxError) as error:
        reason = str(error).replace(str(path), "").strip(" '\"") or type(error).__name__
        raise UnreadableImage(f"does not decode ({reason})") from None


def _refuse_deep(image: ImageFile.ImageFile) -> None:
    # Pillow makes 8-bit RGB of 16-bit colour unasked; only the decoder's raw mode tells.
    raw_modes = [str(tile.args) for tile in image.tile]
    if image.mode in DEEP_MODES or any(deep in mode for mode in raw_modes for deep in DEEP_RAW_MODES):
        raise UnreadableImage(f"holds more than 8 bits a channel (mode {image.mode})")


def write_png(path: Path, pixels: Pixels, compress_level: int = 1) -> None:
    """Write a PNG, lossless. Level 1 trades some size for much less time; 0 to 9."""
    Image.fromarray(pixels).save(path, format="PNG", compress_level=compress_level)


def write_image(path: Path, pixels: Pixels) -> None:
    """Write in the format of the file's suffix, as well as that format can."""
    options: dict[str, dict[str, Any]] = {
        ".jpg": {"quality": 95},
        ".jpeg": {"quality": 95},
        ".webp": {"lossless": True},
    }
    Image.fromarray(pixels).save(path, **options.get(path.suffix.lower(), {}))


def resize(pixels: Pixels, height: int, width: int, method: str) -> Pixels:
    """Resize to exactly height × width.

    Args:
        method: `nearest` (invents no colours), `area` (each output pixel is the mean of what it covers;
            bilinear where it enlarges) or `bicubic`.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = height <= pixels.shape[0] and width <= pixels.shape[1]
    filters = {
        "nearest": Image.Resampling.NEAREST,
        "area": Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
    }
    return np.asarray(Image.fromarray(pixels).resize((width, height), filters[method]))


def labelled_grid(
    columns: Sequence[str], rows: Sequence[Sequence[Pixels]], names: Sequence[str], title: str = ""
) -> Pixels:
    """Arrange images in rows under column headings, each row with its name.

    Args:
        columns: a heading for each column, such as input, output, target.
        rows: as many images a row as there are columns, all of one size.
        names: a short name for each row, of one line or more.
        title: one line over everything.

    Returns:
        uint8 [height, width, 3] on white.
    """
    cell_height, cell_width = rows[0][0].shape[:2]
    # Small images are shown larger, by whole factors, so that a person can see them.
    zoom = max(1, round(192 / cell_width))
    cell_height, cell_width = cell_height * zoom, cell_width * zoom
    gap, heading = 6, 22
    font, small = ImageFont.load_default(15), ImageFont.load_default(11)
    lines = [line for name in names for line in name.split("\n")]
    name_width = max((int(small.getlength(line)) for line in lines), default=0) + 2 * gap
    top = heading * (2 if title else 1)
    width = name_width + len(columns) * (cell_width + gap)
    canvas = Image.new("RGB", (width, top + len(rows) * (cell_height + gap)), "white")
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((name_width, 3), title, fill="black", font=font)
    for column, label in enumerate(columns):
        draw.text((name_width + column * (cell_width + gap), top - heading + 3), label, "black", font)
    for row, (images, name) in enumerate(zip(rows, names, strict=True)):
        y = top + row * (cell_height + gap)
        draw.text((gap, y), name, "#444444", small)
        for column, image in enumerate(images):
            cell = Image.fromarray(image).resize((cell_width, cell_height), Image.Resampling.NEAREST)
            canvas.paste(cell, (name_width + column * (cell_width + gap), y))
    return np.asarray(canvas)


def save_picture(path: Path, pixels: Any) -> None:
    """Write a picture for people as PNG, atomically."""
    with atomic_file(path) as partial:
        write_png(partial, pixels, compress_level=6)
