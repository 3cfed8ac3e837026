"""Pairs: found in every layout, split by their names alone, prepared to the pixel, read back as they were."""

import math
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pix2pix import images, pair_set, pairs
from pix2pix.errors import UserError
from pix2pix.images import Pixels, UnreadableImage
from pix2pix.pairs import Pair, Prepared, Reject, Split, find_pairs, prepare_pair, split_of
from pix2pix.params import Prepare

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def touch(folder: Path, *names: str) -> Path:
    """Files with these names; finding looks at names only."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def solid(color: tuple[int, int, int], height: int = 32, width: int = 32) -> Pixels:
    return np.full((height, width, 3), color, dtype=np.uint8)


def saved(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write_image(path, pixels)
    return path


def found(folder: Path) -> dict[tuple[str | None, str], tuple[str, ...]]:
    """The files of every pair, by split and name; a layout without rejects."""
    usable, rejects = find_pairs(folder)
    assert rejects == []
    return {
        (pair.split, pair.name): tuple(
            str(file.relative_to(folder)) for file in (pair.a, pair.b) if file is not None
        )
        for pair in usable
    }


# --- finding -----------------------------------------------------------------------------------------

LAYOUTS: dict[str, dict[tuple[str | None, str], tuple[str, ...]]] = {
    "combined": {(None, "1"): ("1.jpg",), (None, "2"): ("2.png",)},
    "combined in splits": {
        ("train", "1"): ("train/1.jpg",),
        ("val", "1"): ("val/1.jpg",),
        ("test", "2"): ("test/2.jpg",),
    },
    "validation in words, capitals": {("val", "1"): ("Validation/1.jpg",), ("train", "1"): ("TRAIN/1.jpg",)},
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
    assert find_pairs(tmp_path) == ([], [])
    assert find_pairs(tmp_path / "missing") == ([], [])


def test_pairs_come_in_one_order_however_the_files_were_made(tmp_path: Path) -> None:
    names = [f"{index}.jpg" for index in range(30)]
    forwards = find_pairs(touch(tmp_path / "f", *names))[0]
    backwards = find_pairs(touch(tmp_path / "b", *reversed(names)))[0]
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
    good, bad = find_pairs(touch(tmp_path, *names))
    assert [pair.name for pair in good] == usable
    assert sorted((reject.file, reject.reason) for reject in bad) == sorted(rejects)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name themselves")
def test_a_name_of_no_known_encoding_is_rejected_in_words_that_can_be_written(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", os.O_CREAT))
    good, bad = find_pairs(tmp_path)
    assert [pair.name for pair in good] == ["1"]
    assert bad == [Reject("'caf\\udce9.jpg'", "has a name that is not plain text")]
    assert bad[0].file.encode("utf-8")


def test_the_longest_name_that_fits_is_used(tmp_path: Path) -> None:
    touch(tmp_path, f"{'n' * 251}.png")
    assert [name for _, name in found(tmp_path)] == ["n" * 251]


# --- splitting ---------------------------------------------------------------------------------------


def of_splits(**names: Iterable[int | str]) -> list[Pair]:
    """Pairs by split; the split `none` is that of pairs without one."""
    return [
        Pair(str(name), None if split == "none" else split, Path(f"{split}/{name}.png"))  # type: ignore[arg-type]
        for split, group in names.items()
        for name in group
    ]


def names_in(splits: dict[Split, list[Pair]]) -> dict[str, set[str]]:
    return {split: {pair.name for pair in group} for split, group in splits.items()}


NAMES = [f"photo {index:04d}" for index in range(600)]


def test_official_splits_are_kept_whatever_the_shares_are() -> None:
    given = of_splits(train=range(5), val=range(3), test=range(2))
    splits, rule = pairs.assign_splits(given, val_share=0.9, test_share=0.05)
    assert rule == "the data's own train, val and test"
    assert {split: [pair.split for pair in group] for split, group in splits.items()} == {
        "train": ["train"] * 5,
        "val": ["val"] * 3,
        "test": ["test"] * 2,
    }


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_a_set_with_two_splits_is_tested_on_the_held_out_one_and_takes_val_from_train(held_out: str) -> None:
    given = of_splits(**{"train": NAMES, held_out: ["x", "y"]})
    splits, rule = pairs.assign_splits(given, val_share=0.2, test_share=0.5)
    assert rule == f"the data's own {held_out} as test; 20% of its train as val, by name"
    assert [(pair.name, pair.split) for pair in splits["test"]] == [("x", held_out), ("y", held_out)]
    assert {pair.split for pair in (*splits["train"], *splits["val"])} == {"train"}
    assert len(splits["train"]) + len(splits["val"]) == len(NAMES)
    assert 80 <= len(splits["val"]) <= 160


@pytest.mark.parametrize("split", ["none", "train"])
def test_a_set_without_held_out_data_is_split_by_name(split: str) -> None:
    splits, rule = pairs.assign_splits(of_splits(**{split: NAMES}), val_share=0.1, test_share=0.2)
    assert rule == "10% val and 20% test, by name"
    assert {name: kind for kind, group in names_in(splits).items() for name in group} == {
        name: split_of(name, 0.1, 0.2) for name in NAMES
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (of_splits(val=[1]), "data/raw: has val but no train folder"),
        (of_splits(test=[1]), "data/raw: has test but no train folder"),
        (of_splits(val=[1], test=[1]), "data/raw: has test and val but no train folder"),
    ],
    ids=["val", "test", "both"],
)
def test_splits_without_train_are_refused(given: list[Pair], said: str) -> None:
    with pytest.raises(UserError) as refused:
        pairs.assign_splits(given, 0.1, 0.1)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    "groups", [("none",), ("train",), ("train", "val"), ("train", "test"), ("train", "val", "test")]
)
def test_every_pair_is_in_one_split_and_every_split_is_in_order_of_name(groups: tuple[str, ...]) -> None:
    given = of_splits(**{group: [f"{group} {name}" for name in NAMES[:100]] for group in groups})
    random.Random(0).shuffle(given)
    splits, _ = pairs.assign_splits(given, 0.2, 0.2)
    assert list(splits) == ["train", "val", "test"]
    assert sorted(pair.name for group in splits.values() for pair in group) == sorted(p.name for p in given)
    for group in splits.values():
        assert [pair.name for pair in group] == sorted(pair.name for pair in group)


@pytest.mark.parametrize("split", ["none", "train"])
def test_a_growing_set_never_moves_a_pair_between_splits(split: str) -> None:
    before: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for size in (1, 10, 57, 300, 600):
        grown = of_splits(**{split: NAMES[:size]})
        random.Random(size).shuffle(grown)
        after = names_in(pairs.assign_splits(grown, 0.15, 0.15)[0])
        assert all(before[kind] <= after[kind] for kind in before)
        before = after
    assert all(before.values())


def test_a_growing_train_never_moves_a_pair_where_the_test_split_is_official() -> None:
    small = names_in(pairs.assign_splits(of_splits(train=NAMES[:200], test=["x"]), 0.2, 0)[0])
    large = names_in(pairs.assign_splits(of_splits(train=NAMES, test=["x", "y"]), 0.2, 0)[0])
    assert all(small[kind] <= large[kind] for kind in small)


def test_a_larger_share_only_adds_to_the_test_split() -> None:
    small, large = ({name for name in NAMES if split_of(name, 0, share) == "test"} for share in (0.1, 0.3))
    assert small < large


@pytest.mark.parametrize(("val_share", "test_share"), [(0.1, 0.1), (0.3, 0.05), (0.0, 0.5), (0.2, 0.0)])
def test_the_splits_have_about_the_shares_that_were_asked_for(val_share: float, test_share: float) -> None:
    count = 3000
    splits = [split_of(f"image {index}", val_share, test_share) for index in range(count)]
    for split, share in (("val", val_share), ("test", test_share)):
        # Four standard deviations of a binomial distribution.
        assert abs(splits.count(split) - share * count) <= 4 * math.sqrt(count * share * (1 - share))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("0004", "test"),
        ("0013", "test"),
        ("0005", "val"),
        ("0017", "val"),
        ("0020", "train"),
        ("größe", "train"),
    ],
)
def test_a_name_has_had_its_split_since_the_first_version(name: str, split: str) -> None:
    assert split_of(name, 0.1, 0.1) == split


def test_a_name_has_the_same_split_in_every_process() -> None:
    code = (
        "from pix2pix.pairs import split_of;"
        "print(*(split_of(f'photo {i:04d}', 0.3, 0.3) for i in range(100)))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "99", "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert other.stdout.split() == [split_of(name, 0.3, 0.3) for name in NAMES[:100]]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((9, 0, 3), ("val", 12, "raise prepare.val_share")),
        ((9, 3, 0), ("test", 12, "raise prepare.test_share")),
        ((0, 2, 1), ("train", 3, "lower prepare.val_share and prepare.test_share")),
    ],
)
def test_an_empty_split_is_refused_and_says_what_to_change(
    counts: tuple[int, int, int], said: tuple[str, int, str]
) -> None:
    split, usable, mend = said
    with pytest.raises(UserError) as refused:
        pairs.check_not_empty(dict(zip(pairs.SPLITS, counts, strict=True)), "by name")
    assert str(refused.value) == (
        f"data/raw: the {split} split is empty ({usable} usable pairs, split: by name); add pairs or {mend}"
    )


def test_splits_that_all_have_enough_pairs_are_accepted() -> None:
    pairs.check_not_empty({"train": 2, "val": 1, "test": 2}, "by name")


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_pair_is_too_few_for_a_distance_between_distributions(split: str) -> None:
    counts = {"train": 2, "val": 1, "test": 2} | {split: 1}
    with pytest.raises(UserError, match=f"the {split} split has one pair, too few"):
        pairs.check_not_empty(counts, "by name")


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
    (pair,), rejects = pairs.find_pairs(tmp_path)
    assert (pair.name, pair.split, pair.is_combined, rejects) == ("1", split, False, [])


# --- preparing ---------------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder as prepare_splits makes it for a split."""
    for side in ("input", "target"):
        (tmp_path / "out" / side).mkdir(parents=True)
    return tmp_path / "out"


