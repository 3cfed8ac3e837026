"""Unpacking archives from strangers: nothing outside the folder, no links, no bombs, no silent loss."""

import errno
import gzip
import hashlib
import io
import lzma
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import IO, Literal, Self

from .errors import UserError, is_plain
from .zip_directory import count_entries

MAX_MEMBERS = 500_000
MAX_BYTES = 64 * 2**30
# Parts of a member's path: removing a deeper folder takes Python past its depth of recursion.
MAX_PARTS = 32

_CHUNK_BYTES = 2**20
# A tar header's extension (a long name, say) is read into memory whole; an honest one has some hundred bytes.
_MAX_EXTENSION_BYTES = 2**20
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
# Images are hardly packed at all, label maps a hundred times; what is left of a bomb fits on every disk.
_MAX_RATIO = 200
_MIN_LIMIT_BYTES = 4 * 2**30
# What the standard library raises over bytes that are not what they claim to be.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    IndexError,
    OverflowError,
)


class DamagedArchiveError(UserError):
    """An archive that ends too early or does not decode."""


class _MemberError(Exception):
    """A member that is not let out of its archive, and why."""


def is_archive(path: Path) -> bool:
    """Whether a file starts like a .tar.gz, .tar or .zip; a web page called NAME.tar.gz does not."""
    return _kind(path) is not None


