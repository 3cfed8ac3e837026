"""The terminal: one console, progress as a live bar or as lines."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True)

Style = Literal["auto", "bar", "lines"]
Update = Callable[..., None]

# Without a terminal a line this often is enough to see life in a log.
LINE_EVERY_S = 20.0


@contextmanager
def progress(task: str, total: float | None, unit: str, style: Style = "auto") -> Iterator[Update]:
    """Show how far a task is, with its rate and the time left.

    Yields:
        `update(done, total=None, text="")`: units done so far, a total that became known, and a text to
        show beside them. Cheap enough to be called for every unit.
    """
    live = console.is_terminal if style == "auto" else style == "bar"
    with _bar(task, total, unit) if live else _lines(task, total, unit) as update:
        yield update


@contextmanager
def _bar(task: str, total: float | None, unit: str) -> Iterator[Update]:
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}  {task.fields[text]}"),
        TextColumn("[cyan]left"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        row = bar.add_task(task, total=total, unit=unit, text="")

        def update(done: float, total: float | None = None, text: str = "") -> None:
            if total is not None:
                bar.update(row, total=total)
            if text:
                bar.update(row, text=text)
            bar.update(row, completed=int(done))

        yield update


@contextmanager
def _lines(task: str, total: float | None, unit: str) -> Iterator[Update]:
    said = time.monotonic()
    known_total, last_text = total, ""
    # A task that goes on from a checkpoint has done much of it before its first word.
    first: tuple[float, float] | None = None

    def update(done: float, total: float | None = None, text: str = "") -> None:
        nonlocal said, known_total, last_text, first
        known_total = total if total is not None else known_total
        last_text = text or last_text
        now = time.monotonic()
        first = first or (now, done)
        if now - said < LINE_EVERY_S:
            return
        said = now
        of = f"/{known_total:.0f}" if known_total else ""
        started, before = first
        left = ""
        if known_total and before < done <= known_total:
            left = f", {duration((now - started) * (known_total - done) / (done - before))} left"
        words = f"{task}: {done:.0f}{of} {unit}{left}{'  ' + last_text if last_text else ''}"
        console.print(words, markup=False, highlight=False, soft_wrap=True)

    yield update


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
