"""The catalogue of published pix2pix data sets: where each comes from and how it is trained."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from .download import mirrored
from .errors import UserError
from .params import Direction, Resize

# In order: the address the authors' own download script uses, then the older one.
OFFICIAL = (
    "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets",
    "https://people.eecs.berkeley.edu/~tinghuiz/projects/pix2pix/datasets",
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A published data set of combined images: side A is the left half, B the right one.

    Attributes:
        archive_bytes: size of the official NAME.tar.gz; None where it is not known.
        pairs: published number of pairs a split; None where it is not known.
        half_px: width and height of one half, in pixels.
        direction: the default; the resize methods, epochs and batch belong to it.
        licence: what is known of the terms of use.
    """

    name: str
    archive_bytes: int | None = None
    pairs: Mapping[str, int] | None
    half_px: int = 256
    direction: Direction
    resize_input: Resize = "area"
    resize_target: Resize = "area"
    epochs: int
    batch: int
    licence: str

    @property
    def archive(self) -> str:
        """The archive's file name, the same at every address."""
        return f"{self.name}.tar.gz"

    @property
    def urls(self) -> tuple[str, ...]:
        """The official addresses, in the order in which they are tried."""
        return tuple(f"{folder}/{self.archive}" for folder in OFFICIAL)


# Pair counts, sizes and recipes: Isola et al. 2017, appendix, and the authors' archives. An input that is
# a label map is resized by nearest neighbour, which invents no colours; whatever has shades by area.
CATALOGUE = (
    Entry(
        name="facades",
        archive_bytes=30_168_306,
        pairs={"train": 400, "val": 100, "test": 106},
        direction="BtoA",
        resize_input="nearest",
        epochs=200,
        batch=1,
        licence="no open licence is established; research use; source: CMP Facade Database, Prague",
    ),
    Entry(
        name="maps",
        archive_bytes=250_242_400,
        pairs={"train": 1096, "val": 1098},
        half_px=600,
        direction="AtoB",
        epochs=200,
        batch=1,
        licence="no open licence is established; source: Google Maps imagery, whose terms hold",
    ),
    Entry(
        name="cityscapes",
        archive_bytes=103_441_232,
        pairs={"train": 2975, "val": 500},
        direction="BtoA",
        resize_input="nearest",
        epochs=200,
        batch=1,
        licence="not open: registered, non-commercial use; source: cityscapes-dataset.com",
    ),
    Entry(
        name="edges2shoes",
        pairs={"train": 49_825, "val": 200},
        direction="AtoB",
        epochs=15,
        batch=4,
        licence="no open licence is established; academic use; source: UT Zappos50K, edges by HED",
    ),
    Entry(
        name="edges2handbags",
        pairs={"train": 138_567, "val": 200},
        direction="AtoB",
        epochs=15,
        batch=4,
        licence="no open licence is established; research use; source: Amazon photos of iGAN, edges by HED",
    ),
    Entry(
        name="night2day",
        pairs=None,
        direction="BtoA",
        epochs=17,
        batch=4,
        licence="no open licence is established; research use; source: Transient Attributes, webcam images",
    ),
)


def entry(name: str) -> Entry:
    """The data set called `name`.

    Raises:
        UserError: there is none; the line names the known ones and the nearest.
    """
    known = {entry.name: entry for entry in CATALOGUE}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, n=1)
    question = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"dataset.name = {name!r}: is no published data set; {question}Known: {', '.join(known)}")


def addresses(entry: Entry) -> dict[str, int | None]:
    """Where the archive may be had, in the order to try, each with the bytes it must have there.

    The user's mirror comes first. It may hold another packing of the same images, so only the official
    addresses are held to the official size.
    """
    return mirrored(entry.archive) | dict.fromkeys(entry.urls, entry.archive_bytes)
