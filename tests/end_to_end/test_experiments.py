"""Experiments, their queue, and what dvc shows of them."""

import csv

from .conftest import Project, store


def test_an_experiment_and_a_queue_of_them_share_the_store(project: Project) -> None:
    project.dvc("exp", "run", "-q", "-S", "train.lr=1e-3", "-n", "quick")
    project.dvc("exp", "run", "-q", "--queue", "-S", "train.lambda_l1=10", "-n", "queued")
    project.dvc("exp", "run", "-q", "--run-all", "--jobs", "1")
    shown = project.dvc("exp", "show", "--csv").stdout
    rows = {row["Experiment"]: row for row in csv.DictReader(shown.splitlines())}
    assert rows["quick"]["train.lr"] == "0.001"
    assert rows["queued"]["train.lambda_l1"] in ("10", "10.0")
    client = store(project)
    params = [client.get_run(v.run_id).data.params for v in client.search_model_versions("name = 'tiny'")]
    # The queued one was made in a workspace to which the first had been applied.
    assert {run["train.lr"] for run in params} == {"0.001"}
    assert {"10.0"} <= {run["train.lambda_l1"] for run in params}


def test_metrics_and_plots_diff_work(project: Project) -> None:
    project.set(train={"lr": 0.001})
    project.dvc("repro", "evaluate")
    assert "model.l1" in project.dvc("metrics", "diff").stdout
    project.dvc("plots", "diff", "-o", "plots")
    page = (project.root / "plots" / "index.html").read_text()
    assert "g_adversarial" in page
    assert "test_grid.png" in page
