"""What an alias or a version names comes out of the registry, unharmed."""

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import onnx
import pytest
from registry_fixtures import (
    CHAMPION_URI,
    MODEL_NAME,
    Project,
    Server,
    aliases,
    client,
    noise,
    register,
    run_onnx,
)

from pipeline import delivery, registry, tracking
from pix2pix.encoding import Encoding
from pix2pix.errors import UserError

pytest_plugins = ["registry_fixtures"]


# --- what a consumer gets ----------------------------------------------------------------------------


def test_the_registered_model_gives_the_pixels_of_the_file(champion: Project) -> None:
    tracking.connect()
    batch = np.stack([noise(64, 32, seed) for seed in (1, 2)])
    translated = mlflow.pyfunc.load_model(CHAMPION_URI).predict({"image": batch})["translated"]
    assert translated.dtype == np.uint8
    assert translated.shape == batch.shape
    assert np.array_equal(translated, run_onnx(champion.model, batch))


def test_the_logged_file_keeps_its_bytes_and_says_what_it_needs(champion: Project) -> None:
    tracking.connect()
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=CHAMPION_URI))
    assert (folder / "model.onnx").read_bytes() == champion.model.read_bytes()
    runtime = "onnxruntime" if sys.platform == "darwin" else "onnxruntime-gpu"
    needed = [f"{name}=={metadata.version(name)}" for name in ("mlflow", "numpy", "onnx", runtime)]
    assert (folder / "requirements.txt").read_text().split() == needed
    assert "python" in (folder / "conda.yaml").read_text()


def test_the_signature_is_named_pixels(champion: Project) -> None:
    tracking.connect()
    signature = mlflow.models.get_model_info(CHAMPION_URI).signature
    for schema, name in ((signature.inputs, "image"), (signature.outputs, "translated")):
        (tensor,) = schema.inputs
        assert (tensor.name, tensor.type, tensor.shape) == (name, np.dtype(np.uint8), (-1, -1, -1, 3))


# --- pull --------------------------------------------------------------------------------------------


@pytest.fixture
def two_versions(champion: Project) -> dict[str, bytes]:
    """Version 1 is the champion, 2 the challenger; the bytes of their files."""
    files = {"1": champion.model.read_bytes()}
    champion.make("b", 0.3)
    register(champion)
    return {**files, "2": champion.model.read_bytes()}


def not_pulled(uri: str) -> str:
    with pytest.raises(UserError) as caught:
        delivery.pull(uri)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_alias_or_a_version_gives_its_file(two_versions: dict[str, bytes]) -> None:
    for which, version in (("@champion", "1"), ("@challenger", "2"), ("/1", "1"), ("/2", "2")):
        pulled = delivery.pull(f"models:/{MODEL_NAME}{which}")
        assert pulled.read_bytes() == two_versions[version]
        assert pulled.parent == Path(os.environ["PIX2PIX_CACHE"]) / "models"


def test_what_is_not_there_is_answered_with_what_is(two_versions: dict[str, bytes], store: Path) -> None:
    there = f"{MODEL_NAME} has no {{}}; it has @challenger (version 2), @champion (version 1)"
    for which in ("@production", "/3", "/three"):
        line = f"models:/{MODEL_NAME}{which}: {there.format(which[1:])}"
        assert not_pulled(f"models:/{MODEL_NAME}{which}") == line
    client().delete_registered_model_alias(MODEL_NAME, "champion")
    hint = f"it has @challenger (version 2); --model models:/{MODEL_NAME}@challenger takes that one"
    assert not_pulled(CHAMPION_URI).endswith(f"has no champion; {hint}")
    many = f"models:/{MODEL_NAME}/{'9' * 20}"
    assert not_pulled(many) == f"{many}: there is no such version"
    line = not_pulled("models:/big@champion")
    assert line == f"models:/big@champion: no model big in sqlite:///{store}; models there: {MODEL_NAME}"


def test_an_empty_store_says_how_to_fill_it(project: Project, store: Path) -> None:
    assert not_pulled(CHAMPION_URI).endswith("models there: none yet; `make repro` registers one")


