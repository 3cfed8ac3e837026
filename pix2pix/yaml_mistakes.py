"""What is wrong with a file that is no YAML, in the words of who typed it.

The parser says which token it wanted, and where it gave up. What is wrong is often above: the bracket that is
not closed, the key without a colon. So each of its sentences has a row that says which of its two marks to
show, and what mostly causes it. A sentence without a row is quoted.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from .errors import plain

# Of a line that is no YAML, and of a sentence of the parser's, so many characters are shown.
SHOWN = 60
# Of the line's, so many before the place.
BEFORE = 40


@dataclass(frozen=True)
class _Row:
    """A sentence of the parser's.

    Attributes:
        pattern: of `context: problem`.
        mark: where the mistake is: where the parser was (`problem`), or what it was in, which began above.
    """

    pattern: str
    said: str
    mark: Literal["problem", "context"] = "problem"


QUOTES = "a text that begins with it belongs in quotes"
MISFIT = "is no value of its kind"
_ROWS = (
    _Row("another document", "a second document begins here; parameters are one, with no --- or ... in it"),
    _Row(r"found character '\\t'", "a tab, which cannot begin anything; indent with spaces"),
    _Row("cannot start any token", f"this character begins no value; {QUOTES}"),
    _Row(
        "could not find expected ':'",
        "a key without a colon; it needs ': ' and its value, or, as part of the text above, a deeper indent",
        "context",
    ),
    _Row(
        "mapping values are not allowed",
        "a colon where none can be; mostly the line is indented deeper than its neighbours, the line above "
        "lacks its ': ', or a text with ': ' in it is not in quotes",
    ),
    _Row(
        "sequence entries are not allowed",
        f"a list begins on a line of its own, or is written [1, 2]; as for '- ', {QUOTES}",
    ),
    _Row("mapping keys are not allowed", f"'? ' begins a key, and there can be none here; {QUOTES}"),
    _Row(
        "flow (sequence|mapping): expected ','",
        "the bracket that opens here is not closed, or a comma is missing in it",
        "context",
    ),
    _Row(
        "flow node: expected the node content, but found '<stream end>'",
        "the file ends in a bracket that is opened and not closed",
    ),
    _Row("expected the node content", f"this sign stands where a value should; {QUOTES}"),
    _Row("quoted scalar: found unexpected", "the quote that opens here is not closed", "context"),
    _Row(
        "double-quoted scalar: ",
        "a backslash in double quotes begins an escape, and this is none; double it, or take single quotes",
    ),
    _Row("block scalar: ", f"| and > begin a text on the lines below, indented evenly; {QUOTES}"),
    _Row("found duplicate (merge )?key", "this key is in its section already; one of the two has to go"),
    _Row(
        "found unhashable key", "a list or mapping as a key; as for braces in a text, they belong in quotes"
    ),
    _Row(
        "found undefined alias", f"* repeats a value that has this name after &, and none above has; {QUOTES}"
    ),
    _Row("an (anchor|alias): ", f"& and * name a value, and this is no name; {QUOTES}", "context"),
    _Row(
        "constructor for the tag|undefined tag handle|(scanning|parsing) an? tag: |URI",
        f"! begins a tag, and this is none that is known; {QUOTES}",
    ),
    _Row(
        f"failed to (decode|convert|construct)|{MISFIT}",
        "this looks like a date or a number and is none, or is not what its tag says; a text goes in quotes",
    ),
    _Row("for merging|expected a (scalar|mapping|sequence|single)", "this is not what the tag, or <<, takes"),
    _Row(
        "expected '<document start>'|after document end marker",
        "this cannot follow what is above; mostly one of the two is indented wrongly",
    ),
    _Row(
        "directive|incompatible YAML|tag handle",
        f"% at the beginning of a line is for the parser, and this is nothing that it knows; {QUOTES}",
    ),
)
# Which of the two, its place in the line tells.
_MISPLACED = "expected <block end>"
_NO_NEIGHBOUR = "this line does not go on with what is above; mostly it is not indented as its neighbours are"
_BEHIND = (
    "this cannot follow what is before it in the line; a text with quotes or brackets in it belongs in quotes"
)


class _Placed(SafeConstructor):
    """Says where a value is that Python does not take for what it looks like, such as `2024-13-45`."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, ArithmeticError):
            raise ConstructorError(None, None, MISFIT, node.start_mark) from None


def parser() -> YAML:
    """Of YAML 1.2, the dialect DVC writes, whose every complaint `in_words` knows how to say."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Placed
    return yaml


def in_words(error: YAMLError, text: str) -> str:
    """Place, mistake and the line in question, in one line.

    Args:
        error: of the parser.
        text: the whole file.
    """
    if isinstance(error, ReaderError):
        said = f"the character U+{error.character:04X}, which no YAML file can have; remove it"
        return _at(text, *_place(text[: error.position]), said)
    if not isinstance(error, MarkedYAMLError):
        return _quoted(str(error))
    problem = " ".join(f"{error.context}: {error.problem}".split())
    row = next((row for row in _ROWS if re.search(row.pattern, problem)), None)
    marks = [error.problem_mark, error.context_mark]
    if row and row.mark == "context":
        marks.reverse()
    mark = next(filter(None, marks), None)
    said = row.said if row else _quoted(str(error.problem or error.context))
    if mark is None:
        return said
    if _MISPLACED in problem:
        rows = text.splitlines()
        is_first = mark.line >= len(rows) or not rows[mark.line][: mark.column].strip()
        said = _NO_NEIGHBOUR if is_first else _BEHIND
    return _at(text, mark.line, mark.column, said)


def not_utf8(error: UnicodeDecodeError) -> str:
    """Place of the first byte that is no text."""
    line, column = _place(error.object[: error.start].decode("utf-8"))
    byte = error.object[error.start]
    return f"line {line + 1}, column {column + 1}: the byte 0x{byte:02x} is no UTF-8; save the file as UTF-8"


def _place(before: str) -> tuple[int, int]:
    """Line and column, from 0, of what comes behind this text."""
    rows = f"{before}|".splitlines()
    return len(rows) - 1, len(rows[-1]) - 1


def _at(text: str, line: int, column: int, said: str) -> str:
    rows = text.splitlines()
    # What is not closed is found out at the end of the file, where there is nothing to see.
    row = rows[line].rstrip() if line < len(rows) else ""
    # A tab in front is to be seen; spaces are not, and the column counts them.
    begin = len(row) - len(row.lstrip(" "))
    if len(row) - begin > SHOWN:
        begin = max(begin, column - BEFORE)
    shown = "…" * bool(row[:begin].strip(" ")) + row[begin : begin + SHOWN] + "…" * (len(row) > begin + SHOWN)
    return f"line {line + 1}, column {column + 1}: {said}" + (f": `{plain(shown)}`" if shown else "")


def _quoted(problem: str) -> str:
    problem = " ".join(problem.split())
    return f"is no YAML ({problem[:SHOWN]}{'…' * (len(problem) > SHOWN)})"
