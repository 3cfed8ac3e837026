"""Saving and loading."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pix2pix import checkpoint
from pix2pix.checkpoint import CheckpointFolder, GeneratorConfig, load_generator, save_generator
from pix2pix.errors import UserError

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


def test_equal_weights_give_equal_bytes_in_any_process(tmp_path: Path) -> None:
    program = f"""
import torch
from pathlib import Path
from pix2pix.checkpoint import GeneratorConfig, save_generator
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


def test_folders_of_different_trainings_never_meet(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path, "a" * 64).save({"step": 1})
    assert CheckpointFolder(tmp_path, "b" * 64).load(torch.device("cpu")) is None


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


def test_a_failed_save_keeps_the_checkpoint_before_it(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "f")
    folder.save({"step": 1})
    with pytest.raises(AttributeError):
        folder.save({"step": 2, "unwritable": lambda: None})
    assert folder.load(torch.device("cpu")) == {"step": 1}
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoint.pt"]


def test_a_damaged_checkpoint_says_how_to_start_anew(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, "f")
    (folder.path / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"is damaged.*remove it"):
        folder.load(torch.device("cpu"))


def test_the_code_digest_changes_with_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = checkpoint.code_sha256()
    assert checkpoint.code_sha256() == before
    changed = tmp_path / "losses.py"
    changed.write_text("# changed")
    monkeypatch.setattr(sys.modules["pix2pix.files"], "__file__", str(changed))
    assert checkpoint.code_sha256() != before
