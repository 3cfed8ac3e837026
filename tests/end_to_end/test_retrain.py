"""The flow `retrain` as a user has it: servers, worker, deployments; its faults, plugs pulled out."""

import hashlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, STAGES, TINY, Project, wait_for, write_data
from .retrain_fixtures import LONG, Servers

pytest_plugins = ["end_to_end.retrain_fixtures"]
PUBLISHED = {"dataset.source": "pix2pix/datasets.py", "dataset.name": "facades"}


def state(project: Project) -> tuple[str, ...]:
    return tuple(
        project.run("git", *command).stdout
        for command in (["status", "--porcelain"], ["rev-parse", "HEAD"], ["worktree", "list"])
    )


@pytest.fixture(scope="module")
def first(servers: Servers) -> tuple[str, subprocess.CompletedProcess[str], bool]:
    """The first run, as a user types it: its id, what was printed, and whether the tree is as it was."""
    (servers.project.root / "params.yaml").open("a").write("# a change of the user's\n")
    before = state(servers.project)
    done = servers.project.run(
        *(sys.executable, "-m", "prefect", "deployment", "run", "retrain/quickstart", "-p", "preset=null"),
        "--watch",
        ok=False,
    )
    found = re.search(r"UUID: (\S+)", done.stdout)
    assert found, done.stdout + done.stderr
    return found[1], done, before == state(servers.project)


def test_the_first_run_ends_completed_with_a_task_for_every_stage(
    servers: Servers, first: tuple[str, Any, bool]
) -> None:
    run, done, _ = first
    assert done.returncode == 0, servers.said(run)
    assert "finished successfully in 'Completed'" in done.stdout
    assert servers.tasks(run) == {stage: ("Completed", "done") for stage in STAGES}
    assert "training on cpu" in servers.said(run)
    assert servers.nothing_is_left(run)


def test_the_users_tree_is_untouched_and_the_worktree_is_gone(
    servers: Servers, first: tuple[str, Any, bool]
) -> None:
    assert first[2]
    assert [path.name for path in (servers.project.root / ".retrain").iterdir()] == ["lock"]


def test_the_run_leaves_a_commit_that_the_version_carries(
    servers: Servers, first: tuple[str, Any, bool]
) -> None:
    git = servers.project.run
    commit = git("git", "rev-parse", "retrain/quickstart").stdout.strip()
    names = git("git", "diff", "--name-only", "HEAD", commit).stdout.split()
    assert {"dvc.lock", "reports/metrics.json", "reports/export.json"} <= set(names)
    (version,) = servers.versions()
    assert version.tags["retrain_commit"] == commit
    export = json.loads(git("git", "show", f"{commit}:reports/export.json").stdout)
    assert version.tags["onnx_sha256"] == export["onnx_sha256"]


def test_the_page_has_the_numbers_the_decision_and_the_picture(
    servers: Servers, first: tuple[str, Any, bool]
) -> None:
    artifacts = servers.artifacts(first[0])
    # And how far stages are that take long enough to say so.
    shown = {key for key, artifact in artifacts.items() if artifact["type"] != "progress"}
    assert shown == {"quickstart-metrics", "quickstart-decision", "quickstart-test-grid"}
    rows = json.loads(artifacts["quickstart-metrics"]["data"])
    assert [row["metric"] for row in rows][2] == "L1 (0–1)"
    assert all(row["challenger"] and row["champion"] == "" for row in rows)
    decision = artifacts["quickstart-decision"]["data"]
    assert "**tiny version 1 is champion**" in decision and "/#/models/tiny/versions/1" in decision
    assert artifacts["quickstart-test-grid"]["data"].startswith("data:image/png;base64,")


def test_of_two_runs_started_together_one_waits_and_both_are_unchanged_and_add_nothing(
    servers: Servers, first: tuple[str, Any, bool]
) -> None:
    before = len(servers.versions()), len(servers.runs())
    runs = [servers.begin(), servers.begin(refresh=True)]
    assert [servers.ended(run)["name"] for run in runs] == ["Unchanged", "Unchanged"]
    assert (len(servers.versions()), len(servers.runs())) == before
    assert servers.tasks(runs[0]) == {}
    states = [servers.get(f"/flow_run_states/?flow_run_id={run}") for run in runs]
    waited = ["AwaitingConcurrencySlot" in {item["name"] for item in items} for items in states]
    assert sorted(waited) == [False, True]


