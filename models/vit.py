"""Vision transformers on 16x16 patches: classify (arXiv 2010.11929, 2012.12877) and segment.

Positions are a table, so that the input size is fixed when the model is made.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from fluxcompile.models.layers import Block

SIZES = {  # dim, depth, heads
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "mini": (64, 3, 2),
}


class ViT(nn.Module):
    """Normalised RGB of the given (h, w) -> class logits: [b, 3, h, w] -> [b, classes]."""

    def __init__(
        self, size: str = "tiny", classes: int = 1000, *, image: tuple[int, int] = (224, 224), patch: int = 16
    ) -> None:
        super().__init__()
        dim, depth, heads = SIZES[size]
        self.patch = nn.Conv2d(3, dim, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.zeros(1, 1 + image[0] // patch * (image[1] // patch), dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.position
        x = self.head(self.norm(self.blocks(x))[:, 0])
        return x


class ViTSegment(nn.Module):
    """Normalised RGB of the given (h, w) -> logits at stride 8: [b, 3, h, w] -> [b, classes, h/8, w/8].

    Every token gives the logits of the 2x2 cells it covers; there is no class token.
    """

    def __init__(
        self,
        classes: int = 4,
        *,
        image: tuple[int, int] = (256, 448),
        patch: int = 16,
        dim: int = 128,
        depth: int = 8,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.grid = (image[0] // patch, image[1] // patch)
        self.patch = nn.Conv2d(3, dim, patch, patch)
        self.position = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, eps=1e-5) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 4 * classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        x = self.head(self.norm(self.blocks(x)))
        return functional.pixel_shuffle(x.transpose(1, 2).reshape(x.shape[0], -1, *self.grid), 2)


FILE_NAMES = {
    "pe": "patch", "pos": "position", "b": "blocks", "n": "norm", "n1": "norm1", "n2": "norm2",
    "qkv": "attention.qkv", "proj": "attention.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
}  # fmt: skip


def load_vit_segment(path: str | Path) -> ViTSegment:
    """The model with the weights of `vit_seg_selfmade.safetensors` (256x448, 4 classes), in eval mode."""
    model = ViTSegment()
    state = load_file(path)
    model.load_state_dict({".".join(FILE_NAMES.get(p, p) for p in k.split(".")): v for k, v in state.items()})
    return model.eval()
