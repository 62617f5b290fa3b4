"""ConvNeXt tiny and small (arXiv 2201.03545)."""

import torch
from torch import Tensor, nn

from fluxcompile.models.layers import LayerNorm2d, Mlp

SIZES = {  # depths, widths
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "mini": ((1, 1, 2), (16, 32, 64)),
}
EPS = 1e-6


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, then an MLP on each cell, scaled and added: [b, c, h, w] -> [b, c, h, w]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), 1e-6))
        self.conv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.scale * self.mlp(self.norm(self.conv(x).permute(0, 2, 3, 1)))
        x = x + y.permute(0, 3, 1, 2)
        return x


class ConvNeXt(nn.Module):
    """Normalised RGB -> class logits: [b, 3, h, w] -> [b, classes]."""

    def __init__(self, size: str = "tiny", classes: int = 1000) -> None:
        super().__init__()
        depths, widths = SIZES[size]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), LayerNorm2d(widths[0], eps=EPS)]
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if i:
                layers += [LayerNorm2d(widths[i - 1], eps=EPS), nn.Conv2d(widths[i - 1], width, 2, 2)]
            layers += [ConvNeXtBlock(width) for _ in range(depth)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(widths[-1], eps=EPS)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.norm(self.layers(x).mean((2, 3))))
        return x
