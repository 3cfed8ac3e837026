"""`pix2pix init-dataset`: what it says of somebody's data is so, and its preset is laid and valid."""

import errno
import shutil
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image

from pipeline import own_data, presets
from pix2pix import images, pairs, params, survey, synthetic
from pix2pix.errors import UserError
from pix2pix.images import Pixels
from pix2pix.layouts import find_pairs
from pix2pix.pair_grid import pair_grid
from pix2pix.params import read_yaml

PROJECT = Path(__file__).parents[1]
DATASETS = SHARED / "datasets"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the committed params.yaml and presets."""
    folder = tmp_path / "project"
    shutil.copytree(PROJECT / "presets", folder / "presets")
    shutil.copyfile(PROJECT / "params.yaml", folder / "params.yaml")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "somebody's data ü"


def drawn_pairs(count: int = 8, px: int = 64) -> list[tuple[Pixels, Pixels]]:
    """Photos and label maps."""
    return [synthetic.draw_pair(seed=1, index=index, image_px=px) for index in range(count)]


def save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def written(name: str = "mine") -> Any:
    return read_yaml(Path(f"presets/{name}.yaml"))


def refusal(source: Path | str, **options: Any) -> str:
    before = sorted(Path("presets").iterdir())
    with pytest.raises(UserError) as refused:
        own_data.init_dataset(str(source), **options)
    assert sorted(Path("presets").iterdir()) == before
    return str(refused.value)


# --- what is found -----------------------------------------------------------------------------------


def test_two_folders_with_a_label_map_are_said_drawn_and_made_a_preset(data: Path) -> None:
    for index, (photo, labels) in enumerate(drawn_pairs()):
        save(data / "photos of mine" / "A" / f"{index}.jpg", photo)
        save(data / "photos of mine" / "B" / f"{index}.png", labels)
    save(data / "photos of mine" / "A" / "lonely.jpg", photo)
    done = own_data.init_dataset(str(data))
    assert done.lines == (
        f"{data}: 8 pairs, folders A/ and B/",
        "  splits  none of its own; names decide: 10% val and 10% test",
        "  side A  64×64; JPEG, RGB, 8 bits",
        "  side B  64×64; PNG, RGB, 8 bits; looks like a label map or drawing",
        "  not usable: photos of mine/A/lonely.jpg: has no partner of the same name in B/",
        "    more than prepare.max_bad_share = 2%: mend or remove them, or raise it",
        "picture   presets/mine.png",
        "preset    presets/mine.yaml: B is the input (BtoA); 64 px, the recipe of facades-small",
    )
    assert written()["dataset"] == {
        "name": "mine",
        "source": str(data),
        "sha256": "",
        "combined": "side-by-side",
        "derive": "none",
        "direction": "BtoA",
        "licence": "not said yet; it goes into the model card",
    }
    prepare = written()["prepare"]
    assert (prepare["image_px"], prepare["resize_input"], prepare["resize_target"]) == (64, "nearest", "area")
    picture = images.read_rgb(done.picture)
    for side in drawn_pairs()[0]:
        shown = images.resize(side, survey.CELL_PX, survey.CELL_PX, "area")
        assert any(
            np.abs(picture[y : y + 192, x : x + 192].astype(int) - shown).mean() < 12  # it came as JPEG
            for y in range(22, 30)
            for x in range(picture.shape[1] - 191)
            if picture[y : y + 192, x : x + 192].shape == shown.shape
        )


@pytest.mark.parametrize(
    ("pairs_in", "like", "tests"),
    [
        ({"": 30}, "facades-small", "2 test pairs"),
        ({"train/": 8, "test/": 1}, "facades", "1 test pair"),
        ({"train/": 8, "val/": 3}, "facades-small", "3 test pairs"),
        ({"train/": 8, "test/": 19}, "facades-small", "19 test pairs"),
        ({"train/": 8, "test/": 20}, "facades-small", None),
        ({"test/": 3}, "facades-small", None),
        ({"train/": 8, "test/": 3}, "judged-by-ssim", None),
    ],
    ids=str,
)
def test_few_test_pairs_are_judged_image_by_image(
    data: Path, pairs_in: dict[str, int], like: str, tests: str | None
) -> None:
    recipe = Path("presets/facades-small.yaml").read_text(encoding="utf-8")
    Path("presets/judged-by-ssim.yaml").write_text(recipe.replace(": kernel_distance", ": ssim"))
    for folder, count in pairs_in.items():
        for index, sides in enumerate(drawn_pairs(count, 32)):
            save(data / folder / f"{index}.png", np.hstack(sides))
    lines = own_data.init_dataset(str(data), like=like).lines
    judged = written()["registry"]["primary_metric"], written()["registry"]["min_improvement"]
    if tests:
        assert judged == ("l1", 0.05)
        assert lines[1].endswith(
            f"; the distances of {tests} are chance, so the preset has "
            "registry.primary_metric: l1 and registry.min_improvement: 0.05"
        )
    else:
        kept = read_yaml(Path(f"presets/{like}.yaml"))["registry"]
        assert judged == (kept["primary_metric"], kept["min_improvement"])
        assert not any("chance" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "labels_in", "headings", "left"),
    [
        ({}, "B", ("input (B)", "target (A)"), "B"),
        ({}, "A", ("input (A)", "target (B)"), "A"),
        ({"derive": "grayscale"}, "A", ("input (grayscale)", "target (photo)"), "A"),
    ],
    ids=["B is the input", "A is the input", "derived"],
)
def test_the_picture_has_the_input_on_the_left_and_says_which_side_it_is(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    labels_in: str,
    headings: tuple[str, str],
    left: str,
) -> None:
    photo, labels = drawn_pairs(1)[0]
    sides = {"A": photo, "B": labels} if labels_in == "B" else {"A": labels, "B": photo}
    for side, pixels in sides.items():
        save(data / side / "0.png", pixels)
    if options:
        (data / "B" / "0.png").unlink()
    drawn: list[Any] = []

    def noted(*arguments: Any) -> Pixels:
        drawn.append(arguments)
        return pair_grid(*arguments)

    monkeypatch.setattr(survey, "pair_grid", noted)
    own_data.init_dataset(str(data), **options)
    ((cells, _, said),) = drawn
    assert said == headings
    expected = images.resize(sides[left], survey.CELL_PX, survey.CELL_PX, "area")
    if options:
        assert np.ptp(cells[0][0], axis=2).max() == 0
    else:
        assert np.array_equal(cells[0][0], expected)


@pytest.mark.parametrize(
    ("image_px", "cell"), [([64, 128], (136, 272)), ([64, 512], (96, 384)), (64, (192, 192))], ids=str
)
def test_the_picture_has_the_shape_that_the_preset_gives_the_images(
    data: Path, image_px: Any, cell: tuple[int, int]
) -> None:
    recipe = Path("presets/facades-small.yaml").read_text(encoding="utf-8")
    own = recipe.replace("image_px: 128\n", f"image_px: {image_px}\n")
    Path("presets/own.yaml").write_text(own, encoding="utf-8")
    for side in "AB":
        save(data / side / "0.png", np.zeros((64, 128, 3), np.uint8))
    done = own_data.init_dataset(str(data), like="own")
    assert written()["prepare"]["image_px"] == image_px
    black = np.argwhere(images.read_rgb(done.picture)[22:].max(2) == 0)
    assert black[:, 0].max() + 1 == cell[0]
    row = images.read_rgb(done.picture)[22 + cell[0] // 2].max(1) == 0
    assert row.sum() == 2 * cell[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {epochs: 3}\n", "has no dataset.name; --like takes a whole recipe, such as facades-small"),
        ("- train\n", "is not a mapping of sections"),
        ("train: 3\n", "is not a mapping of sections"),
        (None, "trian: unknown key; did you mean train?"),
    ],
)
def test_a_recipe_that_is_none_is_one_line(data: Path, text: str | None, said: str) -> None:
    if text is None:
        text = Path("presets/facades-small.yaml").read_text(encoding="utf-8").replace("train:", "trian:")
    Path("presets/own.yaml").write_text(text, encoding="utf-8")
    assert refusal(folder_of_pairs(data), like="own") == f"presets/own.yaml: {said}"


@pytest.mark.parametrize("combined", ["side-by-side", "stacked"])
def test_combined_images_are_known_by_the_seam_in_their_middle(data: Path, combined: str) -> None:
    join = np.hstack if combined == "side-by-side" else np.vstack
    for index, (photo, labels) in enumerate(drawn_pairs()):
        # Twice as wide as high when joined either way, or square.
        narrow = np.s_[:, :32] if combined == "side-by-side" else np.s_[:32]
        save(data / f"{index}.png", join([labels[narrow], photo[narrow]]))
    done = own_data.init_dataset(str(data))
    assert written()["dataset"]["combined"] == combined
    assert written()["dataset"]["direction"] == "AtoB"
    where = "A left, B right" if combined == "side-by-side" else "A above B"
    assert done.lines[0] == f"{data}: 8 pairs, combined images, {where}"
    assert (
        "side A  32×64" in done.lines[2] if combined == "side-by-side" else "side A  64×32" in done.lines[2]
    )


def test_photos_are_no_combined_images_and_the_line_says_what_they_could_be(data: Path) -> None:
    for index, (photo, _) in enumerate(drawn_pairs()):
        save(data / f"{index}.png", photo)
    line = refusal(data)
    assert line.startswith(f"{data}: 0.png and the others do not look like two sides in one file, ")
    for way in ("--derive (edges, ", "A/ and B/", "pairs.csv", "--combined side-by-side or stacked"):
        assert way in line
    own_data.init_dataset(str(data), combined="stacked")
    assert written()["dataset"]["combined"] == "stacked"


@pytest.mark.parametrize("derive", ["edges", "grayscale"])
def test_photos_get_a_derived_input(data: Path, derive: str) -> None:
    for index, (photo, _) in enumerate(drawn_pairs()):
        save(data / "train" / f"{index}.png", photo)
    done = own_data.init_dataset(str(data), derive=derive)
    assert done.lines[0] == f"{data}: 8 photos"
    assert done.lines[1] == "  splits  its own: 8 train"
    assert f"the input is made from the photo ({derive}); 64 px" in done.lines[-1]
    assert (written()["dataset"]["derive"], written()["dataset"]["direction"]) == (derive, "AtoB")


def test_where_both_sides_or_none_are_drawn_the_direction_is_called_a_guess(data: Path) -> None:
    for index, (photo, _) in enumerate(drawn_pairs()):
        save(data / "A" / f"{index}.png", photo)
        save(data / "B" / f"{index}.png", photo[::-1])
    done = own_data.init_dataset(str(data))
    assert "A is the input (AtoB, a guess: turn dataset.direction around" in done.lines[-1]


@pytest.mark.parametrize("layout", ["folders", "splits", "endings", "manifest"])
def test_a_photo_that_the_datas_own_names_call_the_input_is_the_input(data: Path, layout: str) -> None:
    rows = ["input,target"]
    for index, (photo, labels) in enumerate(drawn_pairs()):
        source, target = {
            "folders": (f"input/{index}.png", f"target/{index}.png"),
            "splits": (f"train/inputs/{index}.png", f"train/targets/{index}.png"),
            "endings": (f"{index}_input.png", f"{index}_target.png"),
            "manifest": (f"aerial/{index}.png", f"drawn/{index}.png"),
        }[layout]
        save(data / source, photo)
        save(data / target, labels)
        rows.append(f"{source},{target}")
    if layout == "manifest":
        (data / "pairs.csv").write_text("\n".join(rows))
    done = own_data.init_dataset(str(data))
    assert "A is the input (AtoB, as its names say)" in done.lines[-1]
    assert written()["dataset"]["direction"] == "AtoB"
    prepare = written()["prepare"]
    assert (prepare["resize_input"], prepare["resize_target"]) == ("area", "nearest")


def test_images_and_labels_do_not_say_which_goes_in(data: Path) -> None:
    for index, (photo, labels) in enumerate(drawn_pairs()):
        save(data / "images" / f"{index}.png", photo)
        save(data / "labels" / f"{index}.png", labels)
    done = own_data.init_dataset(str(data))
    assert "B is the input (BtoA); 64 px" in done.lines[-1]


def test_sizes_channels_and_depths_are_counted(data: Path) -> None:
    photo, labels = drawn_pairs(1)[0]
    grey = photo[:, :, 0]
    for index in range(4):
        save(data / "A" / f"{index}.png", photo if index else photo[:50])
        save(data / "B" / f"{index}.png", labels if index else labels[:50])
    save(data / "A" / "4.tif", grey.astype(np.uint16) * 257)
    save(data / "B" / "4.png", labels)
    save(data / "A" / "5.bmp", grey)
    Image.fromarray(labels).quantize(8).save(data / "B" / "5.png")
    done = own_data.init_dataset(str(data))
    assert done.lines[2:4] == (
        "  side A  64×64 (5), 64×50 (1); "
        "PNG, RGB, 8 bits (4), TIFF, grey, 16 bits (1), BMP, grey, 8 bits (1)",
        "  side B  64×64 (5), 64×50 (1); PNG, RGB, 8 bits (5), PNG, palette, 8 bits (1); "
        "looks like a label map or drawing",
    )


def test_more_than_eight_bits_and_three_channels_are_said_drawn_and_given_a_range(data: Path) -> None:
    for index, (photo, _) in enumerate(drawn_pairs(3)):
        bands = np.concatenate([photo] * 3, 2)[..., :7].astype(np.uint16) * 16
        (data / "A").mkdir(parents=True, exist_ok=True)
        (data / "B").mkdir(exist_ok=True)
        images.write_image(data / "A" / f"{index}.tif", bands)
        np.save(data / "B" / f"{index}.npy", photo[..., 0].astype(np.float32) * 3)
    done = own_data.init_dataset(str(data))
    assert done.lines[2:4] == (
        "  side A  64×64; TIFF, 7 channels, 16 bits; 208 to 4080 in a sample, so its range is measured",
        "  side B  64×64; NPY, grey, 32-bit float; 39 to 741 in a sample, so its range is measured",
    )
    prepare = written()["prepare"]
    assert (prepare["range_input"], prepare["range_target"]) == ("percentiles", "percentiles")
    # Drawn by their own range: 255 * 16 of 65,535 would be black.
    assert images.read_rgb(done.picture)[30:200, 60:250].std() > 20


def test_samples_that_fill_their_type_keep_their_full_range(data: Path) -> None:
    for index, (photo, labels) in enumerate(drawn_pairs(3)):
        for side, pixels in (
            ("A", labels[..., 0].astype(np.uint16) * 257),
            ("B", photo[..., 0] / np.float32(255)),
        ):
            (data / side).mkdir(parents=True, exist_ok=True)
            images.write_image(data / side / f"{index}.tif", pixels[..., None])
    done = own_data.init_dataset(str(data))
    assert not any("percentiles" in line for line in done.lines)
    assert (written()["prepare"]["range_input"], written()["prepare"]["range_target"]) == ("full", "full")


def indices_of(labels: Pixels) -> Pixels:
    """The label map's colours numbered, grey."""
    _, numbers = np.unique(labels.reshape(-1, 3), axis=0, return_inverse=True)
    return numbers.reshape(labels.shape[:2]).astype(np.uint8)