def combined(folder: Path, a: Pixels, b: Pixels, name: str = "1") -> Pair:
    return Pair(name, None, saved(folder / f"{name}.png", np.hstack([a, b])))


def two_files(folder: Path, a: Pixels, b: Pixels, name: str = "1") -> Pair:
    files = [saved(folder / side / f"{name}.png", pixels) for side, pixels in (("A", a), ("B", b))]
    return Pair(name, None, *files)


def prepared(out: Path, pair: Pair, side_px: int = 32, direction: str = "AtoB", **methods: str) -> Prepared:
    methods = {"resize_input": "nearest", "resize_target": "area"} | methods
    return prepare_pair(pair, out, side_px, direction, **methods)


def sides(out: Path, name: str = "1") -> tuple[Pixels, Pixels]:
    return images.read_rgb(out / "input" / f"{name}.png"), images.read_rgb(out / "target" / f"{name}.png")


@pytest.mark.parametrize("layout", [combined, two_files])
@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_the_direction_says_which_half_is_the_input(
    tmp_path: Path, out: Path, layout: Any, direction: str
) -> None:
    a, b = noise(32, 32, 1), noise(32, 32, 2)
    done = prepared(out, layout(tmp_path, a, b), direction=direction)
    source, target = sides(out)
    assert np.array_equal(source, a if direction == "AtoB" else b)
    assert np.array_equal(target, b if direction == "AtoB" else a)
    assert (done.name, done.source_size) == ("1", "32×32")


