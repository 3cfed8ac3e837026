"""`pix2pix translate`: images and folders in, images out at their own size."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from pix2pix import images
from pix2pix.decoding import DEFAULT_LIMITS, Limits, Samples, UnreadableImage
from pix2pix.encoding import RGB8, Encoding
from pix2pix.errors import UserError
from pix2pix.files import atomic_file
from pix2pix.images import IMAGE_SUFFIXES
from pix2pix.params import PARAMS_FILE, load
from pix2pix.translator import TooLargeError, Translator

from . import delivery

if TYPE_CHECKING:
    from pix2pix.tiling import TiledTranslator

# Of what could not be read, so many are named.
SHOWN = 5
WRITTEN = " ".join(sorted(IMAGE_SUFFIXES))
# Where one image goes to out.gif or out.xyz, a picture is meant. Digits are no ending of one, and long words
# none either: results.v2, 2026.11 and model.champion are folders.
FILE_ENDING = re.compile(r"\.([a-z]{2,5}|jp2|j2k)", re.IGNORECASE)


def translate(
    inputs: Sequence[Path],
    output: Path,
    model: str,
    tiled: "Callable[[Path], TiledTranslator] | None" = None,
) -> int:
    """Translate every image; one that cannot be read is named and does not stop the others.

    Args:
        inputs: images, or folders that are searched to any depth.
        output: a folder, in which the structure of an input folder is kept; or the file for one image.
        model: file.onnx, models:/NAME@ALIAS or models:/NAME/VERSION.
        tiled: makes the file a translator of images in tiles; None translates each image whole.

    Returns:
        The number of images written.

    Raises:
        UserError: nothing to do, a result would overwrite an input or another result, an image is too large
            for the memory, or, after all others are written, some images could not be read.
    """
    plan(inputs, output)
    path = delivery.pull(model) if model.startswith("models:/") else Path(model)
    progress = _progress()
    run: Callable[[Samples], Samples]
    if tiled:
        in_tiles = tiled(path)
        source, target_encoding, run = in_tiles.input, in_tiles.target, _with_progress(in_tiles, progress)
    else:
        whole = Translator(path)
        source, target_encoding, run = whole.input, whole.target, whole
    suffix = _suffix(target_encoding)
    # Again, with the suffix of what the generator gives.
    jobs = plan(inputs, output, suffix)

    def write(pixels: Samples, target: Path) -> None:
        try:
            translated = run(pixels)
        except TooLargeError as error:
            knob = "a smaller --tile" if tiled else "--tile 1024"
            raise UserError(f"{target}: not made, {error}; try {knob}") from None
        with atomic_file(target) as partial:
            try:
                images.write_image(partial, translated)
            except ValueError as error:
                # Such as WebP's 16,383 px.
                raise UserError(
                    f"{target}: cannot hold this image ({error}); write a {suffix} file"
                ) from None

    return _each(jobs, output, write, source, progress)


def _with_progress(translator: "TiledTranslator", progress: Progress) -> Callable[[Samples], Samples]:
    row = progress.add_task("tiles", total=None, visible=False)

    def run(pixels: Samples) -> Samples:
        progress.reset(row, visible=True)
        return translator(pixels, lambda done, total: progress.update(row, completed=done, total=total))

    return run


def draw(
    inputs: Sequence[Path],
    output: Path,
    sampler: Callable[[Samples, int, int], Samples],
    samples: int,
    seed: int,
    source: Encoding = RGB8,
    target: Encoding = RGB8,
) -> int:
    """Draw several outputs for every image: NAME-1.png and so on, and NAME-samples.png with all of them.

    Args:
        output: a folder, in which the structure of an input folder is kept.
        sampler: takes an image, the number of samples and the seed.
        source, target: the encodings of what it takes and gives.

    Returns, raises: as `translate` does.
    """
    if output.suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"{output}: names a file, but --samples writes several; give a folder")
    jobs = plan(inputs, output, _suffix(target))
    sources = {source.resolve() for source, _ in jobs}
    for _, place in jobs:
        for name in [*_sample_names(place, samples), place.with_name(f"{place.stem}-samples.png")]:
            if name.resolve() in sources:
                raise UserError(f"{name}: is an input; choose another output folder")

    def write(pixels: Samples, place: Path) -> None:
        try:
            drawn = sampler(pixels, samples, seed)
        except TooLargeError as error:
            raise UserError(f"{place}: not made, {error}; samples are drawn of whole images") from None
        for name, sample in zip(_sample_names(place, samples), drawn, strict=True):
            with atomic_file(name) as partial:
                images.write_image(partial, sample)
        columns = [source.heading("input"), *(f"sample {number}" for number in range(1, samples + 1))]
        title = f"{samples} samples, seed {seed}"
        shown = [source.picture(pixels), *target.picture(drawn)]
        grid = images.labelled_grid(columns, [shown], [place.stem], title=title)
        images.save_picture(place.with_name(f"{place.stem}-samples.png"), grid)

    return _each(jobs, output, write, source, _progress())


def _sample_names(target: Path, samples: int) -> list[Path]:
    return [target.with_name(f"{target.stem}-{number}{target.suffix}") for number in range(1, samples + 1)]


def _suffix(target: Encoding) -> str:
    """Results are lossless: PNG, or TIFF where a PNG cannot hold them."""
    return images.lossless_suffix(target.channels, target.dtype)


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, disable=not console.is_terminal)


def _limits() -> Limits:
    """The project's, where there is one."""
    if not PARAMS_FILE.exists():
        return DEFAULT_LIMITS
    prepare = load(PARAMS_FILE).prepare
    return Limits(prepare.max_pixels, prepare.max_file_mb)


