"""What is measured of one prepared pair: hashes, colours, whether a side is empty, whether they lie askew."""

import json
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .images import Pixels

FloatArray = NDArray[np.float32]

# A side whose levels have a smaller standard deviation than this, of 255, shows nothing.
EMPTY_STD = 2.0
HISTOGRAM_BINS = 16
# The side that edges are compared at; smaller pairs have too few pixels to tell a shift from chance.
SURFACE_PX = 128
# What the edges of both sides have in common at the best shift, in standard deviations of what they have at
# all shifts; and how much more that must be than at no shift. Of 606 facades and 180 maps, which fit, none
# passes both; moved by a twentieth, a fifth of the facades do, and all pairs of two photos.
SURE, CLEARER = 12.0, 2.0
# Where the Sobel operator gives less than this for 19 of 20 pixels, there are no edges to compare.
FEW_EDGES = 4.0
# Shifts up to this many pixels of SURFACE_PX are none, up to a quarter are looked for.
NO_SHIFT_PX, MOST_SHIFT_PX = 3, SURFACE_PX // 4

_HASH_PX, _HASH_SIDE = 32, 8
_ROW = np.arange(_HASH_PX)
# Rows 1 to 8 of the discrete cosine transform (DCT-II).
_DCT = np.cos(np.pi * np.outer(np.arange(1, _HASH_SIDE + 1), 2 * _ROW + 1) / (2 * _HASH_PX)).astype(
    np.float32
)
_WINDOW = np.outer(np.hanning(SURFACE_PX), np.hanning(SURFACE_PX)).astype(np.float32)
_OFFSET = np.minimum(np.arange(SURFACE_PX), SURFACE_PX - np.arange(SURFACE_PX))
_DISTANCE = np.maximum(_OFFSET[:, None], _OFFSET[None, :])
# Positions in a flattened surface, which is quicker than masks.
_HERE = np.flatnonzero(_DISTANCE <= NO_SHIFT_PX)
_ELSEWHERE = np.flatnonzero((_DISTANCE > NO_SHIFT_PX) & (_DISTANCE <= MOST_SHIFT_PX))


@dataclass(frozen=True)
class SideFacts:
    """Of one side.

    Attributes:
        hash: 64 bits that nearly equal images share but for a few; 0 for an empty side.
        sums: sum of the levels by channel.
        histogram: pixels by their mean level, in 16 equal bins.
        mean: of all levels, 0 to 255.
    """

    hash: int
    is_empty: bool
    sums: tuple[float, ...]
    histogram: tuple[int, ...]
    mean: float


