"""Which registered version is champion: the gate's word is carried out, a person's stands."""

import json
from pathlib import Path
from typing import Any

import pytest
from registry_fixtures import (
    MODEL_NAME,
    Project,
    aliases,
    client,
    digest,
    register,
    runs,
)

from pipeline import champions, delivery, promotion, registry
from pix2pix.errors import UserError
from pix2pix.files import write_json

pytest_plugins = ["registry_fixtures"]

FIRST = "the first version is the champion: kd_efficientnet_lite0 0.2"


def refused(project: Project) -> str:
    with pytest.raises(UserError) as caught:
        register(project)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_better_generator_is_promoted_and_the_worse_stays_challenger(champion: Project) -> None:
    champion.make("worse", 0.3)
    worse = register(champion)
    assert (worse.version, worse.alias) == ("2", "challenger")
    assert worse.reason == "kd_efficientnet_lite0 0.3 against the champion's 0.2 is 50 % worse"
    assert aliases() == {"champion": "1", "challenger": "2"}
    champion.make("better", 0.1)
    better = register(champion)
    assert (better.version, better.alias) == ("3", "champion")
    assert aliases() == {"champion": "3", "challenger": "2"}
    decision = client().get_model_version(MODEL_NAME, "3").tags["decision"]
    assert decision == "kd_efficientnet_lite0 0.1 against the champion's 0.2 is 50 % better"
    champion.make("a", 0.2)
    dethroned = register(champion)
    assert (dethroned.version, dethroned.alias, dethroned.created) == ("1", "challenger", False)
    assert aliases() == {"champion": "3", "challenger": "1"}


def test_what_the_gate_promotes_can_be_held_and_carried_out_later(champion: Project) -> None:
    champion.make("b", 0.1)
    held = registry.register(champion.params(), "# card", promote=False)
    assert (held.version, held.alias, held.instead_of) == ("2", "challenger", "1")
    assert aliases() == {"champion": "1", "challenger": "2"}
    tags = client().get_model_version(MODEL_NAME, "2").tags
    assert (tags["decision_kind"], tags["decision"]) == ("held", f"to be made champion: {held.reason}")
    done = registry.carry_out(held, "approved", "sharper", "somebody")
    assert (done.alias, done.reason, done.held) == ("champion", "sharper", None)
    assert aliases() == {"champion": "2"}
    assert client().get_model_version(MODEL_NAME, "2").tags["decision_kind"] == "promoted"
    last = promotion.standing(client(), MODEL_NAME).moves[-1]
    assert (last.how, last.by, last.because) == ("approved", "somebody", "sharper")


