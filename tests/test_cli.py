"""The command `pix2pix`, as a user runs it: one line and status 2 for a mistake, quick help, no traceback."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from registry_fixtures import ROOT, Project, Server, kill_group, noise

from pipeline import cli, delivery
from pix2pix import checkpoint, images, reference
from pix2pix.checkpoint import GeneratorConfig
from pix2pix.discriminator import Discriminator
from pix2pix.generator import Generator
from pix2pix.tiling import TiledTranslator
from pix2pix.translator import Translator

pytest_plugins = ["registry_fixtures"]

ARGUMENTS = {
    "repro": [],
    "preset": ["quickstart"],
    "init-dataset": ["."],
    "drift": [],
    "register": [],
    "translate": ["data/pairs/test/input", "out"],
    "describe": [],
    "import": ["latest_net_G.pth"],
    "export-reference": ["latest_net_G.pth"],
    "ui": [],
    "promote": ["1", "--because", "it is better"],
    "rollback": [],
    "champions": [],
    "pull": [],
    "approve": ["sensible-lemur", "--because", "it is better"],
    "gc": [],
    "reproduce": ["1"],
}
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}


@pytest.fixture
def folder(project: Project) -> Path:
    """A project folder with the committed parameters and presets."""
    shutil.copyfile(ROOT / "params.yaml", project.folder / "params.yaml")
    shutil.copytree(ROOT / "presets", project.folder / "presets")
    return project.folder


class Said:
    """What the command wrote, and the status it ended with."""

    def __init__(self, status: int, stdout: str, stderr: str) -> None:
        self.status, self.stdout, self.stderr = status, stdout, stderr

    @property
    def refusal(self) -> str:
        """The line that is all the command said when it refused."""
        assert (self.status, self.stdout) == (2, ""), self.stderr
        assert self.stderr.startswith("error: ")
        assert self.stderr.count("\n") == 1, self.stderr
        return self.stderr.removeprefix("error: ").rstrip("\n")


def process(*arguments: str) -> Said:
    """Run the command in a process of its own: nothing is loaded yet and no library is quiet."""
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def pix2pix(capfd: pytest.CaptureFixture[str]) -> "Command":
    return Command(capfd)


class Command:
    """Run the command in this process, which is quicker."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *arguments: str) -> Said:
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        return Said(int(ended.value.code or 0), *self._capfd.readouterr())


# --- help --------------------------------------------------------------------------------------------


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import atexit, sys; heavy = {'torch', 'mlflow', 'dvc', 'onnx', 'pandas'};"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules))));"
        "from pipeline.cli import main; main(['--help'])"
    )
    environment = {**os.environ, **ENVIRONMENT}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr, lines[-1]) == (0, "", "[]")
    for name in ARGUMENTS:
        (line,) = [line for line in lines if line.startswith(f"│ {name} ")]
        # In 80 columns each sentence ends on its line.
        assert line.rstrip("│ ").endswith((".", ":PORT"))


def test_every_command_is_covered_here() -> None:
    commands = {
        command.name or command.callback.__name__.replace("_", "-")
        for command in cli.app.registered_commands
        if command.callback
    }
    assert commands == set(ARGUMENTS)


def test_the_help_of_translate_says_what_its_model_is_by_default(
    pix2pix: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    said = " ".join(pix2pix("translate", "--help").stdout.replace("│", " ").split())
    assert "Usage: pix2pix translate" in said
    assert "models:/NAME@ALIAS or models:/NAME/VERSION" in said
    assert "[default: (the champion of registry.model_name in params.yaml)]" in said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["tranlsate"], "No such command"),
        (["translate", "a", "b", "--modle", "x"], "No such option"),
        (["translate", "a"], "Missing argument"),
        (["translate", "a", "b", "--samples", "65"], "Invalid value"),
        (["translate", "a", "b", "--samples", "-1"], "Invalid value"),
        (["translate", "a", "b", "--seed", "-1"], "Invalid value"),
        (["import"], "Missing argument"),
        (["promote"], "Missing argument"),
        (["promote", "1"], "Missing option"),
        (["export-reference"], "Missing argument"),
        (["ui", "--port", "0"], "Invalid value"),
    ],
)
def test_what_is_no_command_gets_the_usage_and_status_2(
    folder: Path, pix2pix: Command, arguments: list[str], reason: str
) -> None:
    said = pix2pix(*arguments)
    assert (said.status, said.stdout) == (2, "")
    assert "Usage: pix2pix" in said.stderr
    assert reason in said.stderr


