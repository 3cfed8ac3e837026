"""The team's servers on this machine, each with the command and the environment that compose.yaml gives it.

PostgreSQL runs from the installed binaries, S3 is moto's server. Test modules say
`pytest_plugins = ["team_fixtures"]`. PYTEST_DONT_REWRITE: no test in here.
"""

import contextlib
import logging
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from registry_fixtures import free_port, kill_group
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
# A password that would have to be escaped, were it part of an address.
ENV_FILE = {
    "POSTGRES_PASSWORD": "p@ss/w:rd %41",
    "AWS_ACCESS_KEY_ID": "team",
    "AWS_SECRET_ACCESS_KEY": "team-secret",
}


class UnsetVariable(Exception):
    """What `docker compose` refuses: a required variable that is not set or empty."""


def interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    """compose.yaml's values with `${NAME}`, `${NAME:-default}` and `${NAME:?message}` replaced.

    Raises:
        UnsetVariable: a `:?` without a value.
    """
    if isinstance(value, dict):
        return {key: interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, operator, rest = match.group(1, 2, 3)
        if operator == "?" and not variables.get(name):
            raise UnsetVariable(f"{name}: {rest}")
        return variables.get(name) or (rest if operator == "-" else "")

    return re.sub(r"\$\{(\w+)(?::([?-])([^}]*))?\}", replace, value)


def composed(variables: Mapping[str, str] = ENV_FILE) -> dict[str, Any]:
    """The services of compose.yaml under these variables."""
    services: dict[str, Any] = YAML(typ="safe").load((ROOT / "compose.yaml").read_text())["services"]
    return {name: interpolate(service, variables) for name, service in services.items()}


def environment(service: Mapping[str, Any], **extra: str) -> dict[str, str]:
    """This process's variables with those of a service; AWS_*, MLFLOW_* and PREFECT_* come from it alone."""
    prefixes = ("AWS_", "MLFLOW_", "PREFECT_", "PG")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**inherited, "PATH": path, **service["environment"], **extra}


# --- PostgreSQL --------------------------------------------------------------------------------------


def postgres_binaries() -> Path | None:
    """The folder of `initdb` and `postgres`; Debian keeps it off the path, by version."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in folders), key=lambda path: int(path.parts[-2]), default=None)


class Postgres:
    """A PostgreSQL server with the user, password and databases of compose.yaml."""

    def __init__(self, binaries: Path, folder: Path, service: Mapping[str, Any]) -> None:
        self.port = free_port()
        self._binaries, self._folder, self._service = binaries, folder, service
        self._process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root.
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            self._user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            os.chown(folder, entry.pw_uid, entry.pw_gid)

    def create(self) -> None:
        """A new cluster, as the postgres image makes it: the superuser, then databases.sql."""
        password = self._folder / "password"
        password.write_text(self._service["environment"]["POSTGRES_PASSWORD"])
        password.chmod(0o644)
        user = self._service["environment"]["POSTGRES_USER"]
        self._run("initdb", "-D", f"{self._folder}/data", "-U", user, "-A", "scram-sha-256",
                  f"--pwfile={password}", "-E", "UTF8", "--no-sync")  # fmt: skip
        self.start()
        script = next(volume for volume in self._service["volumes"] if "initdb.d" in volume).split(":")[0]
        # Read here: the other user may not enter this folder.
        self.sql("postgres", (ROOT / script).read_text())

    def start(self) -> None:
        """Start it and wait until it answers."""
        # No sync: a test's database need not outlive a power cut.
        options = {"listen_addresses": "127.0.0.1", "fsync": "off", "unix_socket_directories": self._folder}
        command = [self._binaries / "postgres", "-D", self._folder / "data", "-p", str(self.port)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log, **self._user)
        for _ in range(300):
            with contextlib.suppress(subprocess.CalledProcessError):
                self.sql("postgres", "SELECT 1")
                return
            time.sleep(0.1)
        raise RuntimeError(f"no PostgreSQL: {(self._folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """End it at once; connections are cut."""
        if self._process:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=30)
            self._process = None

    def sql(self, database: str, statements: str) -> list[str]:
        """The rows of these statements, over TCP and with the password, as the servers connect."""
        user = self._service["environment"]["POSTGRES_USER"]
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-d", database]
        options = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        return self._run("psql", *address, *options, input=statements).splitlines()

    def _run(self, name: str, *arguments: str, input: str | None = None) -> str:
        password = self._service["environment"]["POSTGRES_PASSWORD"]
        done = subprocess.run(
            [self._binaries / name, *arguments],
            input=input,
            env={**os.environ, "PGPASSWORD": password},
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=True,
            **self._user,
        )
        return done.stdout


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """PostgreSQL as compose.yaml sets it up, or a skip where it is not installed."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # Not below pytest's own folder, which other users may not enter.
    with tempfile.TemporaryDirectory(prefix="pix2pix-postgres-", ignore_cleanup_errors=True) as folder:
        server = Postgres(binaries, Path(folder), composed()["postgres"])
        try:
            server.create()
            yield server
        finally:
            server.stop()


