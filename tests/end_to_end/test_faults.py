"""Killed, interrupted, twice at once: nothing half-written, lost or left running."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from .conftest import STAGES, Project, ends_in_time, leftovers, start, train, wait_for


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


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("dies", [True, False])
def test_a_stage_whose_dvc_is_gone_before_it_has_begun_does_not_begin(project: Project, dies: bool) -> None:
    # Waits with the stage's own beginning until its parent is dead, as on a busy machine.
    stage = "import os, sys, time\n"
    stage += f"while {dies} and os.getppid() == int(sys.argv[1]): time.sleep(0.01)\n"
    stage += "os.execv(sys.executable, [sys.executable, '-m', 'stages.register'])"
    parent = "import os, subprocess, sys\n"
    parent += "child = subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid())])\n"
    parent += f"{dies} or sys.exit(child.wait())"
    outcome = project.root / "outcome"
    dvc = {"DVC_STAGE": "register", "PIX2PIX_OUTCOME_FILE": str(outcome)}
    # To the end of the pipe, which the stage holds as well.
    done = project.run("setsid", "--wait", sys.executable, "-c", parent, stage, **dvc)
    assert ("version 1" in done.stdout + done.stderr) == (not dies), done.stdout + done.stderr
    assert outcome.exists() == dies, "it says that it began, and not how it ended"


def test_a_second_trainer_is_told_who_trains_and_stops_at_once(long_training: Project) -> None:
    first = train(long_training)
    pid = wait_for(lambda: holder(long_training))
    second = long_training.run(sys.executable, "-m", "stages.train", ok=False)
    first.send_signal(signal.SIGTERM)
    ends_in_time(first)
    assert second.returncode == 2
    assert second.stderr.startswith("error: ") and second.stderr.count("\n") == 1
    assert f"(process {pid} on " in second.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_make_clean_leaves_what_the_next_training_goes_on_with(long_training: Project, number: int) -> None:
    process = train(long_training)
    wait_for(lambda: list((long_training.root / ".checkpoints").glob("*/checkpoint.pt")))
    process.send_signal(number)
    ends_in_time(process)
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


# Runs a stage that is sent SIGINT as it is about to put the first of its files into its place.
AT_WORK = """
import os, runpy, signal, sys
from pathlib import Path
replace = Path.replace
def interrupted(partial, place):
    Path.replace = replace
    print("at work", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    return replace(partial, place)
Path.replace = interrupted
runpy.run_module("stages." + sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_ends_a_stage_at_work_without_a_traceback_and_keeps_what_was_there(
    project: Project, stage: str
) -> None:
    before = project.outputs()
    done = project.run(sys.executable, "-c", AT_WORK, stage, ok=False)
    said = done.stdout + done.stderr
    assert "at work" in done.stdout, said
    assert done.returncode == 130, said
    assert f"{stage}: interrupted\n" in done.stderr and "Traceback" not in said
    assert project.outputs() == before
    assert not leftovers(project)


def test_ctrl_c_during_a_stages_imports_ends_it_without_a_word(project: Project, tmp_path: Path) -> None:
    outcome = tmp_path / "outcome"
    process = start(project, sys.executable, "-m", "stages.train", PIX2PIX_OUTCOME_FILE=str(outcome))
    wait_for(outcome.exists, every=0.001)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert ends_in_time(process) == ""
    assert process.returncode == 130


def test_ctrl_c_in_a_terminal_ends_repro_with_its_stage_and_the_next_repro_goes_on(
    long_training: Project,
) -> None:
    """A terminal sends it to the command, to dvc and to the stage at once."""
    command = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "repro"],
        cwd=long_training.root,
        env=long_training.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: list((long_training.root / ".checkpoints").glob("*/checkpoint.pt")), seconds=120)
    trainer = holder(long_training)
    os.killpg(command.pid, signal.SIGINT)
    said = ends_in_time(command)
    assert command.returncode == 130, said
    assert "train: stopped at step" in said and "train: interrupted" in said
    assert "Traceback" not in said and "ERROR" not in said
    assert trainer and not is_running(trainer)
    assert not leftovers(long_training)
    again = train(long_training)
    assert again.stdout is not None
    assert any("going on from the checkpoint" in line for line in again.stdout)
    again.send_signal(signal.SIGTERM)
    ends_in_time(again)