def test_what_the_registry_lost_is_restored_and_registered_without_training(
    servers: Servers, first: tuple[str, Any, bool]
) -> None:
    (lost,) = servers.versions()
    servers.mlflow.delete_registered_model("tiny")
    run = servers.begin()
    assert servers.ended(run)["name"] == "Completed"
    assert servers.tasks(run) == {stage: ("Completed", "unchanged, restored from cache") for stage in STAGES}
    (again,) = servers.versions()
    assert again.tags["onnx_sha256"] == lost.tags["onnx_sha256"]
    assert again.tags["retrain_commit"] == lost.tags["retrain_commit"]


# --- who promotes, and from what ---------------------------------------------------------------------


def waiting(servers: Servers, run: str) -> str:
    """The name of a run, once it asks."""
    wait_for(lambda: servers.get(f"/flow_runs/{run}")["state_type"] == "PAUSED", 120, every=0.5)
    return str(servers.get(f"/flow_runs/{run}")["name"])


def of(servers: Servers, model: str) -> tuple[dict[str, str], str]:
    """The registry's aliases of a model and what it says of version 1."""
    aliases = servers.mlflow.get_registered_model(model).aliases
    return aliases, servers.mlflow.get_model_version(model, "1").tags["decision"]


def test_a_run_that_may_not_promote_leaves_it_to_one_that_asks_and_a_yes_makes_the_champion(
    servers: Servers, first: tuple[str, Any, bool]
) -> None:
    overrides = {"registry.model_name": "asked"}
    never = servers.begin(overrides=overrides, promote="never")
    assert "challenger: the gate would promote it" in servers.ended(never)["message"]
    assert of(servers, "asked")[0] == {"challenger": "1"}
    assert servers.ended(servers.begin(overrides=overrides, promote="never"))["name"] == "Unchanged"

    asking = servers.begin(overrides=overrides, promote="ask")
    name = waiting(servers, asking)
    # What is asked about can be seen.
    assert "the gate would make it champion" in servers.artifacts(asking)["quickstart-decision"]["data"]
    approve = ("-m", "pipeline.cli", "approve", name, "--because", "sharper windows")
    said = servers.project.run(sys.executable, *approve)
    assert said.stdout == f"{name}: yes: the challenger becomes champion\n"
    assert servers.ended(asking)["type"] == "COMPLETED"
    assert of(servers, "asked")[0] == {"champion": "1"}
    (move,) = [
        json.loads(value)
        for key, value in servers.mlflow.get_registered_model("asked").tags.items()
        if key.startswith("champion_0")
    ]
    assert (move["how"], move["because"].partition(" (")[0]) == ("approved", "sharper windows")
    assert "@" in move["by"]
    again = servers.project.run(sys.executable, *approve, ok=False)
    assert again.returncode == 2
    assert again.stderr == f"error: {name}: is Completed and waits for no answer; waiting: none\n"


def test_a_no_and_no_answer_leave_the_challenger_one_and_are_not_asked_again(
    servers: Servers, first: tuple[str, Any, bool]
) -> None:
    overrides = {"registry.model_name": "declined"}
    asking = servers.begin(overrides=overrides, promote="ask")
    waiting(servers, asking)
    reject = ("-m", "pipeline.cli", "approve", asking, "--reject", "--because", "blurred")
    servers.project.run(sys.executable, *reject)
    assert servers.ended(asking)["message"].startswith("declined is version 1, challenger: declined by")
    aliases, decision = of(servers, "declined")
    assert aliases == {"challenger": "1"} and decision.endswith(": blurred")
    assert servers.ended(servers.begin(overrides=overrides))["name"] == "Unchanged"

    overrides = {"registry.model_name": "unanswered"}
    asking = servers.begin(overrides=overrides, promote="ask", ask_timeout_h=0.001)
    assert servers.ended(asking)["type"] == "COMPLETED"
    aliases, decision = of(servers, "unanswered")
    assert aliases == {"challenger": "1"}
    assert decision == "declined by retrain: nobody answered within 0.001 h"


