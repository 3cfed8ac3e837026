"""What a facade is made of, and where: the styles of houses, and the grammar that lays one out.

The grammar goes from the house to its storeys and ground floor, to their openings, to what frames these. It
speaks in units, 128 to the side.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

UNITS = 128

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
    """One element of a facade: a key of `synthetic.PALETTE` and its place."""

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


@dataclass(frozen=True)
class Plan:
    """What the storeys of a house have in common."""

    elements: tuple[str, ...]
    bays: int
    railed: tuple[int, ...]  # the first floor's bays with a balcony
    entrance: int
    slim: float  # a window's share of its bay's width
    tall: float  # a window's share of its storey's height


def lay_out(rng: np.random.Generator, elements: tuple[str, ...]) -> Iterator[Part]:
    """One house with these elements, in units; the whole picture's background comes first."""
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
