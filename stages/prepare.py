"""data/raw → data/pairs/{train,val,test}: every pair found, checked, split and resized."""

import csv
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pix2pix import check_pictures, layouts, pair_set, pairs, preparation, side_kinds
from pix2pix.data_checks import Collector, Findings
from pix2pix.encoding import RGB8
from pix2pix.errors import UserError
from pix2pix.files import atomic_file, atomic_folder, named_failure, write_json
from pix2pix.images import save_picture
from pix2pix.layouts import Reject
from pix2pix.manifest import Split
from pix2pix.pair_list import Pair, Texts
from pix2pix.pairs import SPLITS, Recipe, SplitTally
from pix2pix.params import Params
from pix2pix.preparation import Workplace

from .console import progress
from .runner import run

log = logging.getLogger(__name__)

RAW, PAIRS = Path("data/raw"), Path("data/pairs")
REPORT, PICTURE = Path("reports/data.json"), Path("reports/data.png")
# Where the stage refuses the data, which leaves no report; no output of it.
UNUSABLE = Path("reports/unusable.csv")
# Beside data/pairs, so that what is done there can be moved; what an interrupted run left is gone on with.
UNFINISHED = ".prepare"
# Of the pixels, so that a few bright ones hide nothing. Of 8 bits more: masks of small things are not dark.
DARK_SHARE, DARK_SHARE_8_BITS = 0.99, 0.999


@dataclass
class Done:
    """What became of the pairs, kept small: a hundred thousand of them must not fill the memory."""

    collector: Collector
    tallies: dict[Split, SplitTally] = field(
        default_factory=lambda: {split: SplitTally() for split in SPLITS}
    )
    names: dict[Split, Texts] = field(default_factory=lambda: {split: Texts() for split in SPLITS})
    sizes: Counter[str] = field(default_factory=Counter)
    rejects: list[Reject] = field(default_factory=list)

    def take(self, outcome: preparation.Outcome) -> None:
        split, name, prepared = outcome.split, outcome.pair.name, outcome.prepared
        if prepared is None:
            self.rejects.append(Reject(outcome.pair.a, outcome.reason))
            return
        self.tallies[split].add(name, prepared.sha256)
        self.names[split].append(name)
        self.sizes[prepared.source_size] += 1
        self.collector.add((split, name), prepared.facts)


def prepare(params: Params) -> None:
    """Prepare the data set and report what was understood, and what looks wrong.

    Raises:
        UserError: no pairs, an empty split, or more unusable pairs than prepare.max_bad_share.
    """
    started = time.monotonic()
    if not RAW.is_dir():
        raise UserError(f"{RAW}: is not there; `dvc repro prepare` fetches the data first")
    found = layouts.find_pairs(RAW, derived=params.dataset.derive != "none")
    if not found.pairs:
        raise UserError(
            f"{RAW}: no pairs among {len(found.rejects)} images; expected combined images (A left, B right), "
            "folders A/ and B/ with equal names, or a list of pairs, pairs.csv"
        )
    splits, rule = pairs.assign_splits(found.pairs, params.prepare.val_share, params.prepare.test_share)
    # Before hours of work, and after it, when it is known which are usable.
    pairs.check_not_empty({split: len(listed) for split, listed in splits.items()}, rule)
    recipe = _recipe(found.pairs, splits["train"], params)
    # Once is enough in memory: the splits have them all.
    total, found = len(found.pairs), replace(found, pairs=())
    unfinished = PAIRS.resolve().parent / UNFINISHED
    with named_failure(PAIRS), preparation.workplace(unfinished, recipe) as work:
        done = _prepare_all(splits, work, recipe, params)
        done.rejects = sorted([*found.rejects, *done.rejects], key=lambda reject: reject.file)
        _check(done, rule, params)
        findings = done.collector.findings(lambda place: work.read(*place))
        columns = recipe.input.heading("input"), recipe.target.heading("target")
        told = {
            "a dark side": list(_dark(done, recipe).values()),
            "not usable": [f"{reject.file}: {reject.reason}" for reject in done.rejects],
        }
        pictures = check_pictures.draw(findings, done.names, work.read, recipe.image_px, columns, told)
        save_picture(PICTURE, pictures)
        write_json(REPORT, _report(params, recipe, found.layout, rule, done, findings))
    _put_in_place(unfinished, params, recipe)
    UNUSABLE.unlink(missing_ok=True)
    _say(done, recipe, findings, rule, total / (time.monotonic() - started))


