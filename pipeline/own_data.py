"""`pix2pix init-dataset`: a look at somebody's pairs, and the preset that trains on them."""

import errno
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, cast, get_args

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from pix2pix import archives, images, manifest, pairs
from pix2pix.decoding import Limits
from pix2pix.errors import UserError
from pix2pix.files import write_text
from pix2pix.images import Pixels
from pix2pix.layouts import unwrapped
from pix2pix.pairs import SPLITS
from pix2pix.params import (
    FEW_TEST_IMAGES,
    PARAMS_FILE,
    Combined,
    Derive,
    Direction,
    Params,
    load,
    read_yaml,
    unet_levels,
    validate,
)
from pix2pix.survey import Side, Survey, survey

from .presets import PRESETS, names

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
IMAGE_PX_STEP = 32
# Of which the longer side of a rectangle is a multiple, the first that keeps its shape.
RECTANGLE_STEPS = (128, 64, IMAGE_PX_STEP)
# Rectangles nearer to a square than this lose little as one.
FLATTENED = 1.25
DISTANCES = ("kernel_distance", "frechet_distance")
# For few test images: a mean over them. Trainings of facades-small that differ in seed and machine have been
# up to 2.5 % apart in L1 (docs/experiments.md); this is twice that.
JUDGED_BY_IMAGE = {"primary_metric": "l1", "min_improvement": 0.05}
# What the preset has of its recipe, and changes or says.
OF_A_RECIPE = {
    "dataset": ("name",),
    "prepare": ("image_px", "val_share", "test_share", "max_bad_share"),
    "registry": ("primary_metric", "min_improvement"),
}
WRITTEN_HERE = "# Own data:"


@dataclass(frozen=True)
class Written:
    """What init-dataset leaves, and what it has to say."""

    preset: Path
    picture: Path
    lines: tuple[str, ...]


def init_dataset(
    source: str,
    *,
    name: str = "mine",
    derive: str = "none",
    combined: str = "",
    like: str = "facades-small",
    force: bool = False,
) -> Written:
    """Look at a folder or archive and write presets/NAME.yaml, with NAME.png beside it.

    Args:
        derive: what input is made from each photo, where there are only photos.
        combined: how combined images lie; empty finds out.
        like: the preset whose recipe is taken over.
        force: replaces a preset of this name.

    Raises:
        UserError: the source is not there or holds no pairs, a value is none of the known ones, or there is
            such a preset; nothing is written then.
    """
    prepare = load(PARAMS_FILE).prepare
    preset = PRESETS / f"{name}.yaml"
    _check_options(name, derive, combined, like)
    path = Path(os.path.abspath(os.path.expanduser(source)))  # noqa: PTH100, PTH111
    if not path.exists():
        raise UserError(f"{path}: is not there; give the path of a folder of images or of an archive")
    _check_preset(preset, force)
    recipe = _recipe(PRESETS / f"{like}.yaml")
    image_px = _check(recipe, PRESETS / f"{like}.yaml").prepare.image_px
    with _opened(path) as folder:
        try:
            seen = survey(
                folder,
                cast(Derive, derive),
                cast(Combined, combined) if combined else None,
                Limits(prepare.max_pixels, prepare.max_file_mb),
                image_px,
            )
        except UserError as error:
            # The folder that an archive was unpacked to is gone when this is read.
            raise UserError(str(error).replace(str(folder), str(path))) from None
    values = _values(seen, recipe, path, name, derive)
    _check(values, preset)
    picture = preset.with_suffix(".png")
    images.save_picture(picture, _picture(seen, values["dataset"]))
    write_text(
        preset, _yaml(values, f"{WRITTEN_HERE} {path}. Written by pix2pix init-dataset, recipe of {like}.\n")
    )
    return Written(preset, picture, tuple(_lines(seen, values, path, preset, picture, like)))


