"""The team's servers as compose.yaml starts them: PostgreSQL, S3, MLflow, Prefect; and DVC's remote on S3."""

import hashlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import boto3
import pytest
import registry_fixtures
from registry_fixtures import CHAMPION_URI, MODEL_NAME, free_port, kill_group
from team_fixtures import ROOT, Composed, Postgres, composed, environment

from pipeline import delivery, lineage, registry
from pix2pix.errors import UserError
from pix2pix.files import sha256_file

pytest_plugins = ["registry_fixtures", "team_fixtures"]


def bucket(address: str, name: str) -> dict[str, str]:
    """The SHA-256 of everything in a bucket, by its key."""
    client = boto3.client(
        "s3", endpoint_url=address, aws_access_key_id="team", aws_secret_access_key="team-secret"
    )
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=name).get("Contents", [])]
    bodies = {key: client.get_object(Bucket=name, Key=key)["Body"].read() for key in keys}
    return {key: hashlib.sha256(body).hexdigest() for key, body in bodies.items()}


# --- MLflow ------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(
    tmp_path: Path,
    team: dict[str, Composed],
    exported: bytes,  # made while the servers start
    mlflow_server: Composed,
    monkeypatch: pytest.MonkeyPatch,
) -> registry_fixtures.Project:
    """A project that the team's registry does not know, on a machine with no key to S3 and no way there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    # Nor one in a file, nor from the machine itself.
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # The MLflow server calls the store localhost; from here there is nothing but 127.0.0.1.
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PIX2PIX_CACHE", str(tmp_path / "cache"))
    lineage.home.cache_clear()
    return registry_fixtures.Project(tmp_path, exported)


def test_the_registry_works_on_postgresql_with_files_on_s3(
    tiny: registry_fixtures.Project, postgres: Postgres, s3: str, impatient: None
) -> None:
    files = {}
    for weights, kd, alias in (("a", 0.2, "champion"), ("b", 0.1, "champion"), ("c", 0.3, "challenger")):
        tiny.make(weights, kd)
        registered = registry.register(tiny.params(), "# a card")
        assert (registered.alias, registered.created) == (alias, True)
        files[weights] = sha256_file(tiny.model)
    again = registry.register(tiny.params(), "# a card")
    assert (again.version, again.created) == ("3", False)
    # The rows are in PostgreSQL …
    rows = "SELECT alias, version FROM registered_model_aliases WHERE name = '{}' ORDER BY alias"
    assert postgres.sql("mlflow", rows.format(MODEL_NAME)) == ["challenger|3", "champion|2"]
    # … the files in the bucket, and what is pulled is what was registered, though only the server has a key.
    assert set(files.values()) <= set(bucket(s3, "pix2pix-mlflow").values())
    assert sha256_file(delivery.pull(CHAMPION_URI)) == files["b"]
    shutil.rmtree(os.environ["PIX2PIX_CACHE"])
    assert sha256_file(delivery.pull(f"models:/{MODEL_NAME}/1")) == files["a"]

    # A database that is down is never taken for a registry without a champion.
    postgres.stop()
    try:
        tiny.make("d", 0.9)
        for refused in (lambda: registry.register(tiny.params(), "# d"), lambda: delivery.pull(CHAMPION_URI)):
            with pytest.raises(UserError, match="MLflow at http") as caught:
                refused()
            assert "\n" not in str(caught.value)
    finally:
        postgres.start()
    assert sha256_file(delivery.pull(CHAMPION_URI)) == files["b"]
    assert postgres.sql("mlflow", rows.format(MODEL_NAME)) == ["challenger|3", "champion|2"]


@pytest.mark.parametrize(
    ("host", "status"), [("mlflow:5000", 200), ("127.0.0.1:15000", 200), ("elsewhere.example:5000", 403)]
)
def test_mlflow_answers_under_the_names_it_has_here_and_no_other(
    mlflow_server: Composed, host: str, status: int
) -> None:
    # The address that compose.yaml gives the worker is one of them.
    assert composed()["worker"]["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    connection = http.client.HTTPConnection(mlflow_server.url.removeprefix("http://"), timeout=20)
    connection.request("GET", "/api/3.0/mlflow/server-info", headers={"Host": host})
    assert connection.getresponse().status == status
    connection.close()


# --- DVC ---------------------------------------------------------------------------------------------


def test_variables_alone_give_a_repository_the_remote_on_s3(tmp_path: Path, s3: str) -> None:
    folder, data = tmp_path / "repository", b"what a stage made" * 1000
    folder.mkdir()
    team = environment(
        composed()["worker"],
        AWS_ENDPOINT_URL=s3,
        DVC_SYSTEM_CONFIG_DIR=composed()["worker"]["environment"]["DVC_SYSTEM_CONFIG_DIR"].replace(
            "/project", str(ROOT)
        ),
        DVC_SITE_CACHE_DIR=str(tmp_path / "site"),
    )
    alone = {name: value for name, value in team.items() if not name.startswith(("AWS_", "DVC_SYSTEM"))}

    def dvc(*arguments: str, variables: dict[str, str] = team) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )

    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    assert dvc("init", "-q").returncode == 0
    (folder / "made").write_bytes(data)
    assert dvc("add", "-q", "made").returncode == 0
    refused = dvc("push", variables=alone)
    assert refused.returncode != 0
    assert "no remote" in refused.stderr
    pushed = dvc("push")
    assert pushed.returncode == 0, pushed.stderr
    assert hashlib.sha256(data).hexdigest() in bucket(s3, "pix2pix-dvc").values()

    shutil.rmtree(folder / ".dvc" / "cache")
    (folder / "made").unlink()
    pulled = dvc("pull")
    assert pulled.returncode == 0, pulled.stderr
    assert (folder / "made").read_bytes() == data


# --- Prefect -----------------------------------------------------------------------------------------

FLOW = """
    import sys
    from pathlib import Path
    from prefect import flow, get_client, task
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.concurrency.sync import concurrency

    @task
    def double(x: int) -> int:
        return 2 * x

    @flow(name="tiny")
    def tiny() -> int:
        with concurrency("gpu", strict=True, timeout_seconds=30):
            leases = [path for path in Path(sys.argv[1]).glob("*.json") if path.name != "expirations.json"]
            assert len(leases) == 1, leases
            return double(21)

    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="gpu", limit=1))
    assert tiny() == 42
