"""The summary on the terminal: numbers beside their yardsticks, and commands that exist."""

import json

import pytest
from registry_fixtures import MODEL_NAME, Project

from pipeline import cli, summary
from pipeline.presets import PRESETS
from pipeline.registry import Registered
from pix2pix.errors import UserError

pytest_plugins = ["registry_fixtures"]

CHAMPION = Registered(MODEL_NAME, "3", "champion", "kd_x 0.1000 beats the champion's 0.2000", created=True)


def test_every_number_stands_beside_its_yardsticks(project: Project) -> None:
    project.make("a", 0.25)
    lines = summary.text(project.params(), CHAMPION).splitlines()
    assert " ".join(lines[1].split()) == "12 test images model input as output floor"
    shown = [" ".join(line.split()) for line in lines[2:7]]
    assert shown == [
        "kd_efficientnet_lite0 0.25 0.7295 0.0185 -66 %",
        "fd_efficientnet_lite0 131.5 331.5 27.75 -60 %",
        "L1 (0–1) 0.1125 0.4625 -76 %",
        "PSNR (dB) 17.25 5.75 higher is better",
        "SSIM 0.625 0.0675 higher is better",
    ]


def test_what_is_worse_than_the_input_is_said(project: Project) -> None:
    project.make("a", 0.25)
    metrics = project.folder / "reports" / "metrics.json"
    report = json.loads(metrics.read_text())
    report["model"]["ssim"] = 0.05
    metrics.write_text(json.dumps(report))
    lines = summary.text(project.params(), CHAMPION).splitlines()
    assert lines[6].endswith("higher is better: worse than its input")
    assert lines[5].endswith("higher is better")


def test_numbers_stand_under_their_headings(project: Project) -> None:
    project.make("a", 0.25)
    heading, first, *_ = summary.text(project.params(), CHAMPION).splitlines()[1:]
    for column, value in (("model", "0.25"), ("input as output", "0.7295"), ("floor", "0.0185")):
        assert heading.index(column) + len(column) == first.index(value) + len(value)


@pytest.mark.parametrize(("created", "verb"), [(True, "registered as"), (False, "is")])
def test_it_says_what_became_of_the_model_and_where_it_is(
    project: Project, created: bool, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.make("a", 0.25)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:s3cret@mlflow.example")
    registered = Registered(MODEL_NAME, "7", "challenger", "it is worse", created=created)
    text = summary.text(project.params(), registered)
    assert f"{MODEL_NAME} {verb} version 7, challenger:\n          it is worse\n" in text
    assert "store     http://team:***@mlflow.example" in text


def test_it_fits_100_columns(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.make("a", -0.0001234567)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    widest = "the champion was not measured by kd_efficientnet_lite0, so the two cannot be compared"
    text = summary.text(project.params(), Registered(MODEL_NAME, "12", "challenger", widest, created=True))
    assert max(map(len, text.splitlines())) <= 100


def test_the_next_steps_it_names_exist(project: Project) -> None:
    project.make("a", 0.25)
    text = summary.text(project.params(), CHAMPION)
    commands = {command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    named = [line.split("pix2pix ")[1].split() for line in text.splitlines() if "  pix2pix " in line]
    assert {words[0] for words in named} == {"translate", "preset"} <= commands
    (preset,) = [words[1] for words in named if words[0] == "preset"]
    root = cli.__file__.rpartition("/pipeline/")[0]
    assert (project.folder / root / PRESETS / f"{preset}.yaml").is_file()
    (images,) = [words[1] for words in named if words[0] == "translate"]
    assert (project.folder / images).is_dir()


def test_without_reports_it_is_one_line(project: Project) -> None:
    with pytest.raises(UserError, match=r"^reports/metrics\.json: not there yet; `dvc repro` makes it$"):
        summary.text(project.params(), CHAMPION)
