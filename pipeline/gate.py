"""The promotion decision: numbers in, a verdict and its reason in words out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Decision:
    """Whether the challenger becomes champion, and why in one sentence."""

    promote: bool
    reason: str


def decide(challenger: Mapping[str, Any], champion: Mapping[str, Any] | None, metric: str) -> Decision:
    """Compare two generators by a metric of which lower is better.

    Args:
        challenger, champion: the content of their metrics.json; None where there is no champion.
        metric: a name in the group `model`, such as kd_efficientnet_lite0.
    """
    if champion is None:
        return Decision(True, "the first version is the champion")
    if champion["split_sha256"] != challenger["split_sha256"]:
        return Decision(
            False, "the champion was measured on another test split, so the two cannot be compared"
        )
    if champion["features"] != challenger["features"]:
        return Decision(False, "the champion was measured with other features, so the two cannot be compared")
    new, old = challenger["model"][metric], champion["model"][metric]
    if new < old:
        return Decision(True, f"{metric} {new:.4f} beats the champion's {old:.4f}")
    return Decision(False, f"{metric} {new:.4f} does not beat the champion's {old:.4f}")
