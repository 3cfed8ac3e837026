"""The git worktree that a scheduled run works in, and the commit it leaves. Nobody's tree is touched."""

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pix2pix.errors import UserError
from pix2pix.files import named_failure, sha256_file
from pix2pix.params import PARAMS_FILE, Params, load, read_yaml

from . import lineage, presets

FOLDER = Path(".retrain")
LOCK_FILE = Path("dvc.lock")
BRANCHES = "retrain"
# As git wants an old value that is not there yet.
_NO_COMMIT = "0" * 40
# Less is not enough for a single cached file and dvc's own notes.
_FULL_BYTES = 2**20
# Another run moved the branch in between; each of them needs one more try.
_RACES = 20


@dataclass(frozen=True)
class Workspace:
    """A detached worktree with the shared cache.

    Attributes:
        root: the project's folder in the worktree.
        branch: where the run leaves its commit, retrain/DEPLOYMENT.
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
            [*dvc_command(), *arguments],
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


def with_full_disk(folder: Path, line: str) -> str:
    """The same line, after that reason where the disk of `folder` is full: dvc names what comes of it."""
    full = os.strerror(errno.ENOSPC)
    if full in line or shutil.disk_usage(folder).free >= _FULL_BYTES:
        return line
    return f"{folder}: {full}; free some space and run it again ({line})"


def dvc_command() -> list[str]:
    """How dvc is started: with this Python, whatever is on the path."""
    return [sys.executable, "-m", "dvc"]


def dvc_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with this Python first on the path, where stages look for it."""
    return {
        **_inherited(),
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
    top, inside, sha = _origin(commit)
    _refuse_branch(top, branch)
    place = lineage.home() / FOLDER
    place.mkdir(exist_ok=True)
    folder = place / name
    held = FileLock(folder / "lock")
    # Held while folders come and go, so that none is taken for a crashed run's before its run has locked it.
    with FileLock(place / "lock"):
        for left in list(_abandoned(place)):
            _remove(left, top)
        folder.mkdir()
        held.acquire(timeout=0)
        tree = folder / "tree"
    try:
        made = Workspace(tree / inside, branch, sha)
        with named_failure(tree):
            _add_worktree(top, tree, sha)
            _share_cache(made.root)
            _take_over(made)
        yield made
    finally:
        with FileLock(place / "lock"):
            held.release()
            _remove(folder, top)


def set_params(made: Workspace, preset: str | None, overrides: Mapping[str, Any]) -> Params:
    """Write the run's params.yaml: the committed one, a preset over it, single values over that.

    Raises:
        UserError: as `presets.lay`, or dataset.source is not there.
    """
    # What is missing from the worktree because git does not have it lies in the main checkout.
    presets.lay(preset, overrides, made.root)
    source = Path(os.path.expanduser(load(made.root / PARAMS_FILE).dataset.source))  # noqa: PTH111
    if not source.is_absolute() and not (made.root / source).exists():
        source = lineage.home() / source
        presets.lay(None, {"dataset.source": str(source)}, made.root)
    return load(made.root / PARAMS_FILE)


def pin_archive(made: Workspace, params: Params) -> Params:
    """Write what an own archive holds now to the run's dataset.sha256; any other source is left alone.

    The cache and the commit then name the data, and not only the place where it was found.
    """
    source = Path(params.dataset.source)
    # The modules that draw or download a set are files too, and relative.
    if not source.is_absolute() or not source.is_file():
        return params
    return set_params(made, None, {"dataset.sha256": sha256_file(source)})


# --- the worktree ------------------------------------------------------------------------------------


def _origin(commit: str) -> tuple[Path, Path, str]:
    """The main checkout's top, the project's folder in it, and the commit's name in full."""
    home = lineage.home()
    try:
        top = _git(home, "rev-parse", "--show-toplevel")
        inside = _git(home, "rev-parse", "--show-prefix")
    except subprocess.CalledProcessError:
        raise UserError(f"{home}: is no git repository; a scheduled run works on a commit") from None
    try:
        sha = _git(home, "rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
    except subprocess.CalledProcessError:
        raise UserError(f"{commit}: is no commit of {home}") from None
    return Path(top), Path(inside), sha


def _refuse_branch(top: Path, branch: str) -> None:
    try:
        _git(top, "check-ref-format", "--branch", branch)
    except subprocess.CalledProcessError:
        raise UserError(f"{branch}: cannot name a branch; give the deployment a plainer name") from None
    if f"branch refs/heads/{branch}" in _git(top, "worktree", "list", "--porcelain").splitlines():
        raise UserError(
            f"{branch}: is checked out, and a run's commit would change what git says of that tree; "
            f"`git switch --detach` there"
        )


def _add_worktree(top: Path, tree: Path, sha: str) -> None:
    try:
        _git(top, "worktree", "add", "--quiet", "--detach", str(tree), sha)
    except subprocess.CalledProcessError as error:
        # git says which file it could not write and not why, and has removed the others.
        if shutil.disk_usage(tree.parent).free < _size(top, sha):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(f"{tree}: git makes no worktree there ({said[-1] if said else error})") from None


def _size(top: Path, sha: str) -> int:
    """Bytes of a commit's files on a disk with blocks of 4 KiB."""
    lines = _git(top, "ls-tree", "-r", "--long", sha).splitlines()
    sizes = [line.split(maxsplit=4)[3] for line in lines]
    return sum(-(-int(size) // 4096) * 4096 for size in sizes if size.isdecimal())


def _share_cache(root: Path) -> None:
    """The main checkout's cache, remotes and local settings; relative places would be others here."""
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


def _take_over(made: Workspace) -> None:
    tip = _tip(made)
    if tip is None:
        return
    for file in (LOCK_FILE, *small_reports(made.root)):
        try:
            content = _git_bytes(made.root, "cat-file", "blob", f"{tip}:./{file.as_posix()}")
        except subprocess.CalledProcessError:
            # A stage or a report that came later.
            continue
        (made.root / file).parent.mkdir(parents=True, exist_ok=True)
        (made.root / file).write_bytes(content)


def crashed() -> list[str]:
    """The names of the workspaces whose runs are gone; the next run removes them."""
    place = lineage.home() / FOLDER
    if not place.exists():
        return []
    with FileLock(place / "lock"):
        return [folder.name for folder in _abandoned(place)]


def leave_trace(name: str) -> None:
    """Let `crashed` name a workspace that may have been removed already."""
    (lineage.home() / FOLDER / name).mkdir(parents=True, exist_ok=True)


def _abandoned(place: Path) -> Iterator[Path]:
    for folder in (path for path in place.iterdir() if path.is_dir()):
        lock = FileLock(folder / "lock")
        try:
            # A lock ends with its process, however that ends.
            lock.acquire(timeout=0)
        except Timeout:
            continue
        lock.release()
        yield folder


def _remove(folder: Path, top: Path) -> None:
    # Twice --force: also one that was being made when its run ended, which git keeps locked.
    with suppress(subprocess.CalledProcessError):
        _git(top, "worktree", "remove", "--force", "--force", str(folder / "tree"))
    shutil.rmtree(folder, ignore_errors=True)
    _git(top, "worktree", "prune")


# --- the commit --------------------------------------------------------------------------------------


def small_reports(root: Path) -> list[Path]:
    """What dvc.yaml leaves to git: the outputs with `cache: false`."""
    stages = read_yaml(root / "dvc.yaml").get("stages", {})
    entries = [
        entry
        for stage in stages.values()
        for kind in ("outs", "metrics", "plots")
        for entry in stage.get(kind, [])
        if isinstance(entry, dict)
    ]
    return [Path(path) for entry in entries for path, given in entry.items() if given.get("cache") is False]


def leave_commit(made: Workspace, message: str) -> str:
    """Write params.yaml, dvc.lock and the small reports as a commit on the workspace's branch.

    Its parents are the branch's tip, if there is one, and the code's commit. No index and no tree is
    touched, and of two runs that end together none loses its commit. A tip that already says the same of
    the same code is left as it is.

    Returns:
        The commit's name in full.

    Raises:
        UserError: the branch was checked out meanwhile, or is moved faster than it can be followed.
    """
    files = [PARAMS_FILE, LOCK_FILE, *small_reports(made.root)]
    tree = _tree(made, [file for file in files if (made.root / file).is_file()])
    for _ in range(_RACES):
        tip = _tip(made)
        if tip and _says_the_same(made, tip, tree):
            return tip
        parents = [part for parent in (tip, made.commit) if parent for part in ("-p", parent)]
        new = _git(made.root, "commit-tree", tree, *parents, "-m", message, **_identity(made.root))
        # Here too: it may have been checked out while the stages ran.
        _refuse_branch(made.root, made.branch)
        try:
            _git(made.root, "update-ref", f"refs/heads/{made.branch}", new, tip or _NO_COMMIT)
        except subprocess.CalledProcessError:
            continue
        return new
    raise UserError(f"{made.branch}: other runs keep moving it; run again")


def _tip(made: Workspace) -> str | None:
    try:
        return _git(made.root, "rev-parse", "--verify", "--quiet", f"refs/heads/{made.branch}")
    except subprocess.CalledProcessError:
        return None


def _says_the_same(made: Workspace, tip: str, tree: str) -> bool:
    of_tip, *parents = _git(made.root, "show", "-s", "--format=%T %P", tip).split()
    return of_tip == tree and made.commit in parents


def _tree(made: Workspace, files: Iterable[Path]) -> str:
    """The code's tree with these files as they lie in the worktree, by way of an index of its own."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(made.root, "read-tree", made.commit, **index)
        inside = _git(made.root, "rev-parse", "--show-prefix")
        for file in files:
            blob = _git(made.root, "hash-object", "-w", "--", str(file))
            entry = f"100644,{blob},{inside}{file.as_posix()}"
            _git(made.root, "update-index", "--add", "--cacheinfo", entry, **index)
        return _git(made.root, "write-tree", **index)


def _identity(root: Path) -> dict[str, str]:
    """Nothing where git knows who commits; a worker often runs as somebody git has not been told of."""
    try:
        _git(root, "var", "GIT_COMMITTER_IDENT")
    except subprocess.CalledProcessError:
        return {
            f"GIT_{who}_{what}": value
            for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "pix2pix retrain"), ("EMAIL", "retrain@localhost"))
        }
    return {}


def has_remote(made: Workspace) -> bool:
    """Whether `dvc push` has somewhere to push to."""
    from dvc.config import Config

    return bool(Config(dvc_dir=str(made.root / ".dvc"))["core"].get("remote"))


def _git(folder: Path, *arguments: str, **environment: str) -> str:
    return _git_bytes(folder, *arguments, **environment).decode().strip()


def _git_bytes(folder: Path, *arguments: str, **environment: str) -> bytes:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**_inherited(), **environment}, capture_output=True, check=True
    )
    return done.stdout


def _inherited() -> dict[str, str]:
    """This process's environment without what would name another checkout than the worktree."""
    elsewhere = re.compile(r"DVC_ROOT$|GIT_(DIR|WORK_TREE|INDEX_FILE|COMMON_DIR|PREFIX)$")
    return {name: value for name, value in os.environ.items() if not elsewhere.match(name)}