def test_grey_class_indices_are_known_drawn_in_colours_and_made_classes(data: Path) -> None:
    most = 0
    for index, (photo, labels) in enumerate(drawn_pairs()):
        numbers = indices_of(labels)
        most = max(most, int(numbers.max()))
        save(data / "A" / f"{index}.png", photo)
        save(data / "B" / f"{index}.png", numbers)
    done = own_data.init_dataset(str(data))
    assert (
        done.lines[3]
        == f"  side B  64×64; PNG, grey, 8 bits; looks like class indices, 0 to {most} in a sample"
    )
    prepare, dataset = written()["prepare"], written()["dataset"]
    assert (dataset["direction"], prepare["classes"], prepare["resize_input"]) == (
        "BtoA",
        most + 1,
        "nearest",
    )
    # Indices as levels would be black.
    assert images.read_rgb(done.picture)[30:200, 210:400].std() > 40
    presets.apply("mine")
    assert params.load().prepare.classes == most + 1


@pytest.mark.parametrize("void", [False, True])
def test_class_indices_of_the_target_get_a_range_and_are_said_to_be_levels(data: Path, void: bool) -> None:
    for index, (photo, labels) in enumerate(drawn_pairs()):
        numbers = indices_of(labels) % 9
        if void:
            numbers[:4] = 255
        save(data / "input" / f"{index}.png", photo)
        save(data / "target" / f"{index}.png", numbers)
    done = own_data.init_dataset(str(data))
    said = "0 to 8 and 255" if void else "0 to 8"
    assert done.lines[3].endswith(f"looks like class indices, {said} in a sample")
    levels = (
        "          the target's class indices are learned as levels, spread by prepare.range_target: "
        "percentiles; prepare.classes is for the input"
    )
    assert done.lines[6:] == (
        (levels, "          255 leaves the target's others dark; 9 would not") if void else (levels,)
    )
    prepare = written()["prepare"]
    assert (prepare["classes"], prepare["range_target"], prepare["resize_target"]) == (
        0,
        "percentiles",
        "nearest",
    )


