"""YOLO11 detect, segment and pose in five sizes (docs.ultralytics.com/models/yolo11, arXiv 2410.17725).

Names inside the blocks (`cv1`, `m`, `attn`) are those of the published checkpoints; `LAYERS` names the rest.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from fluxcompile.models.layers import ConvNorm

Conv = partial(ConvNorm, act=nn.SiLU, eps=1e-3)
BINS = 16  # distances a box side can take, in cells
MASKS = 32  # prototype masks
KEYPOINTS = 17
STRIDES = (8, 16, 32)
# Modules by their number in the published graph; None is an upsampling or a concatenation.
LAYERS = (
    "stem", "down1", "stage1", "down2", "stage2", "down3", "stage3", "down4", "stage4", "pool", "attend",
    None, None, "up1", None, None, "up2", "down5", None, "out1", "down6", None, "out2", "head",
)  # fmt: skip


class Size(NamedTuple):
    depth: float
    width: float
    max_channels: int
    deep: bool  # nested blocks in every stage, not only in the last ones


SIZES = {
    "n": Size(0.5, 0.25, 1024, False),
    "s": Size(0.5, 0.5, 1024, False),
    "m": Size(0.5, 1.0, 512, True),
    "l": Size(1.0, 1.0, 512, True),
    "x": Size(1.0, 1.5, 512, True),
    "mini": Size(0.5, 0.125, 1024, False),
}


class Bottleneck(nn.Module):
    """Two 3x3 convolutions around a narrower map, plus the input: [b, c, h, w] -> [b, c, h, w]."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.cv1 = Conv(channels, hidden, 3)
        self.cv2 = Conv(hidden, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.cv2(self.cv1(x))
        return x


class C3k(nn.Module):
    """Two bottlenecks on one half of the channels, the other half passed by: [b, c, h, w] -> [b, c, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.cv1 = Conv(channels, half)
        self.cv2 = Conv(channels, half)
        self.cv3 = Conv(2 * half, channels)
        self.m = nn.Sequential(Bottleneck(half, half), Bottleneck(half, half))

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))
        return x


class C3k2(nn.Module):
    """A chain of blocks whose every link is kept and merged: [b, inputs, h, w] -> [b, outputs, h, w]."""

    def __init__(self, inputs: int, outputs: int, repeats: int, *, nested: bool, ratio: float = 0.5) -> None:
        super().__init__()
        c = int(outputs * ratio)
        self.cv1 = Conv(inputs, 2 * c)
        self.cv2 = Conv((2 + repeats) * c, outputs)
        self.m = nn.ModuleList(C3k(c) if nested else Bottleneck(c, c // 2) for _ in range(repeats))

    def forward(self, x: Tensor) -> Tensor:
        links = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            links.append(block(links[-1]))
        x = self.cv2(torch.cat(links, 1))
        return x


class SPPF(nn.Module):
    """Three 5x5 max-pools in a row, all kept: [b, c, h, w] -> [b, c, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels // 2)
        self.cv2 = Conv(2 * channels, channels)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        links = [self.cv1(x)]
        for _ in range(3):
            links.append(self.m(links[-1]))
        x = self.cv2(torch.cat(links, 1))
        return x


class MapAttention(nn.Module):
    """Attention between all cells of a map, keys half as wide as values: [b, c, h, w] -> [b, c, h, w]."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.widths = (channels // heads // 2, channels // heads // 2, channels // heads)
        self.qkv = Conv(channels, 2 * channels, act=nn.Identity)
        self.proj = Conv(channels, channels, act=nn.Identity)
        self.pe = Conv(channels, channels, 3, groups=channels, act=nn.Identity)  # place, from the values

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).reshape(b, self.heads, sum(self.widths), h * w).split(self.widths, 2)
        y = functional.scaled_dot_product_attention(q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3))
        x = self.proj(y.transpose(2, 3).reshape(b, c, h, w) + self.pe(v.reshape(b, c, h, w)))
        return x


class PSABlock(nn.Module):
    """Attention and a feed-forward pair, each added to its input: [b, c, h, w] -> [b, c, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attn = MapAttention(channels, max(1, channels // 64))
        self.ffn = nn.Sequential(Conv(channels, 2 * channels), Conv(2 * channels, channels, act=nn.Identity))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        x = x + self.ffn(x)
        return x


class C2PSA(nn.Module):
    """Attention blocks on one half of the channels: [b, c, h, w] -> [b, c, h, w]."""

    def __init__(self, channels: int, repeats: int) -> None:
        super().__init__()
        half = channels // 2
        self.cv1 = Conv(channels, 2 * half)
        self.cv2 = Conv(2 * half, channels)
        self.m = nn.Sequential(*(PSABlock(half) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        kept, attended = self.cv1(x).chunk(2, 1)
        x = self.cv2(torch.cat((kept, self.m(attended)), 1))
        return x


def _branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Conv(inputs, hidden, 3), Conv(hidden, hidden, 3), nn.Conv2d(hidden, outputs, 1))


def _light_branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(Conv(inputs, inputs, 3, groups=inputs), Conv(inputs, hidden)),
        nn.Sequential(Conv(hidden, hidden, 3, groups=hidden), Conv(hidden, hidden)),
        nn.Conv2d(hidden, outputs, 1),
    )


def _over_maps(branches: nn.ModuleList, maps: Sequence[Tensor]) -> Tensor:
    """Each map through its branch, the cells of all maps in one row: -> [b, outputs, cells]."""
    return torch.cat([branch(x).flatten(2) for branch, x in zip(branches, maps, strict=True)], 2)


def cells(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Where each cell lies: (x, y) in cells of its own map [2, cells], and its stride in pixels [1, cells]."""
    places, strides = [], []
    for x, stride in zip(maps, STRIDES, strict=True):
        h, w = x.shape[2:]
        columns = torch.arange(w, device=x.device, dtype=x.dtype).expand(h, w)
        rows = torch.arange(h, device=x.device, dtype=x.dtype)[:, None].expand(h, w)
        places.append(torch.stack((columns, rows)).flatten(1))
        strides.append(torch.full((1, h * w), stride, device=x.device, dtype=x.dtype))
    return torch.cat(places, 1), torch.cat(strides, 1)


class Detect(nn.Module):
    """Boxes (x, y, w, h in pixels) and class scores of every cell: three maps -> [b, 4 + classes, cells]."""

    bins: Tensor

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        box, score = max(16, widths[0] // 4, 4 * BINS), max(widths[0], min(classes, 100))
        self.cv2 = nn.ModuleList(_branch(c, box, 4 * BINS) for c in widths)
        self.cv3 = nn.ModuleList(_light_branch(c, score, classes) for c in widths)
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32).reshape(1, BINS, 1, 1))

    def detect(self, maps: Sequence[Tensor]) -> Tensor:
        places, strides = cells(maps)
        sides = _over_maps(self.cv2, maps)
        sides = sides.reshape(sides.shape[0], 4, BINS, -1).transpose(1, 2).softmax(1)
        near, far = functional.conv2d(sides, self.bins).squeeze(1).chunk(2, 1)
        near, far = places + 0.5 - near, places + 0.5 + far
        boxes = torch.cat(((near + far) / 2, far - near), 1) * strides
        return torch.cat((boxes, _over_maps(self.cv3, maps).sigmoid()), 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.detect(maps)


class Pose(Detect):
    """Detect with 17 keypoints a cell (x, y in pixels, visibility): three maps -> [b, 4 + classes + 51, cells]."""

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__(widths, classes)
        hidden = max(widths[0] // 4, 3 * KEYPOINTS)
        self.cv4 = nn.ModuleList(_branch(c, hidden, 3 * KEYPOINTS) for c in widths)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        places, strides = cells(maps)
        points = _over_maps(self.cv4, maps)
        points = points.reshape(points.shape[0], KEYPOINTS, 3, -1)
        pixels = (points[:, :, :2] * 2 + places) * strides
        points = torch.cat((pixels, points[:, :, 2:].sigmoid()), 2).flatten(1, 2)
        return torch.cat((self.detect(maps), points), 1)


class Proto(nn.Module):
    """Prototype masks at stride 4 from the map at stride 8: [b, c, h, w] -> [b, 32, 2h, 2w]."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.cv1 = Conv(inputs, hidden, 3)
        self.upsample = nn.ConvTranspose2d(hidden, hidden, 2, 2)
        self.cv2 = Conv(hidden, hidden, 3)
        self.cv3 = Conv(hidden, MASKS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv3(self.cv2(self.upsample(self.cv1(x))))
        return x


class Segment(Detect):
    """Detect with 32 mask coefficients a cell: three maps -> [b, 4 + classes + 32, cells], [b, 32, h/4, w/4]."""

    def __init__(self, widths: Sequence[int], classes: int, protos: int) -> None:
        super().__init__(widths, classes)
        hidden = max(widths[0] // 4, MASKS)
        self.cv4 = nn.ModuleList(_branch(c, hidden, MASKS) for c in widths)
        self.proto = Proto(widths[0], protos)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return torch.cat((self.detect(maps), _over_maps(self.cv4, maps)), 1), self.proto(maps[0])


class YOLO11(nn.Module):
    """RGB in [0, 1], sides multiples of 32: [b, 3, h, w] -> what the task's head gives.

    detect [b, 4 + classes, cells]; pose [b, 4 + classes + 51, cells]; segment also the prototypes [b, 32, h/4, w/4].
    Cells are those of the maps at strides 8, 16 and 32, row by row: 8400 at 640x640.
    """

    def __init__(self, size: str = "n", task: str = "detect", classes: int = 80) -> None:
        super().__init__()
        depth, width, most, deep = SIZES[size]

        def c(channels: int) -> int:
            return int(-(-min(channels, most) * width // 8) * 8)

        n = max(1, round(2 * depth))
        self.stem = Conv(3, c(64), 3, 2)
        self.down1 = Conv(c(64), c(128), 3, 2)
        self.stage1 = C3k2(c(128), c(256), n, nested=deep, ratio=0.25)
        self.down2 = Conv(c(256), c(256), 3, 2)
        self.stage2 = C3k2(c(256), c(512), n, nested=deep, ratio=0.25)
        self.down3 = Conv(c(512), c(512), 3, 2)
        self.stage3 = C3k2(c(512), c(512), n, nested=True)
        self.down4 = Conv(c(512), c(1024), 3, 2)
        self.stage4 = C3k2(c(1024), c(1024), n, nested=True)
        self.pool = SPPF(c(1024))
        self.attend = C2PSA(c(1024), n)
        self.up1 = C3k2(c(1024) + c(512), c(512), n, nested=deep)
        self.up2 = C3k2(c(512) + c(512), c(256), n, nested=deep)
        self.down5 = Conv(c(256), c(256), 3, 2)
        self.out1 = C3k2(c(256) + c(512), c(512), n, nested=deep)
        self.down6 = Conv(c(512), c(512), 3, 2)
        self.out2 = C3k2(c(512) + c(1024), c(1024), n, nested=True)
        heads: dict[str, Callable[[Sequence[int], int], nn.Module]] = {
            "detect": Detect,
            "pose": Pose,
            "segment": partial(Segment, protos=c(256)),
        }
        self.head = heads[task]((c(256), c(512), c(1024)), classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        at8 = self.stage2(self.down2(self.stage1(self.down1(self.stem(x)))))
        at16 = self.stage3(self.down3(at8))
        at32 = self.attend(self.pool(self.stage4(self.down4(at16))))
        up16 = self.up1(torch.cat((functional.interpolate(at32, scale_factor=2.0), at16), 1))
        out8 = self.up2(torch.cat((functional.interpolate(up16, scale_factor=2.0), at8), 1))
        out16 = self.out1(torch.cat((self.down5(out8), up16), 1))
        out32 = self.out2(torch.cat((self.down6(out16), at32), 1))
        y: Tensor | tuple[Tensor, Tensor] = self.head((out8, out16, out32))
        return y


def load_yolo11(path: str | Path, size: str = "n", task: str = "detect", classes: int | None = None) -> YOLO11:
    """The model with the weights of a published checkpoint, in float32 and eval mode.

    `classes` is 80 for detect and segment and 1 for pose unless told.
    """
    model = YOLO11(size, task, classes or (1 if task == "pose" else 80))
    state = {_our_name(key): value.float() for key, value in load_file(path).items()}
    model.load_state_dict({k: v.reshape(1, BINS, 1, 1) if k == "head.bins" else v for k, v in state.items()})
    return model.eval()


def _our_name(key: str) -> str:
    _, number, rest = key.split(".", 2)
    return f"{LAYERS[int(number)]}.{rest}".replace("dfl.conv.weight", "bins")
