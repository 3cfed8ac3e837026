"""A small project folder with real files, a real MLflow database and a real MLflow server.

Test modules say `pytest_plugins = ["registry_fixtures"]`. PYTEST_DONT_REWRITE: no test in here.
"""

import contextlib
import csv
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from mlflow import MlflowClient

from pipeline import lineage, registry, tracking
from pipeline.registry import Registered
from pix2pix import images
from pix2pix.files import sha256_file, sha256_json, write_json, write_text
from pix2pix.images import Pixels
from pix2pix.params import Params, read_yaml, validate

ROOT = Path(__file__).parents[1]
LOSSES = {50: 0.5, 100: 0.25, 150: 0.125}
VALIDATION = {100: 0.09, 150: 0.08}
MODEL_NAME = "tiny"
CHAMPION_URI = f"models:/{MODEL_NAME}@champion"


def digest(text: str) -> str:
    """A SHA-256 that stands for weights or pairs of this name."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Project:
    """A project folder after all stages but the last, with a generator of 75 KB."""

    folder: Path
    exported: bytes

    def params(self, **sections: dict[str, Any]) -> Params:
        """The committed parameters, with a gate that does not move with theirs, and some keys changed."""
        values: Any = read_yaml(ROOT / "params.yaml")
        values["registry"] |= {"model_name": MODEL_NAME, "min_improvement": 0.1}
        for section, keys in sections.items():
            values[section] |= keys
        return validate(values, "params.yaml")

    def metrics(self, weights: str, kd: float, split: str = "test pairs") -> dict[str, Any]:
        """metrics.json of these weights."""
        return {
            "images": 12,
            "split_sha256": digest(split),
            "weights_sha256": digest(weights),
            "features": {"name": "efficientnet-lite0", "weights_sha256": digest("extractor")},
            "model": {
                "l1": 0.1125,
                "psnr_db": 17.25,
                "ssim": 0.625,
                "fd_efficientnet_lite0": 131.5,
                "kd_efficientnet_lite0": kd,
                "kd_efficientnet_lite0_std": 0.0061,
            },
            "input_as_output": {
                "l1": 0.4625,
                "psnr_db": 5.75,
                "ssim": 0.0675,
                "fd_efficientnet_lite0": 331.5,
                "kd_efficientnet_lite0": 0.7295,
                "kd_efficientnet_lite0_std": 0.0161,
            },
            "floor": {
                "fd_efficientnet_lite0": 27.75,
                "kd_efficientnet_lite0": 0.0185,
                "kd_efficientnet_lite0_std": 0.0051,
            },
        }

    def data(self) -> dict[str, Any]:
        """data.json."""
        splits = {"train": 24, "val": 2, "test": 12}
        return {
            "dataset": "embedded",
            "direction": "BtoA",
            "split_rule": "the data's own train, val and test",
            "image_px": 32,
            "resize_input": "nearest",
            "splits": {
                name: {"pairs": pairs, "sha256": digest(f"{name} pairs")} for name, pairs in splits.items()
            },
        }

    def make(
        self, weights: str, kd: float, split: str = "test pairs", *, imported: bool = False
    ) -> dict[str, Any]:
        """Write what the stages before `register` write for these weights; return metrics.json."""
        reports, metrics = self.folder / "reports", self.metrics(weights, kd, split)
        model = onnx.load_from_string(self.exported)
        model.metadata_props.add(key="weights_sha256", value=digest(weights))
        self.model.parent.mkdir(exist_ok=True)
        self.model.write_bytes(model.SerializeToString(deterministic=True))
        export = {
            "onnx_sha256": sha256_file(self.model),
            "opset": 20,
            "multiple": 32,
            "metadata": {
                "dataset": "embedded",
                "direction": "BtoA",
                "weights_sha256": digest(weights),
                **self.origin(imported),
            },
        }
        write_json(reports / "metrics.json", metrics)
        write_json(reports / "data.json", self.data())
        write_json(reports / "export.json", export)
        write_text(reports / "model_card.md", "# tiny\n")
        write_text(reports / "per_image.csv", "name,l1,psnr_db,ssim\na,0.1,17,0.6\n")
        losses = [[step, 1, 0.75, l1, 0.5, 0.5, 0.0002] for step, l1 in LOSSES.items()]
        columns = ["step", "epoch", "g_adversarial", "g_l1", "d_real", "d_fake", "lr"]
        _write_csv(reports / "losses.csv", columns, losses)
        _write_csv(
            reports / "validation.csv",
            ["step", "epoch", "l1"],
            [[step, step // 50, l1] for step, l1 in VALIDATION.items()],
        )
        picture = np.full((8, 8, 3), 200, np.uint8)
        (reports / "samples").mkdir(exist_ok=True)
        test_inputs = self.folder / "data" / "pairs" / "test" / "input"
        test_inputs.mkdir(parents=True, exist_ok=True)
        for name in ("test_grid.png", "worst.png", "data.png", "samples/epoch-0002.png"):
            images.write_png(reports / name, picture)
        images.write_png(test_inputs / "a.png", noise(32, 32))
        return metrics

    def origin(self, imported: bool = False) -> dict[str, str]:
        """What a generator's metadata says of where its weights come from."""
        if imported:
            unknown = dict.fromkeys(("params_sha256", "data_sha256", "code_sha256"), "")
            return {**unknown, "imported_sha256": digest("latest_net_G.pth")}
        recipe = self.params().model_dump(mode="json", include={"model", "train"})
        return {
            "params_sha256": sha256_json(recipe),
            "data_sha256": digest("train pairs"),
            "code_sha256": digest("code"),
            "imported_sha256": "",
        }

    @property
    def model(self) -> Path:
        """The exported generator."""
        return self.folder / "models" / "generator.onnx"


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    """A picture that no resampling or cropping maps to itself."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def run_onnx(model: Path, batch: Pixels) -> Pixels:
    """The file's own answer: uint8 [batch, height, width, 3]."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    translated: Pixels = session.run(["translated"], {"image": batch})[0]
    return translated


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Server:
    """A real MLflow server in a process group of its own, started when needed, also after it was killed."""

    def __init__(self, folder: Path, empty_database: Path) -> None:
        self.uri = ""
        self.database = folder / "mlflow.db"
        self._folder, self._empty_database = folder, empty_database
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make sure that it answers."""
        if self._process:
            return
        shutil.copyfile(self._empty_database, self.database)
        self.uri = f"http://127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", self.uri.rpartition(":")[2], "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(1200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"no MLflow server: {(self._folder / 'log').read_text()[-2000:]}")

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Meanwhile it takes connections and answers none."""
        assert self._process
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it and all its children at once, as a power cut would."""
        if self._process:
            kill_group(self._process)
            self._process = None


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process that leads its group, and the group, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- fixtures ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def exported() -> bytes:
    """A real export of the smallest generator: 2 channels, 5 levels, so multiples of 32."""
    import tempfile

    import torch

    from pix2pix import onnx_export
    from pix2pix.generator import Generator

    torch.manual_seed(1)
    generator = Generator(levels=5, channels=2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generator.onnx"
        metadata = {"multiple": str(generator.multiple), "dataset": "embedded", "direction": "BtoA"}
        onnx_export.export(path, generator, in_channels=3, opset=20, metadata=metadata)
        return path.read_bytes()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with all tables, made once since its migrations take seconds."""

    database = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def project(tmp_path: Path, exported: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """An empty project folder, which is the current one, with a cache of its own."""
    folder = tmp_path / "my pröject"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PIX2PIX_CACHE", str(tmp_path / "cache"))
    lineage.home.cache_clear()
    yield Project(folder, exported)
    lineage.home.cache_clear()


@pytest.fixture
def store(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty MLflow database that MLFLOW_TRACKING_URI names."""
    database = tmp_path / "mlflow.db"
    shutil.copyfile(empty_database, database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    return database


@pytest.fixture(scope="session")
def registered_once(tmp_path_factory: pytest.TempPathFactory, exported: bytes, empty_database: Path) -> Path:
    """A database in which the generator `a`, of distance 0.2, is version 1 and champion."""
    from pipeline import registry

    folder = tmp_path_factory.mktemp("registered")
    shutil.copyfile(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.chdir(folder)
        once = Project(folder, exported)
        once.make("a", 0.2)
        registry.register(once.params(), "# a card")
    return folder / "mlflow.db"


@pytest.fixture
def champion(project: Project, store: Path, registered_once: Path) -> Project:
    """A project whose generator `a` is version 1 and champion in a store of its own.

    The artifacts are those of all tests that use this: to be read only.
    """
    project.make("a", 0.2)
    shutil.copyfile(registered_once, store)
    return project


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), empty_database)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A real server with proxied artifacts that MLFLOW_TRACKING_URI names: shared, its registry empty."""
    _server.start()
    client = MlflowClient(_server.uri, _server.uri)
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", _server.uri)
    return _server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries as the project sets them, without MLflow's pauses between them."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")


@pytest.fixture
def no_server(impatient: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLFLOW_TRACKING_URI names a port on which nothing listens."""
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


# --- what is in the store ----------------------------------------------------------------------------


def register(project: Project, card: str = "# a card") -> Registered:
    return registry.register(project.params(), card)


def client() -> MlflowClient:
    return MlflowClient(tracking.store_uri(), tracking.store_uri())


def aliases() -> dict[str, str]:
    return {name: str(v) for name, v in client().get_registered_model(MODEL_NAME).aliases.items()}


def versions() -> list[str]:
    return sorted(str(version.version) for version in client().search_model_versions())


def runs() -> list[Any]:
    ids = [experiment.experiment_id for experiment in client().search_experiments()]
    return list(client().search_runs(ids))
