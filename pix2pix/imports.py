"""The reference implementation's generator files, in and out of this project's own."""

from pathlib import Path

from . import checkpoint, reference
from .checkpoint import GeneratorConfig
from .encoding import GREY, RGB, Encoding
from .errors import UserError
from .events import LOSS_COLUMNS, VALIDATION_COLUMNS
from .files import atomic_folder, sha256_file, write_text
from .params import Params, height_width, said_size

GENERATOR = Path("models/generator.safetensors")
REPORTS = Path("reports")
# The reference's options build unet_128 and unet_256.
NAMED_LEVELS = (7, 8)


def import_generator(file: Path, statistics: str, params: Params) -> str:
    """Write models/generator.safetensors from a latest_net_G.pth, and curves without a point.

    What it was trained on is not in the file: dataset and direction are those of params.yaml.

    Returns:
        What was made, and what to type next.

    Raises:
        UserError: the file is not the reference's U-Net, or takes other sizes than params.yaml prepares.
    """
    state = reference.read_state(file)
    try:
        generator, shape = reference.load_generator(state, statistics)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    if not {shape["in_channels"], shape["out_channels"]} <= {GREY, RGB}:
        raise UserError(
            f"{file}: translates {shape['in_channels']} channels into {shape['out_channels']}; "
            "only 8-bit grey and RGB are imported, since the file does not say what others mean"
        )
    image_px, multiple = params.prepare.image_px, generator.multiple
    if any(side % multiple for side in height_width(image_px)):
        nearest = [max(1, round(side / multiple)) * multiple for side in height_width(image_px)]
        raise UserError(
            f"params.yaml: prepare.image_px = {said_size(image_px)}: {file} takes multiples of {multiple}; "
            f"set it to {nearest if isinstance(image_px, tuple) else nearest[0]}"
        )
    config = GeneratorConfig(
        **shape,
        input=Encoding(shape["in_channels"]),
        target=Encoding(shape["out_channels"]),
        image_px=image_px,
        dataset=params.dataset.name,
        direction=params.dataset.direction,
        # Unknown, and said to be: the file that it came from is what there is to name.
        params_sha256="",
        data_sha256="",
        code_sha256="",
        imported_sha256=sha256_file(file),
    )
    checkpoint.save_generator(GENERATOR, generator.state_dict(), config)
    # The curves of an earlier training are not those of this generator.
    write_text(REPORTS / "losses.csv", ",".join(LOSS_COLUMNS) + "\n")
    write_text(REPORTS / "validation.csv", ",".join(VALIDATION_COLUMNS) + "\n")
    with atomic_folder(REPORTS / "samples"):
        pass
    return (
        f"{GENERATOR}: a U-Net of {shape['levels']} levels, {shape['channels']} channels, "
        f"{shape['in_channels']} → {shape['out_channels']}, {statistics} statistics\n"
        "next: dvc repro prepare && dvc repro --single-item evaluate export register\n"
        "(a plain `dvc repro` puts the generator of params.yaml back)"
    )


def export_generator(file: Path, output: Path) -> str:
    """Write a generator as a latest_net_G.pth that the reference loads.

    Raises:
        UserError: the file is not ours, or the reference has no such network.
    """
    generator, config = checkpoint.load_generator(file)
    reference.write_state(output, reference.generator_state(generator))
    norm = "instance" if config.down_bias else "batch"
    sides = {"input_nc": config.in_channels, "output_nc": config.out_channels}
    # The reference's default.
    other = {name: channels for name, channels in sides.items() if channels != RGB}
    if config.levels not in NAMED_LEVELS:
        channels = "".join(f"{name}={channels}, " for name, channels in other.items())
        levels = (
            f"UnetGenerator of {channels}num_downs={config.levels}, ngf={config.channels} and {norm} norm"
        )
        return f"{output}: for the reference's {levels}, which its options do not name"
    options = f"--netG unet_{generator.multiple} --ngf {config.channels} --norm {norm}"
    options += "".join(f" --{name} {channels}" for name, channels in other.items())
    if config.norm == "running":
        options += " --eval"
    return f"{output}: for the reference's test.py with {options} --no_dropout"
