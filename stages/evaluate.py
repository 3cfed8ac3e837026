"""models/generator.safetensors on the whole test split → reports/metrics.json and pictures."""

import csv
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pix2pix import checkpoint, devices, features, images, measurement, metrics, pair_set
from pix2pix.augment import to_pixels, to_unit_range
from pix2pix.files import atomic_file, sha256_file, write_json
from pix2pix.generator import Generator
from pix2pix.images import Pixels
from pix2pix.metrics import PerImage
from pix2pix.pair_set import PairSet
from pix2pix.params import Params

from .console import duration, progress
from .runner import run

log = logging.getLogger(__name__)

GENERATOR, PAIRS = Path("models/generator.safetensors"), Path("data/pairs")
METRICS, PER_IMAGE = Path("reports/metrics.json"), Path("reports/per_image.csv")
GRID, WORST = Path("reports/test_grid.png"), Path("reports/worst.png")
SHOWN = 6
BATCH = 8


def evaluate(params: Params) -> None:
    """Measure the generator, its input taken as output, and real training images, on every test pair."""
    started = time.monotonic()
    device, why = devices.choose("auto")
    devices.set_threads("auto")
    devices.compute_exactly()
    generator, _ = checkpoint.load_generator(GENERATOR)
    extractor = features.load(params.evaluate.features, params.evaluate.features_path, device)
    test = pair_set.load_split(PAIRS / "test")
    train_targets = _at_side(pair_set.load_split(PAIRS / "train").targets, test.targets.shape[-1])
    with progress("evaluate", total=len(test), unit="images", style=params.run.progress) as update:
        outputs = _translate(generator.to(device), test, device, update)
    measured = metrics.per_image(outputs, torch.from_numpy(test.targets))
    baseline = metrics.per_image(torch.from_numpy(test.inputs), torch.from_numpy(test.targets))
    log.info("comparing features of %d images on %s", 3 * len(test) + len(train_targets), why)
    compared: dict[str, Pixels | Tensor] = {
        "model": outputs,
        "input_as_output": test.inputs,
        "floor": train_targets,
    }
    distances = measurement.distances(extractor, params.evaluate, test.targets, compared)
    report = {
        "images": len(test),
        "split_sha256": test.sha256,
        "weights_sha256": sha256_file(GENERATOR),
        "features": {"name": extractor.name, "weights_sha256": extractor.weights_sha256},
        "model": measured.means() | distances["model"],
        "input_as_output": baseline.means() | distances["input_as_output"],
        "floor": distances["floor"],
    }
    _write_per_image(test.names, measured)
    _draw(test, outputs.numpy(), measured)
    write_json(METRICS, measurement.rounded(report))
    log.info("measured %d test images in %s; see %s", len(test), duration(time.monotonic() - started), GRID)


def _at_side(targets: Pixels, side_px: int) -> Pixels:
    """Training targets are stored larger; as a yardstick they must have the test images' size."""
    resized = [images.resize(target.transpose(1, 2, 0), side_px, side_px, "area") for target in targets]
    return np.stack(resized).transpose(0, 3, 1, 2)


@torch.inference_mode()
def _translate(generator: Generator, test: PairSet, device: torch.device, update: object) -> Tensor:
    """The pixels a user gets: uint8 [n, 3, side, side]."""
    assert callable(update)
    outputs = []
    for first in range(0, len(test), BATCH):
        sources = torch.from_numpy(test.inputs[first : first + BATCH]).to(device)
        outputs.append(to_pixels(generator(to_unit_range(sources))).cpu())
        update(first + len(sources))
    return torch.cat(outputs)


def _write_per_image(names: Sequence[str], measured: PerImage) -> None:
    with atomic_file(PER_IMAGE) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "l1", "psnr_db", "ssim"])
        for name, l1, psnr_db, ssim in zip(names, measured.l1, measured.psnr_db, measured.ssim, strict=True):
            writer.writerow([name, f"{l1:.6f}", f"{psnr_db:.4f}", f"{ssim:.6f}"])


def _draw(test: PairSet, outputs: Pixels, measured: PerImage) -> None:
    spread = np.linspace(0, len(test) - 1, min(SHOWN, len(test))).round().astype(int)
    worst = np.argsort(-measured.l1, kind="stable")[:SHOWN]
    mean = measured.l1.mean()
    for path, chosen, title in (
        (GRID, spread, f"{len(spread)} of {len(test)} test images, mean L1 {mean:.4f}"),
        (WORST, worst, f"the {len(worst)} test images with the highest L1, mean of all {mean:.4f}"),
    ):
        sides = (test.inputs[chosen], test.targets[chosen], outputs[chosen])
        rows = list(zip(*(side.transpose(0, 2, 3, 1) for side in sides), strict=True))
        names = [f"{test.names[index]}\nL1 {measured.l1[index]:.3f}" for index in chosen]
        images.save_picture(path, images.labelled_grid(["input", "target", "output"], rows, names, title))


if __name__ == "__main__":
    run(evaluate)
