"""Reading, writing and arranging pictures.

`Samples` are uint8, uint16 or float32 [height, width, channels]; `Pixels`, what a person is shown, are uint8
[height, width, 3].
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .decoding import DEFAULT_LIMITS, Limits, Samples, UnreadableImage, decode
from .files import atomic_file

Pixels = NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy"})


def read_rgb(path: Path, limits: Limits = DEFAULT_LIMITS) -> Pixels:
    """Decode an 8-bit image as a person sees it: upright, grey and palette values as RGB, alpha on white.

    Returns:
        uint8 [height, width, 3].

    Raises:
        UnreadableImage: it does not decode, is beyond the limits, or is no 8-bit grey or RGB image.
    """
    samples = decode(path, "white", limits)
    if samples.dtype != np.uint8:
        raise UnreadableImage(f"holds more than 8 bits a channel ({samples.dtype})")
    if samples.shape[2] not in (1, 3):
        raise UnreadableImage(f"has {samples.shape[2]} channels, expected grey or RGB")
    return np.repeat(samples, 3, 2) if samples.shape[2] == 1 else samples


def lossless_suffix(channels: int, dtype: Any) -> str:
    """The kind of file that keeps such samples bit for bit and that usual programs open."""
    return ".png" if channels <= 4 and np.dtype(dtype).kind == "u" else ".tif"


def write_png(path: Path, samples: Samples, compress_level: int = 1) -> None:
    """Write a PNG, lossless.

    Args:
        samples: uint8 or uint16 [height, width, 1 to 4]; the second or fourth channel counts as alpha.
        compress_level: 1 trades some size for much less time; 0 to 9.

    Raises:
        ValueError: a PNG cannot hold these samples.
    """
    if lossless_suffix(samples.shape[2], samples.dtype) != ".png":
        raise ValueError(f"{samples.shape[2]} channels of {samples.dtype} are not for a PNG")
    if samples.dtype == np.uint8:
        _pillow(samples).save(path, format="PNG", compress_level=compress_level)
        return
    import imagecodecs

    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(samples), level=compress_level))


def write_image(path: Path, samples: Samples) -> None:
    """Write in the format of the file's suffix, as well as that format can.

    Raises:
        ValueError: the format cannot hold these samples.
    """
    suffix = path.suffix.lower()
    channels, is_8_bit = samples.shape[2], samples.dtype == np.uint8
    if suffix == ".png":
        write_png(path, samples, compress_level=6)
    elif suffix == ".npy":
        np.save(path, samples, allow_pickle=False)
    elif is_8_bit and channels in (1, 3):
        options: dict[str, dict[str, Any]] = {
            ".jpg": {"quality": 95},
            ".jpeg": {"quality": 95},
            ".webp": {"lossless": True},
        }
        _pillow(samples).save(path, **options.get(suffix, {}))
    elif suffix in (".tif", ".tiff"):
        write_tiff(path, samples)
    else:
        raise ValueError(f"{channels} channels of {samples.dtype} are not for a {suffix} file")


def write_tiff(path: Path, samples: Samples) -> None:
    """Write a TIFF of one page, deflated, lossless: any number of channels, uint8, uint16 or float32."""
    import tifffile

    photometric = "rgb" if samples.shape[2] == 3 else "minisblack"
    # Without metadata: its own would be of shapes that a reader need not know.
    tifffile.imwrite(
        path,
        samples if samples.shape[2] > 1 else samples[..., 0],
        photometric=photometric,
        planarconfig="contig" if samples.shape[2] > 1 else None,
        compression="zlib",
        metadata=None,
    )


def write_prepared(path: Path, samples: Samples) -> None:
    """Write a PNG or, where a PNG cannot hold these samples, a TIFF, by the path's suffix."""
    if path.suffix == ".png":
        write_png(path, samples)
    else:
        write_tiff(path, samples)


def _pillow(samples: Samples) -> Image.Image:
    return Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)


def resize(pixels: Samples, height: int, width: int, method: str, has_alpha: bool = False) -> Samples:
    """Resize to exactly height × width, every channel by itself.

    Args:
        pixels: uint8, uint16 or float32 [height, width, channels].
        method: `nearest` (invents no colours), `area` (each output pixel is the mean of what it covers;
            bilinear where it enlarges) or `bicubic`.
        has_alpha: whether the last channel is transparency, so that colours count as much as they are seen.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    if has_alpha and method != "nearest":
        return _resize_seen(pixels, height, width, method)
    shrinks = height <= pixels.shape[0] and width <= pixels.shape[1]
    filters = {
        "nearest": Image.Resampling.NEAREST,
        "area": Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
    }
    size, method_ = (width, height), filters[method]
    if pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3):
        return np.asarray(_pillow(pixels).resize(size, method_)).reshape(height, width, -1)
    # Pillow resizes one channel of floats as it does bytes; 16 bits are exact in them.
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, method_))
        for plane in np.moveaxis(pixels, 2, 0)
    ]
    resized = np.stack(planes, 2)
    if pixels.dtype.kind == "f":
        return resized.astype(pixels.dtype)
    return resized.round().clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)


def _resize_seen(pixels: Samples, height: int, width: int, method: str) -> Samples:
    """`resize`, but what is transparent lends no colour to what is not."""
    plain = resize(pixels, height, width, method)
    full = 1.0 if pixels.dtype.kind == "f" else float(np.iinfo(pixels.dtype).max)
    floats = pixels.astype(np.float32)
    floats[..., :-1] *= floats[..., -1:] / full
    seen = resize(floats, height, width, method)
    # Less than a hundredth of a level is nothing that could be divided by.
    opacity = seen[..., -1:] / full
    colours = np.divide(seen[..., :-1], opacity, out=plain[..., :-1].astype(np.float32), where=opacity > 4e-5)
    if pixels.dtype.kind != "f":
        colours = colours.round().clip(0, full)
    return np.concatenate([colours.astype(pixels.dtype), plain[..., -1:]], 2)


def pad(image: Samples, multiple: int) -> Samples:
    """Reflect [height, width, channels] at its lower and right edges up to the next multiple."""
    bottom, right = -image.shape[0] % multiple, -image.shape[1] % multiple
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="reflect")


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
    font, small = ImageFont.load_default(15), _names_font(11)
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


def text_panel(title: str, lines: Sequence[str]) -> Pixels:
    """Lines of text under a title: uint8 [height, width, 3] on white."""
    gap, heading, step = 6, 22, 16
    font, small = ImageFont.load_default(15), _names_font(11)
    width = max(int(font.getlength(title)), *(int(small.getlength(line)) for line in lines)) + 2 * gap
    canvas = Image.new("RGB", (width, heading + step * len(lines) + gap), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((gap, 3), title, fill="black", font=font)
    for index, line in enumerate(lines):
        draw.text((gap, heading + step * index), line, "#444444", small)
    return np.asarray(canvas)


@cache
def _names_font(px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """For names of files: Pillow's own font has no ü; matplotlib's, where that is there, has most letters."""
    package = find_spec("matplotlib")
    if package and package.origin:
        file = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.exists():
            return ImageFont.truetype(file, px - 1)
    return ImageFont.load_default(px)


def save_picture(path: Path, pixels: Any) -> None:
    """Write a picture for people as PNG, atomically."""
    with atomic_file(path) as partial:
        write_png(partial, pixels, compress_level=6)
