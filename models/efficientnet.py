"""EfficientNet b0 to b3 (arXiv 1905.11946)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxcompile.models.layers import ConvNorm, InvertedResidual, round_channels

SIZES = {"b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4), "mini": (0.25, 0.4)}  # width, depth
STAGES = (  # expansion, kernel, stride, outputs, repeats
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class EfficientNet(nn.Module):
    """Normalised RGB -> class logits: [b, 3, h, w] -> [b, classes]."""

    def __init__(self, size: str = "b0", classes: int = 1000) -> None:
        super().__init__()
        width, depth = SIZES[size]
        inputs = round_channels(32 * width)
        layers: list[nn.Module] = [ConvNorm(3, inputs, 3, 2, act=nn.SiLU)]
        for expansion, kernel, stage_stride, channels, repeats in STAGES:
            outputs = round_channels(channels * width)
            for i in range(math.ceil(repeats * depth)):
                stride, squeezed = 1 if i else stage_stride, max(1, inputs // 4)
                layers.append(
                    InvertedResidual(
                        inputs, expansion * inputs, outputs, kernel, stride, squeezed=squeezed, act=nn.SiLU
                    )
                )
                inputs = outputs
        layers.append(ConvNorm(inputs, 4 * inputs, act=nn.SiLU))
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(4 * inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(self.layers(x), 1)
        logits: Tensor = self.head(torch.flatten(pooled, 1))
        return logits
