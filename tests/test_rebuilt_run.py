"""A run that the store lacks, made from the files. What it holds then is held in test_registry."""

import threading
from pathlib import Path

from mlflow import MlflowClient
from registry_fixtures import Project, digest

from pipeline import rebuilt_run, tracking

pytest_plugins = ["registry_fixtures"]


def test_a_run_is_rebuilt_beside_a_sample_that_a_kill_left_half_written(
    project: Project, store: Path
) -> None:
    project.make("weights", 0.2)
    (project.folder / "reports" / "samples" / ".epoch-0004.png.abcd1234.png").write_bytes(b"torn")
    data = {"splits": {"train": {"sha256": digest("train pairs")}}}
    with tracking.reachable() as connected:
        run = rebuilt_run.run_of(connected, project.params(), digest("weights"), data)
    pictures = MlflowClient(tracking.store_uri()).list_artifacts(run, "images")
    assert {file.path.split("+")[2] for file in pictures} == {"2"}
    assert "SystemMetricsMonitor" not in {thread.name for thread in threading.enumerate()}
