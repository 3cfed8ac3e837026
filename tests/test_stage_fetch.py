"""The stage `fetch`: every kind of source becomes data/raw/, or one line and nothing."""

import functools
import http.server
import logging
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pix2pix import datasets
from pix2pix.download import DownloadError
from pix2pix.errors import UserError
from pix2pix.files import sha256_file
from pix2pix.params import Params, read_yaml, validate
from stages import fetch as stage

PROJECT = Path(__file__).parents[1]
FACADES = PROJECT.parent / "shared" / "datasets" / "facades.tar.gz"
PUBLISHED = {"name": "facades", "source": "pix2pix/datasets.py"}
# A published set of seven pairs, so that a test can bring an official archive of its own.
SMALL = {"train": 4, "val": 2, "test": 1}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, a cache of its own, no mirror."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PIX2PIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PIX2PIX_MIRROR", raising=False)
    monkeypatch.setattr(stage, "fetch_file", functools.partial(stage.fetch_file, attempts=1))
    return folder


def params(**dataset: str) -> Params:
    values: Any = read_yaml(PROJECT / "params.yaml")
    own = {"name": "own"} if "source" in dataset else {}
    values["dataset"] |= {"sha256": ""} | own | dataset
    return validate(values, "params.yaml")


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def packed(archive: Path, *names: str) -> Path:
    """An archive of small files with these names."""
    folder = write(archive.with_name(f"{archive.name}.content"), *names)
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            tar.add(folder / name, name)
    return archive


def pairs(counts: dict[str, int], top: str = "facades/") -> list[str]:
    return [f"{top}{split}/{number}.jpg" for split, count in counts.items() for number in range(count)]


def raw() -> list[str]:
    return sorted(
        path.relative_to("data/raw").as_posix() for path in Path("data/raw").rglob("*") if path.is_file()
    )


def entries(folder: str) -> list[str]:
    return [path.name for path in Path(folder).iterdir()]


def refused(given: Params, project: Path) -> str:
    """The line with which the stage refuses; nothing is left behind."""
    with pytest.raises(UserError) as caught:
        stage.fetch(given)
    assert not (project / "data").exists() or list((project / "data").iterdir()) == []
    return str(caught.value)


# --- the embedded set --------------------------------------------------------------------------------


