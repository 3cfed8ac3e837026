"""Several processes train what one would; real processes, joined by gloo."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from group_of_two import RECIPES, STOP_AT, VALIDATES_AT, double_range, trained
from torch import nn
from training_fixtures import equal

from pix2pix import processes, training, validation
from pix2pix.errors import UserError
from pix2pix.events import Event, Started
from pix2pix.processes import ALONE, Ended, Group

TESTS = Path(__file__).parent
CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left what they did."""
    folder = tmp_path_factory.mktemp("two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(TESTS / "group_of_two.py"), str(folder)],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (training, validation):
        monkeypatch.setattr(module, "to_unit_range", double_range)


def assert_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["weights"].keys() == other["weights"].keys()
    for name, value in one["weights"].items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, other["weights"][name], rtol=0, atol=1e-9)
    np.testing.assert_allclose(one["rows"], other["rows"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_train_the_weights_of_one_with_the_whole_batch(
    two: list[dict[str, Any]], float64: None, tmp_path: Path, name: str
) -> None:
    """20 steps; both networks, their losses, in float64 and without dropout: to 1e-9."""
    alone = trained(tmp_path, ALONE, name)
    for each in two:
        assert_close(alone, each[name])


def test_a_training_that_two_processes_began_is_ended_by_one(
    folder: Path, two: list[dict[str, Any]], float64: None
) -> None:
    assert [each["stopped"] for each in two] == [STOP_AT, STOP_AT]
    started: list[Event] = []
    original = training.fit

    def watched(*arguments: Any, **options: Any) -> Any:
        events = original(*arguments, **options)
        started.append(next(events))
        yield started[0]
        yield from events

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training_fixtures.fit", watched)
        ended = trained(folder / "cut", ALONE, "whole")
    assert started == [Started(STOP_AT, STOP_AT // 2, 20)]
    assert_close(ended, two[0]["whole"])


def test_two_processes_leave_a_validation_together_and_end_with_the_same_weights(
    two: list[dict[str, Any]],
) -> None:
    assert [each["stopped validating"] for each in two] == [VALIDATES_AT, VALIDATES_AT]
    for each in two:
        assert equal(each["validated"]["weights"], each["whole"]["weights"])
        # A window that was open when they stopped has been halved between them.
        np.testing.assert_allclose(each["validated"]["rows"], each["whole"]["rows"], rtol=0, atol=1e-12)
    # The leader alone has these.
    assert two[0]["validated"]["validations"] == two[0]["whole"]["validations"]
    assert len(two[0]["whole"]["validations"]) == RECIPES["whole"]["epochs"]


def test_with_dropout_of_their_own_they_still_have_the_same_weights(two: list[dict[str, Any]]) -> None:
    first, second = (each["dropout"] for each in two)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(two[0]["random"], two[1]["random"])


def test_what_they_agree_on(two: list[dict[str, Any]]) -> None:
    assert [each["largest"] for each in two] == [5, 5]
    assert [each["told"] for each in two] == ["by 0", "by 0"]
    assert [each["share"] for each in two] == [0.25, 0.25]


def test_a_process_with_other_pairs_is_refused_by_all(two: list[dict[str, Any]]) -> None:
    for rank, each in enumerate(two):
        assert each["refused"].startswith(f"process {1 - rank} on ")
        its = f"other code, device (of {1 - rank}, not of {rank}) than process {rank} on "
        assert its in each["refused"]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_the_shares_of_a_batch_are_the_batch_and_their_weighted_mean_is_its_mean(
    count: int, rows: int
) -> None:
    batch = np.arange(rows * 4).reshape(rows, 4)
    shares = [Group(rank, count).share(batch) for rank in range(count)]
    assert np.array_equal(np.concatenate([share for share, weight in shares if weight]), batch)
    mean = sum(weight * share.mean() for share, weight in shares) / count
    assert mean == pytest.approx(batch.mean())
    assert all(len(share) for share, _ in shares), "a process without a sample would leave the others waiting"


@pytest.mark.parametrize(
    ("wanted", "batch", "device", "gpus", "count"),
    [
        ("auto", 8, CPU, 0, 1),
        (2, 8, CPU, 0, 2),
        ("auto", 8, MPS, 0, 1),
        ("auto", 64, CUDA, 4, 4),
        ("auto", 48, CUDA, 5, 4),
        ("auto", 24, CUDA, 4, 3),
        ("auto", 16, CUDA, 4, 2),
        ("auto", 15, CUDA, 4, 1),
        ("auto", 1, CUDA, 4, 1),
        (2, 8, CUDA, 4, 2),
    ],
)
def test_auto_is_a_process_for_every_gpu_that_has_an_equal_share_worth_it(
    monkeypatch: pytest.MonkeyPatch,
    wanted: int | str,
    batch: int,
    device: torch.device,
    gpus: int,
    count: int,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert processes.resolve(wanted, batch, device) == count


@pytest.mark.parametrize(("device", "there"), [(CUDA, "2 cuda devices"), (MPS, "1 mps device")])
def test_more_processes_than_devices_are_refused(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, there: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=rf"^train\.processes = 4: .*{there}"):
        processes.resolve(4, 4, device)


def test_a_batch_without_equal_shares_is_refused_before_anybody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in zip(processes.RANK_VARIABLES, "0202", strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"train\.batch = 3"), processes.joined("cpu", batch=3):
        pass


def test_more_processes_of_a_host_than_gpus_are_refused_before_anybody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in zip(processes.RANK_VARIABLES, "1212", strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(UserError, match=r"^torchrun: --nproc-per-node = 2: this host has 1 cuda"),
        processes.joined("cuda", batch=2),
    ):
        pass


@pytest.mark.parametrize(("done", "status"), [("done", 0), ("", 143)])
def test_a_signal_after_all_is_done_stops_nothing(done: str, status: int) -> None:
    code = f"import sys; sys.argv[1:] = [{done!r}]; from pix2pix import processes; "
    code += "print('ended', processes.launch('group_told_to_stop', 2).status)"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=TESTS, capture_output=True, text=True, check=True, timeout=120
    )
    assert f"ended {status}\n" in told.stdout


def test_one_process_joins_nothing_and_loads_nothing_for_it() -> None:
    code = (
        "import sys, torch, stages.train\n"
        "from pix2pix import processes\n"
        "with processes.joined('cpu', 1) as group:\n"
        "    assert group is processes.ALONE and not torch.distributed.is_initialized()\n"
        "assert not [name for name in sys.modules if name.startswith('torch.distributed.elastic')]\n"
        "assert 'torch.distributed.run' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=TESTS.parent, check=True, timeout=120)
    network = nn.Linear(1, 1)
    assert ALONE.joined(network) is network
    rows = np.zeros((3, 4), np.int64)
    share, weight = ALONE.share(rows)
    assert np.array_equal(share, rows) and weight == 1.0


# --- how they ended ----------------------------------------------------------------------------------


def words(status: int, message: str, time_ns: int, of_another: bool = False) -> dict[str, Any]:
    return {"message": message, "status": status, "is_of_another": of_another, "time_ns": time_ns}


LOST = words(2, "lost", 1, of_another=True)


@pytest.mark.parametrize(
    ("left", "exit_codes", "ended"),
    [
        ([words(2, "a mistake", 5), words(1, "Traceback", 9), LOST], [2, 1, 2], Ended(2, "a mistake")),
        ([words(1, "Traceback", 5)], [1, -9], Ended(1, "Traceback")),
        ([LOST], [2, -11], Ended(139, killed_by=11)),
        # Before the loop one stops at once, and the others wait for it.
        ([LOST], [143, 2], Ended(143)),
        ([], [-9], Ended(137, killed_by=9)),
        ([LOST], [2, 2], Ended(2, "lost")),
        ([], [143, 143], Ended(143)),
    ],
)
def test_of_several_ends_the_cause_is_told(
    tmp_path: Path, left: list[dict[str, Any]], exit_codes: list[int], ended: Ended
) -> None:
    for rank, content in enumerate(left):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / "error.json").write_text(json.dumps(content))
    assert processes._judged(exit_codes, tmp_path) == ended
