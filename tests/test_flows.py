"""What the flow works out before and after the stages; the flow itself is tested in end_to_end/."""

import base64
import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline import flows, outcome, stage_tasks
from pipeline.registry import Registered
from pipeline.stage_tasks import share_done
from pipeline.workspace import Workspace

PROJECT = Path(__file__).parents[1]
STAGES = ["fetch", "prepare", "train", "evaluate", "export", "register"]


@pytest.mark.parametrize(
    ("line", "share"),
    [
        ("train: 120/400 steps, 3 min 05 s left  epoch 2/4  G 0.7", 30.0),
        ("fetch: 3/30 MB", 10.0),
        ("fetch: 3 MB", None),
        ("epoch 1/2: validation L1 0.1", None),
        ("train: 0/0 steps", None),
    ],
)
def test_how_far_a_stage_is_comes_from_its_lines(line: str, share: float | None) -> None:
    assert share_done(line) == share


def test_the_lines_are_those_that_stages_write(capsys: pytest.CaptureFixture[str]) -> None:
    from stages import console

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "LINE_EVERY_S", 0)
        with console.progress("train", total=8, unit="steps", style="lines") as update:
            update(2)
    assert share_done(capsys.readouterr().err.splitlines()[0]) == 25.0


@pytest.fixture
def made(tmp_path: Path) -> Workspace:
    """The project's graph, and nothing of its data."""
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    return Workspace(tmp_path, "retrain/test", "0")


def test_every_stage_of_the_graph_is_run_after_those_it_needs(made: Workspace) -> None:
    plan = stage_tasks.Plan(made.graph(), set(), force=False)
    assert sorted(plan.order) == sorted(STAGES)
    for stage, needed in plan.graph.items():
        assert all(plan.order.index(other) < plan.order.index(stage) for other in needed)


def test_a_stage_that_is_added_to_dvc_yaml_is_in_the_graph_with_no_other_change(made: Workspace) -> None:
    text = (made.root / "dvc.yaml").read_text()
    added = "stages:\n  publish:\n    cmd: exec true\n    deps: [models/generator.onnx]\n"
    (made.root / "dvc.yaml").write_text(text.replace("stages:\n", added, 1))
    graph = made.graph()
    assert graph["publish"] == {"export"}
    assert set(graph) == {*STAGES, "publish"}


def test_what_depends_on_a_stage_that_runs_is_looked_at_and_the_rest_is_settled() -> None:
    graph: dict[str, set[str]] = {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"a"}}
    assert stage_tasks.Plan(graph, {"a", "c", "d"}, force=False).to_run == ["b", "c"]
    assert stage_tasks.Plan(graph, set(graph), force=False).to_run == []
    assert sorted(stage_tasks.Plan(graph, set(graph), force=True).to_run) == sorted(graph)


def test_where_nothing_is_there_yet_nothing_is_settled(made: Workspace) -> None:
    assert stage_tasks.settled(made) == set()


def metrics(l1: float) -> dict[str, Any]:
    values = {
        "kd_efficientnet_lite0": 0.2,
        "fd_efficientnet_lite0": 100.0,
        "l1": l1,
        "psnr_db": 18,
        "ssim": 0.5,
    }
    floor = {"kd_efficientnet_lite0": 0.02, "fd_efficientnet_lite0": 30.0}
    features = {"name": "efficientnet-lite0", "sha256": "f"}
    return {
        "images": 8,
        "split_sha256": "s",
        "features": features,
        "model": values,
        "input_as_output": {**values, "l1": 0.5},
        "floor": floor,
    }


def test_the_table_sets_champion_and_challenger_side_by_side() -> None:
    rows = {row["metric"]: row for row in outcome.table(metrics(0.1), metrics(0.15))}
    assert list(rows) == [
        "kd_efficientnet_lite0",
        "fd_efficientnet_lite0",
        "L1 (0–1)",
        "PSNR (dB) (higher is better)",
        "SSIM (higher is better)",
    ]
    assert rows["L1 (0–1)"] == {
        "metric": "L1 (0–1)",
        "champion": "0.15",
        "challenger": "0.1",
        "difference": "-0.05",
        "input as output": "0.5",
        "floor": "",
    }
    assert rows["kd_efficientnet_lite0"]["floor"] == "0.02"


@pytest.mark.parametrize("change", [None, {"split_sha256": "other"}, {"features": {"name": "other"}}])
def test_a_champion_that_was_measured_otherwise_is_not_set_against_it(change: dict[str, Any] | None) -> None:
    standing = None if change is None else {**metrics(0.15), **change}
    assert all(row["champion"] == row["difference"] == "" for row in outcome.table(metrics(0.1), standing))


def test_a_page_that_cannot_be_written_is_logged_and_fails_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*arguments: object) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(outcome, "publish", refused)
    # Outside of a run there is none of Prefect's.
    monkeypatch.setattr(flows, "get_run_logger", lambda: logging.getLogger("run"))
    flows._publish("1", "demo", "retrain/demo", "c0ffee", Registered("m", "2", "champion", "better", True))
    assert caplog.messages == ["not everything is on the run's page: the server is gone"]


def test_the_picture_is_reduced_and_travels_as_text(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 1500), (10, 200, 30)).save(tmp_path / "grid.png")
    head, data = outcome._data_uri(tmp_path / "grid.png").split(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (1000, 500)
        assert image.getpixel((5, 5)) == (10, 200, 30)


def test_the_deployments_name_presets_and_parameters_that_exist() -> None:
    from ruamel.yaml import YAML

    deployments = {
        item["name"]: item
        for item in YAML(typ="safe").load((PROJECT / "prefect.yaml").read_text())["deployments"]
    }
    assert set(deployments) == {"quickstart", "facades-small", "facades-weekly"}
    schema = json.loads(flows.retrain.parameters.model_dump_json())["properties"]
    presets = schema["preset"]["anyOf"][0]["enum"]
    for item in deployments.values():
        assert set(item["parameters"]) <= set(schema)
        assert item["parameters"]["preset"] in presets
        assert item["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert [schedule["active"] for schedule in deployments["facades-weekly"]["schedules"]] == [False]
