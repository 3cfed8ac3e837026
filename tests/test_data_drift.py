"""What changed from one version of the data to the next: numbers from two reports, one out of git."""

import copy
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, drift, lineage
from pix2pix import data_drift, images
from pix2pix.errors import UserError


def version(**changed: Any) -> dict[str, Any]:
    """A reports/data.json."""
    histogram = {f"{16 * index}-{16 * index + 15}": 1 / 16 for index in range(16)}
    side = {"mean": {"r": 100.0, "g": 110.0, "b": 120.0}, "spread": 20.0, "histogram": histogram}
    return {
        "dataset": "own",
        "direction": "AtoB",
        "image_px": 128,
        "splits": {
            split: {"pairs": count, "sha256": split} for split, count in (("train", 40), ("test", 10))
        },
        "source_sizes": {"256×256": 50},
        "rejects": {},
        "checks": {"leaks": {"count": 0, "named": {}}},
        "colours": {"input": copy.deepcopy(side), "target": copy.deepcopy(side)},
        **changed,
    }


def lines(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return list(data_drift.lines(data_drift.compare(before, after)))


def test_a_version_has_no_drift_against_itself() -> None:
    found = data_drift.compare(version(), version())
    assert found.is_none
    assert found.sides
    assert {side.histograms for side in found.sides.values()} == {0.0}


def test_pixels_of_another_kind_or_range_are_said_and_older_reports_are_of_8_bit_rgb() -> None:
    now = version(input="1 channel of uint16", target="3 channels of uint8", range_input="12 to 3990")
    assert lines(version(), now)[:2] == [
        "input          3 channels of uint8 → 1 channel of uint16",
        "range_input    full → 12 to 3990",
    ]
    assert data_drift.compare(version(), version(target="3 channels of uint8", range_target="full")).is_none


def test_counts_sizes_rejects_and_warnings_are_compared() -> None:
    after = version(
        splits={"train": {"pairs": 58, "sha256": "x"}, "test": {"pairs": 10, "sha256": "y"}},
        source_sizes={"256×256": 51, "300×200": 17},
        rejects={"7.png": "is empty"},
        checks={"leaks": {"count": 2, "named": {}}, "empty": {"count": 0, "named": {}}},
    )
    assert lines(version(), after)[:4] == [
        "pairs          train 40 → 58   test 10 (other pixels)",
        "unusable       0 → 1",
        "warnings       leaks 0 → 2",
        "sizes          25.0% of the pairs come in sizes that are new: 300×200 (17)",
    ]
    assert not data_drift.compare(version(), after).is_none


def test_colours_are_compared_in_levels_in_spreads_and_by_their_histograms() -> None:
    after = version()
    after["colours"]["target"]["mean"] = {"r": 110.0, "g": 120.0, "b": 130.0}
    after["colours"]["target"]["histogram"] |= {"0-15": 0.0, "240-255": 2 / 16}
    found = data_drift.compare(version(), after).sides
    assert found
    assert (found["input"].in_spreads, found["input"].histograms) == (0, 0)
    assert found["target"].in_spreads == pytest.approx(0.5)
    assert found["target"].histograms == pytest.approx(1 / 16)
    assert lines(version(), after)[-1] == (
        "target         r 100.0 → 110.0  g 110.0 → 120.0  b 120.0 → 130.0   "
        "brighter by 10.0 of 255 levels, 50% of what images differ by among themselves; histograms 6.2% apart"
    )
    assert lines(version(), after)[-2].endswith("as bright as before; histograms 0.0% apart")


def test_a_tint_is_seen_although_the_mean_of_the_channels_stays() -> None:
    after = version()
    after["colours"]["input"]["mean"] = {"r": 140.0, "g": 110.0, "b": 80.0}
    after["colours"]["target"]["mean"] = {"r": 100.0, "g": 110.0, "b": 79.0}
    said = lines(version(), after)
    assert "brighter in r by 40.0 of 255 levels, 200% of what images differ by among themselves" in said[-2]
    assert "darker in b by 41.0 of 255 levels, 205% of what images differ by among themselves" in said[-1]


def test_a_size_is_not_called_new_where_the_report_before_may_have_left_it_out() -> None:
    before = version(source_sizes={f"{px}×{px}": 2 for px in range(20)})
    said = lines(before, version(source_sizes={"256×256": 25, "1×1": 25}))
    assert (
        said[2] == "sizes          50.0% of the pairs come in sizes that are new among the 20 commonest: "
        "256×256 (25)"
    )


def test_other_settings_and_versions_without_colours_are_said() -> None:
    before = version(image_px=256)
    del before["colours"], before["checks"]
    said = lines(before, version())
    assert said[0] == "image_px       256 → 128"
    assert (
        said[-1] == "colours        cannot be compared: one version has none, or another number of channels"
    )
    grey = version()
    grey["colours"]["input"]["mean"] = {"0": 3.0}
    assert data_drift.compare(version(), grey).sides is None


# --- with git ----------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    lineage.home.cache_clear()
    Path("reports").mkdir()
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "nothing yet"], ["tag", "empty"]):
        git(*command)
    write(version())
    for command in (["add", "-A"], ["commit", "-q", "-m", "one"], ["tag", "one"]):
        git(*command)
    yield tmp_path
    lineage.home.cache_clear()


def git(*arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def write(report: dict[str, Any]) -> None:
    Path("reports/data.json").write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")


def test_the_version_before_comes_from_git_and_both_are_drawn(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, picture = drift.drift("HEAD")
    assert (found.is_none, picture, drift.PICTURE.exists()) == (True, None, False)
    after = version(splits={"train": {"pairs": 41, "sha256": "x"}, "test": {"pairs": 10, "sha256": "test"}})
    write(after)
    found, picture = drift.drift("one")
    assert found.pairs == {"train": (40, 41), "test": (10, 10)}
    assert picture == drift.PICTURE
    assert images.read_rgb(picture).shape == (400, 1100, 3)
    with pytest.raises(SystemExit) as ended:
        cli.main(["drift"])
    assert not ended.value.code
    said = capsys.readouterr().out
    assert said.startswith("pairs          train 40 → 41   test 10\n")
    assert said.endswith("picture        reports/data_drift.png\n")
    git("commit", "-qam", "two")
    assert drift.drift("HEAD")[0].is_none
    assert drift.drift("HEAD~1")[0].pairs["train"] == (40, 41)


def test_every_axis_of_the_picture_says_what_it_counts_and_one_legend_is_for_all() -> None:
    figure = drift._drawn(version(), version(), "one")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "this folder"]
    pairs, source, target = figure.axes
    assert [axes.get_legend() for axes in figure.axes] == [None] * 3
    assert pairs.get_ylabel() == "pairs"
    for axes, side in ((source, "input"), (target, "target")):
        assert axes.get_title().startswith(side)
        assert axes.get_xlabel() == "level (0 is black, 255 white)"
        assert axes.get_ylabel() == "share of the pixels (steps of 16 levels)"


def test_without_a_report_here_or_there_it_is_one_line(project: Path) -> None:
    for revision, said in (
        ("empty", "empty: has no reports/data.json to compare with; give another branch, tag or commit"),
        ("nobody", "nobody: is no commit of this repository; give a branch, tag or commit"),
    ):
        with pytest.raises(UserError) as refused:
            drift.drift(revision)
        assert str(refused.value) == said
    Path("reports/data.json").unlink()
    with pytest.raises(UserError, match=r"reports/data\.json: not there yet"):
        drift.drift("HEAD")
