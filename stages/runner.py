"""How every stage starts and ends: validated parameters in, one line and a status out."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from types import FrameType

from pix2pix.errors import UserError, plain
from pix2pix.params import Params, load

from . import OUTCOME_VARIABLE
from .console import console


class Stopped(BaseException):
    """SIGINT or SIGTERM, raised where the program stands so that every `finally` runs.

    Not KeyboardInterrupt: Python remembers one that passed through an `exec` of text, as dataclasses and
    onnxscript do, and kills itself with SIGINT at the end, whatever status was asked for.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def run(stage: Callable[[Params], None]) -> None:
    """Run a stage as a program: exit 0, or 2 (or the error's own status) after one line, or 130/143.

    A bug keeps its traceback and exits with 1.
    """
    logging.basicConfig(level=logging.INFO, handlers=[_LineHandler()], format="%(message)s")
    # Libraries speak up for warnings only; what a user should read is said by our own loggers.
    for name in ("alembic", "mlflow", "torch", "onnxscript", "onnx_ir", "urllib3", "PIL"):
        logging.getLogger(name).setLevel(logging.WARNING)
    asked: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        # Linux tells of dvc's death once for each of dvc's threads that outlives another, milliseconds apart:
        # the second must not interrupt what the first has set going. A second Ctrl-C is meant.
        if signum == signal.SIGTERM:
            signal.signal(signum, signal.SIG_IGN)
        asked.append(signum)
        raise Stopped(signum)

    def again(lost: "sys.UnraisableHookArgs") -> None:
        # Nothing passes out of a destructor or a weak reference's callback: it is raised anew a moment later.
        if not isinstance(lost.exc_value, Stopped):
            sys.__unraisablehook__(lost)
            return
        signum = lost.exc_value.signum
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, stop)
        timer = Timer(0.05, os.kill, (os.getpid(), signum))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = again
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    status = 1
    try:
        stage(load())
        status = 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = error.exit_status
    except (Stopped, Exception) as error:
        # A library that is interrupted half-way, in its imports say, may make an error of its own of it.
        ended_by = error.signum if isinstance(error, Stopped) else next(iter(asked), None)
        if ended_by is None:
            raise
        if ended_by == signal.SIGTERM:
            # Heard by whoever raised this, or here: another one is not to end what is left of the ending.
            signal.signal(ended_by, signal.SIG_IGN)
        how = "interrupted" if ended_by == signal.SIGINT else "stopped"
        print(f"{_name(stage)}: {how}", file=sys.stderr, flush=True)
        status = 128 + ended_by
    finally:
        # dvc turns every status into 255; whoever started it may want to know ours.
        if path := os.environ.get(OUTCOME_VARIABLE):
            if status:
                Path(path).write_text(str(status), encoding="utf-8")
            else:
                Path(path).unlink(missing_ok=True)
    sys.exit(status)


def _name(stage: Callable[[Params], None]) -> str:
    return stage.__module__.rpartition(".")[2] if stage.__module__ != "__main__" else stage.__name__


class _LineHandler(logging.Handler):
    """Log lines above a live progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else None
        console.print(plain(self.format(record)), style=style, markup=False, highlight=False, soft_wrap=True)
