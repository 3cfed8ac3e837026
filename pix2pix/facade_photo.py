"""The photo of a facade: floats, 0–255, on a canvas finer than the photo; a painter per kind of part."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from .facade_grammar import UNITS, Box, Colour, Part, Style

SUPERSAMPLE = 2

Image8 = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]


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


def draw_photo(rng: np.random.Generator, style: Style, parts: list[Part], side: int) -> Image8:
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
