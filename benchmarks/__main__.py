"""`python -m benchmarks`: what is fast, measured side by side.

Every comparison's key ends in `ratio`; above 1 ours is the faster. Nothing is loaded that the named
benchmarks do not need: a machine with a GPU may have little installed.
"""

import argparse
import json
import platform
import sys
import traceback
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from pix2pix import devices
from pix2pix.errors import UserError

from . import machine
from .ours import Way
from .run import BENCHMARKS, ON_REQUEST, SWEPT, Settings, run

# They say the shape first.
OF_A_SHAPE = ("train_step", "data", "pipeline", "determinism", "recipe", "sweep", "inference")


def main() -> int:
    """Measure, in turns in one process, and print medians; the exit status."""
    given = _arguments().parse_args()
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        raise UserError(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    settings = Settings(
        given.device,
        given.px,
        given.channels,
        given.batch,
        Way(given.precision, given.norm, given.deterministic),
        given.rounds,
        given.threads,
        given.pairs,
        given.epochs,
        tuple(given.of),
        given.trace,
        given.plot,
    )
    if given.trace:
        _refuse_place("--trace", given.trace, {".json"})
    if given.plot:
        _refuse_place("--plot", given.plot, {".png", ".svg", ".pdf"})
    device, words = devices.choose(given.device)
    measured_on = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device.type if device.type == "cpu" else words,
        "threads": given.threads,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "processor": machine.processor(),
    }
    said, text = sys.stdout, sys.stderr if given.json else sys.stdout

    def tell(line: dict[str, Any]) -> None:
        if given.json:
            print(json.dumps(line), file=said, flush=True)

    status = 0
    with redirect_stdout(text):
        print(", ".join(f"{name} {value}" for name, value in measured_on.items()))
        tell({"machine": measured_on})
        for name in given.names or [name for name in BENCHMARKS if name not in ON_REQUEST]:
            print(f"\n{name}", end=": " if name in OF_A_SHAPE else "\n", flush=True)
            try:
                tell({"benchmark": name, "figures": run(name, settings, quiet=given.json)})
            except UserError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
                status = status or error.exit_status
            except Exception:
                # The others are measured all the same.
                traceback.print_exc()
                status = 1
    return status


def _refuse_place(option: str, path: Path, endings: set[str]) -> None:
    """Before minutes of measuring.

    Raises:
        UserError: no such file could be written there.
    """
    if path.suffix not in endings:
        raise UserError(f"{option} {path}: must end in {' or '.join(sorted(endings))}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}; make it first")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=main.__doc__)
    default = f"default: all but {', '.join(ON_REQUEST)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; {default}")

    def add(name: str, default: Any, help: str = "", **more: Any) -> None:
        parser.add_argument(name, default=default, help=f"{help} (default: {said(default)})".strip(), **more)

    def said(default: Any) -> str:
        return " ".join(default) if isinstance(default, tuple) else str(default)

    def number(least: int) -> Any:
        def read(text: str) -> int:
            if (value := int(text)) < least:
                raise argparse.ArgumentTypeError(f"{value} is below {least}")
            return value

        return read

    where = "where networks are trained and features computed"
    add("--device", "cpu", where, choices=("cpu", "cuda", "mps"))
    add("--px", 256, "side of the images that networks see", type=number(32))
    add("--channels", 64, "of both networks' first layers", type=number(1))
    add("--batch", 1, type=number(1))
    add("--precision", "auto", "of our training, as train.precision", choices=("auto", "fp32", "bf16"))
    add("--norm", "instance", "of our training, as model.norm", choices=("instance", "batch"))
    add(
        "--deterministic",
        True,
        "our training, as train.deterministic",
        action=argparse.BooleanOptionalAction,
    )
    add("--rounds", 20, "alternations", type=number(1))
    add("--threads", devices.available_cores(), type=number(1))
    add("--pairs", 10_000, "of prepare_scale; the most of sweep", type=number(2_000))
    add("--epochs", 1, "of recipe; the preset has 200", type=number(1))
    add("--of", SWEPT, "of sweep", nargs="+", choices=SWEPT)
    parser.add_argument(
        "--trace", type=Path, help="where train_step leaves a profile of a few steps, as JSON"
    )
    parser.add_argument("--plot", type=Path, help="where sweep leaves its picture")
    figures = (
        "a line of JSON on stdout for the machine and for each benchmark as it ends; the text goes to stderr"
    )
    parser.add_argument("--json", action="store_true", help=figures)
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
