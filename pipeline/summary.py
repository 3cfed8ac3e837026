"""What a run ends with on the terminal: numbers and yardsticks, where things are, what to type next."""

import textwrap
from pathlib import Path

from pix2pix.params import EMBEDDED_NAME, Params, distance_names

from . import tracking
from .registry import Registered

ROWS = (
    ("l1", "L1 (0–1)", ""),
    ("psnr_db", "PSNR (dB)", "higher is better"),
    ("ssim", "SSIM", "higher is better"),
)
REPORTS = Path("reports")
INDENT = " " * 10


def text(params: Params, registered: Registered) -> str:
    """The summary of a finished run, plain text of at most 100 columns."""
    metrics = tracking.read_json(REPORTS / "metrics.json")
    frechet, kernel = distance_names(metrics["features"]["name"])
    rows = ((kernel, kernel, ""), (frechet, frechet, ""), *ROWS)
    counted = f"{metrics['images']} test images"
    lines = ["", f"{counted:28}{'model':>10}{'input as output':>18}{'floor':>10}"]
    for key, label, note in rows:
        model, doing_nothing = metrics["model"][key], metrics["input_as_output"][key]
        floor = metrics["floor"].get(key)
        change = f"{100 * (model / doing_nothing - 1):+.0f} %" if doing_nothing else ""
        said = f"{note}: worse than its input" if note and model < doing_nothing else note or change
        cells = f"{model:10.4g}{doing_nothing:18.4g}{'' if floor is None else format(floor, '.4g'):>10}"
        lines.append(f"  {label:26}{cells}   {said}")
    next_step = (
        "pix2pix preset facades-small && dvc repro     # the real CMP Facades"
        if params.dataset.name == EMBEDDED_NAME
        else "dvc exp run -S train.seed=2                   # an experiment; dvc exp show compares"
    )
    verb = "registered as" if registered.created else "is"
    lines += [
        "",
        f"pictures  {REPORTS / 'test_grid.png'}  {REPORTS / 'worst.png'}",
        f"model     {params.registry.model_name} {verb} version {registered.version}, {registered.alias}:",
        *textwrap.wrap(registered.reason, 100, initial_indent=INDENT, subsequent_indent=INDENT),
        f"store     {tracking.store_name()}",
        "",
        "next      . .venv/bin/activate",
        "          pix2pix translate data/pairs/test/input out   # any images or folders",
        "          make ui                                       # runs, curves and models in a browser",
        f"          {next_step}",
    ]
    return "\n".join(lines)
