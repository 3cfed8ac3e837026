"""The model card: what a generator is, what it was made of, how good it is, how to load it."""

import textwrap
from collections.abc import Mapping
from typing import Any

from pix2pix.params import Params, distance_names

# As data.json says it.
RGB8 = "3 channels of uint8"
NAMES = {"l1": "L1 (0–1)", "psnr_db": "PSNR (dB)", "ssim": "SSIM"}


def write(
    params: Params, metrics: Mapping[str, Any], data: Mapping[str, Any], export: Mapping[str, Any]
) -> str:
    """The card as Markdown, a function of its arguments alone; under MLflow's limit of 5000 characters."""
    dataset, name = params.dataset, params.registry.model_name
    direction = "side A → side B" if dataset.direction == "AtoB" else "side B → side A"
    # As in training; BOX is Pillow's word for the mean over an area.
    resampling = {"nearest": "NEAREST", "area": "BOX", "bicubic": "BICUBIC"}[data["resize_input"]]
    imported = export["metadata"]["imported_sha256"]
    # Of imported weights only those are known that they were measured on.
    known = {which: split for which, split in data["splits"].items() if which == "test" or not imported}
    counts = ", ".join(f"{split['pairs']} {which}" for which, split in known.items())
    return f"""# {name}

A pix2pix generator {_origin(params, imported)} on **{dataset.name}**, {direction}, at {data["image_px"]} px.
Pixels in, pixels out: {_pixels(data)}, any height and width that are multiples of {export["multiple"]};
deterministic, and the same alone and in a batch.

| | |
|---|---|
| pairs | {counts} ({data["split_rule"]}) |
| licence of the data | {_cell(dataset.licence) or "not stated"} |
| weights | sha256 `{metrics["weights_sha256"]}` |
| ONNX file | sha256 `{export["onnx_sha256"]}`, opset {export["opset"]} |

## How good it is

On all {metrics["images"]} test images. *Input as output* is what doing nothing would score; *floor* is
how far real training images are from real test images. Lower is better, but for PSNR and SSIM.

{metrics_table(metrics)}

The distances use the features of {metrics["features"]["name"]}.
Its run in MLflow has test_grid.png and worst.png, under evaluation/.

## How to load it

```python
import mlflow, numpy as np
{_how_to_load(data, export, name, resampling)}
```

MLFLOW_TRACKING_URI says where the registry is. Without MLflow, with the file alone, `image` as above:

```python
import onnxruntime

session = onnxruntime.InferenceSession("generator.onnx", providers=["CPUExecutionProvider"])
translated = session.run(["translated"], {{"image": image[None]}})[0][0]
```
"""


def _origin(params: Params, imported_sha256: str) -> str:
    """How it came to be, up to the word before the data."""
    if imported_sha256:
        weights = f"imported weights, training unknown (file sha256 `{imported_sha256}`)"
        return f"(U-Net; Isola et al. 2017)\nof {weights},\nmeasured"
    network = {"unet": "U-Net", "encoder-decoder": "encoder–decoder"}[params.model.architecture]
    gan = "conditional GAN" if params.model.conditional else "unconditional GAN"
    losses = [gan] if params.train.gan_loss != "none" else []
    losses += ["L1"] if params.train.lambda_l1 else []
    return f"({network}, {' + '.join(losses)}; Isola et al. 2017)\ntrained"


def _is_rgb8(data: Mapping[str, Any]) -> bool:
    return {data.get("input", RGB8), data.get("target", RGB8)} == {RGB8}


def _pixels(data: Mapping[str, Any]) -> str:
    if _is_rgb8(data):
        return "uint8"
    return f"{data['input']} in, {data['target']} out"


def _how_to_load(data: Mapping[str, Any], export: Mapping[str, Any], name: str, resampling: str) -> str:
    load = f'model = mlflow.pyfunc.load_model("models:/{name}@champion")'
    if not _is_rgb8(data):
        return f"""
{load}
# {data["input"]}: [height, width, channels], both sides multiples of {export["multiple"]}.
image = np.load("input.npy")
np.save("output.npy", model.predict({{"image": image[None]}})["translated"][0])"""
    height, _, width = str(data["image_px"]).partition("×")
    return f"""from PIL import Image

{load}
image = Image.open("input.png").convert("RGB")
# Any size of multiples of {export["multiple"]} will do; this is the one it was measured at.
image = np.asarray(image.resize(({width or height}, {height}), Image.Resampling.{resampling}))
Image.fromarray(model.predict({{"image": image[None]}})["translated"][0]).save("output.png")"""


def _cell(text: str) -> str:
    """A user's words in a table: on one line, without its separator, at a length that leaves room."""
    return textwrap.shorten(text, 1000).replace("|", "\\|")


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """metrics.json as a Markdown table: a row a metric, a column for the model and for each yardstick."""
    frechet, kernel = distance_names(metrics["features"]["name"])
    rows = ["| metric | model | input as output | floor |", "|---|---|---|---|"]
    for name in (kernel, frechet, *NAMES):
        values = [metrics[group].get(name) for group in ("model", "input_as_output", "floor")]
        cells = ["" if value is None else f"{value:.4g}" for value in values]
        if name == kernel:
            cells[0] += f" ± {metrics['model'][f'{kernel}_std']:.2g}"
        rows.append(f"| {NAMES.get(name, name)} | {' | '.join(cells)} |")
    return "\n".join(rows)
