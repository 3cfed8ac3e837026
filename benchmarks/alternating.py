"""Two ways of doing the same, in turns in one process: a slow minute of the machine hits both."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Comparison:
    """Seconds a call of each way, a value a round; the first way is the one compared against."""

    seconds: Mapping[str, list[float]]

    @property
    def ratios(self) -> list[float]:
        """Round by round: how many times as fast the last way is as the first."""
        first, *_, last = self.seconds.values()
        return [theirs / ours for theirs, ours in zip(first, last, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    def lines(self) -> list[str]:
        """Median times, then the ratio with its range."""
        width = max(map(len, self.seconds))
        times = [
            f"{name:{width}} {1e3 * statistics.median(values):9.2f} ms"
            for name, values in self.seconds.items()
        ]
        return [
            *times,
            f"{'ratio':{width}} {self.ratio:9.2f}  ({min(self.ratios):.2f} to {max(self.ratios):.2f})",
        ]


def alternate(
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    calls: int = 1,
    warm_up: int = 2,
    device: torch.device | None = None,
    before: Mapping[str, Callable[[], object]] | None = None,
) -> Comparison:
    """Time each way in turns.

    Args:
        calls: made a round and way; the time is their mean.
        before: called before a way's turn and its warm-up, untimed; in its turn an untimed call of the way
            itself follows.
    """

    def timed(way: Callable[[], object], calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            way()
        if device and device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / calls

    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in ways.items():
        if before:
            before[name]()
        timed(way, warm_up)
    for _ in range(rounds):
        for name, way in ways.items():
            if before:
                before[name]()
                timed(way, 1)
            seconds[name].append(timed(way, calls))
    return Comparison(seconds)
