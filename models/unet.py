"""U-Net with padded convolutions and batch norm (arXiv 1505.04597)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxcompile.models.layers import ConvNorm


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions: [b, inputs, h, w] -> [b, outputs, h, w]."""
    return nn.Sequential(ConvNorm(inputs, outputs, 3), ConvNorm(outputs, outputs, 3))


class UNet(nn.Module):
    """RGB, sides multiples of 16 -> logits of each pixel: [b, 3, h, w] -> [b, classes, h, w]."""

    def __init__(self, width: int = 64, classes: int = 2, depth: int = 4) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(depth + 1)]
        self.stem = double(3, width)
        self.down = nn.ModuleList(double(c, 2 * c) for c in widths[:-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, 2) for c in reversed(widths[:-1]))
        self.merge = nn.ModuleList(double(2 * c, c) for c in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(functional.max_pool2d(x, 2))
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat((skips.pop(), up(x)), 1))
        x = self.head(x)
        return x
