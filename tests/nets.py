"""Random nets for hypothesis: small modules composed out of everything the compiler must understand.

A step takes `draw` and the shape (channels, h, w) of the map it gets, and makes a module from map to map, or None where
that shape is too small for it. Everything is in float64: rounding is then far below any real error.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.helpers import Do, seeded

Draw = Callable[[st.SearchStrategy[Any]], Any]
Step = Callable[[Draw, int, int, int], nn.Module | None]

CHANNELS = st.sampled_from((2, 4, 6, 8))
ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.LeakyReLU, nn.Tanh)


def one(draw: Draw, *choices: Any) -> Any:
    return draw(st.sampled_from(choices))


def conv(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    kernel, dilation = (one(draw, 1, 2, 3, 4, 5), one(draw, 1, 2, 3, 5)), one(draw, 1, 1, 2)
    stride, padding = (one(draw, 1, 2, 3), one(draw, 1, 2)), (one(draw, 0, 1, 2), one(draw, 0, 1, 3))
    mode = one(draw, "zeros", "zeros", "reflect", "replicate", "circular")
    groups, out = one(draw, 1, 1, 2, c), one(draw, 1, 2) * c
    if c % groups or min(h, w) <= 8 * dilation:
        return None
    same = one(draw, False, False, True)
    return nn.Sequential(
        nn.Conv2d(
            c,
            out,
            kernel,
            1 if same else stride,
            "same" if same else padding,
            dilation,
            groups,
            one(draw, True, False),
            mode,
        ),
        *([nn.BatchNorm2d(out)] if one(draw, True, False) else []),
        one(draw, *ACTIVATIONS)(),
    )


def conv_transposed(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    kernel, stride, dilation = one(draw, 2, 3, 4), one(draw, 1, 2, 3), one(draw, 1, 1, 2)
    padding, extra, groups = one(draw, 0, 1), one(draw, 0, 1), one(draw, 1, 2)
    if c % groups or extra >= max(stride, dilation) or max(h, w) * stride > 64:
        return None
    return nn.Sequential(
        nn.ConvTranspose2d(c, c, kernel, stride, padding, extra, groups, dilation=dilation),
        *([nn.BatchNorm2d(c)] if one(draw, True, False) else []),
    )


def pool(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    kernel, stride, ceil = one(draw, 2, 3, 5), one(draw, 1, 2, 3), one(draw, True, False)
    padding = one(draw, 0, 1)
    if min(h, w) < 8:
        return None
    if one(draw, True, False):
        return nn.MaxPool2d(kernel, stride, padding, one(draw, 1, 1, 2), ceil_mode=ceil)
    return nn.AvgPool2d(kernel, stride, padding, ceil, one(draw, True, False), one(draw, None, None, 5))


def adaptive_pool(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    if min(h, w) < 6:
        return None
    kind = one(draw, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
    return kind((one(draw, h // 2, 5), one(draw, w // 2, w // 2 + 1)))


def resize(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    if max(h, w) > 32:
        return None
    mode = one(draw, "nearest", "bilinear", "bicubic", "nearest-exact")
    corners = one(draw, False, True) if mode in ("bilinear", "bicubic") else None
    if one(draw, True, False):
        return nn.Upsample(scale_factor=one(draw, 2, 2, 1.5, 1.3, 0.5), mode=mode, align_corners=corners)
    return nn.Upsample(size=(one(draw, h * 2, h + 3), one(draw, w * 2, w // 2)), mode=mode, align_corners=corners)


def shuffle(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    if c % 4 == 0 and one(draw, True, False):
        return nn.PixelShuffle(2)
    return nn.PixelUnshuffle(2) if h % 2 == w % 2 == 0 and c <= 8 and min(h, w) > 4 else None


def cut(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    if min(h, w) < 8:
        return None
    top, left, step = one(draw, 0, 1, 3), one(draw, 0, 2), one(draw, 1, 1, 2)
    return one(
        draw,
        Do(lambda x: x[:, :, top:, left : w - 1 : step], name=f"x[:, :, {top}:, {left}:{w - 1}:{step}]"),
        Do(lambda x: x[:, c // 2 :], name="the second half of the channels"),
        Do(lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2][..., : h // 2, : w // 2]], 1), name="focus")
        if h % 2 == w % 2 == 0
        else None,
    )


def pad(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    if min(h, w) < 4:
        return None
    mode, amounts = one(draw, "constant", "reflect", "replicate", "circular"), [one(draw, 0, 1, 3) for _ in range(4)]
    return Do(lambda x: F.pad(x, amounts, mode), name=f"pad {amounts} {mode}")


def moved(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    return one(
        draw,
        Do(lambda x, m: m(x.flip(3)), seeded(lambda: nn.Conv2d(c, c, 3, padding=1)), name="flip"),
        Do(lambda x, m: m(x.roll((1, -2), (2, 3))), seeded(lambda: nn.Conv2d(c, c, 3, padding=1)), name="roll"),
        Do(lambda x: x + x.roll((-1, 1), (2, 3)).roll((1, -1), (2, 3)), name="there and back"),
        Do(lambda x: x.transpose(2, 3), name="transpose"),
        Do(lambda x: x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2), name="channel shuffle")
        if c % 2 == 0
        else None,
    )


def branches(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    def concat(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
        return torch.cat([a(x), x, b(x)], 1)

    def split(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
        first, second = b(a(x)).chunk(2, 1) if c % 2 == 0 else (a(x), x)
        return torch.cat([first.sigmoid(), second], 1) if c % 2 == 0 else first * second

    def residual(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
        return x + b(F.silu(a(x)))

    parts = nn.Conv2d(c, c, one(draw, 1, 3), padding="same"), nn.Conv2d(c, c, 3, padding=1, groups=c)
    function = one(draw, concat, split, residual)
    return Do(function, *parts, name=function.__name__) if c <= 12 else None


def gates(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    def squeeze_excite(x: Tensor, conv: nn.Module, _: nn.Module) -> Tensor:
        return x * conv(x.mean((2, 3), keepdim=True)).sigmoid()

    def spatial(x: Tensor, _: nn.Module, mix: nn.Module) -> Tensor:
        return x * mix(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()

    def across_channels(x: Tensor, conv: nn.Module, _: nn.Module) -> Tensor:
        q, k = conv(x).flatten(2), x.flatten(2)
        return (F.softmax(q @ k.transpose(1, 2) / (h * w), -1) @ k).view(x.shape)

    def strips(x: Tensor, conv: nn.Module, _: nn.Module) -> Tensor:
        return x * conv(x.mean(2, keepdim=True)).sigmoid() * conv(x.mean(3, keepdim=True)).sigmoid()

    function = one(draw, squeeze_excite, spatial, across_channels, strips)
    return Do(function, nn.Conv2d(c, c, 1), nn.Conv2d(2, 1, 3, padding=1), name=function.__name__)


def norms(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    return one(
        draw,
        Do(
            lambda x, n, m: m(n(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
            nn.LayerNorm(c),
            nn.Linear(c, c),
            name="nhwc",
        ),
        nn.GroupNorm(1, c),
        nn.InstanceNorm2d(c, affine=True),
        nn.BatchNorm2d(c),
        nn.Softmax(1),
        Do(lambda x: F.normalize(x, dim=1), name="normalize"),
    )


class Attention(nn.Module):
    """Multi-head attention over tokens, written out or fused, with keys from a smaller map if `shrink` > 1."""

    def __init__(self, c: int, heads: int, *, fused: bool, shrink: int = 1, bias: Tensor | None = None) -> None:
        super().__init__()
        self.heads, self.fused, self.shrink = heads, fused, shrink
        self.norm, self.q, self.kv, self.out = nn.LayerNorm(c), nn.Linear(c, c), nn.Linear(c, 2 * c), nn.Linear(c, c)
        self.reduce = nn.Conv2d(c, c, shrink, shrink) if shrink > 1 else nn.Identity()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, small: Tensor | None = None) -> Tensor:
        y = self.norm(x)
        q = self.q(y).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        source = y if small is None else self.reduce(small).flatten(2).transpose(1, 2)
        k, v = self.kv(source).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        k, v = k.transpose(-2, -3), v.transpose(-2, -3)
        if self.fused:
            z = F.scaled_dot_product_attention(q, k, v, self.bias)
        else:
            score = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            z = F.softmax(score if self.bias is None else score + self.bias, -1) @ v
        return x + self.out(z.transpose(-2, -3).flatten(-2))


class Tokens(nn.Module):
    """A map as tokens, maybe with a class token and positions, through attention and an MLP, and back."""

    def __init__(self, c: int, h: int, w: int, attention: Attention, *, token: bool, positions: bool) -> None:
        super().__init__()
        self.attention, self.mlp = (
            attention,
            nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c)),
        )
        self.token = nn.Parameter(torch.randn(1, 1, c)) if token else None
        self.positions = nn.Parameter(torch.randn(1, h * w + token, c)) if positions else None

    def forward(self, x: Tensor) -> Tensor:
        t = x.flatten(2).transpose(1, 2)
        if self.token is not None:
            t = torch.cat([self.token.expand(t.shape[0], -1, -1), t], 1)
        if self.positions is not None:
            t = t + self.positions
        t = self.attention(t, x if self.attention.shrink > 1 else None)
        t = t + self.mlp(t)
        if self.token is not None:
            t = t[:, 1:] * t[:, :1].sigmoid()
        return t.transpose(1, 2).reshape(x.shape)


def tokens(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    shrink, token = one(draw, 1, 1, 2), one(draw, True, False)
    if c % 2 or h * w > 300 or min(h, w) < 2:
        return None
    attention = Attention(c, one(draw, 1, 2), fused=one(draw, True, False), shrink=shrink)
    return Tokens(c, h, w, attention, token=token, positions=one(draw, True, False))


class Windows(nn.Module):
    """Attention within windows of `side` cells on a map rolled by `shift`."""

    def __init__(self, attention: Attention, side: int, shift: int) -> None:
        super().__init__()
        self.attention, self.side, self.shift = attention, side, shift

    def forward(self, x: Tensor) -> Tensor:
        _, c, h, w = x.shape
        s = self.side
        y = x.permute(0, 2, 3, 1).roll((-self.shift, -self.shift), (1, 2))
        t = y.view(1, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        t = self.attention(t).view(1, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(1, h, w, c)
        return x + t.roll((self.shift, self.shift), (1, 2)).permute(0, 3, 1, 2)


def windows(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    side, shift = one(draw, 2, 4), one(draw, 0, 1)
    if c % 2 or h % side or w % side:
        return None
    count = h * w // side**2
    bias = one(draw, None, torch.randn(1, 2, side**2, side**2), torch.randn(count, 1, side**2, side**2))
    return Windows(Attention(c, 2, fused=one(draw, True, False), bias=bias), side, shift)


def batches(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    """Parts of the map, or its channels, side by side as a batch."""

    def quarters(x: Tensor, conv: nn.Module, _: nn.Module) -> Tensor:
        parts = x.unflatten(3, (2, -1)).unflatten(2, (2, -1)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        return conv(parts).unflatten(0, (1, 2, 2)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def each_channel(x: Tensor, _: nn.Module, conv: nn.Module) -> Tensor:
        return F.interpolate(F.max_pool2d(conv(x.transpose(0, 1)), 3, 1, 1), scale_factor=0.5).transpose(0, 1)

    function = one(draw, quarters, each_channel)
    if h % 2 or w % 2 or min(h, w) < 6:
        return None
    return Do(function, nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1), name=function.__name__)


def merging(draw: Draw, c: int, h: int, w: int) -> nn.Module | None:
    """Blocks of 2 x 2 cells as one, their channels side by side, with or without a norm and a product of them."""
    if h % 2 or w % 2 or c > 8 or min(h, w) < 4:
        return None
    order, normed, mixed, bent = one(draw, (2, 4, 5), (4, 2, 5), (5, 2, 4)), *(one(draw, True, False) for _ in "abc")

    def merge(x: Tensor, norm: nn.Module, mix: nn.Module) -> Tensor:
        y = x.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, *order).flatten(3)
        y = norm(y) if normed else y
        y = y.relu() if bent else y
        return (mix(y) if mixed else y).permute(0, 3, 1, 2)

    return Do(merge, nn.LayerNorm(4 * c), nn.Linear(4 * c, 2 * c), name=f"merging {order} {normed} {mixed} {bent}")


STEPS: tuple[Step, ...] = (
    conv,
    conv_transposed,
    pool,
    adaptive_pool,
    resize,
    shuffle,
    cut,
    pad,
    moved,
    branches,
    gates,
    norms,
    tokens,
    windows,
    batches,
    merging,
)


class Net(nn.Module):
    """Normalisation, steps, and heads: the last map and what is made of it."""

    def __init__(self, scale: float, steps: list[nn.Module], heads: nn.ModuleDict) -> None:
        super().__init__()
        self.scale, self.steps, self.heads = scale, nn.ModuleList(steps), heads

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = (x - 0.5) * self.scale
        for step in self.steps:
            x = step(x)
        return {"map": x, "heads": [head(x) for head in self.heads.values()]}


def heads_of(c: int, h: int, w: int) -> dict[str, nn.Module]:
    return {
        "classes": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 5)),
        "flat": nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 3)),
        "cells": Do(lambda x, m: m(x).flatten(2).softmax(1), nn.Conv2d(c, 4, 1)),
        "best": Do(lambda x: x.flatten(2).amax(2)),
    }


SIZES = st.sampled_from(((32, 48), (24, 40), (33, 32), (17, 30)))


@st.composite
def nets(draw: Draw, most: int = 4) -> tuple[nn.Module, tuple[int, ...]]:
    """A net in eval mode and the shape of its input."""
    shape = (1, draw(st.sampled_from((2, 4))), *draw(SIZES))
    names = draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=most))
    seed = draw(st.integers(0, 99))
    steps: list[nn.Module] = []
    x = torch.zeros(shape)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for step in names:
            module = step(draw, *x.shape[1:])
            if module is not None:
                y = module.eval()(x)
                if min(y.shape[2:]) > 1 and y.numel() < 20_000:
                    steps.append(module)
                    x = y
        made = heads_of(*x.shape[1:])
        kept = draw(st.lists(st.sampled_from(sorted(made)), unique=True, max_size=2))
        net = Net(draw(st.sampled_from((1.0, 2.5))), steps, nn.ModuleDict({k: made[k] for k in kept}))
    return seeded(lambda: net, seed).double(), shape


EVENTS = ("patch", "patch", "same", "whole", "cut", "back", "pan", "pan")


@st.composite
def clips(draw: Draw, shape: tuple[int, ...], most: int = 5) -> list[tuple[Tensor, Tensor | None]]:
    """Frames and how they are said to have moved, which need not be true: any motion must be safe."""
    h, w = shape[2:]
    random = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    frames = [torch.rand(shape, generator=random, dtype=torch.float64)]
    found: list[tuple[Tensor, Tensor | None]] = [(frames[0], None)]
    blocks = (2, -(-h // 16), -(-w // 16))
    for event in draw(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=most)):
        frame, motion = frames[-1].clone(), None
        if event == "patch":
            y, x, size = (draw(st.integers(0, n - 1)) for n in (h, w, 6))
            part = frame[..., y : y + size + 1, x : x + size + 1]
            part += torch.rand(part.shape, generator=random, dtype=torch.float64)
        elif event == "whole":
            frame += 0.1
        elif event == "cut":
            frame = torch.rand(shape, generator=random, dtype=torch.float64)
        elif event == "back":
            frame = draw(st.sampled_from(frames)).clone()
        elif event == "pan":
            vector = [draw(st.sampled_from((0, 1, 2, -3, 4, -4, 8, 11, 16, -16))) for _ in range(2)]
            frame = frame.roll([-v for v in vector], (2, 3))
            motion = torch.tensor(vector, dtype=torch.int32)[:, None, None].expand(blocks).clone()
        if motion is None and draw(st.booleans()):
            motion = torch.randint(-9, 10, blocks, generator=random, dtype=torch.int32) * draw(st.sampled_from((1, 4)))
        frames.append(frame)
        found.append((frame, motion))
    return found


def column(x: Tensor) -> Tensor:
    """A coordinate for each column of a map."""
    return torch.arange(x.shape[3], dtype=x.dtype).expand(1, 1, x.shape[2], -1)


def shrunk(x: Tensor) -> Tensor:
    """Queries of a fine map against keys of a coarse one."""
    fine = F.avg_pool2d(x, 4)
    q, k = (m.flatten(2).mT[:, None] for m in (fine, F.avg_pool2d(fine, 4)))
    return F.scaled_dot_product_attention(q, k, k)


TRAPS: dict[str, Callable[..., Any]] = {
    "reflected border": lambda x: F.pad(x, (2, 2, 2, 2), "reflect"),
    "repeated border": lambda x: F.pad(x, (2, 2, 2, 2), "replicate"),
    "circular border": lambda x: F.pad(x, (2, 2, 2, 2), "circular"),
    "zero border": lambda x: F.pad(x, (4, 0, 4, 0)),
    "flip": lambda x: x.flip(3) + x,
    "roll": lambda x: x.roll(4, 3) * 2,
    "roll and back": lambda x: x + x.roll(4, 3).sigmoid().roll(-4, 3),
    "transposed": lambda x: x[..., :32] + x[..., :32].transpose(2, 3),
    "coordinates": lambda x: torch.cat([x, column(x)], 1).sigmoid(),
    "a table": lambda x: x + column(x)[0, 0],
    "a table of channels": lambda x: x * torch.arange(1, 5).view(4, 1, 1),
    "strips": lambda x: x * x.mean(2, keepdim=True) * x.mean(3, keepdim=True),
    "a scalar": lambda x: x * x.mean() / x.amax(),
    "best of each column": lambda x: x.argmax(2) * 1.0,
    "places of the greatest": lambda x: F.max_pool2d(x, 2, return_indices=True)[1] * 1.0,
    "sums along a row": lambda x: x.cumsum(3) * 2,
    "softmax along a row": lambda x: x.softmax(3) * 2,
    "uneven pooling": lambda x: F.adaptive_avg_pool2d(x, (7, 9)),
    "uneven resize": lambda x: F.interpolate(F.avg_pool2d(x, 4), scale_factor=1.3, mode="bilinear"),
    "aligned corners": lambda x: F.interpolate(x, size=(40, 30), mode="bilinear", align_corners=True),
    "every third": lambda x: x[:, :, 1::3, ::3].sigmoid(),
    "two scales": lambda x: x + F.interpolate(F.max_pool2d(x, 4), scale_factor=4),
    "shifted by a stride": lambda x: F.max_pool2d(x, 2)[..., 1:] + F.max_pool2d(x, 2)[..., :-1],
    "halves laid over": lambda x: x[..., :24] * x[..., 24:],
    "pixel shuffle": lambda x: F.max_pool2d(F.pixel_shuffle(x, 2), 3),
    "pixel unshuffle": lambda x: F.max_pool2d(F.pixel_unshuffle(x, 4), 2),
    "patches": lambda x: F.unfold(x, 4, stride=4).softmax(1),
    "sliding": lambda x: x.unfold(3, 5, 1).amax(-1),
    "a smaller map of keys": shrunk,
    "tokens of two maps": lambda x: torch.cat([x.flatten(2), F.max_pool2d(x, 4).flatten(2)], 2).sigmoid(),
    "a product of one value": lambda x: torch.einsum("bnc,bmc->bnm", *[F.avg_pool2d(x, 4).flatten(2).mT] * 2),
    "a map against itself": lambda x: torch.einsum("bchw,bcij->bhw", x, x),
    "an outer product of strips": lambda x: x.mean(3)[..., None] * x.mean(2)[:, :, None],
    "a bias that is computed": lambda x: F.conv2d(x, torch.ones(4, 4, 3, 3, dtype=x.dtype), x.mean((0, 2, 3))),
    "a turned bias that is computed": lambda x: F.conv_transpose2d(
        x, torch.ones(4, 4, 2, 2, dtype=x.dtype), x.mean((0, 2, 3)), 2
    ),
    "a slope that is computed": lambda x: F.prelu(x - 0.5, x.mean((0, 2, 3))),
    "a computed product": lambda x: F.linear(x.permute(0, 2, 3, 1), x.mean((0, 2))[:, :4], x.amax((0, 2, 3))),
    "a norm of computed scales": lambda x: F.layer_norm(
        x.permute(0, 2, 3, 1), (4,), x.mean((0, 2, 3)), x.amax((0, 2, 3))
    ),
    "a norm by computed values": lambda x: F.batch_norm(x, x.mean((0, 2, 3)), x.amax((0, 2, 3))),
    "groups of computed scales": lambda x: F.group_norm(x, 2, x.mean((0, 2, 3)), x.amax((0, 2, 3))),
    "clamped by what is computed": lambda x: x.clamp(x.mean(), x.amax(1, keepdim=True) * 0.9),
    "pairs of tokens": lambda x: F.max_pool2d(x, 4).flatten(2)[..., None] - F.max_pool2d(x, 4).flatten(2)[..., None, :],
}
"""Where a moved or partly fresh cache is easily wrong."""

PANS = ((0, 4), (4, 0), (-8, 16), (0, 3), (0, 11), (16, -16))


def pans(shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor | None]]:
    """A clip that pans as it says, with a change of its own now and then, and stands still at the end."""
    random = torch.Generator().manual_seed(0)
    frame = torch.rand(shape, generator=random, dtype=torch.float64)
    found: list[tuple[Tensor, Tensor | None]] = [(frame, None)]
    for i, vector in enumerate(PANS):
        frame = frame.roll([-v for v in vector], (2, 3)).clone()
        if i % 2:
            frame[..., 5:8, 20:22] += 0.5
        motion = torch.tensor(vector, dtype=torch.int32)[:, None, None]
        found.append((frame, motion.expand(2, -(-shape[2] // 16), -(-shape[3] // 16)).clone()))
    patch = frame.clone()
    patch[..., 9, 9] += 1
    return [*found, (patch, None), (patch.clone(), None)]
