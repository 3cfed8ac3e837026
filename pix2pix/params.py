"""params.yaml, typed: one frozen model per section, one line per mistake.

No torch in here: the command line validates the file before anything heavy is loaded.
"""

import difflib
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml.error import YAMLError

from . import yaml_mistakes
from .errors import UserError

PARAMS_FILE = Path("params.yaml")

Direction = Literal["AtoB", "BtoA"]
Combined = Literal["side-by-side", "stacked"]
Derive = Literal["none", "edges", "grayscale", "blur", "downscale", "mask"]
Resize = Literal["nearest", "area", "bicubic"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Features = Literal["efficientnet-lite0", "inception-2015-12-05"]
PrimaryMetric = Literal["kernel_distance", "frechet_distance", "l1", "psnr_db", "ssim"]
Range = Literal["full", "percentiles"]
Alpha = Literal["white", "black", "keep"]
Share = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Channels = Literal["auto"] | Annotated[int, Field(ge=1, le=4096)]
# YAML has lists where Python's frozen models want tuples.
Blocks = Annotated[tuple[Annotated[int, Field(ge=1, le=8)], ...], Strict(False)]

# A square's side, or height and width.
Size = int | tuple[int, int]
Side = Annotated[int, Field(ge=32, le=4096)]

MIN_LEVELS, MAX_LEVELS = 5, 8
EMBEDDED_NAME, EMBEDDED_SOURCE = "embedded", "pix2pix/synthetic.py"


class Section(BaseModel):
    """A section of params.yaml: frozen, strictly typed, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Dataset(Section):
    """Which pairs, from where, and which half is the input."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    source: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^([0-9a-f]{64})?$")
    combined: Combined
    derive: Derive
    direction: Direction
    licence: str


class Prepare(Section):
    """How pairs are split and resized."""

    image_px: Side | Annotated[tuple[Side, Side], Strict(False)]
    resize_input: Resize
    resize_target: Resize
    val_share: Share
    test_share: Share
    max_bad_share: Share
    alpha: Alpha
    classes: int = Field(ge=0, le=4096)
    range_input: Range
    range_target: Range
    percentiles: Annotated[tuple[Percent, Percent], Strict(False)]
    max_pixels: int = Field(ge=1)
    max_file_mb: int = Field(ge=1)

    @property
    def load_px(self) -> Size:
        """The size training pairs are stored at; a random image_px crop of it is what the network sees."""
        height, width = (round(side * 286 / 256) for side in height_width(self.image_px))
        return (height, width) if isinstance(self.image_px, tuple) else height


class Model(Section):
    """The two networks."""

    architecture: Literal["unet", "encoder-decoder"]
    in_channels: Channels
    out_channels: Channels
    generator_channels: int = Field(ge=1, le=512)
    upsample: Literal["deconv", "resize"]
    dropout_blocks: Blocks
    norm: Literal["instance", "batch"]
    discriminator_channels: int = Field(ge=1, le=512)
    discriminator_layers: int = Field(ge=0, le=5)
    conditional: bool

    @property
    def generator_choices(self) -> dict[str, Any]:
        """Arguments of `Generator` that do not follow from the images."""
        return {
            "channels": self.generator_channels,
            "norm": self.norm,
            "dropout_blocks": self.dropout_blocks,
            "architecture": self.architecture,
            "upsample": self.upsample,
        }

    def discriminator_choices(self, in_channels: int, out_channels: int) -> dict[str, Any]:
        """Arguments of `Discriminator` for images of so many channels."""
        return {
            "in_channels": out_channels + (in_channels if self.conditional else 0),
            "channels": self.discriminator_channels,
            "layers": self.discriminator_layers,
            "norm": self.norm,
        }