def test_class_indices_of_the_input_with_255_among_them_make_256_classes(data: Path) -> None:
    for index, (photo, labels) in enumerate(drawn_pairs()):
        numbers = indices_of(labels) % 9
        numbers[:4] = 255
        save(data / "A" / f"{index}.png", numbers)
        save(data / "B" / f"{index}.png", photo)
    done = own_data.init_dataset(str(data))
    assert done.lines[-1] == "          255 makes the input 256 classes; 9 in its place would make 10"
    assert written()["prepare"]["classes"] == 256


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_black_and_white_masks_are_no_class_indices(data: Path, dtype: Any) -> None:
    for index, (photo, labels) in enumerate(drawn_pairs()):
        mask = indices_of(labels) > 4
        save(data / "A" / f"{index}.png", mask if dtype is bool else mask.astype(np.uint8) * 255)
        save(data / "B" / f"{index}.png", photo)
    assert "class indices" not in "".join(own_data.init_dataset(str(data)).lines)
    assert written()["prepare"]["classes"] == 0


def test_of_large_pairs_only_small_pictures_are_kept(data: Path) -> None:
    for index in range(24):
        for side in "AB":
            save(data / side / f"{index}.png", np.full((600, 800, 3), index * 9, np.uint8))
    tracemalloc.start()
    own_data.init_dataset(str(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # As they are they would take 69 MB; one takes 12 as floats while it is looked at.
    assert peak < 45_000_000


def test_limits_are_those_of_the_params(data: Path) -> None:
    two_folders(data)
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(
        text.replace("max_pixels: 100000000", "max_pixels: 4000"), encoding="utf-8"
    )
    assert "claims 64×64 px, more than prepare.max_pixels = 4,000 allows" in refusal(data)


def test_a_full_temporary_folder_is_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "own.tar"
    two_folders(data)
    with tarfile.open(archive, "w") as tar:
        tar.add(data, "wrapped")

    def fill(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pix2pix.archives.extract", fill)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert refusal(archive) == (
        f"{tmp_path}: No space left on device; set TMPDIR to a folder with room for all that is in {archive}"
    )


def test_dark_grey_photos_are_no_class_indices(data: Path) -> None:
    noise = np.random.default_rng(0)
    for index in range(4):
        save(data / "A" / f"{index}.png", drawn_pairs(1)[0][1])
        save(data / "B" / f"{index}.png", noise.integers(0, 60, (64, 64), np.uint8))
    done = own_data.init_dataset(str(data))
    assert done.lines[3] == "  side B  64×64; PNG, grey, 8 bits"
    assert written()["prepare"]["classes"] == 0
    assert images.read_rgb(done.picture)[60:180, 290:430].max() <= 60


@pytest.mark.parametrize(
    ("height", "width", "said"),
    [
        (
            64,
            128,
            "2 times as wide as high; prepare.image_px: [64, 128] (height, width) keeps their shape, in a "
            "network of the same 6 levels",
        ),
        (
            160,
            64,
            "2.5 times as high as wide; prepare.image_px: [160, 64] (height, width) keeps their shape, in a "
            "network of 5 levels instead of 6",
        ),
        (
            180,
            128,
            "1.4 times as high as wide; prepare.image_px: [192, 128] (height, width) keeps their shape, in "
            "a network of 6 levels instead of 7",
        ),
    ],
)
def test_rectangles_become_squares_and_the_line_says_what_keeps_their_shape(
    data: Path, height: int, width: int, said: str
) -> None:
    for index, (photo, labels) in enumerate(drawn_pairs(3)):
        for side, pixels in (("A", labels), ("B", photo)):
            save(data / side / f"{index}.png", images.resize(pixels, height, width, "nearest"))
    done = own_data.init_dataset(str(data))
    assert written()["prepare"]["image_px"] == min(height, width)
    assert done.lines[-1] == f"          squares, although the images are {said}"


def test_an_archive_is_looked_at_without_leaving_anything(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, (photo, labels) in enumerate(drawn_pairs()):
        save(data / "wrapped" / "train" / f"{index}.png", np.hstack([photo, labels]))
    archive = tmp_path / "own.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(data / "wrapped", "wrapped")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    done = own_data.init_dataset(str(archive))
    assert done.lines[0] == f"{archive}: 8 pairs, combined images, A left, B right"
    assert written()["dataset"]["source"] == str(archive)
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
    ("name", "pairs", "px"), [("facades", 606, 256), ("maps-sample", 180, 600)], ids=["facades", "maps"]
)
def test_real_sets_are_seen_for_what_they_are(name: str, pairs: int, px: int) -> None:
    archive = DATASETS / f"{name}.tar.gz"
    if not archive.is_file():
        pytest.skip(f"{archive} is not there")
    done = own_data.init_dataset(str(archive))
    assert done.lines[0] == f"{archive}: {pairs} pairs, combined images, A left, B right"
    assert done.lines[2] == f"  side A  {px}×{px}; JPEG, RGB, 8 bits"
    assert done.lines[3] == f"  side B  {px}×{px}; JPEG, RGB, 8 bits; looks like a label map or drawing"


# --- the preset --------------------------------------------------------------------------------------


def folder_of_pairs(data: Path) -> Path:
    for index, (photo, labels) in enumerate(drawn_pairs(2)):
        save(data / f"{index}.png", np.hstack([photo, labels]))
    return data


@pytest.mark.parametrize("like", ["quickstart", "facades-small", "facades"])
def test_a_preset_of_any_recipe_sets_the_keys_that_all_do_and_is_laid(data: Path, like: str) -> None:
    own_data.init_dataset(str(folder_of_pairs(data)), name="ours-2", like=like)
    committed = read_yaml(Path("presets/facades.yaml"))
    assert [(section, list(keys)) for section, keys in written("ours-2").items()] == [
        (section, list(keys)) for section, keys in committed.items()
    ]
    assert Path("presets/ours-2.yaml").read_text().startswith(f"# Own data: {data}. ")
    presets.apply("ours-2")
    laid = params.load()
    assert (laid.dataset.source, laid.prepare.image_px) == (str(data), 64)
    assert laid.registry.model_name == "pix2pix-ours-2"
    assert written("ours-2")["train"] == read_yaml(Path(f"presets/{like}.yaml"))["train"]


def test_a_preset_is_replaced_only_when_that_is_said(data: Path) -> None:
    folder_of_pairs(data)
    own_data.init_dataset(str(data))
    before = Path("presets/mine.yaml").read_bytes()
    assert refusal(data, like="facades") == (
        "presets/mine.yaml: is there already; --force replaces it, --name gives the new one another name"
    )
    assert Path("presets/mine.yaml").read_bytes() == before
    own_data.init_dataset(str(data), like="facades", force=True)
    assert written()["train"]["epochs"] == 200


def test_a_relative_path_and_a_tilde_become_absolute(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of_pairs(data)
    own_data.init_dataset(f"../{data.name}")
    assert written()["dataset"]["source"] == str(data)
    monkeypatch.setenv("HOME", str(data.parent))
    own_data.init_dataset(f"~/{data.name}", force=True)
    assert written()["dataset"]["source"] == str(data)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "a/b"}, "--name a/b: must be letters, digits, dots, dashes and underscores"),
        ({"derive": "edge"}, "--derive edge: must be one of none, edges, grayscale, "),
        ({"combined": "above"}, "--combined above: must be one of side-by-side, stacked"),
        ({"like": "nobody"}, "--like nobody: must be one of cityscapes, "),
        ({"name": "embedded"}, "presets/embedded.yaml: dataset.name = 'embedded': names the embedded set"),
    ],
)
def test_an_option_of_no_meaning_is_one_line(data: Path, options: dict[str, str], said: str) -> None:
    assert refusal(folder_of_pairs(data), **options).startswith(said)


