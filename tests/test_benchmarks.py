"""The benchmarks run and say what they promise; how fast anything is, is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
TINY = ["--px", "32", "--channels", "2", "--rounds", "2"]


def benchmarks(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_json_is_all_of_stdout_and_every_comparison_is_a_ratio() -> None:
    done = benchmarks("train_step", "inference", *TINY, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["machine"]["threads"] >= 1
    figures = said["figures"]
    for key in ("train_step_32px_batch1", "inference_32px_batch1"):
        low, high = figures[f"{key}_range"]
        assert 0 < low <= figures[f"{key}_ratio"] <= high
        assert len(figures[f"{key}_ms"]) == 2
    assert "exported file" in done.stderr


def test_without_json_the_text_is_on_stdout() -> None:
    done = benchmarks("inference", *TINY, "--batch", "2")
    assert done.returncode == 0, done.stderr
    assert "inference: 32 px, 2 channels, batch 2\n" in done.stdout
    assert "ratio" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["speed"], "no benchmark 'speed'; there are train_step"),
        (["--device", "mps" if sys.platform == "linux" else "cuda"], "no such device here"),
    ],
)
def test_what_does_not_exist_is_one_line(arguments: list[str], said: str) -> None:
    done = benchmarks(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert said in done.stderr
