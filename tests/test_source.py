"""What a run's source holds now, asked of a real server; the task around it is tested in end_to_end/."""

import functools
import http.server
import io
import logging
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline import source
from pix2pix import datasets
from pix2pix.download import DownloadError, fetch_file
from pix2pix.errors import UserError
from pix2pix.files import sha256_file
from pix2pix.params import Params, read_yaml, validate
from stages import fetch as stage

PROJECT = Path(__file__).parents[1]
PUBLISHED = {"name": "facades", "source": "pix2pix/datasets.py"}


def params(**dataset: str) -> Params:
    values: Any = read_yaml(PROJECT / "params.yaml")
    values["dataset"] |= {"sha256": "", "name": "own"} | dataset
    return validate(values, "params.yaml")


def packed(archive: Path, colour: int) -> Path:
    """A pair in an archive, as long for any colour; dated, since servers tell seconds apart."""
    pixels = io.BytesIO()
    Image.new("L", (64, 32), colour).save(pixels, "bmp")
    member = tarfile.TarInfo("facades/train/1.bmp")
    member.size = len(pixels.getvalue())
    archive.parent.mkdir(exist_ok=True)
    with tarfile.open(archive, "w") as tar:
        tar.addfile(member, io.BytesIO(pixels.getvalue()))
    os.utime(archive, (colour, colour))
    return archive


@pytest.fixture
def answers() -> list[tuple[str, int]]:
    """The path and the status of every answer of the server."""
    return []


@pytest.fixture(autouse=True)
def official(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[tuple[str, int]]
) -> Iterator[Path]:
    """The folder behind the only official address, with a facades.tar.gz; and a cache of one's own."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            answers.append((self.path, int(code)))

        def log_message(self, format: str, *args: object) -> None:
            pass

    archive = packed(tmp_path / "official" / "facades.tar.gz", 1)
    monkeypatch.setenv("PIX2PIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(source, "fetch_file", functools.partial(fetch_file, attempts=2, first_wait_s=0.01))
    entry = datasets.Entry(name="facades", pairs=None, direction="BtoA", epochs=1, batch=1, licence="none")
    monkeypatch.setattr(datasets, "CATALOGUE", (entry,))
    handler = functools.partial(Handler, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(datasets, "OFFICIAL", (f"http://127.0.0.1:{server.server_port}",))
        yield archive
        server.shutdown()


def digest(**dataset: str) -> str:
    return source.archive_digest(params(**dataset).dataset)


def test_published_set_is_downloaded_only_when_it_has_changed_and_the_stage_finds_it(
    official: Path, tmp_path: Path, answers: list[tuple[str, int]]
) -> None:
    first = digest(**PUBLISHED)
    assert first == sha256_file(official)
    assert digest(**PUBLISHED) == first
    packed(official, 2)
    second = digest(**PUBLISHED, sha256=first)
    assert second == sha256_file(official) != first
    assert [status for _, status in answers] == [200, 304, 200]
    stage.fetch(params(**PUBLISHED, sha256=second))
    with Image.open("data/raw/train/1.bmp") as image:
        assert image.getpixel((0, 0)) == 2
    assert len(answers) == 3


def test_first_download_by_the_stage_is_remembered_too(
    official: Path, answers: list[tuple[str, int]]
) -> None:
    stage.fetch(params(**PUBLISHED))
    assert digest(**PUBLISHED) == sha256_file(official)
    assert [status for _, status in answers] == [200, 304]


def test_mirror_is_asked_first_and_a_folder_is_read_in_place(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[tuple[str, int]]
) -> None:
    monkeypatch.setenv("PIX2PIX_MIRROR", f"{datasets.OFFICIAL[0]}/mirror")
    assert digest(**PUBLISHED) == sha256_file(official)
    assert answers == [("/mirror/facades.tar.gz", 404), ("/facades.tar.gz", 200)]
    packed(official.parent / "mirror" / "facades.tar.gz", 3)
    assert digest(**PUBLISHED) == sha256_file(official.parent / "mirror" / "facades.tar.gz")
    answers.clear()
    monkeypatch.setenv("PIX2PIX_MIRROR", str(tmp_path / "folder"))
    assert digest(**PUBLISHED) != sha256_file(packed(tmp_path / "folder" / "facades.tar.gz", 4))
    assert digest(**PUBLISHED) == sha256_file(tmp_path / "folder" / "facades.tar.gz")
    assert answers == [("/facades.tar.gz", 200)]


@pytest.mark.parametrize(("address", "failure"), [(None, UserError), ("http://127.0.0.1:9", DownloadError)])
def test_source_that_cannot_tell_is_an_error_and_what_was_there_is_still_had_without_refresh(
    official: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, failure: type[UserError]
) -> None:
    before = digest(**PUBLISHED)
    official.unlink()
    if address:
        monkeypatch.setattr(datasets, "OFFICIAL", (address,))
    with pytest.raises(UserError, match="leave `refresh` out") as caught:
        digest(**PUBLISHED)
    assert type(caught.value) is failure
    stage.fetch(params(**PUBLISHED, sha256=before))


def test_own_archive_is_named_by_its_bytes_and_what_is_no_archive_by_nothing(tmp_path: Path) -> None:
    own = packed(tmp_path / "own.tar", 5)
    assert digest(source=str(own)) == sha256_file(own)
    packed(own, 6)
    assert digest(source=str(own), sha256="0" * 64) == sha256_file(own)
    assert digest(source=str(tmp_path)) == ""
    assert digest(source="pix2pix/synthetic.py", name="embedded") == ""


def test_unknown_published_set_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match="did you mean facades"):
        digest(name="facade", source="pix2pix/datasets.py")


def test_how_far_a_download_is_and_what_it_says_reaches_the_tasks_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(source, "LINE_EVERY_S", 0.0)
    log = logging.getLogger("of a task")
    with caplog.at_level(logging.INFO, "of a task"), source._logged_by(log):
        digest(**PUBLISHED)
    said = [record.getMessage() for record in caplog.records if record.name == "of a task"]
    assert said[0] == f"downloading {datasets.OFFICIAL[0]}/facades.tar.gz"
    assert "refresh: 0/0 MB" in said
    assert logging.getLogger("pix2pix").handlers == []
