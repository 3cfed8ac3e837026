"""A training by several processes, each with its share of every batch: torchrun starts, DDP joins them."""

import json
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .errors import UserError

T = TypeVar("T")

# Set for the processes that `launch` starts: their last words are passed on by whoever launched them. It is
# the folder where they leave that they are done.
LAUNCHED_VARIABLE = "PIX2PIX_LAUNCHED"
# torchrun names a file for each process's last words.
ERROR_FILE_VARIABLE = "TORCHELASTIC_ERROR_FILE"
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# With fewer images each, a GPU of one process, which repeats a captured step, should be as fast as several
# that are told every kernel: some ten milliseconds of the host's time a step.
LEAST_SHARE = 8
DONE = "done"
# Of a digest only that it differs says something.
DIGEST_LENGTH = 64
# In what gloo says when a process of the group is gone, where its source file is named.
GLOO = "gloo"
# The others wait while the leader validates; a process that dies is noticed at once all the same.
TIMEOUT = timedelta(hours=12)


class AtOtherWork(UserError):
    """Another process of the group trains something else; every process says so of the others."""


class PeerLost(UserError):
    """Another process of the group has ended; what it died of is for that one to say."""


@dataclass(frozen=True)
class Group:
    """The processes of one training, seen from one of them; the leader alone writes, logs and tracks.

    Attributes:
        rank, count: in all.
        local_rank, local_count: on this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], float]:
        """This process's part of a batch, and its weight: the mean over processes is that over the batch.

        Where there are fewer samples than processes, some take one for nothing: their weight is 0.
        """
        first, last = (len(rows) * rank // self.count for rank in (self.rank, self.rank + 1))
        weight = (last - first) * self.count / len(rows)
        return (rows[first:last] if weight else rows[:1]), weight

    def joined(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over the processes."""
        if self.count == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)

    def mean(self, values: Tensor) -> Tensor:
        """Over the processes; each has it then."""
        if self.count == 1:
            return values
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total / self.count

    def largest(self, value: int) -> int:
        """What the process with the largest has; each waits for all."""
        if self.count == 1:
            return value
        # On the CPU: no device has to finish what it is at.
        shared = torch.tensor(value)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return int(shared)

    def largest_share(self, value: float) -> float:
        """As `largest`, of shares between 0 and 1, to the thousandth."""
        return self.largest(round(1000 * value)) / 1000 if self.count > 1 else value

    def told(self, value: T) -> T:
        """What the leader has."""
        if self.count == 1:
            return value
        told = [value]
        torch.distributed.broadcast_object_list(told)
        return told[0]

    def gathered(self, value: T) -> list[T]:
        """What every process has, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def refuse_others(self, mine: Mapping[str, str]) -> None:
        """See that all processes are at the same work: one that counts otherwise would wait for ever.

        Args:
            mine: what must be the same in all, by its name for people; digests of what is long.

        Raises:
            AtOtherWork: in every process, where one has something else.
        """
        here = socket.gethostname()
        for rank, (host, its) in enumerate(self.gathered((here, dict(mine)))):
            others = [
                name if len(value) == DIGEST_LENGTH else f"{name} ({its.get(name)}, not {value})"
                for name, value in mine.items()
                if its.get(name) != value
            ]
            if others:
                raise AtOtherWork(
                    f"process {rank} on {host}: has other {', '.join(others)} than process {self.rank} on "
                    f"{here}; every host needs the same project, data/pairs, torch and kind of device"
                )

    def seed(self, seed: int, step: int) -> int:
        """For this process's own random numbers from a step on, which are not those of the others."""
        return int(np.random.SeedSequence([seed, step, self.rank]).generate_state(1)[0])


ALONE = Group()


