"""A file that is no YAML: where, what is wrong in plain words, and the line itself."""

import re
from pathlib import Path

import pytest
from ruamel.yaml.error import MarkedYAMLError, StringMark, YAMLError

from pix2pix import yaml_mistakes
from pix2pix.errors import UserError
from pix2pix.params import read_yaml

COLON = (
    "a colon where none can be; mostly the line is indented deeper than its neighbours, the line above lacks "
)
BRACKET = "the bracket that opens here is not closed, or a comma is missing in it"
# A text, and the place, the words and the line that are said of it.
MISTAKES = [
    # Indentation.
    ("train:\n  lr: 1\n   beta1: 1\n", 3, 9, COLON, "beta1: 1"),
    ("train:\n  lr: 1\n beta1: 1\n", 3, 2, "this line does not go on with what is above", "beta1: 1"),
    ("a: 1\n- b\n", 2, 1, "this line does not go on with what is above", "- b"),
    ("train:\n\tlr: 1\n", 2, 1, "a tab, which cannot begin anything; indent with spaces", r"\tlr: 1"),
    ("train:\n  \tlr: 1\n", 2, 3, "a tab, which cannot begin anything; indent with spaces", r"\tlr: 1"),
    # Colons.
    ("train:\n  lr 1\n  beta1: 1\n", 3, 8, COLON, "beta1: 1"),
    ("a: b: c\n", 1, 5, COLON, "a: b: c"),
    ("train:\n  lr: 1\n  beta1\nmodel: 2\n", 3, 3, "a key without a colon; it needs ': '", "beta1"),
    # Brackets and quotes: the place is where they open.
    ("a: [1, 2\nb: 3\n", 1, 4, BRACKET, "a: [1, 2"),
    ("b: 1\na: {b: 1\nc: 2\n", 2, 4, BRACKET, "a: {b: 1"),
    ("a: ['x' 'y']\n", 1, 4, BRACKET, "a: ['x' 'y']"),
    ("a: [\n", 2, 1, "the file ends in a bracket that is opened and not closed", None),
    ("a: 'x\nb: 1\n", 1, 4, "the quote that opens here is not closed", "a: 'x"),
    ("a: 'x' y\n", 1, 8, "this cannot follow what is before it in the line; a text with quotes", "a: 'x' y"),
    ('a: "C:\\dir"\n', 1, 8, "a backslash in double quotes begins an escape", r'a: "C:\dir"'),
    # Texts that want quotes.
    ("a: @x\n", 1, 4, "this character begins no value; a text that begins with it", "a: @x"),
    ("a: ]\n", 1, 4, "this sign stands where a value should; a text that begins with it", "a: ]"),
    ("a: **/*.png\n", 1, 4, "* repeats a value that has this name after &", "a: **/*.png"),
    ("a: & x\n", 1, 4, "& and * name a value, and this is no name", "a: & x"),
    ("a: !x 1\n", 1, 4, "! begins a tag, and this is none that is known", "a: !x 1"),
    ("a: |x\n b\n", 1, 5, "| and > begin a text on the lines below", "a: |x"),
    ("a: - 1\n", 1, 4, "a list begins on a line of its own, or is written [1, 2]", "a: - 1"),
    ("a: ? b\n", 1, 4, "'? ' begins a key, and there can be none here", "a: ? b"),
    ("a: {{ lr }}\n", 1, 5, "a list or mapping as a key; as for braces in a text", "a: {{ lr }}"),
    ("%YAML 9.1\n---\na: 1\n", 1, 1, "% at the beginning of a line is for the parser", "%YAML 9.1"),
    # The whole.
    ("a: 1\na: 2\n", 2, 1, "this key is in its section already; one of the two has to go", "a: 2"),
    ("a: 1\n---\nb: 2\n", 2, 1, "a second document begins here; parameters are one", "---"),
    ("{a: 1}\nb: 2\n", 2, 1, "this cannot follow what is above", "b: 2"),
    # Values.
    ("a: 2024-13-45\n", 1, 4, "this looks like a date or a number and is none", "a: 2024-13-45"),
    ("a: !!int ''\n", 1, 4, "this looks like a date or a number and is none", "a: !!int ''"),
    ("<<: 3\n", 1, 5, "this is not what the tag, or <<, takes", "<<: 3"),
    ("a: b\x07\n", 1, 5, "the character U+0007, which no YAML file can have; remove it", r"a: b\x07"),
]


def line_for(folder: Path, content: bytes) -> str:
    file = folder / "params.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_yaml(file)
    return str(refused.value).removeprefix(f"{file}: ")


@pytest.mark.parametrize(
    ("text", "line", "column", "said", "shown"), MISTAKES, ids=[text for text, *_ in MISTAKES]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["", "of Windows"])
def test_a_mistake_is_said_with_its_place_and_its_line(
    tmp_path: Path, text: str, line: int, column: int, said: str, shown: str | None, end: str
) -> None:
    words = line_for(tmp_path, text.replace("\n", end).encode())
    assert words.startswith(f"line {line}, column {column}: {said}")
    assert words.endswith(f": `{shown}`") if shown else "`" not in words


def test_every_sentence_of_the_table_is_one_that_the_parser_says() -> None:
    said = set()
    for text, *_ in MISTAKES:
        try:
            yaml_mistakes.parser().load(text)
        except MarkedYAMLError as error:
            problem = f"{error.context}: {error.problem}"
            said.add(next((row for row in yaml_mistakes._ROWS if re.search(row.pattern, problem)), None))
        except YAMLError:
            pass
    assert set(yaml_mistakes._ROWS) <= said


def test_of_a_long_line_the_part_at_the_place_is_shown(tmp_path: Path) -> None:
    words = line_for(tmp_path, f"a: {'x' * 300}: {'y' * 300}\n".encode())
    assert words.endswith(f": `…{'x' * 40}: {'y' * 18}…`")


def test_what_is_no_utf8_is_said_with_its_place(tmp_path: Path) -> None:
    words = "no UTF-8; save the file as UTF-8"
    assert line_for(tmp_path, b"a: 1\nname: \xc3\xa4\xe9\n") == f"line 2, column 8: the byte 0xe9 is {words}"
    assert line_for(tmp_path, "a: 1\n".encode("utf-16-le")[:3] + b"\xff") == (
        f"line 1, column 4: the byte 0xff is {words}"
    )


def test_a_sentence_that_the_table_lacks_is_quoted() -> None:
    mark = StringMark("", 0, 1, 0, "a: 1\nb: 2\n", 0)
    unknown = MarkedYAMLError("while at it", None, "something\nnew", mark)
    assert yaml_mistakes.in_words(unknown, "a: 1\nb: 2\n") == (
        "line 2, column 1: is no YAML (something new): `b: 2`"
    )
    assert yaml_mistakes.in_words(MarkedYAMLError("in nowhere", None, None, None), "") == (
        "is no YAML (in nowhere)"
    )
    assert yaml_mistakes.in_words(YAMLError("w" * 99), "") == f"is no YAML ({'w' * 60}…)"
