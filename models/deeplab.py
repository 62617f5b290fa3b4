"""DeepLabV3+ on ResNet or MobileNetV3, dilated to output stride 16 (arXiv 1802.02611)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxcompile.models.layers import ConvNorm
from fluxcompile.models.mobilenet import MobileNetTrunk
from fluxcompile.models.resnet import ResNetTrunk


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the size of another map: [b, c, h, w] -> [b, c, *like's size]."""
    h, w = like.shape[2:]
    return functional.interpolate(x, (h, w), mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    """One map seen at four dilations and as its mean: [b, inputs, h, w] -> [b, width, h, w]."""

    def __init__(self, inputs: int, width: int, rates: tuple[int, ...] = (6, 12, 18)) -> None:
        super().__init__()
        self.views = nn.ModuleList([ConvNorm(inputs, width)])
        self.views.extend(ConvNorm(inputs, width, 3, dilation=rate) for rate in rates)
        self.mean = ConvNorm(inputs, width)
        self.merge = ConvNorm((len(rates) + 2) * width, width)

    def forward(self, x: Tensor) -> Tensor:
        mean = resize(self.mean(functional.adaptive_avg_pool2d(x, 1)), like=x)
        x = self.merge(torch.cat([*(view(x) for view in self.views), mean], 1))
        return x


class DeepLab(nn.Module):
    """Normalised RGB, sides multiples of 16 -> logits of each pixel: [b, 3, h, w] -> [b, classes, h, w].

    `backbone` is `resnet-SIZE` or `mobilenet-SIZE` as in those files.
    """

    def __init__(self, backbone: str = "resnet-50", classes: int = 21, width: int = 256) -> None:
        super().__init__()
        family, size = backbone.split("-")
        trunk = ResNetTrunk(size, dilate_last=True) if family == "resnet" else MobileNetTrunk(size, dilate_last=True)
        self.trunk = trunk
        self.fine = 0 if family == "resnet" else 1  # the map at stride 4
        self.aspp = ASPP(trunk.widths[-1], width)
        self.low = ConvNorm(trunk.widths[self.fine], 48)
        self.merge = nn.Sequential(ConvNorm(48 + width, width, 3), ConvNorm(width, width, 3))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.trunk(x)
        low = self.low(maps[self.fine])
        y = resize(self.aspp(maps[-1]), like=low)
        return resize(self.head(self.merge(torch.cat((low, y), 1))), like=x)
