"""`pix2pix reproduce`: a version made once more from its commit, with real git, DVC and MLflow."""

import shutil
import sys
from pathlib import Path

import pytest

from pipeline.commits import COMMIT_TAG
from pix2pix.files import sha256_file

from .conftest import Project, checkout, store, write_data

# What a scheduled run does after its stages, with other epochs than the committed ones.
RETRAIN = """
import pathlib, contextlib
from pipeline import outcome, registry, retrain_branch, workspace
with workspace.workspace("run", "demo") as made:
    params = workspace.set_params(made, None, {"train.epochs": 3})
    made.dvc("repro", "export", "evaluate")
    commit = retrain_branch.leave_commit(made, "retrained")
    with contextlib.chdir(made.root):
        outcome.tag_commit(registry.register(params, "# a card"), commit)
"""


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose version 1 a scheduled run has registered."""
    folder = tmp_path_factory.mktemp("retrained")
    write_data(folder / "data")
    project = checkout(folder / "project", folder / "data")
    project.run(sys.executable, "-c", RETRAIN)
    return project


def state(project: Project) -> tuple[object, ...]:
    """All that must not change: git's view of the tree, the registry and its runs."""
    client = store(project)
    experiment = client.get_experiment_by_name("tiny")
    return (
        project.run("git", "status", "--porcelain").stdout,
        project.run("git", "for-each-ref").stdout,
        [(v.version, v.tags, v.aliases) for v in client.search_model_versions("name='tiny'")],
        len(client.search_runs([experiment.experiment_id])),
    )


def nothing_is_left(project: Project) -> bool:
    folders = [path for path in (project.root / ".retrain").iterdir() if path.is_dir()]
    return not folders and len(project.run("git", "worktree", "list").stdout.splitlines()) == 1


def empty_cache(project: Project) -> None:
    shutil.rmtree(project.root / ".dvc" / "cache")


def test_a_version_is_restored_then_trained_again_then_pulled_always_with_its_digest(
    retrained: Project, tmp_path: Path
) -> None:
    before = state(retrained)
    version = store(retrained).get_model_version("tiny", "1")
    restored = retrained.pix2pix("reproduce", "1")
    commit, digest = version.tags[COMMIT_TAG][:12], version.tags["onnx_sha256"]
    proof = f"(commit {commit}); models/generator.onnx has the registered digest {digest[:12]}\n"
    assert restored.stdout == f"tiny version 1: restored from the cache {proof}"

    empty_cache(retrained)
    again = retrained.pix2pix("reproduce", "1", "--to", str(tmp_path))
    assert again.stdout.startswith("tiny version 1: trained again in ") and proof in again.stdout
    assert "Running stage 'train':" in again.stderr and "epoch 3: validation L1" in again.stderr
    assert sha256_file(tmp_path / "generator.onnx") == digest
    assert sha256_file(tmp_path / "generator.safetensors") == version.tags["weights_sha256"]

    # What was proven is in the cache again; from there into a remote, and out of it.
    assert "restored from the cache" in retrained.pix2pix("reproduce", "1").stdout
    retrained.dvc("remote", "add", "--local", "-d", "store", str(tmp_path / "remote"))
    shutil.copytree(retrained.root / ".dvc" / "cache" / "files", tmp_path / "remote" / "files")
    empty_cache(retrained)
    assert "restored from the DVC remote" in retrained.pix2pix("reproduce", "1").stdout
    retrained.dvc("remote", "remove", "--local", "store")
    assert state(retrained) == before and nothing_is_left(retrained)


def test_versions_of_a_plain_repro_are_made_from_the_commits_that_brought_their_results(
    project: Project,
) -> None:
    """The first of a clean tree, the second of one with changes, both committed afterwards as people do."""

    def registered(seed: int) -> str:
        project.set(train={"seed": seed})
        if seed == 2:
            project.run("git", "commit", "-q", "-a", "-m", f"seed {seed}")
        project.dvc("repro")
        project.run("git", "commit", "-q", "-a", "-m", f"seed {seed}: results")
        return project.run("git", "rev-parse", "HEAD").stdout.strip()

    made_from = {"1": registered(2), "2": registered(3)}
    client = store(project)
    for (version, commit), dirty in zip(made_from.items(), ("false", "true"), strict=True):
        known = client.get_model_version("tiny", version)
        assert known.tags["git_dirty"] == dirty
        assert client.get_run(known.run_id).data.tags["git_dirty"] == dirty
        said = project.pix2pix("reproduce", version).stdout
        assert said.startswith(f"tiny version {version}: restored from the cache (commit {commit[:12]})")
