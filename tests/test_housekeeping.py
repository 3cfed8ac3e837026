"""`pix2pix gc` with real git, DVC and MLflow: what goes, and what never does."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from mlflow.exceptions import MlflowException
from registry_fixtures import MODEL_NAME, Server
from retrained_fixtures import Retrained, git, store

from pipeline import cli, commits, housekeeping, promotion, workspace
from pipeline.commits import COMMIT_TAG
from pipeline.promotion import Move, Standing
from pix2pix.errors import UserError
from pix2pix.files import sha256_file

pytest_plugins = ["registry_fixtures", "retrained_fixtures"]

OURS = {"onnx_sha256": "0"}


def versions(name: str = MODEL_NAME) -> set[str]:
    return {str(version.version) for version in store().search_model_versions(f"name = '{name}'")}


def logged_model(version: str) -> str:
    return store().get_model_version(MODEL_NAME, version).source.removeprefix("models:/")


def place(version: str) -> None:
    now = promotion.standing(store(), MODEL_NAME)
    promotion.place(store(), MODEL_NAME, version, "by hand", "better", now.champion)


def parts(found: list[housekeeping.Part]) -> dict[str, tuple[int, str]]:
    return {part.name: (part.count, part.skipped) for part in found}


@pytest.fixture
def used(retrained: Retrained) -> Retrained:
    """Versions 1 to 4; 2 is champion and 1 was before it, 3 can go, 4 is the tip of retrain/demo."""
    retrained.register(*retrained.tags)
    for version in ("1", "2"):
        place(version)
    return retrained


# --- which versions ----------------------------------------------------------------------------------


def standing(*champions: str, challenger: str | None = None, intended: Move | None = None) -> Standing:
    moves = tuple(
        Move(number, "", "", "promoted", before, to, "")
        for number, (before, to) in enumerate(zip((None, *champions), champions, strict=False), 1)
    )
    return Standing(champions[-1] if champions else None, challenger, moves, intended)


def rolled_back() -> Standing:
    """Version 2 was champion for a while, and 1 is it again."""
    moves = (
        Move(1, "", "", "first", None, "1", ""),
        Move(2, "", "", "by hand", "1", "2", ""),
        Move(3, "", "", "rollback", "2", "1", ""),
    )
    return Standing("1", None, moves, None)


@pytest.mark.parametrize(
    ("now", "aliases", "special", "keep", "stay"),
    [
        (standing(), {}, {}, 1, "9"),
        (standing(), {}, {}, 3, "7 8 9"),
        (standing("1", "2", "3", "4"), {}, {}, 1, "3 4 9"),
        (standing("1", "2", "3", "4"), {}, {}, 2, "2 3 4 8 9"),
        # Version 33 was deleted: a rollback passes over it.
        (standing("1", "2", "33", "4"), {}, {}, 1, "2 4 9"),
        # To undo a rollback one needs what it went away from.
        (rolled_back(), {}, {}, 1, "1 2 9"),
        (standing("4", challenger="5"), {}, {}, 1, "4 5 9"),
        (standing("4"), {"mine": "6"}, {}, 1, "4 6 9"),
        (standing("4", intended=Move(2, "", "", "by hand", "4", "2", "")), {}, {}, 1, "2 4 9"),
        (standing(), {}, {"3": {**OURS, "decision_kind": "held"}}, 1, "3 9"),
        (standing(), {}, {"3": {"onnx_sha256": "start"}, "9": {**OURS, "warm_start": "start"}}, 1, "3 9"),
        (standing(), {}, {"3": {}}, 1, "3 9"),
        (standing(), {}, {"3": {**OURS, COMMIT_TAG: "tip"}}, 1, "3 9"),
        (standing(), {}, {"3": {**OURS, COMMIT_TAG: "other"}}, 1, "9"),
    ],
)
def test_what_stays_of_nine_versions(
    now: Standing, aliases: dict[str, str], special: dict[str, dict[str, str]], keep: int, stay: str
) -> None:
    tags = {str(number): OURS for number in range(1, 10)} | special
    assert housekeeping.staying(now, aliases, tags, {"tip"}, keep).keys() == set(stay.split())


def test_each_version_stays_for_the_reason_that_counts_most() -> None:
    tags: dict[str, dict[str, str]] = {str(number): OURS for number in range(1, 14)}
    tags |= {"5": {**OURS, "decision_kind": "held"}, "6": {**OURS, COMMIT_TAG: "tip"}, "7": {}}
    tags |= {"8": {"onnx_sha256": "start"}, "13": {**OURS, "warm_start": "start"}}
    aliases = {"champion": "4", "challenger": "12", "shown": "10"}
    why = housekeeping.staying(standing("2", "3", "4", challenger="12"), aliases, tags, {"tip"}, 2)
    assert housekeeping._reasons(why) == [
        "version 4      the champion",
        "version 12     the challenger",
        "version 10     has the alias shown",
        "version 5      waits for a yes",
        "versions 2, 3  within reach of a rollback",
        "version 13     among the newest 2",
        "version 6      what a deployment's next run compares itself with",
        "version 7      registered by something else",
        "version 8      the warm start of one that stays",
    ]
    assert "1" not in why


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([], ""),
        ([3], "version 3"),
        ([1, 2], "versions 1, 2"),
        ([1, 2, 4, 5, 6, 9], "versions 1, 2, 4 to 6, 9"),
    ],
)
def test_versions_that_go_are_named_in_few_words(numbers: list[int], said: str) -> None:
    assert housekeeping._numbered(numbers) == said


# --- what goes ---------------------------------------------------------------------------------------


def test_a_look_shows_and_yes_removes_what_no_kept_version_needs(
    used: Retrained, capfd: pytest.CaptureFixture[str]
) -> None:
    def pix2pix(*arguments: str) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        said = capfd.readouterr()
        assert not ended.value.code, said.err
        return said.out

    first = pix2pix("gc", "--keep", "1")
    assert versions() == {"1", "2", "3", "4"} and all(used.cached(tags) for tags in used.tags)
    assert first == (
        "can go                    count        MB\n"
        "crashed runs' worktrees       0       0.0\n"
        "stale checkpoints             0       0.0\n"
        "MLflow versions               1       0.0  version 3\n"
        "commits of no version         0       0.0\n"
        "DVC cache                     3       2.0\n"
        "total                                 2.0\n"
        "stay  version 2  the champion\n"
        "      version 1  within reach of a rollback\n"
        "      version 4  the newest\n"
        "`pix2pix gc --yes` with the same options removes it\n"
    )
    model = logged_model("3")
    assert pix2pix("gc", "--keep", "1", "--yes").startswith("freed  ")
    assert versions() == {"1", "2", "4"}
    assert [used.cached(tags) for tags in used.tags] == [True, True, False, True]
    with pytest.raises(MlflowException, match="not found"):
        store().get_logged_model(model)
    assert "total                                 0.0\n" in pix2pix("gc", "--keep", "1")


def test_what_is_kept_is_restored_without_training_from_dvcs_run_cache_too(used: Retrained) -> None:
    """Not by its lock, but by its parameters."""
    housekeeping.clear(MODEL_NAME, 1)
    git(used.root, "branch", "-q", "-D", "retrain/demo")
    with workspace.workspace("run", "demo") as made:
        workspace.set_params(made, None, {"train.seed": 2})
        said = made.dvc("repro").stdout
        assert said.count("is cached - skipping run") == 4 and "Running stage" not in said
        assert sha256_file(made.root / "models" / "generator.onnx") == used.tags[1]["onnx_sha256"]


def test_what_the_users_branches_tags_and_tree_need_stays(used: Retrained) -> None:
    """Version 3's own lock in the past of main; another one that no commit holds."""
    root = used.root
    lock = git(root, "show", f"{used.tags[2][COMMIT_TAG]}:dvc.lock")
    for text in (lock + "\n", "schema: '2.0'\n"):
        (root / "dvc.lock").write_text(text)
        git(root, "add", "dvc.lock")
        git(root, "commit", "-q", "-m", "mine")
    other = used.run("other", train__seed=5)
    (root / "dvc.lock").write_text(git(root, "show", f"{other[COMMIT_TAG]}:dvc.lock") + "\n")
    git(root, "branch", "-q", "-D", "retrain/other")
    housekeeping.clear(MODEL_NAME, 1)
    assert versions() == {"1", "2", "4"}
    assert all(used.cached(tags) for tags in (*used.tags, other))