# --- params.yaml and presets -------------------------------------------------------------------------


@pytest.mark.parametrize("command", ARGUMENTS)
def test_a_mistake_in_params_yaml_is_one_line_for_every_command(
    folder: Path, pix2pix: Command, command: str
) -> None:
    path = folder / "params.yaml"
    text = path.read_text().replace("lambda_l1: 100.0", "lamda_l1: 100.0")
    path.write_text(text)
    # `ui` would replace this process if it were not refused.
    run = process if command == "ui" else pix2pix
    line = run(command, *ARGUMENTS[command]).refusal
    assert line.startswith("params.yaml: train.lamda_l1: unknown key; did you mean train.lambda_l1?")
    assert path.read_text() == text
    assert {file.name for file in folder.iterdir()} == {"params.yaml", "presets"}


def test_without_a_project_the_commands_say_where_to_be(project: Project, pix2pix: Command) -> None:
    images.write_png(project.folder / "a.png", noise(8, 8))
    for arguments in (
        ["repro"],
        ["init-dataset", "."],
        ["translate", "a.png", "b.png"],
        ["describe"],
        ["import", "a.pth"],
        ["pull"],
    ):
        line = pix2pix(*arguments).refusal
        assert line == "params.yaml: not found; run this in the project's folder"
    line = pix2pix("translate", "a.png", "b.png", "--model", "models:/tiny@champion").refusal
    assert line.startswith(f"models:/tiny@champion: there is no {project.folder / 'mlflow.db'}; ")
    assert [file.name for file in project.folder.iterdir()] == ["a.png"]


def test_own_data_are_looked_at_and_the_next_commands_named(folder: Path, pix2pix: Command) -> None:
    for side in "AB":
        (folder / "own" / side).mkdir(parents=True)
        images.write_png(folder / "own" / side / "1.png", noise(40, 40))
    said = pix2pix("init-dataset", "own", "--name", "ours", "--like", "quickstart")
    assert (said.status, said.stderr) == (0, "")
    assert said.stdout.startswith(f"{folder / 'own'}: 1 pair, folders A/ and B/\n")
    assert "next      pix2pix preset ours\n          dvc repro prepare " in said.stdout
    assert pix2pix("preset", "ours").stdout.endswith("params.yaml is now ours\n")
    assert pix2pix("init-dataset", "own", "--name", "ours").refusal.startswith("presets/ours.yaml: is there ")


def test_a_preset_is_laid_over_params_yaml_and_its_changes_named(folder: Path, pix2pix: Command) -> None:
    committed = (folder / "params.yaml").read_text()
    first = pix2pix("preset", "facades-small")
    assert (first.status, first.stderr) == (0, "")
    assert "  dataset.name: embedded → facades\n" in first.stdout
    assert first.stdout.endswith("params.yaml is now facades-small\n")
    changed = (folder / "params.yaml").read_text()
    assert "\n  name: facades\n" in changed
    assert "# Weight of the L1 loss against the adversarial one; 0 for the adversarial one alone." in changed
    again = pix2pix("preset", "facades-small")
    assert again.stdout == "params.yaml is now facades-small (it was already)\n"
    assert (folder / "params.yaml").read_text() == changed != committed


def test_an_unknown_preset_is_one_line_with_the_nearest_or_all(folder: Path, pix2pix: Command) -> None:
    committed = (folder / "params.yaml").read_text()
    assert pix2pix("preset", "facade").refusal == "preset 'facade': unknown; did you mean facades?"
    names = ", ".join(sorted(path.stem for path in (ROOT / "presets").glob("*.yaml")))
    assert pix2pix("preset", "zzz").refusal == f"preset 'zzz': unknown; there are {names}"
    assert (folder / "params.yaml").read_text() == committed


# --- translate and register --------------------------------------------------------------------------


def test_a_file_translates_images_without_a_project_around(project: Project, pix2pix: Command) -> None:
    project.make("a", 0.2)
    (project.folder / "in").mkdir()
    for number in (1, 2):
        images.write_png(project.folder / "in" / f"{number}.png", noise(20, 30, number))
    said = pix2pix("translate", "in", "out", "--model", "models/generator.onnx")
    assert (said.status, said.stdout, said.stderr) == (0, "2 images translated to out\n", "")
    said = pix2pix("translate", "in/1.png", "one.png", "--model", "models/generator.onnx")
    assert said.stdout == "1 image translated to one.png\n"
    expected = Translator(project.model)(noise(20, 30, 1))
    for name in ("out/1.png", "one.png"):
        assert np.array_equal(images.read_rgb(project.folder / name), expected)


