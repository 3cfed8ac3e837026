"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """Something the user can mend: its text is one line that says what is wrong, where, and what to do.

    Whoever runs a command prints the text without a traceback and exits with status 2.
    Everything else that is raised is a bug and keeps its traceback.
    """

    exit_status = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
