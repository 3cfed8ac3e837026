"""What looks wrong with data: found where it is put in, and not found in the real sets, where nothing is."""

import tarfile
import time
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image

from pix2pix import data_checks, derive, images, near_duplicates, pair_facts, synthetic
from pix2pix.data_checks import Collector, Findings, Place
from pix2pix.images import Pixels

Both = tuple[Pixels, Pixels]


def drawn(count: int, px: int = 128, seed: int = 1) -> list[Both]:
    """Label maps and photos."""
    pairs = (synthetic.draw_pair(seed=seed, index=index, image_px=px) for index in range(count))
    return [(labels, photo) for photo, labels in pairs]


def found(pairs: dict[Place, Both], derived: bool = False) -> Findings:
    collector = Collector(derived)
    for place, both in pairs.items():
        collector.add(place, pair_facts.measure(*both, with_shift=not derived))
    return collector.findings(pairs.__getitem__)


def train(pairs: list[Both]) -> dict[Place, Both]:
    return {("train", str(index)): both for index, both in enumerate(pairs)}


def again(pixels: Pixels, px: int, quality: int = 60) -> Pixels:
    """The same picture at another size, saved as JPEG."""
    file = BytesIO()
    Image.fromarray(images.resize(pixels, px, px, "area")).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def moved(pixels: Pixels, right: float, down: float) -> Pixels:
    """Moved by shares of its sides; what is left free repeats the border."""
    height, width = pixels.shape[:2]
    x, y = round(right * width), round(down * height)
    margin = max(abs(x), abs(y))
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    return padded[margin - y : margin - y + height, margin - x : margin - x + width]


# --- leaks and near-duplicates -----------------------------------------------------------------------


def test_the_same_pair_at_another_size_and_saved_again_is_a_leak() -> None:
    pairs = train(drawn(30))
    source, target = pairs["train", "7"]
    pairs["test", "x"] = (again(source, 100), again(target, 100))
    pairs["train", "y"] = (again(source, 143, 90), again(target, 143, 90))
    findings = found(pairs)
    assert "train/7 and test/x" in map(str, findings.leaks)
    assert [str(twins) for twins in findings.duplicates] == ["train/7 and train/y"]
    assert findings.report()["leaks"]["count"] == len(findings.leaks)


def test_many_copies_in_training_hide_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_checks, "COMPARED", 5)
    first, *others = drawn(8)
    pairs = train([first] * 20 + others)
    for index, (source, target) in enumerate(others[:3]):
        pairs["test", str(index)] = (again(source, 128, 90), again(target, 128, 90))
    findings = found(pairs)
    assert {twins.second for twins in findings.leaks} == {("test", str(index)) for index in range(3)}
    assert len(findings.duplicates) == 5
    assert findings.report()["not_compared"] == {"within a split": 14}
    assert (
        findings.warnings()[2] == "not compared: 14 more couples within a split whose hashes are nearly equal"
    )


def test_one_side_alone_in_common_is_no_duplicate() -> None:
    pairs = drawn(10)
    pairs[4] = (pairs[3][0], pairs[4][1])
    assert found(train(pairs)).twins == []


def test_photos_with_derived_inputs_are_compared_by_the_photo() -> None:
    photos = [photo for _, photo in drawn(10)]
    pairs = train([(derive.derive(photo, "mask", str(index)), photo) for index, photo in enumerate(photos)])
    pairs["test", "again"] = (derive.derive(photos[3], "mask", "other"), photos[3])
    assert [str(twins) for twins in found(pairs, derived=True).leaks] == ["train/3 and test/again"]


def test_hashes_that_agree_by_chance_are_told_apart_by_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_facts, "perceptual_hash", lambda grey: 1)
    findings = found(train(drawn(4)))
    assert (findings.twins, findings.report()["near_duplicates"]["count"]) == ([], 0)


def test_two_empty_pairs_are_no_duplicates() -> None:
    blank = np.full((64, 64, 3), 9, np.uint8)
    findings = found(train([(blank, blank), (blank, blank)]))
    assert findings.twins == []
    assert findings.empty == {
        ("train", "0"): "input and target of one colour, or nearly",
        ("train", "1"): "input and target of one colour, or nearly",
    }


def test_near_rows_are_those_that_comparing_each_with_each_finds() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, (3000, 2), dtype=np.uint64)
    for row in range(200):
        bits = random.choice(128, row % 8, replace=False)
        change = np.zeros(128, np.uint8)
        change[bits] = 1
        hashes[row + 1000] = hashes[row] ^ np.packbits(change).view(">u8").astype(np.uint64)
    hashes[2500:2600] = hashes[7]
    rows = near_duplicates.near_pairs(hashes)
    pairs = {(a, b) for a, b, _ in rows}
    assert {(row, row + 1000) for row in range(200)} <= pairs
    assert {(7, row) for row in range(2500, 2600)} <= pairs
    assert all(np.bitwise_count(hashes[a] ^ hashes[b]).sum() == bits <= 16 for a, b, bits in rows)
    assert len(pairs) == len(rows) < 600


def test_a_hundred_thousand_hashes_are_compared_in_seconds_also_where_many_agree() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, (100_000, 2), dtype=np.uint64)
    hashes[:30_000, 0] = hashes[0, 0]
    started = time.monotonic()
    near_duplicates.near_pairs(hashes)
    assert time.monotonic() - started < 30


