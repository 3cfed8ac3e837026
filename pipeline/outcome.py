"""What a scheduled run asks the registry, tells it, and shows on Prefect's page."""

import base64
import io
import os
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from pix2pix.errors import UserError
from pix2pix.params import Params, distance_names

from . import commits, delivery, lineage, promotion, tracking, workspace
from .commits import COMMIT_TAG
from .registry import HELD, Registered, measured_key, version_of
from .summary import ROWS
from .workspace import FOLDER, Workspace

# Where browsers find MLflow, which a worker beside the server calls by another name.
PAGES_VARIABLE = "PIX2PIX_MLFLOW_URL"
GRID = Path("reports/test_grid.png")
# Wide enough to judge, small enough for a row in a database.
GRID_PX = 1000


def champion(params: Params) -> str | None:
    """The standing champion's version, to be shown beside the challenger; None where none can be seen.

    Whether there is one is the gate's question, which asks again and believes no silence.
    """
    from mlflow.exceptions import MlflowException

    with suppress(UserError, MlflowException), tracking.reachable() as mlflow:
        return promotion.standing(mlflow.MlflowClient(), params.registry.model_name).champion
    return None


def deliver_champion(params: Params) -> delivery.Delivered | None:
    """Get the champion's file into the cache; None where the registry says that there is no champion.

    Raises:
        UserError: the store cannot be reached, or the file cannot be had.
    """
    name = params.registry.model_name
    with tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        try:
            version = promotion.standing(client, name).champion
        except promotion.NoModel:
            return None
    return delivery.deliver(f"models:/{name}/{version}") if version is not None else None


class Known(NamedTuple):
    """A version in the registry; `held`: the gate's decision to make it champion waits to be carried out."""

    version: str
    held: bool


def registered(params: Params, root: Path) -> Known | None:
    """The version in the registry that holds the ONNX file which the reports in `root` describe.

    None also for one that a scheduled run has left a commit of and did not live to tell.

    Raises:
        UserError: the store cannot be reached.
    """
    export = root / "reports" / "export.json"
    if not export.exists():
        return None
    digest = tracking.read_json(export)["onnx_sha256"]
    name = params.registry.model_name
    with tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        version = version_of(client, name, digest)
        if version is None:
            return None
        tags = client.get_model_version(name, version).tags
        if COMMIT_TAG not in tags and digest in map(commits.exported_by, commits.tips()):
            return None
        is_held = tags.get("decision_kind") == HELD and promotion.standing(client, name).champion != version
        return Known(version, is_held)


def tag_commit(done: Registered, commit: str) -> None:
    """Name the commit that reproduces a version; the first that did keeps its place."""
    with tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        if COMMIT_TAG not in client.get_model_version(done.model_name, done.version).tags:
            client.set_model_version_tag(done.model_name, done.version, COMMIT_TAG, commit)


def close_dead_runs(made: Workspace | None = None) -> None:
    """Mark the MLflow runs of killed trainers, which could not say so themselves, as KILLED.

    Args:
        made: the workspace of the run that calls, none of whose stages is running.
    """
    place = lineage.home() / FOLDER
    # Before the question: a run that begins in between is in neither answer.
    crashed = workspace.crashed()
    with suppress(UserError), tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        experiments = [found.experiment_id for found in client.search_experiments()]
        for run in client.search_runs(experiments, "attributes.status = 'RUNNING'"):
            host, _, path = run.data.tags.get(tracking.PLACE_TAG, "").partition(":")
            # Whether a worktree is still in use is seen from its own machine only.
            if host != platform.node() or not Path(path).is_relative_to(place):
                continue
            name = Path(path).relative_to(place).parts[0]
            own = made is not None and made.root.is_relative_to(place / name)
            if own or name in crashed or not (place / name).exists():
                # Its training had ended if it has weights; registering opens a run again for a moment.
                complete = "weights_sha256" in run.data.tags
                client.set_terminated(run.info.run_id, "FINISHED" if complete else "KILLED")