@pytest.mark.parametrize("side_px", [32, 36, 64])
def test_an_oblong_pair_becomes_square(tmp_path: Path, out: Path, side_px: int) -> None:
    done = prepared(out, combined(tmp_path, noise(40, 60), noise(40, 60)), side_px)
    assert [side.shape for side in sides(out)] == [(side_px, side_px, 3)] * 2
    assert done.source_size == "60×40"


def test_each_side_is_resized_by_its_own_method(tmp_path: Path, out: Path) -> None:
    checks = np.tile(np.array([[RED, GREEN], [GREEN, RED]], np.uint8), (32, 32, 1))
    pair = combined(tmp_path, checks, checks)
    prepared(out, pair, resize_input="nearest", resize_target="area")
    source, target = sides(out)
    assert {tuple(color) for color in source.reshape(-1, 3).tolist()} <= {RED, GREEN}
    assert {tuple(color) for color in target.reshape(-1, 3).tolist()} == {(128, 128, 0)}
    # The methods belong to input and target, not to A and B.
    prepared(out, pair, direction="BtoA", resize_input="nearest", resize_target="area")
    assert all(np.array_equal(a, b) for a, b in zip(sides(out), (source, target), strict=True))


def test_an_odd_width_has_no_two_halves(tmp_path: Path, out: Path) -> None:
    pair = Pair("1", None, saved(tmp_path / "1.png", noise(32, 65)))
    with pytest.raises(UnreadableImage, match=r"^has an odd width of 65 px, so it has no two equal halves$"):
        prepared(out, pair)