# --- sides that lie askew ----------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "down"), [(0.0625, 0), (0, -0.0625), (-0.125, 0.0625)])
def test_a_photo_that_lies_askew_on_its_own_grey_version_is_named_with_the_shift(
    right: float, down: float
) -> None:
    pairs = [(derive.derive(photo, "grayscale", ""), photo) for _, photo in drawn(8)]
    pairs[5] = (pairs[5][0], moved(pairs[5][1], right, down))
    findings = found(train(pairs))
    assert findings.misaligned == {("train", "5"): (right, down)}
    assert findings.shift is None


@pytest.mark.parametrize("px", [64, 128, 143, 286])
def test_a_shift_that_all_pairs_share_is_found_also_between_labels_and_photos(px: int) -> None:
    pairs = [(labels, moved(photo, 0.0625, -0.03125)) for labels, photo in drawn(40, px)]
    findings = found(train(pairs))
    assert findings.shift == pytest.approx((0.0625, -0.03125), abs=0.01)
    assert findings.alignment().startswith("edges of 40 pairs: the target lies ")
    assert findings.warnings()[-1] == findings.alignment()
    assert found(train(drawn(40, px))).shift is None


def test_partners_of_other_pairs_have_nothing_in_common() -> None:
    pairs = drawn(120)
    swapped = [(labels, pairs[(index + 7) % 120][1]) for index, (labels, _) in enumerate(pairs)]
    findings = found(train(swapped))
    assert findings.are_strangers
    assert "are they the right partners?" in findings.warnings()[-1]
    assert not found(train(pairs)).are_strangers
    assert not found(train(swapped[:50])).are_strangers


def test_a_shift_is_said_in_words() -> None:
    assert data_checks.shift_in_words((0.094, -0.031)) == (
        "the target lies 9.4% of the width to the right and 3.1% of the height higher"
    )
    assert data_checks.shift_in_words((-0.05, 0)) == "the target lies 5.0% of the width to the left"


# --- the real sets -----------------------------------------------------------------------------------


def real_pairs(name: str, px: int, every: int) -> Iterator[tuple[Place, Both]]:
    archive = SHARED / "datasets" / f"{name}.tar.gz"
    if not archive.is_file():
        pytest.skip(f"{archive} is not there")
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.name.endswith(".jpg")]
        for member in members[::every]:
            file = tar.extractfile(member)
            assert file
            whole = np.asarray(Image.open(file))
            half = whole.shape[1] // 2
            sides = [images.resize(side, px, px, "area") for side in (whole[:, half:], whole[:, :half])]
            _, split, name = member.name.split("/")
            yield (split, name), (sides[0], sides[1])  # type: ignore[misc]


@pytest.mark.parametrize(("name", "px", "every"), [("facades", 128, 2), ("maps-sample", 128, 1)])
def test_the_real_sets_get_no_false_alarm(name: str, px: int, every: int) -> None:
    findings = found(dict(real_pairs(name, px, every)))
    assert (findings.twins, findings.misaligned, findings.shift) == ([], {}, None)
    assert not findings.are_strangers
    # Two squares of open sea, which the maps draw in one blue.
    assert len(findings.empty) == (2 if name == "maps-sample" else 0)


def test_half_of_the_real_facades_that_are_moved_are_known_as_a_set() -> None:
    pairs = {place: (a, moved(b, 0.05, 0.025)) for place, (a, b) in real_pairs("facades", 128, 6)}
    findings = found(pairs)
    assert findings.shift == pytest.approx((0.05, 0.025), abs=0.01)
    # Of single pairs only those without a doubt, and these rightly.
    assert 5 <= len(findings.misaligned) < len(pairs) / 2
    for shift in findings.misaligned.values():
        assert shift == pytest.approx((0.05, 0.025), abs=0.017)


# --- empty sides and colours -------------------------------------------------------------------------


@pytest.mark.parametrize(("noise", "is_empty"), [(0, True), (1, True), (8, False)])
def test_a_side_is_empty_when_it_shows_nothing_but_a_little_noise(noise: float, is_empty: bool) -> None:
    random = np.random.default_rng(0)
    side = np.clip(100 + noise * random.standard_normal((64, 64, 3)), 0, 255).astype(np.uint8)
    _, photo = drawn(1, 64)[0]
    facts = pair_facts.measure(side, photo)
    assert (facts.input.is_empty, facts.target.is_empty) == (is_empty, False)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_colours_are_means_and_shares_over_all_pairs(channels: int) -> None:
    random = np.random.default_rng(0)
    levels = random.integers(0, 256, (6, 32, 32, channels), dtype=np.uint8)
    collector = Collector()
    for index in range(3):
        facts = pair_facts.measure(levels[index], levels[index + 3])
        collector.add(("train", str(index)), facts)
    colours = collector.colours()["target"]
    assert list(colours["mean"].values()) == pytest.approx(levels[3:].mean((0, 1, 2)).tolist(), abs=0.01)
    assert list(colours["mean"]) == (["r", "g", "b"] if channels == 3 else [str(i) for i in range(channels)])
    assert colours["spread"] == pytest.approx(levels[3:].mean((1, 2, 3)).std(), abs=0.02)
    assert sum(colours["histogram"].values()) == pytest.approx(1, abs=1e-3)


def test_sixteen_bits_count_on_the_same_scale() -> None:
    labels, photo = drawn(1, 64)[0]
    deep = pair_facts.measure(labels.astype(np.uint16) * 257, photo.astype(np.uint16) * 257)  # type: ignore[arg-type]
    shallow = pair_facts.measure(labels, photo)
    assert deep.target.sums == pytest.approx(shallow.target.sums)
    assert deep.target.is_empty == shallow.target.is_empty