def artifact_key(deployment: str, what: str) -> str:
    """An artifact's name on Prefect's page, which takes no other characters."""
    return re.sub(r"[^a-z0-9]+", "-", f"{deployment}-{what}".lower()).strip("-")


def publish(standing: str | None, deployment: str, branch: str, commit: str, done: Registered) -> None:
    """The run's artifacts on Prefect's page: numbers, decision with links, and the test grid.

    Call it in the workspace, where the reports are.

    Args:
        standing: the version that was champion before.
    """
    metrics = tracking.read_json(tracking.REPORTS / "metrics.json")
    create_table_artifact(
        table(metrics, measured(done.model_name, standing, metrics)),
        key=artifact_key(deployment, "metrics"),
        description=f"{metrics['images']} test images",
    )
    create_markdown_artifact(_decision(done, branch, commit), key=artifact_key(deployment, "decision"))
    create_image_artifact(
        _data_uri(GRID),
        key=artifact_key(deployment, "test-grid"),
        description="input, target, output of test pairs",
    )


def measured(name: str, version: str | None, metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A version's metrics; on these test images and with these features where the gate measured it again."""
    if version is None:
        return None
    with tracking.reachable() as mlflow:
        tags = mlflow.MlflowClient().get_model_version(name, version).tags
    return promotion.read_measurement(tags.get(measured_key(metrics), tags.get("metrics", ""))) or None


def question(done: Registered) -> str:
    """What a person is asked of a held version, in Markdown."""
    instead = f"instead of version {done.instead_of}" if done.instead_of else "as the first champion"
    return (
        f"Use **{done.model_name} version {done.version}** {instead}? {done.reason}.\n\n"
        "The run's artifacts show the numbers and the test grid."
    )


def table(metrics: Mapping[str, Any], standing: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each metric: champion, challenger, difference, baseline and floor."""
    frechet, kernel = distance_names(metrics["features"]["name"])
    rows = []
    for key, label, note in ((kernel, kernel, ""), (frechet, frechet, ""), *ROWS):
        # Other test images or other features give numbers that cannot be set against these.
        same = standing is not None and all(
            standing.get(part) == metrics[part] for part in ("split_sha256", "features")
        )
        old = standing["model"].get(key) if standing is not None and same else None
        new = metrics["model"][key]
        rows.append(
            {
                "metric": f"{label} ({note})" if note else label,
                "champion": _number(old),
                "challenger": _number(new),
                "difference": "" if old is None else f"{new - old:+.4g}",
                "input as output": _number(metrics["input_as_output"][key]),
                "floor": _number(metrics["floor"].get(key)),
            }
        )
    return rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _decision(done: Registered, branch: str, commit: str) -> str:
    would = "the gate would make it champion, " if done.held else ""
    lines = [
        f"**{done.model_name} version {done.version} is {done.alias}**: {would}{done.reason}.",
        "",
        f"- commit `{commit}` on `{branch}`",
    ]
    with tracking.reachable() as mlflow:
        version = mlflow.MlflowClient().get_model_version(done.model_name, done.version)
        run = mlflow.MlflowClient().get_run(version.run_id).info
    pages = os.environ.get(PAGES_VARIABLE) or tracking.store_name()
    if pages.startswith(("http://", "https://")):
        address = f"{pages.rstrip('/')}/#"
        lines += [
            f"- [MLflow run {run.run_name}]({address}/experiments/{run.experiment_id}/runs/{run.run_id})",
            f"- [version {done.version}]({address}/models/{done.model_name}/versions/{done.version})",
        ]
    else:
        lines.append(f"- MLflow run {run.run_name} in `{tracking.store_name()}`")
    return "\n".join(lines)


def _data_uri(picture: Path) -> str:
    from PIL import Image

    with Image.open(picture) as image:
        small = image.convert("RGB")
        small.thumbnail((GRID_PX, GRID_PX))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
