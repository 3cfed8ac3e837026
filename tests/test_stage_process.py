"""How a stage's end is told, and that a stage ends whole: with its parent, its time-out, or when told to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import psutil
import pytest

from pipeline.stage_process import Ended, StageProcesses, _judged

PROJECT = Path(__file__).parents[1]
FAILED = "ERROR: failed to reproduce 'train': failed to run: exec python -m stages.train, exited with {}"


@pytest.mark.parametrize(
    ("returncode", "outcome", "said", "ended"),
    [
        (0, "", ["Running stage 'train':"], Ended(0)),
        (0, "", ["Stage 'train' is cached - skipping run, checking out outputs"], Ended(0, restored=True)),
        (0, "", ["Stage 'train' didn't change, skipping"], Ended(0, restored=True)),
        (255, "2", ["error: no such thing", FAILED.format(2)], Ended(2, "no such thing")),
        (255, "3", ["error: not to be had", FAILED.format(3)], Ended(3, "not to be had")),
        (
            255,
            "1",
            ["Traceback", "  a line", "ValueError: odd", FAILED.format(1)],
            Ended(1, "train: ValueError: odd"),
        ),
        (255, "143", ["train: stopped", FAILED.format(143)], Ended(143, "train: ended by SIGTERM")),
        (255, "began", [FAILED.format(-9)], Ended(137, "train: ended by SIGKILL")),
        (255, "", [FAILED.format(-9)], Ended(137, "train: ended by SIGKILL")),
        (255, "began", [FAILED.format(7)], Ended(1, "train: ended without a word")),
        (
            255,
            "",
            ["ERROR: failed to reproduce 'train': missing data"],
            Ended(2, "failed to reproduce 'train': missing data"),
        ),
        (-9, "143", [], Ended(137, "train: dvc was ended by SIGKILL")),
    ],
)
def test_how_a_stage_ended_is_one_line(returncode: int, outcome: str, said: list[str], ended: Ended) -> None:
    assert _judged("train", returncode, outcome, said) == ended


# A stage as ours are: it ties itself to dvc, and on the first SIGTERM it takes a moment and leaves a note.
STAGE = """
import ctypes, os, signal, sys, time
def end(number, frame):
    signal.signal(number, signal.SIG_IGN)
    with open("ended.txt", "a") as file: file.write("x")
    time.sleep({linger})
    os._exit(143)
signal.signal(signal.SIGTERM, end)
if sys.platform == "linux": ctypes.CDLL(None).prctl(1, signal.SIGTERM)
open("pid.txt", "w").write(str(os.getpid()))
print("begun", flush=True)
time.sleep({seconds})
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A DVC project with one stage, called sleep."""
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  sleep:\n    cmd: exec python stage.py\n    deps: [stage.py]\n"
    )
    stage(tmp_path, seconds=60)
    command = [sys.executable, "-m", "dvc", "init", "-q", "--no-scm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path


def stage(root: Path, seconds: float, linger: float = 0) -> None:
    (root / "stage.py").write_text(STAGE.format(seconds=seconds, linger=linger))


def lives(root: Path) -> bool:
    pid = int((root / "pid.txt").read_text())
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_lines_come_as_they_are_said_and_the_next_time_it_is_restored(root: Path) -> None:
    stage(root, seconds=0)
    lines: list[str] = []
    assert StageProcesses(root).run("sleep", lines.append, timeout_s=60) == Ended(0)
    assert lines == ["Running stage 'sleep':", "> exec python stage.py", "begun"]
    assert StageProcesses(root).run("sleep", lines.append, timeout_s=60).restored
    assert not StageProcesses(root).run("sleep", lines.append, force=True, timeout_s=60).restored


def test_a_stage_that_is_told_to_stop_ends_and_no_other_begins(root: Path) -> None:
    stages = StageProcesses(root)

    def tell(line: str) -> None:
        if line == "begun":
            Timer(0, stages.stop).start()

    assert stages.run("sleep", tell, timeout_s=60).status > 128
    assert not lives(root)
    assert (root / "ended.txt").read_text() == "x"
    (root / "pid.txt").unlink()
    assert stages.run("sleep", tell, timeout_s=60).status > 128
    assert not (root / "pid.txt").exists()


def test_a_stage_that_does_not_listen_is_killed_after_a_grace(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stage_process.GRACE_S", 1.0)
    stage(root, seconds=60, linger=60)
    stages = StageProcesses(root)

    def tell(line: str) -> None:
        if line == "begun":
            Timer(0, stages.stop).start()

    begun = time.monotonic()
    stages.run("sleep", tell, timeout_s=60)
    assert not lives(root)
    assert time.monotonic() - begun < 30


def test_a_stage_is_ended_at_its_time_out(root: Path) -> None:
    ended = StageProcesses(root).run("sleep", lambda line: None, timeout_s=7.2)
    assert ended == Ended(1, "sleep: ended after 0.002 h, its time-out")
    assert not (root / "pid.txt").exists() or not lives(root)


def test_a_listener_that_fails_leaves_no_stage_behind(root: Path) -> None:
    def tell(line: str) -> None:
        if line == "begun":
            raise RuntimeError("the server is gone")

    with pytest.raises(RuntimeError, match="the server is gone"):
        StageProcesses(root).run("sleep", tell, timeout_s=60)
    assert not lives(root)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_stage_that_does_not_listen_is_killed_after_a_grace_where_dvc_was_killed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stage_process.GRACE_S", 1.0)
    stage(root, seconds=60, linger=60)

    def tell(line: str) -> None:
        if line == "begun":
            dvc = psutil.Process(int((root / "pid.txt").read_text())).parent()
            assert dvc
            dvc.kill()

    begun = time.monotonic()
    ended = StageProcesses(root).run("sleep", tell, timeout_s=60)
    assert ended == Ended(137, "sleep: dvc was ended by SIGKILL")
    assert not lives(root)
    assert (root / "ended.txt").exists()
    assert time.monotonic() - begun < 30


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_killed_flow_takes_dvc_and_the_stage_with_it(root: Path) -> None:
    code = (
        "from pathlib import Path; from pipeline.stage_process import StageProcesses\n"
        "StageProcesses(Path('.')).run('sleep', lambda line: None, timeout_s=60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, env=environment) as flow:
        end = time.monotonic() + 60
        while not (root / "pid.txt").exists() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.2)
        flow.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while lives(root) and time.monotonic() < end:
        time.sleep(0.05)
    assert not lives(root)
    assert (root / "ended.txt").read_text() == "x"
