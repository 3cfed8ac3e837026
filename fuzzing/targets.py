"""The readers of what comes from outside, each with what must hold whatever the bytes are.

A target takes bytes and raises when something does not hold: any exception but the one line for a user, a
file outside the folder, a result of another kind than is promised.
"""

import io
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pix2pix import archives, images, layouts, params
from pix2pix.decoding import SAMPLES_A_PIXEL, Kind, Limits, UnreadableImage, decode, probe
from pix2pix.errors import UserError, is_plain

ROOT = Path(__file__).parents[1]
# A header may claim what no fuzzing machine has to hold; what is tested is that the claim is looked at.
MAX_PIXELS = 20_000
MAX_BYTES = 2**20
MAX_MEMBERS = 50
MAX_LINE = 2000


@dataclass(frozen=True)
class Target:
    """A reader and the honest bytes that are changed."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def image(content: bytes) -> None:
    """An image gives samples of the kind that its header tells, or a reason; its suffix is not believed."""
    limits = Limits(MAX_PIXELS, max_file_mb=2)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "a.png"
        path.write_bytes(content)
        try:
            samples = decode(path, "keep", limits)
            assert 0 < samples.shape[0] * samples.shape[1] <= MAX_PIXELS
            assert samples.size <= SAMPLES_A_PIXEL * MAX_PIXELS
            kind = probe(path, limits)
            height, width, channels = samples.shape
            assert kind == Kind(
                height, width, channels - kind.has_alpha, str(samples.dtype), kind.has_alpha
            ), kind
        except UnreadableImage as refusal:
            _check_line(refusal)


def _images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
        for mode in ("RGB", "L", "P", "RGBA", "CMYK"):
            file = io.BytesIO()
            try:
                Image.fromarray(pixels).convert(mode).save(
                    file, kind, **({} if kind == "BMP" else {"exif": exif})
                )
            except OSError:
                continue
            found.append(file.getvalue())
    return [*found, *_deep_images()]


def _deep_images() -> list[bytes]:
    """What Pillow does not read: 16 bits, floats, seven channels, arrays."""
    samples = np.random.default_rng(0).integers(0, 65536, (16, 24, 7), dtype=np.uint16)
    kinds = {
        "a.png": samples[..., :3],
        "b.png": samples[..., :2],
        "c.tif": samples,
        "d.tif": samples[..., :3],
        "e.tif": samples[..., :1].astype(np.float32),
        "f.npy": samples,
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, chosen in kinds.items():
            images.write_image(Path(folder) / name, chosen)
            found.append((Path(folder) / name).read_bytes())
        import tifffile

        # An image in the image, with a size of its own.
        tifffile.imwrite(Path(folder) / "g.tif", samples[..., :3], photometric="rgb", compression="jpeg2000")
        found.append((Path(folder) / "g.tif").read_bytes())
    return found


def archive(content: bytes) -> None:
    """An archive fills its folder within the limits, and nothing else, or is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path, inside = Path(folder) / "a.zip", Path(folder) / "deep" / "inside"
        path.write_bytes(content)
        inside.mkdir(parents=True)
        try:
            written = archives.extract(path, inside, max_members=MAX_MEMBERS, max_bytes=MAX_BYTES)
        except UserError as refusal:
            _check_line(refusal)
            written = None
        files = [item for item in inside.rglob("*") if item.is_symlink() or not item.is_dir()]
        assert all(item.is_file() and not item.is_symlink() and is_plain(item.name) for item in files)
        assert written in (None, len(files)) and len(files) <= MAX_MEMBERS
        assert sum(item.stat().st_size for item in files) <= MAX_BYTES
        assert set(Path(folder).rglob("*")) - set(inside.rglob("*")) == {path, inside, inside.parent}


def _archives() -> list[bytes]:
    files = {"set/train/1.jpg": b"one" * 40, "set/val/2.jpg": b"two" * 90, "set/Straße.csv": b"a,b\n"}
    found = []
    for mode in ("w", "w:gz"):
        for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode=mode, format=form) as tar:
                for name, content in {**files, "long/" * 30 + "1.jpg": b"1"}.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
            found.append(file.getvalue())
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as opened:
            for name, content in files.items():
                opened.writestr(name, content)
            opened.comment = b"packed for a test"
        found.append(file.getvalue())
    return found


def parameters(content: bytes) -> None:
    """params.yaml is read or refused in one line of a length that a person reads."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_bytes(content)
        try:
            assert isinstance(params.load(path), params.Params)
        except UserError as refusal:
            _check_line(refusal)


def _parameters() -> list[bytes]:
    return [path.read_bytes() for path in (ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml")))]


def listed_pairs(content: bytes) -> None:
    """A manifest gives pairs of files that are there, or is refused; what it names elsewhere is no pair."""
    for suffix in ("csv", "jsonl"):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "deep"
            place.mkdir()
            for file in (*(place / name for name in MANIFEST_IMAGES), place.parent / "a.png"):
                file.touch()
            (place / f"pairs.{suffix}").write_bytes(content)
            try:
                found = layouts.find_pairs(place)
            except UserError as refusal:
                _check_line(refusal)
                continue
            for pair in found.pairs:
                assert {pair.a, pair.b} <= {*MANIFEST_IMAGES}, pair
            for reject in found.rejects:
                _check_line(UserError(f"{reject.file}: {reject.reason}"))


MANIFEST_IMAGES = ("a.png", "b.png", "ä.png")


def _manifests() -> list[bytes]:
    return [
        b"a,b\na.png,b.png\n",
        "input,target,split\na.png,b.png,train\nä.png,a.png,test\n".encode(),
        b'{"a": "a.png", "b": "b.png"}\n',
        b'{"input": "a.png", "target": "b.png", "split": "val"}\n\n{"a": "b.png", "b": "../a.png"}\n',
    ]


def _check_line(refusal: UserError) -> None:
    line = str(refusal)
    assert line and is_plain(line) and "\n" not in line, line
    assert len(line) <= MAX_LINE, f"{len(line)} characters: {line[:200]}"


TARGETS = {
    "images": Target(image, _images),
    "archives": Target(archive, _archives),
    "params": Target(parameters, _parameters),
    "manifests": Target(listed_pairs, _manifests),
}