def test_tiles_are_asked_for_by_option_and_joined_with_the_images_statistics(
    project: Project, pix2pix: Command
) -> None:
    project.make("first", kd=0.14)
    images.write_png(project.folder / "a.png", noise(100, 130))
    model = ["--model", "models/generator.onnx"]
    expected = TiledTranslator(project.model, 64, 32)(noise(100, 130))
    for number, kind in enumerate(([], ["--statistics", "image"])):
        said = pix2pix(
            "translate", "a.png", f"{number}.png", "--tile", "64", "--overlap", "32", *kind, *model
        )
        assert (said.status, said.stderr) == (0, "")
        assert np.array_equal(images.read_rgb(project.folder / f"{number}.png"), expected)
    pix2pix("translate", "a.png", "b.png", "--tile", "64", "--overlap", "0", "--statistics", "tile", *model)
    found = images.read_rgb(project.folder / "b.png")
    assert np.array_equal(found, TiledTranslator(project.model, 64, 0, "tile")(noise(100, 130)))
    # The default overlap is 64 px.
    line = pix2pix("translate", "a.png", "c.png", "--tile", "64", *model).refusal
    assert line.startswith("--overlap 64: ") and line.endswith("take --tile 96 or more")
    assert not (project.folder / "c.png").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--overlap", "8"], "--overlap: has a meaning with --tile only"),
        (["--statistics", "tile"], "--statistics: has a meaning with --tile only"),
        (
            ["--tile", "64", "--samples", "2"],
            "--tile: has no meaning with --samples, which draws each image whole",
        ),
    ],
)
def test_options_of_tiles_that_would_do_nothing_are_refused(
    project: Project, pix2pix: Command, options: list[str], line: str
) -> None:
    images.write_png(project.folder / "a.png", noise(64, 64))
    assert pix2pix("translate", "a.png", "b.png", *options).refusal == line


def test_register_says_what_became_of_the_model_and_translate_uses_the_champion(
    project: Project, folder: Path, store: Path, pix2pix: Command
) -> None:
    project.make("a", 0.2)
    said = pix2pix("register")
    assert (said.status, said.stderr) == (0, "")
    assert said.stdout == (
        "pix2pix-quickstart version 1 registered: champion (the first version is the champion: "
        f"kd_efficientnet_lite0 0.2) in sqlite:///{store}\n"
    )
    assert "version 1 was there: champion (the first version is the champion: " in pix2pix("register").stdout
    champion = Translator(project.model)(noise(32, 32))
    project.make("b", 0.3)
    assert "version 2 registered: challenger (" in pix2pix("register").stdout
    said = pix2pix("translate", "data/pairs/test/input", "out")
    assert (said.status, said.stdout, said.stderr) == (0, "1 image translated to out\n", "")
    assert np.array_equal(images.read_rgb(folder / "out" / "a.png"), champion)


def test_a_process_with_a_server_says_one_line(project: Project, folder: Path, server: Server) -> None:
    project.make("over the server", 0.2)
    said = process("register")
    assert (said.status, said.stderr) == (0, "")
    name, _, version, *_ = said.stdout.split()
    assert said.stdout.count("\n") == 1
    assert said.stdout.endswith(f" in {server.uri}\n")
    assert delivery.pull(f"models:/{name}/{version}").read_bytes() == project.model.read_bytes()


def test_a_server_that_is_down_is_one_line(
    project: Project, folder: Path, no_server: str, pix2pix: Command
) -> None:
    project.make("a", 0.2)
    line = f"MLflow at {no_server} does not answer; start it, or set MLFLOW_TRACKING_URI to one that runs"
    assert process("translate", "data/pairs/test/input", "out").refusal == line
    assert pix2pix("register").refusal == line
    assert not (folder / "out").exists()


def test_missing_reports_are_one_line(folder: Path, store: Path, pix2pix: Command) -> None:
    assert pix2pix("register").refusal == "reports/model_card.md: not there yet; `dvc repro` makes it"


def test_an_unreadable_image_is_named_and_the_status_is_2(project: Project, pix2pix: Command) -> None:
    project.make("a", 0.2)
    (project.folder / "bad.png").write_bytes(b"no image")
    line = pix2pix("translate", "bad.png", "out", "--model", "models/generator.onnx").refusal
    assert line.startswith("not translated: bad.png does not decode")


