"""One DVC stage a file: files in, files out.

A stage's process begins here, before its imports of several seconds: it ties itself to dvc, which would
otherwise leave a trainer behind when it is killed, and tells whoever started dvc that a stage has begun.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

OUTCOME_VARIABLE = "PIX2PIX_OUTCOME_FILE"


def _begin() -> None:
    if path := os.environ.get(OUTCOME_VARIABLE):
        Path(path).write_text("began", encoding="utf-8")
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
        # A dvc that was gone by then sends none. It started this process in its own group, which whoever
        # inherits it is not in; torchrun's processes have a group each.
        is_of_dvc = "DVC_STAGE" in os.environ and "RANK" not in os.environ
        if is_of_dvc and os.getpgid(os.getppid()) != os.getpgrp():
            os._exit(128 + signal.SIGTERM)
    # Ctrl-C during the imports is no bug and deserves no traceback; `runner.run` takes over from here.
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))


# Only where a stage is run, as dvc does; a test or benchmark that imports one keeps its own life.
if sys.argv[:1] == ["-m"]:
    _begin()
