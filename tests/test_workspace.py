"""The worktree of a scheduled run and the commit it leaves, with real git and DVC."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from filelock import FileLock

from pipeline import lineage, retrain_branch, workspace
from pipeline.retrain_branch import leave_commit
from pipeline.workspace import Workspace
from pix2pix.errors import UserError
from pix2pix.params import read_yaml

PROJECT = Path(__file__).parents[1]
STAGES = """
stages:
  copy:
    cmd: cp source.txt copied.txt && wc -c < source.txt > reports/bytes.json && cp source.txt /dev/null
    deps: [source.txt]
    params: [train]
    outs: [copied.txt]
    metrics:
      - reports/bytes.json: {cache: false}
"""


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of one quick stage, committed, with a change in its tree and one in its index."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@example.org")
    root = tmp_path / "main"
    shutil.copytree(PROJECT / "presets", root / "presets")
    shutil.copytree(PROJECT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "*.local"))
    for name in ("params.yaml", ".gitignore", ".dvcignore"):
        shutil.copyfile(PROJECT / name, root / name)
    (root / "pix2pix").mkdir()
    (root / "pix2pix" / "synthetic.py").touch()
    (root / "reports").mkdir()
    (root / "reports" / "bytes.json").write_text("0\n")
    (root / "source.txt").write_text("one\n")
    (root / "notes.txt").write_text("mine\n")
    (root / "dvc.yaml").write_text(STAGES)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    (root / "source.txt").write_text("changed, not committed\n")
    (root / "notes.txt").write_text("changed and staged\n")
    git(root, "add", "notes.txt")
    monkeypatch.chdir(root)
    lineage.home.cache_clear()
    yield root
    lineage.home.cache_clear()


def state(root: Path) -> tuple[str, ...]:
    """All that git could say of the user's tree."""
    index = (root / ".git" / "index").read_bytes().hex()
    return git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD"), git(root, "branch"), index


def run_once(name: str = "run", **overrides: object) -> str:
    """A whole run: its commit."""
    with workspace.workspace(name, "demo") as made:
        workspace.set_params(made, None, {key.replace("__", "."): value for key, value in overrides.items()})
        made.dvc("repro")
        return leave_commit(made, "retrained")


def test_a_run_works_on_the_commit_and_leaves_the_users_tree_as_it_was(main: Path) -> None:
    before = state(main)
    with workspace.workspace("run", "demo") as made:
        assert (made.root / "source.txt").read_text() == "one\n"
        made.dvc("repro")
        assert (made.root / "copied.txt").read_text() == "one\n"
        assert state(main) == before
    assert list((main / ".retrain").iterdir()) == [main / ".retrain" / "lock"]
    assert state(main) == before
    assert not (main / "copied.txt").exists()
    assert len(git(main, "worktree", "list").splitlines()) == 1


def test_the_worktree_is_removed_after_a_failure_too(main: Path) -> None:
    with pytest.raises(RuntimeError), workspace.workspace("run", "demo") as made:
        raise RuntimeError
    assert not made.root.exists()
    assert len(git(main, "worktree", "list").splitlines()) == 1


def test_the_cache_is_shared_so_what_ran_in_one_is_restored_in_the_next(main: Path) -> None:
    run_once()
    git(main, "branch", "-D", "-q", "retrain/demo")
    with workspace.workspace("second", "demo") as made:
        assert "is cached - skipping run" in made.dvc("repro").stdout
    assert (main / ".dvc" / "cache").is_dir()


def test_a_cache_elsewhere_and_relative_remotes_are_those_of_the_main_checkout(main: Path) -> None:
    dvc(main, "cache", "dir", "--local", str(main.parent / "elsewhere"))
    dvc(main, "remote", "add", "--local", "-d", "store", "../store")
    with workspace.workspace("run", "demo") as made:
        assert workspace.has_remote(made)
        made.dvc("repro")
        made.dvc("push")
    assert list((main.parent / "elsewhere" / "files").rglob("*"))
    assert [path for path in (main.parent / "store").rglob("*") if path.is_file()]


