"""The catalogue of published data sets and the addresses they are looked for at."""

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from pix2pix import datasets, download
from pix2pix.errors import UserError
from pix2pix.params import Direction, Resize, read_yaml

NAMES = ["facades", "maps", "cityscapes", "edges2shoes", "edges2handbags", "night2day"]

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(download.MIRROR_VARIABLE, raising=False)


def test_catalogue_holds_the_six_published_sets() -> None:
    assert [entry.name for entry in datasets.CATALOGUE] == NAMES


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "direction"),
    [
        ("facades", 200, 1, "BtoA"),
        ("maps", 200, 1, "AtoB"),
        ("cityscapes", 200, 1, "BtoA"),
        ("edges2shoes", 15, 4, "AtoB"),
        ("edges2handbags", 15, 4, "AtoB"),
        ("night2day", 17, 4, "BtoA"),
    ],
)
def test_recipes_are_the_published_ones(name: str, epochs: int, batch: int, direction: str) -> None:
    entry = datasets.entry(name)
    assert (entry.epochs, entry.batch, entry.direction) == (epochs, batch, direction)


@pytest.mark.parametrize("entry", datasets.CATALOGUE, ids=NAMES)
def test_every_entry_can_be_written_into_params(entry: datasets.Entry) -> None:
    assert entry.direction in get_args(Direction)
    assert {entry.resize_input, entry.resize_target} <= set(get_args(Resize))
    assert "open" in entry.licence and "source: " in entry.licence


def test_only_label_maps_are_resized_by_nearest_neighbour() -> None:
    by_nearest = [entry.name for entry in datasets.CATALOGUE if entry.resize_input == "nearest"]
    assert by_nearest == ["facades", "cityscapes"]
    assert all(entry.resize_target == "area" for entry in datasets.CATALOGUE)


def test_unknown_name_is_one_line_with_the_nearest_and_all_known_names() -> None:
    with pytest.raises(UserError) as caught:
        datasets.entry("Facade")
    line = str(caught.value)
    assert "dataset.name = 'Facade'" in line and "did you mean facades?" in line
    assert all(name in line for name in NAMES)


def test_name_like_none_of_the_known_gets_no_guess() -> None:
    with pytest.raises(UserError) as caught:
        datasets.entry("zzz")
    assert "did you mean" not in str(caught.value)


# No size of the others' archives is published.
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("facades", 30_168_306),
        ("maps", 250_242_400),
        ("cityscapes", 103_441_232),
        ("edges2shoes", None),
        ("edges2handbags", None),
        ("night2day", None),
    ],
)
def test_every_archive_is_looked_for_at_the_authors_two_addresses(name: str, size: int | None) -> None:
    entry = datasets.entry(name)
    assert entry.archive == f"{name}.tar.gz"
    assert list(datasets.addresses(entry).items()) == [
        (f"http://efrosgans.eecs.berkeley.edu/pix2pix/datasets/{name}.tar.gz", size),
        (f"https://people.eecs.berkeley.edu/~tinghuiz/projects/pix2pix/datasets/{name}.tar.gz", size),
    ]


@pytest.mark.parametrize(
    ("name", "pairs", "half_px"),
    [
        ("facades", {"train": 400, "val": 100, "test": 106}, 256),
        ("maps", {"train": 1096, "val": 1098}, 600),
        ("cityscapes", {"train": 2975, "val": 500}, 256),
        ("edges2shoes", {"train": 49_825, "val": 200}, 256),
        ("edges2handbags", {"train": 138_567, "val": 200}, 256),
        ("night2day", None, 256),
    ],
)
def test_pairs_are_the_published_ones(name: str, pairs: dict[str, int] | None, half_px: int) -> None:
    entry = datasets.entry(name)
    assert (entry.pairs, entry.half_px) == (pairs, half_px)


@pytest.mark.parametrize(
    ("mirror", "address"),
    [
        ("https://example.org/data/", "https://example.org/data/facades.tar.gz"),
        ("https://example.org/data", "https://example.org/data/facades.tar.gz"),
        ("/srv/data", "/srv/data/facades.tar.gz"),
        ("data/here", "data/here/facades.tar.gz"),
        ("file:///srv/my%20data", "/srv/my data/facades.tar.gz"),
        ("file://localhost/srv/data", "/srv/data/facades.tar.gz"),
        ("~/data", "/home/me/data/facades.tar.gz"),
        ("file://~/data", "/home/me/data/facades.tar.gz"),
        ("~nobody-of-that-name/data", "~nobody-of-that-name/data/facades.tar.gz"),
    ],
)
def test_mirror_comes_first_and_may_have_any_size(
    monkeypatch: pytest.MonkeyPatch, mirror: str, address: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv(download.MIRROR_VARIABLE, mirror)
    entry = datasets.entry("facades")
    assert next(iter(datasets.addresses(entry).items())) == (
        str(Path(address)) if "//" not in address else address,
        None,
    )
    assert list(datasets.addresses(entry))[1:] == list(entry.urls)


def test_catalogue_is_light_to_import() -> None:
    script = "import sys, pix2pix.datasets; print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def published_preset(name: str) -> dict[str, dict[str, Any]]:
    values = read_yaml(ROOT / "presets" / f"{name}.yaml")
    assert values["dataset"]["source"] == "pix2pix/datasets.py"
    return values


@pytest.mark.parametrize("preset", ["facades-small", "tutorial", *NAMES])
def test_a_preset_of_a_published_set_agrees_with_its_row(preset: str) -> None:
    values = published_preset(preset)
    row = datasets.entry(values["dataset"]["name"])
    assert values["dataset"]["direction"] == row.direction
    assert values["prepare"]["resize_input"] == row.resize_input
    # The tutorial resizes both sides by nearest neighbour.
    assert values["prepare"]["resize_target"] == ("nearest" if preset == "tutorial" else row.resize_target)
    assert values["train"]["batch"] == row.batch
    # Of these the small one is short for CPUs, the tutorial as short as its source.
    epochs = {"facades-small": 14, "tutorial": 30}
    assert values["train"]["epochs"] == epochs.get(preset, row.epochs)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_named_for_a_published_set_is_of_it_and_says_its_terms(name: str) -> None:
    dataset = published_preset(name)["dataset"]
    row = datasets.entry(name)
    assert dataset["name"] == name
    if name == "facades":
        # Its presets say whom to cite, too.
        assert dataset["licence"].startswith("no open licence is established; CMP Facade Database")
    else:
        # Without a colon, which YAML would want quoted.
        assert dataset["licence"] == row.licence.replace("source: ", "").replace(": ", ", ")


@pytest.mark.parametrize("name", NAMES)
def test_a_set_without_a_test_split_gives_a_sensible_number_of_validation_pairs(name: str) -> None:
    share = published_preset(name)["prepare"]["val_share"]
    pairs = datasets.entry(name).pairs
    assert 0 < share <= 0.1
    if pairs and "test" not in pairs:
        assert 100 <= share * pairs["train"] < 3000
