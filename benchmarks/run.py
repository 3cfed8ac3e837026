"""The benchmarks by name, each in a process of its own."""

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pix2pix import devices

from . import machine
from .alternating import Comparison
from .ours import Shape, Way

SWEPT = ("train_step", "data", "pipeline", "inference")


@dataclass(frozen=True)
class Settings:
    """What the options say; `device` as a user writes it."""

    device: str
    px: int
    channels: int
    batch: int
    way: Way
    rounds: int
    threads: int
    pairs: int
    epochs: int
    of: tuple[str, ...] = SWEPT
    trace: Path | None = None
    plot: Path | None = None

    @property
    def shape(self) -> Shape:
        return Shape(self.px, self.channels, self.batch)


def train_step(settings: Settings) -> dict[str, Any]:
    from . import limits, train_step

    shape, device = settings.shape, devices.choose(settings.device)[0]
    print(shape)
    # First, while no other has warmed the device or filled its memory.
    precision = devices.choose_precision(settings.way.precision, device, settings.px)
    devices.prefer_determinism(settings.way.deterministic, device)
    most = limits.measure(device, precision)
    if device.type == "cuda":
        # The large matrices are no training's.
        torch.cuda.reset_peak_memory_stats()
    compared = train_step.compare(shape, settings.way, device=device, rounds=settings.rounds)
    key = f"train_step_{settings.px}px_batch{settings.batch}"
    figures = _figures(key, compared.get("own", compared["kept"]))
    if "own" in compared:
        print("with the same handling of memory on both sides:")
        figures |= _figures(f"{key}_same_memory", compared["kept"])
    seconds = figures[f"{key}_ms"]["ours"] / 1e3
    flops, moved = limits.work(shape)
    share = most.seconds(shape) / seconds
    print(f"{precision}: {1 / seconds:.2f} steps/s, {settings.batch / seconds:.2f} images/s")
    print(
        f"{share:.0%} of what {flops / 1e9:.1f} GFLOP at {most.flops / 1e12:.2f} TFLOP/s and "
        f"{moved / 1e9:.2f} GB at {most.bytes / 1e9:.0f} GB/s allow"
    )
    print(f"at most {limits.peak_mb(device):,.0f} MB, the reference's included")
    if settings.trace:
        print(train_step.trace(shape, device, settings.way, settings.trace))
        print(f"{settings.trace}: open it in chrome://tracing or https://ui.perfetto.dev")
    return figures | {
        f"{key}_images_per_s": settings.batch / seconds,
        f"{key}_share_of_limit": share,
        "matrix_product_tflops": most.flops / 1e12,
        "copy_gb_per_s": most.bytes / 1e9,
        f"{key}_peak_mb": limits.peak_mb(device),
    }


def data(settings: Settings) -> dict[str, Any]:
    from . import pipeline

    print(settings.shape)
    device = devices.choose(settings.device)[0]
    compared = pipeline.data(settings.shape, device=device, rounds=settings.rounds)
    return _figures(f"data_{settings.px}px_batch{settings.batch}", compared)


def pipeline(settings: Settings) -> dict[str, Any]:
    from . import pipeline

    print(settings.shape)
    device = devices.choose(settings.device)[0]
    compared = pipeline.compare(settings.shape, settings.way, device=device, rounds=settings.rounds)
    key = f"pipeline_{settings.px}px_batch{settings.batch}"
    figures = _figures(key, compared.whole)
    # Of two ways in turns the second is the faster here, so this is what the first makes of its time.
    without_data = min(1.0, 1 / compared.alone.ratio)
    print(f"{without_data:.1%} of the time is left where no data has to come")
    figures[f"{key}_without_data_share"] = without_data
    if compared.gpu_share is not None:
        print(f"{compared.gpu_share:.1%} of the time the GPU computes")
        figures[f"{key}_gpu_share"] = compared.gpu_share
    return figures


def determinism(settings: Settings) -> dict[str, Any]:
    from . import train_step

    print(settings.shape)
    compared = train_step.price_of_determinism(
        settings.shape,
        settings.way,
        device=devices.choose(settings.device)[0],
        rounds=settings.rounds,
    )
    return _figures(f"determinism_{settings.px}px_batch{settings.batch}", compared)


