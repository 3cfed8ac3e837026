"""The `pix2pix` command."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pix2pix import params as params_file
from pix2pix.errors import UserError
from pix2pix.params import PARAMS_FILE, Params

app = typer.Typer(
    help="Paired images in, a better generator in the registry out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False, soft_wrap=True)


@app.callback()
def validated() -> None:
    """Every command validates params.yaml before any work, where there is one."""
    if PARAMS_FILE.exists():
        params_file.load()


@app.command()
def repro(targets: Annotated[list[str] | None, typer.Argument(help="Stages; all without.")] = None) -> None:
    """Run the stages that have changed, register the generator and show what came out."""
    from . import repro as module

    console.print(module.repro(targets or []), markup=False)


@app.command()
def preset(name: Annotated[str, typer.Argument(help="A file in presets/, without .yaml.")]) -> None:
    """Lay a recipe over params.yaml, keeping its comments."""
    from . import presets

    changes = presets.apply(name)
    for change in changes:
        console.print(f"  {change}", markup=False)
    console.print(f"params.yaml is now {name}" + ("" if changes else " (it was already)"), markup=False)


@app.command()
def register() -> None:
    """Make sure that the generator of this workspace is in the registry."""
    from . import registry, tracking
    from .repro import CARD

    _quiet_libraries()
    if not CARD.exists():
        raise UserError(f"{CARD}: not there yet; `dvc repro` makes it")
    done = registry.register(_params(), CARD.read_text(encoding="utf-8"))
    verb = "registered" if done.created else "was there"
    console.print(
        f"{done.model_name} version {done.version} {verb}: {done.alias} ({done.reason}) in {tracking.store_uri()}",
        markup=False,
    )


@app.command()
def translate(
    inputs: Annotated[list[Path], typer.Argument(help="Images or folders of images.")],
    output: Annotated[Path, typer.Argument(help="A folder; or a file, for one image.")],
    model: Annotated[
        str,
        typer.Option(help="A file.onnx, models:/NAME@ALIAS or models:/NAME/VERSION. [default: the champion]"),
    ] = "",
) -> None:
    """Translate images at their own size with a registered generator."""
    from . import translation

    _quiet_libraries()
    uri = model or f"models:/{_params().registry.model_name}@champion"
    written = translation.translate(inputs, output, uri)
    console.print(f"{written} image{'s' if written != 1 else ''} translated to {output}", markup=False)


@app.command()
def ui(port: Annotated[int, typer.Option(min=1, max=65535)] = 5000) -> None:
    """Open the MLflow pages of this project's store on http://127.0.0.1:PORT."""
    from . import tracking

    arguments = [
        "server",
        "--backend-store-uri",
        tracking.store_uri(),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *arguments])


def _params() -> Params:
    return params_file.load()


def _quiet_libraries() -> None:
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command: a user's mistake is one line and status 2, a bug keeps its traceback."""
    from .repro import StageFailed

    try:
        app(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except StageFailed as failure:
        sys.exit(failure.status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