def test_ctrl_c_is_status_130_without_a_traceback(project: Project) -> None:
    # A FIFO without a writer's words keeps the command reading params.yaml for as long as it takes.
    os.mkfifo(project.folder / "params.yaml")
    # A shell's background process ignores SIGINT and hands that down.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        running = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "preset", "quickstart"],
            env={**os.environ, **ENVIRONMENT},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        writer = _open_when_read(project.folder / "params.yaml", running)
        for _ in range(60):
            # Python forgets one that comes between opening and reading until the reading ends.
            running.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                _, stderr = running.communicate(timeout=1)
                break
        os.close(writer)
    finally:
        kill_group(running)
    assert running.returncode == 130
    assert "Traceback" not in stderr


def _open_when_read(fifo: Path, reader: "subprocess.Popen[str]") -> int:
    """A descriptor of the FIFO's writing end, as soon as the process reads the other."""
    while reader.poll() is None:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.01)
    raise AssertionError("the command ended without reading params.yaml")


# --- describe ----------------------------------------------------------------------------------------


def test_describe_is_a_table_of_every_layer_with_totals(folder: Path, pix2pix: Command) -> None:
    said = pix2pix("describe")
    assert (said.status, said.stderr) == (0, "")
    # The committed recipe: 128 px, 16 channels.
    assert "generator: U-Net, 7 levels\n" in said.stdout
    assert "discriminator: patches of 70×70 px, sees input and output\n" in said.stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.stdout.splitlines()]
    assert ["down.1.conv", "conv 4×4, stride 2", "32×32×32", "8,192", "8,388,608"] in rows
    assert ["up.0.dropout", "dropout 0.5", "128×2×2", "", ""] in rows
    built = (Generator(levels=7, channels=16), Discriminator(channels=16))
    counts = [sum(weight.numel() for weight in network.parameters()) for network in built]
    totals = [row for row in rows if row[:1] == ["total"]]
    assert [row[3] for row in totals] == [f"{count:,}" for count in counts]


def test_describe_follows_the_parameters(folder: Path, pix2pix: Command) -> None:
    path = folder / "params.yaml"
    text = path.read_text().replace("architecture: unet", "architecture: encoder-decoder")
    path.write_text(text.replace("discriminator_layers: 3", "discriminator_layers: 0"))
    said = pix2pix("describe").stdout
    assert "generator: encoder–decoder, 7 levels\n" in said
    assert "discriminator: patches of 1×1 px, sees input and output\n" in said


# --- weights in and out ------------------------------------------------------------------------------


def weights(folder: Path, **changes: Any) -> Path:
    """A generator.safetensors of five levels as a training leaves it."""
    values: dict[str, Any] = {
        "levels": 5,
        "channels": 4,
        "norm": "instance",
        "dropout_blocks": (1, 2),
        "image_px": 128,
        "dataset": "test",
        "direction": "AtoB",
        "params_sha256": "p",
        "data_sha256": "d",
        "code_sha256": "c",
    }
    config = GeneratorConfig(**values | changes)
    path = folder / "models" / "generator.safetensors"
    checkpoint.save_generator(path, config.build().state_dict(), config)
    return path


def test_a_generator_goes_out_to_the_reference_and_comes_in_again(folder: Path, pix2pix: Command) -> None:
    path = weights(folder)
    before, _ = checkpoint.load_generator(path)
    said = pix2pix("export-reference", "new/latest_net_G.pth")
    assert (said.status, said.stderr) == (0, "")
    assert said.stdout.startswith("new/latest_net_G.pth: for the reference's ")
    assert said.stdout.count("\n") == 1
    path.unlink()
    said = pix2pix("import", "new/latest_net_G.pth")
    assert (said.status, said.stderr) == (0, "")
    assert said.stdout.splitlines() == [
        "models/generator.safetensors: a U-Net of 5 levels, 4 channels, 3 → 3, instance statistics",
        "next: dvc repro prepare && dvc repro --single-item evaluate export register",
        "(a plain `dvc repro` puts the generator of params.yaml back)",
    ]
    after, config = checkpoint.load_generator(path)
    for name, value in before.state_dict().items():
        assert after.state_dict()[name].equal(value), name
    assert (config.dataset, config.image_px) == ("embedded", 128)


def test_export_reference_takes_another_file_and_needs_no_project(project: Project, pix2pix: Command) -> None:
    path = weights(project.folder).rename(project.folder / "other.safetensors")
    assert pix2pix("export-reference", "G.pth", "--model", "other.safetensors").status == 0
    expected = reference.generator_state(checkpoint.load_generator(path)[0])
    assert set(reference.read_state(project.folder / "G.pth")) == set(expected)


