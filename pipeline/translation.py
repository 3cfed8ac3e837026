"""`pix2pix translate`: images and folders in, images out at their own size."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from pix2pix import images
from pix2pix.errors import UserError
from pix2pix.files import atomic_file
from pix2pix.images import IMAGE_SUFFIXES, Pixels, UnreadableImage
from pix2pix.params import PARAMS_FILE
from pix2pix.translator import Translator

from . import delivery


def translate(inputs: Sequence[Path], output: Path, model: str) -> int:
    """Translate every image; one that cannot be read is named and does not stop the others.

    Args:
        inputs: images, or folders that are searched to any depth.
        output: a folder, in which the structure of an input folder is kept; or the file for one image.
        model: file.onnx, models:/NAME@ALIAS or models:/NAME/VERSION.

    Returns:
        The number of images written.

    Raises:
        UserError: nothing to do, a result would overwrite an input or another result, or, after all others
            are written, some images could not be read.
    """
    jobs = plan(inputs, output)
    path = delivery.pull(model) if model.startswith("models:/") else Path(model)
    translator = Translator(path)

    def write(pixels: Pixels, target: Path) -> None:
        translated = translator(pixels)
        with atomic_file(target) as partial:
            try:
                images.write_image(partial, translated)
            except ValueError as error:
                # Such as WebP's 16,383 px.
                raise UserError(f"{target}: cannot hold this image ({error}); write a PNG") from None

    return _each(jobs, write)


def draw(
    inputs: Sequence[Path],
    output: Path,
    sampler: Callable[[Pixels, int, int], Pixels],
    samples: int,
    seed: int,
) -> int:
    """Draw several outputs for every image: NAME-1.png and so on, and NAME-samples.png with all of them.

    Args:
        output: a folder, in which the structure of an input folder is kept.
        sampler: takes an image, the number of samples and the seed.

    Returns, raises: as `translate` does.
    """
    if output.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"{output}: names a file, but --samples writes several; give a folder")
    jobs = plan(inputs, output)
    sources = {source.resolve() for source, _ in jobs}
    for _, target in jobs:
        for name in [*_sample_names(target, samples), target.with_name(f"{target.stem}-samples.png")]:
            if name.resolve() in sources:
                raise UserError(f"{name}: is an input; choose another output folder")

    def write(pixels: Pixels, target: Path) -> None:
        drawn = sampler(pixels, samples, seed)
        for name, sample in zip(_sample_names(target, samples), drawn, strict=True):
            images.save_picture(name, sample)
        columns = ["input", *(f"sample {number}" for number in range(1, samples + 1))]
        title = f"{samples} samples, seed {seed}"
        grid = images.labelled_grid(columns, [[pixels, *drawn]], [target.stem], title=title)
        images.save_picture(target.with_name(f"{target.stem}-samples.png"), grid)

    return _each(jobs, write)


def _sample_names(target: Path, samples: int) -> list[Path]:
    return [target.with_name(f"{target.stem}-{number}.png") for number in range(1, samples + 1)]


def _each(jobs: Sequence[tuple[Path, Path]], write: Callable[[Pixels, Path], None]) -> int:
    failed = []
    console = Console(stderr=True)
    for source, target in track(jobs, "translate", console=console, disable=not console.is_terminal):
        try:
            pixels = images.read_rgb(source)
        except UnreadableImage as error:
            failed.append(f"{source} {error}")
            continue
        write(pixels, target)
    if failed:
        raise UserError(
            f"{len(jobs) - len(failed)} of {len(jobs)} images translated; not: {'; '.join(failed[:5])}"
        )
    return len(jobs)


def plan(inputs: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    """Which image goes where: all names are checked before any work."""
    if PARAMS_FILE.exists() and Path() in (output, *inputs):
        # What an empty shell variable becomes: every picture in the project, or its folder full of new ones.
        raise UserError("the project's folder itself is neither input nor output; name a folder in it")
    for path in inputs:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
    for place in output.parents:
        if place.is_file():
            raise UserError(f"{output}: cannot be written, {place} is a file")
    named_as_file = output.suffix.lower() in IMAGE_SUFFIXES and not output.is_dir()
    if named_as_file and len(inputs) == 1 and inputs[0].is_file():
        jobs = [(inputs[0], output)]
    else:
        if output.is_file() or named_as_file:
            raise UserError(f"{output}: names a file, which holds one image; give a folder")
        jobs = [(source, output / name) for path in inputs for source, name in _images(path)]
    if not jobs:
        raise UserError(f"{', '.join(map(str, inputs))}: no images ({' '.join(sorted(IMAGE_SUFFIXES))})")
    sources = {source.resolve() for source, _ in jobs}
    taken: dict[Path, Path] = {}
    for source, target in jobs:
        resolved = target.resolve()
        if resolved in sources:
            raise UserError(f"{target}: is an input; choose another output folder")
        if resolved in taken:
            raise UserError(
                f"{source} and {taken[resolved]} would both become {target}; translate them apart"
            )
        taken[resolved] = source
    return jobs


def _images(path: Path) -> list[tuple[Path, Path]]:
    """Images with the name of their result, which is always a PNG: nothing is lost on the way out."""
    if path.is_file():
        return [(path, Path(f"{path.stem}.png"))]
    found = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
    )
    return [(file, file.relative_to(path).with_suffix(".png")) for file in found]
