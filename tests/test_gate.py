"""The gate: who becomes champion, by table."""

from typing import Any

import pytest

from pipeline.gate import decide

KD, KID = "kd_efficientnet_lite0", "kid"


def measured(value: float, *, split: str = "s1", metric: str = KD) -> dict[str, Any]:
    features = {"name": metric, "weights_sha256": "w"}
    return {"split_sha256": split, "features": features, "model": {metric: value, "l1": 0.1}}


@pytest.mark.parametrize(
    ("champion", "promote", "why"),
    [
        (None, True, "the first version is the champion"),
        (measured(0.3), True, f"{KD} 0.2000 beats the champion's 0.3000"),
        (measured(0.2), False, f"{KD} 0.2000 does not beat the champion's 0.2000"),
        (measured(0.1), False, f"{KD} 0.2000 does not beat the champion's 0.1000"),
        # The unbiased kernel distance falls below zero for two equal sets.
        (measured(-0.001), False, f"{KD} 0.2000 does not beat the champion's -0.0010"),
        (measured(0.3, split="s2"), False, "another test split"),
        (measured(0.3, metric=KID), False, "measured with other features"),
        (measured(0.3, split="s2", metric=KID), False, "another test split"),
        (
            measured(0.3) | {"features": {"name": KD, "weights_sha256": "others"}},
            False,
            "measured with other features",
        ),
    ],
    ids=[
        "first",
        "better",
        "equal",
        "worse",
        "below zero",
        "other split",
        "other metric",
        "other split and metric",
        "other weights of the extractor",
    ],
)
def test_only_a_lower_distance_on_the_same_split_is_promoted(
    champion: dict[str, Any] | None, promote: bool, why: str
) -> None:
    decision = decide(measured(0.2), champion, KD)
    assert decision.promote is promote
    assert why in decision.reason


def test_the_other_metrics_have_no_say() -> None:
    challenger, champion = measured(0.2), measured(0.1)
    challenger["model"]["l1"], champion["model"]["l1"] = 0.01, 0.9
    assert not decide(challenger, champion, KD).promote
    assert decide(challenger, champion, "l1").promote
