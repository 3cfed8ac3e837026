"""What a scheduled run asks the registry before it takes itself for done."""

from registry_fixtures import MODEL_NAME
from retrained_fixtures import Retrained, git

from pipeline import outcome
from pipeline.commits import COMMIT_TAG
from pipeline.outcome import Known
from pipeline.registry import Registered
from pix2pix import params

pytest_plugins = ["registry_fixtures", "retrained_fixtures"]


def test_a_version_whose_run_died_before_it_named_its_commit_is_told_by_the_next(
    retrained: Retrained,
) -> None:
    tip = retrained.tags[-1][COMMIT_TAG]
    retrained.register({key: value for key, value in retrained.tags[-1].items() if key != COMMIT_TAG})
    # As in the worktree of the next run, which begins with what the branch's tip has.
    git(retrained.root, "checkout", "-q", tip, "--", "reports/export.json")
    known = params.load(retrained.root / "params.yaml")
    assert outcome.registered(known, retrained.root) is None
    outcome.tag_commit(Registered(MODEL_NAME, "1", "challenger", "", created=False), tip)
    assert outcome.registered(known, retrained.root) == Known("1", held=False)


def test_a_version_that_no_scheduled_run_has_made_is_known_all_the_same(retrained: Retrained) -> None:
    tip = retrained.tags[-1][COMMIT_TAG]
    retrained.register({key: value for key, value in retrained.tags[-1].items() if key != COMMIT_TAG})
    git(retrained.root, "checkout", "-q", tip, "--", "reports/export.json")
    git(retrained.root, "branch", "-q", "-D", "retrain/demo")
    known = params.load(retrained.root / "params.yaml")
    assert outcome.registered(known, retrained.root) == Known("1", held=False)
