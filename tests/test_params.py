"""params.yaml: what is valid loads typed; what is not is one line that says what is wrong and what to do."""

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from pix2pix import params as module
from pix2pix.errors import UserError
from pix2pix.params import Params, load, read_yaml, unet_levels, validate

PROJECT = Path(__file__).parents[1]
COMMITTED = PROJECT / "params.yaml"
VALUES: dict[str, Any] = read_yaml(COMMITTED)
PRESETS = sorted((PROJECT / "presets").glob("*.yaml"))


def committed() -> dict[str, Any]:
    """The committed values, to be changed."""
    return copy.deepcopy(VALUES)


def with_value(key: str, value: Any) -> dict[str, Any]:
    """The committed values with one of them replaced; `section.key` or a new section."""
    values = committed()
    *sections, name = key.split(".")
    place = values
    for section in sections:
        place = place[section]
    place[name] = value
    return values


def line_for(values: Any) -> str:
    """The one line that refuses these values."""
    with pytest.raises(UserError) as refused:
        validate(values, "params.yaml")
    line = str(refused.value)
    assert line.startswith("params.yaml: ")
    assert "\n" not in line
    return line.removeprefix("params.yaml: ")


# --- what is valid -----------------------------------------------------------------------------------


def test_the_committed_values_are_those_of_the_quickstart() -> None:
    values = load(COMMITTED).model_dump(mode="json")
    quickstart = read_yaml(PROJECT / "presets" / "quickstart.yaml")
    for section, keys in quickstart.items():
        assert {key: values[section][key] for key in keys} == keys


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_valid_over_the_committed_values(preset: Path) -> None:
    values, overlay = committed(), read_yaml(preset)
    for section, keys in overlay.items():
        values[section] |= keys
    loaded = validate(values, str(preset)).model_dump(mode="json")
    for section, keys in overlay.items():
        assert {key: loaded[section][key] for key in keys} == keys


def test_every_key_of_the_file_is_known_and_every_known_key_is_in_the_file() -> None:
    values = committed()
    written = []
    for section, keys in values.items():
        written += [section, *(f"{section}.{key}" for key in keys)]
    assert module.known_keys() == written
    assert list(module.Params.model_fields) == list(values)


def test_loaded_parameters_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load(COMMITTED).train.epochs = 3


@pytest.mark.parametrize(("written", "lr"), [("1e-4", 1e-4), ("0.001", 1e-3), ("2.5E-3", 2.5e-3), ("1", 1.0)])
def test_a_number_may_be_written_in_any_way(tmp_path: Path, written: str, lr: float) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(COMMITTED.read_text(encoding="utf-8").replace("lr: 0.0002", f"lr: {written}"))
    assert load(file).train.lr == lr


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.threads", "auto"),
        ("train.threads", 1),
        ("model.dropout_blocks", []),
        ("model.dropout_blocks", [6]),
        ("model.architecture", "unet"),
        ("model.architecture", "encoder-decoder"),
        ("model.upsample", "deconv"),
        ("model.upsample", "resize"),
        ("model.conditional", True),
        ("model.conditional", False),
        ("model.discriminator_layers", 0),
        ("model.discriminator_layers", 5),
        ("train.gan_loss", "bce"),
        ("train.gan_loss", "lsgan"),
        ("train.gan_loss", "hinge"),
        ("train.gan_loss", "none"),
        ("train.lambda_l1", 0),
        ("train.on_collapse", "warn"),
        ("train.on_collapse", "stop"),
        ("train.cache", "device"),
        ("train.precision", "bf16"),
        ("train.processes", "auto"),
        ("train.processes", 1),
        ("train.cuda_graph", "off"),
        ("train.deterministic", False),
        ("train.cache", "stream"),
        ("run.loader_workers", 0),
        ("run.loader_workers", 4),
        ("prepare.image_px", 32),
        ("prepare.image_px", 4096),
        ("dataset.sha256", "0" * 64),
        ("prepare.max_bad_share", 0),
        ("prepare.max_bad_share", 1),
        ("registry.min_improvement", 0),
        ("registry.max_ssim_regression", 3),
        ("run.tracking", False),
    ],
)
def test_values_at_the_edge_are_allowed(key: str, value: Any) -> None:
    values = with_value(key, value)
    if value == 32:
        values["model"]["dropout_blocks"] = [4]
    section, name = key.split(".")
    assert validate(values, "params.yaml").model_dump(mode="json")[section][name] == value


