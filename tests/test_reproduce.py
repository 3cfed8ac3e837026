"""`pix2pix reproduce` in a project of quick stages; tests/end_to_end/test_reproduce.py really trains."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from registry_fixtures import MODEL_NAME, Project
from retrained_fixtures import Retrained, command, describe, git, surroundings

from pipeline import lineage, presets, reproduce, tracking
from pipeline.commits import COMMIT_TAG
from pipeline.reproduce import Wanted
from pipeline.workspace import dvc_command, dvc_environment
from pix2pix.errors import UserError
from pix2pix.files import cached_model, sha256_file

pytest_plugins = ["registry_fixtures", "retrained_fixtures"]


def refusal(done: "subprocess.CompletedProcess[str]") -> str:
    """The last line of a command that refused."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def nothing_is_left(project: Retrained) -> bool:
    folders = [path for path in (project.root / ".retrain").iterdir() if path.is_dir()]
    at_work = [process for process in psutil.process_iter() if _works_in(process, project.root / ".retrain")]
    return not folders and not at_work and len(git(project.root, "worktree", "list").splitlines()) == 1


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and Path(process.cwd()).is_relative_to(folder)
    except psutil.Error:
        return False


def empty_cache(project: Retrained) -> None:
    shutil.rmtree(project.root / ".dvc" / "cache")


def test_what_a_training_began_with_is_pulled_where_the_stage_looks_for_it(champion: Project) -> None:
    client = MlflowClient(tracking.store_uri(), tracking.store_uri())
    digest = client.get_model_version(MODEL_NAME, "1").tags["onnx_sha256"]
    assert not cached_model(digest).exists()
    reproduce.deliver_start(Wanted(MODEL_NAME, "2", "", {"warm_start": digest}, {}))
    assert sha256_file(cached_model(digest)) == digest
    with pytest.raises(UserError, match="no version of any more"):
        reproduce.deliver_start(Wanted(MODEL_NAME, "2", "", {"warm_start": "0" * 64}, {}))


# --- made again --------------------------------------------------------------------------------------


def test_rerun_trains_what_the_cache_holds_and_tracks_nothing(retrained: Retrained, tmp_path: Path) -> None:
    retrained.register(*retrained.tags)
    refs = git(retrained.root, "for-each-ref")
    done = retrained.pix2pix("reproduce", "2", "--rerun", "--to", str(tmp_path / "to"), REPRODUCING="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{MODEL_NAME} version 2: trained again in ")
    assert "train: 1/2 steps, 1 s left" in done.stderr
    # The data is what it was, wherever it comes from.
    assert "Running stage 'prepare'" not in done.stderr
    assert sha256_file(tmp_path / "to" / "generator.onnx") == retrained.tags[1]["onnx_sha256"]
    assert git(retrained.root, "for-each-ref") == refs and nothing_is_left(retrained)


def test_another_file_is_one_line_that_says_what_differs_and_nothing_of_it_is_cached(
    retrained: Retrained,
) -> None:
    retrained.register({**retrained.tags[0], "cpu": "Abacus 8", "torch": lineage.machine()["torch"]})
    empty_cache(retrained)
    said = refusal(retrained.pix2pix("reproduce", "1", OTHER_CPU="yes"))
    assert said.startswith(f"error: {MODEL_NAME} version 1: trained again from commit ")
    assert f"registered is {retrained.tags[0]['onnx_sha256'][:12]}" in said
    assert said.endswith(f"CPU Abacus 8 there, {lineage.machine()['cpu']} here")
    assert nothing_is_left(retrained)
    assert retrained.pix2pix("reproduce", "1").returncode == 0


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (
            {},
            "bits are the same on one kind of CPU only, and of there is not known: CPU, cores, Python, torch",
        ),
        ({"cpu_count": "0"}, "cores 0 there, "),
        (None, "CPU, cores, Python, torch are the same; a GPU or another package may not be"),
    ],
)
def test_what_differs_is_what_is_known_to(there: dict[str, str] | None, said: str) -> None:
    assert reproduce._differences(lineage.machine() if there is None else there).startswith(said)


def test_a_damaged_cache_is_not_believed(retrained: Retrained) -> None:
    retrained.register(*retrained.tags)
    for path in (retrained.root / ".dvc" / "cache" / "files").rglob("*"):
        if path.is_file() and sha256_file(path) == retrained.tags[0]["onnx_sha256"]:
            path.chmod(0o644)
            path.write_bytes(b"something else")
    done = retrained.pix2pix("reproduce", "1")
    assert "trained again" in done.stdout, done.stderr


