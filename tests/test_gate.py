"""The gate: who becomes champion, by table and by property."""

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.gate import HIGHER_IS_BETTER, Decision, Policy, decide

KD, FD, KID = "kd_efficientnet_lite0", "fd_efficientnet_lite0", "kid"
LITE0 = {"name": "efficientnet-lite0", "weights_sha256": "w"}
POLICY = Policy("kernel_distance", min_improvement=0.05, max_l1_regression=0.1, max_ssim_regression=0.1)


def measured(kd: float = 0.2, **changed: Any) -> dict[str, Any]:
    """A measurement of 80 images; names of metrics change the model's values, other names the keys."""
    model = {KD: kd, FD: 130.0, KID: 0.1, "fid": 90.0, "l1": 0.1, "psnr_db": 18.0, "ssim": 0.5}
    model |= {name: changed.pop(name) for name in list(changed) if name in model}
    baseline = {KD: 0.7, FD: 330.0, KID: 0.6, "fid": 300.0, "l1": 0.5, "psnr_db": 5.0, "ssim": 0.1}
    return {
        "images": 80,
        "split_sha256": "s1",
        "features": LITE0,
        "model": model,
        "input_as_output": baseline,
        "floor": {KD: 0.02, FD: 30.0},
    } | changed


def without(measurement: dict[str, Any], group: str, name: str = "") -> dict[str, Any]:
    if not name:
        return {key: value for key, value in measurement.items() if key != group}
    kept = {key: value for key, value in measurement[group].items() if key != name}
    return {**measurement, group: kept}


@pytest.mark.parametrize(
    ("challenger", "champion", "kind", "reason"),
    [
        (measured(), None, "first", f"the first version is the champion: {KD} 0.2"),
        (measured(), measured(0.3), "promoted", f"{KD} 0.2 against the champion's 0.3 is 33.3 % better"),
        (measured(), measured(0.1), "rejected", f"{KD} 0.2 against the champion's 0.1 is 100 % worse"),
        (
            measured(),
            measured(),
            "tie",
            f"{KD} 0.2 against the champion's 0.2 is equal; more than 5 % better is needed",
        ),
        (
            measured(0.195),
            measured(),
            "tie",
            f"{KD} 0.195 against the champion's 0.2 is 2.5 % better; more than 5 % better is needed",
        ),
        (
            measured(0.205),
            measured(),
            "tie",
            f"{KD} 0.205 against the champion's 0.2 is 2.5 % worse; more than 5 % better is needed",
        ),
        # What another order of sums makes of the same weights.
        (
            measured(0.1999999),
            measured(),
            "tie",
            f"{KD} 0.2 against the champion's 0.2 is under 0.1 % better; more than 5 % better is needed",
        ),
        # Near zero a share of the champion's value would be less than any noise.
        (
            measured(0.0001),
            measured(0.0008),
            "tie",
            f"{KD} 0.0001 against the champion's 0.0008 is 3.5 % of the floor better; "
            "more than 5 % better is needed",
        ),
        (
            measured(-0.003),
            measured(-0.001),
            "promoted",
            f"{KD} -0.003 against the champion's -0.001 is 10 % of the floor better",
        ),
        (
            measured(0.1, l1=0.12),
            measured(),
            "rejected",
            "l1 0.12 is 20 % worse than the champion's 0.1, 10 % is allowed",
        ),
        (
            measured(0.1, ssim=0.4),
            measured(),
            "rejected",
            "ssim 0.4 is 20 % worse than the champion's 0.5, 10 % is allowed",
        ),
        (
            measured(0.1, l1=0.105, ssim=0.48),
            measured(),
            "promoted",
            f"{KD} 0.1 against the champion's 0.2 is 50 % better",
        ),
        (measured(0.7), None, "rejected", f"{KD} 0.7 is no better than the input as output, 0.7"),
        (measured(0.8), measured(0.9), "rejected", f"{KD} 0.8 is no better than the input as output, 0.7"),
        (
            measured(0.1, images=79),
            measured(),
            "invalid",
            "measured on 79 test images only, the champion on 80",
        ),
        (
            measured(0.1, images=79, split_sha256="s2"),
            measured(),
            "invalid",
            "measured on 79 test images only, the champion on 80",
        ),
    ],
    ids=[
        "first",
        "better",
        "worse",
        "equal",
        "a little better",
        "a little worse",
        "rounding",
        "near zero",
        "below zero",
        "worse L1",
        "worse SSIM",
        "a little worse L1 and SSIM",
        "first that does harm",
        "harm that beats the champion",
        "fewer images",
        "fewer images of another split",
    ],
)
def test_a_challenger_gets_its_verdict_and_the_reason(
    challenger: dict[str, Any], champion: dict[str, Any] | None, kind: str, reason: str
) -> None:
    decision = decide(challenger, champion, POLICY)
    assert decision == Decision(kind, reason)  # type: ignore[arg-type]
    assert decision.promote == (kind in ("first", "promoted"))