@dataclass(frozen=True)
class Facts:
    """Of a pair.

    Attributes:
        pixels: of one side.
        shift: where the target lies from the input, as shares of width (right) and height (down), where
            that is sure.
        surface: float32 [128, 128], how much the edges of the two sides have in common for every shift, in
            standard deviations; [0, 0] is no shift. None where it was not asked for, or a side is too small
            or has next to no edges.
    """

    input: SideFacts
    target: SideFacts
    pixels: int
    shift: tuple[float, float] | None
    surface: FloatArray | None = None

    def to_json(self) -> str:
        """All but the surface."""
        sides = [list(vars(side).values()) for side in (self.input, self.target)]
        return json.dumps([*sides, self.pixels, self.shift], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Facts":
        *sides, pixels, shift = json.loads(text)
        source, target = (
            SideFacts(hash_, is_empty, tuple(sums), tuple(histogram), mean)
            for hash_, is_empty, sums, histogram, mean in sides
        )
        return cls(source, target, pixels, tuple(shift) if shift else None)


def measure(source: Pixels, target: Pixels, with_shift: bool = True, keep_surface: bool = True) -> Facts:
    """The facts of a pair as it is prepared: uint8 [side, side, channels] each."""
    grey = [_grey(pixels) for pixels in (source, target)]
    sides = [_side(pixels, shade) for pixels, shade in zip((source, target), grey, strict=True)]
    is_large = min(source.shape[:2]) >= SURFACE_PX // 2
    surface = None
    if with_shift and is_large and not any(side.is_empty for side in sides):
        surface = _surface(*grey)
    shift = None if surface is None else sure_shift(surface)
    pixels = source.shape[0] * source.shape[1]
    return Facts(sides[0], sides[1], pixels, shift, surface if keep_surface else None)


def perceptual_hash(grey: FloatArray) -> int:
    """64 bits of an image, of which nearly equal images share all but a few.

    Signs of the 64 lowest frequencies of a 32×32 version, constants left out, against their median: pHash
    after Zauner 2010, "Implementation and benchmarking of perceptual image hash functions".
    """
    small = _area(grey, _HASH_PX)
    frequencies = (_DCT @ small @ _DCT.T).ravel()
    bits = frequencies > np.median(frequencies)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def sure_shift(surface: FloatArray) -> tuple[float, float] | None:
    """Where the target lies from the input, if the surface leaves no doubt: shares of width and height."""
    values = surface.ravel()
    at = int(_ELSEWHERE[values[_ELSEWHERE].argmax()])
    best, here = float(values[at]), float(values[_HERE].max())
    if best < SURE or best < CLEARER * here:
        return None
    # The surface tells where the input lies from the target, and counts on beyond its middle.
    down, right = (
        -(step if step < SURFACE_PX // 2 else step - SURFACE_PX) for step in divmod(at, SURFACE_PX)
    )
    return right / SURFACE_PX, down / SURFACE_PX


def peak(surface: FloatArray) -> float:
    """The highest value at any shift that is looked for, none included."""
    values = surface.ravel()
    return float(max(values[_HERE].max(), values[_ELSEWHERE].max()))


def _side(pixels: Pixels, grey: FloatArray) -> SideFacts:
    is_empty = bool(grey.std() < EMPTY_STD)
    bins = (grey * np.float32(HISTOGRAM_BINS / 256)).astype(np.uint8)
    histogram = np.bincount(bins.ravel(), minlength=HISTOGRAM_BINS)
    # OpenCV sums up to four channels, a hundred times as fast as NumPy.
    channels = pixels.shape[2]
    whole = cv2.sumElems(pixels)[:channels] if channels <= 4 else pixels.sum((0, 1), dtype=np.float64)
    sums = np.asarray(whole, np.float64) * _per_level(pixels)
    mean = float(sums.sum() / pixels.size)
    hash_ = 0 if is_empty else perceptual_hash(grey)
    return SideFacts(hash_, is_empty, tuple(sums.tolist()), tuple(histogram.tolist()), mean)


def _grey(pixels: Pixels) -> FloatArray:
    """float32 [height, width], 0 to 255: luma (BT.601) of three channels, the mean of any other number."""
    if pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY), np.float32)
    return np.asarray(pixels.mean(2, dtype=np.float32) * _per_level(pixels), np.float32)


def _per_level(pixels: Pixels) -> float:
    """What one level counts on a scale of 255."""
    return 255 / float(np.iinfo(pixels.dtype).max)


def _area(grey: FloatArray, px: int) -> FloatArray:
    return np.asarray(cv2.resize(grey, (px, px), interpolation=cv2.INTER_AREA), np.float32)


def _surface(source: FloatArray, target: FloatArray) -> FloatArray | None:
    """Phase correlation of the edges of both sides (Kuglin and Hines 1975), divided by its deviation."""
    first, second = _edges(source), _edges(target)
    if first is None or second is None:
        return None
    product = np.fft.rfft2(first) * np.conj(np.fft.rfft2(second))
    surface = np.fft.irfft2(product / (np.abs(product) + np.float32(1e-9)), s=(SURFACE_PX, SURFACE_PX))
    return np.asarray(surface / surface.std(), np.float32)


def _edges(grey: FloatArray) -> FloatArray | None:
    """Edges without the mean, faded out at the border; None where there are next to none."""
    small = _area(grey, SURFACE_PX)
    steps = cv2.magnitude(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))
    # The few hardest edges would drown all others; every fourth row tells well enough which those are.
    rows = steps[::4].ravel()
    hardest = rows.size * 19 // 20
    most = np.partition(rows, hardest)[hardest]
    if most < FEW_EDGES:
        return None
    steps = np.minimum(steps, most)
    windowed = (steps - steps.mean()) * _WINDOW
    return np.asarray(windowed - windowed.mean(), np.float32)