def test_import_can_keep_the_statistics_of_the_file(folder: Path, pix2pix: Command) -> None:
    path = weights(folder)
    pix2pix("export-reference", "G.pth")
    assert "running statistics" in pix2pix("import", "G.pth", "--statistics", "running").stdout
    assert checkpoint.load_generator(path)[1].norm == "running"
    line = pix2pix("import", "G.pth", "--statistics", "batch").refusal
    assert line == "G.pth: statistics = 'batch': must be instance or running"


def test_weights_that_are_not_there_or_not_weights_are_one_line(folder: Path, pix2pix: Command) -> None:
    (folder / "page.pth").write_text("<html>404</html>")
    assert pix2pix("import", "none.pth").refusal == "none.pth: not found; give a latest_net_G.pth"
    # In a process of its own, where no test runner swallows a library's warnings.
    assert process("import", "page.pth").refusal.startswith("page.pth: is not a plain file of weights (")
    line = pix2pix("export-reference", "G.pth").refusal
    assert line == "models/generator.safetensors: not found; `dvc repro train` makes it"
    assert {file.name for file in folder.iterdir()} == {"params.yaml", "presets", "page.pth"}


def test_what_the_reference_does_not_have_is_one_line(folder: Path, pix2pix: Command) -> None:
    weights(folder, architecture="encoder-decoder")
    line = pix2pix("export-reference", "G.pth").refusal
    assert line == "the reference has only the U-Net with transposed convolutions (deconv)"
    assert not (folder / "G.pth").exists()


# --- samples -----------------------------------------------------------------------------------------


def test_samples_are_drawn_from_the_pytorch_weights(project: Project, pix2pix: Command) -> None:
    """Without a project around, at the image's own size, the same for the same seed."""
    weights(project.folder)
    images.write_png(project.folder / "a.png", noise(20, 50))
    said = pix2pix("translate", "a.png", "out", "--samples", "3", "--seed", "7")
    assert (said.status, said.stdout, said.stderr) == (0, "3 samples of 1 image drawn to out\n", "")
    names = ["a-1.png", "a-2.png", "a-3.png"]
    drawn = [images.read_rgb(project.folder / "out" / name) for name in names]
    assert {file.name for file in (project.folder / "out").iterdir()} == {*names, "a-samples.png"}
    assert [picture.shape for picture in drawn] == [(20, 50, 3)] * 3
    assert not np.array_equal(drawn[0], drawn[1])
    model = ["--model", "models/generator.safetensors"]
    for seed, same in (("7", True), ("8", False)):
        pix2pix("translate", "a.png", f"again{seed}", "--samples", "3", "--seed", seed, *model)
        again = [images.read_rgb(project.folder / f"again{seed}" / name) for name in names]
        assert all(map(np.array_equal, again, drawn)) is same


def test_samples_that_cannot_be_drawn_are_one_line(project: Project, pix2pix: Command) -> None:
    images.write_png(project.folder / "a.png", noise(20, 30))
    arguments = ["translate", "a.png", "out", "--samples", "2"]
    line = pix2pix(*arguments).refusal
    assert line == "models/generator.safetensors: not found; `dvc repro train` makes it"
    weights(project.folder, dropout_blocks=())
    assert "has no dropout, so every sample would be the same" in pix2pix(*arguments).refusal
    project.make("a", 0.2)
    line = pix2pix(*arguments, "--model", "models/generator.onnx").refusal
    assert line.startswith("models/generator.onnx: is not a generator of this project")
    weights(project.folder)
    line = pix2pix("translate", "a.png", "b.png", "--samples", "2").refusal
    assert line == "b.png: names a file, but --samples writes several; give a folder"
    assert not (project.folder / "out").exists()


# --- ui ----------------------------------------------------------------------------------------------


def test_ui_says_where_the_pages_of_a_teams_server_are(
    folder: Path, pix2pix: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ml:s3cret@mlflow.example")
    said = pix2pix("ui")
    assert (said.status, said.stderr) == (0, "")
    assert said.stdout == "a server already shows them: https://ml:***@mlflow.example\n"


def test_ui_on_a_port_that_is_taken_is_one_line(folder: Path, pix2pix: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = pix2pix("ui", "--port", str(port))
    assert (said.status, said.stdout) == (2, "")
    assert said.stderr.startswith(f"error: port {port} is taken")
    assert said.stderr.count("\n") == 1
