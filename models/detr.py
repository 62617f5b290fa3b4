"""DETR on ResNet-50: boxes from 100 learned queries (arXiv 2005.12872).

The fixed position code depends on the input size, so that the size is fixed when the model is made.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxcompile.models.layers import sine_positions
from fluxcompile.models.resnet import ResNetTrunk


class Size(NamedTuple):
    backbone: str
    dim: int
    heads: int
    hidden: int
    layers: int
    queries: int


SIZES = {"r50": Size("50", 256, 8, 2048, 6, 100), "mini": Size("mini", 64, 4, 128, 2, 10)}


class CrossAttention(nn.Module):
    """Attention from one row of tokens to another: q [b, n, c], k and v [b, m, c] -> [b, n, c]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = q.shape
        split = (self.heads, shape[2] // self.heads)
        q = self.q(q).unflatten(2, split).transpose(1, 2)
        k = self.k(k).unflatten(2, split).transpose(1, 2)
        v = self.v(v).unflatten(2, split).transpose(1, 2)
        y = functional.scaled_dot_product_attention(q, k, v)
        q = self.proj(y.transpose(1, 2).reshape(shape))
        return q


def feed_forward(dim: int, hidden: int) -> nn.Sequential:
    """Two linear layers with a ReLU between: [b, n, dim] -> [b, n, dim]."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, a norm after each sum: [b, n, c] -> [b, n, c]."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = CrossAttention(dim, heads)
        self.feed = feed_forward(dim, hidden)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        placed = x + position
        x = self.norm1(x + self.attention(placed, placed, x))
        x = self.norm2(x + self.feed(x))
        return x


class DecoderLayer(nn.Module):
    """Attention between queries, attention to the map, feed-forward: [b, queries, c] -> [b, queries, c]."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attention = CrossAttention(dim, heads)
        self.map_attention = CrossAttention(dim, heads)
        self.feed = feed_forward(dim, hidden)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))

    def forward(self, x: Tensor, query: Tensor, tokens: Tensor, placed: Tensor) -> Tensor:
        asked = x + query
        x = self.norm1(x + self.self_attention(asked, asked, x))
        x = self.norm2(x + self.map_attention(x + query, placed, tokens))
        x = self.norm3(x + self.feed(x))
        return x


class DETR(nn.Module):
    """Normalised RGB of the given (h, w) -> class logits, the last "none", and boxes of each query.

    [b, 3, h, w] -> [b, queries, classes + 1] and [b, queries, 4], boxes as centre and size in shares of the frame.
    """

    position: Tensor

    def __init__(self, size: str = "r50", classes: int = 91, *, image: tuple[int, int] = (800, 1056)) -> None:
        super().__init__()
        backbone, dim, heads, hidden, layers, queries = SIZES[size]
        self.trunk = ResNetTrunk(backbone)
        self.project = nn.Conv2d(self.trunk.widths[-1], dim, 1)
        self.encoder = nn.ModuleList(EncoderLayer(dim, heads, hidden) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderLayer(dim, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Parameter(torch.zeros(1, queries, dim))
        self.logits = nn.Linear(dim, classes + 1)
        self.box = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4), nn.Sigmoid()
        )
        grid = (-(-image[0] // 32), -(-image[1] // 32))
        self.register_buffer("position", sine_positions(dim, *grid), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.project(self.trunk(x)[-1]).flatten(2).transpose(1, 2)
        for layer in self.encoder:
            tokens = layer(tokens, self.position)
        placed = tokens + self.position
        query = self.query.expand(x.shape[0], -1, -1)
        y = torch.zeros_like(query)
        for layer in self.decoder:
            y = layer(y, query, tokens, placed)
        y = self.norm(y)
        return self.logits(y), self.box(y)
