"""The PatchGAN: its size and what one of its logits can see."""

import pytest
import torch

from pix2pix.discriminator import Discriminator


def test_parameter_count_is_that_of_the_reference() -> None:
    with torch.device("meta"):
        network = Discriminator(channels=64)
    assert sum(weight.numel() for weight in network.parameters()) == 2_768_705


# arXiv 1611.07004, appendix 6.1.2: patches of 16, 34, 70, 142 and 286 px.
@pytest.mark.parametrize(("layers", "patches"), [(1, 126), (2, 62), (3, 30), (4, 14), (5, 6)])
def test_256_px_give_the_published_number_of_logits(layers: int, patches: int) -> None:
    network = Discriminator(channels=2, layers=layers)
    assert network(torch.zeros(1, 6, 256, 256)).shape == (1, 1, patches, patches)


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70), (4, 142), (5, 286)])
def test_a_logit_sees_a_patch_of_the_published_size(layers: int, field: int) -> None:
    network = Discriminator(channels=1, layers=layers).double()
    # The instance norm sees the whole image; without it only the convolutions' reach is left.
    network.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in network.norms)
    pair = torch.zeros(1, 6, 640, 640, dtype=torch.double, requires_grad=True)
    logits = network(pair)
    middle = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], pair)
    columns = gradient.abs().sum((0, 1, 2)).nonzero().flatten()
    assert int(columns.max() - columns.min()) + 1 == field
