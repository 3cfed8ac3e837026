"""The generator: a U-Net, from arXiv 1611.07004, appendix 6.1, as the reference implementation builds it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Norm(nn.Module):
    """Instance or batch normalisation with a learned scale and shift, and no running statistics.

    `batch` uses the statistics of the batch while training. In eval mode both kinds normalise every image
    by its own statistics: what batch norm does at batch 1 in training mode, which is how the paper runs
    its generator, and the form that gives the same picture alone, in a batch and in the exported file.
    """

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] → the same."""
        if self.kind == "batch" and self.training:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True)
        return F.instance_norm(x, weight=self.weight, bias=self.bias)


class Down(nn.Module):
    """LeakyReLU, a 4×4 convolution that halves, norm. The outermost block has neither ReLU nor norm."""

    def __init__(self, inputs: int, outputs: int, norm: str | None, activate: bool) -> None:
        super().__init__()
        self.activate = activate
        # A bias before a norm would be subtracted again; the two blocks without a norm have none either,
        # in the tutorial and in the reference implementation.
        self.conv = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)
        self.norm = Norm(outputs, norm) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.leaky_relu(x, 0.2) if self.activate else x)
        return self.norm(x) if self.norm else x


class Up(nn.Module):
    """ReLU, a 4×4 transposed convolution that doubles, norm, dropout."""

    def __init__(self, inputs: int, outputs: int, norm: str | None, dropout: bool) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=norm is None)
        self.norm = Norm(outputs, norm) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.relu(x))
        x = self.norm(x) if self.norm else x
        return F.dropout(x, 0.5, self.training) if self.dropout else x


class Generator(nn.Module):
    """Encoder and decoder with a skip between each pair of levels.

    Args:
        levels: halvings, so that an image of 2^levels ends at 1×1; 8 for 256 px.
        channels: of the first level; they double up to 8 times that.
        norm: instance or batch, see `Norm`.
        dropout_blocks: decoder blocks with dropout 0.5 in training, 1 is the innermost.

    256 px, 64 channels, 3 → 3 has 54,413,955 parameters.
    """

    def __init__(
        self,
        *,
        levels: int,
        channels: int,
        in_channels: int = 3,
        out_channels: int = 3,
        norm: str = "instance",
        dropout_blocks: Sequence[int] = (1, 2, 3),
    ) -> None:
        super().__init__()
        self.multiple = 2**levels
        widths = [channels * min(2**level, 8) for level in range(levels)]
        # No norm at the outermost level, nor at 1×1, where a map minus its own mean is nothing.
        self.down = nn.ModuleList(
            Down(
                inputs=in_channels if level == 0 else widths[level - 1],
                outputs=width,
                norm=None if level in (0, levels - 1) else norm,
                activate=level > 0,
            )
            for level, width in enumerate(widths)
        )
        # Decoder block n takes the block below it and, except for the innermost, the encoder's equal.
        self.up = nn.ModuleList(
            Up(
                inputs=widths[level] * (1 if level == levels - 1 else 2),
                outputs=widths[level - 1] if level else out_channels,
                norm=norm if level else None,
                dropout=levels - level in dropout_blocks,
            )
            for level in reversed(range(levels))
        )
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Translate images.

        Args:
            x: [batch, in_channels, height, width] in [-1, 1]; height and width multiples of 2^levels.

        Returns:
            [batch, out_channels, height, width] in [-1, 1].
        """
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        x = self.up[0](skips.pop())
        for up in list(self.up)[1:]:
            x = up(torch.cat([skips.pop(), x], 1))
        return torch.tanh(x)


def initialise(network: nn.Module) -> None:
    """Convolutions N(0, 0.02), norm scales N(1, 0.02), biases 0, from torch's global random state."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Norm):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
