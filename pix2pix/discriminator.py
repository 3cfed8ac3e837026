"""The discriminator: a PatchGAN, from arXiv 1611.07004, appendix 6.1.2."""

import torch.nn.functional as F
from torch import Tensor, nn

from .generator import Norm, initialise


class Discriminator(nn.Module):
    """4×4 convolutions that give one logit for every patch of the image.

    Args:
        in_channels: of the input and the output image together.
        channels: of the first layer; they double up to 8 times that.
        layers: of stride 2. 1, 2, 3, 4, 5 see patches of 16, 34, 70, 142, 286 px. 0 is the paper's
            PixelGAN: 1×1 convolutions that judge every pixel by itself.

    3 layers, 64 channels, 6 input channels has 2,768,705 parameters, and 30×30 logits for 256 px.
    """

    def __init__(
        self, *, in_channels: int = 6, channels: int, layers: int = 3, norm: str = "instance"
    ) -> None:
        super().__init__()
        kernel, padding = (4, 1) if layers else (1, 0)
        widths = [channels * min(2**layer, 8) for layer in range(max(layers, 1) + 1)]
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        for layer, width in enumerate(widths):
            inputs = in_channels if layer == 0 else widths[layer - 1]
            stride = 2 if layer < layers else 1
            self.convs.append(nn.Conv2d(inputs, width, kernel, stride, padding, bias=layer == 0))
            self.norms.append(Norm(width, norm) if layer else nn.Identity())
        self.last = nn.Conv2d(widths[-1], 1, kernel, 1, padding)
        initialise(self)

    @property
    def receptive_field_px(self) -> int:
        """Side of the patch that one logit sees: f ← (f − 1)·stride + kernel, from the last layer back."""
        field = 1
        for conv in (self.last, *reversed(self.convs)):
            assert isinstance(conv, nn.Conv2d)
            field = (field - 1) * conv.stride[0] + conv.kernel_size[0]
        return field

    def forward(self, pair: Tensor) -> Tensor:
        """Judge pairs.

        Args:
            pair: [batch, in_channels, height, width] in [-1, 1]: input and output concatenated, or the
                output alone where the discriminator is not conditional.

        Returns:
            Logits [batch, 1, rows, columns], one a patch; positive says real.
        """
        x = pair
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
        return self.last(x)  # type: ignore[no-any-return]