def test_a_grayscale_pair_among_colour_is_read_as_colour(tmp_path: Path, out: Path) -> None:
    grey = np.tile(np.arange(64, dtype=np.uint8), (32, 1))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    prepare_pair(Pair("grey", None, tmp_path / "grey.png"), out, 32, "AtoB", "nearest", "nearest")
    source = images.read_rgb(out / "input" / "grey.png")
    assert source.shape == (32, 32, 3)
    assert (source == grey[:, :32, None]).all()


def test_sides_of_two_sizes_are_refused(tmp_path: Path, out: Path) -> None:
    pair = two_files(tmp_path, noise(32, 32), noise(32, 33))
    with pytest.raises(UnreadableImage, match=r"^its sides differ in size: A 32×32, B 33×32$"):
        prepared(out, pair)


@pytest.mark.parametrize(
    ("broken", "said"),
    [("A", "does not decode (cannot identify"), ("B", "has a partner, 1.png in B/, that does not decode (")],
)
def test_the_side_that_is_broken_is_the_one_that_is_named(
    tmp_path: Path, out: Path, broken: str, said: str
) -> None:
    pair = two_files(tmp_path, noise(32, 32), noise(32, 32))
    (tmp_path / broken / "1.png").write_bytes(b"not an image")
    with pytest.raises(UnreadableImage) as refused:
        prepared(out, pair)
    assert str(refused.value).startswith(said)
    assert not list(out.glob("*/*.png"))


def test_one_pixel_changes_the_digest(tmp_path: Path, out: Path) -> None:
    a, b = noise(32, 32, 1), noise(32, 32, 2)
    digests = {prepared(out, combined(tmp_path, a, b)).sha256}
    for side in (a, b):
        side[17, 3, 1] ^= 1
        digests.add(prepared(out, combined(tmp_path, a, b)).sha256)
    assert len(digests) == 3
    assert all(len(digest) == 64 for digest in digests)


def test_neither_times_nor_formats_nor_layouts_nor_names_change_the_digest(tmp_path: Path, out: Path) -> None:
    a, b = noise(32, 32, 1), noise(32, 32, 2)
    pair = combined(tmp_path, a, b)
    digest = prepared(out, pair).sha256
    os.utime(pair.a, (1, 1))
    assert prepared(out, pair).sha256 == digest
    assert prepared(out, two_files(tmp_path, a, b, "2")).sha256 == digest
    bitmap = tmp_path / "3.bmp"
    Image.fromarray(np.hstack([a, b])).save(bitmap)
    assert prepared(out, Pair("3", None, bitmap)).sha256 == digest


# --- a whole set -------------------------------------------------------------------------------------

PREPARE = Prepare(
    image_px=32,
    resize_input="nearest",
    resize_target="area",
    val_share=0.1,
    test_share=0.1,
    max_bad_share=0.5,
)


def whole_set(raw: Path) -> dict[Split, list[Pair]]:
    splits: dict[Split, list[Pair]] = {
        split: [
            combined(raw / split, noise(40, 40, seed + 10 * number), noise(40, 40, seed), f"{seed:02d}")
            for seed in range(count)
        ]
        for number, (split, count) in enumerate(zip(pairs.SPLITS, (7, 3, 2), strict=True))
    }
    return splits


def prepare_all(
    splits: dict[Split, list[Pair]], out: Path, raw: Path, workers: int = 2
) -> tuple[dict[Split, list[Prepared]], list[Reject], list[int]]:
    told: list[int] = []
    done, rejects = pairs.prepare_splits(splits, out, raw, PREPARE, "AtoB", told.append, workers)
    return done, rejects, told


def test_training_pairs_are_stored_larger_and_the_others_at_the_size_that_is_seen(tmp_path: Path) -> None:
    done, rejects, told = prepare_all(whole_set(tmp_path / "raw"), tmp_path / "out", tmp_path / "raw")
    assert rejects == []
    assert told == list(range(1, 13))
    assert {split: len(group) for split, group in done.items()} == {"train": 7, "val": 3, "test": 2}
    for split, side_px in (("train", 36), ("val", 32), ("test", 32)):
        for side in ("input", "target"):
            files = sorted((tmp_path / "out" / split / side).iterdir())
            assert [file.stem for file in files] == [pair.name for pair in done[split]]  # type: ignore[index]
            assert {images.read_rgb(file).shape for file in files} == {(side_px, side_px, 3)}


