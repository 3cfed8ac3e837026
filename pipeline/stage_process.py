"""One DVC stage as a tree of processes: its lines as they come, and its end, whoever asks for it."""

import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from .registry import PROMOTE_VARIABLE
from .repro import OUTCOME_VARIABLE
from .workspace import dvc_environment, tied_dvc_command, with_full_disk

# The stage that makes a generator out of pairs.
TRAIN = "train"
# A trainer that is asked to stop finishes its step and writes a checkpoint.
GRACE_S = 10.0
_MISTAKE = "error: "
# What dvc says to somebody who would commit by hand.
_CHATTER = re.compile(
    r"Use `dvc push`|To track the changes|To enable auto staging|\s*git add |\s*dvc config |"
    r"(Updating|Generating) lock file"
)
_RESTORED = re.compile(r"Stage '.*' (is cached - skipping run|didn't change, skipping)")
_KILLED = re.compile(r"exited with -(\d+)$")


@dataclass(frozen=True)
class Ended:
    """How a stage came out.

    Attributes:
        status: 0; the stage's own exit status; 128 + the signal that killed it or dvc.
        line: what to tell the user; empty where all went well.
        restored: nothing had to run.
    """

    status: int
    line: str = ""
    restored: bool = False


class StageProcesses:
    """The running stages of one flow, which all end when it does."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._running: set[subprocess.Popen[str]] = set()
        self._change = threading.Lock()
        self.stopping = False

    def run(
        self,
        stage: str,
        on_line: Callable[[str], None],
        *,
        force: bool = False,
        commit: bool = True,
        timeout_s: float,
    ) -> Ended:
        """Run one stage and wait for it and all its processes; without `commit` DVC caches no output.

        Call it in a thread that lives as long: Linux ends dvc, and with it the stage, when that thread ends.
        """
        with tempfile.TemporaryDirectory() as folder:
            outcome = Path(folder) / "outcome"
            process = self._start(stage, outcome, force, commit)
            if process is None:
                return Ended(128 + signal.SIGTERM, f"{stage}: stopped")
            late = threading.Event()
            timer = threading.Timer(timeout_s, self._end, (process, late))
            timer.daemon = True
            timer.start()
            over = threading.Event()
            threading.Thread(target=self._outlived, args=(process, over), daemon=True).start()
            said = []
            try:
                assert process.stdout is not None
                # To the end of the pipe: the last process of the tree holds it.
                for line in process.stdout:
                    said.append(line.rstrip())
                    if said[-1] and not _CHATTER.match(said[-1]):
                        on_line(said[-1])
            except BaseException:
                self._end(process)
                raise
            finally:
                timer.cancel()
                over.set()
                with self._change:
                    # From here on its number may be another's.
                    self._running.discard(process)
                process.wait()
                # Its end of the pipe closes a moment before a process is gone.
                _await_end(process.pid)
            if late.is_set():
                return Ended(1, f"{stage}: ended after {timeout_s / 3600:g} h, its time-out")
            text = outcome.read_text(encoding="utf-8") if outcome.exists() else ""
            ended = _judged(stage, process.returncode, text, said)
            return replace(ended, line=with_full_disk(self._root, ended.line)) if ended.status else ended

    def stop(self) -> None:
        """Begin no other stage and end those that run; returns when they have ended."""
        with self._change:
            self.stopping = True
            running = list(self._running)
        for process in running:
            self._signal(process, signal.SIGTERM)
        for process in running:
            self._end(process)

    def _start(self, stage: str, outcome: Path, force: bool, commit: bool) -> "subprocess.Popen[str] | None":
        options = [*(["--force"] if force else []), *([] if commit else ["--no-commit"])]
        dvc = [*tied_dvc_command(), "repro", "--single-item", *options, stage]
        with self._change:
            if self.stopping:
                return None
            process = subprocess.Popen(
                dvc,
                cwd=self._root,
                # The flow promotes, once the commit is there that makes the version again.
                env=dvc_environment({OUTCOME_VARIABLE: str(outcome), PROMOTE_VARIABLE: "never"}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                # A Ctrl-C for the flow must not reach the trainer, whose dvc would report a failed stage.
                start_new_session=True,
            )
            self._running.add(process)
            return process

    def _end(self, process: "subprocess.Popen[str]", late: threading.Event | None = None) -> None:
        """SIGTERM, and SIGKILL to what is left of the tree after GRACE_S."""
        if late:
            late.set()
        self._signal(process, signal.SIGTERM)
        _await_end(process.pid)
        self._signal(process, signal.SIGKILL)

    def _outlived(self, process: "subprocess.Popen[str]", over: threading.Event) -> None:
        """SIGKILL to what is left of the tree GRACE_S after dvc's own end, whoever ended that."""
        # Looked at and not waited for: as a zombie it keeps its number from others.
        while not over.wait(1):
            with suppress(psutil.Error):
                if psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE and not over.wait(GRACE_S):
                    self._signal(process, signal.SIGKILL)
                    return

    def _signal(self, process: "subprocess.Popen[str]", number: signal.Signals) -> None:
        with self._change, suppress(ProcessLookupError, PermissionError):
            if process not in self._running:
                return
            os.killpg(process.pid, number)


def _await_end(group: int) -> None:
    end = time.monotonic() + GRACE_S
    while _group_lives(group) and time.monotonic() < end:
        time.sleep(0.1)


def _group_lives(group: int) -> bool:
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def _judged(stage: str, returncode: int, outcome: str, said: list[str]) -> Ended:
    if returncode == 0:
        return Ended(0, restored=any(_RESTORED.match(line) for line in said))
    if returncode < 0:
        return Ended(128 - returncode, f"{stage}: dvc was ended by {_signal_name(-returncode)}")
    errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
    if outcome.isdecimal():
        return _as_it_said(stage, int(outcome), said)
    # Also one that was killed before it could say that it began.
    killed = [int(found[1]) for line in errors if (found := _KILLED.search(line))]
    if killed:
        return Ended(128 + killed[0], f"{stage}: ended by {_signal_name(killed[0])}")
    if not outcome:
        # No stage even began: the objection is dvc's own.
        return Ended(2, errors[0] if errors else f"{stage}: dvc exited with {returncode}")
    # It began and could not say how it ended.
    return Ended(1, f"{stage}: ended without a word")


def _as_it_said(stage: str, status: int, said: list[str]) -> Ended:
    if status > 128:
        return Ended(status, f"{stage}: ended by {_signal_name(status - 128)}")
    mistakes = [line.removeprefix(_MISTAKE) for line in said if line.startswith(_MISTAKE)]
    if status != 1 and mistakes:
        return Ended(status, mistakes[-1])
    # A bug: the last line of its traceback.
    before = [line for line in said if line and not line.startswith("ERROR: ")]
    return Ended(status, f"{stage}: {before[-1]}" if before else f"{stage}: failed")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
