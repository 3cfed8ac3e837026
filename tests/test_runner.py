"""How a stage ends: every way has its status, and only a bug has a traceback."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

STAGES = {
    "done": "def stage(params): print(params.train.epochs)",
    "mistake": "def stage(params): raise UserError('the data\\n is not right')",
    "own status": (
        "class NetworkError(UserError): exit_status = 75\ndef stage(params): raise NetworkError('no network')"
    ),
    "bug": "def stage(params): raise RuntimeError('a bug')",
    "log": (
        "import logging, warnings\n"
        "def stage(params):\n"
        "    logging.getLogger('stages.x').info('[bold] 1/2 %s', 'x' * 300)\n"
        "    logging.getLogger('mlflow').info('chatter')"
    ),
    # It says that it has begun, and then waits for a signal: within an `exec` of text, as libraries do it.
    "waits": (
        "import signal\n"
        "from pathlib import Path\n"
        "def stage(params):\n"
        "    with atomic_folder(Path('out')) as partial, atomic_file(Path('file')) as other:\n"
        "        (partial / 'half').write_text('half'); other.write_text('half')\n"
        "        print('begun', flush=True)\n"
        "        exec('while True: signal.pause()')"
    ),
    # As SQLAlchemy does in callbacks of weak references.
    "is in a destructor": (
        "import signal\n"
        "class Last:\n"
        "    def __del__(self):\n"
        "        print('begun', flush=True)\n"
        "        signal.pause()\n"
        "def stage(params):\n"
        "    Last()\n"
        "    print('goes on', flush=True)\n"
        "    signal.pause()"
    ),
    # As torch's exporter, whose imports are interrupted.
    "turns it into an error": (
        "import signal\n"
        "def stage(params):\n"
        "    try:\n"
        "        print('begun', flush=True)\n"
        "        signal.pause()\n"
        "    except BaseException:\n"
        "        raise RuntimeError('a module has no attribute') from None"
    ),
    # As training does, which writes its checkpoint before it ends.
    "ends by itself": (
        "import atexit, os, signal\n"
        "from stages.runner import Stopped\n"
        "def again():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('ended', flush=True)\n"
        "def stage(params):\n"
        "    atexit.register(again)\n"
        "    raise Stopped(signal.SIGTERM)"
    ),
    "clears up": (
        "import signal, time\n"
        "def stage(params):\n"
        "    try:\n"
        "        print('begun', flush=True)\n"
        "        signal.pause()\n"
        "    finally:\n"
        "        print('clearing up', flush=True)\n"
        "        time.sleep(0.5)\n"
        "        print('cleared up', flush=True)"
    ),
}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the committed params.yaml and nothing else."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(PROJECT / "params.yaml", folder)
    monkeypatch.chdir(folder)
    return folder


def start(stage: str, outcome: Path | None = None) -> "subprocess.Popen[str]":
    imports = (
        "from pix2pix.errors import UserError\n"
        "from pix2pix.files import atomic_file, atomic_folder\n"
        "from stages.runner import run\n"
    )
    # Its own module, since `python -c` ends in another way than the `python -m` that dvc.yaml says.
    modules = Path.cwd().parent / "modules"
    modules.mkdir()
    (modules / "under_test.py").write_text(f"{imports}{STAGES[stage]}\nrun(stage)", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), str(modules)])}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    if outcome:
        environment["PIX2PIX_OUTCOME_FILE"] = str(outcome)
    return subprocess.Popen(
        [sys.executable, "-m", "under_test"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, stdout, stderr


def test_a_stage_that_is_done_exits_with_0_and_leaves_no_outcome(tmp_path: Path) -> None:
    assert ended(start("done", tmp_path / "outcome")) == (0, "10\n", "")
    assert not (tmp_path / "outcome").exists()


@pytest.mark.parametrize(
    ("stage", "status", "line", "wants_outcome"),
    [
        ("mistake", 2, "error: the data is not right\n", True),
        ("own status", 75, "error: no network\n", True),
        ("own status", 75, "error: no network\n", False),
    ],
)
def test_a_users_mistake_is_one_line_and_the_errors_own_status(
    tmp_path: Path, stage: str, status: int, line: str, wants_outcome: bool
) -> None:
    outcome = tmp_path / "outcome"
    assert ended(start(stage, outcome if wants_outcome else None)) == (status, "", line)
    assert outcome.exists() == wants_outcome
    assert not wants_outcome or outcome.read_text() == str(status)


def test_a_bug_keeps_its_traceback_and_exits_with_1(tmp_path: Path) -> None:
    status, _, stderr = ended(start("bug", tmp_path / "outcome"))
    assert status == 1
    assert stderr.startswith("Traceback (most recent call last):")
    assert stderr.endswith("RuntimeError: a bug\n")
    assert (tmp_path / "outcome").read_text() == "1"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "error: params.yaml: not found; run this in the project's folder"),
        (b"train: [\n", "error: params.yaml: line 2, column 1: "),
        (b"", "error: params.yaml: is not a mapping of sections"),
        (b"\x07", "error: params.yaml: line 1, column 1: the character U+0007"),
        (b"trian: {epochs: 3}\n", "error: params.yaml: trian: unknown key; did you mean train?"),
    ],
    ids=["missing", "broken", "empty", "control character", "misspelt"],
)
def test_parameters_that_do_not_load_are_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    Path("params.yaml").unlink()
    if content is not None:
        Path("params.yaml").write_bytes(content)
    status, stdout, stderr = ended(start("done", tmp_path / "outcome"))
    assert (status, stdout) == (2, "")
    assert stderr.startswith(said)
    assert stderr.count("\n") == 1
    assert (tmp_path / "outcome").read_text() == "2"


@pytest.mark.parametrize(
    ("sent", "status", "line"),
    [(signal.SIGTERM, 143, "stage: stopped\n"), (signal.SIGINT, 130, "stage: interrupted\n")],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_stopped_stage_leaves_nothing_half_written(
    tmp_path: Path, sent: signal.Signals, status: int, line: str
) -> None:
    process = start("waits", tmp_path / "outcome")
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    assert len(list(Path().iterdir())) == 3
    process.send_signal(sent)
    assert ended(process) == (status, "", line)
    assert [path.name for path in Path().iterdir()] == ["params.yaml"]
    assert (tmp_path / "outcome").read_text() == str(status)


@pytest.mark.parametrize(
    ("sent", "status", "line"),
    [(signal.SIGTERM, 143, "stage: stopped\n"), (signal.SIGINT, 130, "stage: interrupted\n")],
    ids=["SIGTERM", "SIGINT"],
)
def test_an_error_that_an_interruption_became_is_the_interruption(
    tmp_path: Path, sent: signal.Signals, status: int, line: str
) -> None:
    process = start("turns it into an error", tmp_path / "outcome")
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    process.send_signal(sent)
    assert ended(process) == (status, "", line)
    assert (tmp_path / "outcome").read_text() == str(status)


@pytest.mark.parametrize(
    ("sent", "status", "line"),
    [(signal.SIGTERM, 143, "stage: stopped\n"), (signal.SIGINT, 130, "stage: interrupted\n")],
    ids=["SIGTERM", "SIGINT"],
)
def test_an_interruption_within_a_destructor_is_not_lost(
    tmp_path: Path, sent: signal.Signals, status: int, line: str
) -> None:
    process = start("is in a destructor", tmp_path / "outcome")
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    process.send_signal(sent)
    assert ended(process) == (status, "goes on\n", line)


def test_sigterm_again_does_not_change_how_a_stage_ends(tmp_path: Path) -> None:
    """While Python itself ends, whose default would be to die of it."""
    assert ended(start("ends by itself", tmp_path / "outcome")) == (143, "ended\n", "stage: stopped\n")


def test_sigterm_again_does_not_interrupt_the_clearing_up(tmp_path: Path) -> None:
    """It comes once for each of dvc's threads."""
    process = start("clears up", tmp_path / "outcome")
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "clearing up\n"
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "cleared up\n", "stage: stopped\n")


def test_log_lines_are_printed_as_they_are_and_libraries_keep_quiet() -> None:
    assert ended(start("log")) == (0, "", f"[bold] 1/2 {'x' * 300}\n")
