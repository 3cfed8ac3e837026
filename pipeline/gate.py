"""The gate: whether a challenger becomes champion. Two measurements in, a verdict in words out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pix2pix.params import PrimaryMetric, Registry, distance_names

Kind = Literal["first", "promoted", "rejected", "tie", "invalid"]

HIGHER_IS_BETTER = ("psnr_db", "ssim")
# More is no count, and would fill the reason with digits.
MOST_IMAGES = 10**12


@dataclass(frozen=True)
class Policy:
    """What a challenger must be better in, by how much, and what it may be worse in.

    Attributes:
        primary_metric: kernel_distance and frechet_distance are those of the extractor that measured.
        min_improvement: share of the champion's value; less than that is a tie.
        max_l1_regression, max_ssim_regression: shares of the champion's value.
    """

    primary_metric: PrimaryMetric
    min_improvement: float
    max_l1_regression: float
    max_ssim_regression: float

    @classmethod
    def of(cls, settings: Registry) -> "Policy":
        """The policy in the section `registry` of params.yaml."""
        return cls(
            settings.primary_metric,
            settings.min_improvement,
            settings.max_l1_regression,
            settings.max_ssim_regression,
        )

    def metric(self, features: str) -> str:
        """The primary metric's name in metrics.json when these features measured."""
        frechet, kernel = distance_names(features)
        return {"frechet_distance": frechet, "kernel_distance": kernel}.get(
            self.primary_metric, self.primary_metric
        )


@dataclass(frozen=True)
class Decision:
    """What becomes of the challenger, and why in one sentence.

    Attributes:
        measure_again: nothing is wrong with the challenger, but the champion's measurement is of another
            test split, by other features or incomplete; with one like the challenger's, ask again.
    """

    kind: Kind
    reason: str
    measure_again: bool = False

    @property
    def promote(self) -> bool:
        """Whether the challenger becomes champion."""
        return self.kind in ("first", "promoted")


def decide(challenger: Mapping[str, Any], champion: Mapping[str, Any] | None, policy: Policy) -> Decision:
    """Judge a challenger. Total: whatever is in the two mappings, there is a decision and no exception.

    Args:
        challenger: the content of its metrics.json.
        champion: of the champion's the keys images, split_sha256, features and model; None where there is
            no champion.
        policy: how to judge.
    """
    name = _extractor(challenger)
    if name is None:
        return Decision("invalid", "the features that measured the challenger are not named")
    metric = policy.metric(name)
    new, baseline = _number(challenger, "model", metric), _number(challenger, "input_as_output", metric)
    if problem := _problem(challenger, metric):
        return Decision("invalid", f"the challenger's {problem}")
    if baseline is None:
        return Decision("invalid", f"the {metric} of the input taken as output is missing or no number")
    assert new is not None
    # Also the first: people use what is called champion, and doing nothing would serve them better.
    if _gain(metric, new, baseline) <= 0:
        return Decision(
            "rejected", f"{metric} {new:.4g} is no better than the input as output, {baseline:.4g}"
        )
    if champion is None:
        return Decision("first", f"the first version is the champion: {metric} {new:.4g}")
    return _comparability(challenger, champion, metric) or _compare(challenger, champion, metric, policy)


def _comparability(
    challenger: Mapping[str, Any], champion: Mapping[str, Any], metric: str
) -> Decision | None:
    """The decision where two valid measurements have nothing to say about each other; else None."""
    images, before = _count(challenger), _count(champion)
    assert images is not None
    if before is not None and images < before:
        return Decision("invalid", f"measured on {images} test images only, the champion on {before}")
    for key, what in (("split_sha256", "on another test split"), ("features", "with other features")):
        if _at(champion, key) != _at(challenger, key):
            return Decision(
                "invalid", f"the champion was measured {what}, so the two cannot be compared", True
            )
    if problem := _problem(champion, metric):
        return Decision("invalid", f"the champion's {problem}", True)
    return None


def _compare(
    challenger: Mapping[str, Any], champion: Mapping[str, Any], metric: str, policy: Policy
) -> Decision:
    new, old = _number(challenger, "model", metric), _number(champion, "model", metric)
    assert new is not None and old is not None
    gain, scale = _gain(metric, new, old), _scale(challenger, metric, old)
    margin = policy.min_improvement * scale
    share = _percent(abs(gain), scale) + ("" if scale == abs(old) else " of the floor")
    change = f"{share} {'better' if gain > 0 else 'worse'}" if gain else "equal"
    said = f"{metric} {new:.4g} against the champion's {old:.4g} is {change}"
    if gain < -margin:
        return Decision("rejected", said)
    if gain <= margin:
        return Decision("tie", f"{said}; more than {100 * policy.min_improvement:g} % better is needed")
    for guard, allowed in (("l1", policy.max_l1_regression), ("ssim", policy.max_ssim_regression)):
        now, before = _number(challenger, "model", guard), _number(champion, "model", guard)
        assert now is not None and before is not None
        loss = -_gain(guard, now, before)
        if loss > allowed * abs(before):
            return Decision(
                "rejected",
                f"{guard} {now:.4g} is {_percent(loss, abs(before))} worse than the champion's {before:.4g}, "
                f"{100 * allowed:g} % is allowed",
            )
    return Decision("promoted", said)


def _gain(metric: str, new: float, old: float) -> float:
    """By how much `new` is better: above zero for better, in the metric's own direction."""
    return new - old if metric in HIGHER_IS_BETTER else old - new


def _scale(challenger: Mapping[str, Any], metric: str, old: float) -> float:
    """What the margin is a share of: the champion's value, or the floor's where that is larger.

    An unbiased kernel distance comes down to zero and below, where a share of it would be less than any
    noise. The floor is how far real training images are from the real test images: no generator can be told
    from real ones below it, so no difference that is a small share of it says anything.
    """
    floor = _number(challenger, "floor", metric)
    return max(abs(old), abs(floor) if floor is not None else 0.0)


def _percent(part: float, whole: float) -> str:
    if not whole:
        return f"{part:.4g}"
    # What rounding alone makes of equal ones is no 4.95e-05 %.
    return f"{100 * (part / whole):.3g} %" if part / whole >= 0.001 else "under 0.1 %"


# --- reading what may be missing ---------------------------------------------------------------------


def _problem(measurement: Mapping[str, Any], metric: str) -> str | None:
    """What of the numbers that are compared is not usable; None where all are."""
    for name in (metric, "l1", "ssim"):
        if _number(measurement, "model", name) is None:
            value = _at(_at(measurement, "model"), name)
            shown = value if isinstance(value, float) else "missing" if value is None else "no number"
            return f"{name} is {shown}"
    if not isinstance(_at(measurement, "split_sha256"), str):
        return "test split is not named"
    return "number of test images is missing" if _count(measurement) is None else None


def _extractor(measurement: Mapping[str, Any]) -> str | None:
    name = _at(_at(measurement, "features"), "name")
    return name if isinstance(name, str) else None


def _count(measurement: Mapping[str, Any]) -> int | None:
    images = _at(measurement, "images")
    is_count = isinstance(images, int) and not isinstance(images, bool) and 0 < images < MOST_IMAGES
    return images if is_count else None


def _number(measurement: Mapping[str, Any], group: str, name: str) -> float | None:
    value = _at(_at(measurement, group), name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        # JSON's whole numbers have no limit.
        return None
    return number if math.isfinite(number) else None


def _at(mapping: Any, key: str) -> Any:
    return mapping.get(key) if isinstance(mapping, Mapping) else None
