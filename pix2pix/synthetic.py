"""The embedded dataset: facades from a small grammar, as label maps and as photos.

A style is a row of `STYLES`: it fixes the material, the colours and which elements a facade has. So the
labels tell the style (shutters mean plaster, shops mean stone) and a network can learn the colour of a wall
instead of the mean of all walls. What labels cannot tell (reflections, curtains, weather) is left to chance.

The grammar speaks in units, 128 to the side. Its boxes are rounded to whole label pixels before anything is
painted and the photo is rendered on a canvas `SUPERSAMPLE` times as fine, so both halves share every edge.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

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

UNITS = 128
SUPERSAMPLE = 2

Image8 = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]
Colour = tuple[float, float, float]


class Box(NamedTuple):
    """A rectangle, right and bottom exclusive: in units in the grammar, in pixels after `times`."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns, to index an image with."""
        left, top, right, bottom = map(round, self)
        return slice(max(0, top), max(0, bottom)), slice(max(0, left), max(0, right))

    def times(self, factor: float) -> "Box":
        """The box on another grid, rounded to it; a thin part keeps one pixel of a small image."""
        left, top, right, bottom = (round(edge * factor) for edge in self)
        return Box(left, top, max(right, left + 1), max(bottom, top + 1))

    def inset(self, by: float) -> "Box":
        return Box(self.left + by, self.top + by, self.right - by, self.bottom - by)

    def share(self, left: float, top: float, right: float, bottom: float) -> "Box":
        """The part between these shares (0–1) of the width and the height."""
        return Box(
            self.left + self.width * left,
            self.top + self.height * top,
            self.left + self.width * right,
            self.top + self.height * bottom,
        )

    def centred(self, width: float, top: float, bottom: float) -> "Box":
        """A box this wide in the middle, between two shares of the height."""
        inner = self.share(0.5, top, 0.5, bottom)
        return inner._replace(left=inner.left - width / 2, right=inner.right + width / 2)

    def columns(self, count: int) -> list["Box"]:
        return [self.share(i / count, 0, (i + 1) / count, 1) for i in range(count)]

    def rows(self, count: int) -> list["Box"]:
        return [self.share(0, i / count, 1, (i + 1) / count) for i in range(count)]


class Part(NamedTuple):
    """One element of a facade: a key of PALETTE and its place."""

    kind: str
    box: Box


class Masonry(NamedTuple):
    """A wall: size of a block in units, tone of the joints, spread of tones by block and by stain."""

    course: float
    length: float
    joint: float
    block: float
    stain: float


BRICK = Masonry(course=3, length=8, joint=1.22, block=0.10, stain=0.03)
ASHLAR = Masonry(course=7, length=15, joint=0.80, block=0.05, stain=0.04)
PLASTER = Masonry(course=UNITS, length=UNITS, joint=1, block=0, stain=0.06)


@dataclass(frozen=True)
class Style:
    """A kind of house: RGB colours (0–255) and the elements its grammar has."""

    masonry: Masonry
    wall: Colour
    trim: Colour
    paint: Colour  # doors, shutters, shop fronts
    frame: Colour
    roof: Colour
    elements: tuple[str, ...]


WHITE, BRONZE = (232, 230, 222), (66, 56, 48)
SLATE, TILES = (92, 94, 104), (150, 84, 62)
STYLES = (
    Style(BRICK, (152, 76, 60), (216, 204, 182), (40, 68, 60), WHITE, SLATE, ("cornice",)),
    Style(BRICK, (148, 118, 92), (220, 210, 190), (96, 42, 36), WHITE, SLATE, ("molding", "balcony")),
    Style(PLASTER, (224, 186, 116), (240, 228, 202), (60, 98, 76), WHITE, TILES, ("blind",)),
    Style(PLASTER, (212, 148, 128), (240, 230, 216), (116, 120, 118), WHITE, TILES, ("blind", "molding")),
    Style(ASHLAR, (184, 182, 174), (210, 206, 196), (44, 60, 88), BRONZE, SLATE, ("shop", "balcony")),
    Style(ASHLAR, (214, 192, 152), (228, 212, 180), (106, 60, 38), BRONZE, SLATE, ("shop", "pillar")),
)


