"""The reference implementation's weights, from its file to the registry and back; samples of a generator."""

import json

import torch
from PIL import Image

from .conftest import Project, store


def test_imported_weights_are_measured_exported_and_registered(project: Project) -> None:
    project.dvc("repro")
    said = project.pix2pix("export-reference", "latest_net_G.pth").stdout
    assert "num_downs=5, ngf=2" in said
    state = torch.load(project.root / "latest_net_G.pth", weights_only=True)
    assert state["model.model.0.weight"].shape == (2, 3, 4, 4)
    # Other weights than those that were trained here.
    state["model.model.3.bias"] += 0.5
    torch.save(state, project.root / "latest_net_G.pth")

    said = project.pix2pix("import", "latest_net_G.pth").stdout
    assert "5 levels, 2 channels, 3 → 3" in said
    done = project.dvc("repro", "--single-item", "evaluate", "export", "register")
    assert project.ran(done) == ["evaluate", "export", "register"]
    exported = json.loads((project.root / "reports/export.json").read_text())
    assert len(exported["metadata"]["imported_sha256"]) == 64
    versions = store(project).search_model_versions("name = 'tiny'")
    (version,) = [known for known in versions if known.tags["onnx_sha256"] == exported["onnx_sha256"]]
    assert "of imported weights, training unknown" in version.description
    assert "train.epochs" not in store(project).get_run(version.run_id).data.params


def test_samples_of_one_input_differ_and_come_with_a_picture_of_all(project: Project) -> None:
    source = next((project.root / "data/pairs/test/input").glob("*.png"))
    for out in ("once", "again"):
        project.pix2pix("translate", "--samples", "3", "--seed", "7", str(source), out)
    samples = [project.root / "once" / f"{source.stem}-{number}.png" for number in (1, 2, 3)]
    assert len({sample.read_bytes() for sample in samples}) == 3
    for sample in samples:
        assert sample.read_bytes() == (project.root / "again" / sample.name).read_bytes()
    with Image.open(project.root / "once" / f"{source.stem}-samples.png") as picture:
        assert picture.width > 4 * 32


def test_describe_shows_the_totals(project: Project) -> None:
    said = project.pix2pix("describe", COLUMNS="120").stdout
    assert "generator: U-Net, 5 levels" in said
    assert "discriminator: patches of 16×16 px" in said
    assert "multiply-adds" in said
