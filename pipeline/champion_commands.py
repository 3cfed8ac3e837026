"""The commands about the champion: promote, approve, rollback, champions, pull."""

import logging
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pix2pix import params as params_file

if TYPE_CHECKING:
    from .champions import Reign

console = Console(highlight=False, soft_wrap=True)

ModelName = Annotated[
    str,
    typer.Option(
        "--model", metavar="NAME", help="Whose versions.", show_default="registry.model_name in params.yaml"
    ),
]
Because = Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept with both versions.")]


def add_to(app: typer.Typer) -> None:
    """Give the commands to the `pix2pix` command."""
    for command in (promote, approve, rollback, champions, pull):
        app.command()(command)


def promote(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The number of a version.")],
    because: Because,
    model: ModelName = "",
) -> None:
    """Make a version champion by hand, whatever the gate says."""
    from . import champions as module

    quiet_libraries()
    name = model or _model_name()
    done = module.promote(name, version, because)
    if done is None:
        console.print(f"{name} version {version} is champion already", markup=False)
        return
    move = done.moves[-1]
    instead = f"; version {move.before} was until now" if move.before else ""
    console.print(f"{name} version {move.to} is champion{instead}", markup=False)


def approve(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The waiting flow run: its name or its id.")],
    because: Because,
    reject: Annotated[bool, typer.Option("--reject", help="Say no: the challenger stays one.")] = False,
) -> None:
    """Say yes or no to the challenger of a waiting run."""
    from . import approval

    quiet_libraries()
    answered = approval.answer(run, not reject, because)
    said = "no: the challenger stays one" if reject else "yes: the challenger becomes champion"
    console.print(f"{answered.name}: {said}", markup=False)


def rollback(because: Because = "", model: ModelName = "") -> None:
    """Return to the champion before this one.

    Again, to the one before that. The gate does not undo it.
    """
    from . import champions as module

    quiet_libraries()
    name = model or _model_name()
    move = module.rollback(name, because).moves[-1]
    console.print(
        f"{name} version {move.to} is champion again; version {move.before} was until now", markup=False
    )


def champions(model: ModelName = "") -> None:
    """List who was champion, when, why and how good."""
    from . import champions as module
    from . import tracking

    quiet_libraries()
    name = model or _model_name()
    reigns = module.history(name)
    if not reigns:
        console.print(f"{name} has had no champion in {tracking.store_name()}", markup=False)
        return
    console.print(_text(name, reigns), markup=False)


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


def _text(name: str, reigns: "list[Reign]") -> str:
    """Two or more lines a champion, of 80 columns at most: a table of numbers with the reasons between."""
    distances = sorted({_distance(reign) for reign in reigns if reign.features})
    lines = [
        f"champions of {name}; distance: {', '.join(distances) or 'not measured'}",
        f"{'version':8}{'from':19}{'until':19}{'distance':>10}{'l1':>10}{'ssim':>9}",
    ]
    for reign in reigns:
        move = reign.move
        begun = _minute(move.at) if move else "?"
        ended = "now" if reign.is_champion else _minute(reign.until) if reign.until else "?"
        numbers = [reign.metrics.get(key) for key in (_distance(reign), "l1", "ssim")]
        cells = ["" if number is None else f"{number:.4g}" for number in numbers]
        lines.append(
            f"{reign.version:8}{begun:19}{ended:19}{cells[0]:>10}{cells[1]:>10}{cells[2]:>9}".rstrip()
        )
        said = f"{move.how}, {move.by}: {move.because}" if move else "by an alias that was moved in MLflow"
        lines += textwrap.wrap(said, 80, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def _distance(reign: "Reign") -> str:
    return params_file.distance_names(reign.features)[1]


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
