"""Layouts: finding the pairs below a folder, whichever of the usual ways they lie there."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import manifest
from .errors import UserError, is_plain
from .images import IMAGE_SUFFIXES
from .manifest import SPLIT_WORDS, Row, Split
from .pair_list import Pair, Pairs

# Words for side A and side B, as folders or as ends of names. A data set has one couple of them: the first
# of which it has both, or one of the first two of which it has one.
COUPLES = (
    ("a", "b"),
    ("input", "target"),
    ("inputs", "targets"),
    ("input", "output"),
    ("source", "target"),
    ("image", "label"),
    ("images", "labels"),
    ("image", "mask"),
    ("images", "masks"),
)
# Who names a side so has said what goes in; of images and labels either may.
NAMING_THE_INPUT = COUPLES[1:5]
# Folders of these names are sides even where the other one is missing.
UNMISTAKABLE = COUPLES[:2]
# Folders that tell a pair's split or side; any other single folder around the data is only wrapping.
TELLING_FOLDERS = {*SPLIT_WORDS, "a", "b"}
# What file systems take.
MAX_NAME_BYTES = 255

_WORDS = "|".join(dict.fromkeys(word for couple in COUPLES for word in couple))
_JOINED = re.compile(rf"({'|'.join(SPLIT_WORDS)})[_-]?({_WORDS})", re.IGNORECASE)
_ENDING = re.compile(r"(.+)[_.\- ](a|b|input|target)", re.IGNORECASE | re.DOTALL)

Couple = tuple[str, str]


@dataclass(frozen=True)
class Reject:
    """A file that cannot be used and why, in words that fit behind its name."""

    file: str
    reason: str


@dataclass(frozen=True)
class Found:
    """The pairs of a folder in a fixed order, what could not be used, and the layout in words.

    Attributes:
        names_input: whether the data's own names say that side A is the input.
    """

    pairs: Sequence[Pair]
    rejects: list[Reject]
    layout: str
    names_input: bool = False


@dataclass
class _Finding:
    """Pairs by split and name as file after file comes in."""

    couple: Couple | None
    pairs: dict[Split | None, dict[str, Pair]] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)

    def add(self, file: str, split: Split | None, side: str, name: str) -> None:
        if problem := _name_problem(name):
            self.rejects.append(Reject(repr(file), problem))
            return
        pairs = self.pairs.setdefault(split, {})
        known = pairs.get(name)
        if known is None:
            # An empty path is a side that is still missing.
            lone_b = {"A": "", "B": file}.get(side)
            pairs[name] = Pair(name, split, "" if side == "B" else file, lone_b)
        elif side == "A" and known.a == "":
            known.a = file
        elif side == "B" and known.b == "":
            known.b = file
        else:
            self.rejects.append(Reject(file, f"a second file for the pair {name}"))

    def usable(self) -> Pairs:
        """The whole pairs; what is left over joins the rejects."""
        has_splits = any(split for split in self.pairs)
        usable = Pairs()
        for split, pairs in self.pairs.items():
            for pair in pairs.values():
                if has_splits and split is None:
                    files = filter(None, (pair.a, pair.b))
                    self.rejects += [Reject(file, "lies outside the split folders") for file in files]
                elif pair.a and pair.b != "":
                    usable.append(pair)
                else:
                    self.rejects.append(Reject(pair.a or pair.b or "", self._partner_missing(bool(pair.a))))
        return usable

    def _partner_missing(self, is_a: bool) -> str:
        if self.couple is None:
            return f"has no partner that ends in _{'B' if is_a else 'A'}"
        a, b = self.couple
        return f"has no partner of the same name in {_shown(b if is_a else a)}/"


def find_pairs(folder: Path, derived: bool = False) -> Found:
    """Find the pairs below a folder, in a fixed order.

    A file pairs.csv or pairs.jsonl at its top lists them (see `manifest.read`). Else a folder called train,
    val or test anywhere on a file's path is its split; one called A or B, or by another of `COUPLES`, its
    side; what is left of the path is its name. Where there are no such folders, and every name ends in _A or
    _B, that end is its side. Files without a side are combined images. Hidden files and macOS's `__MACOSX`
    are passed over.

    Args:
        derived: every image is a photo, whose input will be derived from it; no folder is a side.

    Raises:
        UserError: the manifest is not one, or there is one for photos; only a part of the names has ends.
    """
    listed = manifest.find(folder)
    if listed and derived:
        raise UserError(
            f"{listed}: lists pairs, but dataset.derive takes photos alone; remove one of the two"
        )
    if listed:
        return _from_manifest(folder, listed)
    files = list(_scan(str(folder))) if folder.is_dir() else []
    couple = None if derived else _couple(files)
    by_ending = not derived and couple is None and _have_endings(files)
    finding = _Finding(couple)
    for file in files:
        split, side, name = _place(file, couple)
        if by_ending and (ending := _ending(file)):
            name = name.removesuffix(unicodedata.normalize("NFC", file[ending[0] : file.rindex(".")]))
            side = ending[1]
        finding.add(file, split, side, name)
    pairs = finding.usable()
    if by_ending:
        names_input = all(pair.a.rpartition(".")[0].lower().endswith("input") for pair in pairs)
    else:
        names_input = couple in NAMING_THE_INPUT and all(pair.b is not None for pair in pairs)
    return Found(pairs, finding.rejects, _layout(pairs, couple, derived, by_ending), names_input)


def unwrapped(folder: Path) -> Path:
    """The folder inside the single folders that only wrap it."""
    items = list(folder.iterdir())
    if len(items) == 1 and items[0].is_dir() and items[0].name.lower() not in TELLING_FOLDERS:
        return unwrapped(items[0])
    return folder


def _scan(folder: str) -> Iterator[str]:
    """The images below a folder, each as a path with slashes, in order of name folder by folder."""
    waiting = [_items(folder, "")]
    while waiting:
        for path in waiting[-1]:
            if not path.endswith("/"):
                yield path
                continue
            waiting.append(_items(folder, path))
            break
        else:
            waiting.pop()


def _items(folder: str, path: str) -> Iterator[str]:
    """The images and folders in one folder, in order of name; folders end with a slash."""
    names, folders = [], set()
    with os.scandir(f"{folder}/{path}") as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            # Links to images are followed, links to folders are not: a loop has no end.
            if entry.is_dir(follow_symlinks=False):
                folders.add(entry.name)
            elif not _is_image_file(entry):
                continue
            names.append(entry.name)
    names.sort()
    return (f"{path}{name}/" if name in folders else f"{path}{name}" for name in names)


def _is_image_file(entry: os.DirEntry[str]) -> bool:
    return _is_image(entry.name) and entry.is_file()


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def _couple(files: Sequence[str]) -> Couple | None:
    """The words that this data set's folders call its sides by."""
    words: set[str] = set()
    for folder in {file.rpartition("/")[0] for file in files}:
        for part in folder.lower().split("/"):
            joined = _JOINED.fullmatch(part)
            words.add(joined[2] if joined else part)
    both = (couple for couple in COUPLES if words.issuperset(couple))
    one = (couple for couple in UNMISTAKABLE if not words.isdisjoint(couple))
    return next(both, None) or next(one, None)