def _check_preset(preset: Path, force: bool) -> None:
    if not preset.exists():
        return
    if not preset.read_text(encoding="utf-8").startswith(WRITTEN_HERE):
        raise UserError(
            f"{preset}: is a recipe that init-dataset has not written; --name gives yours another name"
        )
    if not force:
        raise UserError(
            f"{preset}: is there already; --force replaces it, --name gives the new one another name"
        )


def _check_options(name: str, derive: str, combined: str, like: str) -> None:
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name}: must be letters, digits, dots, dashes and underscores")
    for option, value, known in (
        ("--derive", derive, get_args(Derive)),
        ("--combined", combined or "side-by-side", get_args(Combined)),
        ("--like", like, names()),
    ):
        if value not in known:
            raise UserError(f"{option} {value}: must be one of {', '.join(known)}")


@contextmanager
def _opened(path: Path) -> Iterator[Path]:
    """The folder itself, or one that the archive is unpacked to for as long as it is looked at."""
    if path.name in manifest.NAMES or path.suffix.lower() in images.IMAGE_SUFFIXES:
        raise UserError(f"{path}: is one file of a data set; give the folder that it lies in")
    if path.is_dir():
        try:
            yield path
        except PermissionError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None
    else:
        with tempfile.TemporaryDirectory(prefix="pix2pix-") as temporary:
            with _room_named(path):
                archives.extract(path, Path(temporary))
            yield unwrapped(Path(temporary))


@contextmanager
def _room_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{tempfile.gettempdir()}: {error.strerror}; set TMPDIR to a folder with room for all that is in "
            f"{archive}"
        ) from None


# --- the preset ----------------------------------------------------------------------------------------


def _recipe(file: Path) -> dict[str, dict[str, Any]]:
    """A preset that says all that the one made of it needs."""
    recipe = read_yaml(file)
    if not isinstance(recipe, dict) or not all(isinstance(keys, dict) for keys in recipe.values()):
        raise UserError(f"{file}: is not a mapping of sections")
    for section, keys in OF_A_RECIPE.items():
        for key in keys:
            if key not in recipe.get(section, {}):
                raise UserError(
                    f"{file}: has no {section}.{key}; --like takes a whole recipe, such as facades-small"
                )
    return recipe


