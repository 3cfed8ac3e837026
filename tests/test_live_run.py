"""What a training tells MLflow, and that it trains on when nobody listens."""

import logging
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from registry_fixtures import MODEL_NAME, Project, Server, digest, noise

from pipeline import live_run, tracking
from pix2pix import images

pytest_plugins = ["registry_fixtures"]

DATA = {"train": digest("train pairs"), "val": digest("val pairs")}


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    """Every test leaves MLflow without its threads, and nobody who tells it anything."""
    yield
    assert alive_after(live_run.THREAD) == []
    assert alive_after("SystemMetricsMonitor") == []


@pytest.fixture
def brisk_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """System metrics at once, not after ten seconds."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.02")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")


def alive_after(name: str, patience_s: float = 30) -> list[threading.Thread]:
    """Threads of this name that are still alive after some patience."""
    deadline = time.monotonic() + patience_s
    while alive := [thread for thread in threading.enumerate() if thread.name == name]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return alive


def the_run(status: str = "FINISHED") -> Any:
    """The only run in the store, which ended like this."""
    runs = all_runs()
    assert [run.info.status for run in runs] == [status]
    return runs[0]


def all_runs() -> list[Any]:
    client = MlflowClient(tracking.store_uri(), tracking.store_uri())
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments))


def history(run: Any, name: str) -> dict[int, float]:
    client = MlflowClient(tracking.store_uri(), tracking.store_uri())
    return {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}


def train(project: Project, fingerprint: str = "f1", *, first: int = 1, last: int = 3, **run: Any) -> None:
    """A training of which only the telling is real."""
    with live_run.training_run(project.params(run=run), fingerprint, DATA) as tracked:
        for step in range(first, last + 1):
            tracked.losses(step, {"g_l1": 1 / step, "d_real": 0.5})
        tracked.finish(digest("weights"))


# --- what is told ------------------------------------------------------------------------------------


def test_a_run_holds_the_parameters_the_lineage_and_the_data(project: Project, store: Path) -> None:
    project.make("weights", 0.2)
    train(project)
    run = the_run()
    assert run.data.params == tracking.flat(project.params())
    assert run.data.params["train.lambda_l1"] == "100.0"
    assert run.data.params["registry.model_name"] == MODEL_NAME
    tags = {name: run.data.tags.get(name) for name in ("fingerprint", "data_sha256", "weights_sha256")}
    assert tags == {
        "fingerprint": "f1",
        "data_sha256": DATA["train"],
        "weights_sha256": digest("weights"),
    }
    assert len(run.data.tags["environment_sha256"]) == 64
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("embedded", DATA["train"][:36])
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]


def test_a_sign_of_collapse_is_a_tag_of_the_run(project: Project, store: Path) -> None:
    project.make("weights", 0.2)
    with live_run.training_run(project.params(), "f1", DATA) as tracked:
        tracked.collapsed("step 3000: the discriminator's losses have been below 0.05 for 1000 steps")
        tracked.finish(digest("weights"))
    assert the_run().data.tags["collapse"].startswith("step 3000: the discriminator's losses")


def test_losses_lie_at_their_steps(project: Project, store: Path) -> None:
    project.make("weights", 0.2)
    train(project, last=4)
    assert history(the_run(), "g_l1") == {1: 1.0, 2: 0.5, 3: 1 / 3, 4: 0.25}
    assert set(history(the_run(), "d_real")) == {1, 2, 3, 4}
    names = [file.path for file in MlflowClient(tracking.store_uri()).list_artifacts(the_run().info.run_id)]
    assert "losses.csv" in names


@pytest.mark.parametrize("allowed", [0, 2])
def test_every_validation_is_told_but_only_so_many_grids(project: Project, store: Path, allowed: int) -> None:
    project.make("weights", 0.2)
    grid = project.folder / "grid.png"
    images.write_png(grid, noise(8, 8))
    with live_run.training_run(project.params(run={"tracked_grids": allowed}), "f1", DATA) as tracked:
        for epoch in range(1, 5):
            tracked.validated(100 * epoch, epoch, 0.1 * epoch, grid)
        tracked.finish(digest("weights"))
    run = the_run()
    assert history(run, "val_l1") == pytest.approx({100: 0.1, 200: 0.2, 300: 0.3, 400: 0.4})
    pictures = MlflowClient(tracking.store_uri()).list_artifacts(run.info.run_id, "images")
    assert len({file.path.split("+")[2] for file in pictures}) == allowed


def test_system_metrics_end_with_the_run(project: Project, store: Path, brisk_monitor: None) -> None:
    project.make("weights", 0.2)
    params = project.params()
    with live_run.training_run(params, "f1", DATA) as tracked:
        assert [thread.name for thread in threading.enumerate()].count("SystemMetricsMonitor") == 1
        time.sleep(0.2)
        tracked.finish(digest("weights"))
    assert alive_after("SystemMetricsMonitor", patience_s=0) == []
    assert "system/cpu_utilization_percentage" in the_run().data.metrics


def test_tracking_false_leaves_no_store(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.make("weights", 0.2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    train(project, tracking=False)
    with live_run.training_run(project.params(run={"tracking": False}), "f1", DATA) as tracked:
        tracked.validated(1, 1, 0.1, project.folder / "no-such-grid.png")
    assert not (tmp_path / "none.db").exists()


def test_the_default_store_lies_in_the_projects_folder_with_its_artifacts(
    project: Project, empty_database: Path
) -> None:
    project.make("weights", 0.2)
    shutil.copyfile(empty_database, project.folder / "mlflow.db")
    train(project)
    assert tracking.store_uri() == f"sqlite:///{project.folder}/mlflow.db"
    assert [path.name for path in (project.folder / "mlartifacts").rglob("*.csv")] == ["losses.csv"]


# --- how it ends -------------------------------------------------------------------------------------


class Stopped(BaseException):
    """Like stages.runner.Stopped, which SIGTERM raises."""


@pytest.mark.parametrize(
    ("raised", "status"),
    [(KeyboardInterrupt(), "KILLED"), (Stopped(), "KILLED"), (RuntimeError("a bug"), "FAILED")],
    ids=["ctrl-c", "sigterm", "bug"],
)
def test_an_early_end_is_told_and_raised_on(
    project: Project, store: Path, raised: BaseException, status: str
) -> None:
    with (
        pytest.raises(type(raised)) as caught,
        live_run.training_run(project.params(), "f1", DATA) as tracked,
    ):
        tracked.losses(1, {"g_l1": 1.0})
        raise raised
    assert caught.value is raised
    assert "weights_sha256" not in the_run(status).data.tags


def test_an_interrupted_run_is_taken_up_and_a_finished_one_is_not(project: Project, store: Path) -> None:
    project.make("weights", 0.2)
    with (
        pytest.raises(KeyboardInterrupt),
        live_run.training_run(project.params(), "f1", DATA) as tracked,
    ):
        tracked.losses(1, {"g_l1": 1.0})
        raise KeyboardInterrupt
    interrupted = the_run("KILLED")
    train(project, first=2, last=3)
    assert the_run().info.run_id == interrupted.info.run_id
    assert history(interrupted, "g_l1") == {1: 1.0, 2: 0.5, 3: 1 / 3}
    train(project)
    assert len(all_runs()) == 2
    train(project, "f2")
    assert len(all_runs()) == 3


def test_a_run_left_running_by_a_killed_process_is_taken_up(project: Project, store: Path) -> None:
    project.make("weights", 0.2)
    client = MlflowClient(tracking.store_uri(), tracking.store_uri())
    experiment = client.create_experiment(MODEL_NAME)
    left = client.create_run(experiment, tags={"fingerprint": "f1"})
    client.create_run(experiment, tags={"fingerprint": "f2"})
    train(project)
    assert {run.info.run_id: run.info.status for run in all_runs()}[left.info.run_id] == "FINISHED"
    assert len(all_runs()) == 2


def test_a_deleted_experiment_is_taken_up_again(project: Project, store: Path) -> None:
    project.make("weights", 0.2)
    client = MlflowClient(tracking.store_uri(), tracking.store_uri())
    experiment = client.create_experiment(MODEL_NAME)
    client.delete_experiment(experiment)
    train(project)
    assert the_run().info.experiment_id == experiment


# --- when nobody listens -----------------------------------------------------------------------------


def the_warning(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> str:
    """The only thing that was said, by us or by any library."""
    assert capfd.readouterr() == ("", "")
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return record.getMessage()


def test_a_server_that_is_down_at_the_start_costs_one_warning(
    project: Project,
    no_server: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    train(project)
    line = the_warning(caplog, capfd)
    assert line.startswith(f"MLflow at {no_server} cannot be written (")
    assert line.endswith("training goes on, the files are complete")
    assert "\n" not in line


def test_a_server_that_dies_in_the_middle_costs_one_warning(
    project: Project,
    server: Server,
    impatient: None,
    brisk_monitor: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    project.make("weights", 0.2)
    with live_run.training_run(project.params(), "of the dead server", DATA) as tracked:
        tracked.losses(1, {"g_l1": 1.0})
        while not any("g_l1" in run.data.metrics for run in all_runs()):
            time.sleep(0.02)
        server.kill()
        for step in (2, 3):
            tracked.losses(step, {"g_l1": 0.5})
        tracked.validated(3, 1, 0.1, project.folder / "reports" / "test_grid.png")
        tracked.finish(digest("weights"))
    assert alive_after("SystemMetricsMonitor") == []
    assert f"MLflow at {server.uri} cannot be written" in the_warning(caplog, capfd)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{server.database}")
    (left,) = [run for run in all_runs() if run.data.tags.get("fingerprint") == "of the dead server"]
    assert left.info.status == "RUNNING"
    assert history(left, "g_l1") == {1: 1.0}


def test_a_server_that_hangs_holds_up_neither_a_step_nor_the_end(
    project: Project, server: Server, impatient: None
) -> None:
    with ExitStack() as hanging:
        with pytest.raises(Stopped), live_run.training_run(project.params(), "hung", DATA) as tracked:
            hanging.enter_context(server.hanging())
            begun = time.monotonic()
            for step in range(100):
                tracked.losses(step, {"g_l1": 1.0})
            assert time.monotonic() - begun < 1
            raise Stopped
        assert time.monotonic() - begun < live_run.STOP_S + 2


def test_a_signal_ends_the_opening_of_a_run_on_a_server_that_hangs(
    project: Project, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(number: int, frame: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        begun = time.monotonic()
        try:
            signal.alarm(1)
            with pytest.raises(Stopped), live_run.training_run(project.params(), "hung", DATA):
                raise AssertionError("opened")
        finally:
            signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begun < 1 + live_run.STOP_S + 2


def test_a_failure_while_the_run_is_opened_leaves_no_run_open(
    project: Project, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    project.make("weights", 0.2)
    # MLflow refuses so long a name of a dataset, after it has made the run.
    long = project.params(dataset={"name": "x" * 600})
    with live_run.training_run(long, "f1", DATA) as tracked:
        tracked.finish(digest("weights"))
    assert "training goes on" in caplog.text
    the_run("KILLED")
