"""Changed bytes in every reader of strangers' files: a fixed budget here, a long one in `make fuzz`.

tests/corpus/TARGET/ holds what once failed; every file in it is tried each time.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing.targets import TARGETS
from pix2pix import params
from pix2pix.errors import UserError

CORPUS = Path(__file__).parent / "corpus"
# Without a clock or a database: the same examples on every machine.
BUDGET = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=500,
    suppress_health_check=list(HealthCheck),
)


def changed(name: str) -> st.SearchStrategy[bytes]:
    """Honest bytes with some put in, left out, repeated or cut off; or bytes of any kind."""
    seeds = st.sampled_from(TARGETS[name].seeds())
    changes = st.lists(
        st.tuples(
            # Headers lie at either end.
            st.floats(0, 1) | st.floats(0, 0.05) | st.floats(0.95, 1),
            st.sampled_from([0, 0, 1, 4, 40]),
            st.binary(max_size=4)
            | st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"../", b"\x1b["]),
        ),
        max_size=4,
    )

    def apply(seed: bytes, edits: list[tuple[float, int, bytes]], kept: float) -> bytes:
        content = bytearray(seed)
        for place, removed, put in edits:
            at = int(place * len(content))
            # In place where nothing is left out, so that what comes behind stays where it is.
            content[at : at + (removed or len(put))] = put
        return bytes(content[: max(1, int(kept * len(content)))])

    return st.builds(apply, seeds, changes, st.just(1.0) | st.floats(0, 1)) | st.binary(max_size=200)


@pytest.mark.parametrize("name", TARGETS)
def test_honest_bytes_are_read(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_bytes_are_read_or_refused_in_one_line(name: str) -> None:
    @BUDGET
    @given(changed(name))
    def run(content: bytes) -> None:
        TARGETS[name].run(content)

    run()


@pytest.mark.parametrize(
    "file", sorted(CORPUS.glob("*/*")), ids=lambda file: f"{file.parent.name}/{file.name}"
)
def test_what_once_failed_does_not_fail_again(file: Path) -> None:
    TARGETS[file.parent.name].run(file.read_bytes())


def test_parameters_of_a_size_that_nobody_types_are_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"[" * 2**18 + b"\n")
    with pytest.raises(UserError, match=r"has 262,145 bytes; a file of parameters has some thousand"):
        params.load(path)


def test_the_long_run_starts_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has no wheel for this machine")
    command = [sys.executable, "-m", "fuzzing", "params", "--seconds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "fuzzing: params for 1 s" in done.stdout and "Done" in done.stderr