def test_what_another_worktree_has_not_committed_stays(used: Retrained, tmp_path: Path) -> None:
    git(used.root, "worktree", "add", "-q", "--detach", str(tmp_path / "mine"))
    lock = git(used.root, "show", f"{used.tags[2][COMMIT_TAG]}:dvc.lock")
    (tmp_path / "mine" / "dvc.lock").write_text(lock + "\n")
    housekeeping.clear(MODEL_NAME, 1)
    assert used.cached(used.tags[2])


def test_a_kept_versions_commit_outlives_its_branch(used: Retrained) -> None:
    housekeeping.clear(MODEL_NAME, 1)
    git(used.root, "branch", "-q", "-D", "retrain/demo")
    git(used.root, "reflog", "expire", "--expire=now", "--all")
    git(used.root, "gc", "-q", "--prune=now")
    housekeeping.clear(MODEL_NAME, 1)
    assert [used.cached(tags) for tags in used.tags] == [True, True, False, True]
    # A version that is gone holds its commit no longer.
    store().delete_model_version(MODEL_NAME, "4")
    retired = parts(housekeeping.clear(MODEL_NAME, 1))
    assert retired["commits of no version"] == (1, "") and retired["DVC cache"] == (3, "")
    assert not used.cached(used.tags[3])
    assert commits.pinned() == {tags[COMMIT_TAG] for tags in used.tags[:2]}


