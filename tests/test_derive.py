"""Inputs made from photos: what they keep of them, and that they are the same every time."""

import hashlib

import numpy as np
import pytest

from pix2pix import derive, synthetic
from pix2pix.images import Pixels

HOWS = ("edges", "grayscale", "blur", "downscale", "mask")


@pytest.fixture(scope="module")
def photo() -> Pixels:
    return synthetic.draw_pair(seed=1, index=0, image_px=128)[0]


@pytest.mark.parametrize("how", HOWS)
def test_an_input_has_its_photos_shape_and_leaves_the_photo_alone(photo: Pixels, how: derive.Derive) -> None:
    before = photo.copy()
    made = derive.derive(photo, how, "1")
    assert (made.shape, made.dtype) == (photo.shape, np.uint8)
    assert not np.array_equal(made, photo)
    assert np.array_equal(photo, before)


# Of a picture that is drawn on whole numbers; another version of a library that draws another one is noticed.
@pytest.mark.parametrize("how", HOWS)
def test_the_same_photo_gives_the_same_bytes_everywhere(how: derive.Derive) -> None:
    rows, columns = np.mgrid[:96, :128]
    drawn = np.stack([rows * 2, columns, (rows // 12 + columns // 16) % 2 * 200], 2).astype(np.uint8)
    digest = hashlib.sha256(derive.derive(drawn, how, "größe 1").tobytes()).hexdigest()
    assert digest[:12] == DIGESTS[how]


DIGESTS = {
    "edges": "93c11643664e",
    "grayscale": "e3eabd9a023b",
    "blur": "11c754a346e4",
    "downscale": "860f4f8686b7",
    "mask": "5cd87499ddeb",
}


def test_edges_are_black_lines_on_white_where_the_photo_changes() -> None:
    photo = np.full((64, 64, 3), 40, np.uint8)
    photo[16:48, 16:48] = 200
    edges = derive.derive(photo, "edges", "1")
    assert set(np.unique(edges)) == {0, 255}
    rows, columns = np.nonzero(edges[:, :, 0] == 0)
    assert {rows.min(), rows.max(), columns.min(), columns.max()} <= {15, 16, 47, 48}
    assert 100 <= len(rows) <= 140
    # About as many lines in the same scene by night.
    night = derive.derive(photo // 8, "edges", "1")
    assert 100 <= np.count_nonzero(night[:, :, 0] == 0) <= 140


def test_a_photo_of_one_colour_has_no_edges() -> None:
    assert (derive.derive(np.full((32, 32, 3), 90, np.uint8), "edges", "1") == 255).all()


def test_grayscale_is_luma_on_three_channels(photo: Pixels) -> None:
    luma = photo @ np.array([0.299, 0.587, 0.114])
    assert np.abs(derive.derive(photo, "grayscale", "1") - luma[:, :, None]).max() <= 0.51


@pytest.mark.parametrize("how", ["blur", "downscale"])
def test_what_is_lost_is_detail_and_not_colour(photo: Pixels, how: derive.Derive) -> None:
    made = derive.derive(photo, how, "1").astype(float)
    assert np.abs(made.mean((0, 1)) - photo.mean((0, 1))).max() < 1
    detail = [np.abs(np.diff(pixels.astype(float), axis=1)).mean() for pixels in (made, photo)]
    assert detail[0] < 0.7 * detail[1]


def test_a_photo_smaller_than_the_scale_is_taken_down_to_one_pixel() -> None:
    made = derive.derive(np.arange(18, dtype=np.uint8).reshape(2, 3, 3), "downscale", "1")
    assert made.shape == (2, 3, 3)


def test_a_mask_is_one_rectangle_whose_place_the_name_decides() -> None:
    photo = np.zeros((80, 120, 3), np.uint8)
    places = set()
    for name in map(str, range(50)):
        masked = derive.derive(photo, "mask", name)
        rows, columns = np.nonzero(masked[:, :, 0] == derive.MASK_LEVEL)
        height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert len(rows) == height * width
        assert 20 <= height <= 40
        assert 30 <= width <= 60
        places.add((rows.min(), columns.min()))
        assert np.array_equal(masked, derive.derive(photo, "mask", name))
    assert len(places) > 40