def draw_pair(seed: int, index: int, image_px: int = 128) -> tuple[Image8, Image8]:
    """One facade, (photo, labels), both uint8 [image_px, image_px, 3]; equal arguments give equal bytes."""
    rng = np.random.default_rng([seed, index])
    style = STYLES[rng.integers(len(STYLES))]
    order = list(PALETTE)
    facade = sorted(_house(rng, style.elements), key=lambda part: order.index(part.kind))
    parts = [Part(kind, box.times(image_px / UNITS)) for kind, box in facade]
    return _photo(rng, style, parts, image_px), _labels(parts, image_px)


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


# The grammar: house → storeys and ground floor → openings → what frames them.


@dataclass(frozen=True)
class Plan:
    """What the storeys of a house have in common."""

    elements: tuple[str, ...]
    bays: int
    railed: tuple[int, ...]  # the first floor's bays with a balcony
    entrance: int
    slim: float  # a window's share of its bay's width
    tall: float  # a window's share of its storey's height


def _house(rng: np.random.Generator, elements: tuple[str, ...]) -> Iterator[Part]:
    left, right = np.maximum(0, rng.uniform(-6, 15, 2))
    house = Box(left, rng.uniform(15, 25), UNITS - right, rng.uniform(117, 123))
    # Four storeys leave no wall between a sill and the cornice below it.
    storeys = int(rng.integers(2, 4 if "cornice" in elements else 5))
    first_floor = house.bottom - house.height * rng.uniform(0.25, 0.34 - 0.02 * storeys)
    upper = house._replace(top=house.top + 5, bottom=first_floor)
    bays = int(rng.integers(max(3, storeys), 6))
    plan = Plan(
        elements,
        bays,
        railed=((bays // 2,), (0, bays - 1), tuple(range(bays)))[rng.integers(3)],
        entrance=int(rng.integers(bays)),
        slim=0.36 if "blind" in elements else rng.uniform(0.44, 0.56),
        tall=rng.uniform(0.54, 0.64),
    )
    yield Part("background", Box(0, 0, UNITS, UNITS))
    yield Part("facade", house)
    yield Part("molding", Box(house.left - 2, house.top, house.right + 2, upper.top))
    for floor, storey in enumerate(reversed(upper.rows(storeys)), start=1):
        yield from _storey(rng, plan, storey, floor)
    if "pillar" in elements:
        for bay in _bays(upper, bays)[1:]:
            yield Part("pillar", bay._replace(left=bay.left - 2, right=bay.left + 2))
    yield from _ground_floor(plan, house._replace(top=first_floor))


def _storey(rng: np.random.Generator, plan: Plan, storey: Box, floor: int) -> Iterator[Part]:
    if floor == 1 or "molding" in plan.elements:
        yield Part("molding", storey._replace(top=storey.bottom - 1.2, bottom=storey.bottom + 1.2))
    for number, bay in enumerate(_bays(storey, plan.bays)):
        # Wider than tall is a workshop's window, not a dwelling's.
        width = min(plan.slim * bay.width, 0.9 * plan.tall * bay.height)
        window = bay.centred(width, 0.21, 0.21 + plan.tall)
        if floor == 1 and number in plan.railed and "balcony" in plan.elements:
            yield from _balcony(window._replace(bottom=bay.bottom - 3))
        else:
            yield from _window(window)
        if "cornice" in plan.elements:
            yield Part("cornice", window.share(-0.15, 0, 1.15, 0)._replace(top=window.top - 2.5))
        if "blind" in plan.elements:
            yield from _shutters(window, closed=rng.random() < 0.15)


def _ground_floor(plan: Plan, ground: Box) -> Iterator[Part]:
    for number, bay in enumerate(_bays(ground, plan.bays)):
        if number == plan.entrance:
            door = bay.centred(min(0.5 * bay.width, 14), 0.3, 1)
            yield Part("door", door)
            yield Part("deco", door._replace(top=door.top - 4, bottom=door.top))
        elif "shop" in plan.elements:
            yield Part("shop", bay.share(0.06, 0.16, 0.94, 0.97))
        else:
            yield from _window(bay.centred(min(plan.slim * bay.width, 0.5 * bay.height), 0.2, 0.7))


def _bays(storey: Box, count: int) -> list[Box]:
    return storey.share(0.03, 0, 0.97, 1).columns(count)


def _window(window: Box) -> Iterator[Part]:
    yield Part("window", window)
    yield Part("sill", window.share(-0.12, 1, 1.12, 1)._replace(bottom=window.bottom + 2))


def _balcony(window: Box) -> Iterator[Part]:
    yield Part("window", window)
    yield Part("balcony", window.share(-0.25, 0.6, 1.25, 1)._replace(bottom=window.bottom + 1.8))


def _shutters(window: Box, closed: bool) -> Iterator[Part]:
    for left, right in [(0, 1)] if closed else [(-0.5, 0), (1, 1.5)]:
        yield Part("blind", window.share(left, 0, right, 1))


def _labels(parts: list[Part], side: int) -> Image8:
    """The label map, uint8 [side, side, 3]."""
    labels = np.empty((side, side, 3), np.uint8)
    for kind, box in parts:
        labels[box.area] = PALETTE[kind]
    return labels


# The photo: floats, 0–255, on the fine canvas; a painter per kind of part.


@dataclass(frozen=True)
class Scene:
    """What the painters share; `canvas` is float32 [side, side, 3] and they paint on it."""

    canvas: Floats
    rng: np.random.Generator
    style: Style
    unit: float  # canvas pixels
    skyline: float  # share of a window that mirrors the sky, not the house opposite
    curtain: Colour
    sky: Colour

    def length(self, units: float) -> int:
        """Canvas pixels, at least one: a bar does not vanish from a small image."""
        return max(1, round(units * self.unit))

    def shape(self, box: Box) -> tuple[int, int]:
        """Rows and columns of the box that are on the canvas."""
        height, width, _ = self.canvas[box.area].shape
        return height, width

    def fill(self, box: Box, colour: Colour | Floats) -> None:
        self.canvas[box.area] = colour

    def blend(self, box: Box, colour: Colour | Floats, opacity: float | Floats) -> None:
        region = self.canvas[box.area]
        region += opacity * (np.asarray(colour, np.float32) - region)

    def shade(self, box: Box, tone: float | Floats) -> None:
        self.canvas[box.area] *= tone


def _photo(rng: np.random.Generator, style: Style, parts: list[Part], side: int) -> Image8:
    """The photo, uint8 [side, side, 3]: the wall, the shadows on it, what stands out of it, the camera."""
    fine = side * SUPERSAMPLE
    scene = Scene(
        canvas=np.zeros((fine, fine, 3), np.float32),
        rng=rng,
        style=replace(
            style,
            wall=_varied(rng, style.wall, 0.07),
            trim=_varied(rng, style.trim, 0.04),
            roof=_varied(rng, style.roof, 0.08),
            paint=_varied(rng, style.paint, 0.15),
        ),
        unit=fine / UNITS,
        skyline=rng.uniform(0.25, 0.6),
        curtain=_varied(rng, (222, 214, 196), 0.08),
        sky=_varied(rng, (150, 184, 222), 0.08),
    )
    parts = [Part(kind, box.times(SUPERSAMPLE)) for kind, box in parts]
    for kind, box in parts:
        if kind not in DEPTH:
            PAINTERS[kind](scene, box)
    scene.canvas[:] *= _shadows(parts, fine, scene.unit)
    for kind, box in parts:
        if kind in DEPTH:
            PAINTERS[kind](scene, box)
    return _exposed(rng, scene.canvas)


def _exposed(rng: np.random.Generator, canvas: Floats) -> Image8:
    """What a camera makes of the canvas: a lens a little soft, the daylight, a sensor's noise."""
    side = len(canvas) // SUPERSAMPLE
    sharp = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    # The triangle filter reaches over twice the pixels it must: that is the softness.
    light = np.asarray(sharp.resize((side, side), Image.Resampling.BILINEAR)) * _daylight(rng, side)
    light += 2.5 * rng.standard_normal((side, side, 1), np.float32)
    light += 1.2 * rng.standard_normal((side, side, 3), np.float32)
    return np.asarray(light.round().clip(0, 255), np.uint8)


def _varied(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    """The colour a little lighter or darker, and warmer or colder."""
    light, warmth = 1 + rng.normal(0, spread), rng.normal(0, spread / 2)
    red, green, blue = colour
    return red * (light + warmth), green * light, blue * (light - warmth)


def _daylight(rng: np.random.Generator, side: int) -> Floats:
    """The tone of the daylight, about 1, brighter towards one side and the top: [side, side, 1]."""
    across, down = np.linspace(-1, 1, side)[None, :], np.linspace(1, -1, side)[:, None]
    light = rng.normal(1, 0.04) + rng.normal(0, 0.06) * across + rng.uniform(0, 0.08) * down
    return np.asarray(light[..., None], np.float32)


def _clouds(rng: np.random.Generator, cells: int, shape: tuple[int, int]) -> Floats:
    """Smooth noise of mean 0 and deviation about 1: [height, width, 1]."""
    height, width = shape
    noise = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
    return np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))[..., None]


def _shadows(parts: list[Part], side: int, unit: float) -> Floats:
    """The tone of the shadows that `DEPTH` casts downwards, 1 where there is none: [side, side, 1]."""
    shadow = np.zeros((side, side), np.uint8)
    for kind, box in parts:
        if kind in DEPTH:
            # Of a balcony, the slab throws it; the railing lets the light through.
            solid = box.share(0, 0.8, 1, 1) if kind == "balcony" else box
            down, aside = round(DEPTH[kind] * unit), round(DEPTH[kind] * unit / 3)
            shadow[Box(*np.add(solid, (aside, down, aside, down))).area] = 130
    soft = Image.fromarray(shadow).filter(ImageFilter.GaussianBlur(unit / 2))
    return 1 - np.asarray(soft, np.float32)[..., None] / 255


def _ribs(scene: Scene, box: Box, units: float, axis: int) -> Floats:
    """1 and 0 in turns, `units` from rib to rib: [height, 1, 1] for axis 0, [1, width, 1] for axis 1."""
    period = max(2, scene.length(units))
    ribs = np.arange(scene.shape(box)[axis]) % period < period / 2
    return np.expand_dims(ribs.astype(np.float32), (1 - axis, 2))


def _paint_background(scene: Scene, box: Box) -> None:
    """The sky, as far down as it can be seen."""
    sky = box.share(0, 0, 1, 0.5)
    height, width = scene.shape(sky)
    haze = np.linspace(0, 0.5, height, dtype=np.float32)[:, None, None]
    clouds = np.clip(_clouds(scene.rng, 6, (height, width)), 0, 1) / 2
    scene.fill(sky, scene.sky)
    scene.blend(sky, (240, 240, 240), np.maximum(haze, clouds))


def _paint_facade(scene: Scene, box: Box) -> None:
    _paint_street(scene, box)
    scene.fill(box, scene.style.wall)
    scene.shade(box, _masonry(scene, box))
    # Rain splashes the foot of the wall, and every house has a plinth there.
    foot = box._replace(top=box.bottom - scene.length(16))
    scene.shade(foot, np.linspace(1, 0.86, scene.shape(foot)[0])[:, None, None])
    scene.blend(box._replace(top=box.bottom - scene.length(3.5)), (112, 108, 104), 0.6)


def _masonry(scene: Scene, box: Box) -> Floats:
    """The tone of a wall, about 1: blocks, joints, stains and grain, [height, width, 1]."""
    wall, (height, width) = scene.style.masonry, scene.shape(box)
    y, x = np.arange(height) / scene.unit, np.arange(width) / scene.unit
    course = (y // wall.course).astype(int)
    # Every other course is laid half a block further.
    along = np.stack([x, x + wall.length / 2])
    block = (along // wall.length).astype(int)
    tones = scene.rng.normal(1, wall.block, (course.max() + 1, block.max() + 1)).astype(np.float32)
    tone = tones[course[:, None], block[course % 2]]
    joints = (y % wall.course < 0.5)[:, None] | (along % wall.length < 0.5)[course % 2]
    tone[joints] = wall.joint
    tone += 0.02 * scene.rng.standard_normal((height, width), np.float32)
    return np.asarray(tone[..., None] + wall.stain * _clouds(scene.rng, 5, (height, width)))


def _paint_street(scene: Scene, house: Box) -> None:
    """What surrounds the house: its roof, the neighbours and the pavement."""
    side, rng = scene.canvas.shape[0], scene.rng
    for left, right in ((0, house.left), (house.right, side)):
        neighbour = Box(left, house.top + scene.length(rng.uniform(-6, 22)), right, house.bottom)
        scene.fill(neighbour, _varied(rng, (134, 122, 110), 0.07))
        for row in neighbour.rows(4):
            scene.fill(row.share(0.25, 0.3, 0.7, 0.75), (74, 80, 88))
        scene.fill(neighbour._replace(bottom=neighbour.top + scene.length(2)), (92, 86, 84))
    roof = house._replace(top=house.top - scene.length(9), bottom=house.top)
    for number in range(2):
        left = roof.left + roof.width * rng.uniform(0.1 + number / 2, 0.4 + number / 2)
        chimney = Box(left, roof.top - scene.length(5), left + scene.length(4), roof.top)
        scene.fill(chimney, (128, 84, 70))
    scene.fill(roof, scene.style.roof)
    scene.shade(roof, 1 - 0.14 * _ribs(scene, roof, 1.5, axis=0))
    pavement = Box(0, house.bottom, side, side)
    scene.fill(pavement, (158, 154, 148))
    scene.shade(pavement, 1 + 0.05 * _clouds(rng, 12, scene.shape(pavement)))
    scene.fill(pavement.share(0, 0.45, 1, 1), (98, 98, 102))
    scene.fill(pavement.share(0, 0.38, 1, 0.5), (186, 184, 178))
    scene.shade(pavement.share(0, 0, 1, 0.16), 0.7)


def _paint_glass(scene: Scene, box: Box) -> None:
    """A pane: the sky above the roofs opposite, a dark room below, sometimes curtains or a lamp."""
    rng, (height, width) = scene.rng, scene.shape(box)
    y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    room = np.array((44, 50, 58) if rng.random() > 0.12 else (196, 150, 84))
    scene.fill(box, room * (1.1 - 0.4 * y))
    if rng.random() < 0.5:
        drawn = np.abs(x - 0.5) > rng.uniform(0.2, 0.4) + 0.12 * y
        scene.blend(box, np.array(scene.curtain) * (0.92 + 0.08 * np.cos(x * 40)), 0.8 * drawn)
    mirrored = 0.5 * (y < scene.skyline + rng.normal(0, 0.05))
    glint = 0.25 * (np.abs(x + y - rng.uniform(0, 2)) < 0.18)
    scene.blend(box, scene.sky, mirrored + glint)


def _paint_window(scene: Scene, box: Box) -> None:
    frame, bar = scene.style.frame, scene.length(0.8)
    scene.fill(box, frame)
    _paint_glass(scene, box.inset(bar))
    scene.fill(box.centred(bar, 0, 1), frame)
    transom = box.share(0, 0.32, 1, 1)
    scene.fill(transom._replace(bottom=transom.top + bar), frame)
    # The wall is thick: it shades the frame from above and from the side.
    scene.shade(box._replace(bottom=box.top + 2 * bar), 0.55)
    scene.shade(box._replace(right=box.left + bar), 0.8)


def _paint_door(scene: Scene, box: Box) -> None:
    paint, bar = np.array(scene.style.paint), scene.length(0.6)
    scene.fill(box, scene.style.trim)
    inner = box._replace(left=box.left + 2 * bar, right=box.right - 2 * bar, top=box.top + 2 * bar)
    _paint_glass(scene, inner.share(0, 0, 1, 0.25))
    for leaf in inner.share(0, 0.25, 1, 1).columns(2):
        scene.fill(leaf, paint)
        for panel in (leaf.share(0.25, 0.1, 0.8, 0.45), leaf.share(0.25, 0.55, 0.8, 0.9)):
            scene.shade(panel, 0.7)
            scene.fill(panel.inset(bar), paint * 1.2)
        scene.shade(leaf._replace(right=leaf.left + bar), 0.6)
    scene.shade(inner._replace(bottom=inner.top + 2 * bar), 0.6)
    scene.fill(box._replace(top=box.bottom - 2 * bar), (150, 146, 140))


def _paint_shop(scene: Scene, box: Box) -> None:
    paint, bar = scene.style.paint, scene.length(0.8)
    scene.fill(box, paint)
    sign = box.share(0.04, 0.03, 0.96, 0.2)
    scene.shade(sign, 0.8)
    for letter in sign.share(0.2, 0.3, 0.8, 0.75).columns(6):
        scene.fill(letter.share(0, 0, scene.rng.uniform(0.5, 0.8), 1), (232, 214, 160))
    display = box.share(0.06, 0.26, 0.94, 0.84)
    _paint_glass(scene, display)
    scene.fill(display.centred(bar, 0, 1), paint)
    scene.shade(display._replace(bottom=display.top + 2 * bar), 0.6)


def _paint_slab(scene: Scene, box: Box) -> None:
    """A dressed stone that stands out of the wall: bright edge on top, dark one below."""
    scene.fill(box, scene.style.trim)
    edge = scene.length(0.5)
    scene.blend(box._replace(bottom=box.top + edge), (255, 252, 244), 0.5)
    scene.shade(box._replace(top=box.bottom - edge), 0.75)


def _paint_molding(scene: Scene, box: Box) -> None:
    _paint_slab(scene, box)
    if box.height > scene.length(3):
        # The band under the eaves and the panel above a door are deep enough for dentils.
        dentils = box.share(0, 0.55, 1, 0.9)
        scene.shade(dentils, 1 - 0.4 * _ribs(scene, dentils, 4, axis=1))


def _paint_pillar(scene: Scene, box: Box) -> None:
    scene.fill(box, scene.style.trim)
    across = np.linspace(0.5, 2.9, scene.shape(box)[1])
    scene.shade(box, 0.78 + 0.3 * np.sin(across)[None, :, None])
    _paint_slab(scene, box._replace(bottom=box.top + scene.length(2)))
    _paint_slab(scene, box._replace(top=box.bottom - scene.length(2)))


def _paint_blind(scene: Scene, box: Box) -> None:
    """Louvred shutters: one leaf beside a window, two when they close it."""
    leaves = 2 if box.width > 0.45 * box.height else 1
    for leaf in box.columns(leaves):
        scene.fill(leaf, scene.style.paint)
        louvres = leaf.share(0.15, 0.06, 0.85, 0.94)
        scene.shade(louvres, 1 - 0.3 * _ribs(scene, louvres, 2, axis=0))
        scene.shade(leaf._replace(left=leaf.right - scene.length(0.5)), 0.65)
        scene.shade(leaf._replace(bottom=leaf.top + scene.length(0.5)), 1.2)


def _paint_balcony(scene: Scene, box: Box) -> None:
    iron, bar = (34, 34, 38), scene.length(0.5)
    slab = box.share(0, 0.8, 1, 1)
    railing = box._replace(bottom=slab.top)
    scene.shade(railing, 0.8)
    scene.blend(railing, iron, 0.9 * _ribs(scene, railing, 2, axis=1))
    scene.fill(railing._replace(bottom=railing.top + 2 * bar), iron)
    scene.fill(railing._replace(left=railing.right - bar), iron)
    _paint_slab(scene, slab)


PAINTERS: dict[str, Callable[[Scene, Box], None]] = {
    "background": _paint_background,
    "facade": _paint_facade,
    "window": _paint_window,
    "door": _paint_door,
    "shop": _paint_shop,
    "pillar": _paint_pillar,
    "molding": _paint_molding,
    "deco": _paint_molding,
    "cornice": _paint_slab,
    "sill": _paint_slab,
    "blind": _paint_blind,
    "balcony": _paint_balcony,
}
# How far, in units, a part stands out of the wall; these are painted over the shadows they cast.
DEPTH = {"pillar": 1, "molding": 3, "deco": 1, "cornice": 2, "sill": 2, "blind": 1, "balcony": 5}
