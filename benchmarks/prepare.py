"""`prepare` on one core against all, on pairs of the embedded set: 256 px in, 128 px out."""

import os
import tempfile
from pathlib import Path

import numpy as np

from pix2pix import images, layouts, pairs, preparation, synthetic

from .alternating import Comparison, alternate

RECIPE = pairs.Recipe(
    direction="BtoA",
    combined="side-by-side",
    derive="none",
    resize_input="nearest",
    resize_target="area",
    image_px=128,
    load_px=143,
)


def compare(*, count: int, rounds: int) -> Comparison:
    """Seconds for `count` pairs, in turns with one worker and with one a core."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        raw.mkdir()
        for index in range(count):
            photo, labels = synthetic.draw_pair(seed=1, index=index, image_px=256)
            images.write_png(raw / f"{index:04}.png", np.concatenate([photo, labels], 1))
        found = layouts.find_pairs(raw).pairs
        splits, _ = pairs.assign_splits(found, val_share=0.1, test_share=0.1)

        def prepare(workers: int) -> None:
            with (
                tempfile.TemporaryDirectory(dir=folder) as out,
                preparation.workplace(Path(out) / "work", RECIPE) as work,
            ):
                for _ in preparation.prepare_all(splits, work, raw, RECIPE, workers):
                    pass

        return alternate(
            {"one worker": lambda: prepare(1), "all cores": lambda: prepare(os.cpu_count() or 1)},
            rounds=rounds,
            warm_up=1,
        )
