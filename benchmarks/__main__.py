"""`python -m benchmarks`: what is fast, measured side by side.

Every comparison's key ends in `ratio`; above 1 ours is the faster.
"""

import json
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from pix2pix import devices


def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="train_step, inference, prepare, features, startup; default: all."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where train_step and features run: cpu, cuda or mps.")] = "cpu",
    px: Annotated[int, typer.Option(min=32, help="Side of the images of train_step and inference.")] = 256,
    channels: Annotated[int, typer.Option(min=1, help="Of both networks' first layers.")] = 64,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Alternations.")] = 20,
    threads: Annotated[int, typer.Option(min=1)] = devices.available_cores(),
    file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON.")] = None,
) -> None:
    """Measure, in turns in one process, and print medians."""
    where, words = devices.choose(device)
    devices.set_threads(threads)
    shape = {"px": px, "channels": channels, "batch": batch}

    def train_step() -> dict[str, Any]:
        from . import train_step

        compared = train_step.compare(**shape, device=where, rounds=rounds)
        return _figures(f"train_step_{px}px_batch{batch}", compared)

    def inference() -> dict[str, Any]:
        from . import inference

        compared = inference.compare(**shape, threads=threads, rounds=rounds)
        return _figures(f"inference_{px}px_batch{batch}", {"own": compared})

    def prepare() -> dict[str, Any]:
        from . import prepare

        count = 200
        compared = prepare.compare(count=count, rounds=min(rounds, 5))
        pairs_per_s = count / sorted(compared.seconds["all cores"])[len(compared.ratios) // 2]
        print(f"{pairs_per_s:.0f} pairs a second")
        return {"prepare_pairs_per_s": pairs_per_s} | _figures("prepare_all_cores", {"own": compared})

    def features() -> dict[str, Any]:
        from . import features

        times = features.milliseconds(where, images=48, rounds=3)
        for size, value in times.items():
            print(f"batch {size:3}  {value:6.1f} ms an image")
        return {f"features_batch{size}_ms": value for size, value in times.items()}

    def startup() -> dict[str, Any]:
        from . import startup

        figures = startup.seconds(min(rounds, 7))
        for name, value in figures.items():
            print(f"{name:28} {value:6.2f} s")
        return dict(figures)

    known: dict[str, Callable[[], dict[str, Any]]] = {
        way.__name__: way for way in (train_step, inference, prepare, features, startup)
    }
    if unknown := [name for name in names or [] if name not in known]:
        print(f"error: no benchmark {unknown[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        raise typer.Exit(2)
    machine = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": words,
        "threads": threads,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "processor": _processor(),
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    figures: dict[str, Any] = {}
    for name in names or list(known):
        print(
            f"\n{name}: {px} px, {channels} channels, batch {batch}"
            if name in ("train_step", "inference")
            else f"\n{name}"
        )
        figures |= known[name]()
    if file:
        file.write_text(
            json.dumps({"machine": machine, "figures": figures}, indent=2) + "\n", encoding="utf-8"
        )


def _figures(key: str, compared: dict[str, Any]) -> dict[str, Any]:
    """`own`, where there is one, is the comparison; `kept` is the one beside it."""
    figures = {}
    for kind, comparison in compared.items():
        if kind == "kept" and "own" in compared:
            print("with the same handling of memory on both sides:")
        for line in comparison.lines():
            print(line)
        name = key if kind == "own" or len(compared) == 1 else f"{key}_same_memory"
        figures[f"{name}_ratio"] = comparison.ratio
        figures[f"{name}_range"] = [min(comparison.ratios), max(comparison.ratios)]
        figures[f"{name}_ms"] = {
            way: 1e3 * sorted(values)[len(values) // 2] for way, values in comparison.seconds.items()
        }
    return figures


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


if __name__ == "__main__":
    typer.run(main)
