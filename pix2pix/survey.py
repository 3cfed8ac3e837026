"""What somebody's data is like, read from a sample: layout, sizes, channels, and which side is drawn."""

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from . import images, pairs
from .decoding import (
    DEFAULT_LIMITS,
    FORMATS,
    NPY,
    Kind,
    Limits,
    Samples,
    UnreadableImage,
    decode,
    decode_classes,
    full_scale,
    probe,
)
from .encoding import GREY, RGB8, Encoding, measured, of_classes
from .errors import UserError
from .images import Pixels
from .layouts import Found, find_pairs
from .manifest import Split
from .pair_grid import pair_grid, spread
from .pair_list import Pair
from .params import Combined, Derive, Size, height_width

# Files of which the heads are read, pairs that are decoded, pairs that are drawn.
HEADS, DECODED, DRAWN = 500, 24, 6
# A picture of one side has about as many pixels as a square of this side.
CELL_PX = 192
# A seam is this many times as sharp as what lies beside it. Real combined images have 6 to 70, photos 0 to 3.
SEAM = 4.0
# Pillow's modes and our types, in the words of people.
_CHANNELS = {"L": "grey", "LA": "grey and alpha", "P": "palette", "PA": "palette and alpha"}
_BITS = {"uint8": "8 bits", "uint16": "16 bits", "float32": "32-bit float"}
# What becomes black and white of an image that is shown by its own range.
SHOWN_PERCENTILES = (0.1, 99.9)
# Of its full scale; 14 bits stored in 16 come up to it.
DIM = 0.25
# Grey images that are drawn and hold no other values than these are label maps of indices.
MOST_CLASSES = 64
# What many label maps hold where there is no class.
VOID = 255

DERIVES = "edges, grayscale, blur, downscale or mask"


@dataclass(frozen=True)
class Indices:
    """Of label maps that hold class indices.

    Attributes:
        classes: one more than the largest seen, 255 left out; 0 for what holds no indices.
        has_void: whether 255 is among them.
    """

    classes: int = 0
    has_void: bool = False

    @property
    def all_classes(self) -> int:
        """How many classes there must be so that every index that was seen is one."""
        return VOID + 1 if self.has_void else self.classes


NO_INDICES = Indices()


