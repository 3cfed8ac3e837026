"""The reference's procedure: what ours is measured against.

Eager, float32; the discriminator is updated first, from a pass on real and a pass on the detached fake; the
fake is then scored again for the generator's update; Adam is not fused. Its loader decodes a combined image
for every sample, resizes both sides bicubically to 286/256 of the size, crops and mirrors, in four processes
where there are as many cores.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pix2pix import devices, losses
from pix2pix.discriminator import Discriminator
from pix2pix.generator import Generator
from pix2pix.params import unet_levels

from .ours import Shape

LOADER_WORKERS = min(4, devices.available_cores())


def networks(shape: Shape, device: torch.device) -> tuple[Generator, Discriminator]:
    """Both, as the paper has them."""
    torch.manual_seed(0)
    generator = Generator(levels=unet_levels(shape.px), channels=shape.channels, norm="batch").to(device)
    return generator, Discriminator(channels=shape.channels, norm="batch").to(device)


def settle() -> None:
    """Set cuDNN as the reference does, for the fastest convolutions, with TF32 as torch has it."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.allow_tf32 = True


def step(
    shape: Shape, device: torch.device, pairs: Iterator[tuple[Tensor, Tensor]] | None = None
) -> Callable[[], object]:
    """One update of both networks, on the next of these pairs or always on the same.

    Args:
        pairs: inputs and targets [batch, 3, px, px] in [-1, 1].
    """
    generator, discriminator = networks(shape, device)
    g_optimizer, d_optimizer = (
        torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for network in (generator, discriminator)
    )
    always = [torch.rand(shape.batch, 3, shape.px, shape.px, device=device) * 2 - 1 for _ in range(2)]

    def update() -> None:
        source, target = next(pairs) if pairs else always
        source, target = source.to(device), target.to(device)
        output = generator(source)
        discriminator.requires_grad_(True)
        d_optimizer.zero_grad()
        fake_logits = discriminator(torch.cat([source, output.detach()], 1))
        d_fake = losses.discriminator_loss("bce", fake_logits, real=False)
        real_logits = discriminator(torch.cat([source, target], 1))
        d_real = losses.discriminator_loss("bce", real_logits, real=True)
        ((d_fake + d_real) * 0.5).backward()
        d_optimizer.step()
        discriminator.requires_grad_(False)
        g_optimizer.zero_grad()
        g_adversarial = losses.generator_adversarial("bce", discriminator(torch.cat([source, output], 1)))
        (g_adversarial + 100 * losses.l1(output, target)).backward()
        g_optimizer.step()

    return update


class _Combined(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, files: list[Path], shape: Shape) -> None:
        self._files, self._shape = files, shape

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        both = Image.open(self._files[index]).convert("RGB")
        width, height = both.width // 2, both.height
        margin = self._shape.load_px - self._shape.px
        top, left, mirror = random.randint(0, margin), random.randint(0, margin), random.random() < 0.5
        sides = []
        for offset in (0, width):
            side = both.crop((offset, 0, offset + width, height))
            side = side.resize((self._shape.load_px,) * 2, Image.Resampling.BICUBIC)
            side = side.crop((left, top, left + self._shape.px, top + self._shape.px))
            pixels = np.asarray(side)[:, ::-1] if mirror else np.asarray(side)
            sides.append(torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() / 127.5 - 1)
        return sides[0], sides[1]


def loader(files: list[Path], shape: Shape) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch after the other, decoded from disk each time."""
    batches = DataLoader(
        _Combined(files, shape),
        shape.batch,
        shuffle=True,
        num_workers=LOADER_WORKERS,
        drop_last=True,
        # The reference forks them anew each epoch; on GPU machines that would be most of a small epoch.
        persistent_workers=True,
    )
    while True:
        yield from batches
