"""`pix2pix import` and `pix2pix export-reference`: files in, files out, and what they say."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_reference import Unet, alone, noise, shaken
from torch import nn

from pix2pix import checkpoint, reference
from pix2pix.checkpoint import GeneratorConfig
from pix2pix.encoding import Encoding
from pix2pix.errors import UserError
from pix2pix.files import sha256_file
from pix2pix.generator import Generator
from pix2pix.imports import GENERATOR, export_generator, import_generator
from pix2pix.params import Params, read_yaml, validate

GIVEN = Path("latest_net_G.pth")
HEADERS = {
    "losses.csv": "step,epoch,g_adversarial,g_l1,d_real,d_fake,lr\n",
    "validation.csv": "step,epoch,l1\n",
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def params(image_px: int = 64) -> Params:
    values = read_yaml(ROOT / "params.yaml")
    values["prepare"]["image_px"] = image_px
    values["model"] |= {"dropout_blocks": [1], "discriminator_layers": 1}
    return validate(values, "params.yaml")


def given(network: nn.Module) -> nn.Module:
    """The network, after its weights are in a file."""
    torch.save(network.state_dict(), GIVEN)
    return network


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("statistics", ["instance", "running"])
def test_an_imported_generator_gives_what_the_reference_gives(statistics: str) -> None:
    theirs = given(shaken(Unet(5, 2)))
    said = import_generator(GIVEN, statistics, params())
    assert said == (
        f"models/generator.safetensors: a U-Net of 5 levels, 2 channels, 3 → 3, {statistics} statistics\n"
        "next: dvc repro prepare && dvc repro --single-item evaluate export register\n"
        "(a plain `dvc repro` puts the generator of params.yaml back)"
    )
    generator, config = checkpoint.load_generator(GENERATOR)
    assert (config.levels, config.channels, config.norm, config.image_px) == (5, 2, statistics, 64)
    assert (config.dataset, config.direction) == ("embedded", "BtoA")
    assert config.imported_sha256 == sha256_file(GIVEN)
    assert not (config.params_sha256 or config.data_sha256 or config.code_sha256)
    x = noise(2, 3, 64, 32)
    with torch.inference_mode():
        expected = theirs(x) if statistics == "running" else alone(theirs, x)
        torch.testing.assert_close(generator(x), expected, rtol=0, atol=1e-5)


def test_the_curves_of_an_earlier_training_are_gone(place: Path) -> None:
    given(Unet(5, 2))
    (place / "reports" / "samples").mkdir(parents=True)
    for name in (*HEADERS, "samples/epoch-0001.png"):
        (place / "reports" / name).write_text("of another training")
    import_generator(GIVEN, "instance", params())
    assert files(place / "reports") == {*HEADERS, "samples"}
    for name, header in HEADERS.items():
        assert (place / "reports" / name).read_text() == header


def test_curves_have_the_columns_that_the_training_stage_writes() -> None:
    from pix2pix.events import LOSS_COLUMNS, VALIDATION_COLUMNS

    assert HEADERS["losses.csv"] == ",".join(LOSS_COLUMNS) + "\n"
    assert HEADERS["validation.csv"] == ",".join(VALIDATION_COLUMNS) + "\n"


@pytest.mark.parametrize(
    ("image_px", "levels", "mend"), [(96, 7, "128"), (64, 8, "256"), (320, 8, "256"), (480, 8, "512")]
)
def test_a_size_that_the_network_cannot_take_names_the_nearest(
    place: Path, image_px: int, levels: int, mend: str
) -> None:
    given(Unet(levels, 1))
    with pytest.raises(UserError) as refused:
        import_generator(GIVEN, "instance", params(image_px))
    assert str(refused.value) == (
        f"params.yaml: prepare.image_px = {image_px}: latest_net_G.pth takes multiples of {2**levels}; "
        f"set it to {mend}"
    )
    assert files(place) == {str(GIVEN)}


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 3), (3, 5), (4, 4)])
def test_a_network_of_other_channels_than_grey_and_rgb_is_refused(
    place: Path, inputs: int, outputs: int
) -> None:
    given(Unet(5, 2, inputs, outputs))
    with pytest.raises(UserError) as refused:
        import_generator(GIVEN, "instance", params())
    assert str(refused.value) == (
        f"latest_net_G.pth: translates {inputs} channels into {outputs}; only 8-bit grey and RGB are "
        "imported, since the file does not say what others mean"
    )
    assert files(place) == {str(GIVEN)}


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 3), (3, 1), (1, 1)])
def test_a_network_of_grey_images_is_imported_as_such(place: Path, inputs: int, outputs: int) -> None:
    given(Unet(5, 2, inputs, outputs))
    import_generator(GIVEN, "instance", params())
    _, config = checkpoint.load_generator(Path("models/generator.safetensors"))
    assert (config.in_channels, config.out_channels) == (inputs, outputs)
    assert (config.input, config.target) == (Encoding(inputs), Encoding(outputs))


def test_what_does_not_fit_names_the_file_and_the_first_name_and_leaves_nothing(place: Path) -> None:
    state = Unet(5, 2).state_dict()
    state["model.model.1.model.1.weight"] = torch.zeros(4, 2, 3, 3)
    torch.save(state, GIVEN)
    with pytest.raises(UserError) as refused:
        import_generator(GIVEN, "instance", params())
    assert str(refused.value) == (
        "latest_net_G.pth: model.model.1.model.1.weight: has shape [4, 2, 3, 3], expected [4, 2, 4, 4]"
    )
    assert files(place) == {str(GIVEN)}


def test_a_missing_or_damaged_file_leaves_what_was_there(place: Path) -> None:
    given(Unet(5, 2))
    import_generator(GIVEN, "instance", params())
    before = GENERATOR.read_bytes()
    GIVEN.write_bytes(GIVEN.read_bytes()[:100])
    for file in (GIVEN, Path("none.pth")):
        with pytest.raises(UserError, match=f"^{file}: "):
            import_generator(file, "instance", params())
    assert GENERATOR.read_bytes() == before


@pytest.mark.parametrize(
    ("levels", "norm", "statistics", "options"),
    [
        (7, "batch", "instance", "--netG unet_128 --ngf 2 --norm batch --no_dropout"),
        (7, "batch", "running", "--netG unet_128 --ngf 2 --norm batch --eval --no_dropout"),
        (7, "instance", "instance", "--netG unet_128 --ngf 2 --norm instance --no_dropout"),
        (8, "batch", "instance", "--netG unet_256 --ngf 2 --norm batch --no_dropout"),
    ],
)
def test_what_was_imported_is_exported_again_as_it_was(
    levels: int, norm: str, statistics: str, options: str
) -> None:
    theirs = given(shaken(Unet(levels, 2, norm=norm)))
    import_generator(GIVEN, statistics, params(2**levels))
    back = Path("back") / "latest_net_G.pth"
    assert export_generator(GENERATOR, back) == f"{back}: for the reference's test.py with {options}"
    again = Unet(levels, 2, norm=norm).eval()
    again.load_state_dict(reference.read_state(back))
    x = noise(1, 3, 2**levels, 2**levels)
    with torch.inference_mode():
        if statistics == "running":
            assert torch.equal(again(x), theirs(x))
        torch.testing.assert_close(alone(again, x), alone(theirs, x), rtol=0, atol=1e-5)


def saved(**shape: object) -> None:
    """A generator of ours as the training stage leaves it."""
    config = GeneratorConfig(
        levels=5,
        channels=2,
        norm="instance",
        dropout_blocks=(1,),
        image_px=32,
        dataset="test",
        direction="AtoB",
        params_sha256="p",
        data_sha256="d",
        code_sha256="c",
        **shape,  # type: ignore[arg-type]
    )
    checkpoint.save_generator(GENERATOR, shaken(config.build()).state_dict(), config)


def test_a_depth_that_the_references_options_do_not_name_is_said_so() -> None:
    saved()
    assert export_generator(GENERATOR, Path("G.pth")) == (
        "G.pth: for the reference's UnetGenerator of num_downs=5, ngf=2 and batch norm, "
        "which its options do not name"
    )
    theirs = Unet(5, 2)
    theirs.load_state_dict(torch.load("G.pth", weights_only=True))
    ours, x = checkpoint.load_generator(GENERATOR)[0], noise(2, 3, 32, 32)
    assert isinstance(ours, Generator)
    with torch.inference_mode():
        torch.testing.assert_close(alone(theirs, x), ours(x), rtol=0, atol=1e-5)


def test_channels_that_are_not_the_references_default_are_among_the_options(place: Path) -> None:
    theirs = given(Unet(7, 2, 1, 3))
    import_generator(GIVEN, "instance", params(128))
    back = Path("back.pth")
    assert export_generator(GENERATOR, back) == (
        f"{back}: for the reference's test.py with --netG unet_128 --ngf 2 --norm batch --input_nc 1 "
        "--no_dropout"
    )
    theirs.load_state_dict(reference.read_state(back))
    saved(in_channels=1, out_channels=1, input=Encoding(1), target=Encoding(1))
    said = export_generator(GENERATOR, back)
    assert "UnetGenerator of input_nc=1, output_nc=1, num_downs=5, ngf=2 and batch norm" in said


def test_a_full_disk_is_one_line_and_what_was_there_stays(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_full_disk(prefix: str, suffix: str, dir: Path) -> tuple[int, str]:
        name = dir / f"{prefix}{suffix}"
        name.symlink_to("/dev/full")
        return os.open(os.devnull, os.O_RDONLY), str(name)

    saved()
    Path("G.pth").write_bytes(b"before")
    monkeypatch.setattr(tempfile, "mkstemp", on_full_disk)
    with pytest.raises(UserError) as refused:
        export_generator(GENERATOR, Path("G.pth"))
    assert str(refused.value) == "G.pth: No space left on device; free some space and run it again"
    assert files(place) == {"models", str(GENERATOR), "G.pth"}
    assert Path("G.pth").read_bytes() == b"before"


@pytest.mark.parametrize("shape", [{"architecture": "encoder-decoder"}, {"upsample": "resize"}])
def test_what_the_reference_cannot_build_is_not_exported(place: Path, shape: dict[str, str]) -> None:
    saved(**shape)
    with pytest.raises(UserError, match="the reference has only the U-Net with transposed convolutions"):
        export_generator(GENERATOR, Path("G.pth"))
    assert files(place) == {"models", str(GENERATOR)}


def test_what_is_no_generator_of_ours_is_not_exported(place: Path) -> None:
    Path("foreign.safetensors").write_bytes(b"garbage")
    for name, reason in (("foreign", "is not a generator"), ("none", "not found")):
        with pytest.raises(UserError, match=rf"^{name}\.safetensors: {reason}"):
            export_generator(Path(f"{name}.safetensors"), Path("G.pth"))
    assert files(place) == {"foreign.safetensors"}
