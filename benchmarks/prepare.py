"""`prepare` on one core against all, on pairs of the embedded set: 256 px in, 128 px out."""

import os
import tempfile
from pathlib import Path

import numpy as np

from pix2pix import images, pairs, synthetic
from pix2pix.params import Prepare

from .alternating import Comparison, alternate

PREPARE = Prepare(
    image_px=128,
    resize_input="nearest",
    resize_target="area",
    val_share=0.1,
    test_share=0.1,
    max_bad_share=0.0,
)


def compare(*, count: int, rounds: int) -> Comparison:
    """Seconds for `count` pairs, in turns with one worker and with one a core."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        raw.mkdir()
        for index in range(count):
            photo, labels = synthetic.draw_pair(seed=1, index=index, image_px=256)
            images.write_png(raw / f"{index:04}.png", np.concatenate([photo, labels], 1))
        found, _ = pairs.find_pairs(raw)
        splits, _ = pairs.assign_splits(found, PREPARE.val_share, PREPARE.test_share)

        def prepare(workers: int) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                pairs.prepare_splits(splits, Path(out), raw, PREPARE, "BtoA", lambda done: None, workers)

        return alternate(
            {"one worker": lambda: prepare(1), "all cores": lambda: prepare(os.cpu_count() or 1)},
            rounds=rounds,
            warm_up=1,
        )
