"""The `pix2pix` command."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from pix2pix import params as params_file
from pix2pix import remeasurement
from pix2pix.errors import UserError
from pix2pix.params import PARAMS_FILE, Params

from . import champion_commands, housekeeping_commands
from .champion_commands import quiet_libraries

if TYPE_CHECKING:
    from pix2pix.description import Description
    from pix2pix.tiling import TiledTranslator

WEIGHTS = Path("models/generator.safetensors")

app = typer.Typer(
    help="Paired images in, a better generator in the registry out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
champion_commands.add_to(app)
housekeeping_commands.add_to(app)
console = Console(highlight=False, soft_wrap=True)


@app.callback()
def validated() -> None:
    """Every command validates params.yaml before any work, where there is one."""
    if PARAMS_FILE.exists():
        params_file.load()


@app.command()
def repro(
    stages: Annotated[
        list[str] | None,
        typer.Argument(metavar="STAGE", help="Only these stages and what they need."),
    ] = None,
) -> None:
    """Run what has changed, register, show the result."""
    from . import repro as module

    if text := module.repro(stages or []):
        console.print(text, markup=False)


@app.command()
def preset(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A file in presets/, without .yaml.")],
) -> None:
    """Lay a recipe of presets/ over params.yaml."""
    from . import presets

    changes = presets.apply(name)
    for change in changes:
        console.print(f"  {change}", markup=False)
    console.print(f"params.yaml is now {name}" + ("" if changes else " (it was already)"), markup=False)


@app.command()
def init_dataset(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A folder of images, or a .tar.gz, .tgz, .tar or .zip.")
    ],
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Of the preset, the data and the model.")
    ] = "mine",
    derive: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="For photos alone, the input made from each: edges, grayscale, blur, downscale or mask.",
            show_default=False,
        ),
    ] = "none",
    combined: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="side-by-side or stacked: how combined images hold A and B.",
            show_default="found out",
        ),
    ] = "",
    like: Annotated[
        str,
        typer.Option(metavar="PRESET", help="Whose recipe to take; facades is the paper's, for a GPU."),
    ] = "facades-small",
    force: Annotated[bool, typer.Option("--force", help="Replace a preset of that name.")] = False,
) -> None:
    """Look at pairs of your own; write a preset for them."""
    from . import own_data

    with console.status(f"looking at {path}"):
        written = own_data.init_dataset(
            path, name=name, derive=derive, combined=combined, like=like, force=force
        )
    for line in written.lines:
        console.print(line, markup=False)
    console.print()
    console.print(f"next      pix2pix preset {name}", markup=False)
    console.print("          dvc repro prepare     # reports/data.png shows what goes in", markup=False)
    console.print("          dvc repro", markup=False)


@app.command()
def drift(
    revision: Annotated[str, typer.Argument(metavar="REVISION", help="A branch, tag or commit.")] = "HEAD",
) -> None:
    """Compare the data here with those of a commit."""
    from pix2pix import data_drift

    from . import drift as module

    found, picture = module.drift(revision)
    if picture is None:
        console.print(f"the same data as {revision}", markup=False)
        return
    for line in data_drift.lines(found):
        console.print(line, markup=False)
    console.print(f"{'picture':15}{picture}", markup=False)


@app.command()
def register() -> None:
    """Make sure that this folder's generator is in the registry."""
    from . import registry, tracking
    from .repro import CARD

    quiet_libraries()
    if not CARD.exists():
        raise UserError(f"{CARD}: not there yet; `dvc repro` makes it")
    params = _params()
    measure = partial(remeasurement.measure, params.evaluate)
    done = registry.register(params, CARD.read_text(encoding="utf-8"), measure)
    verb = "registered" if done.created else "was there"
    console.print(
        f"{done.model_name} version {done.version} {verb}: {done.alias} ({done.reason}) "
        f"in {tracking.store_name()}",
        markup=False,
    )


