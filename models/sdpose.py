"""SDPose-like tokenised pose: visual and keypoint tokens through one cycled transformer (arXiv 2404.03518, 2104.03516).

After the paper and its published settings; weights are not interchangeable with the authors'. Trained with two or
more cycles, distilled to one: the published GFLOPs are those of one.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fluxcompile.models.layers import Block, ConvNorm, sine_positions

KEYPOINTS = 17


class Size(NamedTuple):
    image: tuple[int, int]  # (h, w) in pixels; heatmaps have a quarter of it
    patch: tuple[int, int]  # (h, w) of a token, in cells of the stem's map at stride 4
    stem: int  # channels
    dim: int
    depth: int
    heads: int


SIZES = {
    "t": Size((256, 192), (4, 3), 64, 192, 6, 8),
    "s-v2": Size((256, 192), (2, 2), 64, 192, 12, 8),
    "mini": Size((64, 48), (4, 3), 16, 64, 2, 4),
}


class StemBlock(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut: [b, inputs, h, w] -> [b, 4 * width, h, w]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvNorm(inputs, width), ConvNorm(width, width, 3), ConvNorm(width, 4 * width, act=nn.Identity)
        )
        same = inputs == 4 * width
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, 4 * width, act=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layers(x) + self.shortcut(x))


class SDPose(nn.Module):
    """Normalised RGB crop of one person -> a heatmap a keypoint: [b, 3, h, w] -> [b, 17, h/4, w/4].

    The fixed position code is added to the visual tokens before every layer.
    """

    position: Tensor

    def __init__(self, size: str = "t", cycles: int = 1) -> None:
        super().__init__()
        image, patch, width, dim, depth, heads = SIZES[size]
        self.cycles = cycles
        self.heatmap = (image[0] // 4, image[1] // 4)
        grid = (self.heatmap[0] // patch[0], self.heatmap[1] // patch[1])
        self.stem = nn.Sequential(
            ConvNorm(3, width, 3, 2),
            ConvNorm(width, width, 3, 2),
            StemBlock(width, width),
            *(StemBlock(4 * width, width) for _ in range(3)),
        )
        self.patch = nn.Conv2d(4 * width, dim, patch, patch)
        self.keypoints = nn.Parameter(torch.zeros(1, KEYPOINTS, dim))
        self.register_buffer("position", sine_positions(dim, *grid), persistent=False)
        self.blocks = nn.ModuleList(Block(dim, heads, ratio=3, qkv_bias=False) for _ in range(depth))
        self.head = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, 2 * dim),
            nn.LayerNorm(2 * dim),
            nn.Linear(2 * dim, self.heatmap[0] * self.heatmap[1]),
        )

    def forward(self, x: Tensor) -> Tensor:
        visual = self.patch(self.stem(x)).flatten(2).transpose(1, 2)
        keypoints = self.keypoints.expand(x.shape[0], -1, -1)
        for _ in range(self.cycles):
            for block in self.blocks:
                tokens = block(torch.cat((keypoints, visual + self.position), 1))
                keypoints, visual = tokens[:, :KEYPOINTS], tokens[:, KEYPOINTS:]
        heatmaps: Tensor = self.head(keypoints).unflatten(2, self.heatmap)
        return heatmaps


def peaks(heatmaps: Tensor) -> Tensor:
    """The highest cell of each heatmap as x and y in pixels of the crop, and its height: -> [b, keypoints, 3]."""
    height, cell = heatmaps.flatten(2).max(2)
    columns = heatmaps.shape[3]
    return torch.stack((cell % columns * 4 + 2, cell // columns * 4 + 2, height), 2)
