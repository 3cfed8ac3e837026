"""What a person does about the champion, as it is typed: promote, rollback, champions, pull."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from registry_fixtures import MODEL_NAME, ROOT, Project, Server

from pipeline import champions, cli, promotion, registry, tracking
from pipeline.promotion import Standing
from pix2pix.files import sha256_file

pytest_plugins = ["registry_fixtures"]

KD = "kd_efficientnet_lite0"


class Said:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def refusal(self) -> str:
        """The line that is all the command said when it refused."""
        assert (self.status, self.out) == (2, ""), self.err
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        return self.err.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def pix2pix(project: Project, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("model_name: pix2pix-quickstart", f"model_name: {MODEL_NAME}")
    (project.folder / "params.yaml").write_text(text, encoding="utf-8")

    def run(*arguments: str) -> Said:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        return Said(int(ended.value.code or 0), *capfd.readouterr())

    return run


def process(*arguments: str) -> Said:
    """In a process of its own, whose log goes where a user's does."""
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def three(champion: Project) -> Project:
    """Versions 1, 2 and 3, each better than the one before; 3 is champion."""
    for weights, kd in (("b", 0.1), ("c", 0.05)):
        champion.make(weights, kd)
        assert registry.register(champion.params(), f"# {weights}").alias == "champion"
    return champion


def client() -> MlflowClient:
    return MlflowClient(tracking.store_uri(), tracking.store_uri())


def now() -> Standing:
    return promotion.standing(client(), MODEL_NAME)


# --- rollback ----------------------------------------------------------------------------------------


def test_a_rollback_goes_back_step_by_step_and_says_so_on_both_versions(
    three: Project, pix2pix: Callable[..., Said]
) -> None:
    said = pix2pix("rollback", "--because", "purple skies")
    assert said.out == "tiny version 2 is champion again; version 3 was until now\n"
    move = now().moves[-1]
    assert (move.how, move.before, move.to, move.because) == ("rollback", "3", "2", "purple skies")
    for version in ("2", "3"):
        assert client().get_model_version(MODEL_NAME, version).tags[move.key] == move.text
    said = pix2pix("rollback")
    assert said.out == "tiny version 1 is champion again; version 2 was until now\n"
    assert now().moves[-1].because == "back from version 2"
    assert pix2pix("rollback").refusal == (
        "tiny: version 1 is the champion and none before it is left to go back to; "
        "`pix2pix promote VERSION --because …` names any other"
    )
    assert now().champion == "1"


def test_the_gate_does_not_undo_a_rollback_but_promotes_what_is_new(
    three: Project, pix2pix: Callable[..., Said]
) -> None:
    assert pix2pix("rollback").status == 0
    again = registry.register(three.params(), "# c")
    assert (again.version, again.alias) == ("3", "challenger")
    assert again.reason == "it was champion before version 2; only a person gives the place back"
    assert now().champion == "2"
    three.make("d", 0.08)
    assert registry.register(three.params(), "# d").version == "4"
    assert now().champion == "4"
    assert pix2pix("rollback").out.startswith("tiny version 2 is champion again")


def test_a_rollback_passes_over_versions_that_were_deleted(
    three: Project, pix2pix: Callable[..., Said]
) -> None:
    client().delete_model_version(MODEL_NAME, "2")
    assert pix2pix("rollback").out == "tiny version 1 is champion again; version 3 was until now\n"


def test_a_rollback_to_a_file_that_is_gone_is_refused(
    project: Project, store: Path, pix2pix: Callable[..., Said], tmp_path: Path
) -> None:
    for weights, kd in (("a", 0.2), ("b", 0.1)):
        project.make(weights, kd)
        registry.register(project.params(), "# card")
    shutil.rmtree(store.parent / "mlartifacts")
    line = pix2pix("rollback").refusal
    assert line.startswith("models:/tiny/1: its file ")
    assert (now().champion, len(now().moves)) == ("2", 2)


# --- promote -----------------------------------------------------------------------------------------


def test_a_person_promotes_what_the_gate_would_not_and_it_is_recorded_as_such(
    champion: Project, pix2pix: Callable[..., Said]
) -> None:
    champion.make("b", 0.3)
    assert registry.register(champion.params(), "# b").alias == "challenger"
    said = pix2pix("promote", "2", "--because", "people  like\nit")
    assert said.out == "tiny version 2 is champion; version 1 was until now\n"
    assert (now().champion, now().challenger) == ("2", None)
    move = now().moves[-1]
    assert (move.how, move.because) == ("by hand", "people like it")
    assert pix2pix("promote", "2", "--because", "again").out == "tiny version 2 is champion already\n"
    assert len(now().moves) == 2
    again = registry.register(champion.params(), "# b")
    assert (again.alias, again.reason) == ("champion", "it was made champion by hand: people like it")


@pytest.mark.parametrize(
    ("version", "because", "line"),
    [
        ("9", "x", "tiny has no version 9; `make ui` shows those it has"),
        ("two", "x", "'two': is no version; give the number that `make ui` shows"),
        ("9" * 20, "x", f"'{'9' * 20}': is no version; give the number that `make ui` shows"),
        ("1", " ", "--because: is empty; say why, it is kept with the version"),
        ("1", "x" * 501, "--because: has 501 characters; at most 500 are kept"),
    ],
)
def test_what_cannot_be_promoted_is_one_line(
    champion: Project, pix2pix: Callable[..., Said], version: str, because: str, line: str
) -> None:
    assert pix2pix("promote", version, "--because", because).refusal == line


