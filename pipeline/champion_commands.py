"""The commands about the champion: promote, rollback, champions, pull."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from pix2pix import params as params_file

if TYPE_CHECKING:
    from .champions import Reign

# A table that is piped away is not cut to the width of a terminal that is not there.
PIPED_COLUMNS = 160
console = Console(highlight=False, soft_wrap=True)

Because = Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept with both versions.")]


def add_to(app: typer.Typer) -> None:
    """Give the commands to the `pix2pix` command."""
    for command in (promote, rollback, champions, pull):
        app.command()(command)


def promote(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The number of a version.")],
    because: Because,
) -> None:
    """Make a version champion by hand, whatever the gate says."""
    from . import champions as module

    quiet_libraries()
    name = _model_name()
    done = module.promote(name, version, because)
    if done is None:
        console.print(f"{name} version {version} is champion already", markup=False)
        return
    move = done.moves[-1]
    instead = f"; version {move.before} was until now" if move.before else ""
    console.print(f"{name} version {move.to} is champion{instead}", markup=False)


def rollback(because: Because = "") -> None:
    """Return to the champion before; again, to the one before that."""
    from . import champions as module

    quiet_libraries()
    name = _model_name()
    move = module.rollback(name, because).moves[-1]
    console.print(
        f"{name} version {move.to} is champion again; version {move.before} was until now", markup=False
    )


def champions() -> None:
    """List who was champion, when, why and how good."""
    from . import champions as module
    from . import tracking

    quiet_libraries()
    name = _model_name()
    reigns = module.history(name)
    if not reigns:
        console.print(f"{name} has had no champion in {tracking.store_name()}", markup=False)
        return
    wide = console if console.is_terminal else Console(highlight=False, width=PIPED_COLUMNS)
    wide.print(_table(name, reigns), soft_wrap=False)


def pull(
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder, which gets generator.onnx and model_card.md.",
            show_default="the cache",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="models:/NAME@ALIAS or models:/NAME/VERSION.",
            show_default="the champion of registry.model_name in params.yaml",
        ),
    ] = "",
) -> None:
    """Get the champion's ONNX file and card, checked by digest."""
    from . import delivery

    quiet_libraries()
    delivered = delivery.deliver(model or f"models:/{_model_name()}@champion")
    paths = delivery.hand_over(delivered, to)
    console.print(f"{delivered.name} version {delivered.version}: {', '.join(map(str, paths))}", markup=False)


def _table(name: str, reigns: "list[Reign]") -> Table:
    from pix2pix.params import distance_names

    extractors = {reign.features for reign in reigns if reign.features}
    # One name stands for all where all were measured alike.
    kernel = distance_names(extractors.pop())[1] if len(extractors) == 1 else "kernel distance"
    table = Table(title=f"champions of {name}", title_justify="left")
    for title in ("version", "from", "until"):
        table.add_column(title, no_wrap=True)
    for title in (kernel, "l1", "ssim"):
        table.add_column(title, justify="right")
    for title in ("how", "by", "because"):
        table.add_column(title, overflow="fold")
    for reign in reigns:
        move, metrics = reign.move, reign.metrics
        numbers = (metrics.get(key) for key in (distance_names(reign.features)[1], "l1", "ssim"))
        table.add_row(
            reign.version,
            _minute(move.at) if move else "?",
            "now" if reign.is_champion else _minute(reign.until) if reign.until else "?",
            *("" if number is None else f"{number:.4g}" for number in numbers),
            move.how if move else "in MLflow",
            move.by if move else "",
            move.because if move else "",
        )
    return table


def _minute(moment: str) -> str:
    """2026-11-23T03:04:05Z as 2026-11-23 03:04Z."""
    return moment[:16].replace("T", " ") + "Z"


def _model_name() -> str:
    return params_file.load().registry.model_name


def quiet_libraries() -> None:
    """Let libraries speak up for warnings only, which go to stderr as ours do."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
