"""The stage train in several processes: stopped and killed, and on two hosts."""

import shutil
import signal
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil
import pytest

from .conftest import Project, leftovers, start, store, train, wait_for


def trainers(parent: int) -> dict[str, psutil.Process]:
    """The processes that a training has launched, by rank."""
    children = psutil.Process(parent).children()
    found = {
        child.environ().get("RANK", ""): child for child in children if "stages.train" in child.cmdline()
    }
    return {rank: child for rank, child in found.items() if rank}


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_whichever_process_is_stopped_or_killed_all_end_and_the_next_training_goes_on(
    project: Project,
) -> None:
    """A signal to any of them is for all; at last one process goes on from two, and two from one."""
    project.set(
        train={"epochs": 400, "validate_every": 100, "batch": 2, "processes": 2},
        run={"checkpoint_every_epochs": 1, "progress": "lines", "tracking": False},
    )
    outputs = project.outputs()
    checkpoints = project.root / ".checkpoints"
    steps = [0]
    for target, number, status in (
        ("launcher", signal.SIGTERM, 143),
        ("0", signal.SIGTERM, 143),
        ("1", signal.SIGINT, 130),
        ("1", signal.SIGTERM, 143),
        ("launcher", signal.SIGKILL, -9),
        ("1", signal.SIGKILL, -9),
    ):
        before = {file: file.stat().st_mtime_ns for file in checkpoints.glob("*/checkpoint.pt")}
        launcher = train(project)
        wait_for(
            lambda before=before: [
                file
                for file in checkpoints.glob("*/checkpoint.pt")
                if before.get(file) != file.stat().st_mtime_ns
            ]
        )
        ranks = trainers(launcher.pid)
        assert set(ranks) == {"0", "1"}
        ranks.get(target, psutil.Process(launcher.pid)).send_signal(number)
        said = launcher.communicate(timeout=60)[0]
        assert launcher.returncode == status, said
        assert not psutil.wait_procs(ranks.values(), timeout=20)[1], "a process was left behind"
        assert "Traceback" not in said
        assert ("ended by SIGKILL" in said) == (target == "1" and status == -9), said
        if len(steps) > 1:
            steps.append(int(said.partition("going on from the checkpoint at step ")[2].split()[0]))
        else:
            steps.append(1)
    assert steps == sorted(set(steps)), "each training goes on where the one before was stopped"
    assert project.outputs() == outputs and not leftovers(project)
    (kept,) = checkpoints.iterdir()
    for count in (1, 2):
        project.set(train={"processes": count})
        training = train(project)
        assert training.stdout is not None
        said = next(line for line in training.stdout if "going on from the checkpoint at step" in line)
        steps.append(int(said.partition("at step ")[2].split()[0]))
        assert count == 1 or len(trainers(training.pid)) == 2
        # Before the loop, a signal would stop it without a new checkpoint.
        before = (kept / "checkpoint.pt").stat().st_mtime_ns
        wait_for(lambda before=before: (kept / "checkpoint.pt").stat().st_mtime_ns != before)
        training.send_signal(signal.SIGTERM)
        training.communicate(timeout=60)
        assert training.returncode == 143
        assert list(checkpoints.iterdir()) == [kept]
    assert steps == sorted(set(steps))


def test_two_processes_are_one_run_that_counts_the_images_of_both(project: Project) -> None:
    project.set(train={"epochs": 100, "validate_every": 100, "batch": 2, "processes": 2})
    project.run(sys.executable, "-m", "stages.train")
    client = store(project)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "images_per_s")
    assert [point.step for point in points] == list(range(50, 401, 50))
    # The time between two points, by MLflow's clock, times the rate is the images of 50 steps.
    images = [later.value * (later.timestamp - sooner.timestamp) / 1e3 for sooner, later in pairwise(points)]
    assert median(images) == pytest.approx(100, rel=0.25)


def test_a_training_that_diverges_in_two_processes_says_so_once(project: Project) -> None:
    project.set(train={"batch": 2, "processes": 2, "lambda_l1": 1e39})
    done = project.run(sys.executable, "-m", "stages.train", ok=False)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "a loss became NaN or infinite at step" in line
    client = store(project)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.status == "FAILED" and run.data.tags["collapse"] in line


def test_two_hosts_train_the_bytes_of_two_processes_and_the_first_alone_writes(
    project: Project, tmp_path: Path
) -> None:
    """The hosts are two folders, joined over loopback with the commands of docs/training.md."""
    project.set(train={"batch": 2, "processes": 2}, run={"tracking": False})
    other = Project(tmp_path / "other", project.data)
    shutil.copytree(project.root, other.root, symlinks=True)
    shutil.rmtree(other.root / "models")
    project.run(sys.executable, "-m", "stages.train")
    generator = project.root / "models" / "generator.safetensors"
    launched = generator.read_bytes()
    generator.unlink()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = [on_host(host, number, port) for number, host in enumerate((project, other))]
    said = [host.communicate(timeout=120)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(said)
    assert generator.read_bytes() == launched
    assert "2 processes" in said[0] and "trained" not in said[1]
    assert not (other.root / "models").exists()


def test_hosts_with_other_parameters_are_refused_in_one_line(project: Project, tmp_path: Path) -> None:
    project.set(train={"batch": 2}, run={"tracking": False})
    other = Project(tmp_path / "other", project.data)
    shutil.copytree(project.root, other.root, symlinks=True)
    other.set(run={"log_every_steps": 3})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = [on_host(host, number, port) for number, host in enumerate((project, other))]
    said = [host.communicate(timeout=120)[0] for host in hosts]
    for host in said:
        (line,) = [line for line in host.splitlines() if line.startswith("error: ")]
        assert "has other run.log_every_steps (" in line


def on_host(project: Project, number: int, port: int) -> "subprocess.Popen[str]":
    torchrun = f"torchrun --nnodes 2 --node-rank {number} --master-addr 127.0.0.1 --master-port {port}"
    return start(project, *torchrun.split(), "--nproc-per-node", "1", "-m", "stages.train")
