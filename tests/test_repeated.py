"""A step over tensors that stay where they are: the same bits as one that is run anew each time."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from training_fixtures import CONFIG, CPU, MODEL, equal, events, finished, pairs, recipe, run

from pix2pix import devices, repeated, training
from pix2pix.augment import plan_epoch
from pix2pix.checkpoint import GeneratorConfig
from pix2pix.encoding import RGB8, Encoding
from pix2pix.errors import UserError
from pix2pix.events import Interrupted, Stepped
from pix2pix.feed import CachedFeed, Feed, StreamedFeed, in_batches
from pix2pix.images import write_prepared
from pix2pix.pair_files import PairFiles
from pix2pix.params import Model
from pix2pix.repeated import RepeatedStep, Run, cuda_graph
from pix2pix.step import adam, learning_rate, set_learning_rate
from pix2pix.training import repeated_step
from pix2pix.training_state import State, new_state

NO_DROPOUT = replace(CONFIG, dropout_blocks=())


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Every step is recorded as on a GPU; the recording runs it anew, which is all a CPU can do."""
    records: list[Run] = []

    def record(run: Run) -> Run:
        records.append(run)
        return run

    monkeypatch.setattr(training, "repeated_step", partial(repeated_step, record=record))
    return records


# Batches of 3 and then 1: the second is run as it comes. Dropout is on.
@pytest.mark.parametrize("train", [{"batch": 1}, {"batch": 3}, {"gan_loss": "none"}], ids=str)
def test_a_recorded_step_trains_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: list[Run], train: dict[str, object]
) -> None:
    one = finished(run(tmp_path / "recorded", recipe(**train, losses_every=1)))
    assert len(recorded) == 1
    monkeypatch.setattr(training, "repeated_step", repeated_step)
    other = finished(run(tmp_path / "plain", recipe(**train, losses_every=1)))
    assert len(recorded) == 1
    assert equal(one.state, other.state)
    assert one.loss_rows == other.loss_rows


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_an_interrupted_recorded_training_ends_as_if_it_had_never_stopped(
    tmp_path: Path, recorded: list[Run], stop_at: int
) -> None:
    train = recipe(batch=2)
    whole = finished(run(tmp_path / "whole", train))
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", train, stop_at=stop_at)
    rest = finished(run(tmp_path / "cut", train))
    assert len(recorded) == 3
    assert equal(rest.state, whole.state)
    assert rest.loss_rows == whole.loss_rows


def test_nothing_that_a_recording_reads_or_writes_moves(tmp_path: Path, recorded: list[Run]) -> None:
    """Over epochs with other rates, validations and smaller batches."""
    states: list[State] = []
    places = set()
    original = RepeatedStep.__call__

    def watched(self: RepeatedStep, item: Tensor, weight: float) -> Tensor:
        losses = original(self, item, weight)
        tensors = [*states[0].tensors(), self._item]
        places.add(tuple(tensor.data_ptr() for tensor in tensors))
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RepeatedStep, "__call__", watched)
        run(tmp_path, recipe(batch=3), on_state=states.append)
    assert len(places) == 1


NOT_PERMITTED = RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore of it")
EXHAUSTED = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Told(TorchDispatchMode):
    """What torch is told to do, but for views."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        if not function.is_view:
            self.names.append(function.__name__.partition(".")[0])
        return function(*arguments, **(keywords or {}))


def test_beside_its_replay_a_step_copies_its_item_and_its_losses_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would be a kernel that the host tells a GPU of, and all together a share of the step."""

    def record(run: Run) -> Run:
        run()
        return lambda: None

    monkeypatch.setattr(training, "repeated_step", partial(repeated_step, record=record))
    train = recipe(epochs=1, losses_every=100)
    told: list[list[str]] = []
    seen = events(tmp_path, train, feeds=(pairs(8, 36), pairs(3, 32)), log_every=100)
    with Told() as mode:
        for event in seen:
            if isinstance(event, Stepped):
                told.append(mode.names[:])
                mode.names.clear()
    assert told[1:] == [["copy_", "mul"]] * 7


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (
            NOT_PERMITTED,
            UserError,
            r"train\.cuda_graph = 'auto'.*\(CUDA error: operation .* capturing\).* off",
        ),
        (EXHAUSTED, torch.OutOfMemoryError, "Tried to allocate"),
    ],
    ids=["not permitted", "exhausted"],
)
@pytest.mark.parametrize("ends_in_another", [False, True])
def test_a_step_that_cannot_be_recorded_is_one_line_with_its_first_cause(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError,
    raised: type[Exception],
    said: str,
    ends_in_another: bool,
) -> None:
    """The end of a capture that failed fails as well."""

    def record(run: Run) -> Run:
        try:
            raise error
        finally:
            if ends_in_another:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    monkeypatch.setattr(training, "repeated_step", partial(repeated_step, record=record))
    with pytest.raises(raised, match=said):
        run(tmp_path, recipe())


