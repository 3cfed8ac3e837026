"""Progress: a bar on a terminal, lines in a log, both with total, unit and the time left."""

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from stages import console as module
from stages.console import LINE_EVERY_S, Style, duration, progress


class Clock:
    """A clock that stands still until it is set, so that a time left is one number."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    return clock


def use_console(monkeypatch: pytest.MonkeyPatch, clock: Clock, terminal: bool) -> io.StringIO:
    shown = io.StringIO()
    screen = Console(file=shown, width=100, force_terminal=terminal, color_system=None, get_time=clock)
    monkeypatch.setattr(module, "console", screen)
    return shown


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> io.StringIO:
    """What a console that is no terminal shows."""
    return use_console(monkeypatch, clock, terminal=False)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> io.StringIO:
    """What a terminal shows."""
    return use_console(monkeypatch, clock, terminal=True)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (41.6, "42 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599, "59 min 59 s"),
        (3599.7, "1 h 00 min"),
        (7620, "2 h 07 min"),
        (86_400, "24 h 00 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_a_duration_is_said_as_a_person_says_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


# --- lines -------------------------------------------------------------------------------------------


def test_a_line_says_how_far_a_task_is_and_how_long_it_takes(log: io.StringIO, clock: Clock) -> None:
    with progress("train", total=300, unit="steps") as update:
        for done in range(101):
            update(done)
            clock.now += 1
    assert log.getvalue().splitlines() == [
        "train: 20/300 steps, 4 min 40 s left",
        "train: 40/300 steps, 4 min 20 s left",
        "train: 60/300 steps, 4 min 00 s left",
        "train: 80/300 steps, 3 min 40 s left",
        "train: 100/300 steps, 3 min 20 s left",
    ]


def test_a_task_that_goes_on_counts_only_what_it_did_itself(log: io.StringIO, clock: Clock) -> None:
    with progress("train", total=1100, unit="steps") as update:
        update(900)
        clock.now += 100
        update(1000)
    assert log.getvalue() == "train: 1000/1100 steps, 1 min 40 s left\n"


def test_a_text_stays_until_another_one_comes(log: io.StringIO, clock: Clock) -> None:
    with progress("train", total=10, unit="steps") as update:
        update(0)
        for done, text in ((1, "epoch 1  G 0.70"), (2, ""), (3, "epoch 2")):
            clock.now += LINE_EVERY_S
            update(done, text=text)
    assert log.getvalue().splitlines() == [
        "train: 1/10 steps, 3 min 00 s left  epoch 1  G 0.70",
        "train: 2/10 steps, 2 min 40 s left  epoch 1  G 0.70",
        "train: 3/10 steps, 2 min 20 s left  epoch 2",
    ]


def test_a_total_may_become_known_later_or_never(log: io.StringIO, clock: Clock) -> None:
    with progress("fetch", total=None, unit="MB") as update:
        update(0.0)
        clock.now += 20
        update(10.4)
        clock.now += 20
        update(20.4, total=40.8)
        clock.now += 20
        update(30.6)
    assert log.getvalue().splitlines() == [
        "fetch: 10 MB",
        "fetch: 20/41 MB, 40 s left",
        "fetch: 31/41 MB, 20 s left",
    ]


@pytest.mark.parametrize(("done", "said"), [(0, "0/4"), (4, "4/4"), (9, "9/4")])
def test_no_time_is_left_over_that_makes_no_sense(
    log: io.StringIO, clock: Clock, done: int, said: str
) -> None:
    with progress("prepare", total=4, unit="pairs") as update:
        update(0)
        clock.now += 20
        update(done)
    left = ", 0 s left" if done == 4 else ""
    assert log.getvalue() == f"prepare: {said} pairs{left}\n"


def test_a_task_that_is_done_soon_says_nothing(log: io.StringIO, clock: Clock) -> None:
    with progress("prepare", total=4, unit="pairs") as update:
        for done in range(5):
            update(done)
            clock.now += LINE_EVERY_S / 10
    assert log.getvalue() == ""


def test_brackets_in_a_text_are_shown_and_long_lines_are_not_broken(log: io.StringIO, clock: Clock) -> None:
    with progress("train", total=None, unit="steps") as update:
        clock.now += 20
        update(1, text="[bold]" + "x" * 200)
    assert log.getvalue() == f"train: 1 steps  [bold]{'x' * 200}\n"


# --- bar ---------------------------------------------------------------------------------------------


def last_line(screen: io.StringIO) -> str:
    plain = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", screen.getvalue())
    return [line for line in re.split(r"[\r\n]", plain) if line.strip()][-1]


def test_a_bar_shows_total_unit_text_and_the_time_left(screen: io.StringIO, clock: Clock) -> None:
    with progress("train", total=300, unit="steps") as update:
        for done in range(0, 101, 10):
            update(done, text=f"epoch {done // 50}")
            clock.now += 10
    line = last_line(screen)
    assert "train" in line
    assert "100/300" in line
    assert "steps  epoch 2" in line
    assert line.rstrip().endswith("left 03:20")


def test_a_bar_of_unknown_length_shows_what_is_done_until_the_total_is_known(
    screen: io.StringIO, clock: Clock
) -> None:
    with progress("fetch", total=None, unit="MB") as update:
        update(12.7)
    assert "12/? MB" in last_line(screen)
    with progress("fetch", total=None, unit="MB") as update:
        update(12.7, total=40)
    assert "12/40 MB" in last_line(screen)


@pytest.mark.parametrize(
    ("style", "terminal", "is_bar"),
    [("auto", True, True), ("auto", False, False), ("bar", False, True), ("lines", True, False)],
)
def test_auto_is_a_bar_on_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, style: Style, terminal: bool, is_bar: bool
) -> None:
    shown = use_console(monkeypatch, clock, terminal)
    with progress("prepare", total=4, unit="pairs", style=style) as update:
        update(1)
        clock.now += 20
        update(2)
    assert ("━" in shown.getvalue()) == is_bar
    assert ("prepare: 2/4 pairs, 40 s left" in shown.getvalue()) == (not is_bar)


@pytest.mark.parametrize("terminal", [True, False])
def test_an_error_inside_comes_out_and_the_terminal_is_given_back(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, terminal: bool
) -> None:
    shown = use_console(monkeypatch, clock, terminal)
    with pytest.raises(ValueError, match="inside"), progress("prepare", total=4, unit="pairs"):
        raise ValueError("inside")
    hidden, given_back = shown.getvalue().rfind("\x1b[?25l"), shown.getvalue().rfind("\x1b[?25h")
    assert given_back > hidden if terminal else hidden == given_back == -1
