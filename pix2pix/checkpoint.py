"""Saving and loading: the generator that is shipped, and the state that a training goes on from."""

import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from . import devices
from .encoding import RGB8, Encoding
from .errors import UserError
from .files import atomic_file, named_failure, sha256_file, sha256_json, write_text
from .generator import Generator
from .params import Size

if TYPE_CHECKING:
    from .discriminator import Discriminator

CHECKPOINT, LOCK, HOLDER = "checkpoint.pt", "lock", "holder"
FOLDER_NAME_LENGTH = 16


@dataclass(frozen=True)
class GeneratorConfig:
    """All that is needed to build a generator again, what its pixels mean, and what it was made from."""

    levels: int
    channels: int
    norm: str
    dropout_blocks: tuple[int, ...]
    image_px: Size
    dataset: str
    direction: str
    params_sha256: str
    data_sha256: str
    code_sha256: str
    in_channels: int = 3
    out_channels: int = 3
    architecture: str = "unet"
    upsample: str = "deconv"
    down_bias: bool = False
    imported_sha256: str = ""
    input: Encoding = RGB8
    target: Encoding = RGB8

    def build(self) -> Generator:
        """A generator of this shape with fresh weights."""
        return Generator(
            levels=self.levels,
            channels=self.channels,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            norm=self.norm,
            dropout_blocks=self.dropout_blocks,
            architecture=self.architecture,
            upsample=self.upsample,
            down_bias=self.down_bias,
        )