def resolve(wanted: int | str, batch: int, device: torch.device) -> int:
    """How many processes train on this machine.

    Args:
        wanted: train.processes; auto is a process for every CUDA device, as far as the batch has so many
            equal shares of at least LEAST_SHARE images, and one elsewhere.

    Raises:
        UserError: there are not so many devices.
    """
    here = torch.cuda.device_count() if device.type == "cuda" else 1
    if wanted == "auto":
        most = max(1, min(here, batch // LEAST_SHARE))
        return max(count for count in range(1, most + 1) if batch % count == 0)
    count = int(wanted)
    if count > 1 and device.type != "cpu" and count > here:
        raise UserError(
            f"train.processes = {count}: there {'are' if here > 1 else 'is'} {here} {device.type} "
            f"device{'s' if here > 1 else ''} here; use auto"
        )
    return count


def started_by_torchrun() -> bool:
    """Whether this process is one of several, by torchrun's own variables."""
    return all(name in os.environ for name in RANK_VARIABLES)


@contextmanager
def joined(device: str, batch: int) -> Iterator[Group]:
    """Join the group that torchrun's variables describe; alone without them.

    Args:
        device: the kind that computes: cpu or cuda.
        batch: train.batch.

    Raises:
        UserError: the batch cannot be shared out evenly, or there are fewer GPUs than processes.
        AtOtherWork: as `Group.refuse_others`.
        PeerLost: another process ended while this one waited for it.
    """
    rank, count, local_rank, local_count = (
        [int(os.environ[name]) for name in RANK_VARIABLES] if started_by_torchrun() else (0, 1, 0, 1)
    )
    if batch % count:
        raise UserError(f"train.batch = {batch}: has no {count} equal shares for as many processes")
    if count == 1:
        yield ALONE
        return
    if device == "cuda":
        if local_rank >= (here := torch.cuda.device_count()):
            raise UserError(
                f"torchrun: --nproc-per-node = {local_count}: this host has {here} cuda device(s); "
                "give that number"
            )
        torch.cuda.set_device(local_rank)
    # A host without its GPU meets the others on the CPU all the same, and is told so by `refuse_others`.
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "cpu:gloo", timeout=TIMEOUT
    )
    try:
        yield Group(rank, count, local_rank, local_count)
    except AtOtherWork:
        # All have been told; threads of a group that is left open may abort the process at its end.
        torch.distributed.destroy_process_group()
        raise
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or GLOO in str(error)):
            raise
        # Gloo names the places in its source.
        reason = "" if GLOO in str(error) else f" ({str(error).strip().splitlines()[0]})"
        raise PeerLost(
            f"training: another of the {count} processes does not answer{reason}; "
            "the same command goes on from the last checkpoint"
        ) from error
    # Only now: after an error it would tell the others sooner than its cause is told.
    torch.distributed.destroy_process_group()


# --- starting them -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How the processes ended.

    Attributes:
        status: 0; that of the one that failed first; 128 + the signal that stopped them.
        words: its last ones: a user's mistake in a line, or a bug's traceback.
        killed_by: the signal that a process died of; 0 where none did.
    """

    status: int
    words: str = ""
    killed_by: int = 0


def launch(module: str, count: int) -> Ended:
    """Run `python -m MODULE` in `count` processes on this machine, by torchrun, until all have ended.

    A signal that is to end this process is passed on to them first, and they die with it. What has been done
    by then is done.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # Otherwise torchrun sets it to 1 and says so; each process sets its threads itself.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # torchrun puts its own in their place.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryDirectory() as folder:
        # Its tables of failures; what a user should read is in the processes' own last words.
        logging.disable()
        os.environ[LAUNCHED_VARIABLE] = folder
        arguments = ["--standalone", "--nproc-per-node", str(count), "--log-dir", folder, "-m", module]
        try:
            run.run(run.parse_args([*arguments, *sys.argv[1:]]))  # type: ignore[no-untyped-call]
        except SignalException as stopped:
            return Ended(0 if _is_done(folder) else 128 + int(stopped.sigval))
        except ChildFailedError as failed:
            if _is_done(folder):
                return Ended(0)
            return _judged([end.exitcode for end in failed.failures.values()], Path(folder))
        finally:
            logging.disable(logging.NOTSET)
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return Ended(0)


def _judged(exit_codes: list[int], folder: Path) -> Ended:
    """What came first: words of its own, then a signal that ended one, then a request to stop."""
    files = [json.loads(file.read_text(encoding="utf-8")) for file in folder.rglob("error.json")]
    files.sort(key=lambda file: (file["is_of_another"], file["time_ns"]))
    killed = [-code for code in exit_codes if code < 0]
    stopped = [code for code in exit_codes if code > 128]
    if files and not (files[0]["is_of_another"] and (killed or stopped)):
        return Ended(files[0]["status"], files[0]["message"])
    if killed:
        return Ended(128 + killed[0], killed_by=killed[0])
    return Ended(max(exit_codes))


def _is_done(folder: str) -> bool:
    return (Path(folder) / DONE).exists()


def leave_done() -> None:
    """The leader's, when all outputs are in place: a signal from now on stops nothing any more."""
    if is_launched():
        (Path(os.environ[LAUNCHED_VARIABLE]) / DONE).touch()


def is_launched() -> bool:
    """Whether this process was started by `launch`."""
    return LAUNCHED_VARIABLE in os.environ


def leave_last_words(status: int, words: str, is_of_another: bool) -> None:
    """Leave them for whoever launched this process, before it ends with this status."""
    content = {
        "message": words,
        "status": status,
        "is_of_another": is_of_another,
        "timestamp": int(time.time()),
        "time_ns": time.time_ns(),
    }
    Path(os.environ[ERROR_FILE_VARIABLE]).write_text(json.dumps(content), encoding="utf-8")