def test_data_that_cannot_be_used_is_one_line(data: Path) -> None:
    assert refusal(data) == f"{data}: is not there; give the path of a folder of images or of an archive"
    data.mkdir()
    assert refusal(data) == f"{data}: holds no image"
    (data / "A").mkdir()
    (data / "A" / "1.png").write_bytes(b"")
    assert refusal(data).startswith(
        f"{data}: holds no pair among 1 images (A/1.png has no partner of the same"
    )
    (data / "B").mkdir()
    (data / "B" / "1.png").write_bytes(b"")
    assert refusal(data).startswith(f"{data}/A/1.png: does not decode (")
    (data.parent / "words.zip").write_bytes(b"words")
    assert refusal(data.parent / "words.zip").endswith("is not a .tar.gz, .tgz, .tar or .zip archive")
    for name in ("pairs.csv", "photo.JPG"):
        (data / name).write_bytes(b"")
        assert refusal(data / name) == (
            f"{data / name}: is one file of a data set; give the folder that it lies in"
        )


def test_a_place_that_is_not_there_is_said_before_a_preset_that_is(data: Path) -> None:
    own_data.init_dataset(str(folder_of_pairs(data)))
    assert refusal(data / "nowhere").endswith(
        "nowhere: is not there; give the path of a folder of images or of an archive"
    )


