"""Preparing many pairs on all cores, with flat memory, so that an interrupted run is gone on with."""

import errno
import hashlib
import os
import shutil
import sqlite3
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from . import decoding, deep, derive, encoding, images, pair_facts, pairs, profiles
from .decoding import Samples, UnreadableImage
from .encoding import Encoding
from .errors import UserError
from .files import sha256_file, sha256_json
from .images import Pixels
from .manifest import Split
from .pair_facts import Facts, measure
from .pair_grid import spread
from .pair_list import Pair
from .pair_set import read_prepared
from .pairs import SPLITS, Recipe
from .params import Size

# Pairs between two commits of the journal: what a killed run has to prepare again.
COMMIT_EVERY = 100
# Pairs that are waited for or worked on at once, for each worker.
AHEAD = 8
# Pairs, spread over the set, whose edges together tell where all targets lie from their inputs.
COMPARED = 1000
COLUMNS = "source_sha256, written_sha256, sha256, source_size, facts"
JOURNAL, FINGERPRINT = "journal.sqlite", "fingerprint"


@dataclass(frozen=True)
class Prepared:
    """What became of a pair: the digest of its pixels, the size its sides came in, what was measured."""

    sha256: str
    source_size: str
    facts: Facts


@dataclass(frozen=True)
class Outcome:
    """A pair with what was prepared from it, or the reason why nothing could be."""

    split: Split
    pair: Pair
    prepared: Prepared | None
    reason: str = ""


@dataclass(frozen=True)
class _Known:
    """What the journal has of a pair: digests of its files and of those made from them, and of the pixels."""

    source_sha256: str
    written_sha256: str
    sha256: str
    source_size: str
    facts: str


class Workplace:
    """A folder in which pairs are prepared, with a journal of those that are done.

    It stays behind when a run is interrupted or refused. The next one with the same recipe and code takes
    over every pair whose files have the digests that the journal has, in and out.
    """

    def __init__(self, folder: Path, journal: sqlite3.Connection, recipe: Recipe) -> None:
        self.folder = folder
        self._recipe = recipe
        self._journal = journal
        self._waiting: list[tuple[str, ...]] = []

    def known(self, split: Split, name: str) -> _Known | None:
        row = self._journal.execute(
            f"SELECT {COLUMNS} FROM pairs WHERE split = ? AND name = ?", (split, name)
        ).fetchone()
        return _Known(*row) if row else None

    def count(self) -> int:
        """Pairs that were prepared before."""
        (count,) = self._journal.execute("SELECT count(*) FROM pairs").fetchone()
        return int(count)

    def note(self, split: Split, name: str, known: _Known) -> None:
        self._waiting.append((split, name, *vars(known).values()))
        if len(self._waiting) >= COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        with _full_disk_named(), self._journal:
            self._journal.executemany(
                "INSERT OR REPLACE INTO pairs VALUES (?, ?, ?, ?, ?, ?, ?)", self._waiting
            )
        self._waiting.clear()

    def read(self, split: Split, name: str) -> tuple[Pixels, Pixels]:
        """Input and target as they were prepared, as a person sees them."""
        files = _files(self.folder / split, name, self._recipe)
        sides = (self._recipe.input, self._recipe.target)
        source, target = (side.picture(read_prepared(file)) for side, file in zip(sides, files, strict=True))
        return source, target

    def keep_only(self, names: Mapping[Split, Sequence[str]]) -> None:
        """Remove what earlier runs left of pairs that are no more.

        Args:
            names: of those that are, in order.
        """
        for split, wanted in names.items():
            for side, encoding_ in (("input", self._recipe.input), ("target", self._recipe.target)):
                suffix = _suffix(encoding_)
                for file in (self.folder / split / side).iterdir():
                    name = file.name.removesuffix(suffix)
                    place = bisect_left(wanted, name)
                    if wanted[place : place + 1] != [name] or file.name == name:
                        file.unlink()


def _suffix(side: Encoding) -> str:
    return images.lossless_suffix(side.channels, side.dtype)


def _files(folder: Path, name: str, recipe: Recipe) -> tuple[Path, Path]:
    """Input and target of a pair in the folder of its split."""
    return (
        folder / "input" / f"{name}{_suffix(recipe.input)}",
        folder / "target" / f"{name}{_suffix(recipe.target)}",
    )


@contextmanager
def workplace(folder: Path, recipe: Recipe) -> Iterator[Workplace]:
    """The workplace in `folder`: the one that is there, if this recipe and code made it, or an empty one.

    Raises:
        UserError: another process works in it.
    """
    fingerprint = _fingerprint(recipe)
    if not _is_of(folder, fingerprint):
        shutil.rmtree(folder, ignore_errors=True)
    for split in SPLITS:
        for side in ("input", "target"):
            (folder / split / side).mkdir(parents=True, exist_ok=True)
    (folder / FINGERPRINT).write_text(fingerprint, encoding="utf-8")
    with closing(_journal(folder)) as journal:
        work = Workplace(folder, journal, recipe)
        try:
            yield work
        except BaseException:
            # What ends the run is told, not what its journal adds to that.
            with suppress(OSError, sqlite3.Error):
                work.commit()
            raise
        work.commit()


