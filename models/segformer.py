"""SegFormer b0 to b2: a transformer on four map scales and an all-MLP decoder (arXiv 2105.15203)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxcompile.models.layers import ConvNorm


class Size(NamedTuple):
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    decoder: int


SIZES = {
    "b0": Size((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "b1": Size((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "b2": Size((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "mini": Size((16, 32, 80, 128), (1, 1, 1, 1), 32),
}
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)  # of each side of the map that keys and values come from


class ReducedAttention(nn.Module):
    """Attention from all cells of an h x w map to those of a smaller map: [b, h * w, c] -> [b, h * w, c]."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if reduction > 1:
            self.reduce = nn.Conv2d(dim, dim, reduction, reduction)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        b, n, c = x.shape
        q = self.q(x).reshape(b, n, self.heads, -1).transpose(1, 2)
        if self.reduction > 1:
            reduced = self.reduce(x.transpose(1, 2).reshape(b, c, h, w))
            x = self.norm(reduced.flatten(2).transpose(1, 2))
        k, v = self.kv(x).reshape(b, -1, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v)
        x = self.proj(y.transpose(1, 2).reshape(b, n, c))
        return x


class MixFeedForward(nn.Module):
    """An MLP with a 3x3 depthwise convolution inside, which tells place: [b, h * w, c] -> [b, h * w, c]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        y = self.fc1(x).transpose(1, 2)
        y = self.conv(y.reshape(*y.shape[:2], h, w)).flatten(2).transpose(1, 2)
        x = self.fc2(functional.gelu(y))
        return x


class SegFormerBlock(nn.Module):
    """Reduced attention and feed-forward, each added to its input: [b, h * w, c] -> [b, h * w, c]."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = ReducedAttention(dim, heads, reduction)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.feed = MixFeedForward(dim, 4 * dim)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        x = x + self.attention(self.norm1(x), h, w)
        x = x + self.feed(self.norm2(x), h, w)
        return x


class Stage(nn.Module):
    """Overlapping patches, then blocks on their tokens: [b, inputs, h, w] -> [b, dim, h/stride, w/stride]."""

    def __init__(self, inputs: int, dim: int, depth: int, heads: int, reduction: int, *, first: bool) -> None:
        super().__init__()
        self.patch = nn.Conv2d(inputs, dim, 7, 4, 3) if first else nn.Conv2d(inputs, dim, 3, 2, 1)
        self.patch_norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(SegFormerBlock(dim, heads, reduction) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        b, c, h, w = x.shape
        x = self.patch_norm(x.flatten(2).transpose(1, 2))
        for block in self.blocks:
            x = block(x, h, w)
        x = self.norm(x).transpose(1, 2).reshape(b, c, h, w)
        return x


class SegFormer(nn.Module):
    """Normalised RGB, sides multiples of 32 -> logits at stride 4: [b, 3, h, w] -> [b, classes, h/4, w/4]."""

    def __init__(self, size: str = "b0", classes: int = 150) -> None:
        super().__init__()
        widths, depths, decoder = SIZES[size]
        inputs = (3, *widths)
        self.stages = nn.ModuleList(
            Stage(inputs[i], widths[i], depths[i], HEADS[i], REDUCTIONS[i], first=i == 0) for i in range(4)
        )
        self.project = nn.ModuleList(nn.Linear(width, decoder) for width in widths)
        self.merge = ConvNorm(4 * decoder, decoder)
        self.head = nn.Conv2d(decoder, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        views = []
        for stage, project in zip(self.stages, self.project, strict=True):
            x = stage(x)
            y = project(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(b, -1, *x.shape[2:])
            views.append(functional.interpolate(y, (h // 4, w // 4), mode="bilinear", align_corners=False))
        x = self.head(self.merge(torch.cat(views[::-1], 1)))
        return x
