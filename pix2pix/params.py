"""params.yaml, typed: one frozen model per section, one line per mistake.

No torch in here: the command line validates the file before anything heavy is loaded.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from .errors import UserError

PARAMS_FILE = Path("params.yaml")

Direction = Literal["AtoB", "BtoA"]
Resize = Literal["nearest", "area", "bicubic"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Features = Literal["efficientnet-lite0", "inception-2015-12-05"]
PrimaryMetric = Literal["kernel_distance", "frechet_distance", "l1", "psnr_db", "ssim"]
Share = Annotated[float, Field(ge=0, le=1)]
# YAML has lists where Python's frozen models want tuples.
Blocks = Annotated[tuple[Annotated[int, Field(ge=1, le=8)], ...], Strict(False)]

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
    direction: Direction
    licence: str


class Prepare(Section):
    """How pairs are split and resized."""

    image_px: int = Field(ge=32, le=4096)
    resize_input: Resize
    resize_target: Resize
    val_share: Share
    test_share: Share
    max_bad_share: Share

    @property
    def load_px(self) -> int:
        """The side training pairs are stored at; a random image_px crop of it is what the network sees."""
        return round(self.image_px * 286 / 256)


class Model(Section):
    """The two networks."""

    architecture: Literal["unet", "encoder-decoder"]
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
    warm_start: str = Field(pattern=r"^([0-9a-f]{64})?$")


class Evaluate(Section):
    """What the test split is measured with."""

    features: Features
    features_path: str
    kd_subsets: int = Field(ge=2)
    kd_subset_size: int = Field(ge=2)


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
        if image_px % valid:
            below, above = image_px // valid * valid, -(-image_px // valid) * valid
            nearest = f"{above}" if below == 0 else f"{below} or {above}"
            raise _mistake("prepare.image_px", image_px, f"must be a multiple of {valid}; nearest: {nearest}")
        top = self.levels - 1
        for block in self.model.dropout_blocks:
            if block > top:
                raise _mistake(
                    "model.dropout_blocks",
                    list(self.model.dropout_blocks),
                    f"a generator for {image_px} px has decoder blocks 1 to {top} before its last",
                )
        # Each layer of stride 2 halves the map and the two of stride 1 take a pixel each.
        layers = self.model.discriminator_layers
        if layers and image_px // 2**layers - 2 < 1:
            raise _mistake(
                "model.discriminator_layers",
                self.model.discriminator_layers,
                f"leaves no patch at {image_px} px; use fewer layers or larger images",
            )
        if self.train.gan_loss == "none" and self.train.lambda_l1 == 0:
            raise _mistake(
                "train.lambda_l1", self.train.lambda_l1, "with train.gan_loss = none leaves no loss"
            )
        val_share, test_share = self.prepare.val_share, self.prepare.test_share
        if val_share + test_share >= 1:
            allowed = f"with prepare.val_share = {val_share} nothing is left to train on; lower their sum"
            raise _mistake("prepare.test_share", test_share, allowed)
        return self

    @property
    def levels(self) -> int:
        """Levels of the U-Net: how often image_px can be halved, at most 8 (256 → 1×1)."""
        return unet_levels(self.prepare.image_px)


def unet_levels(image_px: int) -> int:
    """How often `image_px` can be halved, at most 8: 256 → 8, 128 → 7, 512 → 8, 96 → 5."""
    halvings = (image_px & -image_px).bit_length() - 1
    return min(halvings, MAX_LEVELS)


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
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run this in the project's folder") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}: line {line}: {error.problem or 'is not YAML'}") from None
    except (OSError, ValueError, YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


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


def _mistake(key: str, value: Any, allowed: str) -> PydanticCustomError:
    # Braces in a value must not be taken for the template's own.
    return PydanticCustomError("misfit", "{line}", {"line": f"{key} = {value!r}: {allowed}"})


def _one_line(errors: list[ErrorDetails], values: Any) -> str:
    # An unknown key is most likely the cause of the missing one beside it.
    first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    # Pydantic adds the name of a union's member to the place of an error; a key never has three parts.
    key = ".".join(str(part) for part in first["loc"][:2])
    value = _at(values, first["loc"][:2])
    if first["type"] == "misfit":
        line = first["msg"]
    elif first["type"] == "extra_forbidden":
        line = f"{key}: unknown key{_suggestion(key)}"
    elif first["type"] == "invalid_key":
        line = f"{key}: unknown key; every key is a text"
    elif first["type"] == "missing":
        line = f"{key}: missing; see params.yaml in the repository for its default"
    else:
        allowed = "must be a mapping of keys" if len(first["loc"]) == 1 else _allowed(key, errors)
        line = f"{key} = {value!r}: {allowed}"
    more = len({error["loc"][:2] for error in errors}) - 1
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
    parts = [error["msg"] for error in errors if ".".join(map(str, error["loc"][:2])) == key]
    readable = []
    for part in dict.fromkeys(parts):
        text = part.removeprefix("Input should be ")
        for theirs, ours in _WORDS.items():
            text = text.replace(theirs, ours)
        readable.append(text)
    return "must be " + " or ".join(readable)


_WORDS = {
    "String should match pattern": "a text that matches",
    "String should have at least 1 character": "a text of at least one character",
    "a valid string": "a text",
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid tuple": "a list",
}
