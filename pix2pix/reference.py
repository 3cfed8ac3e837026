"""The reference implementation's weights: its names and shapes for the same two networks.

The reference nests its U-Net, one level inside the other, so that a level's depth is the length of its name.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import save_tensors
from .discriminator import Discriminator
from .errors import UserError
from .generator import Generator

# What an affine-free instance norm of the reference does is a norm with this scale and shift.
IDENTITY_SCALE, IDENTITY_SHIFT = 1.0, 0.0
NORM_KEYS = ("weight", "bias", "running_mean", "running_var")
# A module of an inner level; the depth of the level is that of the nesting in the middle.
INNER_MODULE = re.compile(r"model\.model\.1\.((?:model\.3\.)*)model\.\d\.\w+")


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a .pth file, on the CPU; nothing in it is executed.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path}: not found; give a latest_net_G.pth")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    # torch has no class of its own for what may be wrong with a file.
    except Exception as error:
        # Nor are its words for people: they advise to run what is in the file.
        raise UserError(
            f"{path}: is not a plain file of weights ({type(error).__name__}); nothing in it was executed"
        ) from None
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: is not a state dict: names to tensors")
    for name, value in state.items():
        if not _is_whole(value):
            raise UserError(f"{path}: {name} says it has shape {list(value.shape)}, but not so many values")
    return {str(name): value for name, value in state.items()}


def load_generator(
    state: Mapping[str, Tensor], statistics: str = "instance"
) -> tuple[Generator, dict[str, Any]]:
    """A generator with the reference's U-Net weights, of any depth, width and channels.

    Args:
        state: the reference's names to tensors.
        statistics: instance normalises every image by itself, which is what the reference does by default,
            at batch 1 in training mode; running by the statistics in the file, its `--eval`.

    Returns:
        The generator in eval mode, and the arguments that it was built with.

    Raises:
        UserError: the first name that does not fit, with the shape it has and the one it should have.
    """
    if statistics not in ("instance", "running"):
        raise UserError(f"statistics = {statistics!r}: must be instance or running")
    state = _without_wrapper(state)
    levels = _levels(state)
    outer, last = state["model.model.0.weight"], _required(state, "model.model.3.weight", 4)
    shape: dict[str, Any] = {
        "levels": levels,
        "channels": outer.shape[0],
        "in_channels": outer.shape[1],
        "out_channels": last.shape[1],
        "norm": statistics,
        # Dropout leaves no trace in the weights; the reference has it there unless --no_dropout was given.
        "dropout_blocks": tuple(range(2, levels - 3)),
        "down_bias": "model.model.0.bias" in state,
    }
    # Before anything of its size is made: the names of a small file may ask for more than any memory.
    with torch.device("meta"):
        own = Generator(**{**shape, "norm": "running"}).state_dict()
    _fill(own, state, _generator_names(levels), statistics)
    generator = Generator(**shape)
    generator.load_state_dict({name: own[name] for name in generator.state_dict()})
    return generator.eval(), shape


def load_discriminator(state: Mapping[str, Tensor], statistics: str = "running") -> Discriminator:
    """The reference's PatchGAN of 1 to 5 layers, or its pixel discriminator, in eval mode.

    Args:
        statistics: running or instance, see `load_generator`; a file without any running statistics is one
            with instance norm.

    Raises:
        UserError: the first name that does not fit, with both shapes.
    """
    if statistics not in ("instance", "running"):
        raise UserError(f"statistics = {statistics!r}: must be instance or running")
    state = _without_wrapper(state)
    if not any(name.endswith(".running_mean") for name in state):
        statistics = "instance"
    is_pixel = "net.0.weight" in state
    prefix = "net" if is_pixel else "model"
    first = _required(state, f"{prefix}.0.weight", 4)
    layers = 0 if is_pixel else sum(f"model.{n}.weight" in state for n in range(2, 32, 3)) - 1
    shape: dict[str, Any] = {
        "in_channels": first.shape[1],
        "channels": first.shape[0],
        "layers": max(layers, 0),
    }
    with torch.device("meta"):
        discriminator = Discriminator(**shape, norm="running")
    own = discriminator.state_dict()
    names = {"convs.0": f"{prefix}.0"}
    for n in range(1, len(discriminator.convs)):
        names |= {f"convs.{n}": f"{prefix}.{3 * n - 1}", f"norms.{n}": f"{prefix}.{3 * n}"}
    names["last"] = f"{prefix}.{3 * len(discriminator.convs) - 1}"
    _fill(own, state, names, statistics)
    discriminator = Discriminator(**shape, norm=statistics)
    discriminator.load_state_dict({name: own[name] for name in discriminator.state_dict()})
    return discriminator.eval()


def generator_state(generator: Generator) -> dict[str, Tensor]:
    """The same weights under the reference's names: with batch norm, or its affine-free instance norm.

    A generator without running statistics gets neutral ones. The reference does not look at them unless it is
    told to by `--eval`.

    Raises:
        UserError: the reference has no such network.
    """
    if not generator.has_skips or any(up.upsample != "deconv" for up in generator.up):
        raise UserError("the reference has only the U-Net with transposed convolutions (deconv)")
    state: dict[str, Tensor] = {}
    own = {name: value.detach().cpu() for name, value in generator.state_dict().items()}
    affine_free = "down.0.conv.bias" in own
    for ours, theirs in _generator_names(len(generator.down)).items():
        if f"{ours}.weight" not in own:
            continue
        weight = own[f"{ours}.weight"]
        if weight.dim() == 4:
            state[f"{theirs}.weight"] = weight
            if f"{ours}.bias" in own:
                state[f"{theirs}.bias"] = own[f"{ours}.bias"]
            elif affine_free:
                outputs = weight.shape[1 if ours.startswith("up") else 0]
                state[f"{theirs}.bias"] = torch.zeros(outputs)
        elif affine_free:
            if not (torch.all(weight == IDENTITY_SCALE) and torch.all(own[f"{ours}.bias"] == IDENTITY_SHIFT)):
                raise UserError(
                    f"{ours}: the reference's instance norm has no scale and shift, this one does"
                )
        else:
            neutral = {"running_mean": torch.zeros_like(weight), "running_var": torch.ones_like(weight)}
            for key in NORM_KEYS:
                state[f"{theirs}.{key}"] = own.get(f"{ours}.{key}", neutral.get(key, weight))
            state[f"{theirs}.num_batches_tracked"] = torch.tensor(0)
    return state


def write_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict where the reference's own loader finds it."""
    save_tensors(path, {name: value.contiguous() for name, value in state.items()})