def _each(
    jobs: Sequence[tuple[Path, Path]],
    output: Path,
    write: Callable[[Samples, Path], None],
    encoding: Encoding,
    progress: Progress,
) -> int:
    failed, limits = [], _limits()
    with progress:
        for source, target in progress.track(jobs, description="translate"):
            try:
                pixels = encoding.read(source, limits)
            except UnreadableImage as error:
                failed.append(f"{source} {error}")
                continue
            write(pixels, target)
    if failed:
        more = f"; and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        raise UserError(f"{_outcome(len(jobs), len(failed), output)}: {'; '.join(failed[:SHOWN])}{more}")
    return len(jobs)


def _outcome(images: int, failed: int, output: Path) -> str:
    if images == 1:
        return "not translated"
    if failed == images:
        return f"none of {images} images translated"
    return f"{images - failed} of {images} images translated to {output}, {failed} failed"


def plan(inputs: Sequence[Path], output: Path, suffix: str = ".png") -> list[tuple[Path, Path]]:
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
    jobs = _named(inputs, output, suffix)
    if not jobs:
        raise UserError(f"{', '.join(map(str, inputs))}: no images ({WRITTEN})")
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


def _named(inputs: Sequence[Path], output: Path, suffix: str) -> list[tuple[Path, Path]]:
    """The file for one image, or files in a folder."""
    is_one = len(inputs) == 1 and inputs[0].is_file()
    if is_one and not output.exists() and _is_unknown(output.suffix):
        raise UserError(
            f"{output}: {output.suffix} is no format that can be written ({WRITTEN}); "
            "for a folder give a name without an ending"
        )
    named_as_file = output.suffix.lower() in IMAGE_SUFFIXES and not output.is_dir()
    if named_as_file and is_one:
        return [(inputs[0], output)]
    if output.is_file() or named_as_file:
        raise UserError(f"{output}: names a file, which holds one image; give a folder")
    return [(source, output / name) for path in inputs for source, name in _images(path, suffix)]


def _is_unknown(suffix: str) -> bool:
    return bool(FILE_ENDING.fullmatch(suffix)) and suffix.lower() not in IMAGE_SUFFIXES


def _images(path: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Images with the name of their result, which is always lossless: nothing is lost on the way out."""
    if path.is_file():
        return [(path, Path(f"{path.stem}{suffix}"))]
    found = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
    )
    return [(file, file.relative_to(path).with_suffix(suffix)) for file in found]
