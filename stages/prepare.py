"""data/raw → data/pairs/{train,val,test}: every pair found, checked, split and resized."""

import logging
import os
import time
from pathlib import Path

import numpy as np

from pix2pix import images, pair_set, pairs
from pix2pix.errors import UserError
from pix2pix.files import atomic_folder, write_json
from pix2pix.params import Params

from .console import progress
from .runner import run

log = logging.getLogger(__name__)

RAW, PAIRS = Path("data/raw"), Path("data/pairs")
REPORT, PICTURE = Path("reports/data.json"), Path("reports/data.png")
SHOWN_PAIRS = 6


def prepare(params: Params) -> None:
    """Prepare the data set and report what was understood.

    Raises:
        UserError: no pairs, an empty split, or more unusable pairs than prepare.max_bad_share.
    """
    started = time.monotonic()
    if not RAW.is_dir():
        raise UserError(f"{RAW}: is not there; `dvc repro prepare` fetches the data first")
    found, rejects = pairs.find_pairs(RAW)
    if not found:
        raise UserError(
            f"{RAW}: no pairs among {len(rejects)} images; expected combined images (A left, B right) "
            "or folders A/ and B/ with equal names"
        )
    splits, rule = pairs.assign_splits(found, params.prepare.val_share, params.prepare.test_share)
    with atomic_folder(PAIRS) as folder:
        with progress("prepare", total=len(found), unit="pairs", style=params.run.progress) as update:
            done, unreadable = pairs.prepare_splits(
                splits, folder, RAW, params.prepare, params.dataset.direction, update, os.cpu_count() or 1
            )
        rejects = sorted([*rejects, *unreadable], key=lambda reject: reject.file)
        usable_pairs = sum(len(usable) for usable in done.values())
        _refuse_too_many(rejects, usable_pairs + len(rejects), params.prepare.max_bad_share)
        pairs.check_not_empty({split: len(usable) for split, usable in done.items()}, rule)
        pair_set.Geometry(
            dataset=params.dataset.name,
            direction=params.dataset.direction,
            image_px=params.prepare.image_px,
            load_px=params.prepare.load_px,
        ).write(folder / "pairs.json")
        _draw(folder / "train", [pair.name for pair in done["train"]])
        report = {"dataset": params.dataset.name, "direction": params.dataset.direction}
        write_json(REPORT, report | pairs.summary(done, rejects, rule, params.prepare))
    for reject in rejects[:10]:
        log.warning("unusable: %s %s", reject.file, reject.reason)
    counts = ", ".join(f"{len(usable)} {split}" for split, usable in done.items())
    rate = len(found) / (time.monotonic() - started)
    log.info("%s pairs (%s; %.0f a second); see %s", counts, rule, rate, PICTURE)


def _refuse_too_many(rejects: list[pairs.Reject], total: int, max_bad_share: float) -> None:
    if rejects and len(rejects) > max_bad_share * total:
        # No report will name them.
        for reject in rejects[1:10]:
            log.warning("unusable: %s %s", reject.file, reject.reason)
        first = rejects[0]
        raise UserError(
            f"{RAW / first.file}: {first.reason}; {len(rejects)} of {total} pairs are unusable, more than "
            f"prepare.max_bad_share = {max_bad_share} allows: mend them or raise it"
        )


def _draw(folder: Path, names: list[str]) -> None:
    # Spread over the set: neighbours in a list of names are often alike.
    step = max(1, len(names) // SHOWN_PAIRS)
    shown = names[::step][:SHOWN_PAIRS]
    rows = [
        [images.read_rgb(folder / side / f"{name}.png") for side in ("input", "target")] for name in shown
    ]
    # Two pairs a row make a picture that fits a screen.
    if len(rows) % 2 == 0:
        rows = [rows[i] + rows[i + 1] for i in range(0, len(rows), 2)]
        shown = [f"{shown[i]}\n{shown[i + 1]}" for i in range(0, len(shown), 2)]
        columns = ["input", "target", "input", "target"]
    else:
        columns = ["input", "target"]
    images.save_picture(PICTURE, np.asarray(images.labelled_grid(columns, rows, shown)))


if __name__ == "__main__":
    run(prepare)
