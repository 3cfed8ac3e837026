"""models/generator.safetensors → models/generator.onnx, proven on the test split."""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pix2pix import checkpoint, devices, images, onnx_export
from pix2pix.checkpoint import GeneratorConfig
from pix2pix.decoding import Samples
from pix2pix.encoding import RGB8
from pix2pix.files import atomic_file, sha256_file, write_json
from pix2pix.generator import Generator
from pix2pix.images import pad
from pix2pix.onnx_export import Parity
from pix2pix.pair_files import PairFiles
from pix2pix.params import Params, said_size

from .console import progress
from .runner import run

log = logging.getLogger(__name__)

GENERATOR, PAIRS = Path("models/generator.safetensors"), Path("data/pairs")
EXPORTED, REPORT = Path("models/generator.onnx"), Path("reports/export.json")
# A second size, not square, shows that nothing in the file is fixed to the training's size.
SECOND_SIZE_IMAGES = 8


def export(params: Params) -> None:
    """Export the generator; the file takes its place only after it has been proven."""
    device, why = devices.choose("auto")
    devices.set_threads("auto")
    devices.compute_exactly()
    generator, config = checkpoint.load_generator(GENERATOR)
    test = PairFiles.find(PAIRS / "test")
    test.refuse_other(config.input, config.target, str(GENERATOR))
    metadata = {
        "dataset": config.dataset,
        "direction": config.direction,
        "in_channels": str(config.input.channels),
        "out_channels": str(config.out_channels),
        "multiple": str(generator.multiple),
        "image_px": said_size(config.image_px),
        "weights_sha256": sha256_file(GENERATOR),
        "params_sha256": config.params_sha256,
        "data_sha256": config.data_sha256,
        "code_sha256": config.code_sha256,
        "imported_sha256": config.imported_sha256,
    }
    # 8-bit RGB is what a file without these says.
    for side, encoding in (("input", config.input), ("target", config.target)):
        if encoding != RGB8:
            metadata[side] = json.dumps(encoding.to_json(), sort_keys=True)
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / EXPORTED.name
        onnx_export.export(
            candidate,
            generator,
            in_channels=config.input.channels,
            opset=params.export.opset,
            metadata=metadata,
            source=config.input,
            target=config.target,
        )
        log.info("proving the file on %d test images against PyTorch on %s", len(test), why)
        proof = _prove(candidate, generator, test, params, config, device)
        with atomic_file(EXPORTED) as partial:
            shutil.copyfile(candidate, partial)
    report = {
        "onnx_sha256": sha256_file(EXPORTED),
        "bytes": EXPORTED.stat().st_size,
        "opset": params.export.opset,
        "multiple": generator.multiple,
        "parity": {name: vars(parity) for name, parity in proof.items()},
        "metadata": metadata,
    }
    write_json(REPORT, report)
    differing = max(parity.differing_share for parity in proof.values())
    log.info(
        "%s, %.1f MB: proven on the test split, at most %d level of %d apart on %.4f %% of the pixels",
        EXPORTED,
        report["bytes"] / 1e6,
        max(parity.max_level_difference for parity in proof.values()),
        onnx_export.levels(config.target),
        100 * differing,
    )


def _prove(
    candidate: Path,
    generator: Generator,
    test: PairFiles,
    params: Params,
    config: GeneratorConfig,
    device: torch.device,
) -> dict[str, Parity]:
    """Compare on every test image alone and in batches of 8, and on some at a second size.

    Raises:
        UserError: the two differ by more than rounding.
    """
    method = "nearest" if config.input.classes else "area"
    multiple = generator.multiple

    def padded(batch: int) -> Iterator[Samples]:
        # Read as they are compared: memory does not grow with the number of images.
        for inputs, _ in test.batches(batch):
            yield np.stack([pad(image, multiple) for image in inputs.transpose(0, 2, 3, 1)])

    def at_second_size() -> Iterator[Samples]:
        for index in range(min(SECOND_SIZE_IMAGES, len(test))):
            yield _at_second_size(test.read(index)[0].transpose(1, 2, 0), multiple, method)[None]

    exported = onnx_export.session(candidate)
    runs = {"batch_1": padded(1), "batch_8": padded(8), "second_size": at_second_size()}
    proof = {}
    done = 0
    total = 2 * len(test) + min(SECOND_SIZE_IMAGES, len(test))
    with progress("prove export", total=total, unit="images", style=params.run.progress) as update:
        for name, pieces in runs.items():

            def count(images: int) -> None:
                nonlocal done
                done += images
                update(done)

            proof[name] = onnx_export.compare(
                exported, generator, pieces, count, config.input, config.target, device
            )
            onnx_export.refuse_difference(name, proof[name], params.export.max_differing_share, config.target)
    return proof


def _at_second_size(image: Samples, multiple: int, method: str) -> Samples:
    """An image [height, width, channels] one step of the network's multiple higher and two wider."""
    height, width = (-(-side // multiple) * multiple for side in image.shape[:2])
    return images.resize(image, height + multiple, width + 2 * multiple, method)


if __name__ == "__main__":
    run(export)
