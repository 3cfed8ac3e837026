"""Images larger than the memory: an exported generator tile by tile, with blended seams.

numpy, onnx and onnxruntime, no torch. The network needs the memory of one tile, whatever the image's size.

Instance normalisation makes a pixel depend on its whole image. Tile by tile, each by statistics of its own,
a forest becomes a lake where its tile ends, and blending only turns the edge into a slope. With the
statistics of the whole image all tiles are the same function, and what is left to blend is what a tile does
not see of its neighbour.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.utils import Extractor

from .decoding import Samples
from .encoding import Encoding
from .errors import UserError
from .translator import INPUT, OUTPUT, Translator, run

Statistics = Literal["image", "tile"]
Progress = Callable[[int, int], None]

NORM = "InstanceNormalization"


class TiledTranslator:
    """An exported generator that translates an image in pieces.

    Tiles begin at multiples of the network's own, so that all of them sample the image alike; neighbours then
    share `overlap_px` or more. The middle `overlap_px` of what they share are blended linearly, and what is
    nearer to a tile's edge is not used.

    Args:
        path: generator.onnx.
        tile_px: side of a tile, a multiple of the network's.
        overlap_px: width of the blend, at least.
        statistics: of the instance normalisation. `image` has no seams and takes 5 to 6 times as long: those
            of a layer are gathered from all tiles before the next layer's can be. (Gathered in fewer passes
            they run away from one layer to the next, and a downscaled image has others.) `tile` is one pass.

    Raises:
        UserError: the file is missing or not an exported generator, or cannot be tiled so.
    """

    def __init__(
        self, path: Path, tile_px: int = 1024, overlap_px: int = 64, statistics: Statistics = "image"
    ) -> None:
        self._translator = Translator(path)
        multiple = self._translator.multiple
        if tile_px < multiple or tile_px % multiple:
            nearest = max(1, round(tile_px / multiple)) * multiple
            raise UserError(
                f"--tile {tile_px}: {path} takes multiples of {multiple} px; the nearest is {nearest}"
            )
        self._step_px = (tile_px - overlap_px) // multiple * multiple
        if overlap_px < 0 or self._step_px < multiple:
            enough = (-(-overlap_px // multiple) + 1) * multiple
            raise UserError(
                f"--overlap {overlap_px}: tiles of {tile_px} px that begin at multiples of {multiple} px "
                f"share {tile_px - multiple} px at most; take --tile {enough} or more"
            )
        self._path, self._tile_px, self._overlap_px = path, tile_px, overlap_px
        self._statistics = statistics

    def __call__(self, image: Samples, on_tile: Progress = lambda done, total: None) -> Samples:
        """Translate one image: [height, width, channels] as `input` says → as `target`, at the same size.

        An image that fits into one tile is translated as `Translator` does it. The memory is that of the two
        images, of one tile in the network, and of one row of tiles.

        Args:
            on_tile: told tiles done and tiles in all, where `image` statistics count every tile once for each
                normalisation and once for the result.
        """
        rows, columns = self.axes(image)
        tiles = len(rows.starts) * len(columns.starts)
        if tiles == 1:
            return self._translator(image)
        model = onnx.load(self._path) if self._statistics == "image" else onnx.ModelProto()
        total = tiles * (1 + sum(node.op_type == NORM for node in model.graph.node))
        ticks = count(1)

        def tick() -> None:
            on_tile(next(ticks), total)

        _fix_statistics(model, image, rows, columns, tick)
        session = _session(model) if self._statistics == "image" else self._translator.session
        return _blend(session, self.target, image, rows, columns, tick)

    @property
    def input(self) -> Encoding:
        """What it takes."""
        return self._translator.input

    @property
    def target(self) -> Encoding:
        """What it gives."""
        return self._translator.target

    def axes(self, image: Samples) -> tuple["Axis", "Axis"]:
        """How the image's rows and columns are cut."""
        sizes = (self._translator.multiple, self._tile_px, self._step_px, self._overlap_px)
        return Axis.of(image.shape[0], *sizes), Axis.of(image.shape[1], *sizes)