@pytest.mark.parametrize(
    ("image_px", "load_px", "levels"),
    [(32, 36, 5), (96, 107, 5), (128, 143, 7), (192, 214, 6), (256, 286, 8), (512, 572, 8), (768, 858, 8)],
)
def test_the_size_decides_the_levels_and_the_size_that_is_cropped_from(
    image_px: int, load_px: int, levels: int
) -> None:
    values = with_value("prepare.image_px", image_px)
    values["model"]["dropout_blocks"] = [1]
    params = validate(values, "params.yaml")
    assert (params.prepare.load_px, params.levels) == (load_px, levels)
    assert unet_levels(image_px) == levels


@pytest.mark.parametrize(
    ("features", "names"),
    [
        ("inception-2015-12-05", ("fid", "kid")),
        ("efficientnet-lite0", ("fd_efficientnet_lite0", "kd_efficientnet_lite0")),
    ],
)
def test_only_distances_on_the_2015_inception_are_called_fid_and_kid(
    features: str, names: tuple[str, str]
) -> None:
    assert module.distance_names(features) == names


def test_every_extractor_has_distances_of_its_own_name() -> None:
    extractors = get_args(module.Features)
    assert len({module.distance_names(features) for features in extractors}) == len(extractors) == 2


# --- one line a mistake ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("train.epoch", "train.epoch: unknown key; did you mean train.epochs?"),
        ("prepare.image_size", "prepare.image_size: unknown key; did you mean prepare.image_px?"),
        ("train.norm", "train.norm: unknown key; did you mean model.norm?"),
        ("model.image_px", "model.image_px: unknown key; did you mean prepare.image_px?"),
        ("lr", "lr: unknown key; did you mean train.lr?"),
        ("trian", "trian: unknown key; did you mean train?"),
        ("export.zzz", "export.zzz: unknown key; known here: opset, max_differing_share"),
        (
            "zzz",
            "zzz: unknown key; known here: dataset, prepare, model, train, evaluate, export, registry, run",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(key: str, said: str) -> None:
    assert line_for(with_value(key, 1)) == said


def test_a_misspelt_key_is_named_before_the_one_that_it_leaves_missing() -> None:
    values = with_value("train.epoch", 14)
    del values["train"]["epochs"]
    assert line_for(values) == "train.epoch: unknown key; did you mean train.epochs?"
    values["export"]["opset"] = "twenty"
    assert line_for(values) == "train.epoch: unknown key; did you mean train.epochs? (and 1 more)"


@pytest.mark.parametrize("key", [7, 2.5, None])
def test_a_key_that_is_no_text_is_refused(key: Any) -> None:
    values = committed()
    values["train"][key] = 3
    assert line_for(values) == f"train.{key}: unknown key; every key is a text"


def test_a_section_that_is_no_text_is_refused() -> None:
    assert line_for({**VALUES, 1: {}}) == "1: unknown key; every key is a text"


@pytest.mark.parametrize("key", module.known_keys())
def test_every_missing_key_is_named(key: str) -> None:
    values = committed()
    section, _, name = key.partition(".")
    if name:
        del values[section][name]
    else:
        del values[section]
    assert line_for(values) == f"{key}: missing; see params.yaml in the repository for its default"


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("train.epochs", "14", "a whole number"),
        ("train.epochs", 14.0, "a whole number"),
        ("train.epochs", True, "a whole number"),
        ("train.epochs", None, "a whole number"),
        ("train.epochs", [14], "a whole number"),
        ("train.epochs", 0, "greater than or equal to 1"),
        ("train.lr", "fast", "a number"),
        ("train.lr", True, "a number"),
        ("train.lr", 0, "greater than 0"),
        ("train.lr", 1.5, "less than or equal to 1"),
        ("train.lr", float("nan"), "a finite number"),
        ("train.lambda_l1", float("inf"), "a finite number"),
        ("train.lambda_l1", -1, "greater than or equal to 0"),
        ("train.beta1", 1.0, "less than 1"),
        ("train.seed", 2**32, "less than 4294967296"),
        ("train.threads", True, "'auto' or a whole number"),
        ("train.threads", "all", "'auto' or a whole number"),
        ("train.threads", 0, "'auto' or greater than or equal to 1"),
        ("train.device", "gpu", "'auto', 'cpu', 'cuda' or 'mps'"),
        ("dataset.combined", "above", "'side-by-side' or 'stacked'"),
        ("dataset.derive", "edge", "'none', 'edges', 'grayscale', 'blur', 'downscale' or 'mask'"),
        ("dataset.direction", "btoa", "'AtoB' or 'BtoA'"),
        ("dataset.name", "", "a text of at least one character"),
        ("dataset.name", "a/b", "a text that matches '^[A-Za-z0-9][A-Za-z0-9._-]*$'"),
        ("dataset.licence", 4, "a text"),
        ("dataset.sha256", "abc", "a text that matches '^([0-9a-f]{64})?$'"),
        ("prepare.resize_input", "lanczos", "'nearest', 'area' or 'bicubic'"),
        ("prepare.image_px", 16, "a whole number from 32 to 4096, or two of them as [height, width]"),
        ("prepare.image_px", [256], "a whole number from 32 to 4096, or two of them as [height, width]"),
        ("prepare.image_px", [64, 16], "a whole number from 32 to 4096, or two of them as [height, width]"),
        ("prepare.percentiles", [1], "a list of two numbers from 0 to 100"),
        ("prepare.percentiles", [1, 101], "a list of two numbers from 0 to 100"),
        ("prepare.alpha", "grey", "'white', 'black' or 'keep'"),
        ("prepare.classes", -1, "greater than or equal to 0"),
        ("prepare.range_input", "auto", "'full' or 'percentiles'"),
        ("prepare.max_pixels", 0, "greater than or equal to 1"),
        ("prepare.max_file_mb", 0, "greater than or equal to 1"),
        ("model.in_channels", 0, "'auto' or greater than or equal to 1"),
        ("prepare.val_share", 1.1, "less than or equal to 1"),
        ("prepare.max_bad_share", -0.1, "greater than or equal to 0"),
        ("model.dropout_blocks", 3, "a list"),
        ("model.dropout_blocks", "123", "a list"),
        ("model.dropout_blocks", [1, True], "a whole number"),
        ("model.dropout_blocks", [0], "greater than or equal to 1"),
        ("model.norm", {"instance": 1}, "'instance' or 'batch'"),
        ("model.norm", "running", "'instance' or 'batch'"),
        ("model.architecture", "resnet", "'unet' or 'encoder-decoder'"),
        ("model.upsample", "bilinear", "'deconv' or 'resize'"),
        ("model.conditional", "yes", "true or false"),
        ("model.conditional", 1, "true or false"),
        ("model.discriminator_layers", -1, "greater than or equal to 0"),
        ("model.discriminator_layers", 6, "less than or equal to 5"),
        ("train.gan_loss", "wgan", "'bce', 'lsgan', 'hinge' or 'none'"),
        ("train.gan_loss", None, "'bce', 'lsgan', 'hinge' or 'none'"),
        ("train.on_collapse", "ignore", "'warn' or 'stop'"),
        ("export.opset", 19, "greater than or equal to 20"),
        ("registry.model_name", "a:b", "a text that matches '^[^\\s/:@]([^/:@]*[^\\s/:@])?$'"),
        ("registry.model_name", "a@b", "a text that matches '^[^\\s/:@]([^/:@]*[^\\s/:@])?$'"),
        ("registry.model_name", " ", "a text that matches '^[^\\s/:@]([^/:@]*[^\\s/:@])?$'"),
        (
            "registry.primary_metric",
            "fid",
            "'kernel_distance', 'frechet_distance', 'l1', 'psnr_db' or 'ssim'",
        ),
        ("registry.min_improvement", -0.1, "greater than or equal to 0"),
        ("registry.min_improvement", 1.1, "less than or equal to 1"),
        ("registry.max_l1_regression", float("nan"), "a finite number"),
        ("run.tracking", "yes", "true or false"),
        ("run.tracking", 1, "true or false"),
        ("train", 3, "a mapping of keys"),
        ("train", None, "a mapping of keys"),
        ("train", [{"epochs": 3}], "a mapping of keys"),
    ],
)
def test_a_wrong_value_is_shown_with_what_is_allowed(key: str, value: Any, allowed: str) -> None:
    assert line_for(with_value(key, value)) == f"{key} = {value!r}: must be {allowed}"