def extract(
    archive: Path,
    folder: Path,
    *,
    max_members: int = MAX_MEMBERS,
    max_bytes: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Unpack a .tar.gz, .tgz, .tar or .zip, told apart by content, into an empty folder.

    Hidden files and macOS's `__MACOSX` are left out. After an error the folder is half full: give one
    that vanishes then, as `files.atomic_folder` does.

    Args:
        max_members: members of the archive, folders included, and as many folders that their names imply.
        max_bytes: bytes that come out of it, counted as they are written. None: 4 GiB or 200 times the
            archive, whichever is more, and never over 64 GiB.
        on_progress: told the files written so far.

    Returns:
        Files written.

    Raises:
        DamagedArchiveError: it is truncated or does not decode.
        UserError: it is no such archive, a member is refused, or a limit is passed.
    """
    try:
        kind, size_bytes = _kind(archive), archive.stat().st_size
    except OSError as error:
        raise UserError(f"{archive}: cannot be read ({error.strerror})") from None
    if kind is None:
        raise UserError(f"{archive}: is not a .tar.gz, .tgz, .tar or .zip archive")
    if max_bytes is None:
        max_bytes = min(MAX_BYTES, max(_MIN_LIMIT_BYTES, _MAX_RATIO * size_bytes))
    target = _Target(folder, max_members, max_bytes, on_progress)
    with _named(archive):
        if kind == "zip":
            _extract_zip(archive, target)
        elif kind == "gzip":
            with gzip.open(archive) as stream:
                _extract_tar(stream, target)
        else:
            with archive.open("rb") as stream:
                _extract_tar(stream, target)
    return target.files


def _kind(path: Path) -> Literal["zip", "gzip", "tar"] | None:
    with path.open("rb") as file:
        start = file.read(tarfile.BLOCKSIZE)
    # The second is an empty zip's.
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if start.startswith(b"\x1f\x8b"):
        return "gzip"
    return "tar" if start[257:262] == b"ustar" else None


@dataclass
class _Target:
    """The folder that is filled, with what has come out of the archive so far."""

    folder: Path
    max_members: int
    max_bytes: int
    on_progress: Callable[[int], None] | None
    members: int = 0
    files: int = 0
    out_bytes: int = 0
    made: set[Path] = field(default_factory=set)
    # Digests, so that half a million long names take no more memory than short ones.
    taken: set[bytes] = field(default_factory=set)

    def place(self, name: str, size: int) -> Path | None:
        """Where a member goes; None if it is left out. Raises _MemberError for a name that is not safe."""
        self.members += 1
        if self.members > self.max_members:
            raise _MemberError(f"is one more than the {self.max_members:,} members allowed")
        # Known before anything of it is read; what is really written is counted as well.
        self.check_room(size)
        parts = _safe_parts(name)
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            # A tar's has to be unpacked to get past it.
            self.out_bytes += size
            return None
        return self.folder.joinpath(*parts)

    def check_room(self, size: int) -> None:
        """Raise _MemberError if `size` more bytes are too many."""
        if self.out_bytes + size > self.max_bytes:
            raise _MemberError(f"takes what comes out past the {self.max_bytes:,} bytes allowed")

    def claim(self, path: Path) -> None:
        """Raise _MemberError if a disk that does not tell upper from lower case has this name already."""
        name = unicodedata.normalize("NFC", path.relative_to(self.folder).as_posix()).casefold()
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        if digest in self.taken:
            raise _MemberError("is there a second time, or differs from another in upper and lower case only")
        self.taken.add(digest)

    def write(self, source: IO[bytes], path: Path, size: int) -> None:
        """Write one member's `size` bytes to a file that must be new."""
        self.claim(path)
        try:
            self._make(path.parent)
            with path.open("xb") as file:
                while chunk := source.read(_CHUNK_BYTES):
                    self.check_room(len(chunk))
                    self.out_bytes += len(chunk)
                    size -= len(chunk)
                    file.write(chunk)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise _MemberError("is both a file and a folder") from None
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
                raise _MemberError("has a name that this disk does not take") from None
            raise
        if size:
            raise EOFError("of another length than it says")
        self.files += 1
        if self.on_progress:
            self.on_progress(self.files)

    def _make(self, folder: Path) -> None:
        if folder in self.made:
            return
        if folder != self.folder:
            self._make(folder.parent)
        # The folder itself is among those made, and is none of them.
        if len(self.made) > self.max_members:
            raise _MemberError(f"takes one more than the {self.max_members:,} folders allowed")
        folder.mkdir(parents=True, exist_ok=True)
        self.made.add(folder)


class _Header(tarfile.TarInfo):
    """A tar header that is believed or refused: tarfile takes a damaged one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            # A block of zeros is the end, and the only honest one.
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError(str(error)) from None
        if header.size < 0 or (header.type in _EXTENSIONS and header.size > _MAX_EXTENSION_BYTES):
            raise tarfile.ReadError("impossible size")
        return header


def _extract_tar(stream: io.BufferedIOBase, target: _Target) -> None:
    # As a stream: seeking in a gzip file means reading it from the start.
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
        while (member := tar.next()) is not None:
            # tarfile would remember every header that went by.
            tar.members = []  # type: ignore[attr-defined]
            with _named_member(member.name):
                path = target.place(member.name, member.size)
                _check_type(member)
                content = tar.extractfile(member) if member.isreg() and path else None
                if content and path:
                    target.write(content, path, member.size)
    # The gzip checksum is at the very end and tarfile does not read that far.
    while chunk := stream.read(_CHUNK_BYTES):
        with _named_member("what follows the last member"):
            target.check_room(len(chunk))
        target.out_bytes += len(chunk)


def _check_type(member: tarfile.TarInfo) -> None:
    if member.issym() or member.islnk():
        raise _MemberError(f"is a link (to {_shown(member.linkname)})")
    if member.issparse():
        raise _MemberError("is a sparse file; pack it without holes")
    # tarfile's own filters came with Python 3.11.4; where a member goes is `_safe_parts`' to say.
    if not (member.isreg() or member.isdir()):
        raise _MemberError("is a device or a pipe")


def _extract_zip(archive: Path, target: _Target) -> None:
    found, claimed = count_entries(archive, stop_after=target.max_members + 1)
    if found > target.max_members:
        raise _MemberError(f"holds more than the {target.max_members:,} members allowed")
    with zipfile.ZipFile(archive) as opened:
        # 65,535 stands for a number written elsewhere; writers that do not know this write the lower 16 bits.
        if claimed not in (0xFFFF, found & 0xFFFF) or found != len(opened.infolist()):
            raise zipfile.BadZipFile("members are missing from the directory")
        for member in opened.infolist():
            # Python shortens or rewrites `filename`; this is the name as packed.
            with _named_member(member.orig_filename):
                _check_zip_member(member)
                path = target.place(member.orig_filename, member.file_size)
                if path and not member.is_dir():
                    with opened.open(member) as content:
                        target.write(content, path, member.file_size)


def _check_zip_member(member: zipfile.ZipInfo) -> None:
    if member.flag_bits & 0x1:
        raise _MemberError("is encrypted")
    # The upper half holds the Unix mode, or zero.
    file_type = stat.S_IFMT(member.external_attr >> 16)
    if file_type == stat.S_IFLNK:
        raise _MemberError("is a link")
    if file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _MemberError("is a device or a pipe")


def _safe_parts(name: str) -> list[str]:
    """The parts of a member's path, on any system below the folder they are put into."""
    if name.startswith("/"):
        raise _MemberError("has an absolute path")
    if "\\" in name:
        raise _MemberError("has a backslash in its path")
    # Terminals obey control characters, and DVC cannot store names that are no text.
    if not is_plain(name):
        raise _MemberError("has a name that is not plain text")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _MemberError("leads out of the folder (..)")
    if len(parts) > MAX_PARTS:
        raise _MemberError(f"lies in more than {MAX_PARTS - 1} folders, one in the other")
    if any(PureWindowsPath(part).drive for part in parts):
        raise _MemberError("names a Windows drive")
    return parts


@contextmanager
def _named(archive: Path) -> Iterator[None]:
    damaged = DamagedArchiveError(f"{archive}: truncated or damaged; delete it and fetch again")
    try:
        yield
    except _MemberError as refusal:
        raise UserError(f"{archive}: {refusal}; nothing was unpacked") from None
    except _DAMAGE as error:
        raise damaged from error
    except OSError as error:
        # The decoders' own OSErrors come without a number, and a damaged offset seeks before the start.
        if error.errno in (None, errno.EINVAL):
            raise damaged from error
        raise


@contextmanager
def _named_member(name: str) -> Iterator[None]:
    try:
        yield
    except _MemberError as refusal:
        raise _MemberError(f"{_shown(name)} {refusal}") from None


def _shown(name: str) -> str:
    return repr(name if len(name) <= 120 else f"{name[:120]}…")
