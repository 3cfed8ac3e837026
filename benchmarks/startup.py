"""What waiting for nothing costs: a second `make`, `dvc repro` with nothing to do, `pix2pix --help`."""

import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds(rounds: int) -> dict[str, float]:
    """The median of each command, in turns; run in the project's folder after `make repro`."""
    scripts = Path(sys.executable).parent
    commands = {
        "make_nothing_to_do_s": ["make", ".venv/.installed"],
        "dvc_repro_nothing_to_do_s": [str(scripts / "dvc"), "repro", "-q"],
        "pix2pix_help_s": [str(scripts / "pix2pix"), "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}
