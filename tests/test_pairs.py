"""Pairs: split by their names alone, prepared to the pixel, read back as they were."""

import math
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pix2pix import derive, images, pair_set, pairs
from pix2pix.errors import UserError
from pix2pix.images import Pixels, UnreadableImage
from pix2pix.layouts import Reject
from pix2pix.manifest import Split
from pix2pix.pair_list import Pair
from pix2pix.pairs import Recipe, split_of

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def solid(color: tuple[int, int, int], height: int = 32, width: int = 32) -> Pixels:
    return np.full((height, width, 3), color, dtype=np.uint8)


def saved(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write_image(path, pixels)
    return path


# --- splitting ---------------------------------------------------------------------------------------


def of_splits(**names: Iterable[int | str]) -> list[Pair]:
    """Pairs by split; the split `none` is that of pairs without one."""
    return [
        Pair(str(name), None if split == "none" else split, f"{split}/{name}.png")  # type: ignore[arg-type]
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


# --- preparing ---------------------------------------------------------------------------------------


def combined(folder: Path, a: Pixels, b: Pixels, name: str = "1") -> Pair:
    return Pair(name, None, str(saved(folder / f"{name}.png", np.hstack([a, b]))))


def two_files(folder: Path, a: Pixels, b: Pixels, name: str = "1") -> Pair:
    files = [str(saved(folder / side / f"{name}.png", pixels)) for side, pixels in (("A", a), ("B", b))]
    return Pair(name, None, *files)


RECIPE = Recipe(
    direction="AtoB",
    combined="side-by-side",
    derive="none",
    resize_input="nearest",
    resize_target="area",
    image_px=32,
    load_px=36,
)


def sides(pair: Pair, side_px: int = 32, **changed: Any) -> tuple[Pixels, Pixels]:
    return pairs.sides(pair, Path(), replace(RECIPE, **changed), side_px)[:2]


def size(pair: Pair, **changed: Any) -> str:
    return pairs.sides(pair, Path(), replace(RECIPE, **changed), 32)[2]


@pytest.mark.parametrize("layout", [combined, two_files])
@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_the_direction_says_which_half_is_the_input(tmp_path: Path, layout: Any, direction: str) -> None:
    a, b = noise(32, 32, 1), noise(32, 32, 2)
    source, target = sides(layout(tmp_path, a, b), direction=direction)
    assert np.array_equal(source, a if direction == "AtoB" else b)
    assert np.array_equal(target, b if direction == "AtoB" else a)


@pytest.mark.parametrize("side_px", [32, 36, 64])
def test_an_oblong_pair_becomes_square(tmp_path: Path, side_px: int) -> None:
    pair = combined(tmp_path, noise(40, 60), noise(40, 60))
    assert [side.shape for side in sides(pair, side_px)] == [(side_px, side_px, 3)] * 2
    assert size(pair) == "60×40"


def test_each_side_is_resized_by_its_own_method(tmp_path: Path) -> None:
    checks = np.tile(np.array([[RED, GREEN], [GREEN, RED]], np.uint8), (32, 32, 1))
    pair = combined(tmp_path, checks, checks)
    source, target = sides(pair, resize_input="nearest", resize_target="area")
    assert {tuple(color) for color in source.reshape(-1, 3).tolist()} <= {RED, GREEN}
    assert {tuple(color) for color in target.reshape(-1, 3).tolist()} == {(128, 128, 0)}
    # The methods belong to input and target, not to A and B.
    turned = sides(pair, direction="BtoA", resize_input="nearest", resize_target="area")
    assert all(np.array_equal(a, b) for a, b in zip(turned, (source, target), strict=True))


def test_an_odd_width_has_no_two_halves(tmp_path: Path) -> None:
    pair = Pair("1", None, str(saved(tmp_path / "1.png", noise(32, 65))))
    with pytest.raises(UnreadableImage, match=r"^has an odd width of 65 px, so it has no two equal halves$"):
        sides(pair)


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_a_stacked_pair_has_its_side_a_above(tmp_path: Path, direction: str) -> None:
    a, b = noise(32, 32, 1), noise(32, 32, 2)
    pair = Pair("1", None, str(saved(tmp_path / "1.png", np.vstack([a, b]))))
    made = sides(pair, direction=direction, combined="stacked", resize_target="nearest")
    expected = (a, b) if direction == "AtoB" else (b, a)
    assert all(np.array_equal(*both) for both in zip(made, expected, strict=True))


def test_an_odd_height_has_no_two_halves_to_stack(tmp_path: Path) -> None:
    pair = Pair("1", None, str(saved(tmp_path / "1.png", noise(65, 32))))
    with pytest.raises(UnreadableImage, match=r"^has an odd height of 65 px, so it has no two equal halves$"):
        sides(pair, combined="stacked")


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_a_derived_side_is_made_from_the_photo_at_the_size_that_is_seen(
    tmp_path: Path, direction: str
) -> None:
    photo = noise(100, 80)
    pair = Pair("1", None, str(saved(tmp_path / "1.png", photo)))
    methods = {"resize_input": "area", "resize_target": "area"}
    made = sides(pair, 48, direction=direction, derive="downscale", **methods)
    resized = images.resize(photo, 48, 48, "area")
    expected = (derive.derive(resized, "downscale", "1"), resized)
    made = made if direction == "AtoB" else made[::-1]
    assert all(np.array_equal(*both) for both in zip(made, expected, strict=True))
    assert size(pair, derive="downscale") == "80×100"


def test_a_grayscale_pair_among_colour_is_read_as_colour(tmp_path: Path) -> None:
    grey = np.tile(np.arange(64, dtype=np.uint8), (32, 1))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    source, _ = sides(Pair("grey", None, str(tmp_path / "grey.png")))
    assert source.shape == (32, 32, 3)
    assert (source == grey[:, :32, None]).all()


def test_sides_of_two_sizes_are_refused(tmp_path: Path) -> None:
    pair = two_files(tmp_path, noise(32, 32), noise(32, 33))
    with pytest.raises(UnreadableImage, match=r"^its sides differ in size: A 32×32, B 33×32$"):
        sides(pair)


@pytest.mark.parametrize(
    ("broken", "said"),
    [("A", "does not decode (cannot identify"), ("B", "has a partner, B/1.png, that does not decode (")],
)
def test_the_side_that_is_broken_is_the_one_that_is_named(tmp_path: Path, broken: str, said: str) -> None:
    two_files(tmp_path, noise(32, 32), noise(32, 32))
    (tmp_path / broken / "1.png").write_bytes(b"not an image")
    with pytest.raises(UnreadableImage) as refused:
        pairs.sides(Pair("1", None, "A/1.png", "B/1.png"), tmp_path, RECIPE, 32)
    assert str(refused.value).startswith(said)


# --- the report --------------------------------------------------------------------------------------


def tallies(**pairs_: list[tuple[str, str]]) -> dict[Split, pairs.SplitTally]:
    made: dict[Split, pairs.SplitTally] = {}
    for split in pairs.SPLITS:
        made[split] = pairs.SplitTally()
        for name, digest in pairs_.get(split, []):
            made[split].add(name, digest)
    return made


def test_a_tally_comes_to_the_digest_that_is_read_back() -> None:
    content = [("1", "aa"), ("2", "bb")]
    report = pairs.summary(tallies(train=content), {}, [], "by name", RECIPE)
    assert report["splits"]["train"] == {"pairs": 2, "sha256": pair_set.split_sha256(content)}
    assert report["splits"]["val"] == {"pairs": 0, "sha256": pair_set.split_sha256([])}


def test_a_splits_digest_depends_on_names_and_pixels_and_not_on_their_order() -> None:
    content = [("1", "aa"), ("2", "bb")]
    digest = pair_set.split_sha256(content)
    assert pair_set.split_sha256(reversed(content)) == digest
    others = [[("1", "bb"), ("2", "aa")], [("1", "aa")], [("1", "aa"), ("3", "bb")], []]
    assert len({digest, *(pair_set.split_sha256(other) for other in others)}) == 5


def test_the_report_has_what_became_of_every_file() -> None:
    sizes = {"40×50": 1, "40×40": 11, **{f"1×{side}": 1 for side in range(30)}}
    report = pairs.summary(tallies(), sizes, [Reject("x.png", "is empty")], "by name", RECIPE)
    assert (report["image_px"], report["load_px"], report["split_rule"]) == (32, 36, "by name")
    assert next(iter(report["source_sizes"].items())) == ("40×40", 11)
    assert len(report["source_sizes"]) == 20
    assert report["rejects"] == {"x.png": "is empty"}


def test_the_geometry_comes_back_as_it_was_written(tmp_path: Path) -> None:
    geometry = pair_set.Geometry("facades", "BtoA", 128, 143)
    geometry.write(tmp_path / "pairs.json")
    assert pair_set.Geometry.read(tmp_path / "pairs.json") == geometry