def _generator_names(levels: int) -> dict[str, str]:
    """Ours to the reference's, module by module, outermost first."""
    last = levels - 1
    names = {"down.0.conv": "model.model.0", f"up.{last}.conv": "model.model.3"}
    for level in range(1, levels):
        base = "model.model.1." + "model.3." * (level - 1) + "model."
        up = f"up.{last - level}"
        names[f"down.{level}.conv"] = f"{base}1"
        if level < last:
            names |= {f"down.{level}.norm": f"{base}2", f"{up}.conv": f"{base}5", f"{up}.norm": f"{base}6"}
        else:
            names |= {f"{up}.conv": f"{base}3", f"{up}.norm": f"{base}4"}
    return names


def _without_wrapper(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix that DataParallel puts before every name."""
    return {name.removeprefix("module."): value for name, value in state.items()}


def _levels(state: Mapping[str, Tensor]) -> int:
    _required(state, "model.model.0.weight", 4)
    # The deepest of all names, so that one that is missing on the way down is named as such.
    inner = filter(None, map(INNER_MODULE.fullmatch, state))
    deepest = max((match[1].count("model.3.") for match in inner), default=None)
    if deepest is None:
        raise UserError("model.model.1.model.1.weight: missing; this is no U-Net of the reference")
    if deepest + 2 > len(state):
        raise UserError(f"its names say {deepest + 2} levels, but it has {len(state)} tensors")
    return deepest + 2


def _is_whole(value: Tensor) -> bool:
    """Whether each of its values is in the file; one value may pass for any number."""
    if value.layout != torch.strided or value.is_meta:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _required(state: Mapping[str, Tensor], name: str, dimensions: int) -> Tensor:
    if name not in state:
        first = next(iter(state), None)
        found = f"the file begins with {first} {list(state[first].shape)}" if first else "the file is empty"
        raise UserError(f"{name}: missing; {found}, so it is no such network of the reference")
    if state[name].dim() != dimensions:
        raise UserError(f"{name}: has shape {list(state[name].shape)}, expected {dimensions} dimensions")
    return state[name]


def _fill(
    own: dict[str, Tensor], state: Mapping[str, Tensor], names: Mapping[str, str], statistics: str
) -> None:
    """Put the reference's values into `own`, a state dict of ours with running statistics."""
    used = set()
    norms = {theirs for ours, theirs in names.items() if f"{ours}.running_mean" in own}
    has_affine = any(f"{norm}.{key}" in state for norm in norms for key in ("weight", "bias"))
    for ours, theirs in names.items():
        if f"{ours}.weight" not in own:
            continue
        is_norm = theirs in norms
        for key in (key for key in NORM_KEYS if f"{ours}.{key}" in own):
            name, wanted = f"{theirs}.{key}", own[f"{ours}.{key}"]
            used.add(name)
            if name in state:
                if state[name].shape != wanted.shape:
                    raise UserError(
                        f"{name}: has shape {list(state[name].shape)}, expected {list(wanted.shape)}"
                    )
                own[f"{ours}.{key}"] = state[name].detach().to(wanted.dtype).clone()
            elif is_norm and key.startswith("running") and statistics == "running":
                raise UserError(f"{name}: missing; this file has no running statistics, use instance")
            elif has_affine and key in ("weight", "bias") if is_norm else name != "net.5.bias":
                raise UserError(f"{name}: missing, expected shape {list(wanted.shape)}")
            # Else what the reference has there: no scale, no shift, and in its pixel discriminator no bias.
            elif is_norm:
                own[f"{ours}.{key}"] = torch.full(wanted.shape, float(key in ("weight", "running_var")))
            else:
                own[f"{ours}.{key}"] = torch.zeros(wanted.shape)
        # A bias in front of a norm by the image's own statistics is subtracted again; see the class Down.
        if statistics == "instance":
            used.add(f"{theirs}.bias")
        used.add(f"{theirs}.num_batches_tracked")
    _refuse_unused(state, used, set(names.values()))


def _refuse_unused(state: Mapping[str, Tensor], used: set[str], modules: set[str]) -> None:
    for name, value in state.items():
        if name not in used and name.endswith(".bias") and name.removesuffix(".bias") in modules:
            raise UserError(f"{name}: in front of running statistics is not supported, use instance")
        if name not in used:
            raise UserError(f"{name}: has shape {list(value.shape)}, expected none: unknown to this network")