def _place(file: str, couple: Couple | None) -> tuple[Split | None, str, str]:
    """Split, side and name of a file by the folders on its path."""
    sides = dict(zip(couple, "AB", strict=True)) if couple else {}
    split: Split | None = None
    side = ""
    *folders, last = file.split("/")
    rest = []
    for folder in folders:
        word = folder.lower()
        # train, A and a each say one thing; trainA says both.
        joined = _JOINED.fullmatch(word)
        if split is None and not side and joined and joined[2] in sides:
            split, side = SPLIT_WORDS[joined[1]], sides[joined[2]]
        elif split is None and word in SPLIT_WORDS:
            split = SPLIT_WORDS[word]
        elif not side and word in sides:
            side = sides[word]
        else:
            rest.append(folder)
    stem = last[: last.rindex(".")]
    # macOS takes letters like é apart; a name must be the same text wherever it was typed.
    return split, side, unicodedata.normalize("NFC", "__".join([*rest, stem]))


# --- names like 1_A.png and 1_B.png --------------------------------------------------------------------


def _ending(file: str) -> tuple[int, str] | None:
    """Where the stem's ending _A or _B begins in the path, and the side it says."""
    start = file.rfind("/") + 1
    match = _ENDING.fullmatch(file, start, file.rindex("."))
    return (match.end(1), "A" if match[2].lower() in ("a", "input") else "B") if match else None


