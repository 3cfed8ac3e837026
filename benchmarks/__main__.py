"""`python -m benchmarks`: what is fast, measured side by side.

Every comparison's key ends in `ratio`; above 1 ours is the faster.
"""

import json
import platform
import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from pix2pix import devices
from pix2pix.errors import UserError

from .run import BENCHMARKS, Settings, run

# They say the shape first.
OF_A_SHAPE = ("train_step", "data", "pipeline", "sweep", "inference")


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"{', '.join(BENCHMARKS)}; default: all but sweep.")
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda", "mps"], typer.Option(help="Where networks are trained and features computed.")
    ] = "cpu",
    px: Annotated[int, typer.Option(min=32, help="Side of the images that networks see.")] = 256,
    channels: Annotated[int, typer.Option(min=1, help="Of both networks' first layers.")] = 64,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="Of our training, as train.precision.")
    ] = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Alternations.")] = 20,
    threads: Annotated[int, typer.Option(min=1)] = devices.available_cores(),
    pairs: Annotated[int, typer.Option(min=2_000, help="Of prepare_scale; the most of sweep.")] = 10_000,
    trace: Annotated[
        Path | None, typer.Option(help="Where train_step leaves a profile of a few steps, as JSON.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Where sweep leaves its picture.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The figures as JSON on stdout; the text goes to stderr.")
    ] = False,
) -> None:
    """Measure, in turns in one process, and print medians."""
    if unknown := [name for name in names or [] if name not in BENCHMARKS]:
        raise UserError(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    settings = Settings(device, px, channels, batch, precision, rounds, threads, pairs, trace, plot)
    figures: dict[str, Any] = {}
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        machine = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": devices.choose(device)[1],
            "threads": threads,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "processor": _processor(),
        }
        print(", ".join(f"{name} {value}" for name, value in machine.items()))
        for name in names or [name for name in BENCHMARKS if name != "sweep"]:
            print(f"\n{name}", end=": " if name in OF_A_SHAPE else "\n", flush=True)
            figures |= run(name, settings, quiet=as_json)
    if as_json:
        print(json.dumps({"machine": machine, "figures": figures}, indent=2))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
