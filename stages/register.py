"""models/generator.onnx and the reports → a version in the registry, registration.json, the model card."""

import logging
from functools import partial
from pathlib import Path

from pipeline import model_card, registry, tracking
from pix2pix import remeasurement
from pix2pix.files import write_json, write_text
from pix2pix.params import Params

from .runner import run

log = logging.getLogger(__name__)

REPORTS = Path("reports")
REGISTRATION, CARD = REPORTS / "registration.json", REPORTS / "model_card.md"


def register(params: Params) -> None:
    """Register the generator and write down what was registered.

    The outputs say what was registered, not as which version: that is the store's business, and another
    store, or this one rebuilt, may count differently.
    """
    metrics = tracking.read_json(REPORTS / "metrics.json")
    export = tracking.read_json(REPORTS / "export.json")
    card = model_card.write(params, metrics, tracking.read_json(REPORTS / "data.json"), export)
    registered = registry.register(params, card, partial(remeasurement.measure, params.evaluate))
    write_text(CARD, card)
    write_json(
        REGISTRATION,
        {
            "model_name": params.registry.model_name,
            "onnx_sha256": export["onnx_sha256"],
            "metrics": metrics["model"],
        },
    )
    log.info(
        "%s version %s: %s (%s)",
        registered.model_name,
        registered.version,
        registered.alias,
        registered.reason,
    )


if __name__ == "__main__":
    run(register)
