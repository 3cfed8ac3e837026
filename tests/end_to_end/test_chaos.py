"""Every process of a run, killed at every stage in turn: `make chaos`, some ten minutes."""

import pytest

from .conftest import STAGES
from .retrain_fixtures import LONG, Servers, cancelled, disturbed, undisturbed

pytest_plugins = ["end_to_end.retrain_fixtures"]
pytestmark = pytest.mark.chaos


def test_cancelling_ends_the_whole_tree_and_frees_the_slot_in_the_promised_time(servers: Servers) -> None:
    cancelled(servers, {**LONG, "train.seed": 100})


@pytest.mark.parametrize(("plug", "seed"), [("dvc", 101), ("flow", 102), ("worker", 103), ("stage", 104)])
def test_killed_at_every_stage_it_ends_crashed_and_the_next_run_goes_on_to_the_same_generator(
    servers: Servers, plug: str, seed: int
) -> None:
    # Nothing of this is in the cache, so that every stage runs: `dataset` is read by the first two.
    overrides = {**LONG, "train.seed": seed, "dataset.licence": f"for a test of {plug}"}
    disturbed(servers, overrides, [(plug, stage) for stage in STAGES])
    digest = servers.onnx_sha256()
    assert servers.versions()[-1].tags["onnx_sha256"] == digest
    assert undisturbed(servers, overrides) == digest
