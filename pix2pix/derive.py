"""Inputs made from photos, for data without a second side.

OpenCV and Pillow compute on whole numbers here, so the same photo gives the same input on every machine.
"""

import hashlib

import cv2
import numpy as np

from . import images
from .images import Pixels
from .params import Derive

# Standard deviation of the blur, as a share of the photo's longer side: 2 px at 128, 4 px at 256.
BLUR_SHARE = 1 / 64
DOWNSCALE = 4
# The blanked rectangle's sides, as shares of the photo's.
MASK_SHARES = (0.25, 0.5)
MASK_LEVEL = 128


def derive(photo: Pixels, how: Derive, name: str) -> Pixels:
    """The input that belongs to a photo, of the same shape: uint8 [height, width, 3].

    Args:
        how: `edges`: black lines on white, by Canny's detector (1986) on a slightly smoothed photo, whose
            upper threshold is Otsu's and the lower one half of it. `grayscale`: luma of BT.601. `blur`:
            Gaussian. `downscale`: to a quarter by area, and up again bicubically. `mask`: a rectangle of a
            quarter to half of each side in mid-grey.
        name: decides where the mask lies, so that it does not move when other photos come or go.
    """
    if how == "edges":
        grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
        upper, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        lines = cv2.Canny(cv2.GaussianBlur(grey, (5, 5), 1), upper / 2, upper)
        return _three(255 - lines)
    if how == "grayscale":
        return _three(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY))
    if how == "blur":
        return np.asarray(cv2.GaussianBlur(photo, (0, 0), max(photo.shape[:2]) * BLUR_SHARE), np.uint8)
    if how == "downscale":
        height, width = photo.shape[:2]
        shrunk = images.resize(photo, max(1, height // DOWNSCALE), max(1, width // DOWNSCALE), "area")
        return images.resize(shrunk, height, width, "bicubic")
    assert how == "mask", how
    masked = photo.copy()
    masked[_rectangle(name, *photo.shape[:2])] = MASK_LEVEL
    return masked


def _rectangle(name: str, height: int, width: int) -> tuple[slice, slice]:
    digest = hashlib.sha256(name.encode()).digest()
    tall, wide, top, left = np.frombuffer(digest[:16], ">u4") / 2**32
    least, most = MASK_SHARES
    rows, columns = (
        round(side * (least + share * (most - least))) for side, share in ((height, tall), (width, wide))
    )
    first_row, first_column = int(top * (height - rows + 1)), int(left * (width - columns + 1))
    return slice(first_row, first_row + rows), slice(first_column, first_column + columns)


def _three(grey: object) -> Pixels:
    return np.repeat(np.asarray(grey, np.uint8)[:, :, None], 3, 2)