def test_versions_of_other_models_stay_with_what_they_need(used: Retrained) -> None:
    used.register(used.tags[2], name="other")
    housekeeping.clear(MODEL_NAME, 1)
    assert versions() == {"1", "2", "4"} and versions("other") == {"1"}
    assert used.cached(used.tags[2])


def test_what_any_of_the_users_stashes_needs_stays(used: Retrained) -> None:
    """Version 3's lock in the older of two."""
    lock = used.root / "dvc.lock"
    for text in (git(used.root, "show", f"{used.tags[2][COMMIT_TAG]}:dvc.lock") + "\n", "schema: '2.0'\n"):
        lock.write_text(text)
        git(used.root, "add", "dvc.lock")
        git(used.root, "stash", "push", "-q")
    housekeeping.clear(MODEL_NAME, 1)
    assert used.cached(used.tags[2])


def test_a_version_that_came_into_use_meanwhile_stays(
    retrained: Retrained, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    retrained.register(*retrained.tags)
    remove = housekeeping._remove_files

    def remove_while_somebody_else_is_at_work(*arguments: Any) -> None:
        remove(*arguments)
        store().set_registered_model_alias(MODEL_NAME, "mine", "2")

    monkeypatch.setattr(housekeeping, "_remove_files", remove_while_somebody_else_is_at_work)
    assert parts(housekeeping.clear(MODEL_NAME, 1))["MLflow versions"] == (3, "")
    assert versions() == {"2", "4"}
    assert caplog.messages == [f"{MODEL_NAME} version 2 is needed by now and stays"]


def test_a_file_that_another_version_shares_stays(used: Retrained) -> None:
    store().create_registered_model("copy")
    store().copy_model_version(f"models:/{MODEL_NAME}/3", "copy")
    model = logged_model("3")
    housekeeping.clear(MODEL_NAME, 1)
    assert versions() == {"1", "2", "4"}
    assert [entry.path for entry in store().list_logged_model_artifacts(model)] == ["model.onnx"]


def test_versions_and_their_files_go_from_a_server_too(retrained: Retrained, server: Server) -> None:
    retrained.register(*retrained.tags)
    place("2")
    model = logged_model("1")
    files = server.database.parent / "artifacts"
    assert any(model in str(path) for path in files.rglob("model.onnx"))
    gone = {part.name: part for part in housekeeping.clear(MODEL_NAME, 1)}
    assert (gone["MLflow versions"].count, gone["MLflow versions"].bytes) == (2, 2000)
    assert versions() == {"2", "4"}
    assert not any(model in str(path) for path in files.rglob("model.onnx"))


def test_a_crashed_runs_worktree_goes(used: Retrained) -> None:
    crash = (
        "import os; from pipeline.workspace import detached\nwith detached('crashed', 'HEAD'): os._exit(9)"
    )
    environment = {**workspace.dvc_environment(), "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", crash], env=environment, check=False)
    assert parts(housekeeping.look(MODEL_NAME, 9))["crashed runs' worktrees"] == (1, "")
    housekeeping.clear(MODEL_NAME, 9)
    assert not (used.root / ".retrain" / "crashed").exists()
    assert len(git(used.root, "worktree", "list").splitlines()) == 1


