"""Git as the pipeline uses it: commits that are read where they are, and refs; no tree is touched."""

import json
import os
import re
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import lineage

# Scheduled runs leave their commits on retrain/DEPLOYMENT.
BRANCHES = "retrain"
# Of a version: the commit that it was made from.
COMMIT_TAG = "retrain_commit"
# What a commit says of the ONNX file that its dvc.lock has.
EXPORT_REPORT = Path("reports/export.json")
# Hold the commits of kept versions, should their branch be deleted or rewritten.
PINS = "refs/pix2pix/kept"


def git(folder: Path, *arguments: str, **environment: str) -> str:
    """What a git command says, with no other checkout in its environment than `folder`.

    Raises:
        subprocess.CalledProcessError: git has an objection.
    """
    return git_bytes(folder, *arguments, **environment).decode().strip()


def git_bytes(folder: Path, *arguments: str, **environment: str) -> bytes:
    """As `git`, byte for byte."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**inherited(), **environment}, capture_output=True, check=True
    )
    return done.stdout


def objection(error: subprocess.CalledProcessError) -> str:
    """The line of what git said that says what is wrong; advice may follow it."""
    lines = error.stderr.decode(errors="replace").strip().splitlines()
    return str(next((line for line in lines if line.startswith("fatal: ")), lines[-1] if lines else error))


def inherited() -> dict[str, str]:
    """This process's environment without what would name another checkout than the current one."""
    elsewhere = re.compile(r"DVC_ROOT$|GIT_(DIR|WORK_TREE|INDEX_FILE|COMMON_DIR|PREFIX)$")
    return {name: value for name, value in os.environ.items() if not elsewhere.match(name)}


def identity(root: Path) -> dict[str, str]:
    """Nothing where git knows who commits; a worker often runs as somebody git has not been told of."""
    try:
        git(root, "var", "GIT_COMMITTER_IDENT")
    except subprocess.CalledProcessError:
        return {
            f"GIT_{who}_{what}": value
            for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "pix2pix retrain"), ("EMAIL", "retrain@localhost"))
        }
    return {}


def exists(commit: str) -> bool:
    """Whether this clone has a commit, on whatever branch or on none."""
    try:
        git(lineage.home(), "cat-file", "-e", f"{commit}^{{commit}}")
    except subprocess.CalledProcessError:
        return False
    return True


def with_results(onnx_sha256: str) -> str | None:
    """The newest commit of any branch that brought the report of an ONNX file; None where there is none."""
    found = ["log", "--all", "--format=%H", f"-S{onnx_sha256}", "--", EXPORT_REPORT.as_posix()]
    with suppress(subprocess.CalledProcessError):
        for commit in git(lineage.home(), *found).splitlines():
            # Or it took it away.
            if exported_by(commit) == onnx_sha256:
                return commit
    return None


def exported_by(commit: str) -> str | None:
    """The digest of the ONNX file that a commit's report describes; None where it has none."""
    report = read_json(commit, EXPORT_REPORT)
    return report.get("onnx_sha256") if isinstance(report, dict) else None


def read_json(commit: str, file: Path) -> Any:
    """What a commit holds under a path of the project; None where it has no such file."""
    try:
        return json.loads(git_bytes(lineage.home(), "cat-file", "blob", f"{commit}:./{file.as_posix()}"))
    except subprocess.CalledProcessError:
        return None


# --- what DVC's cache is kept for ----------------------------------------------------------------------


def tips() -> set[str]:
    """The newest commit of each retrain/DEPLOYMENT: what its next run begins with."""
    return set(
        git(lineage.home(), "for-each-ref", "--format=%(objectname)", f"refs/heads/{BRANCHES}").split()
    )


def of_the_user() -> list[str]:
    """Every commit that changed what DVC knows, but for those that only scheduled runs have left.

    Branches, tags, what was fetched, experiments, stashes; with all their history.
    """
    ours = (f"refs/heads/{BRANCHES}/*", f"refs/remotes/*/{BRANCHES}/*", f"{PINS}/*")
    what = ("*dvc.lock", "*dvc.yaml", "*.dvc")
    excluded = [f"--exclude={pattern}" for pattern in ours]
    every = ["log", "--format=%H", "--full-history", *excluded, "--all", *_stashes(), "--", *what]
    return git(lineage.home(), *every).splitlines()


def _stashes() -> list[str]:
    """All of them: only the newest has a ref, the others are in its log."""
    with suppress(subprocess.CalledProcessError):
        return git(lineage.home(), "log", "--walk-reflogs", "--format=%H", "refs/stash", "--").splitlines()
    return []


def chain(commits: Iterable[str]) -> tuple[str, int]:
    """One line of new commits with the trees of these, which no ref holds; its tip and its length.

    `dvc gc` takes one --rev, and with --num its ancestors.
    """
    home = lineage.home()
    trees = dict.fromkeys(git(home, "rev-parse", f"{commit}^{{tree}}") for commit in commits)
    tip = ""
    for tree in trees:
        parent = ["-p", tip] if tip else []
        tip = git(home, "commit-tree", tree, *parent, "-m", "kept by pix2pix gc", **identity(home))
    return tip, len(trees)


def locks(tip: str) -> list[str]:
    """The dvc.lock of a commit and of each of its ancestors that has one; of none where `tip` is empty."""
    home, found = lineage.home(), []
    for commit in git(home, "rev-list", tip).splitlines() if tip else []:
        with suppress(subprocess.CalledProcessError):
            found.append(git(home, "cat-file", "blob", f"{commit}:./dvc.lock"))
    return found


def worktrees() -> list[Path]:
    """The other checkouts of this repository that a person has made, as far as they are there."""
    home = lineage.home()
    inside = git(home, "rev-parse", "--show-prefix")
    listed = git(home, "worktree", "list", "--porcelain").splitlines()
    found = [Path(line.removeprefix("worktree ")) / inside for line in listed if line.startswith("worktree ")]
    return [path for path in found if path.is_dir() and path.resolve() != home.resolve()]


def pinned() -> set[str]:
    """The commits that are held for versions."""
    return set(git(lineage.home(), "for-each-ref", "--format=%(objectname)", PINS).split())


def pin(commits: Iterable[str]) -> None:
    """Hold commits, whatever becomes of their branches."""
    for commit in commits:
        git(lineage.home(), "update-ref", f"{PINS}/{commit}", commit)


def unpin(commits: Iterable[str]) -> None:
    """Hold commits no longer; git removes them in its own time, unless something else holds them."""
    for commit in commits:
        git(lineage.home(), "update-ref", "-d", f"{PINS}/{commit}", commit)
