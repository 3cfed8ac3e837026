"""Where a result comes from: the project's home, git, dvc.lock, environment. Observes, decides nothing."""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

from pix2pix.files import sha256_file, sha256_json
from pix2pix.params import PARAMS_FILE, read_yaml

LOCK_TAG = "dvc_lock_sha256"


@cache
def home() -> Path:
    """The main checkout of this project, wherever this process runs.

    A queued experiment works in a copy and a worktree in a folder of its own; both share the main
    checkout's MLflow store and checkpoints. DVC_ROOT names the main checkout in a copy of DVC's; a
    worktree's git directory lies in it. Without git it is the current folder. In a repository that holds
    more than this project it is the project's folder, not the repository's.
    """
    start = os.environ.get("DVC_ROOT") or "."
    common = _git("-C", start, "rev-parse", "--path-format=absolute", "--git-common-dir")
    if common and Path(common).name == ".git":
        checkout, inside = Path(common).parent, Path(_git("-C", start, "rev-parse", "--show-prefix") or "")
        folders = (checkout / folder for folder in (inside, *inside.parents))
        return next((folder for folder in folders if (folder / PARAMS_FILE).exists()), checkout)
    return Path(start).resolve()


def tags() -> dict[str, str]:
    """Lineage as tags for a run or a model version; what cannot be known is left out."""
    found = {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": _dirty(),
        LOCK_TAG: sha256_file(Path("dvc.lock")) if Path("dvc.lock").exists() else "",
        "environment_sha256": environment_sha256(),
        **machine(),
    }
    return {name: value for name, value in found.items() if value}


@cache
def environment_sha256() -> str:
    """Digest of the Python version, the machine's architecture and every installed package's version."""
    packages = sorted({f"{d.metadata['Name']}=={d.version}".lower() for d in metadata.distributions()})
    return sha256_json([platform.python_version(), platform.machine(), packages])


@cache
def machine() -> dict[str, str]:
    """What decides a training's bits beside commit and data: `cpu`, `cpu_count`, `python` and `torch`."""
    return {
        "cpu": _cpu(),
        # That `train.threads: auto` uses.
        "cpu_count": str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or ""),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
    }


def _cpu() -> str:
    """The processor as it calls itself; its architecture where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _dirty() -> str:
    """Whether anything but results differs from the commit: DVC removes a stage's before it runs."""
    results = [f":(exclude){path}" for path in ("dvc.lock", *_outputs())]
    status = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *results)
    return "" if status is None else str(bool(status)).lower()


def _outputs() -> list[str]:
    """What the stages of dvc.yaml write."""
    file = Path("dvc.yaml")
    stages = read_yaml(file).get("stages", {}) if file.exists() else {}
    entries = [
        entry
        for stage in stages.values()
        for kind in ("outs", "metrics", "plots")
        for entry in stage.get(kind, [])
    ]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
