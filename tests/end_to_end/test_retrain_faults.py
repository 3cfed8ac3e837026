"""Faults of the flow `retrain`: plugs pulled out, servers that are down, a full disk, and who is told."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .conftest import ROOT, wait_for
from .retrain_fixtures import ENDED_S, LONG, Servers, cancelled, disturbed, undisturbed
from .test_full_disk import fill

pytest_plugins = ["end_to_end.retrain_fixtures"]


@pytest.fixture(scope="module")
def champion(servers: Servers) -> str:
    """The version that serves before anything goes wrong."""
    ended = servers.ended(servers.begin())
    assert ended["type"] == "COMPLETED", ended
    return servers.champion()


# --- pulled plugs ------------------------------------------------------------------------------------


def test_cancelling_ends_the_whole_tree_and_frees_the_slot(servers: Servers) -> None:
    cancelled(servers, {**LONG, "train.seed": 2})


def test_killed_at_any_place_a_run_ends_crashed_and_the_next_goes_on_to_the_same_generator(
    servers: Servers, champion: str
) -> None:
    """`make chaos` does this for every process at every stage."""
    overrides = {**LONG, "train.seed": 5}
    plugs = [("stage", "train"), ("worker", "train"), ("flow", "train"), ("dvc", "export")]
    last = disturbed(servers, overrides, plugs)
    rows = servers.artifacts(last)["quickstart-metrics"]
    assert all(row["champion"] and row["difference"] for row in json.loads(rows["data"]))
    digest = servers.onnx_sha256()
    assert servers.versions()[-1].tags["onnx_sha256"] == digest
    assert undisturbed(servers, overrides) == digest


# --- servers that are down ---------------------------------------------------------------------------


def test_without_mlflow_it_trains_promotes_nothing_and_the_next_run_registers_without_training(
    servers: Servers, champion: str
) -> None:
    before = [version.version for version in servers.versions()], servers.champion()
    overrides = {**LONG, "train.seed": 7}
    down = f"MLflow at {servers.store} does not answer; start it, or set MLFLOW_TRACKING_URI to one that runs"

    during = servers.begin(overrides=overrides)
    servers.trainer(during)
    servers.end("mlflow")
    try:
        from_the_start = servers.begin(overrides={"train.seed": 8})
        for run in (during, from_the_start):
            ended = servers.ended(run)
            assert (ended["type"], ended["message"]) == ("FAILED", down)
            tasks = servers.tasks(run)
            assert tasks.pop("register") == ("Failed", down)
            assert {name for name, _ in tasks.values()} == {"Completed"}
            assert "training goes on, the files are complete" in servers.said(run)
        unchanged = servers.ended(servers.begin())
        assert (unchanged["type"], unchanged["message"]) == ("FAILED", down)
    finally:
        servers.start("mlflow")
    assert ([version.version for version in servers.versions()], servers.champion()) == before

    run = servers.begin(overrides=overrides)
    assert servers.ended(run)["type"] == "COMPLETED"
    assert servers.tasks(run)["train"] == ("Completed", "unchanged, restored from cache")
    assert servers.versions()[-1].tags["onnx_sha256"] == servers.onnx_sha256()
    assert len(servers.versions()) == len(before[0]) + 1
    assert not servers.unfinished_runs()


def test_a_training_goes_on_while_prefects_server_is_restarted(servers: Servers) -> None:
    run = servers.begin(overrides={**LONG, "train.seed": 9, "train.epochs": 150})
    trainer = servers.trainer(run)
    servers.end("prefect", signal.SIGTERM)
    servers.start("prefect")
    assert trainer.is_running()
    assert servers.ended(run)["type"] == "COMPLETED"
    assert servers.tasks(run)["train"] == ("Completed", "done")
    wait_for(lambda: servers.nothing_is_left(run), ENDED_S, every=0.2)


# --- a full disk -------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(servers: Servers) -> Iterator[Path]:
    """The folder of the worktrees on a file system that can be filled."""
    place = servers.project.root / ".retrain"
    place.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this system mounts no tmpfs for this user")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_fails_the_run_with_that_reason_and_the_champion_serves_on(
    servers: Servers, champion: str, small_disk: Path
) -> None:
    before = servers.champion()
    while_training = servers.begin(overrides={**LONG, "train.seed": 10})
    servers.trainer(while_training)
    fill(small_disk)
    assert_out_of_space(servers, while_training)
    # What the first worktree has left is enough for another one and no more; then for none.
    assert_out_of_space(servers, servers.begin())
    fill(small_disk)
    assert_out_of_space(servers, servers.begin())
    assert servers.champion() == before
    served = servers.project.root.parent / "served"
    servers.project.pix2pix("pull", "--to", str(served), MLFLOW_TRACKING_URI=servers.store)
    assert (served / "generator.onnx").exists()


def assert_out_of_space(servers: Servers, run: str) -> None:
    ended = servers.ended(run)
    assert ended["type"] == "FAILED"
    assert "No space left on device" in ended["message"] and "\n" not in ended["message"]
    assert servers.worktrees() == []
    assert servers.nothing_is_left(run)


# --- who is told -------------------------------------------------------------------------------------


def test_of_a_run_that_failed_or_crashed_a_chat_is_told_once_and_of_no_other(servers: Servers) -> None:
    # Of all that this module has tried: failed, crashed, killed, cancelled, completed.
    runs = {item["id"]: item for item in servers.post("/flow_runs/filter")}
    to_tell = {run for run, item in runs.items() if item["state_type"] in ("FAILED", "CRASHED")}
    assert {runs[run]["state_type"] for run in to_tell} == {"FAILED", "CRASHED"}
    wait_for(lambda: all(any(run in text for text in servers.chat.told) for run in to_tell), 30)
    told = {run: sum(run in text for text in servers.chat.told) for run in runs}
    assert told == {run: int(run in to_tell) for run in runs}
    failed = next(item for item in runs.values() if item["state_type"] == "FAILED")
    page = f"{servers.api.removesuffix('/api')}/runs/flow-run/{failed['id']}"
    said = f"retrain/quickstart: run {failed['name']} is Failed: {failed['state']['message']}\n{page}"
    assert said in servers.chat.told


# --- the end -----------------------------------------------------------------------------------------


def test_a_flow_that_lost_its_worker_and_its_server_ends_and_is_reported_by_the_next_worker(
    servers: Servers,
) -> None:
    run = servers.begin(overrides={**LONG, "train.seed": 4, "train.epochs": 5000})
    servers.trainer(run)
    flow = servers.flow_process(run)
    servers.end("worker")
    servers.end("prefect")
    wait_for(lambda: not servers.processes(run) and not flow.is_running(), ENDED_S, every=0.2)
    servers.start("prefect", "worker")
    assert servers.ended(run)["type"] == "CRASHED"


def test_ctrl_c_on_honcho_ends_the_servers_and_a_training(servers: Servers) -> None:
    servers.end_all()
    # A checkout may be a team's as well, whose ports are none of these servers'.
    (servers.project.root / ".env").write_text("MLFLOW_PORT=another\n")
    (typed,) = re.findall(r"^\t@(honcho start[^;]*);", (ROOT / "Makefile").read_text(), re.MULTILINE)
    log = servers.project.root.parent / "honcho.log"
    with log.open("w") as output:
        honcho = subprocess.Popen(
            [sys.executable, "-m", *typed.split()],
            cwd=servers.project.root,
            env=servers.project.environment(**servers.variables),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: "Worker 'here' started" in log.read_text() or honcho.poll() is not None, 240)
        assert honcho.poll() is None, log.read_text()
        servers.trainer(servers.begin(overrides={**LONG, "train.seed": 11, "train.epochs": 5000}))
    finally:
        under = [process for process in servers.everything() if process.pid != honcho.pid]
        honcho.send_signal(signal.SIGINT)
        status = honcho.wait(ENDED_S)
    _, alive = psutil.wait_procs(under, ENDED_S)
    assert under and not alive
    assert status == 130