def test_dvc_keeps_its_notes_of_a_worktree_in_the_runs_folder_which_goes(main: Path) -> None:
    with workspace.workspace("run", "demo") as made:
        made.dvc("repro")
        assert list((main / ".retrain" / "run" / "site" / "repo").iterdir())
    assert not (main / ".retrain" / "run").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_dvc_command_ends_with_its_flow(main: Path) -> None:
    code = (
        "from pathlib import Path; from pipeline.workspace import Workspace\n"
        "Workspace(Path('.'), '', '').dvc('repro')"
    )
    (main / "dvc.yaml").write_text("stages:\n  sleep:\n    cmd: exec sleep 60\n")
    environment = {**workspace.dvc_environment(), "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=main, env=environment) as flow:
        dvc = wait_for_child(psutil.Process(flow.pid))
        sleep = wait_for_child(dvc)
        flow.kill()
    psutil.wait_procs([dvc], 20)
    sleep.kill()
    assert not dvc.is_running()


def wait_for_child(process: psutil.Process) -> psutil.Process:
    end = time.monotonic() + 60
    while not process.children() and time.monotonic() < end:
        time.sleep(0.05)
    return process.children()[0]


def test_without_a_remote_nothing_can_be_pushed(main: Path) -> None:
    with workspace.workspace("run", "demo") as made:
        assert not workspace.has_remote(made)


def test_the_commit_has_params_lock_and_reports_and_the_codes_commit_as_parent(main: Path) -> None:
    before, code = state(main)[:2], git(main, "rev-parse", "HEAD")
    commit = run_once(train__epochs=3)
    assert git(main, "rev-parse", "retrain/demo") == commit
    assert git(main, "show", "-s", "--format=%P", commit) == code
    changed = git(main, "diff", "--name-only", code, commit).splitlines()
    assert changed == ["dvc.lock", "params.yaml", "reports/bytes.json"]
    assert git(main, "show", f"{commit}:reports/bytes.json") == "4"
    assert "epochs: 3" in git(main, "show", f"{commit}:params.yaml")
    assert state(main)[:2] == before


def test_the_next_run_begins_with_the_branchs_lock_and_reports_and_has_two_parents(main: Path) -> None:
    first = run_once()
    with workspace.workspace("second", "demo") as made:
        assert (made.root / "reports" / "bytes.json").read_text().strip() == "4"
        dry = made.dvc("repro", "--dry", "--allow-missing").stdout
        assert "Running stage" not in dry and "didn't change" in dry
    second = run_once(train__epochs=4)
    code = git(main, "rev-parse", "HEAD")
    assert git(main, "show", "-s", "--format=%P", second).split() == [first, code]


def test_a_run_that_says_the_same_of_the_same_code_leaves_no_second_commit(main: Path) -> None:
    assert run_once() == run_once("second")
    assert git(main, "rev-list", "--count", "retrain/demo") == "2"


def test_of_two_runs_that_end_together_none_loses_its_commit(main: Path) -> None:
    with workspace.workspace("one", "demo") as one, workspace.workspace("two", "demo") as two:
        for number, made in enumerate((one, two)):
            (made.root / "reports" / "bytes.json").write_text(f"{number}\n")
        with ThreadPoolExecutor() as pool:
            made_commits = list(pool.map(lambda made: leave_commit(made, "together"), (one, two)))
    history = git(main, "rev-list", "retrain/demo").splitlines()
    assert len(set(made_commits)) == 2 and set(made_commits) <= set(history)


def test_a_branch_that_is_moved_in_between_is_followed(main: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tips: list[str | None] = []
    real = retrain_branch._tip

    def raced(made: Workspace) -> str | None:
        found = real(made)
        if not tips:
            # Another run is quicker, between our look at the branch and our move of it.
            other = git(main, "commit-tree", f"{made.commit}^{{tree}}", "-p", made.commit, "-m", "other")
            git(main, "update-ref", "refs/heads/retrain/demo", other)
        tips.append(found)
        return found

    with workspace.workspace("run", "demo") as made:
        (made.root / "reports" / "bytes.json").write_text("7")
        monkeypatch.setattr(retrain_branch, "_tip", raced)
        commit = leave_commit(made, "ours")
    assert len(tips) == 2 and tips[0] is None
    assert git(main, "show", "-s", "--format=%s", f"{commit}^") == "other"


def test_an_objection_of_git_to_the_commit_is_its_own_line(main: Path) -> None:
    with workspace.workspace("run", "demo") as made:
        # A kill of git itself leaves this behind.
        (main / ".git" / "refs" / "heads" / "retrain").mkdir()
        (main / ".git" / "refs" / "heads" / "retrain" / "demo.lock").touch()
        with pytest.raises(
            UserError, match=r"^retrain/demo: git leaves no commit there \(.*demo\.lock"
        ) as said:
            leave_commit(made, "retrained")
        assert "\n" not in str(said.value)


def test_a_full_disk_that_git_does_not_speak_of_is_named(main: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with workspace.workspace("run", "demo") as made:
        monkeypatch.setattr(workspace.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
        (main / ".git" / "refs" / "heads" / "retrain").write_text("in the way")
        with pytest.raises(
            UserError, match=f"^{main}: No space left on device; .*retrain/demo: git leaves no"
        ):
            leave_commit(made, "retrained")


def test_a_commit_needs_nobody_known_to_git(main: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    git(main, "config", "user.useConfigOnly", "true")
    assert git(main, "show", "-s", "--format=%cn", run_once()) == "pix2pix retrain"


def test_a_crashed_runs_worktree_goes_with_the_next_run_and_a_living_ones_stays(main: Path) -> None:
    crash = (
        "import os; from pipeline.workspace import workspace\nwith workspace('crashed', 'demo'): os._exit(9)"
    )
    environment = {**workspace.dvc_environment(), "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", crash], cwd=main, env=environment, check=False)
    assert (main / ".retrain" / "crashed" / "tree" / "dvc.yaml").exists()
    assert workspace.crashed() == ["crashed"]
    with workspace.workspace("living", "demo") as living:
        assert workspace.crashed() == []
        assert not (main / ".retrain" / "crashed").exists()
        with workspace.workspace("third", "demo"):
            assert (living.root / "dvc.yaml").exists()
    assert len(git(main, "worktree", "list").splitlines()) == 1


def test_the_lock_of_a_living_run_is_held(main: Path) -> None:
    with workspace.workspace("run", "demo"):
        assert not _is_free(main / ".retrain" / "run" / "lock")


def _is_free(lock: Path) -> bool:
    other = FileLock(lock)
    try:
        other.acquire(timeout=0)
    except TimeoutError:
        return False
    other.release()
    return True


def test_a_project_in_a_folder_of_a_larger_repository_works_in_that_folder(
    main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = main / "inner"
    inside.mkdir()
    for path in list(main.iterdir()):
        if path.name == ".dvc":
            shutil.rmtree(path)
        elif path.name not in ("inner", ".git"):
            path.rename(inside / path.name)
    dvc(inside, "init", "-q", "--subdir")
    git(main, "add", "-A")
    git(main, "commit", "-q", "-m", "moved")
    monkeypatch.chdir(inside)
    lineage.home.cache_clear()
    with workspace.workspace("run", "demo") as made:
        made.dvc("repro")
        commit = leave_commit(made, "inner")
    assert "inner/reports/bytes.json" in git(main, "diff", "--name-only", "HEAD", commit).splitlines()


# --- what is refused ---------------------------------------------------------------------------------


def test_a_branch_that_is_checked_out_is_refused_before_anything(main: Path) -> None:
    run_once()
    git(main, "stash", "-q")
    git(main, "switch", "-q", "retrain/demo")
    before = state(main)
    with pytest.raises(UserError, match=r"^retrain/demo: is checked out"), workspace.workspace("run", "demo"):
        pass
    assert state(main) == before


@pytest.mark.parametrize("other", ["retrain", "retrain/demo/old"])
def test_a_branch_that_stands_in_the_way_is_refused_before_anything(main: Path, other: str) -> None:
    git(main, "branch", other)
    git(main, "branch", "retrained")
    said = f"^retrain/demo: git makes no such branch beside {other}; rename that one$"
    with pytest.raises(UserError, match=said), workspace.workspace("run", "demo"):
        pass
    git(main, "branch", "-D", other)
    run_once()


@pytest.mark.parametrize(
    ("deployment", "commit", "said"),
    [("de mo", "HEAD", "retrain/de mo: cannot name a branch"), ("demo", "nowhere", "nowhere: is no commit")],
)
def test_what_cannot_be_worked_on_is_one_line(main: Path, deployment: str, commit: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}"), workspace.workspace("run", deployment, commit):
        pass
    assert not (main / ".retrain" / "run").exists()


def test_an_objection_of_git_to_the_worktree_is_one_line(main: Path) -> None:
    (main / ".git" / "worktrees").write_text("a file in the way")
    with pytest.raises(UserError, match=r"/tree: git makes no worktree there \(fatal: .*worktrees"):
        run_once()
    assert [path.name for path in (main / ".retrain").iterdir()] == ["lock"]


def test_an_objection_of_dvc_is_its_own_line(main: Path) -> None:
    with workspace.workspace("run", "demo") as made:
        (made.root / "source.txt").unlink()
        with pytest.raises(UserError, match=r"^dvc repro: failed to reproduce 'copy'"):
            made.dvc("repro")


# --- parameters --------------------------------------------------------------------------------------


def test_params_are_the_committed_ones_then_the_preset_then_the_overrides(main: Path) -> None:
    (main / "params.yaml").write_text("not committed: and so not read\n")
    with workspace.workspace("run", "demo") as made:
        params = workspace.set_params(made, "facades-small", {"train.epochs": 3, "train.lr": 1})
        assert (params.train.epochs, params.train.lr) == (3, 1.0)
        assert params.model.dropout_blocks == ()
        assert "# Every knob." in (made.root / "params.yaml").read_text()
        assert read_yaml(made.root / "params.yaml")["train"]["epochs"] == 3


@pytest.mark.parametrize(
    ("preset", "overrides", "said"),
    [
        ("quikstart", {}, "preset 'quikstart': unknown; did you mean quickstart?"),
        (
            None,
            {"train.epoch": 3},
            "overrides over params.yaml: train.epoch: unknown key; did you mean train.epochs?",
        ),
        (None, {"epochs": 3}, "overrides: epochs: unknown key; did you mean train.epochs?"),
        (None, {"train": 3}, "overrides: train = 3: must be a mapping of keys"),
        (
            None,
            {"train.epochs": "3"},
            "overrides over params.yaml: train.epochs = '3': must be a whole number",
        ),
        (
            "facades",
            {"prepare.image_px": 100},
            "overrides over params.yaml: prepare.image_px = 100: must be a multiple of 32",
        ),
    ],
)
def test_a_mistake_in_the_parameters_is_the_same_line_as_in_the_file(
    main: Path, preset: str | None, overrides: dict[str, object], said: str
) -> None:
    with workspace.workspace("run", "demo") as made:
        before = (made.root / "params.yaml").read_bytes()
        with pytest.raises(UserError) as refused:
            workspace.set_params(made, preset, overrides)
        assert str(refused.value).startswith(said)
        assert (made.root / "params.yaml").read_bytes() == before


def test_a_preset_that_is_not_committed_is_said_to_be_so(main: Path) -> None:
    (main / "presets" / "mine.yaml").write_text("train: {epochs: 3}\n")
    with workspace.workspace("run", "demo") as made, pytest.raises(UserError) as refused:
        workspace.set_params(made, "mine", {})
    assert str(refused.value).startswith("presets/mine.yaml: is not committed, and a run works on the commit")


def test_a_relative_source_that_git_does_not_have_is_looked_for_in_the_main_checkout(main: Path) -> None:
    own = {"dataset.name": "own", "dataset.source": "data/own"}
    with workspace.workspace("run", "demo") as made:
        assert workspace.set_params(made, None, {}).dataset.source == "pix2pix/synthetic.py"
        assert workspace.set_params(made, None, own).dataset.source == str(main / "data" / "own")


def test_the_parameters_of_the_branchs_last_run_are_known_to_the_next(main: Path) -> None:
    with workspace.workspace("first", "demo") as made:
        assert retrain_branch.last_params(made) == {}
    run_once(train__epochs=3)
    with workspace.workspace("next", "demo") as made:
        assert retrain_branch.last_params(made)["train"]["epochs"] == 3
        assert workspace.load(made.root / "params.yaml").train.epochs != 3