# --- S3 ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3 server in which compose.yaml's service `buckets` has run."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        for _ in range(2):  # as often as `docker compose up` is typed
            make_buckets(address)
        yield address
    finally:
        server.stop()


def make_buckets(address: str) -> None:
    """Run compose.yaml's service `buckets`."""
    service = composed()["buckets"]
    command = [part.replace("/team/", f"{ROOT}/team/") for part in service["command"]]
    subprocess.run(command, env=environment(service, AWS_ENDPOINT_URL=address), check=True)


# --- MLflow and Prefect ------------------------------------------------------------------------------


@dataclass
class Composed:
    """A server of compose.yaml, at a port of this machine's loopback."""

    folder: Path
    command: list[str]
    variables: dict[str, str]
    url: str
    health: str
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it; `wait` until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it is healthy."""
        for _ in range(1200):
            with contextlib.suppress(OSError), urllib.request.urlopen(self.url + self.health, timeout=5):
                return
            if self.process is None or self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"{self.command[0]}: {(self.folder / 'log').read_text()[-3000:]}")

    def kill(self) -> None:
        """End it and all its children at once."""
        if self.process:
            kill_group(self.process)
            self.process = None


def server(name: str, folder: Path, postgres: Postgres, **extra: str) -> Composed:
    """The service `name` with its own command, on a free port and using this PostgreSQL; not yet started."""
    service, port = composed()[name], free_port()
    # The health check of compose.yaml is Python too; what it asks is what counts.
    health = re.search(r"127\.0\.0\.1:\d+(/[\w/]+)", service["healthcheck"]["test"][-1])
    assert health

    def here(text: str) -> str:
        return text.replace("@postgres/", f"@127.0.0.1:{postgres.port}/")

    listening = {"--host=0.0.0.0": "--host=127.0.0.1"}
    command = [listening.get(part, here(part)) for part in service["command"]]
    command = [re.sub(r"^--port=\d+$", f"--port={port}", part) for part in command]
    variables = {key: here(value) for key, value in environment(service, **extra).items()}
    return Composed(folder, command, variables, f"http://127.0.0.1:{port}", health[1])


@pytest.fixture(scope="session")
def team(
    postgres: Postgres, s3: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Composed]]:
    """MLflow and Prefect: started together, since each takes a while to answer."""
    # Under a name that a test can keep its clients from using, as a team's clients do not know `s3`.
    files = {"AWS_ENDPOINT_URL": s3.replace("127.0.0.1", "localhost")}
    started = {"mlflow": server("mlflow", tmp_path_factory.mktemp("mlflow"), postgres, **files)}
    folder = tmp_path_factory.mktemp("prefect")
    started["prefect"] = server("prefect", folder, postgres, PREFECT_HOME=str(folder))
    try:
        for one in started.values():
            one.start()
        yield started
    finally:
        for one in started.values():
            one.kill()


@pytest.fixture(scope="session")
def mlflow_server(team: dict[str, Composed]) -> Composed:
    """MLflow on PostgreSQL, with proxied artifacts on S3."""
    team["mlflow"].wait()
    return team["mlflow"]


@pytest.fixture(scope="session")
def prefect_server(team: dict[str, Composed]) -> Composed:
    """Prefect's server on PostgreSQL."""
    team["prefect"].wait()
    return team["prefect"]