def test_pulling_makes_no_store(project: Project) -> None:
    line = not_pulled(CHAMPION_URI)
    assert line.startswith(f"{CHAMPION_URI}: there is no {project.folder / 'mlflow.db'}; `make repro`")
    assert list(project.folder.iterdir()) == []


@pytest.mark.parametrize("uri", ["models:/", "models:/a", "models:/a@", "models:/@b", "models:/a/", "tiny"])
def test_what_is_no_address_of_a_model_is_said(uri: str) -> None:
    assert not_pulled(uri) == (
        f"{uri}: is not a model; expected models:/NAME@ALIAS, models:/NAME/VERSION or a file.onnx"
    )


def test_a_cached_file_is_used_again_and_a_damaged_one_replaced(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    register(project)
    pulled = delivery.pull(CHAMPION_URI)
    first = pulled.stat()
    assert delivery.pull(CHAMPION_URI) == pulled
    assert (pulled.stat().st_ino, pulled.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    pulled.write_bytes(b"damaged")
    assert delivery.pull(CHAMPION_URI).read_bytes() == project.model.read_bytes()
    # With the file in the cache the store's own copy is not needed.
    shutil.rmtree(store.parent / "mlartifacts")
    assert delivery.pull(CHAMPION_URI).read_bytes() == project.model.read_bytes()


def test_a_file_that_is_not_the_registered_one_is_refused(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    register(project)
    (stored,) = (store.parent / "mlartifacts").rglob("*.onnx")
    stored.write_bytes(project.exported)
    line = not_pulled(CHAMPION_URI)
    assert "its file has SHA-256" in line
    assert line.endswith("do not use it")
    assert list(Path(os.environ["PIX2PIX_CACHE"]).rglob("*.onnx")) == []
    stored.unlink()
    assert "its file is gone from the store" in not_pulled(CHAMPION_URI)


def test_a_model_of_another_project_is_pulled_if_it_is_one_onnx_file(project: Project, store: Path) -> None:
    project.make("a", 0.2)
    tracking.connect()
    experiment = tracking.use_experiment(mlflow, "theirs")
    with mlflow.start_run(experiment_id=experiment):
        mlflow.onnx.log_model(
            onnx.load(project.model),
            name="theirs",
            registered_model_name="theirs",
            pip_requirements=[],
            save_as_external_data=False,
        )
    assert delivery.pull("models:/theirs/1").read_bytes() == project.model.read_bytes()
    assert not_pulled("models:/theirs@champion").endswith("it has versions without an alias")


# --- a team's server ---------------------------------------------------------------------------------


def test_a_server_keeps_and_gives_the_file(project: Project, server: Server) -> None:
    project.make("a", 0.2)
    assert register(project).alias == "champion"
    assert register(project).created is False
    project.make("b", 0.1)
    assert register(project).version == "2"
    assert aliases() == {"champion": "2"}
    pulled = delivery.pull(CHAMPION_URI)
    assert pulled.read_bytes() == project.model.read_bytes()
    assert not_pulled(f"models:/{MODEL_NAME}@production").endswith("it has @champion (version 2)")
    assert not_pulled(f"models:/{MODEL_NAME}/9").endswith("it has @champion (version 2)")
    line = not_pulled("models:/big@champion")
    assert line.startswith(f"models:/big@champion: no model big in {server.uri}; models there: ")
    assert MODEL_NAME in line
    assert not (project.folder / "mlflow.db").exists()


def test_the_signature_has_the_types_and_channels_of_the_file() -> None:
    file = SimpleNamespace(input=Encoding(7, "uint16"), target=Encoding(1, "float32"))
    signature = registry._signature(file)  # type: ignore[arg-type]
    tensors = [
        (tensor.name, str(tensor.type), tensor.shape) for tensor in (*signature.inputs, *signature.outputs)
    ]
    assert tensors == [("image", "uint16", (-1, -1, -1, 7)), ("translated", "float32", (-1, -1, -1, 1))]
