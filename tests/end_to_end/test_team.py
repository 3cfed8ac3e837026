"""The team's servers as compose.yaml starts them: PostgreSQL, S3, MLflow, Prefect; and DVC's remote on S3."""

import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
import registry_fixtures
from registry_fixtures import CHAMPION_URI, MODEL_NAME, free_port, kill_group
from team_fixtures import ROOT, Composed, Postgres, composed, environment

from pipeline import delivery, gate, lineage, registry
from pix2pix import params
from pix2pix.errors import UserError
from pix2pix.files import sha256_file

from .conftest import checkout, wait_for, write_data

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


MODEL = "retrained"


class Worker:
    """A checkout with the team's variables, and the worker that compose.yaml runs in it."""

    def __init__(self, folder: Path, mlflow_server: Composed, prefect_server: Composed, s3: str) -> None:
        write_data(folder / "data")
        self.project = checkout(folder / "project", folder / "data")
        # The registry is shared with the other tests of the team.
        self.project.set(registry={"model_name": MODEL})
        self.project.run("git", "commit", "-q", "-a", "-m", "a name of its own")
        service = composed()["worker"]
        self.variables = self.project.environment(
            **environment(
                service,
                AWS_ENDPOINT_URL=s3,
                MLFLOW_TRACKING_URI=mlflow_server.url,
                PREFECT_API_URL=f"{prefect_server.url}/api",
                PREFECT_HOME=str(folder / "prefect"),
                DVC_SYSTEM_CONFIG_DIR=service["environment"]["DVC_SYSTEM_CONFIG_DIR"].replace(
                    "/project", str(self.project.root)
                ),
                DVC_SITE_CACHE_DIR=str(folder / "site"),
            )
        )
        self.log = folder / "worker.log"

    def prefect(self, *arguments: str) -> str:
        """A command as docs/team.md types it."""
        command = (sys.executable, "-m", "prefect", "--no-prompt", *arguments)
        return self.project.run(*command, **self.variables).stdout

    def start(self) -> "subprocess.Popen[bytes]":
        """The worker's process, from the image's own command."""
        with self.log.open("wb") as log:
            return subprocess.Popen(
                image_command(),
                cwd=self.project.root,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def retrain(self, **overrides: Any) -> str:
        """A run of a deployment, watched to its end; the name of its last state."""
        parameters = json.dumps({"preset": None, "overrides": overrides})
        said = self.prefect("deployment", "run", "retrain/quickstart", "--params", parameters, "--watch")
        found = re.search(r"finished successfully in '(\w+)'", said)
        assert found, f"{said}\n{self.log.read_text()}"
        return found[1]


def image_command() -> list[str]:
    """What the image runs by default."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("CMD ")]
    command: list[str] = json.loads(line.removeprefix("CMD "))
    return command


def test_a_worker_retrains_and_the_gate_decides_on_postgresql_and_s3(
    mlflow_server: Composed, prefect_server: Composed, postgres: Postgres, s3: str, tmp_path: Path
) -> None:
    team = Worker(tmp_path, mlflow_server, prefect_server, s3)
    worker = team.start()
    try:
        # The worker makes the pool that the deployments are for.
        wait_for(lambda: "started" in team.log.read_text() or worker.poll() is not None, 60)
        team.prefect("gcl", "create", "gpu", "--limit", "1")
        team.project.run(sys.executable, "-m", "pipeline.deployments", **team.variables)
        assert team.retrain() == "Completed"
        assert postgres.sql("mlflow", ALIASES) == ["champion|1"]
        # The gate on two measurements from PostgreSQL, and what became of its decision there.
        assert team.retrain(**{"train.epochs": 4}) == "Completed"
    finally:
        kill_group(worker)
    first, second = version_tags(postgres, "1"), version_tags(postgres, "2")
    assert first["decision_kind"] == "first"
    policy = gate.Policy.of(params.load(team.project.root / "params.yaml").registry)
    tip = team.project.run("git", "rev-parse", "retrain/quickstart").stdout.strip()
    measured = team.project.run("git", "show", f"{tip}:reports/metrics.json").stdout
    decided = gate.decide(json.loads(measured), json.loads(first["metrics"]), policy)
    assert (second["decision_kind"], second["decision"]) == (decided.kind, decided.reason)
    assert ("champion|2" in postgres.sql("mlflow", ALIASES)) == decided.promote
    # The commit that the version names is here, and what DVC keeps for it is in the team's remote.
    assert second["retrain_commit"] == tip
    assert second["onnx_sha256"] in bucket(s3, "pix2pix-dvc").values()
    # Prefect has all of it in PostgreSQL, and who held the slot was kept in files.
    assert postgres.sql("prefect", "SELECT state_type FROM flow_run") == ["COMPLETED"] * 2
    assert postgres.sql("prefect", "SELECT active_slots FROM concurrency_limit_v2 WHERE name = 'gpu'") == [
        "0"
    ]
    assert (prefect_server.folder / "concurrency_leases" / "expirations.json").exists()


ALIASES = f"SELECT alias, version FROM registered_model_aliases WHERE name = '{MODEL}' AND alias = 'champion'"


def version_tags(postgres: Postgres, version: str) -> dict[str, str]:
    rows = postgres.sql(
        "mlflow", f"SELECT key, value FROM model_version_tags WHERE name = '{MODEL}' AND version = {version}"
    )
    return {key: value for key, _, value in (row.partition("|") for row in rows)}


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
    command = image_command()

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
