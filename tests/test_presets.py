"""Presets: laid over params.yaml they change their values and nothing else, or nothing at all."""

import difflib
import shutil
from pathlib import Path

import pytest

from pipeline import presets
from pix2pix.errors import UserError
from pix2pix.params import load, read_yaml

PROJECT = Path(__file__).parents[1]
COMMITTED = (PROJECT / "params.yaml").read_bytes()
NAMES = sorted(file.stem for file in (PROJECT / "presets").glob("*.yaml"))
PARAMS = Path("params.yaml")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the committed params.yaml and presets."""
    shutil.copytree(PROJECT / "presets", tmp_path / "presets")
    (tmp_path / "params.yaml").write_bytes(COMMITTED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def own_preset(text: str) -> str:
    Path("presets/own.yaml").write_text(text, encoding="utf-8")
    return "own"


def refusal(name: str) -> str:
    with pytest.raises(UserError) as refused:
        presets.apply(name)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def changed_lines() -> list[str]:
    """The lines that differ from the committed file, as - old and + new."""
    before, after = COMMITTED.decode().splitlines(), PARAMS.read_text(encoding="utf-8").splitlines()
    return [line for line in difflib.ndiff(before, after) if line[0] in "-+"]


def test_there_is_a_preset_for_every_file() -> None:
    assert presets.names() == NAMES
    assert "quickstart" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_sets_its_values_and_leaves_the_others(name: str) -> None:
    overlay, before = read_yaml(Path(f"presets/{name}.yaml")), read_yaml(PARAMS)
    presets.apply(name)
    after = read_yaml(PARAMS)
    for section, keys in before.items():
        assert after[section] == {**keys, **overlay.get(section, {})}


@pytest.mark.parametrize("name", NAMES)
def test_the_quickstart_brings_the_committed_file_back_after_any_preset(name: str) -> None:
    presets.apply(name)
    presets.apply("quickstart")
    assert PARAMS.read_bytes() == COMMITTED


def test_every_preset_sets_the_same_keys_so_that_none_leaves_anything_behind() -> None:
    keys = {
        name: {section: sorted(keys) for section, keys in read_yaml(Path(f"presets/{name}.yaml")).items()}
        for name in NAMES
    }
    assert all(keys[name] == keys["quickstart"] for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_time_changes_nothing(name: str) -> None:
    presets.apply(name)
    once = PARAMS.read_bytes()
    assert presets.apply(name) == []
    assert PARAMS.read_bytes() == once


def test_only_the_lines_of_changed_values_change_and_comments_stay() -> None:
    name = own_preset(
        "train: {epochs: 10, lr: 1e-3}\n"
        "model: {dropout_blocks: [1, 2]}\n"
        f"dataset: {{licence: '{'long ' * 60}'}}\n"
        "run: {tracking: false}\n"
    )
    changes = presets.apply(name)
    assert sorted(changes) == sorted(
        [
            "train.lr: 0.0002 → 0.001",
            "model.dropout_blocks: [1, 2, 3] → [1, 2]",
            f"dataset.licence: {load(PROJECT / 'params.yaml').dataset.licence} → {'long ' * 60}",
            "run.tracking: True → False",
        ]
    )
    assert [line for line in changed_lines() if line.startswith("+")] == [
        f"+   licence: '{'long ' * 60}'",
        "+   dropout_blocks: [1, 2]",
        "+   lr: 0.001",
        "+   tracking: false",
    ]
    assert len(changed_lines()) == 8


def test_a_users_own_comments_order_and_writing_stay() -> None:
    written = COMMITTED.decode().replace("  lr: 0.0002\n", "  lr: 2e-4  # tried 1e-3: too fast\n")
    written = written.replace("  norm: instance\n", '  norm: "instance"\n')
    assert '"instance"' in written and "2e-4" in written
    # A section at another place, as a user may order them.
    head, run = written.split("run:\n")
    PARAMS.write_text(f"run:\n{run}\n{head}", encoding="utf-8")
    before = PARAMS.read_text(encoding="utf-8")
    presets.apply(own_preset("train: {epochs: 15}\n"))
    assert PARAMS.read_text(encoding="utf-8") == before.replace("epochs: 10", "epochs: 15")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("quikstart", "preset 'quikstart': unknown; did you mean quickstart?"),
        ("facade", "preset 'facade': unknown; did you mean facades?"),
        ("zzz", f"preset 'zzz': unknown; there are {', '.join(NAMES)}"),
        ("../params", f"preset '../params': unknown; there are {', '.join(NAMES)}"),
        ("", f"preset '': unknown; there are {', '.join(NAMES)}"),
    ],
)
def test_an_unknown_preset_names_the_nearest_or_all(name: str, said: str) -> None:
    assert refusal(name) == said
    assert PARAMS.read_bytes() == COMMITTED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "presets/own.yaml: is not a mapping of sections"),
        ("- train\n", "presets/own.yaml: is not a mapping of sections"),
        ("train: 3\n", "presets/own.yaml: is not a mapping of sections"),
        ("train:\n", "presets/own.yaml: is not a mapping of sections"),
        ("train: {epochs: 3\n", "presets/own.yaml: line 2: "),
        (
            "train: {epoch: 3}\n",
            "presets/own.yaml over params.yaml: train.epoch: unknown key; did you mean train.epochs?",
        ),
        (
            "trian: {epochs: 3}\n",
            "presets/own.yaml over params.yaml: trian: unknown key; did you mean train?",
        ),
        (
            "train: {epochs: 3}\nprepare: {image_px: 100}\n",
            "presets/own.yaml over params.yaml: prepare.image_px = 100: must be a multiple of 32",
        ),
        (
            "model: {dropout_blocks: [7]}\n",
            "presets/own.yaml over params.yaml: model.dropout_blocks = [7]: a generator for 128 px",
        ),
    ],
)
def test_an_invalid_preset_is_one_line_and_leaves_the_file_as_it_was(text: str, said: str) -> None:
    assert refusal(own_preset(text)).startswith(said)
    assert PARAMS.read_bytes() == COMMITTED
    assert sorted(path.name for path in Path().iterdir()) == ["params.yaml", "presets"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "params.yaml: is not a mapping of sections"),
        (b"train: 3\n", "params.yaml: "),
        (b"train: [\n", "params.yaml: line 2: "),
        (COMMITTED + b"  unknown: 3\n", "params.yaml: run.unknown: unknown key"),
    ],
)
def test_an_invalid_file_is_one_line_and_left_as_it_was(content: bytes, said: str) -> None:
    PARAMS.write_bytes(content)
    assert refusal("quickstart").startswith(said)
    assert PARAMS.read_bytes() == content


def test_a_missing_file_is_one_line() -> None:
    PARAMS.unlink()
    assert refusal("quickstart") == "params.yaml: not found; run this in the project's folder"


def test_nothing_but_params_yaml_is_left_in_the_folder() -> None:
    presets.apply("facades")
    assert sorted(path.name for path in Path().iterdir()) == ["params.yaml", "presets"]


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_sets_every_key_of_a_recipe_so_nothing_set_by_hand_is_left(name: str) -> None:
    recipe = read_yaml(PROJECT / "presets" / f"{name}.yaml")
    committed = read_yaml(PROJECT / "params.yaml")
    for section in committed.keys() - {"run"}:
        assert recipe[section].keys() == committed[section].keys(), section