def _recipe(found: Sequence[Pair], training: Sequence[Pair], params: Params) -> Recipe:
    workers = os.cpu_count() or 1
    with progress("look at headers", total=len(found), unit="pairs", style=params.run.progress) as update:
        encodings = side_kinds.encodings(found, RAW, params, workers, update)
    recipe = Recipe.of(params, *encodings)
    return side_kinds.with_ranges(recipe, training, RAW, params.prepare.percentiles, workers)


def _prepare_all(
    splits: Mapping[Split, Sequence[Pair]], work: Workplace, recipe: Recipe, params: Params
) -> Done:
    before = work.count()
    total = sum(map(len, splits.values()))
    if before:
        log.info("going on: %d pairs were prepared before this run, of %d", before, total)
    done = Done(Collector(derived=recipe.derive != "none"))
    with progress("prepare", total=total, unit="pairs", style=params.run.progress) as update:
        outcomes = preparation.prepare_all(splits, work, RAW, recipe, os.cpu_count() or 1)
        for finished, outcome in enumerate(outcomes, start=1):
            done.take(outcome)
            update(finished)
    if before:
        work.keep_only(done.names)
    return done


def _check(done: Done, rule: str, params: Params) -> None:
    usable = {split: tally.pairs for split, tally in done.tallies.items()}
    total, max_bad_share = sum(usable.values()) + len(done.rejects), params.prepare.max_bad_share
    if done.rejects and len(done.rejects) > max_bad_share * total:
        with atomic_file(UNUSABLE) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("file", "reason"), *((r.file, r.reason) for r in done.rejects)])
        for reject in done.rejects[1:10]:
            log.warning("unusable: %s %s", reject.file, reject.reason)
        if len(done.rejects) > 10:
            log.warning("and %d more, see %s", len(done.rejects) - 10, UNUSABLE)
        first = done.rejects[0]
        raise UserError(
            f"{RAW / first.file}: {first.reason}; {len(done.rejects)} of {total} pairs are unusable, "
            f"more than prepare.max_bad_share = {max_bad_share} allows: mend them or raise it"
        )
    pairs.check_not_empty(usable, rule)


def _report(
    params: Params, recipe: Recipe, layout: str, rule: str, done: Done, findings: Findings
) -> dict[str, Any]:
    dark = _dark(done, recipe)
    return {
        "dataset": params.dataset.name,
        "layout": layout,
        "derive": recipe.derive,
        "direction": recipe.direction,
        "input": str(recipe.input),
        "target": str(recipe.target),
        "range_input": recipe.input.said_range,
        "range_target": recipe.target.said_range,
        **pairs.summary(done.tallies, done.sizes, done.rejects, rule, recipe),
        "checks": {**findings.report(), "dark": {"count": len(dark), "named": dark}},
        "colours": done.collector.colours(),
    }


def _put_in_place(unfinished: Path, params: Params, recipe: Recipe) -> None:
    with atomic_folder(PAIRS) as folder:
        for split in SPLITS:
            (unfinished / split).rename(folder / split)
        pair_set.Geometry(
            dataset=params.dataset.name,
            direction=params.dataset.direction,
            image_px=params.prepare.image_px,
            load_px=params.prepare.load_px,
            input=recipe.input,
            target=recipe.target,
            resize_target=params.prepare.resize_target,
        ).write(folder / "pairs.json")
    shutil.rmtree(unfinished)


def _dark(done: Done, recipe: Recipe) -> dict[str, str]:
    """What is said of sides whose values hardly leave zero: class indices, say, or 12 bits stored in 16."""
    found = {}
    for name, side in (("input", recipe.input), ("target", recipe.target)):
        if side.range != "full" or side.classes:
            continue
        levels = list(done.collector.colours()[name]["histogram"].values())
        if sum(levels[: len(levels) // 4]) >= (DARK_SHARE_8_BITS if side.dtype == "uint8" else DARK_SHARE):
            found[name] = (
                f"the {name} is dark: its values stay below a quarter of {side.white:g}; "
                f"prepare.range_{name} = percentiles would use what they span"
            )
    return found


def _say(done: Done, recipe: Recipe, findings: Findings, rule: str, rate: float) -> None:
    for reject in done.rejects[:10]:
        log.warning("unusable: %s %s", reject.file, reject.reason)
    for line in [*findings.warnings(), *_dark(done, recipe).values()]:
        log.warning("%s", line)
    counts = ", ".join(f"{tally.pairs} {split}" for split, tally in done.tallies.items())
    log.info("%s pairs (%s; %.0f a second); see %s", counts, rule, rate, PICTURE)
    if (recipe.input, recipe.target) != (RGB8, RGB8):
        log.info("input: %s; target: %s", recipe.input, recipe.target)


if __name__ == "__main__":
    run(prepare)
