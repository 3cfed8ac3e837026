"""Unpacking: honest archives come out whole, all others not at all and with one line."""

import gzip
import io
import random
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pix2pix import archives
from pix2pix.archives import DamagedArchiveError, extract, is_archive
from pix2pix.errors import UserError

FACADES = Path(__file__).parents[1].parent / "shared" / "datasets" / "facades.tar.gz"

CONTENT = {"set/train/1.jpg": b"one" * 400, "set/val/2.jpg": b"two" * 900, "set/pairs.csv": b"a,b\n"}


def tar_of(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def tar_of_files(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    return tar_of(path, [(tarfile.TarInfo(name), content) for name, content in files.items()], mode)


def zip_of_files(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def sparse(name: str) -> tarfile.TarInfo:
    """A file that is one large hole."""
    info = tarfile.TarInfo(name)
    info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": "1000000000"}
    return info


def contents(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


# --- honest archives ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.tar.gz", tar_of_files),
        ("a.tgz", tar_of_files),
        ("a.tar", lambda path, files: tar_of_files(path, files, "w")),
        ("a.zip", zip_of_files),
    ],
)
def test_every_kind_of_archive_comes_out_as_it_went_in(
    tmp_path: Path, name: str, pack: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    told: list[int] = []
    archive = pack(tmp_path / name, CONTENT)
    assert is_archive(archive)
    assert extract(archive, tmp_path / "out", on_progress=told.append) == len(CONTENT)
    assert contents(tmp_path / "out") == CONTENT
    assert told == [1, 2, 3]


def test_zip_with_the_large_records_and_a_comment_comes_out_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else they are written from 65,535 members on.
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    archive = zip_of_files(tmp_path / "a.zip", CONTENT)
    assert b"PK\x06\x06" in archive.read_bytes()
    with zipfile.ZipFile(archive, "a") as opened:
        opened.comment = b"packed for a test"
    assert extract(archive, tmp_path / "out") == len(CONTENT)
    assert contents(tmp_path / "out") == CONTENT
    with pytest.raises(UserError, match="holds more than the 2 members allowed"):
        extract(archive, tmp_path / "none", max_members=2)


def test_kind_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    archive = zip_of_files(tmp_path / "really-a-zip.tar.gz", CONTENT)
    extract(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == CONTENT


@pytest.mark.parametrize("pack", [tar_of_files, zip_of_files])
def test_hidden_files_and_leftovers_of_macos_stay_inside(
    tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    noise = {"set/.DS_Store": b"x", "__MACOSX/set/._1.jpg": b"x", "set/._1.jpg": b"x", ".git/config": b"x"}
    assert extract(pack(tmp_path / "a", CONTENT | noise), tmp_path / "out") == len(CONTENT)
    assert contents(tmp_path / "out") == CONTENT


def test_names_may_be_long_or_foreign_or_start_with_a_dot_slash(tmp_path: Path) -> None:
    files = {f"./{'long' * 30}/{'name' * 30}.jpg": b"1", "./Straße 12:30 – 図.jpg": b"2"}
    extract(tar_of_files(tmp_path / "a.tar.gz", files), tmp_path / "out")
    assert contents(tmp_path / "out") == {name.removeprefix("./"): content for name, content in files.items()}


@pytest.mark.skipif(not FACADES.is_file(), reason=f"{FACADES} is not on this machine")
def test_real_facades_come_out_whole(tmp_path: Path) -> None:
    assert extract(FACADES, tmp_path / "out") == 606
    found = {
        split: len(list((tmp_path / "out/facades" / split).iterdir())) for split in ("train", "val", "test")
    }
    assert found == {"train": 400, "val": 100, "test": 106}


# --- hostile members ---------------------------------------------------------------------------------

HOSTILE_TAR = {
    "absolute path": ([member("/etc/evil.jpg")], "has an absolute path"),
    "parent folder": ([member("a/../../evil.jpg")], "leads out of the folder"),
    "parent folder in a folder's name": ([member("../evil", tarfile.DIRTYPE)], "leads out of the folder"),
    "hidden way out": ([member(".x/../../evil.jpg")], "leads out of the folder"),
    "backslash": ([member("..\\evil.jpg")], "backslash"),
    "drive": ([member("C:/evil.jpg")], "Windows drive"),
    "drive further down": ([member("a/C:evil.jpg")], "Windows drive"),
    "symbolic link": ([member("a", tarfile.SYMTYPE, "/etc")], "is a link (to '/etc')"),
    "symbolic link inside": ([member("b.jpg", tarfile.SYMTYPE, "a.jpg")], "is a link"),
    "hard link": ([member("b.jpg", tarfile.LNKTYPE, "/etc/passwd")], "is a link"),
    "hidden link": ([member(".b", tarfile.SYMTYPE, "/etc")], "is a link"),
    "character device": ([member("null", tarfile.CHRTYPE)], "is a device or a pipe"),
    "block device": ([member("sda", tarfile.BLKTYPE)], "is a device or a pipe"),
    "pipe": ([member("pipe.jpg", tarfile.FIFOTYPE)], "is a device or a pipe"),
    "same name twice": ([member("a.jpg"), member("a.jpg")], "second time"),
    "same place twice": ([member("a/b.jpg"), member("./a//b.jpg")], "second time"),
    "file and folder": ([member("a"), member("a/b.jpg")], "both a file and a folder"),
    "line break in a name": ([member("a\nerror: b.jpg")], "not plain text"),
    "upper and lower case": ([member("a.jpg"), member("A.JPG")], "upper and lower case only"),
    "a letter in two spellings": ([member("é.jpg"), member("e\u0301.jpg")], "upper and lower case only"),
    "escape sequence": ([member("a\x1b[2Jb.jpg")], "'a\\x1b[2Jb.jpg' has a name that is not plain text"),
    "direction turned": ([member("a\u202egpj.exe.jpg")], "not plain text"),
    "depth": ([member("a/" * 32 + "b.jpg")], "lies in more than 31 folders"),
    "depth that no disk takes": ([member("a/" * 4000 + "b.jpg")], "lies in more than 31 folders"),
    "name that is no text": ([member("a\udcff.jpg")], "not plain text"),
    "sparse file": ([sparse("a.jpg")], "is a sparse file"),
    "name of 300 letters": ([member("n" * 300)], "does not take"),
}


@pytest.mark.parametrize(("members", "reason"), HOSTILE_TAR.values(), ids=HOSTILE_TAR)
def test_hostile_tar_member_is_refused_in_one_line_that_names_it(
    tmp_path: Path, members: list[tarfile.TarInfo], reason: str
) -> None:
    archive = tar_of(tmp_path / "evil.tar.gz", [(info, b"") for info in members])
    inside = tmp_path / "deep" / "out"
    inside.mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        extract(archive, inside)
    line = str(caught.value)
    assert line.startswith(f"{archive}: '") and reason in line and "\n" not in line
    around = {path for path in tmp_path.rglob("*") if inside not in path.parents}
    assert around == {archive, inside.parent, inside}
    assert not any(path.is_symlink() for path in inside.rglob("*"))


def unix_zip(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


HOSTILE_ZIP = {
    "absolute path": ([zipfile.ZipInfo("/etc/evil.jpg")], "has an absolute path"),
    "parent folder": ([zipfile.ZipInfo("../evil.jpg")], "leads out of the folder"),
    "backslash": ([zipfile.ZipInfo("..\\evil.jpg")], "backslash"),
    "drive": ([zipfile.ZipInfo("C:/evil.jpg")], "Windows drive"),
    "symbolic link": ([unix_zip("a", stat.S_IFLNK | 0o777)], "is a link"),
    "device": ([unix_zip("a", stat.S_IFCHR | 0o666)], "is a device or a pipe"),
    "depth": ([zipfile.ZipInfo("a/" * 1000 + "b.jpg")], "lies in more than 31 folders"),
    "same name twice": ([zipfile.ZipInfo("a.jpg"), zipfile.ZipInfo("a.jpg")], "second time"),
    "upper and lower case": ([zipfile.ZipInfo("a.jpg"), zipfile.ZipInfo("A.jpg")], "lower case only"),
    "escape sequence": ([zipfile.ZipInfo("a\x1b[2J.jpg")], "not plain text"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("members", "reason"), HOSTILE_ZIP.values(), ids=HOSTILE_ZIP)
def test_hostile_zip_member_is_refused_in_one_line_that_names_it(
    tmp_path: Path, members: list[zipfile.ZipInfo], reason: str
) -> None:
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for info in members:
            opened.writestr(info, b"/etc")
    with pytest.raises(UserError, match=reason):
        extract(archive, tmp_path / "deep" / "out")
    assert not list(tmp_path.glob("**/evil.jpg"))


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = zip_of_files(tmp_path / "a.zip", {"a.jpg": b"1"})
    packed = bytearray(archive.read_bytes())
    packed[6] |= 1
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(packed)
    with pytest.raises(UserError, match=r"'a\.jpg' is encrypted"):
        extract(archive, tmp_path / "out")


# --- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [tar_of_files, zip_of_files])
def test_too_many_members_are_refused(tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path]) -> None:
    archive = pack(tmp_path / "a", {f"{number}.jpg": b"" for number in range(11)})
    assert extract(archive, tmp_path / "all", max_members=11) == 11
    # A zip says at its end what is in it.
    line = r"'10\.jpg' is one more than" if pack is tar_of_files else r"a: holds more than"
    with pytest.raises(UserError, match=f"{line} the 10 members allowed"):
        extract(archive, tmp_path / "out", max_members=10)


@pytest.mark.parametrize("pack", [tar_of_files, zip_of_files])
def test_too_many_folders_are_refused_although_no_member_is_one(
    tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    archive = pack(tmp_path / "a", {f"{letter}{'/a' * 10}/1.jpg": b"" for letter in "abc"})
    assert extract(archive, tmp_path / "all", max_members=33) == 3
    with pytest.raises(UserError, match=r"1\.jpg' takes one more than the 32 folders allowed"):
        extract(archive, tmp_path / "out", max_members=32)


@pytest.mark.parametrize("claimed", [1_000_000 & 0xFFFF, 7])
def test_a_million_entries_of_a_zip_are_refused_in_the_memory_of_one(tmp_path: Path, claimed: int) -> None:
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<HHH", 5, 0, 0) + bytes(12) + b"a.jpg"
    directory = entry * 1_000_000
    start = b"PK\x03\x04" + bytes(26)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, claimed, claimed, len(directory), len(start), 0)
    archive = tmp_path / "million.zip"
    archive.write_bytes(start + directory + end)
    del directory
    tracemalloc.start()
    with pytest.raises(UserError, match=r"holds more than the 30,000 members allowed; nothing was unpacked"):
        extract(archive, tmp_path / "out", max_members=30_000)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert not (tmp_path / "out").exists()


def test_a_million_members_of_a_tar_are_refused_in_the_memory_of_a_few(tmp_path: Path) -> None:
    header = member("d", tarfile.DIRTYPE).tobuf()
    archive = tmp_path / "million.tar"
    with archive.open("wb") as file:
        for _ in range(1000):
            file.write(header * 1000)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"'d' is one more than the 3,000 members allowed"):
        extract(archive, tmp_path / "out", max_members=3000)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("pack", [tar_of_files, zip_of_files])
def test_bomb_is_refused_before_it_fills_the_disk(
    tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    bomb = pack(tmp_path / "bomb", {"1.jpg": bytes(600), "2.jpg": bytes(50_000_000)})
    assert bomb.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"'2\.jpg' takes what comes out past the 1,000 bytes allowed"):
        extract(bomb, tmp_path / "out", max_bytes=1000)
    assert sum(len(content) for content in contents(tmp_path / "out").values()) <= 1000


def test_bomb_of_hidden_files_is_refused_too(tmp_path: Path) -> None:
    bomb = tar_of_files(tmp_path / "bomb.tar.gz", {".hidden": bytes(50_000)})
    with pytest.raises(UserError, match="bytes allowed"):
        extract(bomb, tmp_path / "out", max_bytes=1000)


def test_bombs_that_are_left_out_count_together(tmp_path: Path) -> None:
    # A tar's hidden members are unpacked too, to get past them.
    bomb = tar_of_files(tmp_path / "bomb.tar.gz", {f".{number}": bytes(600) for number in range(3)})
    with pytest.raises(UserError, match=r"'\.1' takes what comes out past the 1,000 bytes allowed"):
        extract(bomb, tmp_path / "out", max_bytes=1000)


def test_bomb_behind_the_end_of_a_tar_is_refused(tmp_path: Path) -> None:
    archive = tar_of_files(tmp_path / "a.tar.gz", {"1.jpg": b"1"})
    with gzip.open(tmp_path / "tail.gz", "wb") as tail:
        tail.write(bytes(5_000_000))
    archive.write_bytes(archive.read_bytes() + (tmp_path / "tail.gz").read_bytes())
    with pytest.raises(UserError, match=r"'what follows the last member' takes what comes out past"):
        extract(archive, tmp_path / "out", max_bytes=1_000_000)


def test_a_bombs_limit_is_its_own_size_many_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_MIN_LIMIT_BYTES", 100_000)
    honest = tar_of_files(tmp_path / "honest.tar.gz", {"1.jpg": random.Random(0).randbytes(400_000)})
    assert extract(honest, tmp_path / "out") == 1
    bomb = tar_of_files(tmp_path / "bomb.tar.gz", {"1.jpg": bytes(4_000_000)})
    limit = max(100_000, 200 * bomb.stat().st_size)
    assert limit < 4_000_000
    with pytest.raises(UserError, match=f"past the {limit:,} bytes allowed"):
        extract(bomb, tmp_path / "none")


# A packed size that is too large changes nothing: deflate ends by itself, and the checksum is right.
@pytest.mark.parametrize(("offset", "lie"), [(18, -1), (22, -1), (22, 1), (22, 10**9)])
def test_zip_that_lies_about_a_size_is_refused(tmp_path: Path, offset: int, lie: int) -> None:
    archive = zip_of_files(tmp_path / "a.zip", {"1.jpg": random.Random(0).randbytes(5000)})
    packed = bytearray(archive.read_bytes())
    for place in (offset, packed.index(b"PK\x01\x02") + offset + 2):
        packed[place : place + 4] = (int.from_bytes(packed[place : place + 4], "little") + lie).to_bytes(
            4, "little"
        )
    archive.write_bytes(packed)
    with pytest.raises(DamagedArchiveError):
        extract(archive, tmp_path / "out")


def test_tar_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    for number, size in enumerate((0, 4_000, 2**40)):
        info = member("1.jpg")
        info.size = size
        archive = tmp_path / f"{number}.tar"
        archive.write_bytes(info.tobuf() + random.Random(0).randbytes(2048) + bytes(1024))
        with pytest.raises(UserError, match=r"truncated or damaged|bytes allowed"):
            extract(archive, tmp_path / f"out-{number}")


def test_an_archive_in_an_archive_stays_packed(tmp_path: Path) -> None:
    inner = zip_of_files(tmp_path / "inner.zip", {"1.jpg": bytes(10_000_000)})
    outer = zip_of_files(tmp_path / "outer.zip", {"inner.zip": inner.read_bytes(), "2.jpg": b"2"})
    assert extract(outer, tmp_path / "out", max_bytes=100_000) == 2
    assert contents(tmp_path / "out") == {"inner.zip": inner.read_bytes(), "2.jpg": b"2"}


def test_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    name = member("a.jpg")
    name.pax_headers = {"comment": "x" * 5_000_000}
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(name)
    with pytest.raises(DamagedArchiveError):
        extract(tmp_path / "a.tar.gz", tmp_path / "out")


# --- damage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.tar.gz", tar_of_files),
        ("a.tar", lambda path, files: tar_of_files(path, files, "w")),
        ("a.zip", zip_of_files),
    ],
)
def test_no_truncation_goes_unnoticed(
    tmp_path: Path, name: str, pack: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    # Cuts at the edges of members above all: there tarfile itself sees an ordinary end.
    archive = pack(tmp_path / name, CONTENT)
    whole = archive.read_bytes()
    end_of_tar = 512 * 11
    last = end_of_tar if name == "a.tar" else len(whole) - 1
    for number, cut in enumerate({*range(600, last, 97), *range(512, last, 512), last}):
        archive.write_bytes(whole[:cut])
        with pytest.raises(DamagedArchiveError, match="truncated or damaged; delete it and fetch again"):
            extract(archive, tmp_path / f"out-{number}")


@pytest.mark.parametrize(("name", "pack"), [("a.tar.gz", tar_of_files), ("a.zip", zip_of_files)])
def test_flipped_bits_give_one_line_or_the_same_files(
    tmp_path: Path, name: str, pack: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    whole = pack(tmp_path / name, CONTENT).read_bytes()
    dice = random.Random(5)
    refused = 0
    for number in range(300):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        archive = tmp_path / f"{number}-{name}"
        archive.write_bytes(damaged)
        out = tmp_path / f"out-{number}"
        try:
            extract(archive, out)
        except UserError as error:
            assert str(error).startswith(str(archive)) and "\n" not in str(error)
            refused += 1
        else:
            assert sorted(contents(out).values()) == sorted(CONTENT.values())
    assert refused > 150


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", bytes(10_240), b"\xff\xd8\xff" * 999])
def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    page = tmp_path / "facades.tar.gz"
    page.write_bytes(content)
    assert not is_archive(page)
    with pytest.raises(UserError, match=r"is not a \.tar\.gz, \.tgz, \.tar or \.zip archive"):
        extract(page, tmp_path / "out")


def test_missing_archive_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.zip: cannot be read \(No such file or directory\)"):
        extract(tmp_path / "none.zip", tmp_path / "out")