@pytest.mark.parametrize(
    ("champion", "reason"),
    [
        (measured(0.3, split_sha256="s2"), "the champion was measured on another test split"),
        (measured(0.3, features=LITE0 | {"weights_sha256": "others"}), "measured with other features"),
        (measured(0.3, features={"name": "inception-2015-12-05"}), "measured with other features"),
        (measured(math.nan), f"the champion's {KD} is nan"),
        (without(measured(0.3), "model", "ssim"), "the champion's ssim is missing"),
        ({}, "the champion was measured on another test split"),
    ],
)
def test_a_champion_that_cannot_be_compared_stays_and_is_to_be_measured_again(
    champion: dict[str, Any], reason: str
) -> None:
    decision = decide(measured(0.1), champion, POLICY)
    assert (decision.kind, decision.measure_again, decision.promote) == ("invalid", True, False)
    assert reason in decision.reason


@pytest.mark.parametrize("champion", [None, measured(0.3)])
@pytest.mark.parametrize(
    ("challenger", "reason"),
    [
        (measured(math.nan), f"the challenger's {KD} is nan"),
        (measured(-math.inf), f"the challenger's {KD} is -inf"),
        (measured(0.1, l1=math.nan), "the challenger's l1 is nan"),
        (measured(0.1, ssim=math.inf), "the challenger's ssim is inf"),
        (measured(0.1, l1="0.1"), "the challenger's l1 is no number"),
        (without(measured(0.1), "model", KD), f"the challenger's {KD} is missing"),
        (without(measured(0.1), "model"), f"the challenger's {KD} is missing"),
        (without(measured(0.1), "images"), "the challenger's number of test images is missing"),
        (measured(0.1, images=10**400), "the challenger's number of test images is missing"),
        (measured(0.1, images=0), "the challenger's number of test images is missing"),
        (without(measured(0.1), "split_sha256"), "the challenger's test split is not named"),
        (without(measured(0.1), "features"), "the features that measured the challenger are not named"),
        (without(measured(0.1), "input_as_output"), f"the {KD} of the input taken as output is missing"),
        ({}, "the features that measured the challenger are not named"),
    ],
)
def test_a_challenger_with_unusable_numbers_is_invalid_also_as_the_first(
    challenger: dict[str, Any], champion: dict[str, Any] | None, reason: str
) -> None:
    decision = decide(challenger, champion, POLICY)
    assert (decision.kind, decision.measure_again, decision.promote) == ("invalid", False, False)
    assert decision.reason.startswith(reason)


@pytest.mark.parametrize(
    ("metric", "name", "better", "worse"),
    [
        ("kernel_distance", KD, 0.1, 0.3),
        ("frechet_distance", FD, 100.0, 200.0),
        ("l1", "l1", 0.05, 0.105),
        ("psnr_db", "psnr_db", 20.0, 16.0),
        ("ssim", "ssim", 0.6, 0.46),
    ],
)
def test_the_direction_follows_from_the_metric(metric: Any, name: str, better: float, worse: float) -> None:
    policy = Policy(metric, 0.01, 0.1, 0.1)
    assert decide(measured(**{name: better}), measured(), policy).kind == "promoted"
    assert decide(measured(**{name: worse}), measured(), policy).kind == "rejected"


def test_the_distances_are_those_of_the_extractor_that_measured() -> None:
    features = {"name": "inception-2015-12-05", "weights_sha256": "i"}
    decision = decide(measured(kid=0.05, features=features), measured(0.1, features=features), POLICY)
    assert decision == Decision("promoted", f"{KID} 0.05 against the champion's 0.1 is 50 % better")


