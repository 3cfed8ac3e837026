"""The pages that people read lead where they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from registry_fixtures import MODEL_NAME, Project, noise, run_onnx

pytest_plugins = ["registry_fixtures"]

LISTED = subprocess.run(
    ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
    cwd=ROOT,
    capture_output=True,
    check=True,
    text=True,
)
PAGES = [page for page in LISTED.stdout.split() if not page.startswith("reports/")]


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: str) -> None:
    here = ROOT / page
    text = re.sub(r"^```.*?^```", "", here.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text)
    lost = []
    for path, heading in links:
        target = (here.parent / path).resolve() if path else here
        if not target.exists() or (heading and heading not in anchors(target)):
            lost.append(f"{path}#{heading}")
    assert not lost


def test_the_readmes_lines_for_elsewhere_need_only_what_it_says_is_installed(
    champion: Project, store: Path, tmp_path: Path
) -> None:
    (lines,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    for written, here in (
        ("sqlite:////path/to/pix2pix-pipeline/mlflow.db", f"sqlite:///{store}"),
        ("pix2pix-quickstart", MODEL_NAME),
    ):
        assert written in lines
        lines = lines.replace(written, here)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    picture = noise(128, 128)
    Image.fromarray(picture).save(elsewhere / "map.png")
    # What is None there cannot be imported.
    without = "import sys; sys.modules |= dict.fromkeys(('onnx', 'torch', 'pix2pix', 'pipeline'))\n"
    # Nor what another test's MLflow has left among the variables of this process.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", without + lines],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = run_onnx(champion.model, picture[None])[0]
    assert np.array_equal(np.asarray(Image.open(elsewhere / "photo.png")), expected)
