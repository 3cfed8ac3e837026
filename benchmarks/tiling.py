"""`python -m benchmarks.tiling MODEL IMAGE…`: an image in tiles against the same image whole.

Seams are looked for along the borders of tiles. The gradient across them is that of the pixels on both sides,
against the same pixels of the untiled result. The step is the colour of 32 px on one side less that of 32 px
on the other, in stretches of 32 px, of the difference to the untiled result: what the eye sees as another
tint.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from pix2pix import images
from pix2pix.images import Pixels
from pix2pix.tiling import TiledTranslator
from pix2pix.translator import Translator

_SIDE_PX = 32


@dataclass(frozen=True)
class Seams:
    """How a tiled result differs from the untiled one, in levels of 255 where no unit is named.

    Args:
        times: as long as the untiled one.
        gradient: across borders, times that of the untiled one.
    """

    times: float
    difference: float
    largest: float
    gradient: float
    step: float


def measure(tiled: TiledTranslator, whole: Translator, image: Pixels) -> Seams:
    """Compare both on an image that fits into the memory and takes at least two tiles each way."""
    seconds, results = [], []
    for translate in (whole, tiled):
        started = time.perf_counter()
        results.append(translate(image).astype(np.float64))
        seconds.append(time.perf_counter() - started)
    untiled, result = results
    difference = result - untiled
    gradients, steps = [], []
    for number, axis in enumerate(tiled.axes(image)):
        borders = [border for border in axis.borders[1:-1] if border + _SIDE_PX <= axis.length]
        across = [_gradient(np.moveaxis(side, number, 0), borders) for side in (result, untiled)]
        gradients.append(across[0] / across[1])
        steps.append(_step(np.moveaxis(difference, number, 0), borders))
    return Seams(
        seconds[1] / seconds[0],
        float(np.abs(difference).mean()),
        float(np.abs(difference).max()),
        statistics.mean(gradients),
        statistics.mean(steps),
    )


def _gradient(result: NDArray[np.float64], borders: list[int]) -> float:
    return float(np.mean([np.abs(result[border] - result[border - 1]).mean() for border in borders]))


def _step(difference: NDArray[np.float64], borders: list[int]) -> float:
    stretches = difference.shape[1] // _SIDE_PX
    steps = []
    for border in borders:
        before, after = difference[border - _SIDE_PX : border], difference[border : border + _SIDE_PX]
        step = (after.mean(axis=0) - before.mean(axis=0))[: stretches * _SIDE_PX]
        steps.append(np.abs(step.reshape(stretches, _SIDE_PX, -1).mean(axis=1)).mean())
    return float(np.mean(steps))


def main(
    model: Annotated[Path, typer.Argument(help="A generator.onnx.")],
    pictures: Annotated[list[Path], typer.Argument(help="Larger than a tile both ways.")],
    tile: Annotated[int, typer.Option(min=1)] = 256,
    overlap: Annotated[int, typer.Option(min=0)] = 64,
) -> None:
    """Print means over the images."""
    whole = Translator(model)
    print("statistics  overlap  time  difference  largest  gradient across borders  step")
    for kind, overlap_px in (("tile", 0), ("tile", overlap), ("image", overlap)):
        tiled = TiledTranslator(model, tile, overlap_px, kind)  # type: ignore[arg-type]
        found = [measure(tiled, whole, images.read_rgb(picture)) for picture in pictures]
        mean = {name: statistics.mean(getattr(one, name) for one in found) for name in vars(found[0])}
        print(
            f"{kind:10}  {overlap_px:4} px  {mean['times']:3.1f}×  {mean['difference']:10.2f}  "
            f"{mean['largest']:7.0f}  {mean['gradient']:22.2f}×  {mean['step']:4.2f}"
        )


if __name__ == "__main__":
    typer.run(main)