class Train(Section):
    """The recipe."""

    epochs: int = Field(ge=1)
    decay_share: Share
    batch: int = Field(ge=1, le=1024)
    lr: float = Field(gt=0, le=1)
    beta1: float = Field(ge=0, lt=1)
    gan_loss: Literal["bce", "lsgan", "hinge", "none"]
    lambda_l1: float = Field(ge=0)
    seed: int = Field(ge=0, lt=2**32)
    validate_every: int = Field(ge=1)
    sample_images: int = Field(ge=1, le=64)
    losses_every: int = Field(ge=1)
    keep: Literal["last", "best"]
    on_collapse: Literal["warn", "stop"]
    device: Device
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]
    cache: Literal["auto", "device", "stream"]
    precision: Literal["auto", "fp32", "bf16"]
    cuda_graph: Literal["auto", "off"]
    deterministic: bool
    processes: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]
    warm_start: str = Field(pattern=r"^([0-9a-f]{64})?$")


class Evaluate(Section):
    """What the test split is measured with."""

    features: Features
    features_path: str
    kd_subsets: int = Field(ge=2)
    kd_subset_size: int = Field(ge=2)


# Of fewer test images the kernel distance's own noise is as large as what a generator gains.
FEW_TEST_IMAGES = 20


def distance_names(features: str) -> tuple[str, str]:
    """What the Fréchet and the kernel distance on an extractor's features are called.

    Only those on the 2015-12-05 Inception features are FID and KID.
    """
    if features == "inception-2015-12-05":
        return "fid", "kid"
    key = features.replace("-", "_")
    return f"fd_{key}", f"kd_{key}"


class Export(Section):
    """The ONNX file and how closely it must follow PyTorch."""

    opset: int = Field(ge=20, le=23)
    max_differing_share: Share


class Registry(Section):
    """Where the generator is registered, and what makes a version champion."""

    model_name: str = Field(min_length=1, pattern=r"^[^\s/:@]([^/:@]*[^\s/:@])?$")
    primary_metric: PrimaryMetric
    min_improvement: Share
    max_l1_regression: float = Field(ge=0)
    max_ssim_regression: float = Field(ge=0)


class Run(Section):
    """What cannot change any output; no stage lists this section."""

    progress: Literal["auto", "bar", "lines"]
    log_every_steps: int = Field(ge=1)
    checkpoint_every_epochs: int = Field(ge=1)
    loader_workers: Literal["auto"] | Annotated[int, Field(ge=0, le=256)]
    tracking: bool
    tracked_grids: int = Field(ge=0)