def test_further_mistakes_are_counted() -> None:
    values = with_value("train.epochs", 0)
    values["train"]["lr"] = "fast"
    values["run"]["tracking"] = "yes"
    assert line_for(values) == "train.epochs = 0: must be greater than or equal to 1 (and 2 more)"


@pytest.mark.parametrize("value", ["{line}", "{0}", "{", "%s", "a\nb"])
def test_a_value_cannot_break_its_line(value: str) -> None:
    assert line_for(with_value("run.progress", value)) == (
        f"run.progress = {value!r}: must be 'auto', 'bar' or 'lines'"
    )


@pytest.mark.parametrize(
    ("image_px", "nearest"),
    [(33, "32 or 64"), (40, "32 or 64"), (100, "96 or 128"), (200, "192 or 224"), (4090, "4064 or 4096")],
)
def test_a_size_that_the_network_cannot_take_names_the_nearest_ones(image_px: int, nearest: str) -> None:
    assert line_for(with_value("prepare.image_px", image_px)) == (
        f"prepare.image_px = {image_px}: must be a multiple of 32; nearest: {nearest}"
    )


@pytest.mark.parametrize(
    ("image_px", "blocks", "top"), [(32, [5], 4), (128, [1, 7], 6), (256, [8], 7), (96, [1, 2, 5], 4)]
)
def test_dropout_in_a_block_that_the_size_does_not_have_is_refused(
    image_px: int, blocks: list[int], top: int
) -> None:
    values = with_value("prepare.image_px", image_px)
    values["model"]["dropout_blocks"] = blocks
    assert line_for(values) == (
        f"model.dropout_blocks = {blocks}: a generator for {image_px} px has decoder blocks 1 to {top} "
        "before its last"
    )