def _journal(folder: Path) -> sqlite3.Connection:
    path = folder / JOURNAL
    journal = sqlite3.connect(path, timeout=0)
    try:
        with _full_disk_named():
            # A power cut may cost the journal; what it says is checked against the pixels anyway.
            journal.execute("PRAGMA synchronous = OFF")
            journal.execute("PRAGMA locking_mode = EXCLUSIVE")
            # In KiB. It is read and written in the order of its keys, so a few pages are enough.
            journal.execute("PRAGMA cache_size = -256")
            journal.execute(
                f"CREATE TABLE IF NOT EXISTS pairs (split, name, {COLUMNS}, PRIMARY KEY (split, name)) "
                "WITHOUT ROWID"
            )
            # Takes the lock, which the process then keeps.
            journal.execute("DELETE FROM pairs WHERE name IS NULL")
            journal.commit()
    except sqlite3.OperationalError as error:
        journal.close()
        if "locked" not in str(error):
            raise
        raise UserError(f"{folder}: another run is preparing these pairs; wait for it or stop it") from None
    except sqlite3.DatabaseError:
        journal.close()
        path.unlink()
        return _journal(folder)
    return journal


@contextmanager
def _full_disk_named() -> Iterator[None]:
    """SQLite's word for a full disk as the system's."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "disk is full" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def _is_of(folder: Path, fingerprint: str) -> bool:
    try:
        return (folder / FINGERPRINT).read_text(encoding="utf-8") == fingerprint
    except (OSError, ValueError):
        return False


def _fingerprint(recipe: Recipe) -> str:
    """A digest of all that decides a prepared pair's pixels, beside its files."""
    modules = (decoding, deep, derive, encoding, images, pair_facts, pairs, profiles)
    code = [Path(module.__file__) for module in modules if module.__file__]
    libraries = ("imagecodecs", "numpy", "opencv-python-headless", "pillow", "tifffile")
    return sha256_json(
        {
            "recipe": asdict(recipe),
            "code": [sha256_file(file) for file in code],
            "libraries": [version(name) for name in libraries],
        }
    )


def prepare_all(
    splits: Mapping[Split, Sequence[Pair]], work: Workplace, raw: Path, recipe: Recipe, workers: int
) -> Iterator[Outcome]:
    """Prepare every pair into SPLIT/input/NAME.png and SPLIT/target/NAME.png, and say what became of it.

    What a PNG cannot hold, floats and more than four channels, becomes NAME.tif.

    Outcomes come in the order of the pairs, whatever the number of workers. Decoding, resizing and encoding
    run outside Python's lock, so threads are enough.
    """
    waiting: deque[tuple[Split, Pair, Future[tuple[_Known, Facts] | str]]] = deque()
    total = sum(len(splits[split]) for split in SPLITS)
    compared = set(spread(total, COMPARED)) if recipe.derive == "none" else set()
    index = 0
    pool = ThreadPoolExecutor(workers)
    try:
        for split in SPLITS:
            for pair in splits[split]:
                task = _Task(pair, raw, work.folder / split, recipe.size_px(split), recipe, index in compared)
                waiting.append((split, pair, pool.submit(task.run, work.known(split, pair.name))))
                index += 1
                if len(waiting) >= AHEAD * workers:
                    yield _outcome(work, *waiting.popleft())
        while waiting:
            yield _outcome(work, *waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _outcome(work: Workplace, split: Split, pair: Pair, job: "Future[tuple[_Known, Facts] | str]") -> Outcome:
    done = job.result()
    if isinstance(done, str):
        return Outcome(split, pair, None, done)
    known, facts = done
    work.note(split, pair.name, known)
    return Outcome(split, pair, Prepared(known.sha256, known.source_size, facts))


@dataclass(frozen=True)
class _Task:
    """One pair to prepare into a folder; whether its edges count for those of all."""

    pair: Pair
    raw: Path
    folder: Path
    size_px: Size
    recipe: Recipe
    is_compared: bool

    def run(self, known: _Known | None) -> tuple[_Known, Facts] | str:
        """What was prepared, or taken over from an earlier run; or why nothing can be."""
        try:
            source_sha256 = _source_sha256(self.pair, self.raw)
            if (
                known
                and known.source_sha256 == source_sha256
                and known.written_sha256 == self._written_sha256()
            ):
                # The journal has no surfaces, which are large; they are measured again.
                facts = self._measure(*map(read_prepared, self._files())) if self.is_compared else None
                return known, facts or Facts.from_json(known.facts)
            source, target, size = pairs.sides(self.pair, self.raw, self.recipe, self.size_px)
            both = np.ascontiguousarray(source), np.ascontiguousarray(target)
            for file, pixels in zip(self._files(), both, strict=True):
                images.write_prepared(file, pixels)
            facts = self._measure(*both)
            digests = source_sha256, self._written_sha256(), _pixels_sha256(*both)
            return _Known(*digests, size, facts.to_json()), facts
        except UnreadableImage as error:
            return str(error)

    def _measure(self, source: Samples, target: Samples) -> Facts:
        levels = self.recipe.input.levels(source), self.recipe.target.levels(target)
        return measure(*levels, self.recipe.derive == "none", self.is_compared)

    def _files(self) -> tuple[Path, Path]:
        return _files(self.folder, self.pair.name, self.recipe)

    def _written_sha256(self) -> str:
        """Of both files as they lie there; empty if one does not."""
        try:
            return "".join(sha256_file(file) for file in self._files())
        except OSError:
            return ""


def _source_sha256(pair: Pair, raw: Path) -> str:
    whole = hashlib.sha256()
    for file in filter(None, (pair.a, pair.b)):
        try:
            whole.update(sha256_file(raw / file).encode())
        except OSError as error:
            raise UnreadableImage(f"cannot be read ({error.strerror})") from None
    return whole.hexdigest()


def _pixels_sha256(source: Samples, target: Samples) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(source).data)
    digest.update(np.ascontiguousarray(target).data)
    return digest.hexdigest()
