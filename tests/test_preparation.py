"""Preparing: the same bytes with any number of workers, flat memory, and nothing done twice after a kill."""

import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pair_fixtures import load_split

from pix2pix import data_checks, images, pairs, preparation, synthetic
from pix2pix.errors import UserError
from pix2pix.images import Pixels
from pix2pix.layouts import find_pairs
from pix2pix.manifest import Split
from pix2pix.pair_list import Pair
from pix2pix.pairs import SPLITS, Recipe
from pix2pix.preparation import Outcome, prepare_all, workplace

COUNTS = dict(zip(SPLITS, (7, 3, 2), strict=True))
RECIPE = Recipe(
    direction="AtoB",
    combined="side-by-side",
    derive="none",
    resize_input="nearest",
    resize_target="area",
    image_px=32,
    load_px=36,
)


def noise(seed: int, width: int = 80) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (40, width, 3), dtype=np.uint8)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for number, (split, count) in enumerate(COUNTS.items()):
        (tmp_path / "raw" / split).mkdir(parents=True)
        for index in range(count):
            images.write_png(tmp_path / "raw" / split / f"{index:02d}.png", noise(10 * number + index))
    return tmp_path / "raw"


def splits_of(raw: Path) -> dict[Split, list[Pair]]:
    return pairs.assign_splits(find_pairs(raw).pairs, 0, 0)[0]


def prepare(raw: Path, out: Path, recipe: Recipe = RECIPE, workers: int = 2) -> list[Outcome]:
    with workplace(out, recipe) as work:
        return list(prepare_all(splits_of(raw), work, raw, recipe, workers))


