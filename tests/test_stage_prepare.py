"""The stage `prepare`: data/raw becomes data/pairs and two reports, or one line and nothing."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair_fixtures import load_split
from PIL import Image

from pix2pix import images, pair_set, pairs, preparation, synthetic
from pix2pix.errors import UserError
from pix2pix.images import Pixels
from pix2pix.params import Params, read_yaml, validate
from stages import prepare as stage_module
from stages.prepare import PAIRS, PICTURE, RAW, REPORT, UNUSABLE, prepare

PROJECT = Path(__file__).parents[1]
UNFINISHED = Path("data") / stage_module.UNFINISHED
VALUES: dict[str, Any] = read_yaml(PROJECT / "params.yaml")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def params(**changed: Any) -> Params:
    """The committed values at 32 px, from A to B."""
    values = {section: dict(keys) for section, keys in VALUES.items()}
    values["prepare"] |= {"image_px": 32, "val_share": 0.2, "test_share": 0.2} | changed
    values["model"] |= {"dropout_blocks": [1]}
    values["dataset"] |= {"name": "own", "direction": "AtoB"}
    return validate(values, "params.yaml")


def both(seed: int) -> Pixels:
    """A combined image, 64 × 40."""
    return np.random.default_rng(seed).integers(0, 256, (40, 64, 3), dtype=np.uint8)


def write_pairs(count: int, folder: Path = RAW) -> list[str]:
    names = [f"{index:03d}" for index in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        images.write_png(folder / f"{name}.png", both(index))
    return names


def refusal(parameters: Params) -> str:
    with pytest.raises(UserError) as refused:
        prepare(parameters)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def written() -> dict[str, bytes]:
    """Every file with its bytes, but data/raw, what is to be gone on with, and a refusal's list."""
    return {
        str(file): file.read_bytes()
        for file in sorted(Path().rglob("*"))
        if file.is_file()
        and not file.is_relative_to(RAW)
        and not file.is_relative_to(UNFINISHED)
        and file != UNUSABLE
    }


def report() -> Any:
    return json.loads(REPORT.read_text(encoding="utf-8"))


# --- what is made ------------------------------------------------------------------------------------


def test_pairs_become_splits_a_report_and_a_picture() -> None:
    names = write_pairs(40)
    prepare(params())
    expected: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name in names:
        expected[pairs.split_of(name, 0.2, 0.2)].append(name)
    for split, group in expected.items():
        for side in ("input", "target"):
            assert sorted(file.stem for file in (PAIRS / split / side).iterdir()) == group
        loaded = load_split(PAIRS / split)
        assert loaded.inputs.shape[2] == (36 if split == "train" else 32)
        assert report()["splits"][split] == {"pairs": len(group), "sha256": loaded.sha256}
    assert pair_set.Geometry.read(PAIRS / "pairs.json") == pair_set.Geometry("own", "AtoB", 32, 36)
    assert report()["split_rule"] == "20% val and 20% test, by name"
    assert (report()["dataset"], report()["direction"]) == ("own", "AtoB")
    assert report()["source_sizes"] == {"32×40": 40}
    assert report()["rejects"] == {}
    assert sorted(path.name for path in Path("data").iterdir()) == ["pairs", "raw"]
    assert sorted(path.name for path in Path("reports").iterdir()) == ["data.json", "data.png"]


def test_the_first_half_is_the_input_and_the_second_the_target() -> None:
    write_pairs(20)
    prepare(params(resize_input="area", resize_target="nearest"))
    for file in (PAIRS / "test" / "input").iterdir():
        pixels = both(int(file.stem))
        target = PAIRS / "test" / "target" / file.name
        assert np.array_equal(images.read_rgb(file), images.resize(pixels[:, :32], 32, 32, "area"))
        assert np.array_equal(images.read_rgb(target), images.resize(pixels[:, 32:], 32, 32, "nearest"))


@pytest.mark.parametrize("count", [12, 13, 40])
def test_the_picture_shows_training_pairs(count: int) -> None:
    write_pairs(count)
    prepare(params())
    picture = images.read_rgb(PICTURE)
    train = load_split(PAIRS / "train")
    shown = 0
    for source in train.inputs.transpose(0, 2, 3, 1):
        # 36 px are shown five times as large.
        enlarged = images.resize(np.ascontiguousarray(source), 180, 180, "nearest")
        rows, columns = np.nonzero((picture == enlarged[0, 0]).all(2))
        shown += any(
            np.array_equal(picture[y : y + 180, x : x + 180], enlarged)
            for y, x in zip(rows.tolist(), columns.tolist(), strict=True)
        )
    assert shown == min(6, len(train.names))


