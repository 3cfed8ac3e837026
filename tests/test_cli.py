"""The command `pix2pix`, as a user starts it: one line and status 2 for a mistake, quick help, no traceback."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from registry_fixtures import ROOT, Project, noise

from pipeline import cli, registry
from pix2pix import images
from pix2pix.translator import Translator

pytest_plugins = ["registry_fixtures"]

ARGUMENTS = {
    "repro": [],
    "preset": ["quickstart"],
    "register": [],
    "translate": ["data/pairs/test/input", "out"],
    "ui": [],
}


@pytest.fixture
def folder(project: Project) -> Path:
    """A project folder with the committed parameters and presets."""
    shutil.copyfile(ROOT / "params.yaml", project.folder / "params.yaml")
    shutil.copytree(ROOT / "presets", project.folder / "presets")
    return project.folder


def pix2pix(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in the current folder; a terminal of 80 columns, in which no line is broken."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refused(*arguments: str, **environment: str) -> str:
    """The line with which the command ends, which is all it says."""
    done = pix2pix(*arguments, **environment)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("error: ").rstrip("\n")


# --- help --------------------------------------------------------------------------------------------


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import atexit, sys; from pipeline.cli import main; heavy = {'torch', 'mlflow', 'dvc', 'onnx', 'pandas'};"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)))); main(['--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "COLUMNS": "80"}, capture_output=True
    )
    lines = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr, lines[-1]) == (0, b"", "[]")
    for name in ARGUMENTS:
        # Each command's line fits, so that no sentence is broken.
        (line,) = [line for line in lines if line.startswith(f"│ {name} ")]
        assert line.rstrip("│ ").endswith((".", ":PORT."))


def test_every_command_is_covered_here() -> None:
    commands = {command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    assert commands == set(ARGUMENTS)


def test_the_help_of_translate_says_what_its_model_is_by_default() -> None:
    said = " ".join(pix2pix("translate", "--help").stdout.replace("│", " ").split())
    assert "Usage: pix2pix translate" in said
    assert "models:/NAME@ALIAS or models:/NAME/VERSION" in said
    assert "[default: (the champion of registry.model_name in params.yaml)]" in said


def test_an_unknown_command_or_option_is_a_usage_error() -> None:
    for arguments in (["tranlsate"], ["translate", "--modle", "x"], ["translate"], ["preset"]):
        done = pix2pix(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Usage: pix2pix" in done.stderr
        assert "Traceback" not in done.stderr


# --- params.yaml and presets -------------------------------------------------------------------------


@pytest.mark.parametrize("command", ARGUMENTS)
def test_a_mistake_in_params_yaml_is_one_line_for_every_command(folder: Path, command: str) -> None:
    path = folder / "params.yaml"
    text = path.read_text().replace("lambda_l1: 100.0", "lamda_l1: 100.0")
    path.write_text(text)
    line = refused(command, *ARGUMENTS[command])
    assert line.startswith("params.yaml: train.lamda_l1: unknown key; did you mean train.lambda_l1?")
    assert path.read_text() == text
    assert {file.name for file in folder.iterdir()} == {"params.yaml", "presets"}


def test_without_a_project_the_commands_say_where_to_be(project: Project) -> None:
    images.write_png(project.folder / "a.png", noise(8, 8))
    for arguments in (["repro"], ["translate", "a.png", "b.png"]):
        assert refused(*arguments) == "params.yaml: not found; run this in the project's folder"
    line = refused("translate", "a.png", "b.png", "--model", "models:/tiny@champion")
    assert line.startswith(f"models:/tiny@champion: there is no {project.folder / 'mlflow.db'}; ")
    assert [file.name for file in project.folder.iterdir()] == ["a.png"]


def test_a_preset_is_laid_over_params_yaml_and_its_changes_named(folder: Path) -> None:
    committed = (folder / "params.yaml").read_text()
    done = pix2pix("preset", "facades-small")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  dataset.name: embedded → facades\n" in done.stdout
    assert done.stdout.endswith("params.yaml is now facades-small\n")
    changed = (folder / "params.yaml").read_text()
    assert "\n  name: facades\n" in changed
    assert "# Weight of the L1 loss against the adversarial one." in changed
    again = pix2pix("preset", "facades-small")
    assert again.stdout == "params.yaml is now facades-small (it was already)\n"
    assert (folder / "params.yaml").read_text() == changed != committed


def test_an_unknown_preset_is_one_line_with_the_nearest_or_all(folder: Path) -> None:
    committed = (folder / "params.yaml").read_text()
    assert refused("preset", "facade") == "preset 'facade': unknown; did you mean facades?"
    names = ", ".join(sorted(path.stem for path in (ROOT / "presets").glob("*.yaml")))
    assert refused("preset", "zzz") == f"preset 'zzz': unknown; there are {names}"
    assert (folder / "params.yaml").read_text() == committed


# --- translate and register --------------------------------------------------------------------------


def test_a_file_translates_images_without_any_project(project: Project) -> None:
    project.make("a", 0.2)
    (project.folder / "in").mkdir()
    for number in (1, 2):
        images.write_png(project.folder / "in" / f"{number}.png", noise(20, 30, number))
    done = pix2pix("translate", "in", "out", "--model", "models/generator.onnx")
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 images translated to out\n", "")
    one = pix2pix("translate", "in/1.png", "one.png", "--model", "models/generator.onnx")
    assert one.stdout == "1 image translated to one.png\n"
    expected = Translator(project.model)(noise(20, 30, 1))
    for name in ("out/1.png", "one.png"):
        assert np.array_equal(images.read_rgb(project.folder / name), expected)


def test_register_and_translate_use_the_champion(project: Project, folder: Path, store: Path) -> None:
    project.make("a", 0.2)
    first = pix2pix("register")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == (
        "pix2pix-quickstart version 1 registered: champion (the first version is the champion) "
        f"in sqlite:///{store}\n"
    )
    assert "version 1 was there: champion (it is the champion)" in pix2pix("register").stdout
    done = pix2pix("translate", "data/pairs/test/input", "out")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 image translated to out\n", "")
    assert np.array_equal(images.read_rgb(folder / "out" / "a.png"), Translator(project.model)(noise(32, 32)))


def test_a_server_that_is_down_is_one_line(project: Project, folder: Path, no_server: str) -> None:
    project.make("a", 0.2)
    line = f"MLflow at {no_server} does not answer; start it, or set MLFLOW_TRACKING_URI to one that runs"
    assert refused("translate", "data/pairs/test/input", "out") == line
    assert refused("register") == line
    assert not (folder / "out").exists()


def test_missing_reports_are_one_line(folder: Path, store: Path) -> None:
    assert refused("register") == "reports/model_card.md: not there yet; `dvc repro` makes it"


def test_an_unreadable_image_is_named_and_the_status_is_2(project: Project) -> None:
    project.make("a", 0.2)
    (project.folder / "bad.png").write_bytes(b"no image")
    line = refused("translate", "bad.png", "out", "--model", "models/generator.onnx")
    assert line.startswith("0 of 1 images translated; not: bad.png does not decode")


def test_ctrl_c_is_status_130_without_a_traceback(project: Project) -> None:
    # A FIFO keeps the command in the middle of reading params.yaml for as long as it takes.
    os.mkfifo(project.folder / "params.yaml")
    command = [sys.executable, "-m", "pipeline.cli", "preset", "quickstart"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        # A process started in the background of a shell ignores SIGINT and hands that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        with (project.folder / "params.yaml").open("w"):
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in stderr


# --- ui ----------------------------------------------------------------------------------------------


def test_ui_with_a_teams_server_says_where_its_pages_are(folder: Path) -> None:
    done = pix2pix("ui", MLFLOW_TRACKING_URI="https://ml:s3cret@mlflow.example")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "a server already shows them: https://ml:***@mlflow.example\n"


def test_the_version_that_register_names_can_be_pulled(
    project: Project, folder: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    project.make("over the server", 0.2)
    done = pix2pix("register")
    assert done.stdout.endswith(f"in {server}\n")
    version = done.stdout.split()[2]
    pulled = registry.pull(f"models:/pix2pix-quickstart/{version}")
    assert pulled.read_bytes() == project.model.read_bytes()