@dataclass(frozen=True)
class Side:
    """One side of the data: its files' kinds and sizes with how many have them, and whether it is drawn.

    Attributes:
        is_drawn: label maps, line drawings and the like, which nearest neighbour keeps pure.
        own_range: least and most of values that do not fill their type, or go beyond it, so that their range
            has to be measured.
    """

    kinds: Counter[str]
    sizes: Counter[str]
    is_drawn: bool
    own_range: tuple[float, float] | None
    indices: "Indices"


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        splits: pairs by the data's own splits; `None` where it has none.
        heads: files whose kind and size were read; the counts of `sides` are of these.
        sides: A and B, or the photos alone.
        smaller_px: the smaller side of a typical image.
        aspect: width by height of a typical image.
        unreadable: what could not be read of the sample, with the reason.
        names, cells: of a few pairs, both sides as small pictures.
    """

    found: Found
    splits: dict[Split | None, int]
    combined: Combined
    heads: int
    sides: tuple[Side, ...]
    smaller_px: int
    aspect: float
    unreadable: dict[str, str]
    names: tuple[str, ...]
    cells: tuple[tuple[Pixels, Pixels], ...]

    def picture(self, headings: tuple[str, str], turned: bool) -> Pixels:
        """A grid of these pairs; `turned` has B on the left."""
        cells = [(b, a) if turned else (a, b) for a, b in self.cells]
        return pair_grid(cells, self.names, headings)


def survey(
    folder: Path,
    derive: Derive = "none",
    combined: Combined | None = None,
    limits: Limits = DEFAULT_LIMITS,
    image_px: Size = CELL_PX,
) -> Survey:
    """Look at the pairs below a folder.

    Args:
        derive: with another value than `none`, every image is a photo.
        combined: how combined images lie; None finds out.
        limits: what a file may claim to hold.
        image_px: the size that gives its shape to the pictures of both sides.

    Raises:
        UserError: there are no pairs, none of the sample can be read, or its images are no combined ones.
    """
    found = find_pairs(folder, derived=derive != "none")
    if derive != "none" and (couple := next((pair for pair in find_pairs(folder).pairs if pair.b), None)):
        raise UserError(
            f"{folder}: {couple.a} and {couple.b} are two sides already; leave --derive out, or give the "
            "folder of the photos alone"
        )
    if combined and derive == "none" and found.pairs and all(pair.b for pair in found.pairs):
        raise UserError(f"--combined {combined}: each pair is two files here; leave it out")
    if not found.pairs:
        raise UserError(f"{folder}: {_no_pairs(found)}")
    heads = [found.pairs[index] for index in spread(len(found.pairs), HEADS)]
    decoded = [heads[index] for index in spread(len(heads), DECODED)]
    unreadable: dict[str, str] = {}
    if combined is None:
        combined = "side-by-side"
        whole = [pair for pair in decoded if pair.b is None] if derive == "none" else []
        if whole:
            combined = _orientation(folder, whole, unreadable, limits)
    kinds, sizes, smaller, aspect = _heads(folder, heads, derive, combined, unreadable, limits)
    indices = _largest_indices(folder, decoded, limits) if derive == "none" else (NO_INDICES, NO_INDICES)
    cell_px = _cell_px(image_px)
    read = list(_read(folder, decoded, derive, combined, unreadable, indices, limits, cell_px))
    if not read:
        name, reason = next(iter(unreadable.items()))
        raise UserError(
            f"{folder / name}: {reason}; nor can the others of a sample of {len(decoded)} be used"
        )
    drawn = _are_drawn(read)
    if any(side.classes and not is_drawn for side, is_drawn in zip(indices, drawn, strict=True)):
        # Dark photos.
        indices = (indices[0] if drawn[0] else NO_INDICES, indices[1] if drawn[1] else NO_INDICES)
        read = list(_read(folder, decoded, derive, combined, unreadable, indices, limits, cell_px))
        drawn = _are_drawn(read)
    shown = [read[index] for index in spread(len(read), DRAWN)]
    return Survey(
        found=found,
        splits=dict(Counter(pair.split for pair in found.pairs)),
        combined=combined,
        heads=len(heads),
        sides=tuple(
            Side(
                kinds[side],
                sizes[side],
                drawn[side],
                None if indices[side].classes else _own_range(folder, decoded, side, limits),
                indices[side],
            )
            for side in (0, 1)
        ),
        smaller_px=smaller,
        aspect=aspect,
        unreadable=unreadable,
        names=tuple(pair.name for pair in shown),
        cells=tuple(pair.cells for pair in shown),
    )


def _no_pairs(found: Found) -> str:
    if not found.rejects:
        return "holds no image"
    first = found.rejects[0]
    return (
        f"holds no pair among {len(found.rejects)} images ({first.file} {first.reason}); put the sides into "
        "folders A/ and B/ with equal names, or list the pairs in pairs.csv"
    )


# --- combined images -----------------------------------------------------------------------------------


def _orientation(folder: Path, whole: Sequence[Pair], unreadable: dict[str, str], limits: Limits) -> Combined:
    beside, stacked, ratios = [], [], []
    for pair in whole:
        try:
            pixels = _seen(folder / pair.a, limits)
        except UnreadableImage as error:
            unreadable[pair.a] = str(error)
            continue
        beside.append(_seam(pixels))
        stacked.append(_seam(pixels.transpose(1, 0, 2)))
        ratios.append(pixels.shape[1] / pixels.shape[0])
    if not beside:
        return "side-by-side"
    across, down = statistics.median(beside), statistics.median(stacked)
    if max(across, down) < SEAM:
        raise UserError(
            f"{folder}: {whole[0].a} and the others do not look like two sides in one file, there is no seam "
            "in their middle; if they are photos, choose an input that is made from them with --derive "
            f"({DERIVES}); if they are sides, put them into folders A/ and B/ or list the pairs in "
            "pairs.csv; if they are combined all the same, say --combined side-by-side or stacked"
        )
    return "side-by-side" if across >= down else "stacked"


def _seam(pixels: Pixels) -> float:
    """How sharp the change between the two middle columns is, against those between the ones around."""
    steps = np.abs(np.diff(pixels.astype(np.int16), axis=1)).mean((0, 2))
    middle = pixels.shape[1] // 2 - 1
    around = np.r_[steps[max(0, middle - 16) : max(0, middle - 1)], steps[middle + 2 : middle + 18]]
    # One level is added, so that noise in an even sky is no seam.
    return float(steps[middle] / (np.median(around) + 1)) if len(around) else 0.0


# --- pixels --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """What is kept of a pair once it is read: of large images many do not fit into the memory.

    Attributes:
        cells: both sides as they are drawn.
        signs: that a side is drawn, see `_drawn`.
    """

    name: str
    cells: tuple[Pixels, Pixels]
    signs: tuple[tuple[float, float], tuple[float, float]]

    @classmethod
    def of(cls, name: str, a: Pixels, b: Pixels, cell_px: tuple[int, int]) -> "_Read":
        return cls(name, (_cell(a, cell_px), _cell(b, cell_px)), (_drawn(a), _drawn(b)))


def _cell_px(image_px: Size) -> tuple[int, int]:
    """Height and width of a small picture of this shape; what is longer than four to one is shown as that."""
    height, width = height_width(image_px)
    stretch = min(max(math.sqrt(height / width), 0.5), 2)
    return round(CELL_PX * stretch), round(CELL_PX / stretch)


def _cell(side: Pixels, cell_px: tuple[int, int]) -> Pixels:
    return images.resize(np.ascontiguousarray(side), *cell_px, "area")


def _read(
    folder: Path,
    sample: Sequence[Pair],
    derive: Derive,
    combined: Combined,
    unreadable: dict[str, str],
    indices: tuple[Indices, Indices],
    limits: Limits,
    cell_px: tuple[int, int],
) -> Iterator[_Read]:
    for pair in sample:
        try:
            if derive == "none":
                yield _Read.of(pair.name, *_both(folder, pair, combined, indices, limits), cell_px)
            else:
                yield _Read.of(pair.name, *_derived(folder, pair, derive, limits, cell_px), cell_px)
        except UnreadableImage as error:
            # Either side may be at fault; its header has told already, if it could.
            if unreadable.keys().isdisjoint({pair.a, pair.b}):
                unreadable[pair.a] = str(error)


def _derived(
    folder: Path, pair: Pair, how: Derive, limits: Limits, cell_px: tuple[int, int]
) -> tuple[Pixels, Pixels]:
    from .derive import derive

    photo = _cell(images.read_rgb(folder / pair.a, limits), cell_px)
    return derive(photo, how, pair.name), photo


def _drawn(pixels: Pixels) -> tuple[float, float]:
    """Two signs that an image is drawn: how much of it is flat, and how much four colours cover.

    Returns:
        The share of neighbours that differ by at most 2 levels, where the most common colour (a white
        ground, say) is left out; the share of the four most common of 4096 colours.
    """
    # A photo in the dark has few levels, but not four.
    pixels = np.rint(pixels * (255 / max(1, pixels.max()))).astype(np.uint8)
    coarse = (pixels >> 4).astype(np.int32)
    colours = (coarse[..., 0] << 8) | (coarse[..., 1] << 4) | coarse[..., 2]
    counts = np.bincount(colours.ravel(), minlength=4096)
    steps = np.abs(np.diff(pixels.astype(np.int16), axis=1)).max(2)
    inside = steps[colours[:, 1:] != counts.argmax()]
    flat = float((inside <= 2).mean()) if len(inside) else 1.0
    return flat, float(np.sort(counts)[-4:].sum() / counts.sum())


def _are_drawn(read: Sequence[_Read]) -> list[bool]:
    """For each side."""
    return [_is_drawn([pair.signs[side] for pair in read]) for side in (0, 1)]


def _is_drawn(values: Sequence[tuple[float, float]]) -> bool:
    # Medians of real sets, flat and four colours: facades' labels, in JPEG, .63 .55 and photos .33 .27;
    # maps .62 .86 and aerial photos .23 .45; line drawings .5 1.0; grey photos .45 .53; blurred ones .65 .28.
    flat, few = (statistics.median(column) for column in zip(*values, strict=True))
    return bool(few >= 0.95 or (flat >= 0.55 and few >= 0.5))


# --- heads ---------------------------------------------------------------------------------------------


def _heads(
    folder: Path,
    sample: Sequence[Pair],
    derive: Derive,
    combined: Combined,
    unreadable: dict[str, str],
    limits: Limits,
) -> tuple[list[Counter[str]], list[Counter[str]], int, float]:
    """Kinds and sizes by side; of a typical image the smaller side in pixels, and width by height."""
    kinds: list[Counter[str]] = [Counter(), Counter()]
    sizes: list[Counter[str]] = [Counter(), Counter()]
    smaller, aspects = [], []
    for pair in sample:
        for side, file in enumerate((pair.a, pair.b or pair.a)):
            try:
                kind, (width, height) = _head(folder / file, limits)
            except UnreadableImage as error:
                unreadable[file] = str(error)
                continue
            if pair.b is None and derive == "none":
                width, height = (width // 2, height) if combined == "side-by-side" else (width, height // 2)
            kinds[side][kind] += 1
            sizes[side][f"{width}×{height}"] += 1
            smaller.append(min(width, height))
            aspects.append(width / max(height, 1))
    if not smaller:
        return kinds, sizes, 0, 1.0
    return kinds, sizes, int(statistics.median(smaller)), statistics.median(aspects)


def _head(path: Path, limits: Limits) -> tuple[str, tuple[int, int]]:
    """Format, channels and bits of an image in words, and its width and height as a person sees it."""
    kind = probe(path, limits)
    return _words(path, kind), (kind.width, kind.height)


def _own_range(folder: Path, sample: Sequence[Pair], side: int, limits: Limits) -> tuple[float, float] | None:
    """Least and most of deep samples that are dark at full scale, or floats beyond it; None for others."""
    values: list[float] = []
    white = 1.0
    for pair in sample:
        path = folder / ((pair.a, pair.b or pair.a)[side])
        try:
            if probe(path, limits).dtype != "uint8":
                samples = decode(path, limits=limits)
                white = full_scale(samples.dtype)
                values += [float(samples.min()), float(samples.max())]
        except UnreadableImage:
            continue
    if not values:
        return None
    least, most = min(values), max(values)
    return (least, most) if least < 0 or most > white or most <= DIM * white else None


def _largest_indices(folder: Path, sample: Sequence[Pair], limits: Limits) -> tuple[Indices, Indices]:
    """For each side, where all are grey and hold few values."""
    apart = [(folder / pair.a, folder / pair.b) for pair in sample if pair.b]
    return _indices([a for a, _ in apart], limits), _indices([b for _, b in apart], limits)


def _indices(files: Sequence[Path], limits: Limits) -> Indices:
    largest, has_void = 0, False
    for file in files:
        try:
            kind = probe(file, limits)
            if (kind.channels, kind.has_alpha) != (GREY, False) or kind.dtype == "float32":
                return NO_INDICES
            values = decode_classes(file, 2**16, limits)
            # Of one bit a pixel: its 1 is white, as it is decoded elsewhere.
            if values.max() == 1 and decode(file, limits=limits).max() == VOID:
                return NO_INDICES
        except UnreadableImage:
            continue
        is_void = values == VOID
        has_void = has_void or bool(is_void.any())
        largest = max(largest, int(values[~is_void].max(initial=0)))
        if largest >= MOST_CLASSES:
            return NO_INDICES
    # Black and white alone are a mask.
    return Indices(largest + 1, has_void) if largest else NO_INDICES


def _words(path: Path, kind: Kind) -> str:
    try:
        with Image.open(path, formats=FORMATS) as image:
            format_, mode = image.format, image.mode
    # What Pillow does not know and `probe` does is one of two.
    except (OSError, SyntaxError):
        format_, mode = "NPY" if path.read_bytes()[:6] == NPY else "TIFF", ""
    if mode == "1":
        return f"{format_}, 1-bit"
    if kind.dtype == "uint8" and mode:
        return f"{format_}, {_CHANNELS.get(mode, mode)}, 8 bits"
    colours = {1: "grey", 3: "RGB"}.get(kind.channels, f"{kind.channels} channels")
    return f"{format_}, {colours}{' and alpha' if kind.has_alpha else ''}, {_BITS[kind.dtype]}"


def _shown(encoding: Encoding, samples: Samples) -> Pixels:
    """As a person sees it: what may not fill its type on its own range."""
    if encoding.dtype == "uint8":
        return encoding.picture(samples)
    return measured(encoding, [samples], 1, SHOWN_PERCENTILES).picture(samples)


def _encoding(path: Path, limits: Limits) -> Encoding:
    try:
        kind = probe(path, limits)
    except UnreadableImage:
        # Decoding it says the same, and of which side it is.
        return RGB8
    # Percentiles take floats of any size.
    return Encoding(kind.channels, kind.dtype, range="full" if kind.dtype == "uint8" else "percentiles")


def _seen(path: Path, limits: Limits) -> Pixels:
    encoding = _encoding(path, limits)
    return _shown(encoding, encoding.read(path, limits))


def _both(
    folder: Path, pair: Pair, combined: Combined, indices: tuple[Indices, Indices], limits: Limits
) -> tuple[Pixels, Pixels]:
    encoding_a, encoding_b = (
        of_classes(side.all_classes) if side.classes else _encoding(folder / file, limits)
        for side, file in zip(indices, (pair.a, pair.b or pair.a), strict=True)
    )
    a, b = pairs.read_pair(pair, folder, combined, (encoding_a, encoding_b), limits)
    return _shown(encoding_a, a), _shown(encoding_b, b)
