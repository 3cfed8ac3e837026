"""A training step over tensors that stay where they are, so that a GPU can be told once what to repeat.

At batch 1 a GPU needs longer to be told of a step's hundreds of kernels than to run them. A CUDA graph holds
them all and is started as one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from . import devices
from .errors import UserError

# cuDNN and cuBLAS choose and set up what they use in the first of them.
REHEARSALS = 3

Run = Callable[[], None]


class RepeatedStep:
    """Runs a step on one item after the other.

    Args:
        step: from an item and the weight of its losses to the losses; it changes nothing but `tensors` and
            the random state.
        tensors: gives all weights and moments that there are.
        batch: items of so many samples are repeated from one place; others, at an epoch's end, are run as
            they come.
        record: turns a run into its repetition: `cuda_graph`, or None to run it anew each time. Any other
            function goes the same way on any device.

    Raises, where the first item is run:
        UserError: no CUDA graph can be made of the step.
    """

    def __init__(
        self,
        step: Callable[[Tensor, float], Tensor],
        tensors: Callable[[], list[Tensor]],
        batch: int,
        record: Callable[[Run], Run] | None,
    ) -> None:
        self._step, self._tensors, self._batch, self._record = step, tensors, batch, record
        self._item = self._losses = torch.empty(0)
        self._repeat: Run | None = None if record else self._run

    def __call__(self, item: Tensor, weight: float = 1.0) -> Tensor:
        """The losses of a step; to be read before the next one, which may write to the same place."""
        if len(item) != self._batch or weight != 1.0:
            return self._step(item, weight)
        if self._item.shape == item.shape:
            self._item.copy_(item)
        else:
            self._item = item.clone()
        if self._repeat is None:
            self._repeat = self._recorded()
        self._repeat()
        return self._losses

    def _run(self) -> None:
        self._losses = self._step(self._item, 1.0)

    def _recorded(self) -> Run:
        assert self._record
        rehearse(self._run, self._tensors, self._item.device)
        try:
            return self._record(self._run)
        except RuntimeError as error:
            # What ends a capture that has failed fails too, and says less of why.
            cause = error.__context__ or error
            if devices.is_exhausted(cause):
                raise cause from None
            # Nor could the step be run as it comes: torch's random numbers stay those of the capture.
            reason = str(cause).strip().partition("\n")[0]
            raise UserError(
                f"train.cuda_graph = 'auto': no CUDA graph could be made of a step ({reason}); "
                "set it to off, which is slower"
            ) from error


def rehearse(run: Run, tensors: Callable[[], list[Tensor]], device: torch.device) -> None:
    """Run a few times and put everything back: weights, moments (those that are new to 0), random state."""
    # Not on the device, where the largest batch that fits leaves no room for them.
    before = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in tensors()]
    state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    with _beside(device):
        for _ in range(REHEARSALS):
            run()
    with torch.no_grad():
        for tensor, value in before:
            tensor.copy_(value)
        known = {id(tensor) for tensor, _ in before}
        for tensor in tensors():
            if id(tensor) not in known:
                tensor.zero_()
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


@contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """What is to be captured must have run on a stream that is not the default one."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


def cuda_graph(run: Run) -> Run:
    """Capture a run, which is not carried out, and give its replay.

    Meanwhile other threads may do as they like: a streamed feed's pins memory.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    return graph.replay
