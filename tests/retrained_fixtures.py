"""A project of four quick stages with the commits of scheduled runs: real git, DVC and MLflow.

Test modules name it in `pytest_plugins`, after registry_fixtures. PYTEST_DONT_REWRITE: no test in here.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from registry_fixtures import MODEL_NAME

from pipeline import lineage, retrain_branch, tracking, workspace
from pipeline.commits import COMMIT_TAG
from pix2pix.files import sha256_file

PROJECT = Path(__file__).parents[1]
STAGES = """
stages:
  fetch:
    cmd: mkdir -p data && cp "${dataset.source}" data/raw
    deps: ["${dataset.source}"]
    outs: [data/raw]
  prepare:
    cmd: exec python prepare.py
    deps: [data/raw, prepare.py]
    outs: [data/pairs]
    plots: [reports/data.json: {cache: false}]
  train:
    cmd: exec python train.py
    deps: [data/pairs, train.py]
    params: [train]
    outs: [models/generator.safetensors]
  export:
    cmd: exec python export.py
    deps: [models/generator.safetensors, export.py]
    outs: [models/generator.onnx]
    plots: [reports/export.json: {cache: false}]
"""
SCRIPTS = {
    "prepare.py": """
import hashlib, json, pathlib
raw = pathlib.Path("data/raw").read_bytes()
pathlib.Path("data/pairs").write_bytes(raw)
digest = hashlib.sha256(raw).hexdigest()
pathlib.Path("reports/data.json").write_text(json.dumps({"splits": {"train": {"sha256": digest}}}))
""",
    # A megabyte of its own for each seed and data. What the variable says is as another CPU: no dependency.
    "train.py": """
import os, pathlib, sys, time
from ruamel.yaml import YAML
values = YAML(typ="safe").load(pathlib.Path("params.yaml"))
sys.exit("error: tracked") if values["run"]["tracking"] and "REPRODUCING" in os.environ else None
text = pathlib.Path("data/pairs").read_text() + str(values["train"]["seed"]) + os.environ.get("OTHER_CPU", "")
print("train: 1/2 steps, 1 s left", flush=True)
while "SLOWLY" in os.environ:
    time.sleep(0.1)
pathlib.Path("models").mkdir(exist_ok=True)
pathlib.Path("models/generator.safetensors").write_text((text * 1_000_000)[:1_000_000])
""",
    "export.py": """
import hashlib, json, pathlib
weights = pathlib.Path("models/generator.safetensors").read_bytes()
pathlib.Path("models/generator.onnx").write_bytes(b"onnx" + weights)
digest = hashlib.sha256(b"onnx" + weights).hexdigest()
pathlib.Path("reports/export.json").write_text(json.dumps({"onnx_sha256": digest}))
""",
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@dataclass(frozen=True)
class Retrained:
    """A project, and what a scheduled run for each of the seeds 1, 2, … has left."""

    root: Path
    tags: list[dict[str, str]]

    def run(self, deployment: str, **overrides: Any) -> dict[str, str]:
        """A scheduled run: the tags that its version gets."""
        with workspace.workspace("run", deployment) as made:
            workspace.set_params(
                made, None, {key.replace("__", "."): value for key, value in overrides.items()}
            )
            made.dvc("repro")
            commit = retrain_branch.leave_commit(made, f"seed {overrides.get('train__seed', 1)}")
            return {**describe(made.root), COMMIT_TAG: commit}

    def register(self, *tags: dict[str, str], name: str = MODEL_NAME) -> None:
        """A version for each, with a file of 1000 bytes in the store."""
        client = store()
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        experiment = tracking.use_experiment(tracking.connect(), name)
        for known in tags:
            model = client.create_logged_model(experiment, name="generator")
            files = self.root.parent / "files"
            files.mkdir(exist_ok=True)
            (files / "model.onnx").write_bytes(bytes(1000))
            client.log_model_artifacts(model.model_id, str(files))
            client.create_model_version(
                name, f"models:/{model.model_id}", model_id=model.model_id, tags=known
            )

    def cached(self, tags: dict[str, str]) -> bool:
        """Whether DVC's cache has the generator of these tags."""
        files = (self.root / ".dvc" / "cache" / "files").rglob("*")
        return any(path.is_file() and sha256_file(path) == tags["onnx_sha256"] for path in files)

    def pix2pix(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            cwd=self.root,
            env=surroundings(**environment),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", *arguments]


def surroundings(**environment: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT), **environment}


def describe(root: Path) -> dict[str, str]:
    """The tags that describe the files of a folder."""
    data = tracking.read_json(root / "reports" / "data.json")
    return {
        "onnx_sha256": sha256_file(root / "models" / "generator.onnx"),
        "weights_sha256": sha256_file(root / "models" / "generator.safetensors"),
        "data_sha256": data["splits"]["train"]["sha256"],
    }


def store() -> MlflowClient:
    return MlflowClient(tracking.store_uri(), tracking.store_uri())


@pytest.fixture(scope="session")
def _retrained_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retrained]:
    root = tmp_path_factory.mktemp("retrained") / "main"
    shutil.copytree(PROJECT / "presets", root / "presets")
    shutil.copytree(PROJECT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "*.local"))
    for name in (".gitignore", ".dvcignore"):
        shutil.copyfile(PROJECT / name, root / name)
    text = (PROJECT / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("model_name: pix2pix-quickstart", f"model_name: {MODEL_NAME}")
    (root / "params.yaml").write_text(text, encoding="utf-8")
    for folder in ("pix2pix", "reports"):
        (root / folder).mkdir()
    (root / "reports" / ".gitkeep").touch()
    (root / "pix2pix" / "synthetic.py").write_text("facades\n")
    (root / "dvc.yaml").write_text(STAGES)
    for name, script in SCRIPTS.items():
        (root / name).write_text(script)
    with pytest.MonkeyPatch.context() as patch:
        for who in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{who}_NAME", "test")
            patch.setenv(f"GIT_{who}_EMAIL", "test@example.org")
        git(root, "init", "-q", "-b", "main")
        git(root, "add", "-A")
        git(root, "commit", "-q", "-m", "start")
        patch.chdir(root)
        lineage.home.cache_clear()
        made = Retrained(root, [])
        made.tags.extend(made.run("demo", train__seed=seed) for seed in (1, 2, 3, 4))
    lineage.home.cache_clear()
    yield made


@pytest.fixture
def retrained(
    _retrained_once: Retrained, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Retrained]:
    """A copy of a project with four runs of `demo`, which is the current folder; its store is empty."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.org")
    root = tmp_path / "main"
    shutil.copytree(_retrained_once.root, root, symlinks=True)
    monkeypatch.chdir(root)
    lineage.home.cache_clear()
    yield Retrained(root, list(_retrained_once.tags))
    lineage.home.cache_clear()
