"""What the stored samples of one side of the pairs mean: how a file becomes them, and how they are shown."""

import colorsys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from .decoding import (
    DEFAULT_LIMITS,
    Alpha,
    Limits,
    Samples,
    UnreadableImage,
    decode,
    decode_classes,
    full_scale,
)

Range = Literal["full", "percentiles"]
Value = TypeVar("Value", int, str)
# How many files have which channels, type and alpha.
KindCounts = Counter[tuple[int, str, bool]]
# 16-bit white is 257 times 8-bit white.
WIDEN = 257
# Pixels that percentiles are measured on, over all images of a split: 4 MB a channel.
MEASURED_PIXELS, LEAST_OF_AN_IMAGE = 2**20, 16
GREY, RGB = 1, 3
# What is seen through transparent pixels: squares of two greys.
BOARD_PX, BOARD = 8, (200, 240)


@dataclass(frozen=True)
class Encoding:
    """One side's samples.

    Attributes:
        channels: of the stored image.
        dtype: uint8, uint16 or float32.
        alpha: what becomes of transparency: laid on white or black, or kept as the last channel.
        classes: above 0 the one channel holds class indices, and the network sees them one-hot.
        range: full scale (0 to 255, 65535, or 1 for floats), or percentiles of the training split.
        low, high: those percentiles, one a channel; empty at full scale.
    """

    channels: int = RGB
    dtype: str = "uint8"
    alpha: Alpha = "white"
    classes: int = 0
    range: Range = "full"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Encoding":
        """From JSON, which has lists for tuples.

        Raises:
            ValueError, TypeError: these fields describe no encoding.
        """
        made = cls(**{**fields, "low": tuple(fields.get("low", ())), "high": tuple(fields.get("high", ()))})
        if made.dtype not in ("uint8", "uint16", "float32") or made.channels < 1:
            raise ValueError(f"no encoding: {made.channels} channels of {made.dtype}")
        if len(made.low) != len(made.high) or len(made.low) not in (0, made.channels):
            raise ValueError("no encoding: a range for each channel is missing")
        return made

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @property
    def network_channels(self) -> int:
        """Channels that the network sees."""
        return self.classes or self.channels

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is transparency that was kept."""
        return self.alpha == "keep" and self.channels in (GREY + 1, RGB + 1)

    @property
    def white(self) -> float:
        """The largest value at full scale: 255, 65535 or 1."""
        return full_scale(self.dtype)

    @property
    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The values that become -1 and 1 for the network: [channels] each."""
        low = np.array(self.low or (0.0,) * self.channels)
        high = np.array(self.high or (self.white,) * self.channels)
        return low, high

    def __str__(self) -> str:
        channels = f"{self.channels} channel{'s' if self.channels > 1 else ''} of {self.dtype}"
        return f"{self.classes} classes, as indices of {self.dtype}" if self.classes else channels

    @property
    def said_range(self) -> str:
        """Such as `full`, or `0.5 to 699` for each channel."""
        each = (f"{low:.4g} to {high:.4g}" for low, high in zip(self.low, self.high, strict=True))
        return "; ".join(each) or self.range

    # --- files → samples -----------------------------------------------------------------------------

    def read(self, path: Path, limits: Limits = DEFAULT_LIMITS) -> Samples:
        """Decode a file into such samples: [height, width, channels].

        Raises:
            UnreadableImage: it does not decode, or holds something else that `fit` does not take.
        """
        if self.classes:
            return decode_classes(path, self.classes, limits)
        return self.fit(decode(path, self.alpha, limits))

    def fit(self, samples: Samples) -> Samples:
        """Samples of another kind as these, where nothing is lost: grey as RGB, 8 bits as 16, opaque alpha.

        Raises:
            UnreadableImage: something would be lost or invented, or floats go beyond their full scale.
        """
        if samples.dtype == np.uint8 and self.dtype == "uint16":
            samples = samples.astype(np.uint16) * WIDEN
        if samples.dtype != self.dtype:
            raise UnreadableImage(f"holds {samples.dtype} values, where {self.dtype} is expected")
        samples = self._with_channels(samples)
        if samples.dtype.kind == "f" and self.range == "full":
            least, most = float(samples.min()), float(samples.max())
            if least < 0 or most > 1:
                raise UnreadableImage(
                    f"holds values from {least:.4g} to {most:.4g}, but floats at full scale go from 0 to 1; "
                    "set prepare.range_input or range_target to percentiles"
                )
        return samples

    def _with_channels(self, samples: Samples) -> Samples:
        found, has_alpha = samples.shape[2], self.has_alpha
        if has_alpha and found in (GREY, RGB):
            opaque = np.full_like(samples[..., :1], full_scale(samples.dtype))
            samples = np.concatenate([samples, opaque], 2)
        colours, wanted = samples.shape[2] - has_alpha, self.channels - has_alpha
        if colours == GREY and wanted == RGB:
            return np.concatenate([samples[..., :1]] * RGB + [samples[..., 1:]], 2)
        is_grey = colours == RGB and bool((samples[..., :RGB] == samples[..., :1]).all())
        if is_grey and wanted == GREY:
            return samples[..., [0, *range(RGB, samples.shape[2])]]
        if samples.shape[2] != self.channels:
            expected = "1 is" if self.channels == 1 else f"{self.channels} are"
            raise UnreadableImage(f"has {found} channel{'s' if found > 1 else ''}, where {expected} expected")
        return samples

    # --- samples → what a person sees ----------------------------------------------------------------

    def unit(self, samples: Samples) -> NDArray[np.float64]:
        """[…, channels] → the same from 0 to 1; what lies beyond the range is at its end."""
        low, high = self.bounds
        unit: NDArray[np.float64] = (samples.astype(np.float64) - low) / (high - low)
        return unit.clip(0, 1) if self.low else unit

    def unit_in(self, samples: Samples, channels: int) -> NDArray[np.float64]:
        """[…, channels] from 0 to 1 to compare with another side's: as it is, or as its picture."""
        if self.channels == channels and not self.classes:
            return self.unit(samples)
        picture = self.rgb(samples) / 255
        return picture if channels == RGB else np.repeat(picture.mean(-1, keepdims=True), channels, -1)

    @property
    def picture_is_itself(self) -> bool:
        """Whether the samples are what a person sees: 8-bit RGB at full scale."""
        return self.channels == RGB and self.dtype == "uint8" and not self.low

    def picture(self, samples: Samples) -> NDArray[np.uint8]:
        """[…, height, width, channels] as uint8 [..., 3], as `rgb` has it; where transparency was kept, on a
        checkerboard. What `heading` says belongs beside it.
        """
        shown = self.rgb(samples)
        if not self.has_alpha:
            return shown
        rows, columns = np.ogrid[: shown.shape[-3], : shown.shape[-2]]
        board = np.where((rows // BOARD_PX + columns // BOARD_PX) % 2, *BOARD)[..., None]
        opacity = self.levels(samples)[..., -1:] / 255
        return (shown * opacity + board * (1 - opacity)).round().astype(np.uint8)

    def rgb(self, samples: Samples) -> NDArray[np.uint8]:
        """[…, channels] as uint8 [..., 3]: one or two channels as grey, of more the first three as RGB.

        Classes get a colour each.
        """
        if self.picture_is_itself:
            return samples
        if self.classes:
            return _palette(self.classes)[samples[..., 0]]
        shown = self.levels(samples)
        return shown[..., :RGB] if self.channels >= RGB else np.repeat(shown[..., :1], RGB, -1)

    def levels(self, samples: Samples) -> NDArray[np.uint8]:
        """[…, channels] as uint8, every channel on its range from 0 to 255; of classes their colours."""
        if self.picture_is_itself or self.classes:
            return self.rgb(samples)
        return (self.unit(samples).clip(0, 1) * 255).round().astype(np.uint8)

    def heading(self, name: str) -> str:
        """The name of a column of pictures, with what the pictures leave out."""
        if self.classes:
            return f"{name} ({self.classes} classes)"
        if self.channels in (GREY, RGB):
            return name
        if self.has_alpha:
            return f"{name} (transparent: chequered)"
        which = "channel 1" if self.channels < RGB else "channels 1 to 3"
        return f"{name} ({which} of {self.channels})"


RGB8 = Encoding()


def decide(kinds: KindCounts, alpha: Alpha, max_left_out: float, range_: Range = "full") -> Encoding:
    """The encoding of a side from what its files hold.

    The narrowest that leaves out no more than this share of the files: a set of grey images stays grey and
    one of 8 bits stays 8 bits when a single file has more, which is then named as unusable.

    Args:
        kinds: how many of the files that can be opened have which channels, type and alpha.
        max_left_out: 0 to 1.
    """
    if not kinds:
        return RGB8
    allowed = max_left_out * kinds.total()
    by_channels: Counter[int] = Counter()
    by_dtype: Counter[str] = Counter()
    for (found, dtype, _), count in kinds.items():
        by_channels[found] += count
        by_dtype[dtype] += count
    channels = _narrowest(by_channels, GREY, RGB, allowed)
    if alpha == "keep" and channels in (GREY, RGB) and any(has_alpha for _, _, has_alpha in kinds):
        channels += 1
    return Encoding(channels, _narrowest(by_dtype, "uint8", "uint16", allowed), alpha, range=range_)


def _narrowest(counts: "Counter[Value]", narrow: Value, wide: Value, allowed: float) -> Value:
    """The value that most files have; of two that fit into each other the narrow one, if few have more."""
    most = max(counts.items(), key=lambda item: (item[1], str(item[0])))[0]
    if most not in (narrow, wide):
        return most
    return wide if counts[wide] > allowed or not counts[narrow] else narrow


def of_classes(classes: int) -> Encoding:
    """The encoding of label maps that hold indices of so many classes."""
    return Encoding(GREY, "uint8" if classes <= 256 else "uint16", classes=classes)


def measured(
    encoding: Encoding, images: Iterable[Samples], count: int, shares: tuple[float, float]
) -> Encoding:
    """The encoding with its range set to percentiles of these images, channel by channel.

    Args:
        images: `count` of them, read once; evenly spread pixels of each are kept, a million in all.
        shares: the two percentiles, 0 to 100.
    """
    kept = [thinned(samples, count) for samples in images]
    low, high = np.percentile(np.concatenate(kept).astype(np.float64), shares, axis=0)
    # A channel that is one value everywhere still needs a width.
    high = np.where(high > low, high, low + encoding.white / 255)
    return replace(encoding, low=tuple(low.tolist()), high=tuple(high.tolist()))


def thinned(samples: Samples, count: int) -> Samples:
    """Evenly spread pixels [pixels, channels] of one image of `count`, a million of all."""
    of_each = max(LEAST_OF_AN_IMAGE, -(-MEASURED_PIXELS // count))
    flat = samples.reshape(-1, samples.shape[-1])
    return flat[:: max(1, len(flat) // of_each)]


def _palette(classes: int) -> NDArray[np.uint8]:
    """A colour for each class, neighbours far apart: hues by the golden ratio; the first is black."""
    golden = (5**0.5 - 1) / 2
    colours = [colorsys.hsv_to_rgb(index * golden % 1, 0.75, 1 - index % 3 * 0.2) for index in range(classes)]
    palette = (np.array(colours) * 255).round().astype(np.uint8)
    palette[0] = 0
    return palette