def pictures(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*.png"))}


def digests(outcomes: list[Outcome]) -> list[str]:
    return [outcome.prepared.sha256 for outcome in outcomes if outcome.prepared]


class Written:
    """Counts the files that are written, as what is taken over is not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        original = images.write_png

        def counted(path: Path, pixels: Pixels) -> None:
            self.names.append(f"{path.parts[-3]}/{path.stem}")
            original(path, pixels)

        monkeypatch.setattr(images, "write_png", counted)

    def pairs(self) -> list[str]:
        done = sorted(set(self.names))
        assert sorted(self.names) == sorted([*done, *done]), "each side once"
        self.names.clear()
        return done


# --- what is made ------------------------------------------------------------------------------------


def test_training_pairs_are_stored_larger_and_the_others_at_the_size_that_is_seen(
    raw: Path, tmp_path: Path
) -> None:
    outcomes = prepare(raw, tmp_path / "out")
    assert [(outcome.split, outcome.pair.name) for outcome in outcomes] == [
        (split, f"{index:02d}") for split, count in COUNTS.items() for index in range(count)
    ]
    for split, side_px in (("train", 36), ("val", 32), ("test", 32)):
        for side in ("input", "target"):
            files = sorted((tmp_path / "out" / split / side).iterdir())
            assert len(files) == COUNTS[split]  # type: ignore[index]
            assert {images.read_rgb(file).shape for file in files} == {(side_px, side_px, 3)}
    assert {outcome.prepared.source_size for outcome in outcomes if outcome.prepared} == {"40×40"}


@pytest.mark.parametrize("broken", [b"not an image", b"", None])
def test_a_bad_file_in_the_middle_costs_itself_alone(raw: Path, tmp_path: Path, broken: bytes | None) -> None:
    splits = splits_of(raw)
    if broken is None:
        (raw / "train" / "03.png").unlink()
    else:
        (raw / "train" / "03.png").write_bytes(broken)
    with workplace(tmp_path / "out", RECIPE) as work:
        outcomes = list(prepare_all(splits, work, raw, RECIPE, 2))
    (bad,) = [outcome for outcome in outcomes if outcome.prepared is None]
    assert bad.pair.a == "train/03.png"
    assert bad.reason.startswith(
        "does not decode (" if broken is not None else "cannot be read (No such file"
    )
    assert len(outcomes) == 12
    assert not list((tmp_path / "out").rglob("train/*/03.png"))


def test_the_number_of_workers_changes_nothing(raw: Path, tmp_path: Path) -> None:
    one, many = (prepare(raw, tmp_path / str(count), workers=count) for count in (1, 5))
    assert digests(one) == digests(many)
    assert pictures(tmp_path / "1") == pictures(tmp_path / "5")


def test_one_pixel_changes_the_digest_and_times_and_formats_do_not(raw: Path, tmp_path: Path) -> None:
    before = digests(prepare(raw, tmp_path / "1"))
    pixels = noise(0)
    (raw / "train" / "00.png").unlink()
    images.write_image(raw / "train" / "00.bmp", pixels)
    os.utime(raw / "train" / "01.png", (1, 1))
    assert digests(prepare(raw, tmp_path / "2")) == before
    pixels[17, 3, 1] ^= 255
    images.write_image(raw / "train" / "00.bmp", pixels)
    after = digests(prepare(raw, tmp_path / "3"))
    assert after[0] != before[0]
    assert after[1:] == before[1:]


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_read_back_is_what_was_prepared_in_order_of_name(
    raw: Path, tmp_path: Path, split: Split
) -> None:
    outcomes = [outcome for outcome in prepare(raw, tmp_path / "out") if outcome.split == split]
    loaded = load_split(tmp_path / "out" / split)
    assert loaded.names == tuple(outcome.pair.name for outcome in outcomes)
    tally = pairs.SplitTally()
    for name, digest in zip(loaded.names, digests(outcomes), strict=True):
        tally.add(name, digest)
    assert loaded.sha256 == tally.digest.hexdigest()


def test_a_change_in_the_prepared_pixels_shows_in_the_digest_that_is_read_back(
    raw: Path, tmp_path: Path
) -> None:
    prepare(raw, tmp_path / "out")
    before = load_split(tmp_path / "out" / "val").sha256
    file = tmp_path / "out" / "val" / "target" / "01.png"
    changed = images.read_rgb(file).copy()
    changed[0, 0, 0] ^= 1
    images.write_png(file, changed)
    assert load_split(tmp_path / "out" / "val").sha256 != before


def test_a_bug_while_preparing_is_not_hidden(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(pairs, "sides", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        prepare(raw, tmp_path / "out")


# --- going on ----------------------------------------------------------------------------------------


def test_what_an_interrupted_run_left_is_taken_over(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(raw, tmp_path / "whole")
    written = Written(monkeypatch)
    with workplace(tmp_path / "out", RECIPE) as work:
        outcomes = prepare_all(splits_of(raw), work, raw, RECIPE, 1)
        for _ in range(4):
            next(outcomes)
        outcomes.close()
    assert len(written.pairs()) < 12
    again = prepare(raw, tmp_path / "out")
    rest = written.pairs()
    assert 0 < len(rest) <= 8
    assert "train/03" not in rest
    assert digests(again) == digests(whole)
    assert pictures(tmp_path / "out") == pictures(tmp_path / "whole")
    # What was measured, too.
    for ours, theirs in zip(again, whole, strict=True):
        assert ours.prepared and theirs.prepared
        assert ours.prepared.facts == replace(theirs.prepared.facts, surface=ours.prepared.facts.surface)


@pytest.mark.parametrize("compared", [1, 5, 1000])
def test_all_findings_are_the_same_whether_pairs_were_taken_over_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compared: int
) -> None:
    """Also those that the edges of a part of the pairs together tell."""
    monkeypatch.setattr(preparation, "COMPARED", compared)
    raw, recipe = tmp_path / "drawn", replace(RECIPE, image_px=64, load_px=72)
    for split, count in COUNTS.items():
        (raw / split).mkdir(parents=True)
        for index in range(count):
            photo, labels = synthetic.draw_pair(seed=len(split), index=index, image_px=64)
            grey = photo.mean(2, keepdims=True).astype(np.uint8).repeat(3, 2)
            sides = [np.roll(grey, 6, 1), photo] if index == 1 else [labels, photo]
            images.write_png(raw / split / f"{index:02d}.png", np.hstack(sides))
    reports = []
    for _ in range(2):
        collector = data_checks.Collector()
        with workplace(tmp_path / "out", recipe) as work:
            for outcome in prepare_all(splits_of(raw), work, raw, recipe, 2):
                assert outcome.prepared
                collector.add((outcome.split, outcome.pair.name), outcome.prepared.facts)
            reports.append(
                (collector.findings(lambda place: work.read(*place)).report(), collector.colours())
            )
    assert reports[0] == reports[1]
    assert "train/01" in reports[0][0]["misaligned"]["named"]
    assert reports[0][0]["alignment"].startswith(f"edges of {min(compared, 12)} pair")


def test_a_file_that_changed_since_and_a_picture_that_was_torn_are_done_again(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(raw, tmp_path / "out")
    images.write_png(raw / "train" / "02.png", noise(99))
    torn = tmp_path / "out" / "val" / "input" / "01.png"
    torn.write_bytes(torn.read_bytes()[:100])
    (tmp_path / "out" / "test" / "target" / "00.png").unlink()
    other = tmp_path / "out" / "test" / "target" / "01.png"
    images.write_png(other, 255 - images.read_rgb(other))
    written = Written(monkeypatch)
    prepare(raw, tmp_path / "out")
    assert written.pairs() == ["test/00", "test/01", "train/02", "val/01"]


@pytest.mark.parametrize("changed", [{"image_px": 64}, {"direction": "BtoA"}, {"resize_target": "bicubic"}])
def test_another_recipe_begins_anew(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object]
) -> None:
    prepare(raw, tmp_path / "out")
    written = Written(monkeypatch)
    prepare(raw, tmp_path / "out", replace(RECIPE, **changed))  # type: ignore[arg-type]
    assert len(written.pairs()) == 12


def test_other_code_begins_anew(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(raw, tmp_path / "out")
    edited = tmp_path / "images.py"
    edited.write_text("# another way of resizing")
    monkeypatch.setattr(images, "__file__", str(edited))
    written = Written(monkeypatch)
    prepare(raw, tmp_path / "out")
    assert len(written.pairs()) == 12


def test_a_broken_journal_begins_anew(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(raw, tmp_path / "out")
    (tmp_path / "out" / preparation.JOURNAL).write_bytes(b"no database" * 1000)
    written = Written(monkeypatch)
    prepare(raw, tmp_path / "out")
    assert len(written.pairs()) == 12


def test_pairs_that_are_no_more_do_not_stay(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "out")
    (raw / "train" / "05.png").unlink()
    with workplace(tmp_path / "out", RECIPE) as work:
        outcomes = list(prepare_all(splits_of(raw), work, raw, RECIPE, 2))
        names: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for outcome in outcomes:
            names[outcome.split].append(outcome.pair.name)
        work.keep_only(names)
    assert pictures(tmp_path / "out").keys() == {
        f"{outcome.split}/{side}/{outcome.pair.name}.png"
        for outcome in outcomes
        for side in ("input", "target")
    }


def test_a_second_process_in_the_same_folder_is_refused(raw: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pix2pix import preparation; "
        "from pix2pix.errors import UserError; from test_preparation import RECIPE\n"
        "try:\n with preparation.workplace(Path(sys.argv[1]), RECIPE): pass\n"
        "except UserError as error: print(error)"
    )
    with workplace(tmp_path / "out", RECIPE):
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "out")],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parents[1], Path(__file__).parent))),
            },
            capture_output=True,
            text=True,
            check=True,
        )
    assert (
        other.stdout == f"{tmp_path / 'out'}: another run is preparing these pairs; wait for it or stop it\n"
    )
    with workplace(tmp_path / "out", RECIPE), pytest.raises(UserError, match="another run"):
        prepare(raw, tmp_path / "out")


def test_the_journal_is_committed_as_it_grows(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves: nothing is closed then."""
    monkeypatch.setattr(preparation, "COMMIT_EVERY", 3)
    with workplace(tmp_path / "out", RECIPE) as work:
        outcomes = prepare_all(splits_of(raw), work, raw, RECIPE, 1)
        for _ in range(7):
            next(outcomes)
        seen = sqlite3.connect(f"file:{tmp_path / 'out' / preparation.JOURNAL}?immutable=1", uri=True)
        assert seen.execute("SELECT count(*) FROM pairs").fetchone() == (6,)
        seen.close()
        outcomes.close()
