"""Embedded colour profiles → sRGB, the colours that a person sees."""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

# A profile that moves no colour by more is sRGB under another name, and leaves every bit as it is.
SAME_LEVELS = 2
_COLOUR_SPACES = {"RGB ": "RGB", "CMYK": "CMYK", "GRAY": "L"}


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An RGB, CMYK or grey image of 8 bits as RGB in sRGB; a profile that is broken or of another kind of
    image says nothing, as in viewers."""
    mode = _mode(profile)
    if mode is None or _is_srgb(profile) or not _fits(image.mode, mode):
        return image.convert("RGB")
    source = image if image.mode == mode else image.convert(mode)
    converted = ImageCms.applyTransform(source, _transform(profile, mode))
    assert converted is not None
    return converted


def deep_to_srgb(samples: NDArray[Any], profile: bytes) -> NDArray[Any]:
    """uint16 [height, width, 1 or 3] in sRGB, 16 bits all the way; otherwise as `to_srgb`."""
    mode, channels = _mode(profile), samples.shape[2]
    if mode is None or _is_srgb(profile) or {"RGB": 3, "L": 1}.get(mode) != channels:
        return samples
    import imagecodecs

    converted: NDArray[Any] = imagecodecs.cms_transform(
        samples if channels == 3 else samples[..., 0],
        profile,
        imagecodecs.cms_profile("srgb"),
        colorspace="rgb" if channels == 3 else "gray",
        outcolorspace="rgb",
    )
    return converted[..., :channels]


def _fits(image_mode: str, profile_mode: str) -> bool:
    greys = {"1", "L", "LA"}
    if profile_mode == "L":
        return image_mode in greys
    return image_mode == "CMYK" if profile_mode == "CMYK" else image_mode not in {"CMYK", *greys}


@lru_cache(maxsize=8)
def _mode(profile: bytes) -> str | None:
    """RGB, CMYK or L; None for a profile that does not parse or describes something else."""
    try:
        opened = ImageCms.getOpenProfile(io.BytesIO(profile)).profile
        mode = _COLOUR_SPACES.get(opened.xcolor_space)
        if mode:
            _transform(profile, mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return mode


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        io.BytesIO(profile),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        # Relative to each one's white, as cameras' and monitors' profiles expect.
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )


@lru_cache(maxsize=8)
def _is_srgb(profile: bytes) -> bool:
    mode = _mode(profile)
    if mode not in ("RGB", "L"):
        return False
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    if mode == "RGB":
        colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
        plain = colours
    else:
        colours = levels[None]
        plain = np.repeat(levels[None, :, None], 3, 2)
    moved = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), _transform(profile, mode)))
    return bool(np.abs(moved.astype(int) - plain).max() <= SAME_LEVELS)
