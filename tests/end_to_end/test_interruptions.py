"""A training that is stopped, killed or interrupted goes on to the same bytes; with real signals."""

import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from .conftest import Project, ends_in_time, start, store, train, wait_for


@pytest.mark.parametrize("kill", ["TERM", "INT", "KILL"])
def test_an_interrupted_training_goes_on_to_the_same_bytes(project: Project, kill: str) -> None:
    project.set(
        train={"epochs": 30}, run={"checkpoint_every_epochs": 1, "progress": "lines", "tracking": False}
    )
    command = [sys.executable, "-m", "stages.train"]
    process = subprocess.Popen(
        command,
        cwd=project.root,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "epoch 3:" in line:
            process.send_signal(getattr(signal, f"SIG{kill}"))
            break
    rest = ends_in_time(process)
    assert process.returncode == {"TERM": 143, "INT": 130, "KILL": -9}[kill], "".join(seen) + rest
    resumed = project.run(*command)
    assert "going on from the checkpoint at step" in resumed.stdout + resumed.stderr
    cut = {
        name: (project.root / name).read_bytes()
        for name in ("models/generator.safetensors", "reports/losses.csv")
    }
    whole = project.run(*command)
    assert "going on" not in whole.stdout + whole.stderr
    assert cut == {name: (project.root / name).read_bytes() for name in cut}


def test_a_training_hears_sigterm_once_however_often_it_comes(project: Project) -> None:
    """As from the kernel, when dvc dies: one for each of its threads."""
    project.set(train={"epochs": 2000, "validate_every": 2000}, run={"checkpoint_every_epochs": 1000})
    tracked = store(project)
    # Makes the database: with a training that makes it too, one of them would find half of it.
    tracked.search_experiments()
    process = train(project)

    def runs() -> list[Any]:
        found = tracked.search_experiments(filter_string="name = 'tiny'")
        return tracked.search_runs([found[0].experiment_id]) if found else []

    wait_for(lambda: any(run.data.metrics for run in runs()), seconds=120)
    begun = time.monotonic()
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    assert time.monotonic() - begun < 10
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 143, said
    assert "train: stopped at step" in said
    # No epoch was to have one: it was written when the first one came.
    assert list((project.root / ".checkpoints").glob("*/checkpoint.pt"))
    assert [run.info.status for run in runs()] == ["KILLED"]


def test_a_training_whose_store_never_answers_ends_in_time(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.settimeout(60)
        uri = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        process = start(project, sys.executable, "-m", "stages.train", MLFLOW_TRACKING_URI=uri)
        asked, _ = deaf.accept()
        with asked:
            process.send_signal(signal.SIGTERM)
            said = ends_in_time(process)
    assert process.returncode == 143, said
    assert said.endswith("train: stopped\n") and "Traceback" not in said


def test_a_training_that_streamed_goes_on_with_pairs_held_in_memory(project: Project) -> None:
    """SIGTERM to the whole group, loader's workers included; the memory may be larger the next time."""
    project.set(
        train={"epochs": 30, "cache": "stream"},
        run={"checkpoint_every_epochs": 1, "progress": "lines", "tracking": False, "loader_workers": 2},
    )
    command = [sys.executable, "-m", "stages.train"]
    process = subprocess.Popen(
        command,
        cwd=project.root,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "epoch 3:" in line:
            os.killpg(process.pid, signal.SIGTERM)
            break
    said += ends_in_time(process)
    assert process.returncode == 143, said
    assert "streamed from disk" in said and "Traceback" not in said
    project.set(train={"cache": "device"})
    resumed = project.run(*command)
    assert "held on cpu" in resumed.stderr
    assert "going on from the checkpoint at step" in resumed.stderr
    losses = project.root / "reports/losses.csv"
    cut = losses.read_bytes()
    whole = project.run(*command)
    assert "going on" not in whole.stderr
    assert losses.read_bytes() == cut
