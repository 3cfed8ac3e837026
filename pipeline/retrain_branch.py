"""The branch retrain/DEPLOYMENT: what a run takes over from its tip, and the commit that it leaves there."""

import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2pix.errors import UserError
from pix2pix.params import PARAMS_FILE, read_yaml

from . import lineage
from .commits import git, git_bytes, identity, objection

if TYPE_CHECKING:
    from .workspace import Workspace

LOCK_FILE = Path("dvc.lock")
# As git wants an old value that is not there yet.
_NO_COMMIT = "0" * 40
# Another run may have moved the branch in between; each of them needs one more try.
_RACES = 20


def refuse(folder: Path, branch: str) -> None:
    """Raises UserError where no commit can be left on a branch.

    That is where its name is none, where another branch has the name of its folder, or where it is checked
    out somewhere: a commit would change what git says of that tree.
    """
    try:
        git(folder, "check-ref-format", "--branch", branch)
    except subprocess.CalledProcessError:
        raise UserError(f"{branch}: cannot name a branch; give the deployment a plainer name") from None
    near = f"refs/heads/{branch.partition('/')[0]}"
    for other in git(folder, "for-each-ref", "--format=%(refname:lstrip=2)", near).splitlines():
        if branch.startswith(f"{other}/") or other.startswith(f"{branch}/"):
            raise UserError(f"{branch}: git makes no such branch beside {other}; rename that one")
    if f"branch refs/heads/{branch}" in git(folder, "worktree", "list", "--porcelain").splitlines():
        raise UserError(
            f"{branch}: is checked out, and a run's commit would change what git says of that tree; "
            f"`git switch --detach` there"
        )


def take_over(made: "Workspace") -> None:
    """Put dvc.lock and the small reports of the branch's tip, if it has one, into the worktree."""
    root, tip = made.root, _tip(made)
    if tip is None:
        return
    for file in (LOCK_FILE, *small_reports(root)):
        try:
            content = git_bytes(root, "cat-file", "blob", f"{tip}:./{file.as_posix()}")
        except subprocess.CalledProcessError:
            # A stage or a report that came later.
            continue
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(content)


def last_params(made: "Workspace") -> Mapping[str, Any]:
    """What the branch's last run wrote into its params.yaml; empty where there was none."""
    tip = _tip(made)
    if tip is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PARAMS_FILE.name
        try:
            file.write_bytes(git_bytes(made.root, "cat-file", "blob", f"{tip}:./{PARAMS_FILE}"))
        except subprocess.CalledProcessError:
            return {}
        values: Mapping[str, Any] = read_yaml(file)
    return values


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


def leave_commit(made: "Workspace", message: str) -> str:
    """Write params.yaml, dvc.lock and the small reports as a commit on the workspace's branch.

    Its parents are the branch's tip, if there is one, and the code's commit. No index and no tree is
    touched, and of two runs that end together none loses its commit. A tip that already says the same of
    the same code is left as it is.

    Returns:
        The commit's name in full.

    Raises:
        UserError: the branch was checked out meanwhile, is moved faster than it can be followed, or git has
            another objection, a full disk for instance.
    """
    try:
        return _leave_commit(made, message)
    except subprocess.CalledProcessError as error:
        from .workspace import with_full_disk

        said = f"{made.branch}: git leaves no commit there ({objection(error)})"
        raise UserError(with_full_disk(lineage.home(), said)) from None


def _leave_commit(made: "Workspace", message: str) -> str:
    files = [PARAMS_FILE, LOCK_FILE, *small_reports(made.root)]
    tree = _tree(made, [file for file in files if (made.root / file).is_file()])
    tries = _RACES
    while True:
        tip = _tip(made)
        if tip and _says_the_same(made, tip, tree):
            return tip
        parents = [part for parent in (tip, made.commit) if parent for part in ("-p", parent)]
        new = git(made.root, "commit-tree", tree, *parents, "-m", message, **identity(made.root))
        # Here too: it may have been checked out while the stages ran.
        refuse(made.root, made.branch)
        try:
            git(made.root, "update-ref", f"refs/heads/{made.branch}", new, tip or _NO_COMMIT)
        except subprocess.CalledProcessError:
            tries -= 1
            if not tries:
                raise
        else:
            return new


def _tip(made: "Workspace") -> str | None:
    try:
        return git(made.root, "rev-parse", "--verify", "--quiet", f"refs/heads/{made.branch}")
    except subprocess.CalledProcessError:
        return None


def _says_the_same(made: "Workspace", tip: str, tree: str) -> bool:
    of_tip, *parents = git(made.root, "show", "-s", "--format=%T %P", tip).split()
    return of_tip == tree and made.commit in parents


def _tree(made: "Workspace", files: Iterable[Path]) -> str:
    """The code's tree with these files as they lie in the worktree, by way of an index of its own."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git(made.root, "read-tree", made.commit, **index)
        inside = git(made.root, "rev-parse", "--show-prefix")
        for file in files:
            blob = git(made.root, "hash-object", "-w", "--", str(file))
            entry = f"100644,{blob},{inside}{file.as_posix()}"
            git(made.root, "update-index", "--add", "--cacheinfo", entry, **index)
        return git(made.root, "write-tree", **index)
