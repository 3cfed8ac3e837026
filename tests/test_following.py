"""What is said of a training's pace."""

from pathlib import Path

import pytest

from pix2pix.params import load
from stages import following

PARAMS = load(Path(__file__).parents[1] / "params.yaml")


def test_the_time_it_will_take_is_said_once_after_the_first_steps(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pace = following._Pace(1000, PARAMS)
    # The first point has the start in it.
    for step, rate in ((50, 0.5), (100, 2.5), (150, 2.5)):
        pace.point(step, images_per_s=rate, data_share=0.0)
    assert caplog.messages == ["2.5 images/s: the other 900 steps take about 6 min 00 s"]


def test_slow_data_is_warned_of_once_with_the_share_and_the_knobs(caplog: pytest.LogCaptureFixture) -> None:
    pace = following._Pace(1000, PARAMS)
    for step, share in ((50, 0.9), (100, 0.1), (150, 0.62), (200, 0.7)):
        pace.point(step, images_per_s=2.5, data_share=share)
    (line,) = caplog.messages
    assert line.startswith("step 150: 62 % of the time goes into waiting for pairs from disk; ")
    assert "run.loader_workers (now auto)" in line and "train.cache: device" in line
