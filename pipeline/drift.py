"""`pix2pix drift`: this folder's data against those of a commit, in numbers and one picture.

`prepare` cannot know the version before: its outputs are a function of its deps. Git has every version's
reports/data.json, with all that is compared, and needs no pixel for it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2pix import data_drift
from pix2pix.data_drift import SIDES, Drift
from pix2pix.errors import UserError
from pix2pix.files import atomic_file

from . import commits, tracking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT, PICTURE = Path("reports/data.json"), Path("reports/data_drift.png")


def drift(revision: str) -> tuple[Drift, Path | None]:
    """Compare reports/data.json with that of a commit, and draw both where they differ.

    Raises:
        UserError: there is no such report here or there.
    """
    if not REPORT.is_file():
        raise UserError(f"{REPORT}: not there yet; `dvc repro prepare` makes it")
    if not commits.exists(revision):
        raise UserError(f"{revision}: is no commit of this repository; give a branch, tag or commit")
    before = commits.read_json(revision, REPORT)
    if before is None:
        raise UserError(f"{revision}: has no {REPORT} to compare with; give another branch, tag or commit")
    after = tracking.read_json(REPORT)
    found = data_drift.compare(before, after)
    if found.is_none:
        return found, None
    figure = _drawn(before, after, revision)
    with atomic_file(PICTURE) as partial:
        figure.savefig(partial, metadata={"Software": None})
    return found, PICTURE


def _drawn(before: Mapping[str, Any], after: Mapping[str, Any], revision: str) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    counts, *histograms = figure.subplots(1, 3, width_ratios=(2, 3, 3))
    versions = ((before, revision, "#9aa5b1"), (after, "this folder", "#1f5fa8"))
    for offset, (version, label, colour) in zip((-0.2, 0.2), versions, strict=True):
        rows = version["splits"]
        places = [index + offset for index in range(len(rows))]
        bars = counts.bar(places, [row["pairs"] for row in rows.values()], 0.38, label=label, color=colour)
        counts.bar_label(bars, fontsize=8)
    counts.set_xticks(range(len(after["splits"])), list(after["splits"]))
    counts.set_title("pairs by split", fontsize=10)
    counts.set_ylabel("pairs", fontsize=8)
    counts.margins(y=0.15)
    # One for all panels: the colours mean the same in each.
    figure.legend(*counts.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=9)
    for axes, side in zip(histograms, SIDES, strict=True):
        for version, _, colour in versions:
            if "colours" in version:
                shares = list(version["colours"][side]["histogram"].values())
                step = 256 // len(shares)
                edges = [step * index for index in range(len(shares) + 1)]
                filled = version is before
                axes.stairs(
                    shares, edges, fill=filled, color=colour, alpha=0.6 if filled else 1, linewidth=1.8
                )
                axes.set_ylabel(f"share of the pixels (steps of {step} levels)", fontsize=8)
        axes.set_title(f"{side}: how bright its pixels are", fontsize=10)
        axes.set_xlabel("level (0 is black, 255 white)", fontsize=8)
        axes.set_xticks([0, 64, 128, 192, 255])
        axes.set_xlim(0, 256)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:.0%}")
    for axes in (counts, *histograms):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure
