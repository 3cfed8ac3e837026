"""Saving and loading."""

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import SHARED

from pix2pix import checkpoint
from pix2pix.checkpoint import CheckpointFolder, GeneratorConfig, load_generator, save_generator
from pix2pix.encoding import Encoding
from pix2pix.errors import UserError
from pix2pix.generator import Generator

CONFIG = GeneratorConfig(
    levels=5,
    channels=2,
    norm="batch",
    dropout_blocks=(1, 3),
    image_px=32,
    dataset="Fassaden",
    direction="BtoA",
    params_sha256="p",
    data_sha256="d",
    code_sha256="c",
)


def test_a_generator_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator, path = CONFIG.build().eval(), tmp_path / "generator.safetensors"
    save_generator(path, generator.state_dict(), CONFIG)
    loaded, config = load_generator(path)
    assert config == CONFIG
    assert not loaded.training
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(x), generator(x))


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "encoder-decoder"},
        {"upsample": "resize"},
        {"down_bias": True},
        {"norm": "running"},
        {"in_channels": 1, "input": Encoding(1), "out_channels": 2, "target": Encoding(2, "uint16")},
        {"image_px": (32, 64)},
        {"imported_sha256": "i"},
    ],
    ids=str,
)
def test_every_variant_comes_back_as_it_was_saved(tmp_path: Path, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config, path = replace(CONFIG, **changes), tmp_path / "generator.safetensors"
    generator = config.build().eval()
    with torch.no_grad():
        for value in generator.state_dict().values():
            value.add_(0.1)
    save_generator(path, generator.state_dict(), config)
    loaded, read = load_generator(path)
    assert read == config
    assert loaded.has_skips == (config.architecture == "unet")
    assert [up.upsample for up in loaded.up] == [config.upsample] * 5
    x = torch.randn(1, config.in_channels, 32, 32)
    assert torch.equal(loaded(x), generator(x))


def test_a_file_from_before_the_variants_is_a_unet_with_transposed_convolutions(tmp_path: Path) -> None:
    path, generator = tmp_path / "generator.safetensors", CONFIG.build().eval()
    later = {"architecture", "upsample", "down_bias", "imported_sha256"}
    fields = {name: value for name, value in asdict(CONFIG).items() if name not in later}
    safetensors.torch.save_file(generator.state_dict(), path, {"config": json.dumps(fields)})
    loaded, config = load_generator(path)
    assert config == CONFIG
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(x), generator(x))


@pytest.mark.parametrize(
    "changes", [{"architecture": "encoder-decoder"}, {"upsample": "resize"}, {"down_bias": True}], ids=str
)
def test_weights_of_one_variant_do_not_pass_for_another(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "generator.safetensors"
    save_generator(path, CONFIG.build().state_dict(), replace(CONFIG, **changes))
    with pytest.raises(UserError, match="weights do not fit"):
        load_generator(path)


def test_equal_weights_give_equal_bytes_in_any_process(tmp_path: Path) -> None:
    program = f"""
import torch
from pathlib import Path
from pix2pix.checkpoint import GeneratorConfig, save_generator
from pix2pix.encoding import Encoding
config = {CONFIG!r}
torch.manual_seed(0)
save_generator(Path("g.safetensors"), config.build().state_dict(), config)
"""
    written = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path.cwd())}
        subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)
        written.append((folder / "g.safetensors").read_bytes())
    assert written[0] == written[1]


def test_a_missing_file_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found; `dvc repro train` makes it"):
        load_generator(tmp_path / "generator.safetensors")


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "generator.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a generator of this project"):
        load_generator(path)


def test_a_foreign_safetensors_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="is not a generator of this project"):
        load_generator(path)


def test_weights_of_another_architecture_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "generator.safetensors"
    save_generator(path, CONFIG.build().state_dict(), replace(CONFIG, channels=4))
    with pytest.raises(UserError, match="weights do not fit") as error:
        load_generator(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "choice", [{"norm": 3}, {"norm": "layer"}, {"architecture": "vit"}, {"upsample": ""}]
)
def test_a_choice_that_does_not_exist_is_named(tmp_path: Path, choice: dict[str, Any]) -> None:
    path = tmp_path / "generator.safetensors"
    save_generator(path, CONFIG.build().state_dict(), replace(CONFIG, **choice))
    ((name, value),) = choice.items()
    with pytest.raises(UserError, match=f"is not a generator of this project .{name} = {value!r}; allowed: "):
        load_generator(path)


def test_folders_of_different_trainings_never_meet(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path, "a" * 64).save({"step": 1})
    assert CheckpointFolder(tmp_path, "b" * 64).load() is None