@dataclass(frozen=True)
class Axis:
    """How one side of an image is cut into tiles.

    Args:
        length: of the image in px.
        indices: where each px of the padded side is taken from: reflected at the lower or right edge.
        tile_px: length of every tile.
        starts: where they begin, multiples of the network's.
        borders: the middles of what neighbours share, between 0 and the padded length.
        blend_px: around each border.
    """

    length: int
    indices: NDArray[np.intp]
    tile_px: int
    starts: tuple[int, ...]
    borders: tuple[int, ...]
    blend_px: int

    @classmethod
    def of(cls, length: int, multiple: int, tile_px: int, step_px: int, blend_px: int) -> "Axis":
        """Cut a side into as few tiles as do, evenly; `step_px` is the most from one start to the next."""
        indices = np.pad(np.arange(length), (0, -length % multiple), mode="reflect")
        padded = len(indices)
        tile_px = min(tile_px, padded)
        gaps = -(-(padded - tile_px) // step_px)
        units = (padded - tile_px) // multiple
        starts = tuple(number * units // max(gaps, 1) * multiple for number in range(gaps + 1))
        middles = ((here + there + tile_px) // 2 for here, there in pairwise(starts))
        return cls(length, indices, tile_px, starts, (0, *middles, padded), blend_px)

    def weights(self) -> NDArray[np.float32]:
        """How much each tile counts at each of its px: [tiles, tile_px], at every px of the side 1 in all."""
        ramps = np.ones((len(self.starts) + 1, len(self.indices)))
        ramps[-1] = 0
        positions = np.arange(len(self.indices)) + 0.5
        for number, border in enumerate(self.borders[1:-1], start=1):
            # With nothing to blend a step.
            ramps[number] = np.clip((positions - border) / max(self.blend_px, 1e-6) + 0.5, 0, 1)
        shares = ramps[:-1] * (1 - ramps[1:])
        # Two blends meet where a wide one is asked of small tiles.
        shares /= shares.sum(axis=0)
        return np.stack(
            [share[start : start + self.tile_px] for share, start in zip(shares, self.starts, strict=True)]
        ).astype(np.float32)

    def cores(self) -> Iterator[slice]:
        """The part of each tile up to the borders; the cores of all tiles are the padded side, once."""
        for start, (first, last) in zip(self.starts, pairwise(self.borders), strict=True):
            yield slice(first - start, last - start)


def _tile(image: Samples, rows: Axis, columns: Axis, top: int, left: int) -> Samples:
    """One tile of the padded image."""
    down, right = rows.indices[top : top + rows.tile_px], columns.indices[left : left + columns.tile_px]
    return image[down[:, None], right]


def _blend(
    session: ort.InferenceSession,
    target: Encoding,
    image: Samples,
    rows: Axis,
    columns: Axis,
    tick: Callable[[], None],
) -> Samples:
    """Translate tile by tile; only one row of tiles is held in floating point."""
    translated = np.empty((*image.shape[:2], target.channels), target.dtype)
    band = np.zeros((rows.tile_px, len(columns.indices), target.channels), np.float32)
    across = columns.weights()
    for number, (top, down) in enumerate(zip(rows.starts, rows.weights(), strict=True)):
        for left, right in zip(columns.starts, across, strict=True):
            tile = run(session, OUTPUT, _tile(image, rows, columns, top, left))
            weighted = tile * (down[:, None, None] * right[:, None])
            band[:, left : left + columns.tile_px] += weighted
            tick()
        # No later row of tiles reaches what is above its start.
        following = rows.starts[number + 1] if number + 1 < len(rows.starts) else len(rows.indices)
        finished = following - top
        part = translated[top:following]
        finished_band = band[: len(part), : columns.length]
        part[:] = finished_band if target.dtype == "float32" else np.rint(finished_band)
        band[: rows.tile_px - finished] = band[finished:].copy()
        band[rows.tile_px - finished :] = 0
    return translated


def _fix_statistics(
    model: onnx.ModelProto, image: Samples, rows: Axis, columns: Axis, tick: Callable[[], None]
) -> None:
    """Replace every instance normalisation by one with the whole image's mean and variance as constants.

    One after the other, since what comes to a layer depends on the statistics of those before it. The file's
    graph runs up to the layer only.
    """
    nodes = model.graph.node
    for position in [number for number, node in enumerate(nodes) if node.op_type == NORM]:
        node = nodes[position]
        source, scale, shift = node.input
        part = Extractor(model).extract_model([INPUT], [source])
        mean, variance = _moments(_session(part), source, image, rows, columns, tick)
        constants = (f"{node.output[0]}.mean", f"{node.output[0]}.variance")
        for name, values in zip(constants, (mean, variance), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        epsilon = helper.get_node_attr_value(node, "epsilon")
        fixed = helper.make_node(
            "BatchNormalization", [source, scale, shift, *constants], [node.output[0]], epsilon=epsilon
        )
        node.CopyFrom(fixed)


def _moments(
    session: ort.InferenceSession,
    name: str,
    image: Samples,
    rows: Axis,
    columns: Axis,
    tick: Callable[[], None],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of each channel of a tensor [1, channels, h, w] over the whole padded image."""
    pixels = 0
    first: Any = 0.0
    second: Any = 0.0
    for top, down in zip(rows.starts, rows.cores(), strict=True):
        for left, right in zip(columns.starts, columns.cores(), strict=True):
            layer = run(session, name, _tile(image, rows, columns, top, left))
            scale = rows.tile_px // layer.shape[1]
            core = layer[:, _scaled(down, scale), _scaled(right, scale)]
            pixels += core[0].size
            first += core.sum(axis=(1, 2), dtype=np.float64)
            second += np.square(core).sum(axis=(1, 2), dtype=np.float64)
            tick()
    mean = first / pixels
    return mean, np.maximum(second / pixels - mean**2, 0)


def _scaled(part: slice, scale: int) -> slice:
    # Exact: borders are multiples of half the network's multiple, and no normalised map is smaller than that.
    return slice(part.start // scale, part.stop // scale)


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
