"""`prepare` on many tiny pairs: whether memory stays flat, time grows as the pairs, and a kill costs little.

Each run is the stage itself in a process of its own, whose peak memory the system tells.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from pix2pix import images

PROJECT = Path(__file__).parents[1]
PAIR_PX, IMAGE_PX = 32, 32
# The stage, which at its end writes the most memory that it held, in bytes. Linux has a process's own peak in
# /proc; getrusage's is no less than that of the process which started it.
STAGE = """
import atexit, pathlib, resource, runpy, sys
def tell():
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        peak = int(lines["VmHWM"].split()[0]) * 1024
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pathlib.Path("peak").write_text(str(peak))
atexit.register(tell)
runpy.run_module("stages.prepare", run_name="__main__")
"""
BAD = "this is no image"


@dataclass(frozen=True)
class Run:
    """One run of the stage: seconds, and the most memory it held, in MB."""

    pairs: int
    seconds: float
    peak_mb: float

    def __str__(self) -> str:
        rate = f"{self.pairs / self.seconds:6.0f} pairs/s"
        return f"{self.pairs:9,} pairs  {self.seconds:8.1f} s  {rate}  {self.peak_mb:6.1f} MB at most"


def measure(few: int, many: int) -> tuple[Run, Run, Run, int]:
    """Runs on few and on many pairs, and one on many that was killed half-way and begun again.

    Among the many, one file in the middle is no image.

    Returns:
        The three runs, the last with the seconds of its second half, and how many pairs that took over.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _write_params(place)
        _write_pairs(place / "data" / "raw", few)
        first = _run(place, few)
        _write_pairs(place / "data" / "raw", many)
        (place / "data" / "raw" / f"{many // 2:07}.png").write_text(BAD, encoding="utf-8")
        second = _run(place, many)
        taken_over, resumed = _killed(place, many)
        return first, second, resumed, taken_over


def _write_params(place: Path) -> None:
    yaml = YAML(typ="safe", pure=True)
    values = yaml.load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    values["dataset"] |= {"name": "generated", "source": str(place / "generated")}
    values["prepare"] |= {"image_px": IMAGE_PX}
    values["model"] |= {"dropout_blocks": []}
    with (place / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(values, file)


def _write_pairs(folder: Path, count: int) -> None:
    """Combined pairs of noise over two colours, so that no two are alike."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    for index in range(count):
        coarse = random.integers(0, 256, (8, 16, 3), dtype=np.uint8)
        images.write_png(folder / f"{index:07}.png", coarse.repeat(PAIR_PX // 8, 0).repeat(PAIR_PX // 8, 1))


def _start(place: Path) -> "subprocess.Popen[bytes]":
    shutil.rmtree(place / "data" / "pairs", ignore_errors=True)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen([sys.executable, "-c", STAGE], cwd=place, env=environment)


def _run(place: Path, pairs: int) -> Run:
    started = time.perf_counter()
    process = _start(place)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, "stages.prepare")
    seconds = time.perf_counter() - started
    return Run(pairs, seconds, int((place / "peak").read_text()) / 2**20)


def _killed(place: Path, pairs: int) -> tuple[int, Run]:
    process = _start(place)
    work = place / "data" / ".prepare" / "train" / "target"
    while _count(work) < pairs * 0.4:
        if process.poll() is not None:
            raise RuntimeError("the stage ended before it could be killed")
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return _count(work), _run(place, pairs)


def _count(folder: Path) -> int:
    return sum(1 for _ in os.scandir(folder)) if folder.is_dir() else 0