class Params(Section):
    """The whole of params.yaml."""

    dataset: Dataset
    prepare: Prepare
    model: Model
    train: Train
    evaluate: Evaluate
    export: Export
    registry: Registry
    run: Run

    @model_validator(mode="after")
    def _sections_fit(self) -> "Params":
        is_embedded = self.dataset.source == EMBEDDED_SOURCE
        if self.dataset.name == EMBEDDED_NAME and not is_embedded:
            raise _mistake(
                "dataset.name",
                self.dataset.name,
                f"names the embedded set; give {self.dataset.source} a name, licence, direction and "
                "registry.model_name of its own",
            )
        image_px = self.prepare.image_px
        valid = 2**MIN_LEVELS
        if isinstance(image_px, tuple):
            if any(side % valid for side in image_px):
                # Halves go up, so that nothing of the image is lost.
                nearest_sides = [max(1, int(side / valid + 0.5)) * valid for side in image_px]
                raise _mistake(
                    "prepare.image_px",
                    list(image_px),
                    f"must be multiples of {valid}; nearest: {nearest_sides}",
                )
        elif image_px % valid:
            below, above = image_px // valid * valid, -(-image_px // valid) * valid
            nearest = f"{above}" if below == 0 else f"{below} or {above}"
            raise _mistake("prepare.image_px", image_px, f"must be a multiple of {valid}; nearest: {nearest}")
        top = self.levels - 1
        for block in self.model.dropout_blocks:
            if block > top:
                raise _mistake(
                    "model.dropout_blocks",
                    list(self.model.dropout_blocks),
                    f"a generator for {said_size(image_px)} px has decoder blocks 1 to {top} before its last",
                )
        # Each layer of stride 2 halves the map and the two of stride 1 take a pixel each.
        layers = self.model.discriminator_layers
        if layers and min(height_width(image_px)) // 2**layers - 2 < 1:
            raise _mistake(
                "model.discriminator_layers",
                self.model.discriminator_layers,
                f"leaves no patch at {said_size(image_px)} px; use fewer layers or larger images",
            )
        self._prepare_fits()
        if self.train.gan_loss == "none" and self.train.lambda_l1 == 0:
            raise _mistake(
                "train.lambda_l1", self.train.lambda_l1, "with train.gan_loss = none leaves no loss"
            )
        processes = self.train.processes
        if processes != "auto" and self.train.batch % processes:
            allowed = f"train.batch = {self.train.batch} has no {processes} equal shares; make it a multiple"
            raise _mistake("train.processes", processes, allowed)
        val_share, test_share = self.prepare.val_share, self.prepare.test_share
        if val_share + test_share >= 1:
            allowed = f"with prepare.val_share = {val_share} nothing is left to train on; lower their sum"
            raise _mistake("prepare.test_share", test_share, allowed)
        return self

    def _prepare_fits(self) -> None:
        prepare = self.prepare
        low, high = prepare.percentiles
        if low >= high:
            raise _mistake(
                "prepare.percentiles", list(prepare.percentiles), "the second must be above the first"
            )
        if prepare.classes == 1:
            raise _mistake("prepare.classes", 1, "must be 0 (no label maps) or at least 2")
        if prepare.classes and prepare.resize_input != "nearest":
            raise _mistake(
                "prepare.resize_input", prepare.resize_input, "must be nearest, since prepare.classes is set"
            )
        if prepare.alpha == "keep" and self.dataset.derive != "none":
            raise _mistake(
                "prepare.alpha", prepare.alpha, "must be white or black, since dataset.derive makes the input"
            )
        if prepare.classes and self.dataset.derive != "none":
            raise _mistake(
                "prepare.classes", prepare.classes, "must be 0, since dataset.derive makes the input"
            )
        if prepare.classes and prepare.range_input != "full":
            raise _mistake(
                "prepare.range_input", prepare.range_input, "must be full, since prepare.classes is set"
            )

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the generator's input and output; where the data decides, of RGB or the classes."""
        inputs, outputs = self.model.in_channels, self.model.out_channels
        return (
            self.prepare.classes or 3
        ) if inputs == "auto" else inputs, 3 if outputs == "auto" else outputs

    @property
    def levels(self) -> int:
        """Levels of the U-Net: how often image_px can be halved, at most 8 (256 → 1×1)."""
        return unet_levels(self.prepare.image_px)


def unet_levels(image_px: Size) -> int:
    """How often both sides can be halved, at most 8: 256 → 8, 128 → 7, 512 → 8, 96 → 5, [96, 512] → 5."""
    return min(MAX_LEVELS, *((side & -side).bit_length() - 1 for side in height_width(image_px)))


def height_width(image_px: Size) -> tuple[int, int]:
    """Both sides of a size that is one number where they are equal."""
    return image_px if isinstance(image_px, tuple) else (image_px, image_px)


def said_size(image_px: Size) -> str:
    """256, or 256×512: height and width."""
    return str(image_px) if isinstance(image_px, int) else "×".join(map(str, image_px))


def load(path: Path = PARAMS_FILE) -> Params:
    """Read and validate params.yaml.

    Raises:
        UserError: one line that names the file, the key, the value and what is allowed.
    """
    return validate(read_yaml(path), str(path))


def validate(values: Any, origin: str) -> Params:
    """Turn a mapping into Params; `origin` is named in the error."""
    if not isinstance(values, dict):
        raise UserError(f"{origin}: is not a mapping of sections")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{origin}: {_one_line(error.errors(), values)}") from None


def read_yaml(path: Path) -> Any:
    """Parse a YAML 1.2 file, the dialect DVC writes: 1e-4 is a number, yes and no are words."""
    try:
        if (size_bytes := path.stat().st_size) > MAX_YAML_BYTES:
            raise UserError(f"{path}: has {size_bytes:,} bytes; a file of parameters has some thousand")
        text = path.read_bytes().decode("utf-8")
        return yaml_mistakes.parser().load(text)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run this in the project's folder") from None
    except YAMLError as error:
        raise UserError(f"{path}: {yaml_mistakes.in_words(error, text)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {yaml_mistakes.not_utf8(error)}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply to be parameters") from None


