"""Files that appear whole or not at all, and their digests."""

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs

from .errors import UserError

CACHE_VARIABLE = "PIX2PIX_CACHE"
# Names that `atomic_file` and `atomic_folder` give to what is not whole yet.
PARTIAL = re.compile(r"\..+\.[a-z0-9_]{8}(\.[a-z0-9]+)?")
PARTIAL_AGE_S = 60


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; rename it into place on success, remove it on failure.

    The content is on disk before the rename, so a power cut leaves the old file or the new one.

    Raises:
        UserError: the folder cannot be written, the disk is full, or a folder is in the way.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder, but a file belongs there; move it away")
    with named_failure(path):
        _make_parent(path)
        try:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
                raise UserError(
                    f"{path}: cannot be written ({error.strerror}); choose another path"
                ) from None
            raise
        partial = Path(name)
        try:
            with _held(handle):
                yield partial
            partial.chmod(0o666 & ~_umask())
            with partial.open("rb+") as written:
                os.fsync(written.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` to fill; rename it into place on success, remove it on failure.

    A folder that was there before is replaced; a link to one, on another disk say, stays a link.

    Raises:
        UserError: the parent cannot be written, the disk is full, or a file is in the way.
    """
    place = path.resolve()
    if place.exists() and not place.is_dir():
        raise UserError(f"{path}: is a file, but a folder belongs there; move it away")
    with named_failure(path):
        _make_parent(place)
        # A killed run's may be gigabytes, on a disk that has no room for two.
        remove_partials(place.parent, glob.escape(place.name))
        partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        old = partial.with_name(f"{partial.name}.old")
        try:
            with _held(os.open(partial, os.O_RDONLY)):
                yield partial
            partial.chmod(0o777 & ~_umask())
            # Moved aside, not removed: a kill while a large folder is being removed would leave half of it.
            if place.exists():
                place.rename(old)
            partial.replace(place)
        finally:
            if old.exists() and not place.exists():
                old.rename(place)
            for leftover in (partial, old):
                shutil.rmtree(leftover, ignore_errors=True)


def remove_partials(folder: Path, name: str = "*") -> list[Path]:
    """Remove what `atomic_file` and `atomic_folder` have left in a folder as they were killed.

    What a living process is writing is left, and what is younger than a minute.

    Args:
        name: a pattern of the file or folder that was to be written.

    Returns:
        What was removed.
    """
    removed = []
    for path in sorted(folder.glob(f".{name}.*")):
        if not PARTIAL.fullmatch(path.name):
            continue
        # What was there before lies aside for the moment in which it is replaced.
        if _may_be_written(path.with_name(path.name.removesuffix(".old"))):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        removed.append(path)
    return removed


@contextmanager
def _held(handle: int) -> Iterator[None]:
    """Mark an open partial as being written for as long as this process lives; closes it."""
    try:
        # Not every system, nor every file system, has such marks.
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _may_be_written(path: Path) -> bool:
    try:
        if time.time() - path.stat().st_mtime < PARTIAL_AGE_S:
            # It may not have been marked yet.
            return True
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return True
    finally:
        os.close(handle)
    return False


def user_cache(kind: str) -> Path:
    """Where this user's `kind` (archives, models) are kept: in PIX2PIX_CACHE or the system's own place."""
    # Unlike Path.expanduser, this leaves ~nobody as it is.
    own = os.path.expanduser(os.environ.get(CACHE_VARIABLE, "").strip())  # noqa: PTH111
    return (Path(own) if own else platformdirs.user_cache_path("pix2pix")) / kind


def cached_model(onnx_sha256: str) -> Path:
    """Where the exported generator with this digest is kept, if it is."""
    return user_cache("models") / f"{onnx_sha256}.onnx"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically; NaN and infinity are bugs."""
    with atomic_file(path) as partial:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sha256_file(path: Path) -> str:
    """The hex SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """The hex SHA-256 of a value's canonical JSON: the same for equal values in any process."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def named_failure(path: Path) -> Iterator[None]:
    """Turn what the disk or its administrator refuses while `path` is written into a UserError."""
    try:
        yield
    except OSError as error:
        # The disk's or the administrator's word, never a bug of ours.
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            mend = f"cannot be written ({error.strerror}); check the folder's rights"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            mend = f"{error.strerror}; free some space and run it again"
        else:
            raise
        raise UserError(f"{path}: {mend}") from error


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path}: cannot be written; a part of its path is a file, not a folder") from None
    except FileNotFoundError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another path") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