def test_a_folder_that_another_process_holds_is_refused(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from pix2pix.checkpoint import CheckpointFolder
folder = CheckpointFolder(Path({str(tmp_path)!r}), "f")
folder.lock()
print("held", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another training"):
            CheckpointFolder(tmp_path, "f").lock()
        holder.kill()
        holder.wait()
        CheckpointFolder(tmp_path, "f").lock()
    finally:
        holder.kill()
        holder.communicate()


def test_what_a_kill_left_half_written_goes_when_the_folder_is_locked(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "f")
    folder.save({"step": 1})
    (folder.path / "samples").mkdir()
    (folder.path / "samples" / "epoch-0001.png").touch()
    for torn in (".checkpoint.pt.abcd1234.pt", ".holder.abcd1234", "samples/.epoch-0002.png.abcd1234.png"):
        (folder.path / torn).touch()
    folder.lock()
    left = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*")}
    assert left == {"checkpoint.pt", "holder", "lock", "samples", "samples/epoch-0001.png"}


def test_a_folder_is_held_until_nothing_of_it_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, original = CheckpointFolder(tmp_path, "f"), shutil.rmtree
    folder.lock()

    def meanwhile(path: Path, **options: Any) -> None:
        with pytest.raises(UserError, match="another training"):
            CheckpointFolder(tmp_path, "f").lock()
        original(path, **options)

    monkeypatch.setattr(shutil, "rmtree", meanwhile)
    folder.remove()
    assert not folder.path.exists()


def test_a_failed_save_keeps_the_checkpoint_before_it(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "f")
    folder.save({"step": 1})
    with pytest.raises(AttributeError):
        folder.save({"step": 2, "unwritable": lambda: None})
    assert folder.load() == {"step": 1}
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoint.pt"]


def test_a_damaged_checkpoint_says_how_to_start_anew(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "f")
    folder.path.mkdir()
    (folder.path / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"is damaged.*remove it"):
        folder.load()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "there is not enough free memory to go on from it (MemoryError); free some"),
        (torch.OutOfMemoryError("CUDA out of memory"), "there is not enough free memory to go on from it"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be read (Permission denied)"),
        (OSError(errno.EIO, "Input/output error"), "cannot be read (Input/output error)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_whole_checkpoint_that_cannot_be_loaded_just_now_is_not_said_to_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    folder = CheckpointFolder(tmp_path, "f")
    folder.save({"step": 1})

    def refuse(*arguments: object, **options: object) -> None:
        raise error

    with monkeypatch.context() as patch, pytest.raises(UserError) as caught:
        patch.setattr(torch, "load", refuse)
        folder.load()
    assert str(caught.value).startswith(f"{folder.path / 'checkpoint.pt'}: {said}")
    assert "remove it" not in str(caught.value) and "\n" not in str(caught.value)
    assert folder.load() == {"step": 1}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "there is not enough free memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "there is not enough free memory"),
        (RuntimeError("size mismatch for down.0"), "is of another training (size mismatch for down.0)"),
    ],
)
def test_a_checkpoint_that_does_not_fit_into_the_memory_is_not_of_another_training(
    tmp_path: Path, error: Exception, said: str
) -> None:
    folder = CheckpointFolder(tmp_path, "f")
    with pytest.raises(UserError) as caught, folder.taken_up():
        raise error
    assert str(caught.value).startswith(f"{folder.path / 'checkpoint.pt'}: {said}")
    assert ("remove it" in str(caught.value)) == said.startswith("is of another")


def test_the_code_digest_changes_with_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = checkpoint.code_sha256()
    assert checkpoint.code_sha256() == before
    changed = tmp_path / "losses.py"
    changed.write_text("# changed")
    monkeypatch.setattr(sys.modules["pix2pix.files"], "__file__", str(changed))
    assert checkpoint.code_sha256() != before


# --- the reference's weights -------------------------------------------------------------------------


def fixture(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    path = SHARED / "fixtures" / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with np.load(path) as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays}
    state = {key.removeprefix("state/"): value for key, value in tensors.items() if key.startswith("state/")}
    return state, tensors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "output_batch1_train_stats_no_dropout"),
        (("instance",), "output_batch1_train_stats_no_dropout"),
        (("running",), "output_eval"),
    ],
)
def test_the_references_generator_is_one_call(arguments: tuple[str, ...], expected: str) -> None:
    state, arrays = fixture("unet_128_ngf8")
    generator = checkpoint.load_reference_generator(state, *arguments)
    assert isinstance(generator, Generator)
    with torch.inference_mode():
        output = generator(arrays["input"])
    torch.testing.assert_close(output, arrays[expected], rtol=0, atol=1e-5)


def test_the_references_discriminator_is_one_call() -> None:
    state, arrays = fixture("patchgan_70_ndf8")
    with torch.inference_mode():
        logits = checkpoint.load_reference_discriminator(state)(arrays["input"])
    torch.testing.assert_close(logits, arrays["output_eval"], rtol=0, atol=1e-5)


def test_what_is_not_the_references_is_one_line() -> None:
    for load in (checkpoint.load_reference_generator, checkpoint.load_reference_discriminator):
        with pytest.raises(UserError, match="missing; the file begins with a") as error:
            load({"a": torch.zeros(1)})
        assert "\n" not in str(error.value)


def test_a_folder_in_the_place_of_weights_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read|is not a generator") as caught:
        load_generator(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"channels": -4}, {"levels": "7"}])
def test_an_impossible_configuration_is_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "generator.safetensors"
    save_generator(path, CONFIG.build().state_dict(), CONFIG)
    with safetensors.safe_open(path, framework="pt") as file:
        fields = json.loads(file.metadata()["config"]) | changes
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    safetensors.torch.save_file(state, path, {"config": json.dumps(fields)})
    with pytest.raises(UserError) as caught:
        load_generator(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", bytes(100), b"garbage" * 99, b"PK\x03\x04"])
def test_a_checkpoint_of_garbage_says_how_to_start_anew(tmp_path: Path, content: bytes) -> None:
    folder = CheckpointFolder(tmp_path, "f")
    folder.path.mkdir()
    (folder.path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged \(.+\); remove it to start from the beginning"):
        folder.load()
