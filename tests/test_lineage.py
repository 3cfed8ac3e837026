"""Where a result comes from: real git repositories, real worktrees."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import lineage, tracking


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No remembered home, no configuration of the user's git, no repository around this one."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a tester")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "tester@example.org")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    lineage.home.cache_clear()
    yield
    lineage.home.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def a_project(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text("train: {}\n")
    (folder / "data").mkdir()
    (folder / "data" / "note.txt").write_text("as committed\n")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A committed project."""
    folder = a_project(tmp_path / "mäin checkout")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "all")


def home_seen_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    lineage.home.cache_clear()
    return lineage.home()


# --- home --------------------------------------------------------------------------------------------


def test_home_is_the_checkout_from_any_folder_of_it(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home_seen_from(checkout, monkeypatch) == checkout
    assert home_seen_from(checkout / "data", monkeypatch) == checkout
    assert tracking.store_uri() == f"sqlite:///{checkout / 'mlflow.db'}"


def test_home_is_the_main_checkout_from_a_worktree(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worktree = tmp_path / "worktree"
    git(checkout, "worktree", "add", "-q", "--detach", str(worktree))
    assert home_seen_from(worktree, monkeypatch) == checkout
    assert home_seen_from(worktree / "data", monkeypatch) == checkout


def test_home_is_the_main_checkout_from_a_copy_of_dvcs(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `dvc exp run --temp` clones into .dvc/tmp/exps and names the main checkout.
    copy = checkout / ".dvc" / "tmp" / "exps" / "standalone" / "tmp1"
    copy.parent.mkdir(parents=True)
    subprocess.run(["git", "clone", "-q", checkout, copy], check=True, capture_output=True)
    assert home_seen_from(copy, monkeypatch) == copy
    monkeypatch.setenv("DVC_ROOT", str(checkout))
    assert home_seen_from(copy, monkeypatch) == checkout
    worktree = tmp_path / "worktree"
    git(checkout, "worktree", "add", "-q", "--detach", str(worktree))
    monkeypatch.setenv("DVC_ROOT", str(worktree))
    assert home_seen_from(copy, monkeypatch) == checkout


def test_home_is_the_current_folder_without_git(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = a_project(tmp_path / "unpacked")
    assert home_seen_from(unpacked, monkeypatch) == unpacked
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    assert home_seen_from(checkout, monkeypatch) == checkout


def test_home_is_the_projects_folder_in_a_repository_that_holds_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = a_project(tmp_path / "all" / "models" / "pix2pix")
    commit(tmp_path / "all")
    assert home_seen_from(ours, monkeypatch) == ours
    assert home_seen_from(ours / "data", monkeypatch) == ours
    git(tmp_path / "all", "worktree", "add", "-q", "--detach", str(tmp_path / "worktree"))
    assert home_seen_from(tmp_path / "worktree" / "models" / "pix2pix", monkeypatch) == ours


# --- tags --------------------------------------------------------------------------------------------


def test_tags_name_the_commit_and_whether_the_tree_differs_from_it(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    head = git(checkout, "rev-parse", "HEAD")
    assert (lineage.tags()["git_commit"], lineage.tags()["git_dirty"]) == (head, "false")
    (checkout / "untracked.txt").write_text("")
    assert lineage.tags()["git_dirty"] == "false"
    (checkout / "params.yaml").write_text("train: {epochs: 2}\n")
    assert (lineage.tags()["git_commit"], lineage.tags()["git_dirty"]) == (head, "true")
    git(checkout, "add", ".")
    assert lineage.tags()["git_dirty"] == "true"


def test_results_are_no_change_of_the_tree(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC removes what a stage writes before it runs, and writes its lock after."""
    results = ("dvc.lock", "reports/losses.csv", "reports/metrics.json", "data/pairs/a.png")
    (checkout / "dvc.yaml").write_text(
        "stages:\n"
        "  first: {cmd: ls, outs: [data/pairs], plots: [reports/losses.csv: {cache: false}]}\n"
        "  second: {cmd: ls, metrics: [reports/metrics.json: {cache: false}]}\n"
    )
    for result in results:
        (checkout / result).parent.mkdir(exist_ok=True)
        (checkout / result).touch()
    (checkout / "other.txt").touch()
    commit(checkout)
    monkeypatch.chdir(checkout)
    for result in results:
        (checkout / result).unlink()
    assert lineage.tags()["git_dirty"] == "false"
    (checkout / "data" / "note.txt").write_text("changed\n")
    assert lineage.tags()["git_dirty"] == "true"
    git(checkout, "checkout", "-q", "data/note.txt")
    (checkout / "other.txt").unlink()
    assert lineage.tags()["git_dirty"] == "true"


def test_what_cannot_be_known_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known = {"environment_sha256", "cpu", "cpu_count", "python", "torch"}
    assert set(lineage.tags()) == known
    git(tmp_path, "init", "-q")
    assert set(lineage.tags()) == {*known, "git_dirty"}


def test_tags_name_the_machine_that_decides_a_trainings_bits() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert lineage.tags()["torch"] == said.stdout.strip()
    assert int(lineage.tags()["cpu_count"]) >= 1 and lineage.tags()["cpu"]


def test_the_environments_digest_knows_every_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lineage.environment_sha256()
    package = tmp_path / "newcomer-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: newcomer\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        lineage.environment_sha256.cache_clear()
        assert lineage.environment_sha256() != before
        shutil.rmtree(package)
        lineage.environment_sha256.cache_clear()
        assert lineage.environment_sha256() == before
    finally:
        lineage.environment_sha256.cache_clear()
