"""Run an exported generator on images of any size: numpy and onnxruntime, no torch."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from .errors import UserError
from .images import Pixels

INPUT, OUTPUT = "image", "translated"


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
        try:
            self._session = ort.InferenceSession(path, providers=list(providers))
        except Exception as error:
            raise UserError(f"{path}: is not an ONNX file ({str(error).splitlines()[0]})") from None
        names = [value.name for value in (*self._session.get_inputs(), *self._session.get_outputs())]
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        if names != [INPUT, OUTPUT] or "multiple" not in self.metadata:
            raise UserError(
                f"{path}: is not a generator exported by this project (tensors {', '.join(names)})"
            )
        self.multiple = int(self.metadata["multiple"])

    def __call__(self, image: Pixels) -> Pixels:
        """Translate one image: uint8 [height, width, channels] → the same height and width.

        The image is padded to the network's multiple by reflection, translated and cropped back.
        """
        height, width = image.shape[:2]
        translated: Pixels = self._session.run([OUTPUT], {INPUT: pad(image, self.multiple)[None]})[0]
        return translated[0, :height, :width]


def pad(image: Pixels, multiple: int) -> Pixels:
    """Reflect [height, width, channels] at its lower and right edges up to the next multiple."""
    bottom, right = -image.shape[0] % multiple, -image.shape[1] % multiple
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="reflect")
