"""The stage train: what a checkpoint is of, signs of collapse on their way to the run, and signals."""

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from pair_fixtures import write_split
from PIL import Image

from pipeline import lineage, tracking
from pix2pix import checkpoint, collapse, devices, pair_set, training
from pix2pix.encoding import Encoding
from pix2pix.errors import UserError
from pix2pix.events import Collapsed, Diverged
from pix2pix.pair_files import PairFiles
from pix2pix.params import Params, read_yaml, validate
from stages import train
from stages.runner import Stopped

pytest_plugins = ["registry_fixtures"]

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
GEOMETRY = pair_set.Geometry("test", "AtoB", 32, 36)
TINY: dict[str, dict[str, Any]] = {
    "prepare": {"image_px": 32},
    "model": {
        "generator_channels": 2,
        "dropout_blocks": [1, 2],
        "discriminator_channels": 2,
        "discriminator_layers": 1,
    },
    "train": {"epochs": 3, "validate_every": 1, "losses_every": 2, "threads": 1, "device": "cpu"},
    "registry": {"model_name": "tiny"},
    "run": {"progress": "lines", "checkpoint_every_epochs": 1},
}


def params(**sections: dict[str, Any]) -> Params:
    values: Any = read_yaml(ROOT / "params.yaml")
    for changes in (TINY, sections):
        for section, keys in changes.items():
            values[section] |= keys
    return validate(values, "params.yaml")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project folder after `prepare`."""
    place = tmp_path / "project"
    write_split(place / "data" / "pairs" / "train", 4, 36)
    write_split(place / "data" / "pairs" / "val", 3, 32)
    GEOMETRY.write(place / "data" / "pairs" / "pairs.json")
    monkeypatch.chdir(place)
    lineage.home.cache_clear()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield place
    lineage.home.cache_clear()
    for number, handler in before.items():
        signal.signal(number, handler)


# --- the fingerprint ---------------------------------------------------------------------------------


def fingerprint(**sections: dict[str, Any]) -> str:
    pairs = train.PAIRS
    geometry = pair_set.Geometry.read(pairs / "pairs.json")
    digests = {split: PairFiles.find(pairs / split).sha256() for split in train.SPLITS}
    return train._identity(params(**sections), geometry, digests, CPU)[1]


# Another value for each key of the recipe.
OTHERS: dict[str, dict[str, Any]] = {
    "model": {
        "architecture": "encoder-decoder",
        "in_channels": 3,
        "out_channels": 3,
        "generator_channels": 3,
        "upsample": "resize",
        "dropout_blocks": [1],
        "norm": "batch",
        "discriminator_channels": 3,
        "discriminator_layers": 2,
        "conditional": False,
    },
    "train": {
        "epochs": 4,
        "decay_share": 0.25,
        "batch": 2,
        "lr": 0.001,
        "beta1": 0.9,
        "gan_loss": "hinge",
        "lambda_l1": 10.0,
        "seed": 2,
        "validate_every": 2,
        "sample_images": 3,
        "losses_every": 3,
        "keep": "best",
        "on_collapse": "stop",
        "device": "auto",
        "threads": 2,
        "cache": "stream",
        "precision": "bf16",
        "cuda_graph": "off",
        "deterministic": False,
        "processes": 2,
        "warm_start": "a" * 64,
    },
}
SAME = {"on_collapse", "cache", "processes"}


def test_every_key_of_the_recipe_makes_another_training_but_for_those_that_change_no_bit(place: Path) -> None:
    before = fingerprint()
    assert fingerprint() == before
    for section, keys in OTHERS.items():
        assert set(keys) == set(params().model_dump()[section])
        for key, value in keys.items():
            batch = {"batch": 2} if key == "processes" else {}
            same = fingerprint(**{section: {key: value, **batch}}) == fingerprint(train=batch)
            assert same == (key in SAME), key


def test_what_is_not_of_the_recipe_makes_no_other_training(place: Path) -> None:
    assert fingerprint(run={"checkpoint_every_epochs": 5}, registry={"model_name": "other"}) == fingerprint()


# Another value for each key of `run`, and whether processes with both would wait for each other for ever.
OF_RUN: dict[str, tuple[Any, bool]] = {
    "progress": ("bar", False),
    "log_every_steps": (7, True),
    "checkpoint_every_epochs": (7, True),
    "loader_workers": (3, False),
    "tracking": (False, False),
    "tracked_grids": (7, False),
}


def work(**sections: dict[str, Any]) -> dict[str, str]:
    return train._work(params(**sections), {"train": "a" * 64}, "c" * 64, CPU, "fp32")


def test_processes_are_at_the_same_work_where_all_that_steers_them_is_the_same() -> None:
    same = work()
    assert same == work(evaluate={"kd_subsets": 7})
    assert set(OF_RUN) == set(params().model_dump()["run"])
    for key, (value, is_other) in OF_RUN.items():
        assert params().model_dump()["run"][key] != value
        others = {name for name, found in work(run={key: value}).items() if found != same.get(name)}
        assert others == ({f"run.{key}"} if is_other else set())
    for section, keys in OTHERS.items():
        for key, value in keys.items():
            batch = {"batch": 2} if key == "processes" else {}
            its = work(**{section: {key: value, **batch}})
            assert its[f"{section}.{key}"] != same[f"{section}.{key}"]
    other = train._work(params(), {"train": "b" * 64}, "d" * 64, torch.device("cuda", 1), "bf16")
    assert {name for name in same if other[name] != same[name]} == {"pairs", "code", "device", "precision"}
    assert other["device"] == "cuda"


@pytest.mark.parametrize("side", ["input", "target"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_one_other_pixel_makes_another_training(place: Path, split: str, side: str) -> None:
    before = fingerprint()
    (file, *_) = sorted((train.PAIRS / split / side).iterdir())
    with Image.open(file) as picture:
        red, green, blue = picture.getpixel((3, 4))
        picture.putpixel((3, 4), (red ^ 1, green, blue))
        picture.save(file)
    assert fingerprint() != before


def test_the_same_pixels_in_another_range_make_another_training(place: Path) -> None:
    before = fingerprint()
    scaled = Encoding(3, range="percentiles", low=(0.0, 0.0, 0.0), high=(250.0, 250.0, 250.0))
    replace(GEOMETRY, target=scaled).write(train.PAIRS / "pairs.json")
    assert fingerprint() != before


@pytest.mark.parametrize(
    ("place_of", "name", "other"),
    [
        (checkpoint, "code_sha256", lambda: "of other code"),
        (torch, "__version__", "9.9"),
        (torch.backends.cpu, "get_cpu_capability", lambda: "of another CPU"),
        (devices, "choose_precision", lambda *arguments: "bf16"),
    ],
    ids=["code", "torch", "CPU", "precision"],
)
def test_other_code_or_another_machine_makes_another_training(
    place: Path, monkeypatch: pytest.MonkeyPatch, place_of: Any, name: str, other: Any
) -> None:
    before = fingerprint()
    monkeypatch.setattr(place_of, name, other)
    assert fingerprint() != before


def test_another_gpu_makes_another_training(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "choose_precision", lambda *arguments: "fp32")
    seen = set()
    for name in ("A100", "H100"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        digests = {"train": "t", "val": "v"}
        seen.add(train._identity(params(), GEOMETRY, digests, torch.device("cuda", 0))[1])
    assert len(seen) == 2


# --- collapse ----------------------------------------------------------------------------------------


@pytest.fixture
def won(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any loss of the discriminator is low, and six steps of it are long."""
    monkeypatch.setattr(collapse, "WON_STEPS", 6)
    monkeypatch.setattr(collapse, "WON_SHARE", 1e9)


