"""The MLflow run of weights that are trained: found, or rebuilt from the files; what was measured of them."""

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pix2pix.files import sha256_json
from pix2pix.params import Params

from . import lineage, tracking
from .tracking import IMPORTED_TAG, PLACE_TAG, REPORTS, there


def run_of(
    mlflow: Any, params: Params, weights_sha256: str, data: Mapping[str, Any], imported_sha256: str = ""
) -> str:
    """The id of the run that trained these weights; rebuilt from the files where the store lost it.

    Of imported weights it says where they come from, and nothing of a training that they did not have here.
    """
    experiment_id = tracking.use_experiment(mlflow, params.registry.model_name)
    found = mlflow.search_runs(
        [experiment_id], f"tags.weights_sha256 = '{weights_sha256}'", max_results=1, output_format="list"
    )
    if found:
        return str(found[0].info.run_id)
    return _rebuild(mlflow, params, weights_sha256, data, imported_sha256, experiment_id)


def _rebuild(
    mlflow: Any,
    params: Params,
    weights_sha256: str,
    data: Mapping[str, Any],
    imported_sha256: str,
    experiment_id: str,
) -> str:
    from mlflow.entities import Metric

    train_sha256 = data["splits"]["train"]["sha256"]
    points = [
        Metric(name, float(row[name]), 0, int(row["step"]))
        for row in _rows(REPORTS / "losses.csv")
        for name in row
        if name not in ("step", "epoch")
    ]
    points += [
        Metric("val_l1", float(row["l1"]), 0, int(row["step"])) for row in _rows(REPORTS / "validation.csv")
    ]
    origin = {
        "data_sha256": train_sha256,
        "rebuilt_from": "reports/losses.csv, reports/validation.csv, params.yaml",
    }
    if imported_sha256:
        origin = {IMPORTED_TAG: imported_sha256}
    tags = {**lineage.tags(), **origin, PLACE_TAG: tracking.place()}
    not_theirs = ("model.", "train.") if imported_sha256 else ()
    with mlflow.start_run(experiment_id=experiment_id, tags=tags, log_system_metrics=False) as run:
        mlflow.log_params({k: v for k, v in tracking.flat(params).items() if not k.startswith(not_theirs)})
        if not imported_sha256:
            tracking.log_dataset(mlflow, params, train_sha256)
        # A request to MLflow may hold 1000 metrics.
        for first in range(0, len(points), 1000):
            mlflow.MlflowClient().log_batch(run.info.run_id, metrics=points[first : first + 1000])
        mlflow.log_artifact(str(REPORTS / "losses.csv"))
        grids = sorted((REPORTS / "samples").glob("epoch-*.png"))
        for grid in grids[-params.run.tracked_grids :] if params.run.tracked_grids else []:
            tracking.log_grid(mlflow, grid, int(grid.stem.rpartition("-")[2]))
        # The last word: a run without it is not found and made again.
        mlflow.set_tag("weights_sha256", weights_sha256)
        return str(run.info.run_id)


def record_evaluation(mlflow: Any, run_id: str, metrics: Mapping[str, Any]) -> None:
    """Add the test metrics, their baselines and the test pictures to a run that lacks them.

    Raises:
        UserError: a picture is not there yet.
    """
    from mlflow.entities import Metric, RunTag

    client, digest = mlflow.MlflowClient(), sha256_json(metrics)
    if client.get_run(run_id).data.tags.get("evaluation_sha256") == digest:
        return
    files = [there(REPORTS / name) for name in ("test_grid.png", "worst.png", "metrics.json", "data.json")]
    # Those the stage `register` does not depend on, so nobody may have restored them.
    files += [file for name in ("per_image.csv", "data.png") if (file := REPORTS / name).exists()]
    now_ms = int(time.time() * 1000)
    points = [
        Metric(f"{prefix}/{name}", value, now_ms, 0)
        for group, prefix in (("model", "test"), ("input_as_output", "input_as_output"), ("floor", "floor"))
        for name, value in metrics[group].items()
    ]
    client.log_batch(run_id, metrics=points)
    for file in files:
        client.log_artifact(run_id, str(file), "evaluation")
    tags = {"split_sha256": metrics["split_sha256"], "evaluation_sha256": digest}
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def _rows(path: Path) -> list[dict[str, str]]:
    with there(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