def test_the_margin_and_the_guards_are_the_policys() -> None:
    worse_l1 = measured(0.1, l1=0.12)
    assert decide(measured(0.195), measured(), Policy("kernel_distance", 0.01, 0.1, 0.1)).promote
    assert not decide(measured(0.15), measured(), Policy("kernel_distance", 0.3, 0.1, 0.1)).promote
    assert decide(worse_l1, measured(), Policy("kernel_distance", 0.05, 0.3, 0.1)).promote
    assert not decide(measured(0.1, ssim=0.49), measured(), Policy("kernel_distance", 0.05, 0.1, 0.0)).promote


# --- properties --------------------------------------------------------------------------------------

# The same examples each time, on a busy machine too.
settings.register_profile(
    "gate",
    max_examples=100,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gate")

NAMES = (KD, FD, "l1", "psnr_db", "ssim")
# Values near each other, where ties and guards are met, and any at all.
NUMBERS = st.one_of(st.floats(-1, 1), st.sampled_from([0.0, -0.0, 0.1, 0.1001, 5e-324, 1e308]), st.floats())
POLICIES = st.builds(
    Policy,
    st.sampled_from(["kernel_distance", "frechet_distance", "l1", "psnr_db", "ssim"]),
    st.floats(0, 1),
    st.floats(0, 2),
    st.floats(0, 2),
)


@st.composite
def measurements(draw: st.DrawFn) -> dict[str, Any]:
    """Measurements that can be compared more often than not, with numbers that need not be any."""
    groups = ("model", "input_as_output", "floor")
    return {
        "images": draw(st.sampled_from([80, 80, 80, 79])),
        "split_sha256": draw(st.sampled_from(["s1", "s1", "s1", "s2"])),
        "features": LITE0,
        **{group: draw(st.fixed_dictionaries({name: NUMBERS for name in NAMES})) for group in groups},
    }


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["images", "split_sha256", "features", "name", "model", "input_as_output", *NAMES]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


def primary(policy: Policy) -> str:
    return {"kernel_distance": KD, "frechet_distance": FD}.get(policy.primary_metric, policy.primary_metric)


@given(measurements(), measurements(), POLICIES)
def test_what_is_worse_on_the_primary_metric_is_never_promoted(
    challenger: dict[str, Any], champion: dict[str, Any], policy: Policy
) -> None:
    decision = decide(challenger, champion, policy)
    name = primary(policy)
    new, old, baseline = (
        challenger["model"][name],
        champion["model"][name],
        challenger["input_as_output"][name],
    )
    is_better = (new > old, new > baseline) if name in HIGHER_IS_BETTER else (new < old, new < baseline)
    if decision.promote:
        assert all(is_better)
        assert all(math.isfinite(challenger["model"][guard]) for guard in ("l1", "ssim"))
        assert challenger["images"] >= champion["images"]
        assert challenger["split_sha256"] == champion["split_sha256"]


@given(measurements(), POLICIES)
def test_a_first_version_is_promoted_exactly_when_it_is_valid_and_does_no_harm(
    challenger: dict[str, Any], policy: Policy
) -> None:
    name = primary(policy)
    model, baseline = challenger["model"], challenger["input_as_output"][name]
    is_valid = all(math.isfinite(value) for value in (model[name], model["l1"], model["ssim"], baseline))
    is_better = model[name] > baseline if name in HIGHER_IS_BETTER else model[name] < baseline
    assert decide(challenger, None, policy).promote == (is_valid and is_better)


@given(measurements(), measurements(), POLICIES)
def test_of_two_versions_at_most_one_is_promoted_over_the_other(
    one: dict[str, Any], other: dict[str, Any], policy: Policy
) -> None:
    assert not (decide(one, other, policy).promote and decide(other, one, policy).promote)


@given(measurements(), measurements(), POLICIES, st.randoms(use_true_random=False))
def test_the_order_of_keys_has_no_say(
    challenger: dict[str, Any], champion: dict[str, Any], policy: Policy, random: Any
) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = list(value)
        random.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    assert decide(shuffled(challenger), shuffled(champion), policy) == decide(challenger, champion, policy)


@given(measurements() | ANYTHING, measurements() | ANYTHING, POLICIES)
def test_whatever_the_numbers_are_there_is_a_decision_in_one_line(
    challenger: Any, champion: Any, policy: Policy
) -> None:
    decision = decide(challenger, champion, policy)
    assert decision.kind in ("first", "promoted", "rejected", "tie", "invalid")
    assert decision.reason
    assert "\n" not in decision.reason
