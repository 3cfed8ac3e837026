"""The benchmarks by name, each in a process of its own."""

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch

from pix2pix import devices

from .alternating import Comparison


@dataclass(frozen=True)
class Settings:
    """What the options say; `device` as a user writes it."""

    device: str
    px: int
    channels: int
    batch: int
    rounds: int
    threads: int

    @property
    def shape(self) -> dict[str, int]:
        return {"px": self.px, "channels": self.channels, "batch": self.batch}

    def __str__(self) -> str:
        return f"{self.px} px, {self.channels} channels, batch {self.batch}"


def train_step(settings: Settings) -> dict[str, Any]:
    from . import train_step

    print(settings)
    device = devices.choose(settings.device)[0]
    compared = train_step.compare(**settings.shape, device=device, rounds=settings.rounds)
    key = f"train_step_{settings.px}px_batch{settings.batch}"
    if "own" not in compared:
        return _figures(key, compared["kept"])
    figures = _figures(key, compared["own"])
    print("with the same handling of memory on both sides:")
    return figures | _figures(f"{key}_same_memory", compared["kept"])


def inference(settings: Settings) -> dict[str, Any]:
    from . import inference

    print(settings)
    compared = inference.compare(**settings.shape, threads=settings.threads, rounds=settings.rounds)
    return _figures(f"inference_{settings.px}px_batch{settings.batch}", compared)


def prepare(settings: Settings) -> dict[str, Any]:
    from . import prepare

    count = 200
    compared = prepare.compare(count=count, rounds=min(settings.rounds, 5))
    pairs_per_s = count / sorted(compared.seconds["all cores"])[len(compared.ratios) // 2]
    print(f"{pairs_per_s:.0f} pairs a second")
    return {"prepare_pairs_per_s": pairs_per_s} | _figures("prepare_all_cores", compared)


def features(settings: Settings) -> dict[str, Any]:
    from . import features

    times = features.milliseconds(devices.choose(settings.device)[0], images=48, rounds=3)
    for size, value in times.items():
        print(f"batch {size:3}  {value:6.1f} ms an image")
    return {f"features_batch{size}_ms": value for size, value in times.items()}


def startup(settings: Settings) -> dict[str, Any]:
    from . import startup

    figures = startup.seconds(min(settings.rounds, 7))
    for name, value in figures.items():
        print(f"{name:28} {value:6.2f} s")
    return dict(figures)


BENCHMARKS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    way.__name__: way for way in (train_step, inference, prepare, features, startup)
}


def run(name: str, settings: Settings, *, quiet: bool) -> dict[str, Any]:
    """The figures of one; `quiet` sends its text to stderr.

    What one benchmark tells the C library about memory must not reach the next.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as process:
        return process.submit(_measure, name, settings, quiet).result()


def _measure(name: str, settings: Settings, quiet: bool) -> dict[str, Any]:
    torch.set_num_threads(settings.threads)
    with redirect_stdout(sys.stderr if quiet else sys.stdout):
        return BENCHMARKS[name](settings)


def _figures(key: str, comparison: Comparison) -> dict[str, Any]:
    for line in comparison.lines():
        print(line, flush=True)
    return {
        f"{key}_ratio": comparison.ratio,
        f"{key}_range": [min(comparison.ratios), max(comparison.ratios)],
        f"{key}_ms": {
            way: 1e3 * sorted(values)[len(values) // 2] for way, values in comparison.seconds.items()
        },
    }