def known_keys() -> list[str]:
    """Every dotted key of params.yaml, sections included."""
    keys = []
    for section, field in Params.model_fields.items():
        keys.append(section)
        keys += [f"{section}.{key}" for key in _section_class(field.annotation).model_fields]
    return keys


def _section_class(annotation: Any) -> type[Section]:
    assert isinstance(annotation, type) and issubclass(annotation, Section)
    return annotation


# Of what YAML's aliases and brackets can make, time and memory are bounded by the bytes that ask for it.
MAX_YAML_BYTES = 2**18
# A line for people: a value may be a book, or ten thousand million words behind ten aliases.
MAX_SHOWN = 100
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MAX_SHOWN
_SHORT.maxlevel = 2


def _mistake(key: str, value: Any, allowed: str) -> PydanticCustomError:
    # Braces in a value must not be taken for the template's own.
    return PydanticCustomError("misfit", "{line}", {"line": f"{key} = {_SHORT.repr(value)}: {allowed}"})


def _one_line(errors: list[ErrorDetails], values: Any) -> str:
    # An unknown key is most likely the cause of the missing one beside it.
    first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    # Pydantic adds the name of a union's member to the place of an error; a key never has three parts.
    key = ".".join(str(part)[:MAX_SHOWN] for part in first["loc"][:2])
    value = _at(values, first["loc"][:2])
    if first["type"] == "misfit":
        line = first["msg"]
    elif first["type"] == "extra_forbidden":
        line = f"{key}: unknown key{_suggestion(key)}"
    elif first["type"] == "invalid_key":
        line = f"{key}: unknown key; every key is a text"
    elif first["type"] == "missing" and len(first["loc"]) < 3:
        line = f"{key}: missing; see params.yaml in the repository for its default"
    else:
        allowed = "must be a mapping of keys" if len(first["loc"]) == 1 else _allowed(key, errors)
        line = f"{key} = {_SHORT.repr(value)}: {allowed}"
    # The key that was meant is missing as well; that is the same mistake.
    meant = {error["loc"] for error in errors if f"did you mean {'.'.join(map(str, error['loc']))}?" in line}
    more = len({error["loc"][:2] for error in errors} - meant) - 1
    return line + (f" (and {more} more)" if more else "")


def _at(values: Any, place: tuple[int | str, ...]) -> Any:
    for key in place:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _suggestion(key: str) -> str:
    section, _, name = key.rpartition(".")
    siblings = [known for known in known_keys() if known.rpartition(".")[0] == section]
    # The right name in the wrong section is as common as a typo.
    near = [known for known in known_keys() if known.endswith(f".{name}")]
    if not near:
        names = [known.rpartition(".")[2] for known in siblings]
        near = [siblings[names.index(hit)] for hit in difflib.get_close_matches(name, names, n=1)]
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known here: {', '.join(known.rpartition('.')[2] for known in siblings)}"


def _allowed(key: str, errors: list[ErrorDetails]) -> str:
    if key in _ALLOWED:
        return f"must be {_ALLOWED[key]}"
    parts = [error["msg"] for error in errors if ".".join(map(str, error["loc"][:2])) == key]
    readable = []
    for part in dict.fromkeys(parts):
        text = part.removeprefix("Input should be ")
        for theirs, ours in _WORDS.items():
            text = text.replace(theirs, ours)
        readable.append(text)
    return "must be " + " or ".join(readable)


# What pydantic says of unions and tuples is of its own insides.
_ALLOWED = {
    "prepare.image_px": "a whole number from 32 to 4096, or two of them as [height, width]",
    "prepare.percentiles": "a list of two numbers from 0 to 100",
}
_WORDS = {
    "String should match pattern": "a text that matches",
    "String should have at least 1 character": "a text of at least one character",
    "a valid string": "a text",
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid tuple": "a list",
}
