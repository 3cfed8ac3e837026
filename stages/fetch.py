"""dataset.source → data/raw/: the embedded set, a published one, or the user's own folder or archive."""

import logging
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from pix2pix.archives import DamagedArchiveError, extract, is_archive
from pix2pix.download import download_folder, fetch_file
from pix2pix.errors import UserError, plain
from pix2pix.files import atomic_folder, sha256_file
from pix2pix.images import IMAGE_SUFFIXES
from pix2pix.layouts import unwrapped
from pix2pix.manifest import NAMES as MANIFESTS
from pix2pix.params import Dataset, Params
from stages.console import Update, progress
from stages.runner import run

log = logging.getLogger(__name__)

RAW = Path("data/raw")
SYNTHETIC, PUBLISHED = "pix2pix/synthetic.py", "pix2pix/datasets.py"

_NO_IMAGE = f"holds no image ({' '.join(sorted(IMAGE_SUFFIXES))})"


def fetch(params: Params) -> None:
    """Fill data/raw/ from dataset.source.

    Raises:
        DownloadError: the network failed; a later try may succeed.
        UserError: the source is not there, is not what dataset.sha256 pins, or holds no image.
    """
    sources = {SYNTHETIC: _draw, PUBLISHED: _published}
    source = sources.get(params.dataset.source, _own)
    origin = source(params)
    log.info("%s: %d images from %s", RAW, len(_images(RAW)), origin)


def _draw(params: Params) -> str:
    # Imported here, as the catalogue is below: dvc.yaml names ${dataset.source} as a dependency, so each
    # of the two modules is watched exactly when it is the source.
    from pix2pix import synthetic

    _refuse_pin(params.dataset)
    with atomic_folder(RAW) as folder, _progress(params, "pairs") as update:
        synthetic.write_dataset(folder, on_pair=update)
    return params.dataset.source


def _published(params: Params) -> str:
    from pix2pix import datasets

    entry = datasets.entry(params.dataset.name)
    addresses = datasets.addresses(entry)
    with _progress(params, "MB") as update:
        archive = fetch_file(
            addresses,
            entry.archive,
            sha256=params.dataset.sha256,
            looks_right=is_archive,
            on_progress=lambda done, total: update(done / 1e6, total and total / 1e6),
        )
    is_official = list(addresses) == list(entry.urls)
    check = partial(_check_counts, archive=archive, published=entry.pairs or {}, strict=is_official)
    try:
        return _unpack(archive, params, check)
    except DamagedArchiveError:
        if archive.parent != download_folder():
            raise
        # Left there, it would be taken for a good one the next time.
        archive.unlink(missing_ok=True)
        raise UserError(f"{archive}: truncated or damaged, so it was removed; fetch again") from None


def _check_counts(folder: Path, archive: Path, published: Mapping[str, int], strict: bool) -> None:
    found = {split: len(_images(folder / split)) for split in published}
    if found == published:
        return
    line = f"{archive}: holds {_counted(found)} images; published are {_counted(published)}"
    if strict:
        raise UserError(f"{line}; delete it and fetch again")
    # A user's mirror may hold a sample.
    log.warning("%s", line)


def _own(params: Params) -> str:
    source = params.dataset.source
    path = Path(os.path.expanduser(source))  # noqa: PTH111
    if path.is_dir():
        _refuse_pin(params.dataset)
        _copy(path, params)
    elif path.is_file():
        _check_pin(path, params.dataset.sha256)
        return _unpack(path, params, check=lambda folder: None)
    else:
        raise UserError(
            f"dataset.source = {source!r}: is not there; give the path of a folder of images or of an "
            f"archive, {SYNTHETIC} for the embedded set, or {PUBLISHED} for the published set called "
            "dataset.name"
        )
    return str(path)


def _unpack(archive: Path, params: Params, check: Callable[[Path], None]) -> str:
    with atomic_folder(RAW) as folder:
        # Hidden files are never unpacked, so this name is free.
        unpacked = folder / ".unpacked"
        unpacked.mkdir()
        with _progress(params, "files") as update:
            extract(archive, unpacked, on_progress=update)
        for item in unwrapped(unpacked).iterdir():
            item.rename(folder / item.name)
        shutil.rmtree(unpacked)
        if not _images(folder):
            raise UserError(f"{archive}: {_NO_IMAGE}")
        check(folder)
    if params.dataset.sha256:
        return f"{archive} (as pinned by dataset.sha256)"
    return f"{archive}; to pin it: dataset.sha256 = {sha256_file(archive)}"


def _copy(source: Path, params: Params) -> None:
    """Copy the images: DVC may make an output read-only, which must not reach the user's own files."""
    raw, there = RAW.resolve(), source.resolve()
    if raw.is_relative_to(there) or there.is_relative_to(raw):
        raise UserError(f"dataset.source: {source} is not apart from {RAW}, which this stage writes; move it")
    files = list(_walk(source, {there}))
    if not files:
        raise UserError(f"dataset.source: {source} {_NO_IMAGE}")
    files += [source / name for name in MANIFESTS if (source / name).is_file()]
    with atomic_folder(RAW) as folder, _progress(params, "files", len(files)) as update:
        made: set[Path] = set()
        for done, file in enumerate(files, start=1):
            target = folder / file.relative_to(source)
            if target.parent not in made:
                target.parent.mkdir(parents=True, exist_ok=True)
                made.add(target.parent)
            with _readable(file):
                shutil.copyfile(file, target)
            update(done)


def _walk(folder: Path, around: set[Path]) -> Iterator[Path]:
    """The images below a folder, links followed; a link to one of the folders around it would be a loop."""
    with _readable(folder), os.scandir(folder) as entries:
        items = sorted(
            (entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name
        )
    for entry in items:
        item = Path(entry.path)
        if not _is_text(entry.name):
            # DVC cannot store it.
            log.warning("%s: left out, its name is not UTF-8", plain(str(item)))
            continue
        with _readable(item):
            # A link may lead nowhere, or to itself; whatever else is listed is there.
            is_lost = entry.is_symlink() and not item.exists()
            target = item.resolve() if not is_lost and entry.is_dir() else None
            is_file = not is_lost and entry.is_file()
        if is_lost:
            log.warning("%s: left out, a link to nothing", item)
        elif target in around:
            log.warning("%s: left out, a link to a folder around it", item)
        elif target:
            yield from _walk(item, around | {target})
        elif is_file and item.suffix.lower() in IMAGE_SUFFIXES:
            yield item


def _is_text(name: str) -> bool:
    # Surrogates stand for bytes of a name that are no text.
    return not any(unicodedata.category(character) == "Cs" for character in name)


def _images(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]


def _counted(images: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {split}" for split, number in images.items())


def _refuse_pin(dataset: Dataset) -> None:
    if dataset.sha256:
        raise UserError(f"dataset.sha256: is set, but {dataset.source} is no archive; leave it empty ('')")


def _check_pin(archive: Path, pinned: str) -> None:
    with _readable(archive):
        found = sha256_file(archive) if pinned else ""
    if found != pinned:
        raise UserError(f"{archive}: has sha256 {found}, not the {pinned} that dataset.sha256 pins")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, FileNotFoundError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _progress(params: Params, unit: str, total: float | None = None) -> AbstractContextManager[Update]:
    return progress("fetch", total=total, unit=unit, style=params.run.progress)


if __name__ == "__main__":
    run(fetch)