def the_run(status: str) -> Any:
    client = MlflowClient(tracking.store_uri(), tracking.store_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run.info.status == status
    return run


def outputs() -> dict[str, bytes]:
    written = [train.GENERATOR, train.LOSSES, train.VALIDATION, *sorted(train.SAMPLES.glob("*"))]
    return {file.as_posix(): file.read_bytes() for file in written}


def test_a_sign_of_collapse_is_said_and_is_a_tag_of_the_run_and_changes_no_output(
    place: Path, store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.train(params(run={"tracking": False}))
    healthy = outputs()
    monkeypatch.setattr(collapse, "WON_STEPS", 6)
    monkeypatch.setattr(collapse, "WON_SHARE", 1e9)
    train.train(params())
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1 and said[0].startswith("step 6: the discriminator's losses have been below")
    assert the_run("FINISHED").data.tags["collapse"] == said[0]
    assert outputs() == healthy


def test_a_training_that_stopped_at_a_sign_goes_on_with_warn_to_the_same_bytes(
    place: Path, store: Path, won: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train.train(params(run={"tracking": False}))
    undisturbed = outputs()
    shutil.rmtree("models")
    with pytest.raises(Collapsed, match=r"with warn it goes on from its last checkpoint$") as stopped:
        train.train(params(train={"on_collapse": "stop"}))
    assert stopped.value.exit_status == 2
    # The process does not end here, so its lock goes with the exception's frames.
    del stopped
    gc.collect()
    assert the_run("FAILED").data.tags["collapse"].startswith("step 6: the discriminator's losses")
    assert not train.GENERATOR.exists()
    train.train(params())
    assert "going on from the checkpoint at step 4 of 12" in caplog.text
    the_run("FINISHED")
    assert outputs() == undisturbed


def test_a_loss_that_is_no_number_ends_the_stage_and_is_a_tag_of_the_run(
    place: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "training_step", lambda *arguments: torch.full((4,), torch.nan))
    with pytest.raises(Diverged, match=r"^training: a loss became NaN or infinite at step 1; ") as diverged:
        train.train(params())
    assert diverged.value.exit_status == 2
    assert the_run("FAILED").data.tags["collapse"] == str(diverged.value)
    assert not train.GENERATOR.exists()


def test_threads_without_cores_and_too_little_memory_are_warned_of_before_the_first_step(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "available_cores", lambda: 1)
    monkeypatch.setattr(devices, "free_bytes", lambda device: 10**5)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    train.train(params(train={"threads": 2, "epochs": 1, "cache": "stream"}, run={"tracking": False}))
    threads, memory = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"][:2]
    assert threads.startswith("2 threads share 1 cores, which can make a training several times slower; ")
    assert memory.startswith(
        "memory may run out, and the system end the training: train.batch = 1 at prepare."
    )


def test_memory_that_runs_out_while_validating_ends_in_one_line_and_keeps_the_checkpoint(
    place: Path, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    validate = training.validate

    def exhausted(*arguments: Any) -> Any:
        if list(Path(".checkpoints").glob("*/checkpoint.pt")):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return validate(*arguments)

    with monkeypatch.context() as patch, pytest.raises(UserError) as caught:
        patch.setattr(training, "validate", exhausted)
        train.train(params())
    assert str(caught.value).startswith(
        "out of memory on cpu: train.batch = 1 at prepare.image_px = 32 takes"
    )
    the_run("FAILED")
    assert not train.GENERATOR.exists()
    del caught
    gc.collect()
    train.train(params())
    assert "going on from the checkpoint at step" in caplog.text


# --- signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_pairs_are_read_ends_the_stage_where_it_falls(
    place: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def stop(signum: int, frame: object) -> None:
        raise Stopped(signum)

    def read(*arguments: object) -> None:
        os.kill(os.getpid(), number)
        raise AssertionError("went on")

    # As `runner.run` has it.
    signal.signal(number, stop)
    monkeypatch.setattr(train, "_open_pairs", read)
    with pytest.raises(Stopped) as stopped:
        train.train(params(run={"tracking": False}))
    assert stopped.value.signum == number


# --- what is left behind -----------------------------------------------------------------------------


def test_make_clean_removes_what_kills_left_half_written(place: Path) -> None:
    left = ("data/.raw.abcd1234", "models/.generator.onnx.abcd1234.onnx", "reports/.losses.csv.abcd1234.csv")
    for name in (*left, "data/.prepare"):
        (place / name).mkdir(parents=True)
        os.utime(place / name, (0, 0))
    train.remove_stale(params())
    assert not any((place / name).exists() for name in left)
    assert (place / "data" / ".prepare").exists(), "an interrupted prepare goes on with it"
    assert train.PAIRS.exists()
