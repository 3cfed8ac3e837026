"""What a run asks the registry and shows on Prefect's page, with a real MLflow store."""

import platform
from pathlib import Path

import mlflow
import pytest
from filelock import FileLock
from registry_fixtures import MODEL_NAME, Project
from retrained_fixtures import Retrained, git
from team_fixtures import ENV_FILE, composed

from pipeline import outcome, registry
from pipeline.commits import COMMIT_TAG
from pipeline.outcome import Known
from pipeline.registry import Registered
from pipeline.workspace import Workspace
from pix2pix import params
from pix2pix.files import sha256_json

pytest_plugins = ["registry_fixtures", "retrained_fixtures"]


def test_beside_new_test_images_stands_what_the_champion_was_measured_to_be_on_them(
    project: Project, store: Path
) -> None:
    project.make("a", 0.2)
    registry.register(project.params(), "# a")
    before = outcome.champion(project.params())
    assert before == "1"
    metrics = project.make("b", 0.3, split="more pairs")
    registry.register(project.params(), "# b", lambda file: project.metrics("a", 0.5, split="more pairs"))
    row, *others = outcome.table(metrics, outcome.measured(MODEL_NAME, before, metrics))
    assert (row["champion"], row["challenger"], row["difference"]) == ("0.5", "0.3", "-0.2")
    assert all(other["champion"] and other["difference"] for other in others)
    # What was measured neither on these images nor again is not set beside them.
    other = project.metrics("c", 0.3, split="yet others")
    assert outcome.table(other, outcome.measured(MODEL_NAME, before, other))[0]["champion"] == ""
    assert outcome.measured(MODEL_NAME, None, metrics) is None


def test_links_lead_where_browsers_find_mlflow(champion: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    done = registry.register(champion.params(), "# a card")
    assert "](http" not in outcome._decision(done, "retrain/demo", "c0ffee")
    monkeypatch.setenv("PIX2PIX_MLFLOW_URL", "http://127.0.0.1:15000/")
    shown = outcome._decision(done, "retrain/demo", "c0ffee")
    assert f"[version 1](http://127.0.0.1:15000/#/models/{MODEL_NAME}/versions/1)" in shown


def test_the_team_s_worker_names_the_port_that_mlflow_is_published_at() -> None:
    services = composed({**ENV_FILE, "MLFLOW_PORT": "15000"})
    assert services["mlflow"]["ports"] == ["127.0.0.1:15000:5000"]
    assert services["worker"]["environment"][outcome.PAGES_VARIABLE] == "http://127.0.0.1:15000"


@pytest.mark.parametrize(
    ("deployment", "key"),
    [
        ("quickstart", "quickstart-test-grid"),
        ("Our_data.v2", "our-data-v2-test-grid"),
        ("Übung 3", "bung-3-test-grid"),
    ],
)
def test_any_deployment_has_a_name_for_its_artifacts(deployment: str, key: str) -> None:
    assert outcome.artifact_key(deployment, "test-grid") == key


def test_mlflow_runs_are_closed_whose_trainers_are_gone_and_no_others(project: Project, store: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{store}")
    client, place = mlflow.MlflowClient(), project.folder / ".retrain"
    for name in ("crashed", "living", "own"):
        (place / name).mkdir(parents=True)
    experiments = [client.create_experiment(name) for name in ("one model", "another")]

    def begun(experiment: str, folder: Path, host: str = platform.node(), **tags: str) -> str:
        # As a stage says it, from the folder it stands in.
        tags = {"place": f"{host}:{folder}", **tags}
        return str(client.create_run(experiment, tags=tags).info.run_id)

    runs = {
        "crashed": begun(experiments[0], place / "crashed" / "tree"),
        "removed": begun(experiments[1], place / "removed" / "tree", weights_sha256=sha256_json("weights")),
        "own": begun(experiments[1], place / "own" / "tree" / "inner"),
        "living": begun(experiments[0], place / "living" / "tree"),
        "elsewhere": begun(experiments[0], place / "crashed" / "tree", host="another"),
        "the user's": begun(experiments[0], project.folder),
    }

    def states() -> dict[str, str]:
        return {name: client.get_run(run).info.status for name, run in runs.items()}

    with FileLock(place / "living" / "lock"), FileLock(place / "own" / "lock"):
        outcome.close_dead_runs()
        running = dict.fromkeys(runs, "RUNNING")
        assert states() == running | {"crashed": "KILLED", "removed": "FINISHED"}
        outcome.close_dead_runs(Workspace(place / "own" / "tree" / "inner", "retrain/demo", "0"))
        assert states() == running | {"crashed": "KILLED", "removed": "FINISHED", "own": "KILLED"}


def test_a_version_whose_run_died_before_it_named_its_commit_is_told_by_the_next(
    retrained: Retrained,
) -> None:
    tip = retrained.tags[-1][COMMIT_TAG]
    retrained.register({key: value for key, value in retrained.tags[-1].items() if key != COMMIT_TAG})
    # As in the worktree of the next run, which begins with what the branch's tip has.
    git(retrained.root, "checkout", "-q", tip, "--", "reports/export.json")
    known = params.load(retrained.root / "params.yaml")
    assert outcome.registered(known, retrained.root) is None
    outcome.tag_commit(Registered(MODEL_NAME, "1", "challenger", "", created=False), tip)
    assert outcome.registered(known, retrained.root) == Known("1", held=False)


def test_a_version_that_no_scheduled_run_has_made_is_known_all_the_same(retrained: Retrained) -> None:
    tip = retrained.tags[-1][COMMIT_TAG]
    retrained.register({key: value for key, value in retrained.tags[-1].items() if key != COMMIT_TAG})
    git(retrained.root, "checkout", "-q", tip, "--", "reports/export.json")
    git(retrained.root, "branch", "-q", "-D", "retrain/demo")
    known = params.load(retrained.root / "params.yaml")
    assert outcome.registered(known, retrained.root) == Known("1", held=False)
