"""Pairs held on the device and pairs streamed from disk."""

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from pair_fixtures import write_split
from torch import Tensor

from pix2pix import devices, feed
from pix2pix.augment import plan_epoch
from pix2pix.errors import UserError
from pix2pix.feed import Feed, StreamedFeed
from pix2pix.pair_files import PairFiles

CPU = torch.device("cpu")
HELD, STREAMED = feed.Placement(True, ""), feed.Placement(False, "")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> PairFiles:
    return PairFiles.find(write_split(tmp_path_factory.mktemp("pairs"), 7, 36))


def rows(epoch: int = 0, batch: int = 2) -> list[feed.Rows]:
    whole = plan_epoch(7, margin_px=4, seed=3, epoch=epoch).rows()
    return [whole[first : first + batch] for first in range(0, 7, batch)]


def crops(source: Feed, batches: list[feed.Rows]) -> list[Tensor]:
    return [torch.cat(source.crops(item, 32), 1) for item in source.items(batches)]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_streamed_crops_are_the_held_ones_bit_for_bit_for_every_count_of_workers(
    files: PairFiles, workers: int
) -> None:
    held, held_sha256 = feed.open_split(files, HELD, 32, CPU, workers, persistent=True)
    streamed, streamed_sha256 = feed.open_split(files, STREAMED, 32, CPU, workers, persistent=True)
    assert isinstance(streamed, StreamedFeed) and not isinstance(held, StreamedFeed)
    assert held_sha256 == streamed_sha256
    assert (held.names, held.size_px) == (streamed.names, streamed.size_px)
    for epoch in range(3):
        ours, theirs = crops(held, rows(epoch)), crops(streamed, rows(epoch))
        assert [len(batch) for batch in ours] == [2, 2, 2, 1]
        assert all(map(torch.equal, ours, theirs))
    # A resumed epoch begins in its middle.
    assert torch.equal(crops(streamed, rows(1)[2:])[0], crops(held, rows(1))[2])


def test_streaming_draws_nothing_from_the_random_state_that_dropout_draws_from(files: PairFiles) -> None:
    before = torch.get_rng_state()
    crops(StreamedFeed(files, 32, CPU, workers=1), rows())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_while_it_is_streamed_is_one_line(tmp_path: Path, workers: int) -> None:
    folder = write_split(tmp_path, 7, 36)
    streamed = StreamedFeed(PairFiles.find(folder), 32, CPU, workers)
    broken = folder / "input" / "00003.png"
    broken.write_bytes(b"")
    with pytest.raises(UserError) as refused:
        crops(streamed, rows())
    assert str(refused.value).startswith(f"{broken}: does not decode")
    assert "Traceback" not in str(refused.value)


def test_a_killed_process_that_reads_pairs_is_one_line_with_the_knob(files: PairFiles) -> None:
    command = [sys.executable, "-c", KILLED, str(files.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert re.fullmatch(
        r"run\.loader_workers = auto: a process that reads pairs (is killed by signal: Killed|exited "
        r"unexpectedly); if memory or /dev/shm ran out, .* goes on from the last checkpoint\n",
        done.stdout,
    ), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", "exited unexpectedly"),
        (
            "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's "
            "workers are out of shared memory. Please try to raise your shared memory limit.",
            "is killed by signal: Bus error",
        ),
    ],
)
def test_what_torch_says_of_a_process_that_reads_pairs_is_passed_on(said: str, reason: str) -> None:
    with pytest.raises(UserError) as refused, feed.lost_workers_named(2):
        raise RuntimeError(said)
    assert str(refused.value).startswith(f"run.loader_workers = 2: a process that reads pairs {reason}; if")


def test_another_error_of_torch_is_not_said_to_be_of_a_process_that_reads_pairs() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), feed.lost_workers_named(2):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


SIGNALLED = """
import os, signal, sys, time
from pathlib import Path
import psutil, torch
from pix2pix.augment import plan_epoch
from pix2pix.feed import StreamedFeed
from pix2pix.pair_files import PairFiles
streamed = StreamedFeed(PairFiles.find(Path(sys.argv[1])), 32, torch.device("cpu"), 2)
rows = plan_epoch(7, 4, 0, 0).rows()
got = []
for item in streamed.items([rows] * 100):
    # Both have delivered, so both had begun.
    if len(got) == 1:
        workers = psutil.Process().children()
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
            worker.send_signal(signal.SIGINT)
    got.append(item)
print(len(got), len(workers), sum(worker.is_running() for worker in workers))
"""


