"""Files and folders appear whole or not at all, and an obstacle is one line."""

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from pix2pix import files
from pix2pix.errors import UserError
from pix2pix.files import atomic_file, atomic_folder

Atomic = Callable[[Path], AbstractContextManager[Path]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(atomic: Atomic, partial: Path, text: str) -> None:
    (partial if atomic is atomic_file else partial / "inside.txt").write_text(text)


def content(atomic: Atomic, path: Path) -> str:
    return (path if atomic is atomic_file else path / "inside.txt").read_text()


@pytest.fixture(params=[atomic_file, atomic_folder], ids=["file", "folder"])
def atomic(request: pytest.FixtureRequest) -> Atomic:
    made: Atomic = request.param
    return made


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


# --- whole or not at all -----------------------------------------------------------------------------


def test_what_was_written_appears_under_its_name_with_nothing_beside(atomic: Atomic, tmp_path: Path) -> None:
    with atomic(tmp_path / "deep" / "er" / "out") as partial:
        fill(atomic, partial, "new")
        assert not (tmp_path / "deep" / "er" / "out").exists()
    assert content(atomic, tmp_path / "deep" / "er" / "out") == "new"
    assert names(tmp_path / "deep" / "er") == ["out"]


def test_what_was_there_before_is_whole_until_it_is_replaced(atomic: Atomic, tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic(tmp_path / "out") as partial:
            fill(atomic, partial, text)
            if text == "new":
                assert content(atomic, tmp_path / "out") == "old"
    assert content(atomic, tmp_path / "out") == "new"
    assert names(tmp_path) == ["out"]


def test_a_replaced_folder_keeps_nothing_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale.txt").write_text("old")
    with atomic_folder(tmp_path / "out") as partial:
        (partial / "fresh.txt").write_text("new")
    assert names(tmp_path / "out") == ["fresh.txt"]


@pytest.mark.parametrize("failure", [ValueError, UserError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing_where_nothing_was(
    atomic: Atomic, tmp_path: Path, failure: type[BaseException]
) -> None:
    with pytest.raises(failure), atomic(tmp_path / "out") as partial:
        fill(atomic, partial, "half")
        raise failure("stop")
    assert names(tmp_path) == []


@pytest.mark.parametrize("failure", [ValueError, UserError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_one_as_it_was(
    atomic: Atomic, tmp_path: Path, failure: type[BaseException]
) -> None:
    with atomic(tmp_path / "out") as partial:
        fill(atomic, partial, "old")
    with pytest.raises(failure), atomic(tmp_path / "out") as partial:
        fill(atomic, partial, "half")
        raise failure("stop")
    assert content(atomic, tmp_path / "out") == "old"
    assert names(tmp_path) == ["out"]


def test_a_folder_that_cannot_be_renamed_brings_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with atomic_folder(tmp_path / "out") as partial:
        fill(atomic_folder, partial, "old")

    def failing(self: Path, target: Path) -> Path:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="Input/output"), atomic_folder(tmp_path / "out") as partial:
        fill(atomic_folder, partial, "new")
    assert content(atomic_folder, tmp_path / "out") == "old"
    assert names(tmp_path) == ["out"]


def test_a_link_to_a_folder_on_another_disk_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "pairs").mkdir(parents=True)
    (tmp_path / "disk" / "pairs" / "inside.txt").write_text("old")
    (tmp_path / "pairs").symlink_to(tmp_path / "disk" / "pairs")
    with atomic_folder(tmp_path / "pairs") as partial:
        fill(atomic_folder, partial, "new")
    assert (tmp_path / "pairs").is_symlink()
    assert (tmp_path / "disk" / "pairs" / "inside.txt").read_text() == "new"
    assert names(tmp_path) == ["disk", "pairs"]
    assert names(tmp_path / "disk") == ["pairs"]


def test_a_link_to_a_file_is_replaced_so_that_a_cache_behind_it_stays_whole(tmp_path: Path) -> None:
    (tmp_path / "cached").write_text("old")
    (tmp_path / "out").symlink_to(tmp_path / "cached")
    with atomic_file(tmp_path / "out") as partial:
        fill(atomic_file, partial, "new")
    assert (tmp_path / "out").read_text() == "new"
    assert (tmp_path / "cached").read_text() == "old"


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002, 0o077])
def test_rights_follow_the_umask(
    atomic: Atomic, tmp_path: Path, mask: int, umask: Callable[[int], int]
) -> None:
    umask(mask)
    with atomic(tmp_path / "out") as partial:
        fill(atomic, partial, "new")
    everything = 0o666 if atomic is atomic_file else 0o777
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == everything & ~mask
    assert umask(0o022) == mask


def test_a_partial_file_keeps_the_suffix_that_tells_its_format(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.png") as partial:
        assert partial.suffix == ".png"
        assert partial.name.startswith(".")


# --- obstacles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "No space left on device; free some space and run it again"),
        (errno.EDQUOT, "quota exceeded; free some space and run it again"),
        (errno.EACCES, "cannot be written (Permission denied); check the folder's rights"),
        (errno.EPERM, "cannot be written (Operation not permitted); check the folder's rights"),
        (errno.EROFS, "cannot be written (Read-only file system); check the folder's rights"),
    ],
)
def test_a_full_or_closed_disk_is_one_line_that_names_the_file(
    atomic: Atomic, tmp_path: Path, code: int, said: str
) -> None:
    with pytest.raises(UserError) as refused, atomic(tmp_path / "out") as partial:
        fill(atomic, partial, "half")
        raise OSError(code, os.strerror(code))
    assert str(refused.value).startswith(f"{tmp_path / 'out'}: ")
    assert str(refused.value).endswith(said)
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_device_that_is_really_full_is_one_line(atomic: Atomic, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No space left"), atomic(tmp_path / "out"):
        Path("/dev/full").write_bytes(b"more than fits")
    assert names(tmp_path) == []


def test_any_other_error_of_the_system_stays_a_bug(atomic: Atomic, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "out"):
        (tmp_path / "missing").read_bytes()
    assert names(tmp_path) == []


@pytest.mark.parametrize("place", ["file/out", "file/deeper/out"])
def test_a_file_where_the_path_needs_a_folder_is_one_line(atomic: Atomic, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError) as refused, atomic(tmp_path / place):
        pytest.fail("there is nowhere to write to")
    assert str(refused.value) == (
        f"{tmp_path / place}: cannot be written; a part of its path is a file, not a folder"
    )
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_in_the_place_of_a_file_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(UserError, match="is a folder, but a file belongs"),
        atomic_file(tmp_path / "out"),
    ):
        pytest.fail("work that would be lost")
    assert names(tmp_path) == ["out"]


def test_a_file_in_the_place_of_a_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(UserError, match="is a file, but a folder belongs"), atomic_folder(tmp_path / "out"):
        pytest.fail("work that would be lost")
    assert (tmp_path / "out").read_text() == "in the way"


def test_a_users_mistake_is_always_one_line() -> None:
    assert str(UserError("a\n  b\tc ")) == "a b c"


# --- content and digests -----------------------------------------------------------------------------


def test_json_is_indented_readable_and_ends_with_a_newline(tmp_path: Path) -> None:
    value: dict[str, Any] = {"b": [1, 2.5, None], "a": "größe 図"}
    files.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.startswith('{\n  "b": [\n') and text.endswith("}\n")
    assert "größe 図" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_without_a_number_is_a_bug_and_leaves_the_old_file(tmp_path: Path, value: float) -> None:
    files.write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"fid": value})
    assert (tmp_path / "a.json").read_text() == "1\n"
    assert names(tmp_path) == ["a.json"]


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.md", "größe\n図")
    assert (tmp_path / "a.md").read_bytes() == "größe\n図".encode()