def save_generator(path: Path, state: Mapping[str, Tensor], config: GeneratorConfig) -> None:
    """Write weights and configuration as safetensors; equal content gives equal bytes."""
    # safetensors writes several metadata keys in random order, so there is one.
    metadata = {"config": json.dumps(asdict(config), sort_keys=True)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_file(path) as partial:
        # Not by its save_file, whose error for a full disk is not the system's.
        partial.write_bytes(safetensors.torch.save(tensors, metadata))


def load_generator(path: Path) -> tuple[Generator, GeneratorConfig]:
    """Read a generator written by `save_generator`, in eval mode on the CPU.

    Raises:
        UserError: the file is missing, damaged or not one of ours.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            fields = json.loads((file.metadata() or {})["config"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        fields["dropout_blocks"] = tuple(fields["dropout_blocks"])
        fields |= {side: Encoding.of(fields[side]) for side in ("input", "target") if side in fields}
        if isinstance(fields["image_px"], list):
            fields["image_px"] = tuple(fields["image_px"])
        config = GeneratorConfig(**fields)
        # Before anything of its size is made: a number in the file may ask for more than any memory.
        if not 1 <= config.levels <= len(state):
            raise ValueError(f"levels = {config.levels} with {len(state)} tensors")
        with torch.device("meta"):
            wanted = {name: tensor.shape for name, tensor in config.build().state_dict().items()}
    except FileNotFoundError:
        raise UserError(f"{path}: not found; `dvc repro train` makes it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: is not a generator of this project ({_first_line(error)})") from None
    for name in sorted(wanted.keys() | state.keys()):
        given = tuple(state[name].shape) if name in state else None
        expected = tuple(wanted[name]) if name in wanted else None
        if given != expected:
            raise UserError(
                f"{path}: weights do not fit their own configuration: {name} has shape "
                f"{given}, expected {expected}"
            )
        if state[name].dtype != torch.float32:
            raise UserError(f"{path}: {name} is {state[name].dtype}, expected torch.float32")
    for name, side, channels in (
        ("input", config.input, config.in_channels),
        ("target", config.target, config.out_channels),
    ):
        if side.network_channels != channels:
            raise UserError(
                f"{path}: its {name} is said to be {side}, but its weights have {channels} channels"
            )
    generator = config.build()
    generator.load_state_dict(state)
    return generator.eval(), config


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:150] if lines else type(error).__name__


def load_reference_generator(state: Mapping[str, Tensor], statistics: str = "instance") -> Generator:
    """A generator with the weights of the reference implementation's U-Net; see `reference.load_generator`.

    Takes and gives [batch, channels, height, width] in [-1, 1].
    """
    # Here, not above: no training depends on it, and a change there must cost none.
    from . import reference

    return reference.load_generator(state, statistics)[0]


def load_reference_discriminator(state: Mapping[str, Tensor], statistics: str = "running") -> "Discriminator":
    """The reference implementation's discriminator, called with input and output concatenated."""
    from . import reference

    return reference.load_discriminator(state, statistics)


def code_sha256() -> str:
    """Digest of the pix2pix modules that are loaded: the code that a training's bits depend on."""
    package = __package__ or "pix2pix"
    files = {
        name: sha256_file(Path(module.__file__))
        for name, module in sys.modules.items()
        if name.startswith(f"{package}.") and module.__file__
    }
    return sha256_json(files)


class _Recorder:
    """A file that remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def save_tensors(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and numbers as torch does, whole or not at all.

    Raises:
        UserError: the disk is full or does not let us.
    """
    with atomic_file(path) as partial, partial.open("wb") as file:
        recorder = _Recorder(file)
        try:
            torch.save(dict(state), recorder)  # type: ignore[arg-type]
        except RuntimeError:
            # torch has words of its own for a full disk.
            if recorder.error:
                raise recorder.error from None
            raise


class CheckpointFolder:
    """Where one training keeps its state, named by the fingerprint of all that decides its bits.

    A training with other parameters, data or code has another folder and never meets this one.
    """

    def __init__(self, root: Path, fingerprint: str) -> None:
        self.path = root / fingerprint[:FOLDER_NAME_LENGTH]
        self._lock = FileLock(self.path / LOCK)

    def lock(self) -> None:
        """Hold the folder until this process ends, however it ends.

        Raises:
            UserError: another training holds it.
        """
        try:
            with named_failure(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{self.path}: another training with these parameters and data is running "
                f"({self._holder()}); wait for it or stop it"
            ) from None
        # What a kill in the middle of a save, or of drawing a sample, has left.
        for partial in list(self.path.rglob(".*")):
            partial.unlink()
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        write_text(self.path / HOLDER, holder)

    def _holder(self) -> str:
        try:
            return (self.path / HOLDER).read_text(encoding="utf-8") or "just started"
        except OSError:
            return "just started"

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint, whole or not at all."""
        save_tensors(self.path / CHECKPOINT, state)

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, on the CPU, or None where there is none.

        Raises:
            UserError: it cannot be read, or is damaged.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror or error}); mend that and run it again, "
                "the checkpoint may well be whole"
            ) from None
        # torch has no class of its own for what may be wrong with a file.
        except Exception as error:
            self._refuse_exhaustion(error)
            # Nor are its words for people: they advise to run what is in the file.
            raise UserError(
                f"{path}: is damaged ({type(error).__name__}); remove it to start from the beginning"
            ) from None
        return state

    @contextmanager
    def taken_up(self) -> Iterator[None]:
        """What does not fit the training that takes up this checkpoint, as a line that names the file."""
        try:
            yield
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, MemoryError) as error:
            self._refuse_exhaustion(error)
            raise UserError(
                f"{self.path / CHECKPOINT}: is of another training ({_first_line(error)}); "
                "remove it to start from the beginning"
            ) from error

    def _refuse_exhaustion(self, error: Exception) -> None:
        """A whole checkpoint may not fit into a memory that others use as well."""
        if devices.is_exhausted(error):
            raise UserError(
                f"{self.path / CHECKPOINT}: there is not enough free memory to go on from it "
                f"({_first_line(error)}); free some and run it again"
            ) from error

    def remove(self) -> None:
        """Forget everything: the training is complete and its outputs are in place."""
        shutil.rmtree(self.path, ignore_errors=True)
        # Not before: another training would take up what is about to be removed.
        self._lock.release()


def remove_stale(root: Path, kept: str | None) -> tuple[list[Path], list[Path]]:
    """Remove the checkpoint folders below `root` but for those of a running training and of `kept`.

    Args:
        kept: the fingerprint of the training that the present parameters, data and code would go on with.

    Returns:
        The folders removed, and those left.
    """
    removed: list[Path] = []
    left: list[Path] = []
    for path in sorted(path for path in root.glob("*") if path.is_dir()):
        if kept and path.name == kept[:FOLDER_NAME_LENGTH]:
            left.append(path)
            continue
        lock = FileLock(path / LOCK)
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(path, ignore_errors=True)
        except Timeout:
            left.append(path)
        else:
            removed.append(path)
    return removed, left
