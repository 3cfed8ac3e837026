"""What `make servers` starts, each process on its own so that its plug can be pulled; and the pulling.

Test modules say `pytest_plugins = ["end_to_end.retrain_fixtures"]`. PYTEST_DONT_REWRITE: no test in here.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import mlflow
import psutil
import pytest
import requests
from honcho.environ import parse_procfile
from registry_fixtures import free_port
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from .conftest import STAGES, Project, checkout, wait_for, write_data

# Long enough to be killed in, short enough to be finished.
LONG = {"train.epochs": 40, "train.validate_every": 40, "run.checkpoint_every_epochs": 1}
DONE = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
# Where other tests share the cores twice what is promised is waited for; `make chaos` runs alone.
_PATIENCE = 2 if "PYTEST_XDIST_WORKER" in os.environ else 1
CANCELLED_S = 15 * _PATIENCE
ENDED_S = 90 * _PATIENCE
# As `shared` in prefect.yaml, but for the strategy.
REFUSING = """
  - name: Refusing_v1.0
    <<: *shared
    concurrency_limit: {limit: 1, collision_strategy: CANCEL_NEW}
"""


class Servers:
    """A project with its MLflow server, Prefect server and worker.

    And with a mirror of published sets, and a chat that is told of failures.
    """

    def __init__(self, project: Project, mirror: "Mirror", chat: "Chat") -> None:
        self.project = project
        self.mirror, self.chat = mirror, chat
        self.store, self.api = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}/api"
        self.mlflow = mlflow.MlflowClient(self.store, self.store)
        self.variables = {
            "MLFLOW_PORT": self.store.rpartition(":")[2],
            "PREFECT_PORT": self.api.removesuffix("/api").rpartition(":")[2],
            "MLFLOW_TRACKING_URI": self.store,
            "PREFECT_API_URL": self.api,
            "MLFLOW_ARTIFACTS": (project.root / "mlartifacts").as_uri(),
            "PREFECT_HOME": str(project.root / ".prefect"),
            "DO_NOT_TRACK": "true",
            # A server that is down is asked as often as always, but without MLflow's minutes in between.
            "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
            "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
            "PIX2PIX_MIRROR": f"http://127.0.0.1:{mirror.server_port}",
            "PIX2PIX_WEBHOOK": f"http://127.0.0.1:{chat.server_port}/secret",
            # The official addresses are out of reach, on any machine alike.
            **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"),
            "no_proxy": "127.0.0.1,localhost",
        }
        self._commands = parse_procfile((project.root / "Procfile").read_text()).processes
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # How long its log was when a process began.
        self._begun: dict[str, int] = {}

    # --- the processes of the Procfile ---

    def start(self, *names: str) -> None:
        """Start processes of the Procfile, or all of them, and wait until they are at work."""
        for name in names or self._commands:
            with self._log(name).open("ab") as log:
                self._begun[name] = log.tell()
                self._running[name] = subprocess.Popen(
                    self._commands[name],
                    shell=True,
                    cwd=self.project.root,
                    env=self.project.environment(**self.variables),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        for name in names or self._commands:
            wait_for(lambda name=name: self._is_at_work(name), 240, every=0.2)

    def _is_at_work(self, name: str) -> bool:
        said = self.printed(name, self._begun[name])
        assert self._running[name].poll() is None, said
        if name == "worker":
            return "Worker 'here' started" in said
        address = f"{self.store if name == 'mlflow' else self.api}/health"
        with suppress(requests.ConnectionError):
            return requests.get(address, timeout=5).ok
        return False

    def printed(self, name: str, since: int = 0) -> str:
        """What a process has printed; the worker also passes on what its runs say."""
        return self._log(name).read_bytes()[since:].decode()

    def _log(self, name: str) -> Path:
        return self.project.root.parent / f"{name}.log"

    def end(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a server with its children, or the worker alone: its runs are not its own."""
        process = self._running.pop(name)
        if name == "worker":
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            # A worker that lost its server may hang in Prefect's own shutdown; honcho's test is about that.
            process.kill()
            process.wait(60)

    def end_all(self) -> None:
        for name in ("worker", "prefect", "mlflow"):
            if name in self._running:
                self.end(name, signal.SIGTERM)

    def everything(self) -> list[psutil.Process]:
        """All processes that work in this project: servers, worker, flows, stages."""
        return _at_work_in(self.project.root)

    # --- Prefect ---

    def post(self, path: str, **body: Any) -> Any:
        return self._ask("POST", path, json=body)

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        with requests.Session() as session:
            # While SQLite is busy the server answers 503, and Prefect's own clients ask again too.
            patient = Retry(total=8, backoff_factor=0.3, status_forcelist=[503], allowed_methods=None)
            session.mount("http://", HTTPAdapter(max_retries=patient))
            answer = session.request(method, f"{self.api}{path}", timeout=30, **arguments)
            answer.raise_for_status()
            return answer.json()

    def begin(self, deployment: str = "quickstart", **parameters: Any) -> str:
        """Ask for a run of a deployment, on the project's own parameters; its id."""
        found = self.get(f"/deployments/name/retrain/{deployment}")["id"]
        parameters = {"preset": None, **parameters}
        return str(self.post(f"/deployments/{found}/create_flow_run", parameters=parameters)["id"])

    def ended(self, run: str, seconds: float = 600) -> dict[str, Any]:
        """The run's final state."""
        wait_for(lambda: self.get(f"/flow_runs/{run}")["state_type"] in DONE, seconds, every=0.5)
        return dict(self.get(f"/flow_runs/{run}")["state"])

    def said(self, run: str) -> str:
        time.sleep(3)  # Logs are sent every other second.
        logs = self.post("/logs/filter", logs={"flow_run_id": {"any_": [run]}}, limit=200)
        return "\n".join(line["message"] for line in logs)

    def tasks(self, run: str) -> dict[str, tuple[str, str | None]]:
        found = self.post("/task_runs/filter", task_runs={"flow_run_id": {"any_": [run]}})
        return {
            # Between two tries the server tells the state's name alone.
            item["name"].rpartition("-")[0]: (item["state_name"], (item["state"] or {}).get("message"))
            for item in found
        }

    def artifacts(self, run: str) -> dict[str, Any]:
        found = self.post("/artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
        return {item["key"]: item for item in found}

    def slots_taken(self) -> float:
        return float(self.get("/v2/concurrency_limits/gpu")["active_slots"])

    # --- MLflow ---

    def versions(self) -> list[Any]:
        return sorted(
            self.mlflow.search_model_versions("name='tiny'"), key=lambda version: int(version.version)
        )

    def champion(self) -> str:
        return str(self.mlflow.get_model_version_by_alias("tiny", "champion").version)

    def runs(self) -> list[Any]:
        experiment = self.mlflow.get_experiment_by_name("tiny")
        return self.mlflow.search_runs([experiment.experiment_id]) if experiment else []

    def unfinished_runs(self) -> list[Any]:
        return [run for run in self.runs() if run.info.status == "RUNNING"]

    # --- a run's own processes ---

    def processes(self, run: str, what: str = "") -> list[psutil.Process]:
        """The processes that work in the run's worktree, its dvc and its stages."""
        return _at_work_in(self.worktree(run), what)

    def worktree(self, run: str) -> Path:
        return self.project.root / ".retrain" / run

    def worktrees(self) -> list[str]:
        return [path.name for path in (self.project.root / ".retrain").iterdir() if path.is_dir()]

    def trainer(self, run: str) -> psutil.Process:
        """The run's trainer, once it has something to go on from."""
        return self.stage(run, "train")

    def stage(self, run: str, name: str) -> psutil.Process:
        """The process of a stage, in the midst of its work."""

        def at_work() -> psutil.Process | None:
            found = (process for process in self.processes(run, f"stages.{name}"))
            return next((process for process in found if self._is_in_the_midst(process, name)), None)

        # Looking at every process costs the stages their time; some are done before one looks twice.
        found = wait_for(at_work, 300, every=0.2 if name in ("train", "evaluate", "export") else 0.02)
        assert isinstance(found, psutil.Process)
        return found

    def _is_in_the_midst(self, process: psutil.Process, stage: str) -> bool:
        match stage:
            case "fetch" | "prepare":
                # With so few pairs they are done as soon as they have begun.
                return True
            case "train":
                # Not the checkpoints of an earlier training.
                checkpoints = (self.project.root / ".checkpoints").glob("*/checkpoint.pt")
                return any(file.stat().st_mtime > process.create_time() for file in checkpoints)
            case "register":
                # The version's files are being sent: until they are, its run is open again.
                return bool(self.unfinished_runs())
            case _:
                return process.cpu_times().user > 1

    def flow_process(self, run: str) -> psutil.Process:
        """The trainer's grandparent: between them is dvc."""
        return _above(_above(self.trainer(run)))

    def nothing_is_left(self, run: str) -> bool:
        return not self.processes(run) and self.slots_taken() == 0

    # --- what a run leaves ---

    def onnx_sha256(self, deployment: str = "quickstart") -> str:
        """The generator that the deployment's last commit describes."""
        shown = self.project.run("git", "show", f"retrain/{deployment}:reports/export.json")
        return str(json.loads(shown.stdout)["onnx_sha256"])


def _above(process: psutil.Process) -> psutil.Process:
    parent = process.parent()
    assert parent
    return parent


def _at_work_in(folder: Path, what: str = "") -> list[psutil.Process]:
    found, folder = [], folder.resolve()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if (
                what in " ".join(process.cmdline())
                and Path(process.cwd()).is_relative_to(folder)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


# --- plugs -------------------------------------------------------------------------------------------


def pull(servers: Servers, run: str, plug: str, stage: str) -> None:
    """SIGKILL the worker, the flow, dvc or the stage itself while this stage is at work."""
    process = servers.stage(run, stage)
    # It must not be done before the plug is pulled.
    process.suspend()
    dvc = _above(process)
    flow = _above(dvc)
    assert "worker start" in " ".join(_above(flow).cmdline())
    if plug == "worker":
        servers.end("worker")
    else:
        {"stage": process, "dvc": dvc, "flow": flow}[plug].kill()
    with suppress(psutil.NoSuchProcess):
        process.resume()


def cancelled(servers: Servers, overrides: dict[str, Any]) -> None:
    """A run that is cancelled while it trains: it ends in time, and all that it had is free again."""
    run = servers.begin(overrides=overrides)
    servers.trainer(run)
    assert servers.slots_taken() == 1
    flow = servers.flow_process(run)
    # The command itself takes seconds to start.
    servers.post(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING"})
    wait_for(lambda: not servers.processes(run) and not flow.is_running(), CANCELLED_S, every=0.2)
    assert servers.ended(run)["type"] == "CANCELLED"
    wait_for(lambda: servers.nothing_is_left(run), 30, every=0.2)
    assert not (servers.project.root / ".retrain" / run).exists()


def ends_crashed(servers: Servers, run: str, plug: str, stage: str) -> None:
    """What is promised of a run whose plug was pulled."""
    wait_for(lambda: not servers.processes(run), ENDED_S, every=0.5)
    ended = servers.ended(run, ENDED_S)
    assert ended["type"] == "CRASHED", (plug, stage, ended)
    if plug in ("stage", "dvc"):
        who = "" if plug == "stage" else "dvc was "
        assert ended["message"] == f"{stage}: {who}ended by SIGKILL"
        # The flow itself lived on to clear up.
        assert run not in servers.worktrees()
    # Nobody gives a killed flow's slot back: it is free when its lease has run out.
    wait_for(lambda: servers.slots_taken() == 0, ENDED_S, every=0.5)
    assert not servers.unfinished_runs(), (plug, stage)
    if plug == "worker":
        servers.start("worker")


def disturbed(servers: Servers, overrides: dict[str, Any], plugs: Sequence[tuple[str, str]]) -> str:
    """A run for each plug (what, stage), which is pulled, and one to the end, whose id is returned.

    Each goes on where the one before was ended.
    """
    trained, killed = 0, []
    for plug, stage in plugs:
        run = servers.begin(overrides=overrides)
        killed.append(run)
        pull(servers, run, plug, stage)
        ends_crashed(servers, run, plug, stage)
        if stage == "train":
            trained = len(servers.printed("worker").encode())
    last = servers.begin(overrides=overrides)
    ended = servers.ended(last)
    assert ended["type"] == "COMPLETED", ended
    # A flow that is killed takes its last lines along; the worker has them.
    assert "going on from the checkpoint at step" in servers.printed("worker", trained)
    assert servers.worktrees() == []
    assert servers.nothing_is_left(last)
    assert "Running" not in {name for run in killed for name, _ in servers.tasks(run).values()}
    assert all(run.info.status in ("FINISHED", "KILLED") for run in servers.runs())
    return last


def undisturbed(servers: Servers, overrides: dict[str, Any]) -> str:
    """The ONNX file's digest of a run that restores nothing and that nobody disturbs."""
    run = servers.begin(overrides=overrides, force=True)
    ended = servers.ended(run)
    assert ended["type"] == "COMPLETED", ended
    assert servers.tasks(run) == {stage: ("Completed", "done") for stage in STAGES}
    assert "going on from the checkpoint" not in servers.said(run)
    return servers.onnx_sha256()


# --- the mirror --------------------------------------------------------------------------------------


class Mirror(ThreadingHTTPServer):
    """Answers as `refusals` say, one request each, and then with an archive of combined pairs."""

    def __init__(self, archive: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.archive = archive
        self.refusals: list[int] = []
        self.asked: list[int] = []


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        mirror = self.server
        assert isinstance(mirror, Mirror)
        etag = f'"{hashlib.sha256(mirror.archive).hexdigest()}"'
        status = 304 if self.headers["If-None-Match"] == etag else 200
        status = mirror.refusals.pop(0) if mirror.refusals else status
        mirror.asked.append(status)
        self.send_response(status)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(mirror.archive) if status == 200 else 0))
        self.end_headers()
        if status == 200:
            self.wfile.write(mirror.archive)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a failing test should show its own lines."""


class Chat(ThreadingHTTPServer):
    """Takes messages as chats do."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Inbox)
        self.told: list[str] = []


class _Inbox(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Chat)
        assert self.headers["Content-Type"] == "application/json"
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert list(message) == ["text"]
        self.server.told.append(message["text"])
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a failing test should show its own lines."""


# --- fixtures ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The Procfile's processes, on other ports, in a project of tiny parameters."""
    folder = tmp_path_factory.mktemp("retrain")
    write_data(folder / "data")
    project = checkout(folder / "project", folder / "data")
    shutil.make_archive(str(folder / "facades"), "gztar", folder / "data")
    mirror, chat = Mirror((folder / "facades.tar.gz").read_bytes()), Chat()
    for server in (mirror, chat):
        Thread(target=server.serve_forever, daemon=True).start()
    servers = Servers(project, mirror, chat)
    # A user's other ports are in the project's file; no variable names them in the tests' commands.
    # Stages of tiny pairs would be done before they say how far they are.
    console = project.root / "stages" / "console.py"
    console.write_text(console.read_text().replace("LINE_EVERY_S = ", "LINE_EVERY_S = 0.02 * "))
    settings = project.root / "prefect.toml"
    settings.write_text(settings.read_text().replace("http://127.0.0.1:4200/api", servers.api))
    with (project.root / "prefect.yaml").open("a") as deployments:
        deployments.write(REFUSING)
    project.run("git", "commit", "-q", "-a", "-m", "other ports, more lines")
    try:
        servers.start()
        yield servers
    finally:
        mirror.shutdown()
        chat.shutdown()
        servers.end_all()
        _, alive = psutil.wait_procs(servers.everything(), 60)
        for process in alive:
            process.kill()
        assert not alive, f"left behind: {alive}"