"""


def test_prefect_runs_flows_on_postgresql_and_keeps_its_leases_in_files(
    prefect_server: Composed, postgres: Postgres, tmp_path: Path
) -> None:
    client = {"PREFECT_API_URL": f"{prefect_server.url}/api", "PREFECT_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FLOW), prefect_server.folder / "concurrency_leases"],
        cwd=tmp_path,
        env=environment({"environment": client}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    states = "SELECT flow.name, flow_run.state_type FROM flow_run JOIN flow ON flow.id = flow_run.flow_id"
    assert postgres.sql("prefect", states) == ["tiny|COMPLETED"]
    assert postgres.sql("prefect", "SELECT name, active_slots FROM concurrency_limit_v2") == ["gpu|0"]


def test_the_image_s_health_check_follows_the_worker(prefect_server: Composed, tmp_path: Path) -> None:
    port = str(free_port())
    client = environment(
        {
            "environment": {
                "PREFECT_API_URL": f"{prefect_server.url}/api",
                "PREFECT_HOME": str(tmp_path),
                "PREFECT_WORKER_WEBSERVER_PORT": port,
                "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
            }
        }
    )
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    command: list[str] = json.loads(
        next(line for line in lines if line.startswith("CMD ")).removeprefix("CMD ")
    )

    def healthy(first_process: list[str]) -> bool:
        (tmp_path / "cmdline").write_bytes(b"".join(f"{part}\0".encode() for part in first_process))
        check = [sys.executable, ROOT / "team" / "healthy.py", tmp_path / "cmdline"]
        return subprocess.run(check, env=client, capture_output=True, timeout=60, check=False).returncode == 0

    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            command, cwd=tmp_path, env=client, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        # As Docker starts it, with `init: true` before it.
        first_process = ["/sbin/docker-init", "--", *command]
        end = time.monotonic() + 60
        while not healthy(first_process):
            assert worker.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.5)
    finally:
        kill_group(worker)
    assert not healthy(first_process)
    assert healthy(["dvc", "repro"])
