"""Downloads that resume, retry, move on to the next address, and are kept only when they are whole."""

import functools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urljoin

import requests
import urllib3
from filelock import FileLock, Timeout
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from .errors import UserError
from .files import CACHE_VARIABLE, sha256_file, user_cache, write_json

log = logging.getLogger(__name__)

MIRROR_VARIABLE = "PIX2PIX_MIRROR"
# To connect, and between two pieces of an answer.
TIMEOUTS_S = (10.0, 60.0)
# Of a file whose size nobody knows: a server may send without end.
MAX_BYTES = 64 * 2**30
MAX_REDIRECTS = 10
# An answer that comes more slowly is taken for none: a byte a minute would hold a run for ever.
MIN_BYTES_PER_S = 512

_CHUNK_BYTES = 2**18
# A server that is busy or broken today; every other refusal is final.
_PASSING = {408, 425, 429}

Progress = Callable[[int, int | None], None]


class DownloadError(UserError):
    """The network failed: the same command may succeed later, so it has a status of its own."""

    exit_status = 3


class _AttemptError(Exception):
    """This attempt failed, the next may not."""


class _AddressError(Exception):
    """This address does not have the file, or not the right one."""


def download_folder() -> Path:
    """Where downloads are kept, finished or not."""
    return user_cache("archives")


def mirrored(file_name: str) -> dict[str, int | None]:
    """The address of a file on the mirror that PIX2PIX_MIRROR names, of any size; none if it is not set.

    Returns:
        A URL for a mirror elsewhere; a path for a folder, given as a path, with ~ or as file://.
    """
    mirror = os.environ.get(MIRROR_VARIABLE, "").strip()
    if not mirror:
        return {}
    if "://" in mirror and not mirror.startswith("file://"):
        return {f"{mirror.rstrip('/')}/{file_name}": None}
    return {str(_local_folder(mirror) / file_name): None}


def _local_folder(mirror: str) -> Path:
    if mirror.startswith("file://"):
        mirror = unquote(mirror.removeprefix("file://").removeprefix("localhost"))
        # file:///C:/data on Windows.
        mirror = mirror[1:] if mirror[2:3] == ":" else mirror
    # Unlike Path.expanduser, this leaves ~nobody as it is for the line that says it is not there.
    return Path(os.path.expanduser(mirror))  # noqa: PTH111