def test_a_warm_start_takes_the_champions_weights_and_is_unchanged_while_nothing_else_is(
    servers: Servers, first: tuple[str, Any, bool]
) -> None:
    nothing_new = servers.begin(warm_start="champion")
    assert servers.ended(nothing_new)["type"] == "COMPLETED"
    assert "training begins" not in servers.said(nothing_new)
    version = servers.mlflow.get_model_version_by_alias("tiny", "champion")
    overrides = {"train.seed": 9}
    warm = servers.begin(overrides=overrides, warm_start="champion")
    assert servers.ended(warm)["type"] == "COMPLETED", servers.said(warm)
    said = servers.said(warm)
    assert f"training begins with the weights of version {version.version}" in said
    used = servers.project.run("git", "show", "retrain/quickstart:params.yaml").stdout
    assert version.tags["onnx_sha256"] in used
    assert servers.ended(servers.begin(overrides=overrides, warm_start="champion"))["name"] == "Unchanged"


# --- mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameter", ["preset=facade", "refresh=perhaps", "stage_timeout_h=0", "lr=3"])
def test_a_value_that_cannot_be_is_refused_before_anything_starts(servers: Servers, parameter: str) -> None:
    before = flow_runs(servers)
    command = ("-m", "prefect", "deployment", "run", "retrain/quickstart", "-p", parameter)
    refused = servers.project.run(sys.executable, *command, ok=False)
    assert refused.returncode == 1
    assert parameter.partition("=")[0] in refused.stdout + refused.stderr
    assert flow_runs(servers) == before


def flow_runs(servers: Servers) -> int:
    return int(servers.post("/flow_runs/count"))


def test_mistakes_of_the_user_fail_the_run_with_their_one_line(servers: Servers, tmp_path: Path) -> None:
    typo = servers.begin(overrides={"train.epoch": 3})
    message = servers.ended(typo)["message"]
    assert message == "overrides over params.yaml: train.epoch: unknown key; did you mean train.epochs?"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "note.txt").write_text("no image")
    bad = servers.begin(overrides={"dataset.source": str(tmp_path / "empty"), "dataset.name": "empty"})
    ended = servers.ended(bad)
    assert ended["type"] == "FAILED"
    assert ended["message"].startswith(f"dataset.source: {tmp_path / 'empty'} holds no image")
    tasks = servers.tasks(bad)
    assert tasks["fetch"] == ("Failed", ended["message"])
    assert tasks["prepare"][0] == "NotReady"
    assert servers.nothing_is_left(bad)


def test_a_slot_that_stays_taken_and_a_stage_that_takes_too_long_end_at_their_time_outs(
    servers: Servers,
) -> None:
    slot = {"names": ["gpu"], "slots": 1, "mode": "concurrency"}
    servers.post("/v2/concurrency_limits/increment", **slot)
    try:
        waiting = servers.begin(overrides={"train.seed": 3}, gpu_timeout_h=0.001)
        assert servers.ended(waiting)["message"].startswith("train: no slot of gpu was free for 0.001 h")
    finally:
        servers.post("/v2/concurrency_limits/decrement", **slot)
    slow = servers.begin(overrides={"train.seed": 3, "train.epochs": 5000}, stage_timeout_h=0.004)
    assert servers.ended(slow)["message"] == "train: ended after 0.004 h, its time-out"
    assert servers.nothing_is_left(slow)