def test_other_data_is_said_before_anything_is_trained(retrained: Retrained) -> None:
    own = retrained.root.parent / "own.txt"
    own.write_text("first")
    source = {"dataset__name": "own", "dataset__source": str(own)}
    retrained.register(retrained.run("own", **source))
    own.write_text("grown")
    # With the data in the cache it does not matter what the source holds now.
    assert retrained.pix2pix("reproduce", "1", "--rerun").returncode == 0
    empty_cache(retrained)
    done = retrained.pix2pix("reproduce", "1")
    assert refusal(done).startswith(f"error: {MODEL_NAME} version 1: was trained on other pairs")
    assert "train: 1/2 steps" not in done.stderr and nothing_is_left(retrained)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stage_and_leaves_nothing(retrained: Retrained, number: signal.Signals) -> None:
    retrained.register(*retrained.tags)
    with subprocess.Popen(
        command("reproduce", "1", "--rerun"),
        env=surroundings(SLOWLY="1"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("train: 1/2"):
                os.kill(process.pid, number)
        assert process.wait(30) == 128 + number
    assert "Traceback" not in "".join(said)
    assert nothing_is_left(retrained)


# --- which commit ------------------------------------------------------------------------------------


def repro(project: Retrained, seed: int) -> dict[str, str]:
    """A plain `dvc repro` with this seed: the tags that its version gets."""
    presets.lay(None, {"train.seed": seed})
    subprocess.run([*dvc_command(), "repro", "-q"], cwd=project.root, env=dvc_environment(), check=True)
    return {**describe(project.root), **lineage.tags()}


def commit(project: Retrained, message: str) -> str:
    git(project.root, "add", "-A")
    git(project.root, "commit", "-q", "-m", message)
    return git(project.root, "rev-parse", "HEAD")


def test_a_version_of_a_clean_tree_is_made_from_the_commit_that_was_checked_out(
    retrained: Retrained,
) -> None:
    """Where its results were never committed; those of an earlier one were."""
    repro(retrained, 6)
    commit(retrained, "seed 6 and its results")
    presets.lay(None, {"train.seed": 7})
    clean = commit(retrained, "seed 7")
    tags = repro(retrained, 7)
    assert (tags["git_dirty"], tags["git_commit"]) == ("false", clean)
    retrained.register(tags)
    git(retrained.root, "checkout", "-q", "--", ".")
    done = retrained.pix2pix("reproduce", "01")
    assert "trained again" in done.stdout and f"(commit {clean[:12]})" in done.stdout, done.stderr


def test_a_version_of_a_changed_tree_is_made_from_the_commit_with_its_results_or_refused(
    retrained: Retrained,
) -> None:
    tags = repro(retrained, 7)
    assert tags["git_dirty"] == "true"
    retrained.register(tags)
    said = refusal(retrained.pix2pix("reproduce", "1"))
    assert "registered from a tree with changes" in said and "only what is committed" in said
    with_results = commit(retrained, "with its results")
    (retrained.root / "notes.txt").touch()
    commit(retrained, "later")
    repro(retrained, 8)
    commit(retrained, "another one's results")
    done = retrained.pix2pix("reproduce", "1")
    assert f"restored from the cache (commit {with_results[:12]})" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("version", "to", "changed", "said"),
    [
        ("2", None, {}, "tiny has no version 2; "),
        ("newest", None, {}, "'newest': is no version; "),
        ("1", None, {COMMIT_TAG: "0" * 40}, "tiny version 1: its commit 000000000000 is not in this clone; "),
        ("1", None, {"onnx_sha256": "f" * 64}, "describes another generator (reports/export.json names "),
        ("1", None, {"onnx_sha256": ""}, "tiny version 1: has no tag onnx_sha256"),
        ("1", Path("params.yaml"), {}, "params.yaml: is a file; --to takes a folder"),
    ],
)
def test_what_cannot_be_made_again_is_refused_before_anything(
    retrained: Retrained, version: str, to: Path | None, changed: dict[str, str], said: str
) -> None:
    retrained.register({**retrained.tags[0], **changed})
    with pytest.raises(UserError, match=re.escape(said)):
        reproduce.reproduce(MODEL_NAME, version, to, False, pytest.fail)


def test_imported_weights_are_restored_and_never_trained(retrained: Retrained) -> None:
    retrained.register({**retrained.tags[0], "imported_sha256": "ab" * 32})
    assert "restored from the cache" in retrained.pix2pix("reproduce", "1").stdout
    said = refusal(retrained.pix2pix("reproduce", "1", "--rerun"))
    assert said.startswith(f"error: {MODEL_NAME} version 1: has imported weights (SHA-256 abababababab), ")


def test_without_an_answer_of_the_registry_nothing_is_made(retrained: Retrained, no_server: str) -> None:
    with pytest.raises(UserError, match=f"MLflow at {no_server} does not answer"):
        reproduce.reproduce(MODEL_NAME, "1", None, False, pytest.fail)