@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_rehearsal_leaves_no_trace(steps_before: int) -> None:
    train, feed = recipe(), pairs(4, 36)
    state = new_state(CONFIG, MODEL, train, CPU)
    step = repeated_step(state, MODEL, train, feed, image_px=32, device=CPU)
    item = next(feed.items([np.zeros((1, 4), np.int64)]))
    for _ in range(steps_before):
        step(item)
    before = {id(tensor): tensor.clone() for tensor in state.tensors()}
    random = torch.get_rng_state()
    repeated.rehearse(lambda: step(item), state.tensors, CPU)
    assert torch.equal(torch.get_rng_state(), random)
    after = state.tensors()
    for tensor in after:
        assert torch.equal(tensor, before.get(id(tensor), torch.zeros_like(tensor)))
    assert bool(len(after) - len(before)) == (steps_before == 0)


# --- against a step written out plainly --------------------------------------------------------------


def plain_gradients(
    generator: nn.Module, discriminator: nn.Module, source: Tensor, target: Tensor
) -> list[list[Tensor]]:
    """By two graphs that share nothing: the fake is made and scored once for each network."""
    output = generator(source)
    fooled = F.softplus(-discriminator(torch.cat([source, output], 1))).mean()
    g_loss = fooled + 100 * (output - target).abs().mean()
    real = F.softplus(-discriminator(torch.cat([source, target], 1))).mean()
    fake = F.softplus(discriminator(torch.cat([source, generator(source).detach()], 1))).mean()
    return [
        list(torch.autograd.grad(loss, list(network.parameters())))
        for loss, network in ((g_loss, generator), (real + fake, discriminator))
    ]


