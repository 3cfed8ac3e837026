"""`python -m fuzzing [TARGET…] [--seconds N]`: atheris changes honest bytes, guided by what they reach.

What fails is written to tests/corpus/TARGET/, where `make test` finds it from then on.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pix2pix.errors import UserError

from .targets import ROOT, TARGETS

CORPUS = ROOT / "tests" / "corpus"
# One input may take no longer and no more: a bomb is a failure as well.
LIMITS = ("-timeout=20", "-rss_limit_mb=3000")


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(TARGETS)}; default: all.")] = None,
    seconds: Annotated[int, typer.Option(min=1, help="For each target.")] = 600,
) -> None:
    """Run each target in a process of its own; the status is 1 if any failed."""
    if unknown := [name for name in names or [] if name not in TARGETS]:
        raise UserError(f"no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    failed = []
    for name in names or list(TARGETS):
        found = CORPUS / name
        found.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            for number, seed in enumerate(TARGETS[name].seeds()):
                (Path(folder) / f"seed-{number}").write_bytes(seed)
            print(f"fuzzing: {name} for {seconds} s", flush=True)
            command = [sys.executable, "-m", "fuzzing.atheris_run", name, folder, str(found)]
            limits = [f"-max_total_time={seconds}", f"-artifact_prefix={found}/", *LIMITS]
            if subprocess.run([*command, *limits], cwd=ROOT, check=False).returncode:
                failed.append(name)
    if failed:
        print(f"fuzzing: failed: {', '.join(failed)}; what failed is in {CORPUS}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
