"""MobileNetV3 small and large (arXiv 1905.02244)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxcompile.models.layers import ConvNorm, InvertedResidual, round_channels

EPS = 1e-3
Row = tuple[int, int, int, bool, type[nn.Module]]  # kernel, hidden, outputs, squeeze-excite, activation
RE, HS = nn.ReLU, nn.Hardswish
# Rows by stage; the first row of a stage has stride 2, save in the first, which keeps the scale of the stem.
LARGE: list[list[Row]] = [
    [(3, 16, 16, False, RE)],
    [(3, 64, 24, False, RE), (3, 72, 24, False, RE)],
    [(5, 72, 40, True, RE), (5, 120, 40, True, RE), (5, 120, 40, True, RE)],
    [
        (3, 240, 80, False, HS), (3, 200, 80, False, HS), (3, 184, 80, False, HS), (3, 184, 80, False, HS),
        (3, 480, 112, True, HS), (3, 672, 112, True, HS),
    ],
    [(5, 672, 160, True, HS), (5, 960, 160, True, HS), (5, 960, 160, True, HS)],
]  # fmt: skip
SMALL: list[list[Row]] = [
    [],
    [(3, 16, 16, True, RE)],
    [(3, 72, 24, False, RE), (3, 88, 24, False, RE)],
    [
        (5, 96, 40, True, HS), (5, 240, 40, True, HS), (5, 240, 40, True, HS),
        (5, 120, 48, True, HS), (5, 144, 48, True, HS),
    ],
    [(5, 288, 96, True, HS), (5, 576, 96, True, HS), (5, 576, 96, True, HS)],
]  # fmt: skip
MINI: list[list[Row]] = [stage[:2] for stage in SMALL]
SIZES = {"small": (SMALL, 1.0, 1024), "large": (LARGE, 1.0, 1280), "mini": (MINI, 0.5, 64)}  # rows, width, head


class MobileNetTrunk(nn.Module):
    """[b, 3, h, w] -> maps at strides 2, 4, 8, 16, 32; `dilate_last` keeps the last at 16 with dilation 2."""

    def __init__(self, size: str = "large", *, dilate_last: bool = False) -> None:
        super().__init__()
        table, width, _ = SIZES[size]
        inputs = round_channels(16 * width)
        self.stem = ConvNorm(3, inputs, 3, 2, act=HS, eps=EPS)
        self.stages = nn.ModuleList()
        self.widths = []
        for i, rows in enumerate(table):
            dilated = dilate_last and i == 4
            layers: list[nn.Module] = []
            for j, (kernel, hidden, outputs, squeeze, act) in enumerate(rows):
                hidden, outputs = round_channels(hidden * width), round_channels(outputs * width)
                layers.append(
                    InvertedResidual(
                        inputs, hidden, outputs, kernel,
                        stride=2 if i and not j and not dilated else 1,
                        squeezed=round_channels(hidden / 4) if squeeze else 0,
                        dilation=2 if dilated else 1,
                        act=act, gate=nn.Hardsigmoid, eps=EPS,
                    )
                )  # fmt: skip
                inputs = outputs
            self.stages.append(nn.Sequential(*layers))
            self.widths.append(inputs)
        self.last = ConvNorm(inputs, 6 * inputs, act=HS, eps=EPS)
        self.widths[-1] = 6 * inputs

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [*maps[:-1], self.last(x)]


class MobileNet(nn.Module):
    """Normalised RGB -> class logits: [b, 3, h, w] -> [b, classes]."""

    def __init__(self, size: str = "small", classes: int = 1000) -> None:
        super().__init__()
        self.trunk = MobileNetTrunk(size)
        hidden = SIZES[size][2]
        self.head = nn.Sequential(nn.Linear(self.trunk.widths[-1], hidden), HS(), nn.Linear(hidden, classes))

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(self.trunk(x)[-1], 1)
        logits: Tensor = self.head(torch.flatten(pooled, 1))
        return logits
