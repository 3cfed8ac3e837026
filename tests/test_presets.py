"""Presets: laid over params.yaml they change their values and nothing else, or nothing at all."""

import difflib
import shutil
from pathlib import Path

import pytest
import torch

from pipeline import presets
from pix2pix.description import describe
from pix2pix.errors import UserError
from pix2pix.params import load, read_yaml

PROJECT = Path(__file__).parents[1]
COMMITTED = (PROJECT / "params.yaml").read_bytes()
NAMES = sorted(file.stem for file in (PROJECT / "presets").glob("*.yaml"))
PARAMS = Path("params.yaml")
# The published recipes: 256 px, 64 channels in both networks.
PAPER = ["tutorial", "facades", "maps", "cityscapes", "edges2shoes", "edges2handbags", "night2day"]
SMALL = ["facades-small", "quickstart"]


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


def test_a_list_over_a_list_over_a_number_stays_on_its_line() -> None:
    name = own_preset("prepare: {image_px: [256, 512]}")
    changes = presets.lay(name, {"prepare.image_px": [512, 256]})
    assert [line for line in changes if "image_px" in line][-1] == "prepare.image_px: [256, 512] → [512, 256]"
    assert load(PARAMS).prepare.image_px == (512, 256)
    assert any(line.startswith("+   image_px: [512, 256]") for line in changed_lines())


def test_there_is_a_preset_for_every_file() -> None:
    assert presets.names() == NAMES
    assert sorted(PAPER + SMALL) == NAMES


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


def test_every_preset_sets_the_same_keys_in_one_order_so_that_none_leaves_anything_behind() -> None:
    keys = {
        name: [(section, list(keys)) for section, keys in read_yaml(Path(f"presets/{name}.yaml")).items()]
        for name in NAMES
    }
    assert all(keys[name] == keys["facades"] for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_presets_first_line_says_what_it_is(name: str) -> None:
    first = Path(f"presets/{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and len(first) <= 110


@pytest.mark.parametrize("name", NAMES)
def test_a_second_time_changes_nothing(name: str) -> None:
    presets.apply(name)
    once = PARAMS.read_bytes()
    assert presets.apply(name) == []
    assert PARAMS.read_bytes() == once


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_registers_under_a_name_of_its_own(name: str) -> None:
    assert read_yaml(Path(f"presets/{name}.yaml"))["registry"]["model_name"] == f"pix2pix-{name}"


# 4×4 kernels, a scale and a shift for each norm, a bias at each network's end and at the discriminator's
# start: 7 levels for 128 px, 8 for 256 px, where the counts are the published ones.
@pytest.mark.parametrize(
    ("name", "levels", "generator", "discriminator"),
    [
        *((name, 8, 54_413_955, 2_768_705) for name in PAPER),
        ("facades-small", 7, 10_461_507, 176_081),
        ("quickstart", 7, 2_617_507, 176_081),
    ],
)
def test_the_networks_of_a_preset_have_the_parameters_they_should(
    name: str, levels: int, generator: int, discriminator: int
) -> None:
    presets.apply(name)
    params = load()
    with torch.device("meta"):
        networks = describe(params)
    assert params.levels == levels
    assert [network.parameters for network in networks] == [generator, discriminator]


@pytest.mark.parametrize("name", PAPER)
def test_the_published_recipes_have_the_papers_networks_and_optimiser(name: str) -> None:
    presets.apply(name)
    params = load()
    assert params.prepare.image_px == 256
    assert (params.model.architecture, params.model.upsample) == ("unet", "deconv")
    assert params.model.dropout_blocks == (1, 2, 3)
    assert (params.model.discriminator_layers, params.model.conditional) == (3, True)
    train = params.train
    assert (train.lr, train.beta1, train.gan_loss, train.lambda_l1) == (2e-4, 0.5, "bce", 100)
    assert params.evaluate.features == "inception-2015-12-05"
    with torch.device("meta"):
        generator, discriminator = describe(params)
    # Multiply-adds of one image, and a 30×30 map of patches.
    assert generator.multiply_adds == pytest.approx(6.05e9, rel=1e-3)
    assert discriminator.multiply_adds == pytest.approx(3.20e9, rel=2e-3)
    assert discriminator.layers[-1].output == (1, 30, 30)


def test_the_tutorials_recipe_is_that_of_facades_but_for_the_tutorials_own() -> None:
    tutorial, facades = (read_yaml(Path(f"presets/{name}.yaml")) for name in ("tutorial", "facades"))
    different = {
        f"{section}.{key}": value
        for section, keys in tutorial.items()
        for key, value in keys.items()
        if value != facades[section][key]
    }
    assert different == {
        "prepare.resize_target": "nearest",
        "train.epochs": 30,
        "train.decay_share": 0,
        "train.validate_every": 5,
        "registry.model_name": "pix2pix-tutorial",
        "run.checkpoint_every_epochs": 5,
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_training_of_a_preset_loses_little_and_its_last_epoch_is_validated(name: str) -> None:
    presets.apply(name)
    params = load()
    assert params.run.checkpoint_every_epochs <= params.train.epochs / 5
    assert params.train.epochs % params.train.validate_every == 0


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
        (
            "train: {epochs: 3\n",
            "presets/own.yaml: line 1, column 8: the bracket that opens here is not closed",
        ),
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
        (b"train: [\n", "params.yaml: line 2, column 1: "),
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
