"""ResNet 18, 34, 50, 101, stride on the 3x3 convolution (arXiv 1512.03385)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxcompile.models.layers import ConvNorm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [b, inputs, h, w] -> [b, width, h/stride, w/stride]."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, width, 3, stride, dilation=dilation)
        self.conv2 = ConvNorm(width, width, 3, dilation=dilation, act=nn.Identity)
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut: [b, inputs, h, w] -> [b, 4 * width, h/stride, w/stride]."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, width)
        self.conv2 = ConvNorm(width, width, 3, stride, dilation=dilation)
        self.conv3 = ConvNorm(width, 4 * width, act=nn.Identity)
        self.shortcut = _shortcut(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Identity() if inputs == outputs and stride == 1 else ConvNorm(inputs, outputs, 1, stride, act=nn.Identity)


SIZES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], Sequence[int], int]] = {  # block, depths, width
    "18": (BasicBlock, (2, 2, 2, 2), 64),
    "34": (BasicBlock, (3, 4, 6, 3), 64),
    "50": (Bottleneck, (3, 4, 6, 3), 64),
    "101": (Bottleneck, (3, 4, 23, 3), 64),
    "mini": (Bottleneck, (1, 2, 1, 1), 8),
}


class ResNetTrunk(nn.Module):
    """[b, 3, h, w] -> maps at strides 4, 8, 16, 32; `dilate_last` keeps the last at 16 with dilation 2."""

    def __init__(self, size: str = "50", *, dilate_last: bool = False) -> None:
        super().__init__()
        block, depths, width = SIZES[size]
        self.widths = [width * 2**i * block.expansion for i in range(4)]
        self.stem = ConvNorm(3, width, 7, 2)
        self.stages = nn.ModuleList()
        inputs = width
        for i, depth in enumerate(depths):
            dilated = dilate_last and i == 3
            layers: list[nn.Module] = []
            for j in range(depth):
                stride = 2 if i and not j and not dilated else 1
                layers.append(block(inputs, width * 2**i, stride, 2 if dilated and j else 1))
                inputs = self.widths[i]
            self.stages.append(nn.Sequential(*layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = functional.max_pool2d(self.stem(x), 3, 2, 1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class ResNet(nn.Module):
    """Normalised RGB -> class logits: [b, 3, h, w] -> [b, classes]."""

    def __init__(self, size: str = "50", classes: int = 1000) -> None:
        super().__init__()
        self.trunk = ResNetTrunk(size)
        self.head = nn.Linear(self.trunk.widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(self.trunk(x)[-1], 1)
        logits: Tensor = self.head(torch.flatten(pooled, 1))
        return logits
