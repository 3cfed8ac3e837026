"""Not enough memory: one line with what would fit."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from training_fixtures import CONFIG, CPU, MODEL, recipe

from pix2pix import devices, memory
from pix2pix.errors import UserError

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux limits the address space")

# 64 px and 16 channels: 2.6 MB an image, and next to nothing fixed.
LIMITED = """
import resource, sys
from pathlib import Path
import torch
from training_fixtures import *
from pix2pix import devices, memory, training
from pix2pix.errors import UserError
torch.set_num_threads(1)
batch = int(sys.argv[1])
train = recipe(batch=batch)
model = MODEL.model_copy(update={"generator_channels": 16, "discriminator_channels": 16})
config = replace(CONFIG, levels=6, channels=16, image_px=64)
feed = pairs(4, 72)
rows = np.zeros((batch, 4), np.int64)
# What torch loads with its first step does not count.
state = training_state.new_state(config, model, train, CPU)
step = training.repeated_step(state, model, train, feed, image_px=64, device=CPU)
step(next(feed.items([rows[:1]])))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)
try:
    with memory.exhaustion_named(config, model, train, CPU):
        for _ in range(2):
            step(next(feed.items([rows])))
except UserError as error:
    print(error)
"""


def limited(batch: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(batch)],
        cwd=__file__.rpartition("/")[0],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_linux
def test_the_batch_that_is_said_to_fit_fits() -> None:
    line = limited(1000)
    assert line.startswith("out of memory on cpu: train.batch = 1000 at prepare.image_px = 64 takes about ")
    assert line.count("\n") == 1 and "0.4 GB were free" in line
    fits = int(line.partition("; train.batch = ")[2].partition(" should fit")[0])
    assert 40 < fits < 400
    assert limited(fits) == ""


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:118] data. DefaultCPUAllocator: can't allocate memory"
            ),
            True,
        ),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_a_bug(error: Exception, is_one: bool) -> None:
    assert devices.is_exhausted(error) == is_one
    with (
        pytest.raises(UserError if is_one else type(error)),
        memory.exhaustion_named(CONFIG, MODEL, recipe(), CPU),
    ):
        raise error


def test_where_not_even_one_image_fits_other_knobs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda device: 1000)
    with (
        pytest.raises(
            UserError, match=r"not even train\.batch = 1 would fit: lower prepare\.image_px or model"
        ),
        memory.exhaustion_named(CONFIG, MODEL, recipe(batch=2), CPU),
    ):
        raise MemoryError


def test_a_shortage_is_foreseen_where_less_is_free_than_a_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    many = recipe(batch=1000)
    fixed, per_image = memory.step_bytes(CONFIG, MODEL, many, CPU)
    monkeypatch.setattr(devices, "free_bytes", lambda device: int(fixed + 1001 * per_image))
    assert memory.shortage_foreseen(CONFIG, MODEL, many, CPU) == ""
    monkeypatch.setattr(devices, "free_bytes", lambda device: int(fixed + 999 * per_image))
    said = memory.shortage_foreseen(CONFIG, MODEL, many, CPU)
    assert re.fullmatch(
        r"train\.batch = 1000 at prepare\.image_px = 32 takes .*; train\.batch = 89\d should fit", said
    )


def test_where_there_is_plenty_nothing_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda device: 10**12)
    monkeypatch.setattr(memory, "step_bytes", lambda *arguments: pytest.fail("it takes a second"))
    assert memory.shortage_foreseen(CONFIG, MODEL, recipe(batch=8), CPU) == ""


def test_bf16_takes_half_for_each_image_and_as_much_for_the_weights() -> None:
    config = replace(CONFIG, channels=8)
    (fixed, full), (also_fixed, half) = (
        memory.step_bytes(config, MODEL, recipe(precision=precision), CPU) for precision in ("fp32", "bf16")
    )
    weights = sum(weight.numel() for weight in config.build().parameters())
    assert fixed == also_fixed > 4 * 4 * weights
    assert half == full / 2


def test_a_rectangle_takes_what_its_squares_take_and_is_named() -> None:
    oblong = replace(CONFIG, image_px=(32, 96), in_channels=1, out_channels=3)
    square = replace(oblong, image_px=32)
    (fixed, three), (also_fixed, one) = (
        memory.step_bytes(config, MODEL, recipe(), CPU) for config in (oblong, square)
    )
    assert fixed == also_fixed
    assert three == pytest.approx(3 * one, rel=0.1)
    with (
        pytest.raises(UserError, match=r"train\.batch = 2 at prepare\.image_px = 32×96 takes about"),
        memory.exhaustion_named(oblong, MODEL, recipe(batch=2), CPU),
    ):
        raise MemoryError
