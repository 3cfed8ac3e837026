"""The git worktree that a scheduled run works in. Nobody's tree is touched."""

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pix2pix.errors import UserError
from pix2pix.files import named_failure
from pix2pix.params import PARAMS_FILE, Params, load

from . import lineage, presets, retrain_branch
from .commits import BRANCHES, git, inherited, objection

FOLDER = Path(".retrain")
# dvc's parent death signal is set before it begins, and lasts through the exec; where the parent was gone
# by then, there is nothing to do. Not as preexec_fn, which may deadlock in a process with threads.
_TIED = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
# Less is not enough for a single cached file and dvc's own notes.
_FULL_BYTES = 2**20


@dataclass(frozen=True)
class Workspace:
    """A detached worktree with the shared cache.

    Attributes:
        root: the project's folder in the worktree.
        branch: where the run leaves its commit, retrain/DEPLOYMENT; empty where it leaves none.
        commit: the code's commit, which the worktree was made from.
    """

    root: Path
    branch: str
    commit: str

    def dvc(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A dvc command that reads or copies; stages are run by the flow, which can end them.

        Raises:
            UserError: dvc has an objection, unless `check` is False.
        """
        done = subprocess.run(
            [*tied_dvc_command(), *arguments],
            cwd=self.root,
            env=dvc_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            said = lines[0].removeprefix("ERROR: ") if lines else done.stderr
            raise UserError(with_full_disk(self.root, f"dvc {arguments[0]}: {said}"))
        return done

    def graph(self, *targets: str) -> dict[str, set[str]]:
        """The stages, or only the targets and what leads to them, each with those that it needs."""
        graph: dict[str, set[str]] = {}
        for line in self.dvc("dag", "--dot", *targets).stdout.splitlines():
            match re.findall(r'"([^"]+)"', line):
                case [stage]:
                    graph.setdefault(stage, set())
                case [needed, stage]:
                    graph.setdefault(stage, set()).add(needed)
                    graph.setdefault(needed, set())
        return graph


def with_full_disk(folder: Path, line: str) -> str:
    """The same line, after that reason where the disk of `folder` is full: dvc names what comes of it."""
    full = os.strerror(errno.ENOSPC)
    if full in line or shutil.disk_usage(folder).free >= _FULL_BYTES:
        return line
    return f"{folder}: {full}; free some space and run it again ({line})"


def dvc_command() -> list[str]:
    """How dvc is started: with this Python, whatever is on the path."""
    return [sys.executable, "-m", "dvc"]


def tied_dvc_command() -> list[str]:
    """The same, for a dvc that Linux ends with the thread that starts it."""
    return [sys.executable, "-c", _TIED, str(os.getpid()), *dvc_command()]


def dvc_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with this Python first on the path, where stages look for it."""
    return {
        **inherited(),
        "DVC_NO_ANALYTICS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        **(extra or {}),
    }


@contextmanager
def workspace(name: str, deployment: str, commit: str = "HEAD") -> Iterator[Workspace]:
    """A worktree of its own, removed at the end; what crashed runs have left is removed first.

    Where the branch retrain/DEPLOYMENT exists, dvc.lock and the small reports are those of its tip.

    Args:
        name: of the folder, such as the flow run's id.
        commit: what to work on; the default is the commit of the main checkout.

    Raises:
        UserError: no git repository or no such commit, the deployment's name cannot name a branch, or its
            branch is checked out somewhere, where a commit would change what git says of that tree; or the
            disk is full.
    """
    branch = f"{BRANCHES}/{deployment}"
    top, _, _ = _origin(commit)
    retrain_branch.refuse(top, branch)
    with detached(name, commit, branch) as made:
        with named_failure(made.root):
            retrain_branch.take_over(made)
        yield made


@contextmanager
def detached(name: str, commit: str, branch: str = "") -> Iterator[Workspace]:
    """A worktree of its own on a commit, as it is; removed at the end, after what crashed runs have left.

    Raises:
        UserError: no git repository or no such commit.
    """
    top, inside, sha = _origin(commit)
    place = lineage.home() / FOLDER
    folder = place / name
    held = FileLock(folder / "lock")
    # Held while folders come and go, so that none is taken for a crashed run's before its run has locked it.
    with _comings_and_goings(place):
        for left in _split(place)[0]:
            _remove(left, top)
        folder.mkdir()
        held.acquire(timeout=0)
        tree = folder / "tree"
    try:
        made = Workspace(tree / inside, branch, sha)
        with named_failure(tree):
            _add_worktree(top, tree, sha)
            _share_cache(made.root, folder / "site")
        yield made
    finally:
        with _comings_and_goings(place):
            held.release()
            _remove(folder, top)


@dataclass(frozen=True)
class Standstill:
    """The folders in .retrain/ while no run can begin or end.

    Attributes:
        crashed: what runs have left that ended without removing it.
        living: of the runs in progress.
    """

    crashed: Sequence[Path]
    living: Sequence[Path]
    _top: Path

    def remove_crashed(self) -> None:
        """Remove what crashed runs have left."""
        for folder in self.crashed:
            _remove(folder, self._top)


@contextmanager
def standstill() -> Iterator[Standstill]:
    """Hold up the runs that want to begin or end, for as short a time as may be.

    Raises:
        UserError: no git repository.
    """
    top, _, _ = _origin("HEAD")
    place = lineage.home() / FOLDER
    with _comings_and_goings(place):
        yield Standstill(*_split(place), top)


def set_params(made: Workspace, preset: str | None, overrides: Mapping[str, Any]) -> Params:
    """Write the run's params.yaml: the committed one, a preset over it, single values over that.

    Raises:
        UserError: as `presets.lay`, or the preset is not committed.
    """
    if preset is not None:
        file = presets.PRESETS / f"{preset}.yaml"
        if not (made.root / file).exists() and (lineage.home() / file).exists():
            raise UserError(
                f"{file}: is not committed, and a run works on the commit that is checked out; "
                f"`git add {file}` and commit it"
            )
    # What is missing from the worktree because git does not have it lies in the main checkout.
    presets.lay(preset, overrides, made.root)
    source = Path(os.path.expanduser(load(made.root / PARAMS_FILE).dataset.source))  # noqa: PTH111
    if not source.is_absolute() and not (made.root / source).exists():
        source = lineage.home() / source
        presets.lay(None, {"dataset.source": str(source)}, made.root)
    return load(made.root / PARAMS_FILE)


# --- the worktree ------------------------------------------------------------------------------------


def _origin(commit: str) -> tuple[Path, Path, str]:
    """The main checkout's top, the project's folder in it, and the commit's name in full."""
    home = lineage.home()
    try:
        top = git(home, "rev-parse", "--show-toplevel")
        inside = git(home, "rev-parse", "--show-prefix")
    except subprocess.CalledProcessError:
        raise UserError(f"{home}: is no git repository; a scheduled run works on a commit") from None
    try:
        sha = git(home, "rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
    except subprocess.CalledProcessError:
        raise UserError(f"{commit}: is no commit of {home}") from None
    return Path(top), Path(inside), sha


def _add_worktree(top: Path, tree: Path, sha: str) -> None:
    try:
        git(top, "worktree", "add", "--quiet", "--detach", str(tree), sha)
    except subprocess.CalledProcessError as error:
        # git says which file it could not write and not why, and has removed the others.
        if shutil.disk_usage(tree.parent).free < _size(top, sha):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        raise UserError(f"{tree}: git makes no worktree there ({objection(error)})") from None


def _size(top: Path, sha: str) -> int:
    """Bytes of a commit's files on a disk with blocks of 4 KiB."""
    lines = git(top, "ls-tree", "-r", "--long", sha).splitlines()
    sizes = [line.split(maxsplit=4)[3] for line in lines]
    return sum(-(-int(size) // 4096) * 4096 for size in sizes if size.isdecimal())


def _share_cache(root: Path, site: Path) -> None:
    """The main checkout's cache, remotes and local settings; relative places would be others here.

    Args:
        site: for what DVC notes of this one worktree and would leave in /var/tmp for good.
    """
    # Only when a worktree is made: the command line starts without dvc.
    from dvc.config import Config

    main = lineage.home() / ".dvc"
    theirs = Config(dvc_dir=str(main))
    cache = theirs["cache"].get("dir") or str(main / "cache")
    with Config(dvc_dir=str(root / ".dvc")).edit("local") as ours:
        for section, settings in theirs.load_one("local").items():
            ours.setdefault(section, {}).update(settings)
        for remote, settings in theirs["remote"].items():
            ours["remote"].setdefault(remote, {}).update(settings)
        ours["cache"]["dir"] = cache
        ours["core"]["site_cache_dir"] = str(site)


def _comings_and_goings(place: Path) -> FileLock:
    place.mkdir(exist_ok=True)
    return FileLock(place / "lock")


def crashed() -> list[str]:
    """The names of the workspaces whose runs are gone; the next run removes them."""
    place = lineage.home() / FOLDER
    if not place.exists():
        return []
    with _comings_and_goings(place):
        return [folder.name for folder in _split(place)[0]]


def leave_trace(name: str) -> None:
    """Let `crashed` name a workspace that may have been removed already."""
    (lineage.home() / FOLDER / name).mkdir(parents=True, exist_ok=True)


def _split(place: Path) -> tuple[list[Path], list[Path]]:
    """The folders of crashed and of living runs."""
    gone: list[Path] = []
    living: list[Path] = []
    for folder in sorted(path for path in place.iterdir() if path.is_dir()):
        (living if is_held(folder / "lock") else gone).append(folder)
    return gone, living


def is_held(lock: Path) -> bool:
    """Whether a living process holds a lock; it ends with its process, however that ends."""
    # To open a lock that is not there would make it.
    if not lock.exists():
        return False
    probe = FileLock(lock)
    try:
        probe.acquire(timeout=0)
    except Timeout:
        return True
    probe.release()
    return False


def _remove(folder: Path, top: Path) -> None:
    # Twice --force: also one that was being made when its run ended, which git keeps locked.
    with suppress(subprocess.CalledProcessError):
        git(top, "worktree", "remove", "--force", "--force", str(folder / "tree"))
    shutil.rmtree(folder, ignore_errors=True)
    git(top, "worktree", "prune")


def has_remote(made: Workspace) -> bool:
    """Whether `dvc push` has somewhere to push to."""
    from dvc.config import Config

    return bool(Config(dvc_dir=str(made.root / ".dvc"))["core"].get("remote"))
