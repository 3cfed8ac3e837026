"""What a training takes in memory, and what is said when there is not enough."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from . import devices
from .augment import to_unit_range
from .checkpoint import GeneratorConfig
from .discriminator import Discriminator
from .errors import UserError
from .params import Model, Train, height_width, said_size
from .processes import ALONE, Group
from .step import Objective, training_step

# What a step holds at most against what forward saves for backward: gradients of activations and the
# convolutions' own buffers. The peaks measured on a CPU at 64 to 256 px were 1.2 to 1.6 times as much.
PEAK_SHARE = 1.7
# What is free is in pieces: a batch that took 0.95 of it by this estimate was seen not to fit.
USABLE_SHARE = 0.9
# About what an image takes for each pixel and each channel of a first layer; an estimate takes a second.
ROUGH_BYTES = 40


@contextmanager
def exhaustion_named(
    config: GeneratorConfig, model: Model, recipe: Train, device: torch.device, group: Group = ALONE
) -> Iterator[None]:
    """Turn a lack of memory while training into one line with the largest batch that would fit.

    To be entered before the networks are made.

    Raises:
        UserError: there is not enough memory.
    """
    free = _free_bytes(device, group)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not devices.is_exhausted(error):
            raise
        fixed, per_image = step_bytes(config, model, recipe, device)
        said = _said(config, recipe, group, fixed, per_image, free)
        raise UserError(f"out of memory on {device.type}: {said}") from error


def shortage_foreseen(
    config: GeneratorConfig, model: Model, recipe: Train, device: torch.device, group: Group = ALONE
) -> str:
    """What a step takes and what would fit, in words, where less seems to be free; else "".

    Linux gives memory away that it does not have, and kills who takes it: nothing could be said then.
    """
    free, share = _free_bytes(device, group), recipe.batch // group.count
    height, width = height_width(config.image_px)
    if share * height * width * config.channels * ROUGH_BYTES < free / 4:
        return ""
    fixed, per_image = step_bytes(config, model, recipe, device)
    if fixed + share * per_image <= free:
        return ""
    return _said(config, recipe, group, fixed, per_image, free)


def _free_bytes(device: torch.device, group: Group) -> int:
    """Processes of one machine share its memory; each has a GPU of its own."""
    return devices.free_bytes(device) // (group.local_count if device.type == "cpu" else 1)


def _said(
    config: GeneratorConfig, recipe: Train, group: Group, fixed: int, per_image: float, free: int
) -> str:
    share = recipe.batch // group.count
    # The estimate may be off; that this batch was too large is not.
    fits = min(int((USABLE_SHARE * free - fixed) / per_image), share - 1) * group.count
    mend = (
        f"train.batch = {fits} should fit"
        if fits >= 1
        else f"not even train.batch = {group.count} would fit: lower prepare.image_px or "
        "model.generator_channels"
    )
    each = " in each process" if group.count > 1 else ""
    return (
        f"train.batch = {recipe.batch} at prepare.image_px = {said_size(config.image_px)} takes about "
        f"{(fixed + share * per_image) / 1e9:.1f} GB{each} and {free / 1e9:.1f} GB were free; {mend}"
    )


def step_bytes(
    config: GeneratorConfig, model: Model, recipe: Train, device: torch.device
) -> tuple[int, float]:
    """Estimate a step's memory without taking any, on torch's meta device.

    Returns:
        Bytes for weights, gradients and both moments, and bytes for each image of the batch.
    """
    with torch.device("meta"):
        generator = config.build()
        discriminator = Discriminator(**model.discriminator_choices(config.in_channels, config.out_channels))
    weights = sum(weight.nbytes for network in (generator, discriminator) for weight in network.parameters())
    saved: dict[int, int] = {}
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage.nbytes()
        held.append(tensor)
        return tensor

    def saved_bytes(batch: int) -> int:
        saved.clear()
        held.clear()
        sides = (config.in_channels, config.out_channels)
        source, target = (
            to_unit_range(
                torch.empty((batch, side, *height_width(config.image_px)), dtype=torch.uint8, device="meta")
            )
            for side in sides
        )
        idle, also_idle = (torch.optim.SGD(network.parameters()) for network in (generator, discriminator))
        objective = Objective(recipe.gan_loss, recipe.lambda_l1, model.conditional)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            training_step(generator, discriminator, idle, also_idle, source, target, objective)
        return sum(saved.values())

    per_image = (saved_bytes(3) - saved_bytes(2)) * PEAK_SHARE
    if devices.choose_precision(recipe.precision, device, config.image_px) == "bf16":
        per_image /= 2
    return 4 * weights, per_image