def test_the_projects_own_recipes_are_never_replaced(data: Path) -> None:
    assert refusal(folder_of_pairs(data), name="facades", force=True) == (
        "presets/facades.yaml: is a recipe that init-dataset has not written; --name gives yours another name"
    )


def two_folders(data: Path, count: int = 8) -> Path:
    for index, sides in enumerate(drawn_pairs(count)):
        for side, pixels in zip("AB", sides, strict=True):
            save(data / side / f"{index}.png", pixels)
    return data


def test_options_for_other_layouts_are_refused(data: Path) -> None:
    two_folders(data)
    assert "are two sides already; leave --derive out" in refusal(data, derive="edges")
    assert refusal(data, combined="stacked").startswith("--combined stacked: each pair is two files here")


def test_one_damaged_side_is_counted_once_and_named_with_what_follows(data: Path) -> None:
    two_folders(data)
    damaged = sorted((data / "B").iterdir())[3]
    damaged.write_bytes(b"no image")
    lines = own_data.init_dataset(str(data)).lines
    at = next(index for index, line in enumerate(lines) if "not usable" in line)
    assert lines[at].startswith(f"  not usable: B/{damaged.name}: does not decode")
    assert lines[at + 1] == ("    more than prepare.max_bad_share = 2%: mend or remove them, or raise it")


def test_few_pairs_get_shares_that_fill_every_split(data: Path) -> None:
    for count in (16, 20, 30):
        source = two_folders(data / str(count), count)
        own_data.init_dataset(str(source), force=True)
        found = find_pairs(source).pairs
        shares = written()["prepare"]
        splits, rule = pairs.assign_splits(found, shares["val_share"], shares["test_share"])
        pairs.check_not_empty({split: len(members) for split, members in splits.items()}, rule)
