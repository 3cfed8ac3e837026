"""The model card: every number of the reports, a function of its arguments alone, short enough for MLflow."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from registry_fixtures import Project, digest, noise

from pipeline import model_card
from pix2pix import onnx_export
from pix2pix.generator import Generator
from pix2pix.translator import Translator

pytest_plugins = ["registry_fixtures"]

EXPORT = {
    "onnx_sha256": digest("onnx"),
    "opset": 20,
    "multiple": 32,
    "metadata": {"imported_sha256": ""},
}


@pytest.fixture
def plain(tmp_path: Path) -> Project:
    """Reports without files."""
    return Project(tmp_path, b"")


def card(project: Project, **sections: dict[str, Any]) -> str:
    return model_card.write(project.params(**sections), project.metrics("a", 0.1709), project.data(), EXPORT)


def test_every_number_is_in_the_card(plain: Project) -> None:
    metrics, text = plain.metrics("a", 0.1709), card(plain)
    for group in ("model", "input_as_output", "floor"):
        for name, value in metrics[group].items():
            shown = f"{value:.2g}" if name.endswith("_std") else f"{value:.4g}"
            if group == "model" or not name.endswith("_std"):
                assert shown in text, f"{group}.{name} = {shown}"
    assert "24 train, 2 val, 12 test (the data's own train, val and test)" in text
    assert "On all 12 test images" in text
    for said in (digest("a"), digest("onnx"), "opset 20", "multiples of 32", "at 32 px", "side B → side A"):
        assert said in text
    assert "the features of efficientnet-lite0" in text
    assert 'mlflow.pyfunc.load_model("models:/tiny@champion")' in text
    assert "side A → side B" in card(plain, dataset={"direction": "AtoB"})


def test_each_row_of_the_table_has_a_value_or_an_empty_cell_for_each_column(plain: Project) -> None:
    rows = [line.split("|") for line in model_card.metrics_table(plain.metrics("a", 0.1709)).splitlines()]
    assert {len(row) for row in rows} == {6}
    cells = {row[1].strip(): [cell.strip() for cell in row[2:5]] for row in rows[2:]}
    assert cells == {
        "kd_efficientnet_lite0": ["0.1709 ± 0.0061", "0.7295", "0.0185"],
        "fd_efficientnet_lite0": ["131.5", "331.5", "27.75"],
        "L1 (0–1)": ["0.1125", "0.4625", ""],
        "PSNR (dB)": ["17.25", "5.75", ""],
        "SSIM": ["0.625", "0.0675", ""],
    }


def test_distances_on_inception_features_are_called_fid_and_kid(plain: Project) -> None:
    metrics = plain.metrics("a", 0.1709)
    metrics["features"]["name"] = "inception-2015-12-05"
    for group in ("model", "input_as_output", "floor"):
        for old, new in (("kd_efficientnet_lite0", "kid"), ("fd_efficientnet_lite0", "fid")):
            metrics[group] = {name.replace(old, new): value for name, value in metrics[group].items()}
    table = model_card.metrics_table(metrics)
    assert "| kid | 0.1709 ± 0.0061 |" in table
    assert "| fid | 131.5 |" in table
    assert "efficientnet" not in table


def test_the_card_depends_on_its_arguments_alone(
    plain: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = card(plain)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert card(plain) == first
    assert list(tmp_path.iterdir()) == []
    # What cannot change an output is not in the card either.
    assert card(plain, run={"tracked_grids": 1, "progress": "lines"}) == first


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "U-Net, conditional GAN + L1;"),
        ({"model": {"architecture": "encoder-decoder"}}, "encoder–decoder, conditional GAN + L1;"),
        ({"model": {"conditional": False}}, "U-Net, unconditional GAN + L1;"),
        ({"train": {"gan_loss": "none"}}, "U-Net, L1;"),
        ({"train": {"lambda_l1": 0}}, "U-Net, conditional GAN;"),
    ],
)
def test_the_card_names_the_networks_and_losses_that_were_chosen(
    plain: Project, changed: dict[str, Any], said: str
) -> None:
    text = card(plain, **changed)
    assert f"A pix2pix generator ({said} Isola et al. 2017)\ntrained on **embedded**, " in text


def test_of_imported_weights_the_card_says_only_what_they_were_measured_on(plain: Project) -> None:
    export = {**EXPORT, "metadata": {"imported_sha256": digest("latest_net_G.pth")}}
    params = plain.params(train={"gan_loss": "none"})
    text = model_card.write(params, plain.metrics("a", 0.1709), plain.data(), export)
    assert f"of imported weights, training unknown (file sha256 `{digest('latest_net_G.pth')}`),\n" in text
    assert "\nmeasured on **embedded**, side B → side A, at 32 px." in text
    assert "| pairs | 12 test (" in text and "trained" not in text and "L1;" not in text


def test_any_licence_fits_the_table_and_mlflows_5000_characters(plain: Project) -> None:
    assert len(card(plain)) < 2000
    long = card(plain, dataset={"licence": "free | for\nresearch " * 1000})
    assert len(long) < 5000
    (row,) = [line for line in long.splitlines() if line.startswith("| licence")]
    assert row.startswith("| licence of the data | free \\| for research free")
    assert row.replace("\\|", "").count("|") == 3
    assert "| licence of the data | not stated |" in card(plain, dataset={"licence": ""})


def test_a_rectangle_and_other_pixels_are_said_with_the_code_that_loads_them(plain: Project) -> None:
    data = plain.data() | {"image_px": "256×512"}
    text = model_card.write(plain.params(), plain.metrics("a", 0.1709), data, EXPORT)
    # Pillow has the width first.
    assert "at 256×512 px" in text and "image.resize((512, 256)" in text
    data |= {"input": "7 channels of uint16", "target": "1 channel of float32"}
    text = model_card.write(plain.params(), plain.metrics("a", 0.1709), data, EXPORT)
    assert "7 channels of uint16 in, 1 channel of float32 out" in text
    assert 'np.load("input.npy")' in text and "PIL" not in text


def test_the_cards_lines_for_the_file_alone_run_it(plain: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, lines = re.findall(r"^```python\n(.*?)^```", card(plain), re.DOTALL | re.MULTILINE)
    torch.manual_seed(0)
    file = plain.folder / "generator.onnx"
    onnx_export.export(
        file, Generator(levels=5, channels=2), in_channels=3, opset=20, metadata={"multiple": "32"}
    )
    monkeypatch.chdir(plain.folder)
    image = noise(32, 64)
    found: dict[str, Any] = {"image": image}
    exec(lines, found)
    assert np.array_equal(found["translated"], Translator(file)(image))
