"""The facades recipe from prepared pairs to the exported file: both stages as they are, untracked."""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from pix2pix import images, synthetic
from pix2pix.pair_set import Geometry

from .ours import Shape, Way
from .pipeline import DISTINCT

PROJECT = Path(__file__).parents[1]
SPLITS = {"train": 400, "val": 100, "test": 106}
LOOP = re.compile(r"trained \d+ steps in .*, ([\d.]+) a second")


@dataclass(frozen=True)
class Taken:
    """Seconds of each stage as a process, its start included; steps a second of the loop in `train`."""

    train_s: float
    export_s: float
    steps_per_s: float


def measure(shape: Shape, way: Way, device: str, threads: int, epochs: int) -> Taken:
    """Train and export on as many drawn pairs as facades has."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _write_params(place / "params.yaml", shape, way, device, threads, epochs)
        _draw_pairs(place / "data" / "pairs", shape)
        train_s, said = _run("train", place)
        export_s, _ = _run("export", place)
        loop = LOOP.search(said)
        assert loop, "train has not said how fast it was"
        return Taken(train_s, export_s, float(loop[1]))


def _write_params(path: Path, shape: Shape, way: Way, device: str, threads: int, epochs: int) -> None:
    yaml = YAML(typ="safe", pure=True)
    values = yaml.load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    for section, keys in yaml.load(
        (PROJECT / "presets" / "facades.yaml").read_text(encoding="utf-8")
    ).items():
        values[section] |= keys
    values["prepare"]["image_px"] = shape.px
    values["model"] |= {
        "generator_channels": shape.channels,
        "discriminator_channels": shape.channels,
        "norm": way.norm,
    }
    values["train"] |= {
        "epochs": epochs,
        "batch": shape.batch,
        "device": device,
        "threads": threads,
        "precision": way.precision,
        "deterministic": way.deterministic,
    }
    values["run"] |= {"tracking": False, "progress": "lines"}
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(values, file)


def _draw_pairs(folder: Path, shape: Shape) -> None:
    """As many files as facades has pairs, a hundred of each size distinct: the others are links to these."""
    for split, count in SPLITS.items():
        for side in ("input", "target"):
            (folder / split / side).mkdir(parents=True)
        side_px = shape.load_px if split == "train" else shape.px
        for index in range(min(count, DISTINCT)):
            photo, labels = synthetic.draw_pair(seed=1, index=index, image_px=side_px)
            for side, pixels in (("input", labels), ("target", photo)):
                images.write_prepared(folder / split / side / f"{index:04}.png", pixels)
        for index in range(DISTINCT, count):
            for side in ("input", "target"):
                first = folder / split / side / f"{index % DISTINCT:04}.png"
                (folder / split / side / f"{index:04}.png").hardlink_to(first)
    Geometry("benchmark", "BtoA", shape.px, shape.load_px).write(folder / "pairs.json")


def _run(stage: str, place: Path) -> tuple[float, str]:
    """Seconds and what it said, which is passed on."""
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "DVC_ROOT": str(place)}
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=place,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        said = []
        for line in process.stderr:
            print(line, end="", flush=True)
            said.append(line)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, f"stages.{stage}")
    return time.perf_counter() - started, "".join(said)