@pytest.mark.parametrize("size", [0, 1, 2**18, 2**20 + 1])
def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    (tmp_path / "a").write_bytes(data)
    assert files.sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_the_digest_of_a_value_is_the_same_in_any_order_and_any_process() -> None:
    digest = files.sha256_json({"b": [1, 2], "a": {"d": "ö", "c": None}})
    assert files.sha256_json({"a": {"c": None, "d": "ö"}, "b": [1, 2]}) == digest
    code = (
        "from pix2pix.files import sha256_json;"
        "print(sha256_json({'b': [1, 2], 'a': {'d': '\\u00f6', 'c': None}}))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert other.stdout.strip() == digest


@pytest.mark.parametrize("other", [{"a": 2}, {"b": 1}, {"a": "1"}, {"a": 1, "b": 1}, [["a", 1]]], ids=repr)
def test_another_value_has_another_digest(other: Any) -> None:
    assert files.sha256_json(other) != files.sha256_json({"a": 1})


# --- what kills leave --------------------------------------------------------------------------------


WRITER = """
import sys
from pathlib import Path
from pix2pix.files import {kind}
with {kind}(Path("raw")) as partial:
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_what_is_being_written_is_left_and_what_a_killed_process_wrote_goes(
    atomic: Atomic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PARTIAL_AGE_S", 0)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER.format(kind=atomic.__name__)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        (partial,) = tmp_path.iterdir()
        assert files.remove_partials(tmp_path) == [] and partial.exists()
    finally:
        writer.kill()
        writer.communicate()
    assert files.remove_partials(tmp_path) == [partial]
    assert names(tmp_path) == []


def test_a_partial_that_may_not_be_marked_yet_is_left(tmp_path: Path) -> None:
    (tmp_path / ".raw.abcd1234").mkdir()
    assert files.remove_partials(tmp_path) == []
    os.utime(tmp_path / ".raw.abcd1234", (0, 0))
    assert files.remove_partials(tmp_path) == [tmp_path / ".raw.abcd1234"]


def test_what_is_no_partial_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PARTIAL_AGE_S", 0)
    kept = [".gitignore", ".prepare", ".env.local", ".losses.csv.lock", "raw.abcd1234", "raw"]
    gone = [".raw.abcd1234", ".raw.abcd1234.old", ".losses.csv.a_b1c2d3.csv"]
    for name in (*kept, *gone):
        (tmp_path / name).mkdir()
    files.remove_partials(tmp_path)
    assert names(tmp_path) == sorted(kept)


def test_a_folder_that_is_written_anew_takes_the_place_of_what_kills_left_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PARTIAL_AGE_S", 0)
    for name in (".raw.abcd1234", ".pairs.abcd1234"):
        (tmp_path / name).mkdir()
    with atomic_folder(tmp_path / "raw") as partial:
        assert names(tmp_path) == sorted([".pairs.abcd1234", partial.name])
    assert names(tmp_path) == [".pairs.abcd1234", "raw"]
