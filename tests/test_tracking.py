"""The way to the store: one line where there is none; a database that any number of processes may make."""

import errno
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from pipeline import tracking
from pix2pix.errors import UserError

pytest_plugins = ["registry_fixtures"]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("bogus://store", "unsupported URI 'bogus://store'"),
        ("http://[half", "Invalid IPv6 URL"),
        ("{tmp_path}/folder", "maintenance mode"),
        ("sqlite:///{tmp_path}/file/mlflow.db", "file"),
    ],
    ids=["scheme", "address", "file store", "not a folder"],
)
def test_an_address_that_is_no_store_is_one_line(
    uri: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    uri = uri.format(tmp_path=tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError) as caught, tracking.reachable():
        raise AssertionError("reachable")
    line = str(caught.value)
    assert line.startswith(f"MLflow at {uri} cannot be used (")
    assert reason in line
    assert "set MLFLOW_TRACKING_URI to" in line


def test_a_database_that_another_process_holds_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}?timeout=0.2")
    with tracking.reachable() as connected:
        connected.MlflowClient().create_registered_model("before")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        locked = pytest.raises(UserError, match="stayed locked by another process")
        with locked, tracking.reachable() as connected:
            connected.MlflowClient().create_registered_model("meanwhile")
    assert caplog.messages == []
    with tracking.reachable() as connected:
        connected.MlflowClient().create_registered_model("after")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_no_more_is_one_line_in_the_systems_words(store: Path, number: int) -> None:
    """As MLflow's copying of an artifact raises it."""
    with pytest.raises(UserError) as caught, tracking.reachable():
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(
        f"MLflow at sqlite:///{store} cannot be written ({os.strerror(number)})"
    )


def test_a_bug_beside_a_working_store_stays_a_bug(store: Path) -> None:
    with pytest.raises(ZeroDivisionError), tracking.reachable():
        1 / 0  # noqa: B018
    with pytest.raises(mlflow.MlflowException), tracking.reachable() as connected:
        connected.MlflowClient().get_run("0" * 32)


def test_a_password_in_the_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    # It tries ten times, over 100 s.
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://team:s3cret@db.example:5432/mlflow")
    assert tracking.store_name() == "postgresql://team:***@db.example:5432/mlflow"
    with pytest.raises(UserError) as caught, tracking.reachable():
        raise AssertionError("reachable")
    assert "s3cret" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////home/a:b@c/mlflow.db")
    assert tracking.store_name() == "sqlite:////home/a:b@c/mlflow.db"


# --- a database of its own ---------------------------------------------------------------------------

ASKER = """
import sys, time
from contextlib import closing
from pathlib import Path
from pipeline import tracking
import mlflow.store.tracking.sqlalchemy_store
print("ready", flush=True)
sys.stdin.readline()
mlflow = tracking.connect()
mlflow.create_experiment(sys.argv[1])
"""


def asker(name: str, database: Path) -> "subprocess.Popen[str]":
    """A process that has imported everything and makes the experiment `name` when it is told a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", ASKER, name],
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{database}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def tell(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_that_meet_at_a_database_that_is_not_there_all_get_it(tmp_path: Path) -> None:
    """As a training does that begins while `make ui` starts."""
    database = tmp_path / "mlflow.db"
    askers = [asker(f"experiment-{number}", database) for number in range(3)]
    for process in askers:
        tell(process)
    for process in askers:
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said
    found = MlflowClient(f"sqlite:///{database}").search_experiments()
    assert {experiment.name for experiment in found} >= {f"experiment-{number}" for number in range(3)}
    assert list(tmp_path.iterdir()) == [database]


def test_a_database_whose_making_was_killed_is_made_by_the_next_process(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    killed = asker("killed", database)
    tell(killed)
    while not list(tmp_path.glob(".mlflow.db.*/mlflow.db")):
        assert killed.poll() is None
        time.sleep(0.001)
    killed.kill()
    killed.communicate()
    assert not database.exists()
    whole = asker("whole", database)
    tell(whole)
    said = whole.communicate(timeout=120)[1]
    assert whole.returncode == 0, said
