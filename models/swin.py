"""Swin transformer: attention in windows that shift every other block (arXiv 2103.14030).

Maps are kept as [b, h, w, c]; the input size is fixed when the model is made, for the masks depend on it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxcompile.models.layers import Mlp

SIZES = {  # dim, depths, heads
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "mini": (32, (2, 2), (2, 4)),
}
PATCH = 4


def split_windows(x: Tensor, window: int) -> Tensor:
    """[b, h, w, c] -> [b, windows, window * window, c]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c).transpose(2, 3)
    return x.reshape(b, -1, window * window, c)


def join_windows(x: Tensor, h: int, w: int, window: int) -> Tensor:
    """[b, windows, window * window, c] -> [b, h, w, c]."""
    b, _, _, c = x.shape
    x = x.reshape(b, h // window, w // window, window, window, c).transpose(2, 3)
    return x.reshape(b, h, w, c)


def offset_index(window: int) -> Tensor:
    """For each pair of cells of a window, the row of the bias table that their offset has: [n, n]."""
    rows, columns = torch.arange(window * window) // window, torch.arange(window * window) % window
    dy, dx = rows[:, None] - rows, columns[:, None] - columns
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def shift_mask(h: int, w: int, window: int, shift: int) -> Tensor:
    """-100 between cells of a shifted window that were not neighbours before the roll: [windows, 1, n, n]."""
    rows, columns = torch.arange(h), torch.arange(w)
    region_y = (rows >= h - window).long() + (rows >= h - shift).long()
    region_x = (columns >= w - window).long() + (columns >= w - shift).long()
    region = split_windows((3 * region_y[:, None] + region_x)[None, :, :, None], window)[0, :, :, 0]
    return torch.where(region[:, None] == region[:, :, None], 0.0, -100.0)[:, None]


class WindowAttention(nn.Module):
    """Attention inside each window, biased by offset: [b, windows, n, c] -> [b, windows, n, c]."""

    index: Tensor
    mask: Tensor

    def __init__(self, dim: int, heads: int, h: int, w: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads = heads
        self.shifted = shift > 0
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("index", offset_index(window), persistent=False)
        if self.shifted:
            self.register_buffer("mask", shift_mask(h, w, window, shift), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, windows, n, c = x.shape
        bias = self.table[self.index].permute(2, 0, 1)
        if self.shifted:
            bias = bias + self.mask
        q, k, v = self.qkv(x).reshape(b, windows, n, 3, self.heads, c // self.heads).permute(3, 0, 1, 4, 2, 5).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = self.proj(y.transpose(2, 3).reshape(b, windows, n, c))
        return x


class SwinBlock(nn.Module):
    """Window attention and an MLP, each added to its input: [b, h, w, c] -> [b, h, w, c]."""

    def __init__(self, dim: int, heads: int, h: int, w: int, window: int, shift: int) -> None:
        super().__init__()
        if min(h, w) <= window:  # one window holds a whole side: nothing to shift
            window, shift = min(h, w), 0
        if h % window or w % window:
            raise ValueError(f"Swin: a map of {h}x{w} cells does not divide into windows of {window}; "
                             f"use an input whose sides are multiples of {window} times the stride")  # fmt: skip
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, heads, h, w, window, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        y = self.norm1(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = join_windows(self.attention(split_windows(y, self.window)), h, w, self.window)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        x = x + self.mlp(self.norm2(x))
        return x


class Merge(nn.Module):
    """Four neighbouring cells into one of twice the width: [b, h, w, c] -> [b, h/2, w/2, 2c]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduce = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).reshape(b, h // 2, w // 2, 4 * c)
        x = self.reduce(self.norm(x))
        return x


class Swin(nn.Module):
    """Normalised RGB of the given (h, w) -> class logits: [b, 3, h, w] -> [b, classes]."""

    def __init__(
        self, size: str = "tiny", classes: int = 1000, *, image: tuple[int, int] = (224, 224), window: int = 7
    ) -> None:
        super().__init__()
        dim, depths, heads = SIZES[size]
        h, w = image[0] // PATCH, image[1] // PATCH
        self.patch = nn.Conv2d(3, dim, PATCH, PATCH)
        self.patch_norm = nn.LayerNorm(dim)
        layers: list[nn.Module] = []
        for i, depth in enumerate(depths):
            if i:
                layers.append(Merge(dim))
                dim, h, w = 2 * dim, h // 2, w // 2
            layers += [SwinBlock(dim, heads[i], h, w, window, j % 2 * (window // 2)) for j in range(depth)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_norm(self.patch(x).permute(0, 2, 3, 1))
        x = self.head(self.norm(self.layers(x)).mean((1, 2)))
        return x
