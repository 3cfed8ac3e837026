"""Manifests: pairs.csv or pairs.jsonl, which name the two files of each pair and, if they like, its split."""

import csv
import json
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .errors import UserError

Split = Literal["train", "val", "test"]
SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NAMES = ("pairs.csv", "pairs.jsonl")
# Columns for side A and side B.
COLUMNS = (("a", "b"), ("input", "target"))
# What a line of an error shows of names and values, of which there may be as many as the file is long.
MANY_COLUMNS = 8
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


@dataclass(frozen=True)
class Row:
    """One pair of a manifest: two paths relative to its folder, with slashes, and the line they are on.

    Attributes:
        names_input: whether the columns say that side A is the input.
    """

    line: int
    a: str
    b: str
    split: Split | None
    names_input: bool


def shown(value: object) -> str:
    """A value as an error's line has it: in quotes, and not longer than a person reads."""
    return _SHORT.repr(value)


def find(folder: Path) -> Path | None:
    """The manifest at the top of a folder, if there is one.

    Raises:
        UserError: there are two.
    """
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError(f"{folder}: has both {' and '.join(NAMES)}; keep one")
    return found[0] if found else None


def read(path: Path) -> Iterator[Row]:
    """The rows of a manifest, one after the other.

    Columns are `a` and `b`, or `input` and `target`, and, where the data is split, `split`. A CSV file has
    them in its first line; each line of a JSONL file is an object with these keys. Letters of either case.

    Raises:
        UserError: a line is not what it should be; the text names it.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            values = _csv(path, file) if path.suffix == ".csv" else _jsonl(path, file)
            yield from (_row(path, line, row) for line, row in values)
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from None


def _csv(path: Path, file: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    rows = csv.reader(file)
    try:
        header = [column.strip().lower() for column in next(rows, [])]
        if len(header) == 1 and (mark := next((mark for mark in ";\t" if mark in header[0]), "")):
            raise UserError(f"{path}: separates its columns by {mark!r}; save it with commas")
        for row in rows:
            if row and len(row) != len(header):
                raise UserError(
                    f"{path} line {rows.line_num}: has {len(row)} values for {len(header)} columns"
                )
            if row:
                yield rows.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path} line {rows.line_num}: is not CSV ({error})") from None


def _jsonl(path: Path, file: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} line {number}: is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f'{path} line {number}: is not an object like {{"a": "x.png", "b": "y.png"}}')
        yield number, {key.lower(): value for key, value in row.items()}


def _row(path: Path, line: int, values: Mapping[str, Any]) -> Row:
    columns = next((couple for couple in COLUMNS if values.keys() >= set(couple)), None)
    if columns is None:
        has = ", ".join(shown(key) for key in list(values)[:MANY_COLUMNS]) or "nothing"
        raise UserError(f"{path} line {line}: needs the columns a and b, or input and target; it has {has}")
    paths = []
    for column in columns:
        value = values[column]
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{path} line {line}: {column} = {shown(value)}: must be the path of an image")
        parts = value.strip().replace("\\", "/").split("/")
        paths.append(
            "/".join(part for index, part in enumerate(parts) if part != "." and (part or not index))
        )
    given = values.get("split") or None
    word = given.strip().lower() if isinstance(given, str) else str(given or "")
    if word and word not in SPLIT_WORDS:
        raise UserError(
            f"{path} line {line}: split = {shown(given)}: must be {', '.join(SPLIT_WORDS)}, or empty"
        )
    split = SPLIT_WORDS[word] if word else None
    return Row(line, paths[0], paths[1], split, names_input="input" in columns)