@pytest.mark.parametrize("method", ["nearest", "bicubic"])
def test_how_targets_came_to_their_size_is_kept_for_evaluation(method: str) -> None:
    write_pairs(40)
    prepare(params(resize_target=method))
    assert pair_set.Geometry.read(PAIRS / "pairs.json").resize_target == method


def test_the_same_data_gives_the_same_bytes_at_any_time_in_any_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pairs(20)
    prepare(params())
    first = written()
    prepare(params())
    assert written() == first
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_pairs(20)
    for file in RAW.iterdir():
        os.utime(file, (1, 1))
    prepare(params())
    assert written() == first


def test_what_an_earlier_run_left_is_replaced() -> None:
    write_pairs(20)
    (PAIRS / "train" / "input").mkdir(parents=True)
    (PAIRS / "train" / "input" / "stale.png").write_bytes(b"")
    prepare(params())
    assert not list(PAIRS.rglob("stale.png"))


# --- unusable pairs ----------------------------------------------------------------------------------


def test_a_few_unusable_pairs_are_named_and_the_rest_prepared(caplog: pytest.LogCaptureFixture) -> None:
    write_pairs(40)
    (RAW / "007.png").write_bytes(b"these are words")
    images.write_png(RAW / "odd.png", both(0)[:, :63])
    with caplog.at_level(logging.INFO):
        prepare(params(max_bad_share=0.05))
    assert list(report()["rejects"]) == ["007.png", "odd.png"]
    reasons = list(report()["rejects"].values())
    assert reasons[0].startswith("does not decode (")
    assert reasons[1] == "has an odd width of 63 px, so it has no two equal halves"
    assert sum(split["pairs"] for split in report()["splits"].values()) == 39
    assert f"unusable: odd.png {reasons[1]}" in caplog.text
    assert not list(PAIRS.rglob("007.png"))
    panel = images.text_panel(
        "not usable", [f"{file}: {reason}" for file, reason in report()["rejects"].items()]
    )
    assert np.array_equal(images.read_rgb(PICTURE)[-len(panel) :, : panel.shape[1]], panel)


def test_the_picture_names_the_first_of_many_unusable_files_and_cuts_long_names() -> None:
    write_pairs(40)
    names = ["a" * 200, *(f"b{index:02}" for index in range(11))]
    for name in names:
        images.write_png(RAW / f"{name}.png", both(0)[:, :63])
    prepare(params(max_bad_share=0.5))
    reason = ".png: has an odd width of 63 px, so it has no two equal halves"
    lines = ["a" * 150 + "…", *(name + reason for name in names[1:10]), "and 2 more"]
    panel = images.text_panel("not usable", lines)
    assert np.array_equal(images.read_rgb(PICTURE)[-len(panel) :, : panel.shape[1]], panel)


def test_files_that_are_no_pairs_count_as_unusable_and_hidden_ones_do_not() -> None:
    write_pairs(30, RAW / "A")
    write_pairs(30, RAW / "B")
    (RAW / "A" / "lonely.png").write_bytes((RAW / "A" / "000.png").read_bytes())
    (RAW / "A" / "._000.png").write_bytes(b"left by a Mac")
    prepare(params(max_bad_share=0.05))
    assert report()["rejects"] == {"A/lonely.png": "has no partner of the same name in B/"}
    assert (
        refusal(params(max_bad_share=0))
        == "data/raw/A/lonely.png: has no partner of the same name in B/; 1 of 31 pairs are unusable, "
        "more than prepare.max_bad_share = 0.0 allows: mend them or raise it"
    )


def test_too_many_unusable_pairs_stop_the_stage_and_leave_only_what_the_next_run_takes_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_pairs(20)
    for name in ("004", "011", "003"):
        images.write_png(RAW / f"{name}.png", both(0)[:, :63])
    assert refusal(params(max_bad_share=0.1)) == (
        "data/raw/003.png: has an odd width of 63 px, so it has no two equal halves; 3 of 20 pairs are "
        "unusable, more than prepare.max_bad_share = 0.1 allows: mend them or raise it"
    )
    assert written() == {}
    assert UNUSABLE.read_text().splitlines() == [
        "file,reason",
        *(
            f'{name}.png,"has an odd width of 63 px, so it has no two equal halves"'
            for name in ("003", "004", "011")
        ),
    ]
    assert sorted(path.name for path in Path("data").iterdir()) == [UNFINISHED.name, "raw"]
    with caplog.at_level(logging.INFO):
        prepare(params(max_bad_share=0.2))
    assert "going on: 17 pairs were prepared before this run, of 20" in caplog.text
    assert sorted(path.name for path in Path("data").iterdir()) == ["pairs", "raw"]
    assert not UNUSABLE.exists()
    after = written()
    for path in (PAIRS, REPORT.parent):
        shutil.rmtree(path)
    prepare(params(max_bad_share=0.2))
    assert written() == after