@pytest.mark.parametrize("image_px", [32, 64, 96, 128, 256])
@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5])
def test_discriminator_layers_are_refused_exactly_when_no_patch_is_left(image_px: int, layers: int) -> None:
    # Kernels of 4 with a padding of 1: `layers` of them with stride 2, then two with stride 1.
    patches = image_px
    for stride in (*[2] * layers, 1, 1):
        patches = (patches + 2 - 4) // stride + 1
    values = with_value("prepare.image_px", image_px)
    values["model"] |= {"discriminator_layers": layers, "dropout_blocks": []}
    if patches >= 1:
        assert validate(values, "params.yaml").model.discriminator_layers == layers
    else:
        assert line_for(values) == (
            f"model.discriminator_layers = {layers}: leaves no patch at {image_px} px; "
            "use fewer layers or larger images"
        )


@pytest.mark.parametrize("image_px", [32, 96, 256])
def test_the_pixel_discriminator_fits_every_size(image_px: int) -> None:
    values = with_value("prepare.image_px", image_px)
    values["model"] |= {"discriminator_layers": 0, "dropout_blocks": []}
    assert validate(values, "params.yaml").model.discriminator_layers == 0


@pytest.mark.parametrize("lambda_l1", [0, 0.0])
def test_a_training_without_any_loss_is_refused(lambda_l1: float) -> None:
    values = with_value("train.gan_loss", "none")
    values["train"]["lambda_l1"] = lambda_l1
    assert line_for(values) == "train.lambda_l1 = 0.0: with train.gan_loss = none leaves no loss"
    values["train"]["lambda_l1"] = 0.1
    assert validate(values, "params.yaml").train.gan_loss == "none"