def test_the_commands_see_another_model_where_it_is_named(
    three: Project, pix2pix: Callable[..., Said]
) -> None:
    params = three.folder / "params.yaml"
    params.write_text(params.read_text().replace(f"model_name: {MODEL_NAME}", "model_name: other"))
    assert pix2pix("champions").refusal.startswith("no model other in ")
    assert pix2pix("champions", "--model", MODEL_NAME).out.startswith(f"champions of {MODEL_NAME}; ")
    said = pix2pix("rollback", "--model", MODEL_NAME)
    assert said.out == "tiny version 2 is champion again; version 3 was until now\n"
    said = pix2pix("promote", "1", "--because", "x", "--model", MODEL_NAME)
    assert said.out == "tiny version 1 is champion; version 2 was until now\n"


def test_without_champion_model_or_store_the_line_says_what_to_do(
    project: Project, store: Path, pix2pix: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = (["champions"], ["rollback"], ["promote", "1", "--because", "x"])
    for command in commands:
        assert pix2pix(*command).refusal.startswith("no model tiny in sqlite:///")
    client().create_registered_model(MODEL_NAME)
    assert pix2pix("champions").out == f"tiny has had no champion in {tracking.store_name()}\n"
    line = "tiny has no champion; `pix2pix promote VERSION --because …` names one"
    assert pix2pix("rollback").refusal == line
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.folder / 'none.db'}")
    for command in commands:
        assert pix2pix(*command).refusal.startswith(f"tiny: there is no {project.folder / 'none.db'}; ")
    assert not (project.folder / "none.db").exists()


def test_with_no_server_every_command_is_one_line(
    project: Project, no_server: str, pix2pix: Callable[..., Said]
) -> None:
    line = f"MLflow at {no_server} does not answer; start it, or set MLFLOW_TRACKING_URI to one that runs"
    for command in (["champions"], ["rollback"], ["promote", "1", "--because", "x"], ["pull"]):
        assert pix2pix(*command).refusal == line


# --- champions ---------------------------------------------------------------------------------------


def test_the_history_has_every_champion_with_its_metrics_times_and_reasons(
    three: Project, pix2pix: Callable[..., Said]
) -> None:
    assert pix2pix("rollback", "--because", "purple skies").status == 0
    reigns = champions.history(MODEL_NAME)
    assert [(reign.version, reign.is_champion, reign.metrics[KD]) for reign in reigns] == [
        ("1", False, 0.2),
        ("2", False, 0.1),
        ("3", False, 0.05),
        ("2", True, 0.1),
    ]
    begun = [reign.move.at for reign in reigns if reign.move]
    assert [reign.until for reign in reigns] == [*begun[1:], None]
    said = pix2pix("champions")
    assert (said.status, said.err) == (0, "")
    title, heading, *lines = said.out.splitlines()
    assert title == f"champions of tiny; distance: {KD}"
    assert heading.split() == ["version", "from", "until", "distance", "l1", "ssim"]
    rows = [line.split() for line in lines if not line.startswith(" ")]
    assert [row[0] for row in rows] == ["1", "2", "3", "2"]
    assert rows[-1][3:] == ["now", "0.1", "0.1125", "0.625"]
    assert lines[-1].strip().startswith("rollback, ")
    assert lines[-1].endswith(": purple skies")
    assert max(map(len, said.out.splitlines())) <= 80


def test_an_alias_that_was_moved_in_mlflow_is_in_the_history_as_such(three: Project) -> None:
    client().set_registered_model_alias(MODEL_NAME, "champion", "1")
    last = champions.history(MODEL_NAME)[-1]
    assert (last.version, last.move, last.is_champion) == ("1", None, True)
    three.make("a", 0.2)
    reason = registry.register(three.params(), "# a").reason
    assert reason == "it was made champion in MLflow itself, or before moves were logged"


# --- pull --------------------------------------------------------------------------------------------


def test_pull_gives_the_file_and_its_card(three: Project, pix2pix: Callable[..., Said]) -> None:
    said = pix2pix("pull", "--to", "serving")
    assert said.out == "tiny version 3: serving/generator.onnx, serving/model_card.md\n"
    assert (three.folder / "serving/generator.onnx").read_bytes() == three.model.read_bytes()
    assert (three.folder / "serving/model_card.md").read_text() == "# c"
    said = pix2pix("pull")
    onnx, card = said.out.removeprefix("tiny version 3: ").rstrip("\n").split(", ")
    assert sha256_file(Path(onnx)) == sha256_file(three.model)
    assert Path(card).read_text() == "# c"
    assert "tiny version 1:" in pix2pix("pull", "--model", "models:/tiny/1").out


def test_what_was_pulled_once_is_there_when_the_server_is_gone(
    project: Project, server: Server, impatient: None, pix2pix: Callable[..., Said]
) -> None:
    project.make("offline", 0.2)
    registry.register(project.params(), "# card")
    online = pix2pix("pull", "--to", "online")
    assert online.status == 0
    server.kill()
    said = process("pull", "--to", "offline")
    assert said.status == 0
    assert said.out == online.out.replace("online/", "offline/")
    assert said.err.startswith(f"MLflow at {server.uri} does not answer; taking version ")
    assert said.err.count("\n") == 1
    assert " from the cache, which models:/tiny@champion was at 20" in said.err
    assert (project.folder / "offline/generator.onnx").read_bytes() == project.model.read_bytes()
    assert (project.folder / "offline/model_card.md").read_text() == "# card"
    assert pix2pix("translate", "data/pairs/test/input", "out").status == 0
    refused = f"MLflow at {server.uri} does not answer; start it, or set MLFLOW_TRACKING_URI to one that runs"
    assert pix2pix("pull", "--model", "models:/tiny@challenger").refusal == refused
    for file in Path(project.folder.parent / "cache" / "models").glob("*.onnx"):
        file.write_bytes(b"damaged")
    assert pix2pix("pull").refusal == refused
