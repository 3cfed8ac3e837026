"""The generator, from arXiv 1611.07004, appendix 6.1, as the reference implementation builds it.

A U-Net; or, for the paper's comparison of architectures, the same encoder and decoder without the skips.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Norm(nn.Module):
    """Instance or batch normalisation with a learned scale and shift, and no running statistics.

    `batch` uses the statistics of the batch while training. In eval mode both kinds normalise every image
    by its own statistics: what batch norm does at batch 1 in training mode, which is how the paper runs
    its generator, and the form that gives the same picture alone, in a batch and in the exported file.

    `running` normalises by statistics that came with imported weights and never change.
    """

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        if kind == "running":
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] → the same."""
        if self.kind == "running":
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)
        # Of one image both kinds are the same, to the bit on a CPU; torch's instance norm undoes
        # channels-last memory, and at batch 1 on a CPU misreads an incoming gradient that has it (2.13).
        if self.training and (self.kind == "batch" or len(x) == 1):
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True)
        return F.instance_norm(x, weight=self.weight, bias=self.bias)


class Down(nn.Module):
    """LeakyReLU, a 4×4 convolution that halves, norm. The outermost block has neither ReLU nor norm."""

    def __init__(
        self, inputs: int, outputs: int, norm: str | None, activate: bool, bias: bool = False
    ) -> None:
        super().__init__()
        self.activate = activate
        # A bias before a norm would be subtracted again; the two blocks without a norm have none either,
        # in the tutorial and in the reference implementation (but in its variant with instance norm).
        self.conv = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=bias and norm is None)
        self.norm = Norm(outputs, norm) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.leaky_relu(x, 0.2) if self.activate else x)
        return self.norm(x) if self.norm else x


class Up(nn.Module):
    """ReLU, a doubling, norm, dropout.

    `deconv` doubles by a 4×4 transposed convolution, as the paper does. `resize` repeats every pixel and
    convolves 3×3, which leaves no checkerboard (Odena et al. 2016, "Deconvolution and checkerboard
    artifacts").
    """

    def __init__(
        self, inputs: int, outputs: int, norm: str | None, dropout: bool, upsample: str = "deconv"
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.conv = (
            nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=norm is None)
            if upsample == "deconv"
            else nn.Conv2d(inputs, outputs, 3, 1, 1, bias=norm is None)
        )
        self.norm = Norm(outputs, norm) if norm else None
        self.dropout = nn.Dropout(0.5) if dropout else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        x = self.conv(x if self.upsample == "deconv" else F.interpolate(x, scale_factor=2.0, mode="nearest"))
        x = self.norm(x) if self.norm else x
        return self.dropout(x) if self.dropout else x


class Generator(nn.Module):
    """Encoder and decoder, with a skip between each pair of levels if it is a U-Net.

    Args:
        levels: halvings, so that an image of 2^levels ends at 1×1; 8 for 256 px.
        channels: of the first level; they double up to 8 times that.
        norm: instance, batch or running, see `Norm`.
        dropout_blocks: decoder blocks with dropout 0.5 in training, 1 is the innermost.
        architecture: unet or encoder-decoder.
        upsample: deconv or resize, see `Up`.
        down_bias: the encoder's blocks without norm have a bias, as in the reference's variant with
            instance norm.

    Raises:
        ValueError: norm, architecture or upsample is none of these.

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
        architecture: str = "unet",
        upsample: str = "deconv",
        down_bias: bool = False,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("norm", norm, ("instance", "batch", "running")),
            ("architecture", architecture, ("unet", "encoder-decoder")),
            ("upsample", upsample, ("deconv", "resize")),
        ):
            if value not in known:
                raise ValueError(f"{name} = {value!r}; allowed: {', '.join(known)}")
        self.has_skips = architecture == "unet"
        self.multiple = 2**levels
        widths = [channels * min(2**level, 8) for level in range(levels)]
        # No norm at the outermost level, nor at 1×1, where a map minus its own mean is nothing.
        self.down = nn.ModuleList(
            Down(
                inputs=in_channels if level == 0 else widths[level - 1],
                outputs=width,
                norm=None if level in (0, levels - 1) else norm,
                activate=level > 0,
                bias=down_bias,
            )
            for level, width in enumerate(widths)
        )
        # Decoder block n takes the block below it and, except for the innermost, the encoder's equal.
        self.up = nn.ModuleList(
            Up(
                inputs=widths[level] * (2 if self.has_skips and level < levels - 1 else 1),
                outputs=widths[level - 1] if level else out_channels,
                norm=norm if level else None,
                dropout=levels - level in dropout_blocks,
                upsample=upsample,
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
            x = up(torch.cat([skips.pop(), x], 1) if self.has_skips else x)
        return torch.tanh(x)

    def draw_dropout(self) -> "Generator":
        """Eval mode but for dropout, the paper's only noise: each call then gives another output.

        This is the tutorial's `training=True` at batch 1, whose batch statistics are those of the image.
        """
        self.eval()
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        return self

    @property
    def has_dropout(self) -> bool:
        """Whether any block has dropout, without which there is nothing to draw."""
        return any(isinstance(module, nn.Dropout) for module in self.modules())


def initialise(network: nn.Module) -> None:
    """Convolutions N(0, 0.02), norm scales N(1, 0.02), biases 0, from torch's global random state."""
    if any(weight.is_meta for weight in network.parameters()):
        # There is nothing to set, and torch would load its compiler for it.
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Norm):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
