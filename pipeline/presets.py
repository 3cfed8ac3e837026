"""Presets: recipes laid over params.yaml, whose comments stay."""

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from pix2pix.errors import UserError
from pix2pix.files import atomic_file
from pix2pix.params import PARAMS_FILE, load, read_yaml, validate

PRESETS = Path("presets")


def names() -> list[str]:
    """The presets there are."""
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))


def apply(name: str) -> list[str]:
    """Lay presets/NAME.yaml over params.yaml.

    Returns:
        What changed, as `section.key: old → new`.

    Raises:
        UserError: no such preset, params.yaml is not valid, or would not be; it is then as it was.
    """
    return lay(name, {})


def lay(name: str | None, overrides: Mapping[str, Any], root: Path = Path()) -> list[str]:
    """Lay a preset, if one is named, and then single values over the params.yaml in `root`.

    Args:
        overrides: values by dotted key, such as `{"train.epochs": 3}`.

    Returns:
        What changed, as `section.key: old → new`.

    Raises:
        UserError: no such preset, params.yaml is not valid, or would not be; it is then as it was.
    """
    file = root / PARAMS_FILE
    load(file)
    layers = [] if name is None else [_preset(name, root)]
    if overrides:
        layers.append(("overrides", _nested(overrides, read_yaml(file))))
    round_trip = YAML()
    round_trip.preserve_quotes = True
    # A long line stays one.
    round_trip.width = sys.maxsize
    values = round_trip.load(file.read_text(encoding="utf-8"))
    changes = []
    for origin, overlay in layers:
        changes += _lay_over(values, overlay, origin)
        validate(read_plain(values), f"{origin} over {PARAMS_FILE}")
    with atomic_file(file) as partial, partial.open("w", encoding="utf-8") as written:
        round_trip.dump(values, written)
    return changes


def _preset(name: str, root: Path) -> tuple[str, Any]:
    known = sorted(file.stem for file in (root / PRESETS).glob("*.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise UserError(f"preset {name!r}: unknown; {hint}")
    preset = PRESETS / f"{name}.yaml"
    return str(preset), read_yaml(root / preset)


def _nested(overrides: Mapping[str, Any], values: Any) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for dotted, value in overrides.items():
        section, dot, key = dotted.partition(".")
        if not dot:
            # No section can be replaced by a value, so this says which key was meant.
            validate({**values, dotted: value}, "overrides")
        nested.setdefault(section, {}).update({key: value} if dot else value)
    return nested


def _lay_over(values: Any, overlay: Any, origin: str) -> list[str]:
    if not isinstance(overlay, dict) or not all(isinstance(keys, dict) for keys in overlay.values()):
        raise UserError(f"{origin}: is not a mapping of sections")
    changes = []
    for section, keys in overlay.items():
        for key, value in keys.items():
            old = values.setdefault(section, {}).get(key)
            if old != value:
                changes.append(f"{section}.{key}: {old} → {value}")
                values[section][key] = _on_its_line(old, value) if isinstance(value, list) else value
    return changes


def _on_its_line(old: Any, value: list[Any]) -> CommentedSeq:
    """A list as [1, 2, 3] and, where one was before, with the comment behind that."""
    kept = old if isinstance(old, CommentedSeq) else CommentedSeq()
    kept[:] = value
    kept.fa.set_flow_style()
    return kept


def read_plain(values: Any) -> Any:
    """ruamel's commented containers as plain ones, which strict validation expects."""
    if isinstance(values, dict):
        return {str(key): read_plain(value) for key, value in values.items()}
    if isinstance(values, list):
        return [read_plain(value) for value in values]
    for kind in (bool, int, float, str):
        if isinstance(values, kind):
            return kind(values)
    return values