KILLED = """
import sys
from pathlib import Path
import psutil, torch
from pix2pix import feed
from pix2pix.augment import plan_epoch
from pix2pix.errors import UserError
from pix2pix.pair_files import PairFiles
streamed = feed.StreamedFeed(PairFiles.find(Path(sys.argv[1])), 32, torch.device("cpu"), 2)
rows = plan_epoch(7, 4, 0, 0).rows()
try:
    with feed.lost_workers_named("auto"):
        for count, item in enumerate(streamed.items([rows] * 1000)):
            # Both have delivered, so both had begun.
            if count == 1:
                psutil.Process().children()[0].kill()
except UserError as error:
    print(error)
"""


def test_a_signal_to_the_workers_ends_none_and_they_end_with_the_trainer(files: PairFiles) -> None:
    command = [sys.executable, "-c", SIGNALLED, str(files.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("100 2 2\n", "", 0)


# --- where they are held -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "free", "cached"),
    [
        ("auto", 2 * 7 * 6 * 36**2, True),
        ("auto", 2 * 7 * 6 * 36**2 - 1, False),
        ("device", 0, True),
        ("stream", 10**12, False),
    ],
)
def test_auto_holds_what_takes_at_most_half_of_the_free_memory(
    files: PairFiles, monkeypatch: pytest.MonkeyPatch, wanted: str, free: int, cached: bool
) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda device: free)
    placement = feed.place(wanted, [files], CPU)
    assert placement.cached == cached
    assert f"train.cache = {wanted}" in placement.words


def test_the_decision_is_said_with_its_figures(files: PairFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda device: 12_300_000_000)
    assert feed.place("auto", [files, files], CPU).words == (
        "7 + 7 pairs of 0.1 MB held on cpu (12.3 GB free; train.cache = auto)"
    )
    assert feed.place("stream", [files], CPU).words.startswith("7 pairs of 0.1 MB streamed from disk (")


def test_processes_that_share_the_memory_need_it_each(
    files: PairFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda device: 4 * files.pixel_bytes)
    assert [feed.place("auto", [files], CPU, shared_by=count).cached for count in (2, 3)] == [True, False]


@pytest.mark.parametrize(
    ("wanted", "device", "cores", "shared_by", "workers"),
    [
        ("auto", "cpu", 64, 1, 1),
        ("auto", "cuda", 64, 1, 8),
        ("auto", "cuda", 16, 8, 2),
        ("auto", "cuda", 4, 8, 1),
        (0, "cuda", 16, 1, 0),
        (5, "cpu", 2, 1, 5),
    ],
)
def test_as_many_workers_as_the_cores_allow(
    monkeypatch: pytest.MonkeyPatch, wanted: int | str, device: str, cores: int, shared_by: int, workers: int
) -> None:
    monkeypatch.setattr(devices, "available_cores", lambda: cores)
    assert feed.loader_workers(wanted, torch.device(device), shared_by) == workers


def test_pairs_that_do_not_fit_where_they_are_to_be_held_are_refused(
    files: PairFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(UserError, match=r"train\.cache = 'device': 7 pairs .* use auto or stream"):
        feed.open_split(files, HELD, 32, CPU, 1, persistent=True)


# --- memory ------------------------------------------------------------------------------------------

STREAM_ALL = """
import sys, resource
from pathlib import Path
import torch
from pix2pix import feed
from pix2pix.augment import plan_epoch
from pix2pix.pair_files import PairFiles
torch.set_num_threads(1)
files = PairFiles.find(Path(sys.argv[1]))
streamed, digest = feed.open_split(files, feed.Placement(False, ""), 256, torch.device("cpu"), 1, True)
whole = plan_epoch(len(files), 32, 0, 0).rows()
for item in streamed.items([whole[first : first + 4] for first in range(0, len(whole), 4)]):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mb(folder: Path, count: int) -> float:
    """What streaming `count` pairs takes at most; they are links to one pair of 288 px."""
    for side in ("input", "target"):
        for number in range(len(list((folder / side).iterdir())), count):
            (folder / side / f"{number:05}.png").hardlink_to(folder / side / "00000.png")
    command = [sys.executable, "-c", STREAM_ALL, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return int(done.stdout) / 1024


def test_memory_is_flat_in_the_number_of_streamed_pairs(tmp_path: Path) -> None:
    folder = write_split(tmp_path, 1, 288)
    few, more = peak_mb(folder, 200), peak_mb(folder, 1200)
    assert more - few < 40, "1,000 more pairs are 498 MB of pixels"


def test_free_memory_is_some_of_what_the_machine_has() -> None:
    assert 0 < devices.free_bytes(CPU) <= psutil.virtual_memory().total


@pytest.mark.skipif(
    sys.platform != "linux", reason="address space is limited where Linux says how much is used"
)
def test_a_limit_on_the_address_space_leaves_less() -> None:
    code = (
        "import torch, resource; from pix2pix import devices; cpu = torch.device('cpu');"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2);"
        "print(devices.free_bytes(cpu))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert 290_000_000 < int(done.stdout) <= 300_000_000
