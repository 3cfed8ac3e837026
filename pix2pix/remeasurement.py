"""An exported generator measured on the test split of today: what the gate compares an old champion by.

Torch is loaded by the call, not by the import: whoever registers offers this, and seldom needs it.
"""

from pathlib import Path
from typing import Any

from .params import Evaluate

TEST_PAIRS = Path("data/pairs/test")
BATCH = 8


def measure(settings: Evaluate, onnx: Path) -> dict[str, Any]:
    """Measure an ONNX file as the stage `evaluate` measures the weights.

    Args:
        settings: with which features, and how.
        onnx: a generator.onnx of any training; it runs on a CPU.

    Returns:
        The keys images, split_sha256, features and model of metrics.json.

    Raises:
        UserError: the file is no exported generator, the test pairs are not there, or the extractor's weights
            cannot be had.
    """
    import numpy as np

    from . import devices, features, measurement, metrics
    from .errors import UserError
    from .pair_files import PairFiles
    from .translator import Translator

    if not TEST_PAIRS.is_dir():
        raise UserError(f"{TEST_PAIRS}: not there yet; `dvc repro` makes it")
    device, _ = devices.choose("auto")
    devices.set_threads("auto")
    devices.compute_exactly()
    translator = Translator(onnx)
    extractor = features.load(settings.features, settings.features_path, device)
    test = PairFiles.find(TEST_PAIRS)
    source, target = translator.input, translator.target
    test.refuse_other(source, target, str(onnx))
    distances = measurement.Distances(extractor, settings, len(test), {"model": len(test)})
    compared = []
    for inputs, targets in test.batches(BATCH):
        outputs = np.stack([translator(pixels.transpose(1, 2, 0)).transpose(2, 0, 1) for pixels in inputs])
        compared.append(measurement.per_image(outputs, target, targets, target))
        distances.add_targets(measurement.pictures(targets, target))
        distances.add("model", measurement.pictures(outputs, target))
    report = {
        "images": len(test),
        "split_sha256": test.sha256(),
        "features": {"name": extractor.name, "weights_sha256": extractor.weights_sha256},
        "model": metrics.PerImage.joined(compared).means() | distances.found()["model"],
    }
    measured = measurement.rounded(report)
    assert isinstance(measured, dict)
    return measured