def _values(
    seen: Survey, recipe: dict[str, dict[str, Any]], path: Path, name: str, derive: str
) -> dict[str, Any]:
    a, b = seen.sides
    # Names like input/ and target/ say it. Else a label map, which one can draw, is the input, unless both or
    # neither are.
    turned = b.is_drawn and not a.is_drawn and derive == "none" and not seen.found.names_input
    direction: Direction = "BtoA" if turned else "AtoB"
    source, target = (a, b) if direction == "AtoB" else (b, a)
    values: dict[str, Any] = {section: dict(keys) for section, keys in recipe.items()}
    values["dataset"] |= {
        "name": name,
        "source": str(path),
        "sha256": "",
        "combined": seen.combined,
        "derive": derive,
        "direction": direction,
        "licence": "not said yet; it goes into the model card",
    }
    fits = max(IMAGE_PX_STEP, seen.smaller_px // IMAGE_PX_STEP * IMAGE_PX_STEP)
    recipe_px = values["prepare"]["image_px"]
    values["prepare"] |= {
        # A rectangle is somebody's decision.
        "image_px": min(recipe_px, fits) if isinstance(recipe_px, int) else recipe_px,
        "resize_input": "nearest" if source.is_drawn else "area",
        "resize_target": "nearest" if target.is_drawn else "area",
        "range_input": "percentiles" if source.own_range else "full",
        # Indices as levels would be black.
        "range_target": "percentiles" if target.own_range or target.indices.classes else "full",
        "classes": source.indices.all_classes,
    }
    if None in seen.splits:
        values["prepare"] |= _shares(
            seen, **{key: values["prepare"][key] for key in ("val_share", "test_share")}
        )
    values["registry"] |= {"model_name": f"pix2pix-{name}"}
    if values["registry"]["primary_metric"] in DISTANCES and _few_tests(seen, values):
        values["registry"] |= JUDGED_BY_IMAGE
    return values


def _few_tests(seen: Survey, values: dict[str, Any]) -> int:
    """The pairs of a test split too small for distances; 0 for others, and where `prepare` will refuse."""
    if None not in seen.splits and "train" not in seen.splits:
        return 0
    shares = (values["prepare"][key] for key in ("val_share", "test_share"))
    tests = len(pairs.assign_splits(seen.found.pairs, *shares)[0]["test"])
    return tests if tests < FEW_TEST_IMAGES else 0


def _picture(seen: Survey, dataset: dict[str, Any]) -> Pixels:
    """What goes in on the left, and what shall come out of it."""
    if dataset["derive"] != "none":
        return seen.picture((f"input ({dataset['derive']})", "target (photo)"), turned=False)
    turned = dataset["direction"] == "BtoA"
    return seen.picture(("input (B)", "target (A)") if turned else ("input (A)", "target (B)"), turned)


def _shares(seen: Survey, val_share: float, test_share: float) -> dict[str, float]:
    """The recipe's shares, or as many times those as the names of few pairs need to fill each split."""
    for times in range(1, 5):
        shares = {"val_share": round(times * val_share, 4), "test_share": round(times * test_share, 4)}
        if sum(shares.values()) >= 1:
            break
        splits, rule = pairs.assign_splits(seen.found.pairs, **shares)
        try:
            pairs.check_not_empty({split: len(splits[split]) for split in SPLITS}, rule)
        except UserError:
            continue
        return shares
    return {"val_share": val_share, "test_share": test_share}


def _check(values: dict[str, Any], preset: Path) -> Params:
    whole = {section: dict(keys) for section, keys in read_yaml(PARAMS_FILE).items()}
    for section, keys in values.items():
        whole[section] = whole.get(section, {}) | keys
    return validate(whole, str(preset))


def _yaml(values: dict[str, Any], comment: str) -> str:
    yaml = YAML()
    yaml.width = sys.maxsize
    for section in values.values():
        for key, value in section.items():
            if isinstance(value, list):
                # On one line, as in the other presets.
                section[key] = CommentedSeq(value)
                section[key].fa.set_flow_style()
    text = StringIO()
    yaml.dump(values, text)
    return comment + text.getvalue()


# --- words ---------------------------------------------------------------------------------------------


def _lines(
    seen: Survey, values: dict[str, Any], path: Path, preset: Path, picture: Path, like: str
) -> Iterator[str]:
    dataset, prepare = values["dataset"], values["prepare"]
    layout = seen.found.layout
    if "combined" in layout and seen.combined == "stacked":
        layout += ", A above B"
    elif "combined" in layout:
        layout += ", A left, B right"
    count = len(seen.found.pairs)
    ending = "" if count == 1 else "s"
    yield f"{path}: {count:,} " + (f"photo{ending}" if layout == "photos" else f"pair{ending}, {layout}")
    if None in seen.splits:
        shares = f"{prepare['val_share']:.0%} val and {prepare['test_share']:.0%} test"
        yield f"  splits  none of its own; names decide: {shares}{_judged(seen, values)}"
    else:
        own = ", ".join(f"{seen.splits[split]:,} {split}" for split in SPLITS if split in seen.splits)
        yield f"  splits  its own: {own}{_judged(seen, values)}"
    if dataset["derive"] == "none":
        for letter, side in zip("AB", seen.sides, strict=True):
            yield f"  side {letter}  {_side(side, seen.heads)}"
    else:
        yield f"  photos  {_side(seen.sides[1], seen.heads)}"
    unusable = {reject.file: reject.reason for reject in seen.found.rejects} | seen.unreadable
    if unusable:
        file, reason = next(iter(unusable.items()))
        such_as = f"{len(unusable)}, such as " if len(unusable) > 1 else ""
        yield f"  not usable: {such_as}{file}: {reason}"
        if len(unusable) > (most := prepare["max_bad_share"]) * (count + len(seen.found.rejects)):
            yield f"    more than prepare.max_bad_share = {most:.0%}: mend or remove them, or raise it"
    yield f"picture   {picture}"
    if dataset["derive"] == "none":
        letter = "A" if dataset["direction"] == "AtoB" else "B"
        how = f"{letter} is the input ({dataset['direction']}{_why(seen)})"
    else:
        how = f"the input is made from the photo ({dataset['derive']})"
    yield f"preset    {preset}: {how}; {prepare['image_px']} px, the recipe of {like}"
    px = prepare["image_px"]
    if isinstance(px, int) and not 1 / FLATTENED < seen.aspect < FLATTENED:
        yield f"          {_rectangle(px, seen.aspect)}"
    yield from _indices(seen, values)


def _judged(seen: Survey, values: dict[str, Any]) -> str:
    """What the gate goes by instead, where the distances say nothing."""
    if not values["registry"].items() >= JUDGED_BY_IMAGE.items() or not (tests := _few_tests(seen, values)):
        return ""
    said = " and ".join(f"registry.{key}: {value}" for key, value in JUDGED_BY_IMAGE.items())
    return (
        f"; the distances of {tests} test pair{'s' if tests > 1 else ''} are chance, so the preset has {said}"
    )


def _rectangle(px: int, aspect: float) -> str:
    ratio = max(aspect, 1 / aspect)
    # Sides that can be halved often keep the network deep; a seventh of its length is as far as that may bend
    # the shape.
    longs = [max(1, round(px * ratio / step)) * step for step in RECTANGLE_STEPS if px % step == 0]
    long = next((side for side in longs if abs(side / (px * ratio) - 1) <= 1 / 7), longs[-1])
    height, width = (px, long) if aspect > 1 else (long, px)
    now, then = unet_levels(px), unet_levels((height, width))
    levels = f"the same {now} levels" if now == then else f"{then} levels instead of {now}"
    shape = "wide as high" if aspect > 1 else "high as wide"
    return (
        f"squares, although the images are {ratio:.2g} times as {shape}; "
        f"prepare.image_px: [{height}, {width}] (height, width) keeps their shape, in a network of {levels}"
    )


def _indices(seen: Survey, values: dict[str, Any]) -> Iterator[str]:
    """What becomes of class indices."""
    a, b = seen.sides
    source, target = (a, b) if values["dataset"]["direction"] == "AtoB" else (b, a)
    if target.indices.classes:
        yield (
            "          the target's class indices are learned as levels, spread by prepare.range_target: "
            "percentiles; prepare.classes is for the input"
        )
    if target.indices.has_void:
        yield f"          255 leaves the target's others dark; {target.indices.classes} would not"
    if source.indices.has_void:
        yield (
            f"          255 makes the input 256 classes; {source.indices.classes} in its place would make "
            f"{source.indices.classes + 1}"
        )


def _why(seen: Survey) -> str:
    if seen.found.names_input:
        return ", as its names say"
    a, b = seen.sides
    return "" if a.is_drawn != b.is_drawn else ", a guess: turn dataset.direction around where it is wrong"


def _side(side: Side, heads: int) -> str:
    words = [_counted(side.sizes), _counted(side.kinds)]
    if side.indices.classes:
        void = " and 255" if side.indices.has_void else ""
        words.append(f"looks like class indices, 0 to {side.indices.classes - 1}{void} in a sample")
    elif side.is_drawn:
        words.append("looks like a label map or drawing")
    if side.own_range:
        least, most = side.own_range
        words.append(f"{least:.5g} to {most:.5g} in a sample, so its range is measured")
    if sum(side.sizes.values()) < heads:
        words.append("the rest cannot be read")
    return "; ".join(words)


def _counted(counts: Counter[str]) -> str:
    """The commonest values; with how many have them where there are several."""
    if len(counts) == 1:
        return next(iter(counts))
    shown = [f"{value} ({count})" for value, count in counts.most_common(3)]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
