"""Killed, interrupted, twice at once: nothing half-written, lost or left running."""

import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from .conftest import STAGES, Project, leftovers, start, train, wait_for


def holder(project: Project) -> int | None:
    """The process that trains, by its own word."""
    for file in (project.root / ".checkpoints").glob("*/holder"):
        if words := file.read_text().split():
            return int(words[1])
    return None


def written(project: Project) -> dict[str, bytes]:
    """What a training has written, by path."""
    names = ("models/generator.safetensors", "reports/losses.csv", "reports/validation.csv")
    return {
        name: made for name, made in project.outputs().items() if name.startswith((*names, "reports/samples"))
    }


def is_running(pid: int) -> bool:
    """A zombie is gone: what it held is free."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def long_training(project: Project) -> Project:
    project.set(
        train={"epochs": 200, "validate_every": 50},
        run={"checkpoint_every_epochs": 1, "progress": "lines", "tracking": False},
    )
    return project


# --- killed ------------------------------------------------------------------------------------------


def test_killed_while_it_writes_a_checkpoint_it_goes_on_to_the_same_bytes(project: Project) -> None:
    project.set(
        # Large enough that a checkpoint takes a while to write.
        model={"generator_channels": 16},
        train={"epochs": 12, "losses_every": 3},
        run={"checkpoint_every_epochs": 1, "tracking": False},
    )

    def is_writing() -> list[Path]:
        return list((project.root / ".checkpoints").glob("*/.checkpoint.pt.*"))

    for _ in range(3):
        process = train(project)
        wait_for(lambda: list((project.root / ".checkpoints").glob("*/checkpoint.pt")), every=0.001)
        # Not what an earlier kill has left behind.
        before = set(is_writing())
        wait_for(lambda before=before: set(is_writing()) - before, every=0.0005)
        process.kill()
        process.communicate(timeout=60)
    assert is_writing(), "no kill met a checkpoint being written"
    (kept,) = (project.root / ".checkpoints").iterdir()
    # And one that met a picture being written.
    (kept / "samples").mkdir(exist_ok=True)
    (kept / "samples" / ".epoch-0001.png.abcd1234.png").write_bytes(b"torn")
    resumed = project.run(sys.executable, "-m", "stages.train")
    assert "going on from the checkpoint" in resumed.stdout + resumed.stderr
    killed = written(project)
    assert "reports/samples/epoch-0012.png" in killed
    assert not [name for name in killed if "/." in name]
    assert not list((project.root / ".checkpoints").iterdir())
    whole = project.run(sys.executable, "-m", "stages.train")
    assert "going on" not in whole.stdout + whole.stderr
    assert killed == written(project)
    steps = [int(line.split(",")[0]) for line in killed["reports/losses.csv"].decode().splitlines()[1:]]
    assert steps == list(range(3, 97, 3))


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_trainer_dies_with_dvc_and_leaves_a_checkpoint(long_training: Project) -> None:
    dvc = start(long_training, sys.executable, "-m", "dvc", "repro", "train")
    pid = wait_for(lambda: holder(long_training))
    assert isinstance(pid, int) and is_running(pid)
    wait_for(lambda: list((long_training.root / ".checkpoints").glob("*/checkpoint.pt")))
    dvc.kill()
    wait_for(lambda: not is_running(pid), seconds=10)
    long_training.set(train={"epochs": 200})
    again = train(long_training)
    assert again.stdout is not None
    assert any("going on from the checkpoint" in line for line in again.stdout)
    again.communicate(timeout=120)


def test_a_second_trainer_is_told_who_trains_and_stops_at_once(long_training: Project) -> None:
    first = train(long_training)
    pid = wait_for(lambda: holder(long_training))
    second = long_training.run(sys.executable, "-m", "stages.train", ok=False)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert second.returncode == 2
    assert second.stderr.startswith("error: ") and second.stderr.count("\n") == 1
    assert f"(process {pid} on " in second.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_make_clean_leaves_what_the_next_training_goes_on_with(long_training: Project, number: int) -> None:
    process = train(long_training)
    wait_for(lambda: list((long_training.root / ".checkpoints").glob("*/checkpoint.pt")))
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    (kept,) = (long_training.root / ".checkpoints").iterdir()
    stale = kept.with_name("0123456789abcdef")
    shutil.copytree(kept, stale)
    done = long_training.run(sys.executable, "-m", "stages.train", "--remove-stale")
    assert not stale.exists() and (kept / "checkpoint.pt").exists()
    assert "the next one goes on from it" in done.stdout + done.stderr
    long_training.set(train={"lr": 0.001})
    long_training.run(sys.executable, "-m", "stages.train", "--remove-stale")
    assert not kept.exists()


# --- interrupted -------------------------------------------------------------------------------------


# Early, in the imports of one, and later, at work or already done.
@pytest.mark.parametrize(("stage", "after_s"), [("train", 0.5), *((stage, 3.0) for stage in STAGES)])
def test_ctrl_c_ends_a_stage_without_a_traceback_and_keeps_what_was_there(
    project: Project, stage: str, after_s: float
) -> None:
    before = project.outputs()
    process = start(project, sys.executable, "-m", f"stages.{stage}")
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[0]
    # -SIGINT: it had said its last line, and Python takes its handlers away before it is gone.
    assert process.returncode in (130, 0, -signal.SIGINT), said
    assert "Traceback" not in said
    assert project.outputs() == before
    assert not leftovers(project)
