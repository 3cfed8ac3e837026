"""`pix2pix translate`: which image goes where, and that one bad image stops no other."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from registry_fixtures import CHAMPION_URI, Project, noise

from pipeline.translation import draw, plan, translate
from pix2pix import images
from pix2pix.errors import UserError
from pix2pix.images import Pixels, read_rgb
from pix2pix.translator import Translator

pytest_plugins = ["registry_fixtures"]


@pytest.fixture
def model(tmp_path: Path, exported: bytes) -> str:
    path = tmp_path / "generator.onnx"
    path.write_bytes(exported)
    return str(path)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that paths read as a user would type them."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def pictures(*names: str) -> None:
    for seed, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        images.write_image(Path(name), noise(20, 30, seed))


def targets(inputs: list[str], output: str) -> dict[str, str]:
    return {
        str(source): str(target) for source, target in plan([Path(name) for name in inputs], Path(output))
    }


def refused(inputs: list[str], output: str) -> str:
    with pytest.raises(UserError) as caught:
        plan([Path(name) for name in inputs], Path(output))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(folder: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


# --- which image goes where --------------------------------------------------------------------------


def test_a_file_becomes_a_file_or_a_png_in_a_folder(place: Path) -> None:
    pictures("a.jpg")
    Path("there").mkdir()
    assert targets(["a.jpg"], "b.png") == {"a.jpg": "b.png"}
    assert targets(["a.jpg"], "new/b.JPEG") == {"a.jpg": "new/b.JPEG"}
    assert targets(["a.jpg"], "there") == {"a.jpg": "there/a.png"}
    assert targets(["a.jpg"], "new/folder") == {"a.jpg": "new/folder/a.png"}


def test_folders_keep_their_structure_and_leave_out_what_is_no_image(place: Path) -> None:
    pictures("in/a.jpg", "in/deep/er/b.PNG", "in/deep/c.webp", "d.bmp")
    Path("in/notes.txt").write_text("no image")
    Path("in/folder.png").mkdir()
    assert targets(["in", "d.bmp"], "out") == {
        "in/a.jpg": "out/a.png",
        "in/deep/er/b.PNG": "out/deep/er/b.png",
        "in/deep/c.webp": "out/deep/c.png",
        "d.bmp": "out/d.png",
    }


def test_two_images_with_one_result_are_named(place: Path) -> None:
    pictures("in/a.jpg", "in/a.png", "other/a.jpg")
    line = refused(["in"], "out")
    assert line == "in/a.png and in/a.jpg would both become out/a.png; translate them apart"
    assert "would both become out/a.png" in refused(["in/a.jpg", "other/a.jpg"], "out")
    assert "would both become out/a.png" in refused(["in/a.jpg", "in/a.jpg"], "out")


def test_an_input_is_never_overwritten(place: Path) -> None:
    pictures("in/a.png", "in/b.jpg")
    message = "is an input; choose another output folder"
    assert refused(["in"], "in") == f"in/a.png: {message}"
    assert refused(["in/a.png"], "in/a.png") == f"in/a.png: {message}"
    assert refused(["in/a.png"], "in") == f"in/a.png: {message}"
    Path("link").symlink_to("in")
    assert refused(["in"], "link") == f"link/a.png: {message}"
    assert targets(["in/b.jpg"], "in") == {"in/b.jpg": "in/b.png"}


def test_what_is_not_there_or_holds_no_image_is_said(place: Path) -> None:
    pictures("a.jpg")
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("no image")
    assert refused(["a.jpg", "none"], "out") == "none: no such file or folder"
    assert refused(["empty"], "out").startswith("empty: no images (.bmp .jpeg .jpg ")


def test_several_images_do_not_fit_a_file(place: Path) -> None:
    pictures("a.jpg", "in/b.jpg")
    Path("file").write_text("")
    message = "names a file, which holds one image; give a folder"
    assert refused(["a.jpg", "in"], "out.png") == f"out.png: {message}"
    assert refused(["in"], "out.png") == f"out.png: {message}"
    assert refused(["a.jpg"], "file") == f"file: {message}"
    assert refused(["a.jpg"], "file/out") == "file/out: cannot be written, file is a file"
    # A folder may be called like an image.
    Path("folder.png").mkdir()
    assert targets(["a.jpg"], "folder.png") == {"a.jpg": "folder.png/a.png"}


@pytest.mark.parametrize("name", ["out.gif", "new/out.JP2", "out.xyz"])
def test_one_image_is_not_written_into_a_folder_that_is_called_like_a_picture(place: Path, name: str) -> None:
    pictures("a.jpg", "b.jpg")
    line = refused(["a.jpg"], name)
    assert line.startswith(f"{name}: {Path(name).suffix} is no format that can be written (.bmp .jpeg ")
    assert line.endswith("; for a folder give a name without an ending")
    # Several images want a folder, and what is there is one.
    assert len(targets(["a.jpg", "b.jpg"], name)) == 2
    Path(name).mkdir(parents=True)
    assert targets(["a.jpg"], name) == {"a.jpg": f"{name}/a.png"}


@pytest.mark.parametrize("name", ["results.v2", "2026.11", "model.champion"])
def test_a_folder_may_have_a_dot_in_its_name(place: Path, name: str) -> None:
    pictures("a.jpg")
    assert targets(["a.jpg"], name) == {"a.jpg": f"{name}/a.png"}


# --- translating -------------------------------------------------------------------------------------


def test_results_are_the_translators_pixels_at_the_inputs_size(place: Path, model: str) -> None:
    pictures("in/a.png", "in/deep/b.jpg")
    assert translate([Path("in")], Path("out"), model) == 2
    assert files("out") == {"a.png", "deep/b.png"}
    for source, target in (("in/a.png", "out/a.png"), ("in/deep/b.jpg", "out/deep/b.png")):
        expected = Translator(Path(model))(read_rgb(Path(source)))
        assert expected.shape == (20, 30, 3)
        assert np.array_equal(read_rgb(Path(target)), expected)


@pytest.mark.parametrize(
    ("name", "kind"), [("b.png", "PNG"), ("b.jpg", "JPEG"), ("b.JPEG", "JPEG"), ("b.webp", "WEBP")]
)
def test_a_results_format_is_that_of_its_suffix(place: Path, model: str, name: str, kind: str) -> None:
    pictures("a.png")
    assert translate([Path("a.png")], Path(name), model) == 1
    with Image.open(name) as written:
        assert (written.format, written.size) == (kind, (30, 20))
    expected = Translator(Path(model))(read_rgb(Path("a.png")))
    assert np.abs(read_rgb(Path(name)).astype(int) - expected).mean() < (8 if kind == "JPEG" else 1e-9)


def test_an_unreadable_image_is_named_after_the_others_are_written(place: Path, model: str) -> None:
    pictures("in/a.png", "in/c.png")
    Path("in/b.png").write_bytes(b"no image")
    Path("in/d.jpg").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        translate([Path("in")], Path("out"), model)
    line = str(caught.value)
    assert line.startswith("2 of 4 images translated to out, 2 failed: in/b.png does not decode (")
    assert "; in/d.jpg does not decode (" in line
    assert "\n" not in line
    assert files("out") == {"a.png", "c.png"}


def test_of_many_unreadable_images_five_are_named_and_the_rest_counted(place: Path, model: str) -> None:
    pictures("in/a.png")
    for number in range(7):
        Path(f"in/{number}.png").write_bytes(b"no image")
    with pytest.raises(
        UserError, match=r"^1 of 8 images translated to out, 7 failed: .*in/4\.png [^;]*; and 2 more$"
    ):
        translate([Path("in")], Path("out"), model)


def test_where_no_image_can_be_read_no_folder_is_named(place: Path, model: str) -> None:
    Path("in").mkdir()
    for name in ("a", "b"):
        Path(f"in/{name}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^none of 2 images translated: in/a\.png .*; in/b\.png "):
        translate([Path("in")], Path("out"), model)
    with pytest.raises(UserError, match=r"^not translated: in/a\.png does not decode"):
        translate([Path("in/a.png")], Path("out.png"), model)


def test_nothing_is_written_without_a_model(place: Path) -> None:
    pictures("a.png")
    with pytest.raises(UserError, match=r"^none\.onnx: not found$"):
        translate([Path("a.png")], Path("out"), "none.onnx")
    assert not Path("out").exists()


def test_the_plan_is_checked_before_the_registry_is_asked(place: Path, no_server: str) -> None:
    with pytest.raises(UserError, match=r"^none: no such file or folder$"):
        translate([Path("none")], Path("out"), CHAMPION_URI)


def test_a_registered_model_translates_like_its_file(champion: Project) -> None:
    pictures("in/a.png")
    assert translate([Path("in")], Path("out"), CHAMPION_URI) == 1
    assert np.array_equal(read_rgb(Path("out/a.png")), Translator(champion.model)(noise(20, 30)))


# --- drawing samples ---------------------------------------------------------------------------------


def brighter(image: Pixels, samples: int, seed: int) -> Pixels:
    """Stands for a sampler: samples that tell their image, number and seed."""
    return np.stack([image // 4 + 10 * number + seed for number in range(1, samples + 1)]).astype(np.uint8)


def test_samples_are_numbered_files_and_one_picture_of_all(place: Path) -> None:
    pictures("in/a.png", "in/deep/b.jpg")
    assert draw([Path("in")], Path("out"), brighter, 3, 7) == 2
    assert files("out") == {
        *("a-1.png", "a-2.png", "a-3.png", "a-samples.png"),
        *("deep/b-1.png", "deep/b-2.png", "deep/b-3.png", "deep/b-samples.png"),
    }
    for source, target in (("in/a.png", "out/a"), ("in/deep/b.jpg", "out/deep/b")):
        expected = brighter(read_rgb(Path(source)), 3, 7)
        for number in (1, 2, 3):
            assert np.array_equal(read_rgb(Path(f"{target}-{number}.png")), expected[number - 1])


def test_the_picture_of_all_samples_is_labelled_and_shows_the_input_first(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures("a.png")
    grids = []

    def spied(columns: list[str], rows: list[list[Pixels]], names: list[str], title: str) -> Pixels:
        grids.append((columns, rows, names, title))
        return original(columns, rows, names, title=title)

    original = images.labelled_grid
    monkeypatch.setattr(images, "labelled_grid", spied)
    draw([Path("a.png")], Path("out"), brighter, 2, 5)
    ((columns, (row,), names, title),) = grids
    assert columns == ["input", "sample 1", "sample 2"]
    assert (names, title) == (["a"], "2 samples, seed 5")
    shown = read_rgb(Path("a.png"))
    for given, expected in zip(row, [shown, *brighter(shown, 2, 5)], strict=True):
        assert np.array_equal(given, expected)
    expected = original(columns, [row], names, title=title)
    assert np.array_equal(read_rgb(Path("out/a-samples.png")), expected)


def test_one_sample_is_a_picture_too(place: Path) -> None:
    pictures("a.jpg")
    assert draw([Path("a.jpg")], Path("out"), brighter, 1, 1) == 1
    assert files("out") == {"a-1.png", "a-samples.png"}


def test_several_samples_do_not_fit_a_file(place: Path) -> None:
    pictures("a.png")
    for name in ("out.png", "new/out.JPG"):
        with pytest.raises(UserError) as caught:
            draw([Path("a.png")], Path(name), brighter, 2, 1)
        assert str(caught.value) == f"{name}: names a file, but --samples writes several; give a folder"
    assert files(".") == {"a.png"}


def test_the_plan_is_checked_before_anything_is_drawn(place: Path) -> None:
    pictures("in/a.jpg", "in/a.png")
    with pytest.raises(UserError, match="would both become"):
        draw([Path("in")], Path("out"), brighter, 2, 1)
    with pytest.raises(UserError, match=r"^none: no such file or folder$"):
        draw([Path("none")], Path("out"), brighter, 2, 1)
    assert not Path("out").exists()


def test_an_unreadable_image_stops_no_other_from_being_drawn(place: Path) -> None:
    pictures("in/a.png", "in/c.png")
    Path("in/b.png").write_bytes(b"no image")
    with pytest.raises(
        UserError, match=r"^2 of 3 images translated to out, 1 failed: in/b\.png does not decode"
    ):
        draw([Path("in")], Path("out"), brighter, 1, 1)
    assert files("out") == {"a-1.png", "a-samples.png", "c-1.png", "c-samples.png"}


def test_the_projects_folder_is_neither_input_nor_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty shell variable becomes the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    assert plan([Path()], Path("out")) == [(Path("a.png"), Path("out/a.png"))]
    (tmp_path / "params.yaml").write_text("")
    for inputs, output in (([Path()], Path("out")), ([Path("a.png")], Path())):
        with pytest.raises(UserError, match="the project's folder itself"):
            plan(inputs, output)