def test_a_source_that_fails_at_first_is_asked_again_later(servers: Servers) -> None:
    # As often as one try of fetch asks for itself.
    servers.mirror.refusals = [503] * 4
    run = servers.begin(overrides=PUBLISHED)
    wait_for(lambda: servers.tasks(run).get("fetch", ("", ""))[0] == "AwaitingRetry", 90, every=0.3)
    assert servers.mirror.asked == [503] * 4
    wait_for(lambda: servers.tasks(run)["fetch"][0] == "Completed", 90, every=0.5)
    assert servers.mirror.asked == [503] * 4 + [200]
    servers.post(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING"})
    assert servers.ended(run)["type"] == "CANCELLED"


def test_refresh_asks_the_source_before_any_stage_and_pins_what_it_has(
    servers: Servers, first: tuple[str, Any, bool]
) -> None:
    mirror = servers.mirror
    digest = hashlib.sha256(mirror.archive).hexdigest()
    # A pin gives way to what is there now.
    pinned = {**PUBLISHED, "dataset.sha256": "0" * 64}
    run = servers.begin(overrides=pinned, refresh=True)
    assert servers.ended(run, 480)["name"] == "Completed", servers.said(run)
    assert servers.tasks(run)["refresh"] == ("Completed", f"dataset.sha256 = {digest}")
    shown = servers.project.run("git", "show", "retrain/quickstart:params.yaml").stdout
    assert f"sha256: '{digest}'" in shown
    # The stage found what the flow had got.
    asked = len(mirror.asked)
    assert mirror.asked[-1] in (200, 304)

    run = servers.begin(overrides=PUBLISHED, refresh=True)
    assert servers.ended(run)["name"] == "Unchanged", servers.said(run)
    assert mirror.asked[asked:] == [304]
    assert "is still what the server has" in servers.said(run)

    # More than are asked for before the run has been cancelled.
    mirror.refusals = [503] * 100
    run = servers.begin(overrides=PUBLISHED, refresh=True)
    wait_for(lambda: servers.tasks(run).get("refresh", ("", ""))[0] == "AwaitingRetry", 90, every=0.3)
    servers.project.run(sys.executable, "-m", "prefect", "flow-run", "cancel", run)
    assert servers.ended(run)["type"] == "CANCELLED"
    wait_for(lambda: not (servers.project.root / ".retrain" / run).exists(), 30)
    mirror.refusals.clear()
    assert set(mirror.asked[asked + 1 :]) == {503}


# --- deployments and their automation -----------------------------------------------------------------


def test_the_automation_follows_its_file_and_the_variable_and_is_never_doubled(servers: Servers) -> None:
    file = servers.project.root / "automations.yaml"
    address = f"http://127.0.0.1:{servers.chat.server_port}/secret"

    def arranged(address: str, ok: bool = True) -> tuple[str, dict[str, Any]]:
        command = (sys.executable, "-m", "pipeline.notification")
        done = servers.project.run(*command, ok=ok, PIX2PIX_WEBHOOK=address)
        (automation,) = servers.post("/automations/filter")
        return done.stdout + done.stderr, automation

    (as_started,) = servers.post("/automations/filter")
    assert as_started["enabled"]
    # What is as it should be is left alone.
    assert arranged(address) == ("failed and crashed runs are told to 127.0.0.1\n", as_started)
    file.write_text(file.read_text().replace("name: retrain\n", "name: another\n"))
    _, changed = arranged(address)
    assert changed["id"] == as_started["id"]
    assert changed["trigger"]["match_related"]["prefect.resource.name"] == "another"
    said, off = arranged("")
    assert said.startswith("nobody is told of failed runs; PIX2PIX_WEBHOOK=https://")
    assert not off["enabled"]
    file.write_text(file.read_text().replace("name: another\n", "name: retrain\n"))
    said, refused = arranged("hooks.example/secret", ok=False)
    assert said == "error: PIX2PIX_WEBHOOK: must be an address that begins with https:// or http://\n"
    assert refused == off
    _, again = arranged(address)
    assert again["enabled"] and again["trigger"]["match_related"] == as_started["trigger"]["match_related"]


def test_a_second_run_of_a_deployment_that_cancels_new_ones_is_refused(servers: Servers) -> None:
    running = servers.begin("Refusing_v1.0", overrides={**LONG, "train.seed": 6})
    servers.trainer(running)
    refused = servers.ended(servers.begin("Refusing_v1.0"))
    assert (refused["type"], refused["message"]) == ("CANCELLED", "Deployment concurrency limit reached.")
    assert servers.ended(running)["type"] == "COMPLETED"
    assert servers.nothing_is_left(running)
    # Whatever a deployment is called, its page shows what there is to show.
    artifacts = servers.artifacts(running)
    shown = {"metrics", "decision", "test-grid", "train"}
    assert set(artifacts) >= {f"refusing-v1-0-{what}" for what in shown}
    progress = artifacts["refusing-v1-0-train"]
    assert (progress["type"], progress["data"], progress["description"]) == ("progress", 100.0, "done")


def test_a_schedule_that_was_switched_on_or_off_stays_so_when_it_is_deployed_again(servers: Servers) -> None:
    def weekly() -> dict[str, Any]:
        (schedule,) = servers.get("/deployments/name/retrain/facades-weekly")["schedules"]
        return dict(schedule)

    def switch(how: str) -> None:
        command = ("deployment", "schedule", how, "retrain/facades-weekly", weekly()["id"])
        servers.project.run(sys.executable, "-m", "prefect", *command)

    assert not weekly()["active"]
    switch("resume")
    as_switched = weekly()["id"]
    servers.end("worker", signal.SIGTERM)
    servers.start("worker")
    assert weekly()["active"]
    assert weekly()["id"] == as_switched
    switch("pause")
    # As a team's checkout is deployed.
    said = servers.project.run(sys.executable, "-m", "pipeline.deployments").stdout
    assert "facades-weekly: schedule off\n" in said and "quickstart: no schedule\n" in said
    assert not weekly()["active"]


def test_own_pairs_are_retrained_on_a_schedule_by_what_the_readme_says(
    servers: Servers, tmp_path: Path
) -> None:
    project, readme = servers.project, (ROOT / "README.md").read_text()
    write_data(tmp_path / "mine", {"train": 8, "val": 2, "test": 9})
    project.pix2pix("init-dataset", str(tmp_path / "mine"))
    (entry,) = re.findall(r"```yaml\n(  - name: mine\n.*?)```", readme, re.DOTALL)
    (commit,) = re.findall(r"^(git add presets/mine\.yaml .*?)  +#", readme, re.MULTILINE)
    with (project.root / "prefect.yaml").open("a") as deployments:
        deployments.write(f"\n{entry}")
    deploy = (sys.executable, "-m", "pipeline.deployments")
    assert "mine: schedule on\n" in project.run(*deploy).stdout
    too_early = servers.ended(servers.begin("mine", preset="mine"))
    assert too_early["message"].startswith(
        "presets/mine.yaml: is not committed, and a run works on the commit"
    )
    project.run("bash", "-c", commit)
    small = {f"{part}.{key}": value for part, keys in TINY.items() for key, value in keys.items()}
    run = servers.begin("mine", preset="mine", overrides={**small, "registry.model_name": "mine"})
    assert servers.ended(run)["type"] == "COMPLETED", servers.said(run)
    assert of(servers, "mine")[0] == {"champion": "1"}


def test_a_run_that_is_retried_in_prefect_does_not_take_itself_for_crashed(servers: Servers) -> None:
    flow = servers.get("/deployments/name/retrain/quickstart")["flow_id"]

    def there(kind: str) -> str:
        """A run in a state, and what it has left when it was killed."""
        run = str(servers.post("/flow_runs/", flow_id=flow, state={"type": kind})["id"])
        (servers.project.root / ".retrain" / run).mkdir()
        return run

    def report(own: str) -> dict[str, str]:
        code = f"from pipeline import crashes; crashes.report({own!r})"
        servers.project.run(sys.executable, "-c", code)
        return {run: servers.get(f"/flow_runs/{run}")["state_type"] for run in runs}

    runs = retried, waiting, gone = there("RUNNING"), there("SCHEDULED"), there("RUNNING")
    assert report(retried) == {retried: "RUNNING", waiting: "SCHEDULED", gone: "CRASHED"}
    assert report("") == {retried: "CRASHED", waiting: "SCHEDULED", gone: "CRASHED"}
    for run in runs:
        (servers.project.root / ".retrain" / run).rmdir()
