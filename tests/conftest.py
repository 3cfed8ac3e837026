"""What several tests share: tiny pairs and tiny recipes."""

import os
from pathlib import Path

import numpy as np
import pytest

# Before any test imports them: no telemetry, no colour codes in what is compared.
# And one thread: tests run beside each other, and waiting threads would spin on each other's cores.
os.environ.update(
    DVC_NO_ANALYTICS="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    NO_COLOR="1",
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="passive",
)

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's caches, or a mirror or server of the user's."""
    monkeypatch.setenv("PIX2PIX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    for name in ("PIX2PIX_MIRROR", "MLFLOW_TRACKING_URI", "DVC_ROOT", "PIX2PIX_OUTCOME_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)