def test_a_held_version_is_promoted_by_the_next_that_may(
    champion: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion.make("b", 0.1)
    monkeypatch.setenv("PIX2PIX_PROMOTE", "never")
    assert register(champion).alias == "challenger"
    monkeypatch.setenv("PIX2PIX_PROMOTE", "perhaps")
    assert refused(champion) == "PIX2PIX_PROMOTE=perhaps: expected auto or never"
    monkeypatch.delenv("PIX2PIX_PROMOTE")
    assert register(champion).alias == "champion"
    assert aliases() == {"champion": "2"}


def test_a_declined_version_stays_challenger_until_a_person_promotes_it(champion: Project) -> None:
    champion.make("b", 0.1)
    held = registry.register(champion.params(), "# card", promote=False)
    assert registry.decline(held, "declined by somebody: blurred").reason == "declined by somebody: blurred"
    again = register(champion)
    assert (again.alias, again.reason, again.held) == ("challenger", "declined by somebody: blurred", None)
    assert aliases() == {"champion": "1", "challenger": "2"}
    champions.promote(MODEL_NAME, "2", "a second look")
    assert register(champion).alias == "champion"


def test_a_held_version_is_not_promoted_over_a_champion_that_came_meanwhile(champion: Project) -> None:
    champion.make("b", 0.1)
    held = registry.register(champion.params(), "# card", promote=False)
    champion.make("c", 0.05)
    assert register(champion).version == "3"
    with pytest.raises(UserError, match="changed from version 1 to version 3 meanwhile"):
        registry.carry_out(held)
    assert aliases()["champion"] == "3"


def test_another_test_split_is_not_compared(champion: Project) -> None:
    champion.make("b", 0.1, split="other pairs")
    other = register(champion)
    assert (other.version, other.alias) == ("2", "challenger")
    assert "another test split" in other.reason
    assert aliases() == {"champion": "1", "challenger": "2"}


class Measure:
    """Stands for the measurement of an ONNX file: notes what it is given and answers as it is told."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.files: list[bytes] = []

    def __call__(self, onnx: Path) -> dict[str, Any]:
        self.files.append(onnx.read_bytes())
        return self.answer


def test_a_champion_of_another_split_is_measured_again_once_with_its_own_file(
    project: Project, store: Path
) -> None:
    project.make("a", 0.2)
    register(project)
    champions_file = project.model.read_bytes()
    measure = Measure(project.metrics("a", 0.5, split="more pairs"))
    project.make("b", 0.3, split="more pairs")
    better = registry.register(project.params(), "# b", measure)
    assert better.reason == "kd_efficientnet_lite0 0.3 against the champion's 0.5 is 40 % better"
    assert (better.alias, measure.files) == ("champion", [champions_file])
    tags = client().get_model_version(MODEL_NAME, "1").tags
    assert json.loads(tags["metrics"])["model"]["kd_efficientnet_lite0"] == 0.2
    (again,) = [json.loads(value) for key, value in tags.items() if key.startswith("measured_")]
    assert (again["split_sha256"], again["model"]["kd_efficientnet_lite0"]) == (digest("more pairs"), 0.5)

    measure = Measure(project.metrics("b", 0.4))
    for weights, kd in (("c", 0.39), ("d", 0.6), ("c", 0.39)):
        project.make(weights, kd)
        assert registry.register(project.params(), "# card", measure).alias == "challenger"
    assert len(measure.files) == 1


def test_a_champion_of_other_features_is_measured_again_with_these(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    register(project)
    metrics = project.make("b", 0.3)
    features = {"name": "efficientnet-lite0", "weights_sha256": digest("another extractor")}
    write_json(project.folder / "reports/metrics.json", {**metrics, "features": features})
    measure = Measure({**metrics, "features": features, "model": metrics["model"]})
    assert registry.register(project.params(), "# b", measure).reason.startswith(
        "kd_efficientnet_lite0 0.3 against the champion's 0.3 is equal"
    )
    assert len(measure.files) == 1


def test_fewer_test_images_are_refused_before_anything_is_measured(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    register(project)
    metrics = project.make("b", 0.1, split="fewer pairs")
    write_json(project.folder / "reports/metrics.json", {**metrics, "images": 11})
    measure = Measure(metrics)
    fewer = registry.register(project.params(), "# b", measure)
    assert fewer.reason == "measured on 11 test images only, the champion on 12"
    assert client().get_model_version(MODEL_NAME, "2").tags["decision_kind"] == "invalid"
    assert (fewer.alias, measure.files) == ("challenger", [])


def test_a_champion_that_cannot_be_measured_again_stays_and_is_named(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    register(project)
    project.make("b", 0.1, split="more pairs")

    def fails(onnx: Path) -> dict[str, Any]:
        raise UserError("no weights for the features")

    with pytest.raises(UserError) as caught:
        registry.register(project.params(), "# b", fails)
    assert str(caught.value) == (
        "the champion, version 1, cannot be measured on this test split: no weights for the features "
        "(`pix2pix promote 2 --because …` replaces it by hand)"
    )
    assert aliases() == {"champion": "1"}


@pytest.mark.parametrize(
    ("changed", "kind"), [({"l1": float("nan")}, "invalid"), ({"kd_efficientnet_lite0": 0.8}, "rejected")]
)
def test_a_first_version_that_is_invalid_or_does_harm_is_no_champion(
    project: Project, store: Path, changed: dict[str, float], kind: str
) -> None:
    metrics = project.make("a", 0.2)
    metrics["model"] |= changed
    (project.folder / "reports/metrics.json").write_text(json.dumps(metrics))
    first = register(project)
    assert first.alias == "challenger"
    assert aliases() == {"challenger": "1"}
    assert client().get_model_version(MODEL_NAME, "1").tags["decision_kind"] == kind
    project.make("b", 0.3)
    assert register(project).reason == "the first version is the champion: kd_efficientnet_lite0 0.3"


def test_the_policy_is_that_of_the_parameters(champion: Project) -> None:
    champion.make("b", 0.195)
    assert "more than 10 % better is needed" in register(champion).reason
    params = champion.params(registry={"min_improvement": 0.01})
    assert registry.register(params, "# b").alias == "champion"


def test_a_champion_withdrawn_by_hand_is_not_replaced(champion: Project) -> None:
    client().delete_registered_model_alias(MODEL_NAME, "champion")
    champion.make("b", 0.1)
    withdrawn = register(champion)
    assert (withdrawn.alias, withdrawn.reason) == (
        "challenger",
        "the champion was withdrawn by hand; only a person names the next",
    )


def test_a_roll_back_by_hand_outlives_the_next_run(champion: Project) -> None:
    champion.make("b", 0.1)
    assert register(champion).alias == "champion"
    client().set_registered_model_alias(MODEL_NAME, "champion", "1")
    again = register(champion)
    assert (again.version, again.alias, again.created) == ("2", "challenger", False)
    assert "only a person gives the place back" in again.reason
    assert aliases() == {"champion": "1", "challenger": "2"}
    champion.make("c", 0.15)
    assert register(champion).alias == "champion"


def test_a_promoted_challenger_is_no_longer_challenger(champion: Project) -> None:
    champion.make("b", 0.3)
    assert register(champion).alias == "challenger"
    client().delete_model_version(MODEL_NAME, "1")
    assert register(champion).alias == "champion"
    assert aliases() == {"champion": "2"}


def test_a_new_measurement_of_the_champion_is_what_the_next_is_compared_with(champion: Project) -> None:
    champion.make("a", 0.5, split="more pairs")
    assert register(champion, "# a new card").created is False
    version = client().get_model_version(MODEL_NAME, "1")
    assert version.tags["split_sha256"] == digest("more pairs")
    assert version.description == "# a new card"
    (run,) = runs()
    assert run.data.metrics["test/kd_efficientnet_lite0"] == 0.5
    champion.make("b", 0.4, split="more pairs")
    assert register(champion).reason == "kd_efficientnet_lite0 0.4 against the champion's 0.5 is 20 % better"


def test_a_name_with_an_apostrophe_is_found_again(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    params = project.params(registry={"model_name": "o'neill's 50 % model"})
    assert registry.register(params, "# card").version == "1"
    assert registry.register(params, "# card").created is False
    assert delivery.pull("models:/o'neill's 50 % model@champion").is_file()
