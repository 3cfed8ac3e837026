"""A file system that is really full: one line, and what was there stays."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import STAGES, Project, leftovers, train, wait_for


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


def refuse(project: Project, stage: str, reason: str, elsewhere: Path) -> None:
    """Run a stage that cannot write: one line with the system's reason, and nothing changed."""
    before = project.outputs()
    if reason == "No space left on device":
        fill(project.root)
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(project.root.parent)], check=True)
    store = f"sqlite:///{elsewhere / 'mlflow.db'}"
    done = project.run(
        sys.executable, "-m", f"stages.{stage}", ok=False, MLFLOW_TRACKING_URI=store, TMPDIR=str(elsewhere)
    )
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and reason in errors[0], done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert project.outputs() == before
    assert not leftovers(project)


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_and_what_was_there_stays(
    small_disk: Project, stage: str, tmp_path: Path
) -> None:
    refuse(small_disk, stage, "No space left on device", tmp_path)


@pytest.mark.parametrize("stage", STAGES)
def test_a_read_only_file_system_is_one_line(small_disk: Project, stage: str, tmp_path: Path) -> None:
    refuse(small_disk, stage, "Read-only file system", tmp_path)


@pytest.mark.parametrize("left", [0, 2**17])
def test_a_full_disk_with_the_store_on_it_is_one_line_and_the_next_registration_is_whole(
    small_disk: Project, left: int
) -> None:
    """Not a page is left, or some for the database and not enough for the files."""
    register = (sys.executable, "-m", "stages.register")
    small_disk.run(sys.executable, "-c", "from pipeline import tracking; tracking.connect()")
    room = small_disk.root / "room"
    room.write_bytes(bytes(left))
    fill(small_disk.root)
    room.unlink()
    done = small_disk.run(*register, ok=False)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "No space left on device" in line or "disk is full" in line
    assert "Traceback" not in done.stdout + done.stderr
    (small_disk.root / "filler").unlink()
    assert "tiny version 1: champion" in small_disk.run(*register).stderr


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
