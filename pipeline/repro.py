"""`pix2pix repro`: validate, run dvc quietly, make sure of the registry, say what came out."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from pix2pix import params as params_file
from pix2pix import remeasurement
from pix2pix.errors import UserError
from pix2pix.params import Params

CARD = Path("reports/model_card.md")
# Where a stage says that it began, and with which status it ended: dvc itself only says 255.
OUTCOME_VARIABLE = "PIX2PIX_OUTCOME_FILE"


class StageFailed(Exception):
    """A stage ended the run and has said why."""

    def __init__(self, status: int) -> None:
        super().__init__(f"a stage exited with status {status}")
        self.status = status


def repro(targets: Sequence[str]) -> str:
    """Run what has changed, register, and return the summary.

    Raises:
        UserError: params.yaml or dataset.source is not usable.
        StageFailed: a stage failed; its line or traceback is on the terminal.
    """
    # Here, not above: numpy and the registry's other imports would slow down `pix2pix --help`.
    from . import registry, summary

    params = params_file.load()
    check_source(params)
    run_dvc(["repro", *targets])
    if targets:
        return ""
    # A restored stage runs no code, so what the registry lost is put back here.
    measure = partial(remeasurement.measure, params.evaluate)
    registered = registry.register(params, CARD.read_text(encoding="utf-8"), measure)
    return summary.text(params, registered)


def run_dvc(arguments: Sequence[str]) -> None:
    """Run dvc without its own lines, which would come after the stage's.

    Raises:
        StageFailed: with the status that the stage itself gave.
    """
    with tempfile.TemporaryDirectory() as folder:
        outcome = Path(folder) / "outcome"
        environment = {
            **os.environ,
            OUTCOME_VARIABLE: str(outcome),
            "DVC_NO_ANALYTICS": "1",
            # Stages say `python` and must get this one, whether its environment is activated or not.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        command = [sys.executable, "-m", "dvc", *arguments]
        with _asked_to_stop() as asked:
            status = _wait([*command, "-q"], environment, asked)
            if status and not asked and not outcome.exists():
                # No stage even began, so dvc itself has an objection, which -q has hidden.
                status = _wait(command, environment, asked)
        said = outcome.read_text() if outcome.exists() else ""
        if asked:
            raise StageFailed(128 + asked[0])
        if status:
            # A stage that began and left no number was killed or is broken: no mistake of the user's.
            raise StageFailed(int(said) if said.isdecimal() else 1 if said else 2)


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A list that gets the number of each SIGINT or SIGTERM; dvc and the stage are to end first."""
    asked: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda got, frame: asked.append(got)) for number in signals}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(command: Sequence[str], environment: Mapping[str, str], asked: Sequence[int]) -> int:
    """Run dvc to its end. Ctrl-C reaches it and the stage by itself; a SIGTERM is passed on."""
    with subprocess.Popen(command, env=environment) as process:
        passed_on = False
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.2)
            if signal.SIGTERM in asked and not passed_on:
                process.terminate()
                passed_on = True


def check_source(params: Params, root: Path = Path()) -> None:
    """Raises UserError where dataset.source is not there, seen from the project's folder `root`."""
    if not (root / params.dataset.source).exists():
        raise UserError(
            f"params.yaml: dataset.source = {params.dataset.source!r}: no such file or folder; "
            "give the path of an archive or folder, or pix2pix/datasets.py for a published set"
        )