def test_exactly_the_share_that_is_allowed_is_accepted() -> None:
    write_pairs(20)
    for name in ("004", "011"):
        (RAW / f"{name}.png").write_bytes(b"")
    prepare(params(max_bad_share=0.1))
    assert len(report()["rejects"]) == 2
    refusal(params(max_bad_share=0.099))


def test_a_failure_leaves_the_pairs_of_an_earlier_run() -> None:
    write_pairs(20)
    prepare(params())
    before = written()
    (RAW / "004.png").write_bytes(b"")
    assert "004.png" in refusal(params(max_bad_share=0))
    assert written() == before


def test_a_killed_program_is_gone_on_with_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    small = (PROJECT / "params.yaml").read_text(encoding="utf-8").replace("image_px: 128", "image_px: 32")
    Path("params.yaml").write_text(small, encoding="utf-8")
    write_pairs(500)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen([sys.executable, "-m", "stages.prepare"], env=environment)
    # Twice as many as are committed at once.
    until = time.monotonic() + 60
    while len(list(UNFINISHED.glob("train/target/*.png"))) < 2 * preparation.COMMIT_EVERY + 50:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not PAIRS.exists()
    again = stage()
    assert again.returncode == 0, again.stderr
    going_on = re.match(r"going on: (\d+) pairs were prepared before this run, of 500\n", again.stderr)
    assert going_on and int(going_on[1]) >= 2 * preparation.COMMIT_EVERY
    resumed = written()
    for path in (PAIRS, REPORT.parent):
        shutil.rmtree(path)
    assert stage().returncode == 0
    assert written() == resumed


# --- what looks wrong --------------------------------------------------------------------------------


def test_what_looks_wrong_is_warned_of_named_in_the_report_and_drawn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for index in range(count):
            photo, labels = synthetic.draw_pair(seed=len(split), index=index, image_px=64)
            (RAW / split).mkdir(parents=True, exist_ok=True)
            images.write_png(RAW / split / f"{index}.png", np.hstack([photo, labels]))
    leaked = np.asarray(Image.open(RAW / "train" / "3.png").resize((256, 128)))
    images.write_image(RAW / "test" / "leaked.jpg", leaked)
    shutil.copy(RAW / "train" / "2.png", RAW / "train" / "twice.png")
    images.write_png(RAW / "val" / "blank.png", np.hstack([photo, np.full_like(photo, 77)]))
    prepare(params(image_px=64))
    checks = report()["checks"]
    assert list(checks["leaks"]["named"]) == ["train/3 and test/leaked"]
    assert checks["near_duplicates"] == {
        "count": 1,
        "named": {"train/2 and train/twice": "0 of 128 bits differ"},
    }
    assert checks["empty"]["named"] == {"val/blank": "target of one colour, or nearly"}
    assert checks["misaligned"] == {"count": 0, "named": {}}
    for line in (
        "nearly the same in different splits: train/3 and test/leaked",
        "nearly the same: train/2 and train/twice",
        "empty: val/blank, target of one colour, or nearly",
    ):
        assert line in caplog.messages
    picture = images.read_rgb(PICTURE)
    # Three blocks below the pairs, of cells enlarged three times to 192 px.
    assert picture.shape[0] > 4 * 192
    colours = report()["colours"]
    assert colours["target"]["mean"].keys() == {"r", "g", "b"}
    assert sum(colours["input"]["histogram"].values()) == pytest.approx(1, abs=1e-3)


def test_data_without_faults_gets_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    write_pairs(30)
    prepare(params())
    assert caplog.messages[:-1] == []
    assert all(found["count"] == 0 for kind, found in report()["checks"].items() if kind != "alignment")


def test_many_unusable_pairs_are_counted_and_all_in_a_file(caplog: pytest.LogCaptureFixture) -> None:
    write_pairs(20)
    for index in range(14):
        (RAW / f"{index:03}.png").write_bytes(b"")
    refusal(params())
    assert caplog.messages[-1] == "and 4 more, see reports/unusable.csv"
    assert len(UNUSABLE.read_text().splitlines()) == 15


