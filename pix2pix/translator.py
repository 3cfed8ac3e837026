"""Run an exported generator on images of any size: numpy and onnxruntime, no torch."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime as ort

from .decoding import Samples
from .encoding import Encoding
from .errors import UserError
from .images import pad

INPUT, OUTPUT = "image", "translated"
_TYPES = {"tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(float)": "float32"}
# An image is padded up to it: that of 16 levels would make gigabytes of a pixel.
MAX_MULTIPLE = 2**10
AXES = ("batch", "height", "width", "channels")


def _multiple(path: Path, said: str) -> int:
    # 2 to the number of levels.
    multiple = int(said) if said.isdecimal() and len(said) < 6 else 0
    if not 1 <= multiple <= MAX_MULTIPLE or multiple & (multiple - 1):
        raise UserError(
            f"{path}: is not a generator exported by this project (multiple = {said!r} is no power of 2, or "
            f"above {MAX_MULTIPLE})"
        )
    return multiple


class TooLargeError(UserError):
    """An image whose layers do not fit into the memory; the text names no file."""


class Translator:
    """An exported generator, ready to translate.

    Args:
        path: generator.onnx.
        providers: ONNX Runtime's execution providers in order of preference.

    Raises:
        UserError: the file is missing or not an exported generator.
    """

    def __init__(self, path: Path, providers: tuple[str, ...] = ("CPUExecutionProvider",)) -> None:
        if not path.is_file():
            raise UserError(f"{path}: not found")
        options = ort.SessionOptions()
        # What goes wrong is raised; ONNX Runtime would write it to the terminal as well.
        options.log_severity_level = 4
        try:
            self.session = ort.InferenceSession(path, options, providers=list(providers))
        except Exception as error:
            raise UserError(f"{path}: is not an ONNX file ({str(error).splitlines()[0]})") from None
        names = [value.name for value in (*self.session.get_inputs(), *self.session.get_outputs())]
        self.metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        if names != [INPUT, OUTPUT] or "multiple" not in self.metadata:
            raise UserError(
                f"{path}: is not a generator exported by this project (tensors {', '.join(names)})"
            )
        self.multiple = _multiple(path, self.metadata["multiple"])
        self.input = self._encoding("input", self.session.get_inputs()[0], path)
        self.target = self._encoding("target", self.session.get_outputs()[0], path)

    def _encoding(self, side: str, value: Any, path: Path) -> Encoding:
        """The type and channels are the tensor's; what else there is to know is in the metadata."""
        is_said = side in self.metadata
        # Those of 8-bit RGB say nothing.
        known = tuple(_TYPES) if is_said else ("tensor(uint8)",)
        if value.type not in known or len(value.shape) != len(AXES):
            raise UserError(
                f"{path}: is not a generator exported by this project ({value.name} is {value.type} "
                f"{value.shape}, expected {' or '.join(known)} {list(AXES)})"
            )
        try:
            said = Encoding.of(json.loads(self.metadata.get(side, "{}")))
            found = replace(said, dtype=_TYPES[value.type], channels=int(value.shape[-1]))
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"{path}: says nothing sensible of its {side}; export it again") from None
        if is_said and found != said:
            raise UserError(f"{path}: its {side} is {found}, but its metadata says {said}; export it again")
        return found

    def __call__(self, image: Samples) -> Samples:
        """Translate one image: [height, width, channels] as `input` says → as `target`, at the same size.

        The image is padded to the network's multiple by reflection, translated and cropped back.

        Raises:
            TooLargeError: the memory does not suffice for the network's layers.
        """
        height, width = image.shape[:2]
        translated: Samples = run(self.session, OUTPUT, pad(image, self.multiple))
        return translated[:height, :width]


def run(session: ort.InferenceSession, output: str, image: Samples) -> Any:
    """One output of the network for one image that it takes: without the batch's dimension.

    Raises:
        TooLargeError: the memory does not suffice for the network's layers.
    """
    try:
        return session.run([output], {INPUT: image[None]})[0][0]
    except Exception as error:
        # ONNX Runtime has no class of its own for it, and two wordings.
        if "Failed to allocate memory" not in str(error) and "bad_alloc" not in str(error):
            raise
    height, width = image.shape[:2]
    raise TooLargeError(f"{width} × {height} px are too many for the memory at once")
