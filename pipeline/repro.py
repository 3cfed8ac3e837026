"""`pix2pix repro`: validate, run dvc quietly, make sure of the registry, say what came out."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pix2pix import params as params_file
from pix2pix.errors import UserError
from pix2pix.params import Params

from . import registry, summary

CARD = Path("reports/model_card.md")
# Where a stage leaves its exit status and last line: dvc itself only says 255.
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
    params = params_file.load()
    _check_source(params)
    run_dvc(["repro", *targets])
    if targets:
        return ""
    # A restored stage runs no code, so what the registry lost is put back here.
    registered = registry.register(params, CARD.read_text(encoding="utf-8"))
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
        if _wait(subprocess.Popen([*command, "-q"], env=environment)) == 0:
            return
        if not outcome.exists():
            # No stage ran, so dvc itself has an objection, which -q has hidden.
            if _wait(subprocess.Popen(command, env=environment)) == 0:
                return
            raise StageFailed(2 if not outcome.exists() else int(outcome.read_text()))
        raise StageFailed(int(outcome.read_text()))


def _wait(process: "subprocess.Popen[bytes]") -> int:
    """Wait for dvc through Ctrl-C: the stage gets it too, saves its state and ends, and then dvc does."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _check_source(params: Params) -> None:
    source = Path(params.dataset.source)
    if not source.exists():
        raise UserError(
            f"params.yaml: dataset.source = {params.dataset.source!r}: no such file or folder; "
            "give the path of an archive or folder, or pix2pix/datasets.py for a published set"
        )