def test_embedded_set_is_drawn(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    synthetic = pytest.importorskip("pix2pix.synthetic")

    def write_dataset(folder: Path, on_pair: Callable[[int, int], None]) -> None:
        write(folder, "train/1.png", "val/1.png")
        on_pair(2, 2)

    monkeypatch.setattr(synthetic, "write_dataset", write_dataset)
    with caplog.at_level(logging.INFO):
        stage.fetch(params())
    assert raw() == ["train/1.png", "val/1.png"]
    assert "data/raw: 2 images from pix2pix/synthetic.py" in caplog.text


# --- published sets ----------------------------------------------------------------------------------


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder behind the official address, with a facades.tar.gz of seven pairs in the catalogue."""
    archive = packed(tmp_path / "official" / "facades.tar.gz", *pairs(SMALL))
    handler = functools.partial(QuietHandler, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        publish(monkeypatch, archive, server.server_port)
        yield archive
        server.shutdown()


def publish(monkeypatch: pytest.MonkeyPatch, archive: Path, port: int) -> None:
    entry = datasets.Entry(
        name="facades",
        archive_bytes=archive.stat().st_size,
        pairs=SMALL,
        direction="BtoA",
        epochs=1,
        batch=1,
        licence="none",
    )
    monkeypatch.setattr(datasets, "CATALOGUE", (entry,))
    monkeypatch.setattr(datasets, "OFFICIAL", (f"http://127.0.0.1:{port}",))


def test_published_set_is_downloaded_and_its_digest_is_said(
    official: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        stage.fetch(params(**PUBLISHED))
    assert raw() == sorted(pairs(SMALL, top=""))
    kept = tmp_path / "cache" / "archives" / "facades.tar.gz"
    assert (
        f"data/raw: 7 images from {kept}; to pin it: dataset.sha256 = {sha256_file(official)}" in caplog.text
    )
    assert entries("data") == ["raw"]


def test_published_set_is_downloaded_once(official: Path) -> None:
    stage.fetch(params(**PUBLISHED))
    official.unlink()
    stage.fetch(
        params(**PUBLISHED, sha256=sha256_file(Path(os.environ["PIX2PIX_CACHE"], "archives/facades.tar.gz")))
    )
    assert len(raw()) == 7


def test_official_archive_of_another_size_is_refused(official: Path, project: Path) -> None:
    packed(official, *pairs(SMALL), "facades/extra.jpg")
    assert "bytes instead of" in refused(params(**PUBLISHED), project)


def test_official_archive_with_other_counts_is_refused(
    official: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(official, *pairs({"train": 3, "val": 2, "test": 1}))
    publish(monkeypatch, official, int(datasets.OFFICIAL[0].rpartition(":")[2]))
    line = refused(params(**PUBLISHED), project)
    assert "holds 3 train, 2 val, 1 test images; published are 4 train, 2 val, 1 test" in line


def test_web_page_instead_of_the_archive_is_refused(
    official: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official.write_text("<html>This server has moved</html>" * 99)
    publish(monkeypatch, official, int(datasets.OFFICIAL[0].rpartition(":")[2]))
    assert "bytes of something else" in refused(params(**PUBLISHED), project)


def test_damaged_download_is_removed_so_that_the_next_try_is_a_new_one(
    official: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = official.read_bytes()
    official.write_bytes(whole[:-20] + bytes(20))
    line = refused(params(**PUBLISHED), project)
    assert "truncated or damaged, so it was removed; fetch again" in line
    official.write_bytes(whole)
    stage.fetch(params(**PUBLISHED))
    assert len(raw()) == 7


def test_wrong_digest_of_a_published_set_is_refused(official: Path, project: Path) -> None:
    assert f"not the pinned {'0' * 64}" in refused(params(**PUBLISHED, sha256="0" * 64), project)


def test_unreachable_server_is_a_network_failure(
    official: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "OFFICIAL", ("http://127.0.0.1:1",))
    with pytest.raises(DownloadError) as caught:
        stage.fetch(params(**PUBLISHED))
    assert caught.value.exit_status == 3 and not (project / "data").exists()


def test_unknown_published_set_is_refused(project: Path) -> None:
    line = refused(params(name="facade", source="pix2pix/datasets.py"), project)
    assert "did you mean facades?" in line


def test_mirror_folder_is_used_in_place_whatever_its_size(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = tmp_path / "mirror"
    packed(mirror / "facades.tar.gz", *pairs({"train": 2, "val": 1}))
    monkeypatch.setenv("PIX2PIX_MIRROR", str(mirror))
    with caplog.at_level(logging.INFO):
        stage.fetch(params(**PUBLISHED))
    assert raw() == ["train/0.jpg", "train/1.jpg", "val/0.jpg"]
    assert "holds 2 train, 1 val, 0 test images; published are 4 train, 2 val, 1 test" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_mirror_without_any_image_is_refused(
    official: Path, tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(tmp_path / "mirror" / "facades.tar.gz", "facades/readme.txt")
    monkeypatch.setenv("PIX2PIX_MIRROR", str(tmp_path / "mirror"))
    assert "holds no image" in refused(params(**PUBLISHED), project)


def test_damaged_archive_of_a_mirror_is_left_where_it_is(
    official: Path, tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packed(tmp_path / "mirror" / "facades.tar.gz", *pairs(SMALL))
    archive.write_bytes(archive.read_bytes()[:-20])
    monkeypatch.setenv("PIX2PIX_MIRROR", str(tmp_path / "mirror"))
    assert "truncated or damaged; delete it" in refused(params(**PUBLISHED), project)
    assert archive.exists()


@pytest.mark.skipif(not FACADES.is_file(), reason=f"{FACADES} is not on this machine")
def test_real_facades_come_from_a_mirror_folder(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PIX2PIX_MIRROR", FACADES.parent.as_uri())
    with caplog.at_level(logging.INFO):
        stage.fetch(params(**PUBLISHED))
    assert [len(entries(f"data/raw/{split}")) for split in ("train", "val", "test")] == [400, 100, 106]
    assert f"data/raw: 606 images from {FACADES}" in caplog.text and "published" not in caplog.text


# --- own archives and folders ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["facades/train/1.jpg", "facades/val/2.jpg"], ["train/1.jpg", "val/2.jpg"]),
        (["train/1.jpg", "val/2.jpg"], ["train/1.jpg", "val/2.jpg"]),
        (["deep/deeper/1.jpg", "deep/deeper/list.csv"], ["1.jpg", "list.csv"]),
        (["train/1.jpg"], ["train/1.jpg"]),
        (["set/A/1.jpg", "set/B/1.jpg"], ["A/1.jpg", "B/1.jpg"]),
        (["set/.hidden/1.jpg", "set/1.jpg"], ["1.jpg"]),
    ],
)
def test_own_archive_loses_the_folder_around_it_but_not_its_splits(
    tmp_path: Path, names: list[str], expected: list[str]
) -> None:
    stage.fetch(params(source=str(packed(tmp_path / "own.tar.gz", *names))))
    assert raw() == expected


def test_own_archive_may_be_pinned(tmp_path: Path, project: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = packed(tmp_path / "own.tar.gz", "1.jpg")
    line = refused(params(source=str(own), sha256="0" * 64), project)
    assert f"{own}: has sha256 {sha256_file(own)}, not the {'0' * 64} that dataset.sha256 pins" in line
    with caplog.at_level(logging.INFO):
        stage.fetch(params(source=str(own), sha256=sha256_file(own)))
    assert f"data/raw: 1 images from {own} (as pinned by dataset.sha256)" in caplog.text


def test_source_may_be_relative_or_start_at_home(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project / "mine", "1.jpg")
    stage.fetch(params(source="mine"))
    assert raw() == ["1.jpg"]
    monkeypatch.setenv("HOME", str(project))
    stage.fetch(params(source="~/mine"))
    assert raw() == ["1.jpg"]


@pytest.mark.parametrize("source", ["no/such/place", "~nobody-of-that-name/x", "https://example.org/x.zip"])
def test_missing_source_is_one_line_that_says_what_may_stand_there(project: Path, source: str) -> None:
    line = refused(params(source=source), project)
    assert line.startswith(f"dataset.source = '{source}': is not there; give the path of a folder")


def test_file_that_is_no_archive_is_refused(tmp_path: Path, project: Path) -> None:
    line = refused(params(source=str(write(tmp_path, "list.csv") / "list.csv")), project)
    assert "is not a .tar.gz, .tgz, .tar or .zip archive" in line


def test_own_folder_is_copied_with_its_structure_and_only_its_images(tmp_path: Path) -> None:
    own = write(
        tmp_path / "own", "train/A/1.JPG", "train/B/1.png", "x/2.tiff", "notes.txt", ".git/3.jpg", "._4.jpg"
    )
    (own / "train/A/1.JPG").chmod(0o444)
    stage.fetch(params(source=str(own)))
    assert raw() == ["train/A/1.JPG", "train/B/1.png", "x/2.tiff"]
    copy = Path("data/raw/train/A/1.JPG")
    assert copy.read_bytes() == b"train/A/1.JPG" and copy.stat().st_nlink == 1
    assert copy.stat().st_ino != (own / "train/A/1.JPG").stat().st_ino and os.access(copy, os.W_OK)


def test_the_manifest_of_an_own_folder_is_copied_with_the_images(tmp_path: Path) -> None:
    own = write(tmp_path / "own", "x/1.jpg", "x/2.jpg", "x/pairs.csv", "pairs.csv", "other.csv")
    stage.fetch(params(source=str(own)))
    copied = sorted(str(file.relative_to("data/raw")) for file in Path("data/raw").rglob("*.*"))
    assert copied == ["pairs.csv", "x/1.jpg", "x/2.jpg"]


def test_links_in_an_own_folder_are_followed_and_broken_ones_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far = write(tmp_path / "far", "1.jpg", "more/2.jpg")
    own = write(tmp_path / "own", "0.jpg")
    (own / "1.jpg").symlink_to(far / "1.jpg")
    (own / "train").symlink_to(far / "more")
    (own / "gone.jpg").symlink_to(tmp_path / "gone")
    (own / "val").symlink_to(tmp_path / "unmounted")
    (own / "around").symlink_to(own)
    (own / "self").symlink_to("self")
    stage.fetch(params(source=str(own)))
    assert raw() == ["0.jpg", "1.jpg", "train/2.jpg"]
    assert not any(path.is_symlink() for path in Path("data/raw").rglob("*"))
    for name, reason in {
        "gone.jpg": "nothing",
        "val": "nothing",
        "self": "nothing",
        "around": "a folder around it",
    }.items():
        assert f"{own / name}: left out, a link to {reason}" in caplog.text


def test_folder_without_an_image_is_refused(tmp_path: Path, project: Path) -> None:
    own = write(tmp_path / "own", "readme.txt")
    assert f"dataset.source: {own} holds no image" in refused(params(source=str(own)), project)


@pytest.mark.parametrize("source", [".", "data", "data/raw", "data/raw/train"])
def test_folder_that_overlaps_with_the_output_is_refused(project: Path, source: str) -> None:
    write(project / "data/raw", "train/1.jpg")
    with pytest.raises(UserError, match="is not apart from data/raw"):
        stage.fetch(params(source=source))
    assert raw() == ["train/1.jpg"]


@pytest.mark.parametrize("source", ["mine", "pix2pix/synthetic.py"])
def test_digest_of_what_is_no_archive_is_refused(project: Path, source: str) -> None:
    write(project / "mine", "1.jpg")
    assert "dataset.sha256: is set, but" in refused(params(source=source, sha256="0" * 64), project)


def test_failure_leaves_the_data_that_was_there(tmp_path: Path, project: Path) -> None:
    write(project / "data/raw", "train/1.jpg")
    broken = packed(tmp_path / "own.tar.gz", "1.jpg")
    broken.write_bytes(broken.read_bytes()[:-5])
    with pytest.raises(UserError, match="truncated"):
        stage.fetch(params(source=str(broken)))
    assert raw() == ["train/1.jpg"] and entries("data") == ["raw"]


def test_same_source_gives_the_same_files_whatever_was_there(tmp_path: Path, project: Path) -> None:
    write(project / "data/raw", "old.jpg")
    stage.fetch(params(source=str(packed(tmp_path / "own.tar.gz", "s/1.jpg", "s/2.jpg"))))
    first = {name: Path("data/raw", name).read_bytes() for name in raw()}
    stage.fetch(params(source=str(write(tmp_path / "own.tar.gz.content/s"))))
    assert {name: Path("data/raw", name).read_bytes() for name in raw()} == first


def test_files_whose_names_are_no_text_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = write(tmp_path / "own", "1.jpg")
    (own / os.fsdecode(b"a\xff.jpg")).write_bytes(b"a")
    (own / os.fsdecode(b"train\xfe")).mkdir()
    (own / os.fsdecode(b"train\xfe") / "2.jpg").write_bytes(b"b")
    # `prepare` names this one among the rejects.
    (own / "c\x1b[2J.jpg").write_bytes(b"c")
    stage.fetch(params(source=str(own)))
    assert raw() == ["1.jpg", "c\x1b[2J.jpg"]
    assert caplog.text.count("left out, its name is not UTF-8") == 2
