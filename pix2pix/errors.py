"""The one exception that stands for a user's mistake, and text that is safe to show."""

import unicodedata

# Unicode's marks that turn the direction of what follows: with them gpj.exe reads exe.jpg.
TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class UserError(Exception):
    """Something the user can mend: its text is one line that says what is wrong, where, and what to do.

    Whoever runs a command prints the text without a traceback and exits with status 2.
    Everything else that is raised is a bug and keeps its traceback.
    """

    exit_status = 2

    def __init__(self, message: str) -> None:
        super().__init__(plain(" ".join(message.split())))


def is_plain(text: str) -> bool:
    """Whether a terminal shows the text as it is: nothing in it is a command, or turns its direction."""
    return not any(_commands(character) for character in text)


def plain(text: str) -> str:
    """The text with everything that a terminal would obey, or cannot show, as Python writes it: `\\x1b`."""
    return "".join(
        repr(character)[1:-1] if _commands(character) and character != "\n" else character
        for character in text
    )


def _commands(character: str) -> bool:
    # Surrogates stand for bytes of a file's name that are no text.
    return unicodedata.category(character) in ("Cc", "Cs") or character in TURNS