@pytest.mark.parametrize("range_", ["full", "percentiles"])
def test_12_bits_in_16_are_said_to_be_dark_unless_their_range_is_measured(
    caplog: pytest.LogCaptureFixture, range_: str
) -> None:
    for index in range(30):
        photo, labels = synthetic.draw_pair(seed=1, index=index, image_px=64)
        deep = photo.astype(np.uint16) * 16
        # Of 4096, a few that are saturated.
        deep[:2, :10] = 65535
        for side, pixels in (("A", labels), ("B", deep)):
            (RAW / side).mkdir(parents=True, exist_ok=True)
            images.write_image(RAW / side / f"{index}.tif", pixels)
    prepare(params(image_px=64, range_target=range_))
    line = (
        "the target is dark: its values stay below a quarter of 65535; prepare.range_target = percentiles "
        "would use what they span"
    )
    assert (line in caplog.messages) == (range_ == "full")
    named = {"target": line} if range_ == "full" else {}
    assert report()["checks"]["dark"] == {"count": len(named), "named": named}
    panel = images.text_panel("a dark side", [line])
    bottom = images.read_rgb(PICTURE)[-len(panel) :, : panel.shape[1]]
    assert np.array_equal(bottom, panel) == (range_ == "full")


def test_targets_that_hold_class_indices_are_said_to_be_dark(caplog: pytest.LogCaptureFixture) -> None:
    for index in range(30):
        photo, labels = synthetic.draw_pair(seed=1, index=index, image_px=64)
        for side, pixels in (("A", photo), ("B", labels[..., :1] % 9)):
            (RAW / side).mkdir(parents=True, exist_ok=True)
            images.write_image(RAW / side / f"{index}.png", pixels)
    prepare(params(image_px=64))
    assert [line for line in caplog.messages if "is dark" in line] == [
        "the target is dark: its values stay below a quarter of 255; prepare.range_target = percentiles "
        "would use what they span"
    ]


# --- one line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "data/raw: no pairs among 0 images; expected combined images (A left, B right)"),
        (["README.txt", "._1.png"], "data/raw: no pairs among 0 images; "),
        (["A/1.png", "A/2.png", "B/3.png"], "data/raw: no pairs among 3 images; "),
        (["val/1.png"], "data/raw: has val but no train folder"),
    ],
    ids=["empty", "no images", "no partners", "no train folder"],
)
def test_data_without_pairs_to_train_on_is_one_line(files: list[str], said: str) -> None:
    RAW.mkdir(parents=True)
    for file in files:
        (RAW / file).parent.mkdir(exist_ok=True)
        images.write_png(RAW / f"{file}", both(0)) if file.endswith("png") else (RAW / file).touch()
    assert refusal(params()).startswith(said)
    assert written() == {}


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"val_share": 0.0}, "data/raw: the val split is empty (20 usable pairs, split: 0% val and 20% test"),
        ({"test_share": 0.0}, "data/raw: the test split is empty (20 usable pairs, "),
    ],
)
def test_an_empty_split_is_one_line_and_leaves_nothing(shares: dict[str, float], said: str) -> None:
    write_pairs(20)
    line = refusal(params(**shares))
    assert line.startswith(said)
    assert line.endswith(f"add pairs or raise prepare.{next(iter(shares))}")
    assert written() == {}
    assert [path.name for path in Path("data").iterdir()] == ["raw"]


def stage() -> subprocess.CompletedProcess[str]:
    """The stage as dvc starts it."""
    return subprocess.run(
        [sys.executable, "-m", "stages.prepare"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )


def test_without_data_the_program_ends_with_one_line_and_status_2() -> None:
    shutil.copy(PROJECT / "params.yaml", "params.yaml")
    done = stage()
    assert done.returncode == 2
    assert done.stderr == "error: data/raw: is not there; `dvc repro prepare` fetches the data first\n"
    assert done.stdout == ""


def test_the_program_prepares_a_set_and_says_what_it_understood() -> None:
    shutil.copy(PROJECT / "params.yaml", "params.yaml")
    write_pairs(60)
    done = stage()
    assert done.returncode == 0, done.stderr
    counts = ", ".join(f"{group['pairs']} {split}" for split, group in report()["splits"].items())
    assert done.stderr.startswith(f"{counts} pairs (10% val and 10% test, by name; ")
    assert done.stderr.endswith("see reports/data.png\n")
    assert report()["direction"] == "BtoA"