@app.command()
def translate(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", help="Images, or folders searched to any depth.")
    ],
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUTPUT",
            help="A folder, which gets PNG files in the structure of the input; for one image also a file.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="A file.onnx, models:/NAME@ALIAS or models:/NAME/VERSION; with --samples FILE.safetensors.",
            show_default="the champion of registry.model_name in params.yaml",
        ),
    ] = "",
    samples: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=64,
            help="Draw N outputs for each input, with dropout as the noise, from the PyTorch weights.",
            show_default=f"0, which translates; --model is then {WEIGHTS}",
        ),
    ] = 0,
    seed: Annotated[
        int | None,
        typer.Option(metavar="SEED", min=0, max=2**63 - 1, help="Of the samples.", show_default="1"),
    ] = None,
    tile: Annotated[
        int,
        typer.Option(
            metavar="PX",
            min=0,
            help="Translate large images in square tiles of this side.",
            show_default="0, which takes each image whole",
        ),
    ] = 0,
    overlap: Annotated[
        int | None,
        typer.Option(metavar="PX", min=0, help="Blend this much of neighbouring tiles.", show_default="64"),
    ] = None,
    statistics: Annotated[
        Literal["image", "tile"] | None,
        typer.Option(
            help="Of the normalisation in tiles. image: the whole image's, without seams. "
            "tile: each tile's own, in a fifth of the time, and tiles differ in colour.",
            show_default="image",
        ),
    ] = None,
) -> None:
    """Translate images at their own size."""
    from . import translation

    quiet_libraries()
    if not tile and (overlap is not None or statistics):
        raise UserError(f"{'--statistics' if statistics else '--overlap'}: has a meaning with --tile only")
    if samples:
        if tile:
            raise UserError("--tile: has no meaning with --samples, which draws each image whole")
        if model.startswith("models:/"):
            raise UserError(f"{model}: is an ONNX file, which cannot be drawn from; give a file.safetensors")
        from pix2pix.sampling import Sampler

        sampler = Sampler(Path(model or WEIGHTS))
        seed = 1 if seed is None else seed
        drawn = translation.draw(inputs, output, sampler, samples, seed, sampler.input, sampler.target)
        console.print(f"{samples} samples of {_counted(drawn)} drawn to {output}", markup=False)
        return
    if seed is not None:
        raise UserError("--seed: has a meaning with --samples only; the exported file is deterministic")
    uri = model or f"models:/{_params().registry.model_name}@champion"
    written = translation.translate(inputs, output, uri, _tiled(tile, overlap, statistics) if tile else None)
    console.print(f"{_counted(written)} translated to {output}", markup=False)


@app.command()
def describe() -> None:
    """Show every layer of the two networks of params.yaml."""
    from pix2pix import description

    for network in description.describe(_params()):
        console.print(_table(network))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The reference's latest_net_G.pth.")],
    statistics: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="instance: every image by its own statistics, as the reference tests by default. "
            "running: by those in the file, its --eval.",
        ),
    ] = "instance",
) -> None:
    """Take over the reference implementation's generator."""
    from pix2pix import imports

    console.print(imports.import_generator(file, statistics, _params()), markup=False)


@app.command()
def export_reference(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Such as latest_net_G.pth.")],
    model: Annotated[Path, typer.Option(metavar="FILE", help="A generator.safetensors.")] = WEIGHTS,
) -> None:
    """Write a generator for the reference implementation."""
    from pix2pix import imports

    console.print(imports.export_generator(model, output), markup=False)


@app.command()
def ui(
    port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65535, help="A free port.")] = 5000,
) -> None:
    """Serve the MLflow pages at http://127.0.0.1:PORT."""
    from . import tracking

    if tracking.store_uri().startswith(("http://", "https://")):
        console.print(f"a server already shows them: {tracking.store_name()}", markup=False)
        return
    with socket() as taken:
        # MLflow's server says it among its own lines, and ends as if all were well.
        if not taken.connect_ex(("127.0.0.1", port)):
            raise UserError(
                f"port {port} is taken, by `make servers` perhaps; `pix2pix ui --port {port % 65535 + 1}`"
            )
    tracking.make_database()
    store = ["--backend-store-uri", tracking.store_uri()]
    command = [sys.executable, "-m", "mlflow", "server", *store, "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, command)


def _tiled(
    tile_px: int, overlap_px: int | None, statistics: Literal["image", "tile"] | None
) -> "Callable[[Path], TiledTranslator]":
    from pix2pix.tiling import TiledTranslator

    overlap_px = 64 if overlap_px is None else overlap_px
    return partial(TiledTranslator, tile_px=tile_px, overlap_px=overlap_px, statistics=statistics or "image")


def _table(network: "Description") -> Table:
    table = Table(title=network.title, title_justify="left", show_footer=True)
    table.add_column("layer", footer="total")
    table.add_column("kind")
    table.add_column("output", justify="right")
    table.add_column("parameters", f"{network.parameters:,}", justify="right")
    table.add_column("multiply-adds", f"{network.multiply_adds:,}", justify="right")
    for layer in network.layers:
        shape = "×".join(map(str, layer.output))
        adds = f"{layer.multiply_adds:,}" if layer.multiply_adds else ""
        parameters = f"{layer.parameters:,}" if layer.parameters else ""
        table.add_row(layer.name, layer.kind, shape, parameters, adds)
    return table


def _counted(images: int) -> str:
    return f"{images} image{'s' if images != 1 else ''}"


def _params() -> Params:
    return params_file.load()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command: a user's mistake is one line and status 2; Ctrl-C is 130; a bug has its traceback."""
    from .repro import StageFailed

    try:
        app(arguments, prog_name="pix2pix")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except StageFailed as failure:
        sys.exit(failure.status)


if __name__ == "__main__":
    main()
