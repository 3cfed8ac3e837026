"""models/generator.safetensors on the whole test split → reports/metrics.json and pictures."""

import csv
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from pix2pix import checkpoint, devices, features, images, measurement
from pix2pix.augment import to_pixels, to_unit_range
from pix2pix.checkpoint import GeneratorConfig
from pix2pix.decoding import Samples
from pix2pix.files import atomic_file, sha256_file, write_json
from pix2pix.generator import Generator
from pix2pix.images import pad
from pix2pix.metrics import PerImage
from pix2pix.pair_files import PairFiles
from pix2pix.pair_set import Geometry
from pix2pix.params import FEW_TEST_IMAGES, Params

from .console import duration, progress
from .runner import run

log = logging.getLogger(__name__)

GENERATOR, PAIRS = Path("models/generator.safetensors"), Path("data/pairs")
METRICS, PER_IMAGE = Path("reports/metrics.json"), Path("reports/per_image.csv")
GRID, WORST = Path("reports/test_grid.png"), Path("reports/worst.png")
SHOWN = 6
# Of 256 px; a GPU would wait for smaller ones.
CPU_BATCH, GPU_BATCH = 8, 16


def evaluate(params: Params) -> None:
    """Measure the generator, its input taken as output, and real training images, on every test pair."""
    started = time.monotonic()
    device, why = devices.choose("auto")
    devices.set_threads("auto")
    devices.compute_exactly()
    generator, config = checkpoint.load_generator(GENERATOR)
    source, target = config.input, config.target
    generator.to(device)
    extractor = features.load(params.evaluate.features, params.evaluate.features_path, device)
    test, train = (PairFiles.find(PAIRS / split) for split in ("test", "train"))
    test.refuse_other(source, target, str(GENERATOR))
    if len(test) < FEW_TEST_IMAGES:
        log.warning(
            "%d test images say little: their distances, and whose are lower, are chance; "
            "prepare.test_share makes more",
            len(test),
        )
    log.info("measuring %d test images and %d training targets on %s", len(test), len(train), why)
    sizes = {"model": len(test), "input_as_output": len(test), "floor": len(train)}
    resize_target = Geometry.read(PAIRS / "pairs.json").resize_target
    distances = measurement.Distances(extractor, params.evaluate, len(test), sizes)
    pieces: dict[str, list[PerImage]] = {"model": [], "input_as_output": []}
    most = CPU_BATCH if device.type == "cpu" else GPU_BATCH
    batch = devices.images_at_once(most, *test.size_px)
    with progress(
        "evaluate", total=len(test) + len(train), unit="images", style=params.run.progress
    ) as update:
        done = 0
        # One batch after the other: memory does not grow with the number of images.
        for inputs, targets in test.batches(batch):
            distances.add_targets(measurement.pictures(targets, target))
            for name, outputs, encoding in (
                ("model", _translate(generator, inputs, device, config), target),
                ("input_as_output", inputs, source),
            ):
                pieces[name].append(measurement.per_image(outputs, encoding, targets, target))
                distances.add(name, measurement.pictures(outputs, encoding))
            update(done := done + len(inputs))
        for _, targets in train.batches(batch):
            distances.add(
                "floor", measurement.pictures(_at_size(targets, *test.size_px, resize_target), target)
            )
            update(done := done + len(targets))
    measured, baseline = (PerImage.joined(pieces[name]) for name in ("model", "input_as_output"))
    found = distances.found()
    report = {
        "images": len(test),
        "split_sha256": test.sha256(),
        "weights_sha256": sha256_file(GENERATOR),
        "features": {"name": extractor.name, "weights_sha256": extractor.weights_sha256},
        "model": measured.means() | found["model"],
        "input_as_output": baseline.means() | found["input_as_output"],
        "floor": found["floor"],
    }
    _write_per_image(test.names, measured)
    _draw(test, lambda inputs: _translate(generator, inputs, device, config), measured, config)
    write_json(METRICS, measurement.rounded(report))
    log.info("measured %d test images in %s; see %s", len(test), duration(time.monotonic() - started), GRID)


def _at_size(targets: Samples, height: int, width: int, method: str) -> Samples:
    """Training targets are stored larger; as a yardstick they must be of the test images' size and kind."""
    resized = [images.resize(target.transpose(1, 2, 0), height, width, method) for target in targets]
    return np.stack(resized).transpose(0, 3, 1, 2)


@torch.inference_mode()
def _translate(
    generator: Generator, inputs: Samples, device: torch.device, config: GeneratorConfig
) -> Samples:
    """The pixels a user gets: [n, channels, height, width]."""
    height, width = inputs.shape[-2:]
    # As `translate` does with an image whose sides the network cannot halve often enough.
    padded = np.stack([pad(image.transpose(1, 2, 0), generator.multiple) for image in inputs])
    sources = torch.from_numpy(padded.transpose(0, 3, 1, 2)).to(device)
    translated = to_pixels(generator(to_unit_range(sources, config.input)), config.target)
    outputs: Samples = translated[..., :height, :width].cpu().numpy()
    return outputs


def _write_per_image(names: Sequence[str], measured: PerImage) -> None:
    with atomic_file(PER_IMAGE) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "l1", "psnr_db", "ssim"])
        for name, l1, psnr_db, ssim in zip(names, measured.l1, measured.psnr_db, measured.ssim, strict=True):
            writer.writerow([name, f"{l1:.6f}", f"{psnr_db:.4f}", f"{ssim:.6f}"])


def _draw(
    test: PairFiles, translate: Callable[[Samples], Samples], measured: PerImage, config: GeneratorConfig
) -> None:
    spread = np.linspace(0, len(test) - 1, min(SHOWN, len(test))).round().astype(int)
    worst = np.argsort(-measured.l1, kind="stable")[:SHOWN]
    mean = measured.l1.mean()
    for path, chosen, title in (
        (GRID, spread, f"{len(spread)} of {len(test)} test images, mean L1 {mean:.4f}"),
        (WORST, worst, f"the {len(worst)} test images with the highest L1, mean of all {mean:.4f}"),
    ):
        inputs, targets = (np.stack(side) for side in zip(*map(test.read, chosen), strict=True))
        sides = (
            ("input", inputs, config.input),
            ("target", targets, config.target),
            ("output", translate(inputs), config.target),
        )
        pictures = (side.picture(pixels.transpose(0, 2, 3, 1)) for _, pixels, side in sides)
        rows = list(zip(*pictures, strict=True))
        headings = [side.heading(name) for name, _, side in sides]
        names = [f"{test.names[index]}\nL1 {measured.l1[index]:.3f}" for index in chosen]
        images.save_picture(path, images.labelled_grid(headings, rows, names, title))


if __name__ == "__main__":
    run(evaluate)