def test_an_unreadable_pair_is_rejected_and_the_rest_prepared(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    splits = whole_set(raw)
    splits["train"][3].a.write_bytes(b"not an image")
    splits["test"][0].a.write_bytes(b"")
    done, rejects, told = prepare_all(splits, tmp_path / "out", raw)
    assert [reject.file for reject in rejects] == ["train/03.png", "test/00.png"]
    assert {split: len(group) for split, group in done.items()} == {"train": 6, "val": 3, "test": 1}
    assert told == list(range(1, 13))
    assert not list((tmp_path / "out").rglob("03.png"))


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    splits = whole_set(tmp_path / "raw")
    one = prepare_all(splits, tmp_path / "one", tmp_path / "raw", workers=1)
    many = prepare_all(splits, tmp_path / "many", tmp_path / "raw", workers=5)
    assert one == many
    for file in (tmp_path / "one").rglob("*.png"):
        assert file.read_bytes() == (tmp_path / "many" / file.relative_to(tmp_path / "one")).read_bytes()


def test_a_bug_while_preparing_stops_the_rest_and_is_not_hidden(tmp_path: Path) -> None:
    splits = whole_set(tmp_path / "raw")

    def failing(finished: int) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        pairs.prepare_splits(splits, tmp_path / "out", tmp_path / "raw", PREPARE, "AtoB", failing, 2)


@pytest.mark.parametrize("split", pairs.SPLITS)
def test_what_is_read_back_is_what_was_prepared_in_order_of_name(tmp_path: Path, split: Split) -> None:
    done, rejects, _ = prepare_all(whole_set(tmp_path / "raw"), tmp_path / "out", tmp_path / "raw")
    loaded = pair_set.load_split(tmp_path / "out" / split, workers=3)
    side_px = 36 if split == "train" else 32
    assert loaded.names == tuple(pair.name for pair in done[split])
    assert len(loaded) == len(done[split])
    assert loaded.inputs.shape == loaded.targets.shape == (len(loaded), 3, side_px, side_px)
    assert loaded.inputs.dtype == loaded.targets.dtype == np.uint8
    for index, name in enumerate(loaded.names):
        source, target = sides(tmp_path / "out" / split, name)
        assert np.array_equal(loaded.inputs[index].transpose(1, 2, 0), source)
        assert np.array_equal(loaded.targets[index].transpose(1, 2, 0), target)
    report = pairs.summary(done, rejects, "by name", PREPARE)
    assert loaded.sha256 == report["splits"][split]["sha256"]


def test_a_change_in_the_prepared_pixels_shows_in_the_digest_that_is_read_back(tmp_path: Path) -> None:
    prepare_all(whole_set(tmp_path / "raw"), tmp_path / "out", tmp_path / "raw")
    before = pair_set.load_split(tmp_path / "out" / "val").sha256
    file = tmp_path / "out" / "val" / "target" / "01.png"
    changed = images.read_rgb(file).copy()
    changed[0, 0, 0] ^= 1
    images.write_png(file, changed)
    assert pair_set.load_split(tmp_path / "out" / "val").sha256 != before


def test_a_splits_digest_depends_on_names_and_pixels_and_not_on_their_order() -> None:
    content = [("1", "aa"), ("2", "bb")]
    digest = pair_set.split_sha256(content)
    assert pair_set.split_sha256(reversed(content)) == digest
    others = [[("1", "bb"), ("2", "aa")], [("1", "aa")], [("1", "aa"), ("3", "bb")], []]
    assert len({digest, *(pair_set.split_sha256(other) for other in others)}) == 5


def test_the_report_has_what_became_of_every_file(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    splits = whole_set(raw)
    saved(splits["val"][0].a, noise(50, 80))
    done, _, _ = prepare_all(splits, tmp_path / "out", raw)
    report = pairs.summary(done, [Reject("x.png", "is empty")], "by name", PREPARE)
    assert {split: entry["pairs"] for split, entry in report["splits"].items()} == {
        "train": 7,
        "val": 3,
        "test": 2,
    }
    assert (report["image_px"], report["load_px"], report["split_rule"]) == (32, 36, "by name")
    assert report["source_sizes"] == {"40×40": 11, "40×50": 1}
    assert report["rejects"] == {"x.png": "is empty"}


def test_the_geometry_comes_back_as_it_was_written(tmp_path: Path) -> None:
    geometry = pair_set.Geometry("facades", "BtoA", 128, 143)
    geometry.write(tmp_path / "pairs.json")
    assert pair_set.Geometry.read(tmp_path / "pairs.json") == geometry
