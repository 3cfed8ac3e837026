"""Text from strangers, file names above all, is shown and never obeyed."""

import pytest

from pix2pix.errors import UserError, is_plain, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Straße 12:30 – 図 👩‍🌾.jpg", None),
        ("می‌خواهم.png", None),
        ("a\x1b[2Jb.png", r"a\x1b[2Jb.png"),
        ("a\x07\x00\x7f\x9b.png", r"a\x07\x00\x7f\x9b.png"),
        ("exe\u202egpj.png", r"exe\u202egpj.png"),
        ("a\udcff.png", r"a\udcff.png"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str | None) -> None:
    assert is_plain(text) == (shown is None)
    assert plain(text) == (shown or text)
    assert str(UserError(text)) == (shown or text)


def test_lines_of_a_log_stay_lines() -> None:
    assert plain("one\ntwo\x1b[0m") == "one\ntwo\\x1b[0m"
