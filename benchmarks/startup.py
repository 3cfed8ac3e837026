"""What waiting for nothing costs: `make` with everything installed, `dvc repro` with nothing to do.

python -m benchmarks.startup      # after `make repro`
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 5


def main() -> None:
    """Print the median of five runs of each, in turns."""
    commands = {
        "make .venv/.installed": ["make", ".venv/.installed"],
        "dvc repro, nothing to do": [str(Path(sys.executable).parent / "dvc"), "repro", "-q"],
        "pix2pix --help": [str(Path(sys.executable).parent / "pix2pix"), "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[name].append(time.perf_counter() - started)
    for name, values in times.items():
        print(f"{name:26} {statistics.median(values):6.2f} s")


if __name__ == "__main__":
    main()