def sliced(pixels: Tensor, rows: np.ndarray, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Crops one by one."""
    crops = []
    for sample, top, left, mirror in rows.tolist():
        crop = pixels[sample, :, top : top + 32, left : left + 32]
        crops.append(crop.flip(-1) if mirror else crop)
    both = torch.stack(crops).to(dtype) / 127.5 - 1
    return both[:, :3], both[:, 3:]


def test_200_recorded_steps_in_float64_are_those_of_the_plain_procedure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same start and the same crops; Adam unfused, gradients naively, to 1e-9."""
    monkeypatch.setattr(training, "to_unit_range", lambda pixels, *encoding: pixels.double() / 127.5 - 1)
    train, feed = recipe(batch=2, epochs=67, lr=0.002), pairs(5, 36)
    state = new_state(NO_DROPOUT, MODEL, train, CPU)
    networks = [network.double() for network in (state.generator, state.discriminator)]
    twins = copy.deepcopy(networks)
    for name, network in zip(("generator_optimizer", "discriminator_optimizer"), networks, strict=True):
        setattr(state, name, adam(network, train))
    plain = [torch.optim.Adam(twin.parameters(), betas=(0.5, 0.999), fused=False) for twin in twins]
    step = repeated_step(state, MODEL, train, feed, image_px=32, device=CPU, record=lambda run: run)
    steps = 0
    for epoch in range(67):
        rows = plan_epoch(5, 4, train.seed, epoch).rows()
        lr = learning_rate(train.lr, epoch, 67, train.decay_share)
        for optimizer in (state.generator_optimizer, state.discriminator_optimizer, *plain):
            set_learning_rate(optimizer, lr)
        for item, batch in zip(feed.items(in_batches(rows, 2)), in_batches(rows, 2), strict=True):
            step(item)
            source, target = sliced(feed.pixels, batch, torch.float64)
            for twin, gradients, optimizer in zip(
                twins, plain_gradients(*twins, source, target), plain, strict=True
            ):
                for weight, gradient in zip(twin.parameters(), gradients, strict=True):
                    weight.grad = gradient
                optimizer.step()
            steps += 1
    assert steps == 201
    for network, twin in zip(networks, twins, strict=True):
        for weight, other in zip(network.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(weight, other, rtol=0, atol=1e-9)


def test_the_first_steps_gradients_in_float32_are_those_of_the_plain_procedure() -> None:
    """To 1e-5 of each weight tensor's largest."""
    train, feed = recipe(batch=2), pairs(4, 36)
    state = new_state(NO_DROPOUT, MODEL, train, CPU)
    twins = copy.deepcopy([state.generator, state.discriminator])
    rows = plan_epoch(4, 4, 1, 0).rows()[:2]
    repeated_step(state, MODEL, train, feed, image_px=32, device=CPU)(next(feed.items([rows])))
    expected = plain_gradients(*twins, *sliced(feed.pixels, rows, torch.float32))
    for network, gradients in zip((state.generator, state.discriminator), expected, strict=True):
        for weight, gradient in zip(network.parameters(), gradients, strict=True):
            assert weight.grad is not None
            assert (weight.grad - gradient).abs().max() <= 1e-5 * gradient.abs().max()


# --- on a GPU ----------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="captures on a CUDA device")


RANGED = Encoding(3, "uint16", range="percentiles", low=(9.0, 0.0, 1.0), high=(200.0, 250.0, 199.0))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    device = torch.device("cuda", 0)
    for name in ("deterministic", "benchmark", "allow_tf32"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    devices.prefer_determinism(True, device)
    return device


def cuda_training(
    feed: Feed,
    device: torch.device,
    record: Callable[[Run], Run] | None,
    encodings: tuple[Encoding, Encoding] = (RGB8, RGB8),
    config: GeneratorConfig = CONFIG,
    model: Model = MODEL,
    **changes: object,
) -> dict[str, Tensor]:
    """The weights after five epochs of five pairs, in batches of two unless told otherwise."""
    train = recipe(**{"batch": 2, "device": "cuda", "cuda_graph": "off"} | changes)
    state = new_state(config, model, train, device)
    step = repeated_step(
        state, model, train, feed, image_px=32, device=device, encodings=encodings, record=record
    )
    for epoch in range(5):
        for item in feed.items(in_batches(plan_epoch(5, 4, 1, epoch).rows(), train.batch)):
            assert torch.isfinite(step(item)).all()
    return {name: value.cpu() for name, value in state.generator.state_dict().items()}


class Captures:
    """`cuda_graph`, counted: how often a step was told, and how often it was repeated."""

    def __init__(self) -> None:
        self.told = self.repeated = 0

    def __call__(self, run: Run) -> Run:
        def tell() -> None:
            self.told += 1
            run()

        replay = cuda_graph(tell)

        def repeat() -> None:
            self.repeated += 1
            replay()

        return repeat


@needs_cuda
@pytest.mark.parametrize("source", [RGB8, RANGED], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_captured_training_ends_with_the_bits_of_an_uncaptured_one(
    cuda: torch.device, batch: int, precision: str, source: Encoding
) -> None:
    held = pairs(5, 36)
    pixels = held.pixels.to(getattr(torch, source.dtype)).to(cuda)
    feed, captures = CachedFeed(held.names, pixels, (source, RGB8)), Captures()
    plain, captured = (
        cuda_training(feed, cuda, record, (source, RGB8), batch=batch, precision=precision)
        for record in (None, captures)
    )
    # The last, smaller batch of an epoch is run as it comes.
    assert (captures.told, captures.repeated) == (1, 5 * (5 // batch))
    assert equal(captured, plain)


@needs_cuda
@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_channel_and_a_discriminator_of_pixels_are_captured_too(
    cuda: torch.device, layers: int, precision: str
) -> None:
    """Weights with a side of 1, whose gradients' strides the fused Adam compares."""
    grey = Encoding(1, "uint8")
    config = replace(CONFIG, in_channels=1, out_channels=1, input=grey, target=grey)
    model = MODEL.model_copy(update={"discriminator_layers": layers})
    held = pairs(5, 36)
    feed = CachedFeed(held.names, held.pixels[:, 2:4].contiguous().to(cuda), (grey, grey))
    captures = Captures()
    plain, captured = (
        cuda_training(feed, cuda, record, (grey, grey), config, model, batch=1, precision=precision)
        for record in (None, captures)
    )
    assert (captures.told, captures.repeated) == (1, 25)
    assert equal(captured, plain)


@needs_cuda
def test_a_step_is_captured_while_a_streamed_feed_pins_memory(cuda: torch.device, tmp_path: Path) -> None:
    held = pairs(5, 36)
    for side, pixels in (("input", held.pixels[:, :3]), ("target", held.pixels[:, 3:])):
        (tmp_path / side).mkdir()
        for index, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
            write_prepared(tmp_path / side / f"{index}.png", image)
    streamed = StreamedFeed(PairFiles.find(tmp_path), 32, cuda, workers=1)
    cached = CachedFeed(held.names, held.pixels.to(cuda))
    captures = Captures()
    weights = [cuda_training(feed, cuda, captures) for feed in (streamed, cached)]
    assert (captures.told, captures.repeated) == (2, 2 * 10)
    assert equal(*weights)
