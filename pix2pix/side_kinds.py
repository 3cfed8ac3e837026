"""What the two sides of a data set are: told from the headers of all files and, of ranges, from training."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from . import pairs
from .decoding import Limits, Samples, UnreadableImage, probe
from .encoding import Encoding, KindCounts, decide, measured, of_classes, thinned
from .pair_grid import spread
from .pair_list import Pair
from .pairs import Recipe
from .params import Params

# Files whose headers one task reads.
CHUNK = 500
# Training pairs that ranges are measured on; more of them change no percentile by much, and take their time.
MEASURED_PAIRS = 500


def encodings(
    found: Sequence[Pair],
    raw: Path,
    params: Params,
    workers: int,
    on_pairs: Callable[[int], None] = lambda done: None,
) -> tuple[Encoding, Encoding]:
    """The encodings of input and target, ranges not measured yet.

    A file that cannot be opened says nothing here; it is named when it is to be prepared. Inputs that are
    made from photos are 8-bit RGB, and so are the photos then.

    Args:
        raw: the folder that the pairs' paths are relative to.
        on_pairs: told how many are done.
    """
    prepare, dataset = params.prepare, params.dataset
    if dataset.derive != "none":
        return (
            Encoding(alpha=prepare.alpha, range=prepare.range_input),
            Encoding(alpha=prepare.alpha, range=prepare.range_target),
        )
    limits = Limits(prepare.max_pixels, prepare.max_file_mb)

    def count(first: int) -> tuple[KindCounts, KindCounts]:
        of_a: KindCounts = Counter()
        of_b: KindCounts = Counter()
        for pair in found[first : first + CHUNK]:
            kind_a = _kind(raw / pair.a, limits)
            # A combined image is both.
            kind_b = _kind(raw / pair.b, limits) if pair.b else kind_a
            of_a.update([kind_a] if kind_a else [])
            of_b.update([kind_b] if kind_b else [])
        return of_a, of_b

    of_a: KindCounts = Counter()
    of_b: KindCounts = Counter()
    with ThreadPoolExecutor(workers) as pool:
        for number, (counted_a, counted_b) in enumerate(
            pool.map(count, range(0, len(found), CHUNK)), start=1
        ):
            of_a.update(counted_a)
            of_b.update(counted_b)
            on_pairs(min(number * CHUNK, len(found)))
    of_input, of_target = (of_a, of_b) if dataset.direction == "AtoB" else (of_b, of_a)
    target = decide(of_target, prepare.alpha, prepare.max_bad_share, prepare.range_target)
    if prepare.classes:
        return of_classes(prepare.classes), target
    return decide(of_input, prepare.alpha, prepare.max_bad_share, prepare.range_input), target


def _kind(file: Path, limits: Limits) -> tuple[int, str, bool] | None:
    try:
        kind = probe(file, limits)
    except UnreadableImage:
        return None
    return kind.channels, kind.dtype, kind.has_alpha


def with_ranges(
    recipe: Recipe, training: Sequence[Pair], raw: Path, percentiles: tuple[float, float], workers: int
) -> Recipe:
    """The recipe with the ranges of its encodings measured, where percentiles are asked for.

    They are those of at most 500 training pairs, evenly spread, at the size that training sees; what cannot
    be read of them is left out.
    """
    if recipe.input.range == recipe.target.range == "full":
        return recipe
    sample = [training[index] for index in spread(len(training), MEASURED_PAIRS)]

    def read(pair: Pair) -> tuple[Samples, Samples] | None:
        try:
            source, target, _ = pairs.sides(pair, raw, recipe, recipe.size_px("train"))
        except UnreadableImage:
            return None
        return thinned(source, len(sample)), thinned(target, len(sample))

    with ThreadPoolExecutor(workers) as pool:
        kept = [both for both in pool.map(read, sample) if both]
    if not kept:
        return recipe
    of_input, of_target = zip(*kept, strict=True)

    def ranged(side: Encoding, pixels: Sequence[Samples]) -> Encoding:
        return measured(side, pixels, len(sample), percentiles) if side.range == "percentiles" else side

    return replace(recipe, input=ranged(recipe.input, of_input), target=ranged(recipe.target, of_target))
