"""A small project with real git, DVC and MLflow, run once and copied for each test."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from ruamel.yaml import YAML

from pix2pix import synthetic

ROOT = Path(__file__).parents[2]
# Small enough that a stage's time is that of its imports.
TINY = {
    "dataset": {"name": "tiny", "licence": "drawn for a test"},
    "prepare": {"image_px": 32},
    "model": {"generator_channels": 2, "discriminator_channels": 2, "discriminator_layers": 1},
    "train": {"epochs": 2, "validate_every": 1, "sample_images": 2, "losses_every": 4, "threads": 1},
    "evaluate": {"kd_subsets": 4, "kd_subset_size": 6},
    # So short a training is nearer to the targets in its pixels, but not in its features.
    "registry": {"model_name": "tiny", "primary_metric": "l1"},
}
NOT_INHERITED = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "PIX2PIX_MIRROR", "DVC_ROOT")
STAGES = ("fetch", "prepare", "train", "evaluate", "export", "register")
SPLITS = {"train": 8, "val": 2, "test": 8}


@dataclass(frozen=True)
class Project:
    """A checkout with a data set of its own."""

    root: Path
    data: Path

    def run(self, *command: str, ok: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout as a user with the environment activated would."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
            check=False,
        )
        if ok:
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def environment(self, **extra: str) -> dict[str, str]:
        # MLflow leaves the store that an earlier test used in this process's own variables.
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        return {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # The checkout's own packages, not those of the installed project.
            "PYTHONPATH": str(self.root),
            # What one project downloaded is not to be found by the next, nor by the person who runs this.
            "PIX2PIX_CACHE": str(self.root.parent / "cache"),
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@example.org",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@example.org",
            **extra,
        }

    def dvc(self, *arguments: str, ok: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "dvc", *arguments, ok=ok, **environment)

    def pix2pix(
        self, *arguments: str, ok: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "pipeline.cli", *arguments, ok=ok, **environment)

    def set(self, **sections: dict[str, Any]) -> None:
        """Change params.yaml as an editor would."""
        set_params(self.root / "params.yaml", sections)

    def ran(self, done: subprocess.CompletedProcess[str]) -> list[str]:
        """The stages that dvc says it ran."""
        lines = done.stdout.splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def outputs(self) -> dict[str, bytes]:
        """Every output of every stage, by path."""
        stages = YAML(typ="safe").load((self.root / "dvc.yaml").read_text())["stages"]
        files: dict[str, bytes] = {}
        for stage in stages.values():
            for out in [*stage["outs"], *stage.get("metrics", []), *stage.get("plots", [])]:
                path = self.root / (next(iter(out)) if isinstance(out, dict) else out)
                for file in [path] if path.is_file() else sorted(path.rglob("*")):
                    if file.is_file():
                        files[str(file.relative_to(self.root))] = file.read_bytes()
        return files


def set_params(path: Path, sections: dict[str, dict[str, Any]]) -> None:
    yaml = YAML()
    values = yaml.load(path.read_text())
    for section, keys in sections.items():
        values.setdefault(section, {}).update(keys)
    with path.open("w") as file:
        yaml.dump(values, file)


def write_data(folder: Path, splits: dict[str, int] = SPLITS) -> None:
    """Combined pairs of 32 px, photo left and labels right."""
    index = 0
    for split, count in splits.items():
        (folder / split).mkdir(parents=True)
        for number in range(count):
            photo, labels = synthetic.draw_pair(seed=5, index=index, image_px=32)
            Image.fromarray(np.concatenate([photo, labels], 1)).save(folder / split / f"{number}.png")
            index += 1


def checkout(root: Path, data: Path) -> Project:
    """The project's files as they are now, committed in a repository of their own, with tiny parameters."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    # What the committed lock and reports say is of other data.
    (root / "dvc.lock").unlink(missing_ok=True)
    shutil.rmtree(root / "reports", ignore_errors=True)
    project = Project(root, data)
    project.set(**{**TINY, "dataset": {**TINY["dataset"], "source": str(data)}})
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "start"]):
        project.run("git", *command)
    return project


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, subprocess.CompletedProcess[str]]:
    """A project after its first `dvc repro`, committed; not to be changed. One for all of xdist's workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "first"
    said = folder / "said.json"
    with FileLock(folder.with_suffix(".lock")):
        if said.exists():
            project = Project(folder / "project", folder / "data")
        else:
            write_data(folder / "data")
            project = checkout(folder / "project", folder / "data")
            done = project.dvc("repro")
            project.run("git", "add", "-A")
            project.run("git", "commit", "-q", "-m", "first run")
            said.write_text(json.dumps([done.args, done.returncode, done.stdout, done.stderr]))
    return project, subprocess.CompletedProcess(*json.loads(said.read_text()))


@pytest.fixture
def project(first_run: tuple[Project, Any], tmp_path: Path) -> Project:
    """A copy of the first run: as if somebody had moved the whole folder."""
    original, _ = first_run
    shutil.copytree(original.root, tmp_path / "project", symlinks=True)
    copied = Project(tmp_path / "project", original.data)
    # Artifact addresses in a store are absolute; a moved project starts a new one.
    (copied.root / "mlflow.db").unlink()
    return copied


@pytest.fixture
def own_data(project: Project, tmp_path: Path) -> Project:
    """A copy of the first run with a copy of its data, for tests that change the data."""
    shutil.copytree(project.data, tmp_path / "data")
    moved = Project(project.root, tmp_path / "data")
    moved.set(dataset={"source": str(moved.data)})
    return moved


def store(project: Project) -> mlflow.MlflowClient:
    uri = f"sqlite:///{project.root / 'mlflow.db'}"
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


# --- processes -------------------------------------------------------------------------------------


def start(project: Project, *command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=project.root,
        env=project.environment(**environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(project: Project) -> subprocess.Popen[str]:
    return start(project, sys.executable, "-m", "stages.train")


def ends_in_time(process: subprocess.Popen[str], seconds: float = 10) -> str:
    """What a process says until its end, which comes within the time that a stage has after a signal."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"not ended within {seconds:g} s: {process.communicate()[0]}") from None


def wait_for(what: object, seconds: float = 60, every: float = 0.05) -> object:
    """The first true answer of a question asked again and again."""
    assert callable(what)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := what():
            return answer
        time.sleep(every)
    raise AssertionError("it did not happen in time")


def leftovers(project: Project) -> list[Path]:
    """What an atomic write that was cut off would have left beside its target.

    Not what an interrupted `prepare` goes on with.
    """
    folders, meant = ("data", "models", "reports"), {".gitignore", ".prepare"}
    return [
        path for folder in folders for path in (project.root / folder).glob(".*") if path.name not in meant
    ]
