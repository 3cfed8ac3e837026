"""Beginning a training with the weights of a generator that was exported before."""

import torch
from torch import Tensor

from .errors import UserError
from .files import cached_model, sha256_file
from .generator import Generator

# The exported module holds the generator under this name; the exporter keeps the names of what has weights.
_PREFIX = "generator."


def load(generator: Generator, onnx_sha256: str) -> None:
    """Give a generator the weights of the exported one with this digest, bit for bit.

    It is found by its digest alone, so that a training stays a function of its parameters and data.

    Args:
        onnx_sha256: of a file in the user's cache of models, where `pix2pix pull` puts them.

    Raises:
        UserError: it is not there, not what its name says, or of another network.
    """
    path = cached_model(onnx_sha256)
    if not path.is_file() or sha256_file(path) != onnx_sha256:
        raise UserError(
            f"params.yaml: train.warm_start = {onnx_sha256[:12]}…: {path} is not there or damaged; "
            "`pix2pix pull --model models:/NAME/VERSION` gets it"
        )
    try:
        weights = _weights(path.read_bytes())
    # protobuf's own class is not its public one.
    except Exception as error:
        raise UserError(f"{path}: is not an exported generator ({type(error).__name__}: {error})") from None
    wanted = generator.state_dict()
    for name, tensor in wanted.items():
        given = tuple(weights[name].shape) if name in weights else "none"
        if given != tuple(tensor.shape):
            raise UserError(
                f"params.yaml: train.warm_start = {onnx_sha256[:12]}…: is of another network: {name} has "
                f"shape {given}, expected {tuple(tensor.shape)}; set `model` as it was for that one"
            )
    generator.load_state_dict({name: weights[name] for name in wanted})


def _weights(exported: bytes) -> dict[str, Tensor]:
    # Only where it is asked for: no other training needs it.
    import onnx
    from onnx import numpy_helper

    tensors = onnx.load_from_string(exported).graph.initializer
    return {
        tensor.name.removeprefix(_PREFIX): torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in tensors
        if tensor.name.startswith(_PREFIX)
    }
