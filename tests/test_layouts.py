"""Layouts: pairs are found in every usual one, and what is not a pair is named."""

import os
import sys
import time
from pathlib import Path

import pytest

from pix2pix import images
from pix2pix.errors import UserError
from pix2pix.layouts import Reject, find_pairs


def touch(folder: Path, *names: str) -> Path:
    """Files with these names; finding looks at names only."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def found(folder: Path) -> dict[tuple[str | None, str], tuple[str, ...]]:
    """The files of every pair, by split and name; a layout without rejects."""
    all_of_it = find_pairs(folder)
    assert all_of_it.rejects == []
    return {
        (pair.split, pair.name): tuple(file for file in (pair.a, pair.b) if file is not None)
        for pair in all_of_it.pairs
    }


LAYOUTS: dict[str, dict[tuple[str | None, str], tuple[str, ...]]] = {
    "combined": {(None, "1"): ("1.jpg",), (None, "2"): ("2.png",)},
    "combined in splits": {
        ("train", "1"): ("train/1.jpg",),
        ("val", "1"): ("val/1.jpg",),
        ("test", "2"): ("test/2.jpg",),
    },
    "validation in words, capitals": {("val", "1"): ("Validation/1.jpg",), ("train", "1"): ("TRAIN/1.jpg",)},
    "training, testing and dev": {
        ("train", "1"): ("training/1.jpg",),
        ("val", "1"): ("dev/1.jpg",),
        ("test", "1"): ("testing/1.jpg",),
    },
    "valid and eval joined to sides": {
        ("train", "1"): ("trainingA/1.jpg", "trainingB/1.jpg"),
        ("val", "1"): ("validA/1.jpg", "validB/1.jpg"),
        ("val", "2"): ("eval_A/2.jpg", "eval_B/2.jpg"),
    },
    "two folders": {(None, "1"): ("A/1.jpg", "B/1.jpg"), (None, "2"): ("A/2.jpg", "B/2.jpg")},
    "two folders, other formats": {(None, "1"): ("A/1.jpg", "B/1.png"), (None, "2"): ("A/2.TIF", "B/2.webp")},
    "sides in splits": {
        ("train", "1"): ("train/A/1.png", "train/B/1.png"),
        ("test", "1"): ("test/A/1.png", "test/B/1.png"),
    },
    "splits in sides": {
        ("train", "1"): ("A/train/1.png", "B/train/1.png"),
        ("test", "1"): ("A/test/1.png", "B/test/1.png"),
    },
    "nested": {
        (None, "city__north__1"): ("city/north/1.jpg",),
        (None, "city__south__1"): ("city/south/1.jpg",),
    },
    "sides below a folder": {(None, "city__1"): ("city/A/1.jpg", "city/B/1.jpg")},
    "sides above a folder": {(None, "city__1"): ("A/city/1.jpg", "B/city/1.jpg")},
    "everything at once": {
        ("train", "data__x__1"): ("data/A/train/x/1.jpg", "data/B/train/x/1.jpg"),
        ("val", "data__x__1"): ("data/val/x/1.jpg",),
    },
    "spaces and other letters": {(None, "größe 1 – 図"): ("A/größe 1 – 図.jpg", "B/größe 1 – 図.jpg")},
    "dots in a name": {(None, "1.seg"): ("1.seg.png",), (None, "1.seg.fine"): ("1.seg.fine.png",)},
    "input and target": {(None, "1"): ("input/1.png", "target/1.jpg")},
    "images and masks in splits": {
        ("train", "1"): ("images/train/1.jpg", "masks/train/1.png"),
        ("val", "1"): ("images/val/1.jpg", "masks/val/1.png"),
    },
    "splits joined to words": {
        ("train", "1"): ("train_source/1.jpg", "train_target/1.png"),
        ("test", "1"): ("test_source/1.jpg", "test_target/1.png"),
    },
    "a word without its other half is a folder": {(None, "images__1"): ("images/1.jpg",)},
    "one couple of words a set": {(None, "input__1"): ("A/input/1.jpg", "B/input/1.jpg")},
    "names that end in their side": {
        (None, "p0"): ("p0_A.png", "p0_B.jpg"),
        (None, "x__p1"): ("x/p1-a.png", "x/p1-b.png"),
    },
    "names that end in a word": {("train", "p 0"): ("train/p 0_input.png", "train/p 0_target.png")},
    "one ending alone is a name": {(None, "1_A"): ("1_A.png",), (None, "2_A"): ("2_A.png",)},
    "names that are only numbers": {(None, "007"): ("A/007.png", "B/007.png"), (None, "7"): ("7.png",)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_its_pairs(tmp_path: Path, layout: str) -> None:
    expected = LAYOUTS[layout]
    touch(tmp_path, *(file for files in expected.values() for file in files))
    assert found(tmp_path) == expected


@pytest.mark.parametrize("suffix", sorted(images.IMAGE_SUFFIXES))
def test_every_suffix_counts_in_small_and_in_capital_letters(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, f"a{suffix}", f"b{suffix.upper()}")
    assert list(found(tmp_path)) == [(None, "a"), (None, "b")]


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "A/1.jpg", "B/1.jpg", "A/._1.jpg", "A/.DS_Store", "._2.jpg", ".cache/3.jpg", "A/.x/4.jpg")
    touch(tmp_path, "__MACOSX/A/1.jpg", "__MACOSX/A/._1.jpg", "README.txt", "A/Thumbs.db", "labels.csv", "5")
    assert found(tmp_path) == {(None, "1"): ("A/1.jpg", "B/1.jpg")}


def test_a_hidden_folder_above_the_data_does_not_hide_it(tmp_path: Path) -> None:
    touch(tmp_path / ".data" / "raw", "1.jpg")
    assert found(tmp_path / ".data" / "raw") == {(None, "1"): ("1.jpg",)}


def test_a_folder_called_like_an_image_is_no_image(tmp_path: Path) -> None:
    touch(tmp_path, "scene.png/1.jpg")
    assert found(tmp_path) == {(None, "scene.png__1"): ("scene.png/1.jpg",)}


def test_a_name_that_one_system_takes_apart_is_the_same_name(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    touch(tmp_path, f"A/{composed}.jpg", f"B/{apart}.jpg")
    assert list(found(tmp_path)) == [(None, composed)]


def test_an_empty_or_missing_folder_has_no_pairs(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        found = find_pairs(folder)
        assert (list(found.pairs), found.rejects, found.layout) == ([], [], "")


def test_pairs_come_in_one_order_however_the_files_were_made(tmp_path: Path) -> None:
    names = [f"{index}.jpg" for index in range(30)]
    forwards = find_pairs(touch(tmp_path / "f", *names)).pairs
    backwards = find_pairs(touch(tmp_path / "b", *reversed(names))).pairs
    assert [pair.name for pair in forwards] == [pair.name for pair in backwards]


@pytest.mark.parametrize(
    ("names", "usable", "rejects"),
    [
        (["1.jpg", "1.png"], ["1"], [("1.png", "a second file for the pair 1")]),
        (["A/1.jpg", "A/1.png", "B/1.jpg"], ["1"], [("A/1.png", "a second file for the pair 1")]),
        (
            ["A/1.jpg", "B/1.jpg", "1.jpg"],
            ["1"],
            [("A/1.jpg", "a second file for the pair 1"), ("B/1.jpg", "a second file for the pair 1")],
        ),
        (["x/1.jpg", "x__1.jpg"], ["x__1"], [("x__1.jpg", "a second file for the pair x__1")]),
        (["val/1.jpg", "validation/1.jpg"], ["1"], [("validation/1.jpg", "a second file for the pair 1")]),
        (
            ["A/1.jpg", "B/1.jpg", "A/2.jpg"],
            ["1"],
            [("A/2.jpg", "has no partner of the same name in B/")],
        ),
        (["B/1.jpg"], [], [("B/1.jpg", "has no partner of the same name in A/")]),
        (
            ["train/A/1.jpg", "test/B/1.jpg"],
            [],
            [
                ("train/A/1.jpg", "has no partner of the same name in B/"),
                ("test/B/1.jpg", "has no partner of the same name in A/"),
            ],
        ),
        (
            ["train/1.jpg", "2.jpg", "extra/3.jpg"],
            ["1"],
            [
                ("2.jpg", "lies outside the split folders"),
                ("extra/3.jpg", "lies outside the split folders"),
            ],
        ),
        (
            ["train/1.jpg", "A/2.jpg", "B/2.jpg"],
            ["1"],
            [
                ("A/2.jpg", "lies outside the split folders"),
                ("B/2.jpg", "lies outside the split folders"),
            ],
        ),
        (["a\nb.jpg", "1.jpg"], ["1"], [("'a\\nb.jpg'", "has a name that is not plain text")]),
        (
            [f"{'f' * 200}/{'n' * 60}.jpg", "1.jpg"],
            ["1"],
            [(repr(f"{'f' * 200}/{'n' * 60}.jpg"), "has too long a name, with its folders")],
        ),
    ],
    ids=[
        "two combined",
        "two on a side",
        "combined and sides",
        "two paths, one name",
        "two folders, one split",
        "no partner in B",
        "no partner in A",
        "partner in another split",
        "outside, combined",
        "outside, sides",
        "two lines",
        "too long",
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, names: list[str], usable: list[str], rejects: list[tuple[str, str]]
) -> None:
    done = find_pairs(touch(tmp_path, *names))
    assert [pair.name for pair in done.pairs] == usable
    assert sorted((reject.file, reject.reason) for reject in done.rejects) == sorted(rejects)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name themselves")
def test_a_name_of_no_known_encoding_is_rejected_in_words_that_can_be_written(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", os.O_CREAT))
    done = find_pairs(tmp_path)
    assert [pair.name for pair in done.pairs] == ["1"]
    assert done.rejects == [Reject("'caf\\udce9.jpg'", "has a name that is not plain text")]
    assert done.rejects[0].file.encode("utf-8")


def test_the_longest_name_that_fits_is_used(tmp_path: Path) -> None:
    touch(tmp_path, f"{'n' * 251}.png")
    assert [name for _, name in found(tmp_path)] == ["n" * 251]


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (("a/1.png", "b/1.png"), None),
        (("trainA/1.png", "trainB/1.png"), "train"),
        (("test_a/1.png", "test_b/1.png"), "test"),
    ],
)
def test_sides_are_known_in_either_case_and_joined_to_a_split(
    tmp_path: Path, names: tuple[str, str], split: str | None
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert found(tmp_path) == {(split, "1"): names}


def test_names_of_which_only_most_say_their_side_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, *(f"p{index}_{side}.png" for index in range(3) for side in "AB"), "overview.png")
    with pytest.raises(UserError) as refused:
        find_pairs(tmp_path)
    assert str(refused.value) == (
        "6 of 7 images are named in pairs like 1_A.png and 1_B.png, but overview.png is not; move it away, "
        "put the sides into folders A/ and B/, or list the pairs in pairs.csv"
    )


def test_combined_images_of_which_a_few_happen_to_end_so_stay_combined(tmp_path: Path) -> None:
    touch(tmp_path, "vitamin_a.png", "vitamin_b.png", "1.png", "2.png", "3.png")
    assert len(found(tmp_path)) == 5


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["A/1.png", "B/1.png"], "folders A/ and B/"),
        (["trainInput/1.png", "trainTarget/1.png"], "folders input/ and target/"),
        (["1.png"], "combined images"),
        (["A/1.png", "B/1.png", "2.png"], "folders A/ and B/ and combined images"),
        (["1_A.png", "1_B.png"], "names that end in _A and _B"),
    ],
)
def test_the_layout_is_said_in_words(tmp_path: Path, names: list[str], layout: str) -> None:
    assert find_pairs(touch(tmp_path, *names)).layout == layout


def test_for_derived_inputs_every_image_is_a_photo_whatever_its_folder_is_called(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "train/2_A.png", "test/2_B.png")
    done = find_pairs(tmp_path, derived=True)
    assert [(pair.split, pair.name) for pair in done.pairs] == [
        ("test", "2_B"),
        ("train", "2_A"),
        ("train", "a__1"),
        ("train", "b__1"),
    ]
    assert (done.rejects, done.layout) == ([], "photos")


def test_a_hundred_thousand_files_in_one_folder_take_seconds(tmp_path: Path) -> None:
    """Hard links, which are made quickly; 100 s would be quadratic work."""
    touch(tmp_path, "A/0.png", "B/0.png")
    for side in "AB":
        folder = tmp_path / side
        for index in range(1, 50_000):
            os.link(folder / f"{(index - 1) // 20_000 * 20_000}.png", folder / f"{index}.png")
            if index % 20_000 == 0:
                (folder / f"{index}.png").unlink()
                (folder / f"{index}.png").touch()
    started = time.monotonic()
    done = find_pairs(tmp_path)
    assert time.monotonic() - started < 20
    assert (len(done.pairs), done.rejects) == (50_000, [])
    assert done.pairs[0].name == "0"


# --- manifests ---------------------------------------------------------------------------------------


def listed(folder: Path, *lines: str, name: str = "pairs.csv") -> Path:
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder


IMAGES = ("x/1.png", "y/1 größe.jpg", "x/2.png", "y/2.tif", "left.png")


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("pairs.csv", ["a,b", "x/1.png,y/1 größe.jpg", "x/2.png,y/2.tif"]),
        ("pairs.csv", ["\ufeffTarget,Input,note", "y/1 größe.jpg,x/1.png,good", "", 'y/2.tif,"x/2.png",']),
        ("pairs.csv", ["A,B,split", "./x/1.png,y//1 größe.jpg,", "x\\2.png,y/2.tif,"]),
        ("pairs.jsonl", ['{"a": "x/1.png", "b": "y/1 größe.jpg"}', "", '{"A": "x/2.png", "B": "y/2.tif"}']),
    ],
)
def test_a_manifest_lists_the_pairs_and_what_it_does_not_list_is_none(
    tmp_path: Path, name: str, lines: list[str]
) -> None:
    listed(touch(tmp_path, *IMAGES), *lines, name=name)
    assert found(tmp_path) == {
        (None, "x__1"): ("x/1.png", "y/1 größe.jpg"),
        (None, "x__2"): ("x/2.png", "y/2.tif"),
    }
    assert find_pairs(tmp_path).layout == f"the pairs listed in {name}"


def test_a_manifest_may_say_the_splits(tmp_path: Path) -> None:
    rows = ["a,b,split", "x/1.png,left.png,train", "x/2.png,left.png,Validation", "left.png,left.png,test"]
    listed(touch(tmp_path, *IMAGES), *rows)
    assert [(split, name) for split, name in found(tmp_path)] == [
        ("train", "x__1"),
        ("val", "x__2"),
        ("test", "left"),
    ]


def test_a_manifest_finds_a_file_whose_name_the_disk_spells_another_way(tmp_path: Path) -> None:
    listed(touch(tmp_path, "cafe\u0301.png", "b.png"), "a,b", "caf\u00e9.png,b.png")
    assert found(tmp_path) == {(None, "caf\u00e9"): ("cafe\u0301.png", "b.png")}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x/1.png,y/gone.png", "names y/gone.png, which is not there"),
        ("x/1.png,../out.png", "names ../out.png, which is not below the manifest's own folder"),
        ("/etc/1.png,x/1.png", "names /etc/1.png, which is not below the manifest's own folder"),
        ("x/1.txt,x/1.png", "names x/1.txt, which is no image by its suffix"),
        ("left.png,x/2.png", "names left.png a second time"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_line(tmp_path: Path, row: str, reason: str) -> None:
    listed(touch(tmp_path, *IMAGES), "a,b", "left.png,x/1.png", row)
    done = find_pairs(tmp_path)
    assert [pair.name for pair in done.pairs] == ["left"]
    assert done.rejects == [Reject("pairs.csv line 3", reason)]


def test_a_row_without_a_split_among_rows_with_one_is_rejected(tmp_path: Path) -> None:
    rows = ["a,b,split", "x/1.png,left.png,train", "x/2.png,left.png,"]
    done = find_pairs(listed(touch(tmp_path, *IMAGES), *rows))
    assert [pair.name for pair in done.pairs] == ["x__1"]
    assert done.rejects == [Reject("x/2.png", "has no split in pairs.csv, where others have")]


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        (
            "pairs.csv",
            ["x,y", "1,2"],
            " line 2: needs the columns a and b, or input and target; it has 'x', 'y'",
        ),
        ("pairs.csv", ["a;b", "1.png;2.png"], ": separates its columns by ';'; save it with commas"),
        ("pairs.csv", ["a,b", "1.png"], " line 2: has 1 values for 2 columns"),
        ("pairs.csv", ["a,b", "1.png, "], " line 2: b = ' ': must be the path of an image"),
        ("pairs.csv", ["a,b,split", "1.png,2.png,extra"], " line 2: split = 'extra': must be train, "),
        ("pairs.jsonl", ['{"a": "1.png", "b": 2}'], " line 1: b = 2: must be the path of an image"),
        ("pairs.jsonl", ["", "[1]"], " line 2: is not an object like "),
        ("pairs.jsonl", ["{"], " line 1: is not JSON ("),
        ("pairs.jsonl", ['{"a": "1.png", "b": "2.png", "split": ["train"]}'], " line 1: split = ['train']: "),
    ],
)
def test_what_is_no_manifest_is_one_line_that_names_its_own(
    tmp_path: Path, name: str, lines: list[str], said: str
) -> None:
    listed(touch(tmp_path, "1.png", "2.png"), *lines, name=name)
    with pytest.raises(UserError) as refused:
        find_pairs(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / name}{said}")


def test_two_manifests_or_one_of_another_encoding_or_one_for_photos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_bytes("a,b\ngröße.png,x.png".encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8 text"):
        find_pairs(tmp_path)
    with pytest.raises(UserError, match=r"lists pairs, but dataset\.derive takes photos alone"):
        find_pairs(tmp_path, derived=True)
    (tmp_path / "pairs.jsonl").touch()
    with pytest.raises(UserError, match=r"has both pairs\.csv and pairs\.jsonl; keep one"):
        find_pairs(tmp_path)


def test_a_name_whose_other_ending_is_missing_is_told_of_it(tmp_path: Path) -> None:
    for name in ("1_A.png", "1_B.png", "2_A.png", "2_B.png", "3_A.png"):
        (tmp_path / name).touch()
    (reject,) = find_pairs(tmp_path).rejects
    assert (reject.file, reject.reason) == ("3_A.png", "has no partner that ends in _B")