def _have_endings(files: Sequence[str]) -> bool:
    """Whether every file's name says its side.

    Raises:
        UserError: most do, so the others cannot be combined images.
    """
    starts: Counter[tuple[str, str]] = Counter()
    plain = ""
    for file in files:
        ending = _ending(file)
        if ending:
            starts[file[: ending[0]], ending[1]] += 1
        else:
            plain = plain or file
    coupled = sum(2 for start, side in starts if side == "A" and (start, "B") in starts)
    if coupled == 0 or coupled <= len(files) / 2:
        return False
    if plain:
        raise UserError(
            f"{coupled} of {len(files)} images are named in pairs like 1_A.png and 1_B.png, but {plain} is "
            "not; move it away, put the sides into folders A/ and B/, or list the pairs in pairs.csv"
        )
    return True


# --- manifests -----------------------------------------------------------------------------------------


def _from_manifest(folder: Path, listed: Path) -> Found:
    pairs: dict[tuple[Split | None, str], Pair] = {}
    rejects = []
    names_input = True
    for row in manifest.read(listed):
        names_input = names_input and row.names_input
        a, b = (_existing(folder, path) for path in (row.a, row.b))
        name = unicodedata.normalize("NFC", row.a.rpartition(".")[0].replace("/", "__"))
        problem = _row_problem(row, a, b, (row.split, name) in pairs) or _name_problem(name)
        if problem:
            rejects.append(Reject(f"{listed.name} line {row.line}", problem))
        elif a and b:
            pairs[row.split, name] = Pair(name, row.split, a, b)
    if any(split for split, _ in pairs):
        lines = [pair for (split, _), pair in pairs.items() if split is None]
        rejects += [Reject(pair.a, f"has no split in {listed.name}, where others have") for pair in lines]
        pairs = {key: pair for key, pair in pairs.items() if key[0]}
    return Found(Pairs(pairs.values()), rejects, f"the pairs listed in {listed.name}", names_input)


def _row_problem(row: Row, a: str, b: str, is_second: bool) -> str:
    for path, found in ((row.a, a), (row.b, b)):
        shown = path if path.isprintable() and len(path) <= MAX_NAME_BYTES else manifest.shown(path)
        if path.startswith("/") or ".." in path.split("/"):
            return f"names {shown}, which is not below the manifest's own folder"
        if not _is_image(path):
            return f"names {shown}, which is no image by its suffix"
        if not found:
            return f"names {shown}, which is not there"
    return f"names {row.a} a second time" if is_second else ""


def _existing(folder: Path, path: str) -> str:
    """The path as the disk has it, which may spell letters like é another way; empty if it is not there."""
    spellings = dict.fromkeys([path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))])
    try:
        return next((spelling for spelling in spellings if os.path.isfile(f"{folder}/{spelling}")), "")  # noqa: PTH113
    except ValueError:
        return ""


# --- words ---------------------------------------------------------------------------------------------


def _layout(pairs: Sequence[Pair], couple: Couple | None, derived: bool, by_ending: bool) -> str:
    if derived:
        return "photos"
    kinds = Counter(pair.b is None for pair in pairs)
    said = []
    if kinds[False] and couple:
        said.append(f"folders {_shown(couple[0])}/ and {_shown(couple[1])}/")
    elif kinds[False] and by_ending:
        said.append("names that end in _A and _B")
    if kinds[True]:
        said.append("combined images")
    return " and ".join(said)


def _shown(word: str) -> str:
    return word.upper() if len(word) == 1 else word


def _name_problem(name: str) -> str:
    if not is_plain(name):
        return "has a name that is not plain text"
    too_long = len(f"{name}.png".encode()) > MAX_NAME_BYTES
    return "has too long a name, with its folders" if too_long else ""
