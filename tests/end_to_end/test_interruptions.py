"""A training that is stopped, killed or interrupted goes on to the same bytes; with real signals."""

import signal
import subprocess
import sys

import pytest

from .conftest import Project


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
    rest = process.communicate(timeout=60)[0]
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
