"""An exported generator measured on the test split of today: what the gate compares an old champion by.

Torch is loaded by the call, not by the import: whoever registers offers this, and seldom needs it.
"""

from pathlib import Path
from typing import Any

from .params import Evaluate

TEST_PAIRS = Path("data/pairs/test")


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
    import torch

    from . import devices, features, measurement, metrics, pair_set
    from .errors import UserError
    from .translator import Translator

    if not TEST_PAIRS.is_dir():
        raise UserError(f"{TEST_PAIRS}: not there yet; `dvc repro` makes it")
    device, _ = devices.choose("auto")
    devices.set_threads("auto")
    devices.compute_exactly()
    translator = Translator(onnx)
    extractor = features.load(settings.features, settings.features_path, device)
    test = pair_set.load_split(TEST_PAIRS)
    outputs = np.stack([translator(pixels.transpose(1, 2, 0)).transpose(2, 0, 1) for pixels in test.inputs])
    compared = metrics.per_image(torch.from_numpy(outputs), torch.from_numpy(test.targets))
    found = measurement.distances(extractor, settings, test.targets, {"model": outputs})
    report = {
        "images": len(test),
        "split_sha256": test.sha256,
        "features": {"name": extractor.name, "weights_sha256": extractor.weights_sha256},
        "model": compared.means() | found["model"],
    }
    measured = measurement.rounded(report)
    assert isinstance(measured, dict)
    return measured
