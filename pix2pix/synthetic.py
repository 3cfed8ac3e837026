"""The embedded dataset: facades from a small grammar, as label maps and as photos.

A style is a row of `STYLES`: it fixes the material, the colours and which elements a facade has. So the
labels tell the style (shutters mean plaster, shops mean stone) and a network can learn the colour of a wall
instead of the mean of all walls. What labels cannot tell (reflections, curtains, weather) is left to chance.

The grammar's boxes are rounded to whole label pixels before anything is painted, and the photo is rendered on
a canvas `facade_photo.SUPERSAMPLE` times as fine, so both halves share every edge.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from .facade_grammar import STYLES, UNITS, Part, lay_out
from .facade_photo import Image8, draw_photo

# The colours of the published CMP Facades label images, JPEG noise rounded away. The order is the painter's:
# what stands out of the wall comes after what lies in it.
PALETTE = {
    "background": (0, 0, 222),
    "facade": (0, 48, 255),
    "window": (0, 128, 255),
    "door": (0, 207, 255),
    "shop": (174, 0, 0),
    "pillar": (255, 0, 0),
    "molding": (255, 80, 0),  # a band across the facade
    "deco": (255, 159, 0),
    "cornice": (32, 255, 224),  # a panel above a window
    "sill": (112, 255, 143),
    "blind": (255, 240, 0),
    "balcony": (192, 255, 63),
}
SPLITS = {"train": 200, "val": 20, "test": 80}


def draw_pair(seed: int, index: int, image_px: int = 128) -> tuple[Image8, Image8]:
    """One facade, (photo, labels), both uint8 [image_px, image_px, 3]; equal arguments give equal bytes."""
    rng = np.random.default_rng([seed, index])
    style = STYLES[rng.integers(len(STYLES))]
    order = list(PALETTE)
    facade = sorted(lay_out(rng, style.elements), key=lambda part: order.index(part.kind))
    parts = [Part(kind, box.times(image_px / UNITS)) for kind, box in facade]
    return draw_photo(rng, style, parts, image_px), _labels(parts, image_px)


def _labels(parts: list[Part], side: int) -> Image8:
    """The label map, uint8 [side, side, 3]."""
    labels = np.empty((side, side, 3), np.uint8)
    for kind, box in parts:
        labels[box.area] = PALETTE[kind]
    return labels


def write_dataset(
    folder: Path,
    seed: int = 2017,
    image_px: int = 128,
    splits: Mapping[str, int] = SPLITS,
    on_pair: Callable[[int, int], None] | None = None,
) -> None:
    """Write folder/{split}/0001.png …: photo left, labels right, as CMP Facades is published.

    Args:
        splits: pairs per split; the pairs' indices run on from split to split, so none is drawn twice.
        on_pair: called with (pairs written, pairs in all) after each.
    """
    total, index = sum(splits.values()), 0
    for split, count in splits.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number in range(1, count + 1):
            pair = np.concatenate(draw_pair(seed, index, image_px), axis=1)
            Image.fromarray(pair).save(folder / split / f"{number:04d}.png")
            index += 1
            if on_pair:
                on_pair(index, total)
