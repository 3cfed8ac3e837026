"""What happens while a generator is trained; who listens is not the loop's business."""

from dataclasses import dataclass

from torch import Tensor

from .decoding import Samples
from .errors import UserError
from .step import LOSS_NAMES

# Columns of losses.csv and of validation.csv.
LOSS_COLUMNS = ("step", "epoch", *LOSS_NAMES, "lr")
VALIDATION_COLUMNS = ("step", "epoch", "l1")


@dataclass(frozen=True)
class Started:
    """Before the first step; `step` is above 0 when a checkpoint was found."""

    step: int
    epoch: int
    total_steps: int


@dataclass(frozen=True)
class Stepped:
    """A step is done; yielded for every one, so it carries nothing that would need the device to wait."""

    step: int
    epoch: int


@dataclass(frozen=True)
class LossPoint:
    """Means of the losses over the last `log_every_steps` steps.

    Attributes:
        data_share: of the time since the point before, how much was spent waiting for data: 0 to 1.
    """

    step: int
    epoch: int
    losses: dict[str, float]
    lr: float
    data_share: float


@dataclass(frozen=True)
class Validated:
    """Validation L1 (0–1 scale) and the fixed images: [n, height, width, channels] each."""

    step: int
    epoch: int
    l1: float
    inputs: Samples
    outputs: Samples
    targets: Samples


@dataclass(frozen=True)
class Finished:
    """The weights to ship, and the curves: rows of losses.csv and of validation.csv."""

    state: dict[str, Tensor]
    epoch: int
    loss_rows: list[list[float]]
    validation_rows: list[list[float]]


@dataclass(frozen=True)
class Warned:
    """A sign of collapse: one sentence with the step and the knobs to try."""

    step: int
    message: str


Event = Started | Stepped | LossPoint | Validated | Warned | Finished


class Interrupted(BaseException):
    """The run was asked to stop; its state is in the checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(f"interrupted at step {step}")
        self.step = step


class Diverged(UserError):
    """A loss became NaN or infinite."""


class Collapsed(UserError):
    """A sign of collapse, with train.on_collapse = stop."""
