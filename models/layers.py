"""Layers that several families share; maps are [b, c, h, w], tokens [b, n, c]."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def round_channels(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `channels`, never more than a tenth below it (MobileNet's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


class ConvNorm(nn.Module):
    """Convolution, batch norm, activation: [b, inputs, h, w] -> [b, outputs, ceil(h / stride), ceil(w / stride)]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        act: type[nn.Module] = nn.ReLU,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=eps)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        return x


class SqueezeExcite(nn.Module):
    """Scale each channel of a map by a gate in [0, 1] found from the map's mean (arXiv 1709.01507)."""

    def __init__(self, channels: int, squeezed: int, act: type[nn.Module], gate: type[nn.Module]) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = act()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        mean = functional.adaptive_avg_pool2d(x, 1)
        x = x * self.gate(self.expand(self.act(self.reduce(mean))))
        return x


class InvertedResidual(nn.Module):
    """Widen, filter each channel, squeeze and excite, narrow: [b, inputs, h, w] -> [b, outputs, h/stride, w/stride].

    `squeezed` = 0 leaves the squeeze-excite out (arXiv 1801.04381, 1905.02244).
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        kernel: int,
        stride: int,
        *,
        squeezed: int = 0,
        dilation: int = 1,
        act: type[nn.Module] = nn.ReLU,
        gate: type[nn.Module] = nn.Sigmoid,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(ConvNorm(inputs, hidden, act=act, eps=eps))
        layers.append(ConvNorm(hidden, hidden, kernel, stride, groups=hidden, dilation=dilation, act=act, eps=eps))
        if squeezed:
            layers.append(SqueezeExcite(hidden, squeezed, nn.SiLU if act is nn.SiLU else nn.ReLU, gate))
        layers.append(ConvNorm(hidden, outputs, act=nn.Identity, eps=eps))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each cell of a map: [b, c, h, w] -> [b, c, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens: [b, n, dim] -> [b, n, dim] (arXiv 1706.03762)."""

    def __init__(self, dim: int, heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, dim = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v)
        x = self.proj(y.transpose(1, 2).reshape(b, n, dim))
        return x


class Mlp(nn.Module):
    """Two linear layers on the last axis with a GELU between: [..., dim] -> [..., dim]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc2(functional.gelu(self.fc1(x)))
        return x


class Block(nn.Module):
    """Transformer encoder layer, norms first: [b, n, dim] -> [b, n, dim] (arXiv 2010.11929)."""

    def __init__(self, dim: int, heads: int, *, ratio: float = 4, qkv_bias: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attention = Attention(dim, heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


def sine_positions(dim: int, h: int, w: int) -> Tensor:
    """Fixed position code of an h x w map, rows in the first half of the features: -> [1, h * w, dim].

    Rows and columns run over (0, 2 pi]; `dim` must be a multiple of four (arXiv 2005.12872).
    """
    frequencies = 10000 ** -(torch.arange(dim // 4) / (dim // 4))
    rows = (torch.arange(1, h + 1) / h * 2 * torch.pi)[:, None] * frequencies
    columns = (torch.arange(1, w + 1) / w * 2 * torch.pi)[:, None] * frequencies
    code_y = torch.stack((rows.sin(), rows.cos()), 2).flatten(1)[:, None].expand(h, w, dim // 2)
    code_x = torch.stack((columns.sin(), columns.cos()), 2).flatten(1)[None].expand(h, w, dim // 2)
    return torch.cat((code_y, code_x), 2).reshape(1, h * w, dim)
