"""Lists of many pairs and names in little memory: as objects a hundred thousand take ten times as much."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast, overload

from .manifest import Split

# In no path.
_SEPARATOR = "\0"


@dataclass(slots=True)
class Pair:
    """Where one pair comes from: one file (a combined image, or a photo), or one for each side.

    Attributes:
        a, b: paths below the data's folder, with slashes.
    """

    name: str
    split: Split | None
    a: str
    b: str | None = None


class Texts(Sequence[str]):
    """Texts, kept as the bytes of all of them and where each ends."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q")

    def append(self, text: str) -> None:
        # A path may have bytes that are no text.
        self._bytes += text.encode(errors="surrogateescape")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        begin = self._ends[place - 1] if place else 0
        return self._bytes[begin : self._ends[place]].decode(errors="surrogateescape")


class Pairs(Sequence[Pair]):
    """Whole pairs; each access makes its `Pair` anew."""

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        self._texts = Texts()
        for pair in pairs:
            self.append(pair)

    def append(self, pair: Pair) -> None:
        self._texts.append(_SEPARATOR.join((pair.name, pair.split or "", pair.a, pair.b or "")))

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        found = self._texts[index]
        return _pair(found) if isinstance(found, str) else [_pair(text) for text in found]


def _pair(text: str) -> Pair:
    name, split, a, b = text.split(_SEPARATOR)
    return Pair(name, cast("Split", split) if split else None, a, b or None)
