"""The catalogue of published data sets and the addresses they are looked for at."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

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


def test_official_addresses_are_held_to_the_official_size() -> None:
    assert datasets.addresses(datasets.entry("facades")) == {
        "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets/facades.tar.gz": 30_168_306,
        "https://people.eecs.berkeley.edu/~tinghuiz/projects/pix2pix/datasets/facades.tar.gz": 30_168_306,
    }


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


@pytest.mark.parametrize("preset", ["facades-small", "facades"])
def test_a_preset_of_a_published_set_agrees_with_its_row(preset: str) -> None:
    values = read_yaml(ROOT / "presets" / f"{preset}.yaml")
    row = datasets.entry(values["dataset"]["name"])
    assert values["dataset"]["source"] == "pix2pix/datasets.py"
    assert values["dataset"]["direction"] == row.direction
    assert values["prepare"]["resize_input"] == row.resize_input
    assert values["prepare"]["resize_target"] == row.resize_target
    assert values["train"]["batch"] == row.batch
    if values["prepare"]["image_px"] == row.half_px:
        assert values["train"]["epochs"] == row.epochs