def fetch_file(
    addresses: Mapping[str, int | None],
    name: str,
    *,
    sha256: str = "",
    looks_right: Callable[[Path], bool] = lambda path: True,
    refresh: bool = False,
    on_progress: Progress = lambda done_bytes, total_bytes: None,
    attempts: int = 4,
    first_wait_s: float = 1.0,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Get a file from the first address that has it, whole and verified.

    A path is used in place. What comes from a URL is kept in the download folder and used again; a
    download that breaks off goes on where it was if the server's file is still the same. Of several
    processes that want the same file one downloads it and the others wait.

    Args:
        addresses: URLs or paths in the order to try, with the bytes the file has there (None: any).
        name: what the file is called in the download folder.
        sha256: its hex digest; empty accepts any.
        looks_right: a quick look at the content, so that a web page is not taken for the file.
        refresh: ask the server whether what was kept is still what it has, and get what it has now. Where
            no address can tell, that is an error, and what was kept stays.
        on_progress: told bytes done and bytes in all, None where the server does not say.
        attempts: tries at each URL.
        first_wait_s: seconds before the second try; doubled for each one after it.
        max_bytes: of a file whose size is not among the addresses.

    Raises:
        DownloadError: no address worked and the network was at fault for at least one.
        UserError: no address has the right file, or the download folder cannot be written.
    """
    wanted = _Wanted(name, sha256, looks_right)
    retrying = Retrying(
        retry=retry_if_exception_type(_AttemptError),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=first_wait_s, max=30),
        before_sleep=_say_again,
        reraise=True,
    )
    download = functools.partial(retrying, _download, on_progress, max_bytes)
    failed: list[str] = []
    may_pass = False
    for place, size_bytes in addresses.items():
        if failed:
            log.warning("%s; trying %s", failed[-1], place)
        try:
            if "://" not in place:
                wanted.verify(Path(place), size_bytes)
                return Path(place)
            folder = download_folder()
            with _held(folder, name):
                return _from_url(place, size_bytes, folder, wanted, download, refresh)
        except (_AttemptError, _AddressError) as failure:
            failed.append(f"{place} {failure}")
            may_pass |= isinstance(failure, _AttemptError)
    line = f"{name}: not to be had ({'; '.join(failed)}); set PIX2PIX_MIRROR to a folder that holds {name}"
    if refresh and (download_folder() / name).exists():
        line += ", or leave `refresh` out to use the one downloaded before"
    raise DownloadError(line) if may_pass else UserError(line)


@dataclass(frozen=True)
class _Wanted:
    """What the right file is known by."""

    name: str
    sha256: str
    looks_right: Callable[[Path], bool]

    def verify(self, path: Path, size_bytes: int | None) -> None:
        """Raise _AddressError if the file at `path` is not the right one."""
        try:
            found_bytes = path.stat().st_size
            if size_bytes not in (None, found_bytes):
                raise _AddressError(f"has {found_bytes:,} bytes instead of {size_bytes:,}")
            if not self.looks_right(path):
                raise _AddressError(f"is {found_bytes:,} bytes of something else")
            if self.sha256 and (found := sha256_file(path)) != self.sha256:
                raise _AddressError(f"has sha256 {found}, not the pinned {self.sha256}")
        except OSError as error:
            raise _AddressError(f"cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class _Origin:
    """What the first bytes of a broken-off download are the start of."""

    url: str
    # The server's name for this version of the file: a strong ETag, or the time of its last change.
    validator: str
    total_bytes: int | None

    @classmethod
    def of(cls, url: str, response: requests.Response) -> Self:
        etag = response.headers.get("ETag", "")
        # A weak ETag may be the same for files that differ in bytes.
        validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
        length = response.headers.get("Content-Length", "")
        return cls(url, validator, int(length) if length.isdecimal() else None)

    def unless_changed(self) -> dict[str, str]:
        """The headers that ask for this file only if it is another by now."""
        header = "If-None-Match" if self.validator.startswith('"') else "If-Modified-Since"
        return {header: self.validator}


class _Kept:
    """A whole file in the download folder: NAME and, beside it, its origin and digest in NAME.json."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._note = path.with_name(f"{path.name}.json")

    def take(self, whole: Path, origin: _Origin) -> None:
        """Give a finished download its name, in the place of the one before."""
        note = {"origin": asdict(origin), "sha256": sha256_file(whole)}
        whole.replace(self.path)
        write_json(self._note, note)

    def origin(self, url: str) -> _Origin | None:
        """What the server at `url` may be asked about; None if only a new download can tell."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            origin = _Origin(**note["origin"])
            # The note may be of the file before, or the user has put another one here.
            known = note["sha256"] == sha256_file(self.path)
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None
        return origin if known and origin.url == url and origin.validator else None


class _Partial:
    """A download in progress: NAME.part and, beside it, its origin."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.part"
        self._note = folder / f"{name}.part.json"

    def resume(self, url: str) -> tuple[int, _Origin | None]:
        """Bytes that need not be fetched again, and their origin; (0, None) to begin anew."""
        try:
            origin = _Origin(**json.loads(self._note.read_text(encoding="utf-8")))
            done_bytes = self.path.stat().st_size
        except (FileNotFoundError, ValueError, TypeError):
            return 0, None
        same = origin.url == url and origin.validator and done_bytes
        return (done_bytes, origin) if same else (0, None)

    def begin(self, origin: _Origin) -> None:
        """Forget what is there; the bytes to come are of `origin`."""
        self.discard()
        write_json(self._note, asdict(origin))

    def discard(self) -> None:
        """Remove both files."""
        self._note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def finish(self, kept: _Kept) -> None:
        """Hand the whole download over."""
        kept.take(self.path, _Origin(**json.loads(self._note.read_text(encoding="utf-8"))))
        self._note.unlink()


def _from_url(
    url: str,
    size_bytes: int | None,
    folder: Path,
    wanted: _Wanted,
    download: Callable[..., bool],
    refresh: bool,
) -> Path:
    kept, partial = _Kept(folder / wanted.name), _Partial(folder, wanted.name)
    known = None
    if kept.path.exists():
        try:
            wanted.verify(kept.path, size_bytes)
        except _AddressError as difference:
            log.info("%s %s; downloading it anew", kept.path, difference)
        else:
            if not refresh:
                log.info("using %s, downloaded before", kept.path)
                return kept.path
            known = kept.origin(url)
    log.info("asking whether %s has changed" if known else "downloading %s", url)
    if not download(url, size_bytes, partial, known, refresh):
        log.info("%s is still what the server has", kept.path)
        return kept.path
    try:
        wanted.verify(partial.path, size_bytes)
    except _AddressError:
        partial.discard()
        raise
    partial.finish(kept)
    return kept.path


def _download(
    on_progress: Progress,
    max_bytes: int,
    url: str,
    size_bytes: int | None,
    partial: _Partial,
    known: _Origin | None,
    refresh: bool,
) -> bool:
    """One attempt at the rest of a file, or at all of it; False if it is still the known one."""
    max_bytes = max_bytes if size_bytes is None else size_bytes
    done_bytes, origin = partial.resume(url)
    if origin and origin.total_bytes == done_bytes:
        if not refresh:
            return True
        # Whole, but of an earlier day.
        origin = None
    # The bytes as they are stored: some servers offer to unpack a .tar.gz on the way.
    headers = {"Accept-Encoding": "identity"}
    if origin:
        headers |= {"Range": f"bytes={done_bytes}-", "If-Range": origin.validator}
    elif known:
        headers |= known.unless_changed()
    with _network_named(), _answer(url, headers) as response:
        if known and not origin and response.status_code == requests.codes.not_modified:
            return False
        _check_status(response, partial)
        if origin and response.status_code == requests.codes.partial_content:
            _check_range(response, done_bytes, origin, partial)
            log.info("going on after %s bytes", f"{done_bytes:,}")
        else:
            done_bytes, origin = 0, _Origin.of(url, response)
            if None not in (size_bytes, origin.total_bytes) and size_bytes != origin.total_bytes:
                raise _AddressError(f"has {origin.total_bytes:,} bytes instead of {size_bytes:,}")
            if (origin.total_bytes or 0) > max_bytes:
                raise _AddressError(f"has {origin.total_bytes:,} bytes, more than the {max_bytes:,} allowed")
            partial.begin(origin)
        with partial.path.open("ab") as file:
            on_progress(done_bytes, origin.total_bytes)
            for chunk in _pieces(response):
                file.write(chunk)
                done_bytes += len(chunk)
                if done_bytes > max_bytes:
                    partial.discard()
                    raise _AddressError(f"sends more than the {max_bytes:,} bytes it should have")
                on_progress(done_bytes, origin.total_bytes)
    if origin.total_bytes is not None and done_bytes != origin.total_bytes:
        raise _AttemptError(f"broke off after {done_bytes:,} of {origin.total_bytes:,} bytes")
    return True


class _Session(requests.Session):
    """Leaves redirects to `_answer`: on its own it reads all that comes with one, however much that is."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


@contextmanager
def _answer(url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
    """The answer of the last server that `url` leads to. Nothing that comes with a redirect is read."""
    with _Session() as session:
        for _ in range(MAX_REDIRECTS + 1):
            with session.get(url, headers=headers, stream=True, timeout=TIMEOUTS_S) as response:
                if not response.is_redirect:
                    yield response
                    return
                url = _redirected(url, response.headers["Location"])
    raise _AddressError(f"cannot be asked (more than {MAX_REDIRECTS} redirects)")


def _redirected(url: str, location: str) -> str:
    try:
        # A header's bytes come as Latin-1; where they are no ASCII they are meant as UTF-8.
        target = urljoin(url, location.encode("latin1").decode())
    except ValueError:
        raise _AddressError(
            f"cannot be asked (it leads to {location[:200]!r}, which is no address)"
        ) from None
    if not target.lower().startswith(("http://", "https://")):
        raise _AddressError(f"cannot be asked (it leads to {target[:200]}, which is not on the web)")
    return target


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """The answer as it comes. Raises _AttemptError where it comes too slowly to be one."""
    since, got_bytes = time.monotonic(), 0
    # Not its `stream`, which waits for a piece to be full, however slowly it fills.
    while piece := response.raw.read1(_CHUNK_BYTES, decode_content=False):
        yield piece
        got_bytes += len(piece)
        waited_s = time.monotonic() - since
        if waited_s >= TIMEOUTS_S[1]:
            if got_bytes < MIN_BYTES_PER_S * waited_s:
                raise _AttemptError(f"sends no more than {got_bytes / waited_s:.0f} bytes a second")
            since, got_bytes = time.monotonic(), 0


def _check_status(response: requests.Response, partial: _Partial) -> None:
    status = response.status_code
    if status == requests.codes.requested_range_not_satisfiable:
        partial.discard()
        raise _AttemptError("has become shorter than what was downloaded of it")
    if status >= 500 or status in _PASSING:
        raise _AttemptError(f"answered {status} {response.reason}")
    if status not in (requests.codes.ok, requests.codes.partial_content):
        raise _AddressError(f"answered {status} {response.reason}")


def _check_range(response: requests.Response, done_bytes: int, origin: _Origin, partial: _Partial) -> None:
    # Content-Range: bytes 100-199/200, or /* where the server does not know the whole.
    sent = response.headers.get("Content-Range", "")
    total = "*" if origin.total_bytes is None else str(origin.total_bytes)
    if not sent.startswith(f"bytes {done_bytes}-") or sent.rpartition("/")[2] not in (total, "*"):
        partial.discard()
        raise _AttemptError(f"sent another range than was asked for ({sent or 'unnamed'})")


@contextmanager
def _network_named() -> Iterator[None]:
    failures = requests.exceptions
    try:
        yield
    except (failures.InvalidURL, failures.InvalidSchema, failures.TooManyRedirects) as error:
        raise _AddressError(f"cannot be asked ({error})") from error
    except (failures.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _AttemptError("gave no answer in time") from error
    except (failures.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _AttemptError(f"cannot be read ({_root(error)})") from error


def _root(error: BaseException) -> str:
    """The innermost reason: `Connection refused` rather than the three wrappings around it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


@contextmanager
def _held(folder: Path, name: str) -> Iterator[None]:
    """The download folder, made and held for one file; a folder that fails is the user's to mend."""
    lock = FileLock(folder / f"{name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("waiting for another process that downloads %s", name)
            lock.acquire()
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{folder}: {reason}; free some space or set {CACHE_VARIABLE} to another folder"
        ) from error
    finally:
        lock.release()


def _say_again(state: RetryCallState) -> None:
    failure = state.outcome.exception() if state.outcome else None
    log.warning("%s; trying again in %.0f s", failure, state.next_action.sleep if state.next_action else 0)
