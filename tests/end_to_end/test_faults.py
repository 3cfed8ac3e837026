"""Killed, interrupted, out of space, twice at once: nothing half-written, lost or left running."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .conftest import Project

STAGES = ("fetch", "prepare", "train", "evaluate", "export", "register")


def start(project: Project, *command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=project.root,
        env=project.environment(**environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(project: Project) -> subprocess.Popen[str]:
    return start(project, sys.executable, "-m", "stages.train")


def wait_for(what: object, seconds: float = 60, every: float = 0.05) -> object:
    """The first true answer of a question asked again and again."""
    assert callable(what)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := what():
            return answer
        time.sleep(every)
    raise AssertionError("it did not happen in time")


def holder(project: Project) -> int | None:
    """The process that trains, by its own word."""
    for file in (project.root / ".checkpoints").glob("*/holder"):
        if words := file.read_text().split():
            return int(words[1])
    return None


def is_running(pid: int) -> bool:
    """A zombie is gone: what it held is free."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def leftovers(project: Project) -> list[Path]:
    """What an atomic write that was cut off would have left beside its target."""
    folders = ("data", "models", "reports")
    return [
        path for folder in folders for path in (project.root / folder).glob(".*") if path.name[1:2] != "g"
    ]


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
    files = ("models/generator.safetensors", "reports/losses.csv", "reports/validation.csv")
    resumed = project.run(sys.executable, "-m", "stages.train")
    assert "going on from the checkpoint" in resumed.stdout + resumed.stderr
    killed = {name: (project.root / name).read_bytes() for name in files}
    assert not list((project.root / ".checkpoints").iterdir())
    whole = project.run(sys.executable, "-m", "stages.train")
    assert "going on" not in whole.stdout + whole.stderr
    assert killed == {name: (project.root / name).read_bytes() for name in files}
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
    first.communicate(timeout=10)
    assert second.returncode == 2
    assert second.stderr.startswith("error: ") and second.stderr.count("\n") == 1
    assert f"(process {pid} on " in second.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_make_clean_leaves_what_the_next_training_goes_on_with(long_training: Project, number: int) -> None:
    process = train(long_training)
    wait_for(lambda: list((long_training.root / ".checkpoints").glob("*/checkpoint.pt")))
    process.send_signal(number)
    process.communicate(timeout=10)
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


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("after_s", [0.3, 3.0])
def test_ctrl_c_ends_a_stage_without_a_traceback_and_keeps_what_was_there(
    project: Project, stage: str, after_s: float
) -> None:
    """Early, in the imports, and later, at work or already done."""
    before = project.outputs()
    process = start(project, sys.executable, "-m", f"stages.{stage}")
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[0]
    assert process.returncode in (130, 0), said
    assert "Traceback" not in said
    assert project.outputs() == before
    assert not leftovers(project)


# --- no space ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(project: Project, tmp_path: Path) -> Iterator[Project]:
    """The project on a file system that can be filled; its caches and temporary files elsewhere."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this system mounts no tmpfs for this user")
    try:
        shutil.copytree(project.root, place / "project", symlinks=True, ignore=shutil.ignore_patterns(".git"))
        subprocess.run(["git", "init", "-q"], cwd=place / "project", check=True)
        yield Project(place / "project", project.data)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(folder: Path) -> None:
    """Leave not a page free."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_and_what_was_there_stays(
    small_disk: Project, stage: str, tmp_path: Path
) -> None:
    before = small_disk.outputs()
    fill(small_disk.root)
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    done = small_disk.run(
        sys.executable, "-m", f"stages.{stage}", ok=False, MLFLOW_TRACKING_URI=store, TMPDIR=str(tmp_path)
    )
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "No space left on device" in errors[0], done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert small_disk.outputs() == before
    assert not leftovers(small_disk)


def test_a_disk_that_fills_up_while_training_keeps_the_checkpoint_before(small_disk: Project) -> None:
    small_disk.set(
        train={"epochs": 400, "validate_every": 400},
        run={"checkpoint_every_epochs": 2, "tracking": False, "progress": "lines"},
    )
    process = train(small_disk)
    (checkpoint,) = wait_for(lambda: list((small_disk.root / ".checkpoints").glob("*/checkpoint.pt")))  # type: ignore[misc]
    fill(small_disk.root)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 2, said
    assert "No space left on device" in said and "Traceback" not in said
    os.unlink(small_disk.root / "filler")  # noqa: PTH108
    assert checkpoint.stat().st_size > 0
    again = train(small_disk)
    assert again.stdout is not None
    assert any("going on from the checkpoint" in line for line in again.stdout)
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=60)