def test_a_checkpoint_goes_that_nobody_has_gone_on_with_and_nobody_holds(used: Retrained) -> None:
    folders = {name: used.root / ".checkpoints" / name for name in ("old", "held", "new")}
    long_ago = time.time() - (housekeeping.STALE_DAYS + 1) * 24 * 3600
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        for path in (folder / "checkpoint.pt", folder / "lock", folder):
            path.touch()
            os.utime(path, (long_ago, long_ago) if name != "new" else None)
    with FileLock(folders["held"] / "lock"):
        os.utime(folders["held"] / "lock", (long_ago, long_ago))
        assert parts(housekeeping.clear(MODEL_NAME, 9))["stale checkpoints"] == (1, "")
    assert [folder.exists() for folder in folders.values()] == [False, True, True]


# --- what holds it up --------------------------------------------------------------------------------


def test_while_a_run_is_in_progress_nothing_goes_that_it_could_use(used: Retrained) -> None:
    with workspace.workspace("at-work", "demo"):
        found = parts(housekeeping.clear(MODEL_NAME, 1))
    for name in ("MLflow versions", "commits of no version", "DVC cache"):
        assert found[name] == (0, "a run is in progress (at-work)")
    assert versions() == {"1", "2", "3", "4"} and used.cached(used.tags[2])


def test_while_dvc_is_at_work_its_cache_stays(used: Retrained) -> None:
    noted = {"write": {}, "read": {"x": [{"pid": os.getpid(), "cmd": "dvc repro"}]}}
    (used.root / ".dvc" / "tmp").mkdir(exist_ok=True)
    (used.root / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(noted))
    found = parts(housekeeping.look(MODEL_NAME, 1))["DVC cache"]
    assert found == (0, f"dvc is at work in {used.root} (process {os.getpid()})")


def test_a_cache_that_other_projects_may_share_is_left_to_its_owner(used: Retrained, tmp_path: Path) -> None:
    (used.root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {tmp_path / 'shared'}\n")
    found = parts(housekeeping.look(MODEL_NAME, 1))["DVC cache"]
    assert found == (
        0,
        f"cache.dir is {tmp_path / 'shared'}, which other projects may use; see `dvc gc --projects`",
    )


def test_while_no_commit_has_a_kept_versions_results_the_cache_stays(retrained: Retrained) -> None:
    """Such as those of a dvc repro that nobody committed, when the tree has gone on."""
    commit, head = retrained.tags[0][COMMIT_TAG], git(retrained.root, "rev-parse", "HEAD")
    report = git(retrained.root, "show", f"{commit}:reports/export.json")
    tags = {key: value for key, value in retrained.tags[0].items() if key != COMMIT_TAG}
    retrained.register({**tags, "git_commit": head, "git_dirty": "true"})

    def left() -> str:
        return parts(housekeeping.look(MODEL_NAME, 1))["DVC cache"][1]

    assert left() == ""
    git(retrained.root, "branch", "-q", "-D", "retrain/demo")
    said = "no commit here has the results of tiny version 1; commit or fetch them, or delete it"
    assert left() == said
    housekeeping.clear(MODEL_NAME, 1)
    assert retrained.cached(tags)
    # The tree still has them.
    (retrained.root / "reports" / "export.json").write_text(report)
    assert left() == ""
    (retrained.root / "reports" / "export.json").unlink()
    # They are in another clone.
    store().set_model_version_tag(MODEL_NAME, "1", "git_commit", "0" * 40)
    assert left() == ""


def test_a_server_that_is_down_is_no_empty_registry(used: Retrained, no_server: str) -> None:
    with pytest.raises(UserError, match=f"MLflow at {no_server} does not answer"):
        housekeeping.clear(MODEL_NAME, 1)
    assert all(used.cached(tags) for tags in used.tags) and not commits.pinned()


def test_a_model_that_is_not_there_lets_nothing_go(retrained: Retrained) -> None:
    with pytest.raises(UserError, match="no model tiny in "):
        housekeeping.clear(MODEL_NAME, 1)
    assert all(retrained.cached(tags) for tags in retrained.tags)


def test_a_failure_in_between_leaves_all_that_is_kept(
    used: Retrained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store goes away once the first version is removed."""

    def lost(*arguments: object) -> None:
        raise MlflowException("API request to http://… failed with: Max retries exceeded")

    monkeypatch.setattr(housekeeping, "_remove_files", lost)
    with pytest.raises(UserError, match="does not answer"):
        housekeeping.clear(MODEL_NAME, 1)
    assert versions() == {"1", "2", "4"}
    assert commits.pinned() == {tags[COMMIT_TAG] for tags in (*used.tags[:2], used.tags[3])}
    assert all(used.cached(tags) for tags in used.tags)