@pytest.mark.parametrize(("val_share", "test_share"), [(0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.95, 0.1)])
def test_shares_that_leave_nothing_to_train_on_are_refused(val_share: float, test_share: float) -> None:
    values = with_value("prepare.val_share", val_share)
    values["prepare"]["test_share"] = test_share
    assert line_for(values) == (
        f"prepare.test_share = {test_share}: "
        f"with prepare.val_share = {val_share} nothing is left to train on; lower their sum"
    )


# --- the file itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [None, 3, "text", ["dataset"]], ids=repr)
def test_what_is_not_a_mapping_is_refused(values: Any) -> None:
    assert line_for(values) == "is not a mapping of sections"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a mapping of sections"),
        (b"dataset:\n  name: [a\n", "line 2, column 9: the bracket that opens here is not closed"),
        (b"a: 1\na: 2\n", "line 2, column 1: this key is in its section already"),
        (b"a: 1\n---\nb: 2\n", "line 2, column 1: a second document begins here"),
        (
            b"a: !!python/object:os.system {}\n",
            "line 1, column 4: ! begins a tag, and this is none that is known",
        ),
        (b"name: caf\xe9\n", "line 1, column 10: the byte 0xe9 is no UTF-8"),
        (b"a: \x07\n", "line 1, column 4: the character U+0007"),
    ],
)
def test_a_file_that_is_no_yaml_is_one_line_that_names_the_place(
    tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as refused:
        load(file)
    assert str(refused.value).startswith(f"{file}: {said}")
    assert "\n" not in str(refused.value)


def test_a_missing_file_says_where_to_run_this(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        load(tmp_path / "params.yaml")
    assert str(refused.value) == f"{tmp_path / 'params.yaml'}: not found; run this in the project's folder"


def test_a_folder_in_the_place_of_the_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path)


def test_validation_leaves_the_values_as_they_were() -> None:
    values = committed()
    assert isinstance(validate(values, "params.yaml"), Params)
    assert values == VALUES


@pytest.mark.parametrize(
    ("size", "nearest"),
    [([250, 512], [256, 512]), ([256, 300], [256, 288]), ([48, 80], [64, 96]), ([33, 4000], [32, 4000])],
)
def test_a_rectangle_that_the_network_cannot_take_names_the_nearest_one(
    size: list[int], nearest: list[int]
) -> None:
    assert line_for(with_value("prepare.image_px", size)) == (
        f"prepare.image_px = {size}: must be multiples of 32; nearest: {nearest}"
    )
    validate(with_value("prepare.image_px", nearest), "params.yaml")


RECTANGLES = (([256, 512], 8, (286, 572)), ([96, 512], 5, (107, 572)), ([64, 64], 6, (72, 72)))


def test_a_rectangle_goes_as_deep_as_its_shorter_divisor() -> None:
    for size, levels, stored in RECTANGLES:
        params = validate(with_value("prepare.image_px", size), "params.yaml")
        assert (params.levels, params.prepare.load_px) == (levels, stored)
    values = with_value("prepare.image_px", [32, 512])
    values["model"] |= {"discriminator_layers": 5, "dropout_blocks": [1]}
    assert "leaves no patch at 32×512 px" in line_for(values)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"percentiles": [99, 1]}, "prepare.percentiles = [99.0, 1.0]: the second must be above the first"),
        ({"classes": 1}, "prepare.classes = 1: must be 0 (no label maps) or at least 2"),
        (
            {"alpha": "keep", "derive": "blur"},
            "prepare.alpha = 'keep': must be white or black, since dataset.derive makes the input",
        ),
        (
            {"classes": 9, "derive": "blur", "resize_input": "nearest"},
            "prepare.classes = 9: must be 0, since dataset.derive makes the input",
        ),
        (
            {"classes": 9, "resize_input": "area"},
            "prepare.resize_input = 'area': must be nearest, since prepare.classes is set",
        ),
        (
            {"classes": 9, "resize_input": "nearest", "range_input": "percentiles"},
            "prepare.range_input = 'percentiles': must be full, since prepare.classes is set",
        ),
    ],
)
def test_settings_of_pixels_that_contradict_are_refused(changed: dict[str, Any], said: str) -> None:
    values = with_value("prepare.image_px", 64)
    values["dataset"]["derive"] = changed.pop("derive", "none")
    values["prepare"] |= changed
    assert line_for(values) == said