def recipe(settings: Settings) -> dict[str, Any]:
    from . import recipe

    shape = settings.shape
    print(f"{shape}, {settings.epochs} epochs", flush=True)
    taken = recipe.measure(shape, settings.way, settings.device, settings.threads, settings.epochs)
    print(
        f"{taken.train_s + taken.export_s:.1f} s from prepared pairs to the exported file: train "
        f"{taken.train_s:.1f} s, {taken.steps_per_s:.1f} steps/s of its loop; export {taken.export_s:.1f} s"
    )
    key = f"recipe_{settings.px}px_{settings.epochs}_epochs"
    return {
        f"{key}_s": taken.train_s + taken.export_s,
        f"{key}_train_s": taken.train_s,
        f"{key}_export_s": taken.export_s,
        f"{key}_steps_per_s": taken.steps_per_s,
    }


def sweep(settings: Settings) -> dict[str, Any]:
    from . import sweep

    if settings.plot:
        sweep.refuse_to_draw()
    shape = settings.shape
    print(shape)
    found, figures = {}, {}
    for of in settings.of:
        for points in sweep.points(of, shape, settings.pairs):
            for point, one in sweep.measure(points, settings.device, settings.threads, settings.way):
                found[point] = one
                rate = (
                    "not enough memory, or killed"
                    if one.images_per_s is None
                    else f"{one.images_per_s:10.2f} images/s"
                )
                peak = "" if one.peak_mb is None else f"  {one.peak_mb:9,.0f} MB"
                host = f"  host {one.host_mb:9,.0f} MB" if settings.device == "cuda" and one.host_mb else ""
                print(f"{point!s:58} {rate}{peak}{host}", flush=True)
                name = (
                    f"sweep_{of}_{point.varied}_{point.value}_{point.way.partition(',')[0].replace(' ', '_')}"
                )
                figures |= {f"{name}_{what}": value for what, value in asdict(one).items()}
    if settings.plot:
        where = machine.described(devices.choose(settings.device)[0], settings.threads)
        sweep.draw(settings.plot, found, f"{where}; otherwise {shape}")
        print(f"{settings.plot}: drawn")
    return figures


def inference(settings: Settings) -> dict[str, Any]:
    from . import inference

    shape = settings.shape
    print(f"{shape}, on the CPU")
    compared = inference.compare(shape, threads=settings.threads, rounds=settings.rounds)
    return _figures(f"inference_{settings.px}px_batch{settings.batch}", compared)


def prepare(settings: Settings) -> dict[str, Any]:
    from . import prepare

    count = 200
    compared = prepare.compare(count=count, rounds=settings.rounds)
    pairs_per_s = count / sorted(compared.seconds["all cores"])[len(compared.ratios) // 2]
    print(f"{pairs_per_s:.0f} pairs a second")
    return {"prepare_pairs_per_s": pairs_per_s} | _figures("prepare_all_cores", compared)


def prepare_scale(settings: Settings) -> dict[str, Any]:
    from . import prepare_scale

    few, many, resumed, taken_over = prepare_scale.measure(1_000, settings.pairs)
    print(few, many, sep="\n")
    seconds = (many.seconds / many.pairs) / (few.seconds / few.pairs)
    print(
        f"memory {many.peak_mb / few.peak_mb:.2f} times, time a pair {seconds:.2f} times that of 1,000 pairs"
    )
    print(f"killed after {taken_over:,} training pairs, begun again: {resumed.seconds:.1f} s more")
    return {
        "prepare_scale_pairs": many.pairs,
        "prepare_scale_pairs_per_s": many.pairs / many.seconds,
        "prepare_scale_peak_mb": [few.peak_mb, many.peak_mb],
        "prepare_scale_memory_growth": many.peak_mb / few.peak_mb,
        "prepare_scale_resumed_share": resumed.seconds / many.seconds,
    }


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
    way.__name__: way
    for way in (
        train_step,
        data,
        pipeline,
        determinism,
        recipe,
        sweep,
        inference,
        prepare,
        prepare_scale,
        features,
        startup,
    )
}
# These only where they are named.
ON_REQUEST = ("determinism", "recipe", "sweep")


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
