"""Where the places of every kind of op go, and what cannot be followed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile.ir import output
from fluxcompile.passes.flow import domain
from fluxcompile.passes.infer_domains import infer_domains
from tests.helpers import Do, captured, placed

SHAPE = (1, 4, 8, 12)
WEIGHT = torch.rand(4, 4, 3, 3)


def domains(model: nn.Module, *shapes: tuple[int, ...]) -> str:
    module = captured(model, *(shapes or (SHAPE,)))
    infer_domains(module)
    lines = [(n.name, str(domain(n))) for n in module.graph.nodes if n.op in ("placeholder", "call_function")]
    return "\n".join(f"{name:<12} {at}" for name, at in lines)


def last(function: Callable[..., Any], *shapes: tuple[int, ...]) -> str:
    """The domain of the (first) output."""
    module = placed(Do(function), *(shapes or (SHAPE,)))
    outputs: Any = output(module).args[0]
    return str(domain(outputs[0]))


def test_a_small_net() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, 2, 1), nn.SiLU(), nn.MaxPool2d(2), nn.Flatten(2), nn.Flatten(), nn.Linear(48, 5)
    )
    assert_expected_inline(
        domains(model),
        """\
input_1      map 1 4 y8 x12 of 8x12 /1 +0
conv2d       map 1 8 y4 x6 of 4x6 /2 +0
silu         map 1 8 y4 x6 of 4x6 /2 +0
max_pool2d   map 1 8 y2 x3 of 2x3 /4 +1
flatten      tokens 1 8 y2.x3 of 2x3 /4 +1
flatten_1    tokens 1 8.y2.x3 of 2x3 /4 +1
linear       global""",
    )


WINDOWS = {
    "conv": (lambda x: F.conv2d(x, WEIGHT, None, 2, 1), "map 1 4 y4 x6 of 4x6 /2 +0"),
    "conv, same": (lambda x: F.conv2d(x, WEIGHT, None, padding="same"), "map 1 4 y8 x12 of 8x12 /1 +0"),
    "conv without padding": (lambda x: F.conv2d(x, WEIGHT), "map 1 4 y6 x10 of 6x10 /1 +1"),
    "transposed": (lambda x: F.conv_transpose2d(x, WEIGHT, None, 2, 1), "map 1 4 y15 x23 of 15x23 /1/2 +0"),
    "pool": (lambda x: F.max_pool2d(x, 2), "map 1 4 y4 x6 of 4x6 /2 +1/2"),
    "ceil": (lambda x: F.avg_pool2d(x, 3, 3, ceil_mode=True), "map 1 4 y3 x4 of 3x4 /3 +1"),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, (2, 3)), "map 1 4 y2 x3 of 2x3 /4 +3/2"),
    "up": (lambda x: F.interpolate(x, scale_factor=2), "map 1 4 y16 x24 of 16x24 /1/2 +-1/4"),
    "corners": (
        lambda x: F.interpolate(x, (15, 23), mode="bilinear", align_corners=True),
        "map 1 4 y15 x23 of 15x23 /1/2 +0",
    ),
    "unfold": (lambda x: F.unfold(x, 2, stride=2), "tokens 1 16 y4.x6 of 4x6 /2 +1/2"),
    "sliding windows": (lambda x: x.unfold(2, 3, 1), "map 1 4 y6 x12 3 of 6x12 /1 +1,0"),
}
MOVES = {
    "permute": (lambda x: x.permute(0, 2, 3, 1), "map 1 y8 x12 4 of 8x12 /1 +0"),
    "transpose": (lambda x: x.transpose(2, 3), "map 1 4 x12 y8 of 8x12 /1 +0"),
    "movedim": (lambda x: x.movedim(1, -1), "map 1 y8 x12 4 of 8x12 /1 +0"),
    "flatten": (lambda x: x.flatten(2), "tokens 1 4 y8.x12 of 8x12 /1 +0"),
    "unsqueeze": (lambda x: x.unsqueeze(1), "map 1 1 4 y8 x12 of 8x12 /1 +0"),
    "shuffle": (lambda x: F.pixel_shuffle(x, 2), "tokens 1 1 y8.2 x12.2 of 8x12 /1 +0"),
    "unshuffle": (lambda x: F.pixel_unshuffle(x, 2), "tokens 1 4.y2.x2 y4:2 x6:2 of 8x12 /1 +0"),
    "slice": (lambda x: x[:, :, 2:, 1::2], "map 1 4 y6 x6 of 6x6 /1,2 +2,1"),
    "channels": (lambda x: x[:, 1:3], "map 1 2 y8 x12 of 8x12 /1 +0"),
    "one channel": (lambda x: x[:, 1], "map 1 y8 x12 of 8x12 /1 +0"),
    "chunk": (lambda x: x.chunk(2, 1)[1], "map 1 2 y8 x12 of 8x12 /1 +0"),
    "half of it": (lambda x: x.chunk(2, 3)[1], "map 1 4 y8 x6 of 8x6 /1 +0,6"),
    "unbind": (lambda x: x.unbind(1)[0], "map 1 y8 x12 of 8x12 /1 +0"),
    "pad": (lambda x: F.pad(x, (1, 2, 3, 0)), "map 1 4 y11 x15 of 11x15 /1 +-3,-1"),
    "roll": (lambda x: x.roll((-2, 3), (2, 3)), "map 1 4 y8 x12 of 8x12 /1 +0 turned 2,9"),
    "there and back": (lambda x: x.roll(-2, 2).roll(2, 2), "map 1 4 y8 x12 of 8x12 /1 +0"),
    "flip": (lambda x: x.flip(3), "map 1 4 y8 x12 of 8x12 /1 +0 turned 0,1"),
    "cat of channels": (lambda x: torch.cat([x, x], 1), "map 1 8 y8 x12 of 8x12 /1 +0"),
    "cat of tokens": (
        lambda x: torch.cat([x.flatten(2), F.max_pool2d(x, 2).flatten(2), torch.zeros(1, 4, 1)], 2),
        "tokens 1 4 (8x12+4x6+1) of 1x1 /1 +0",
    ),
    "taken out again": (
        lambda x: torch.cat([torch.zeros(1, 1, 4), x.flatten(2).mT], 1)[:, 1:],
        "tokens 1 y8.x12 4 of 8x12 /1 +0",
    ),
    "class token": (lambda x: torch.cat([torch.zeros(1, 1, 4), x.flatten(2).mT], 1)[:, 0], "global"),
    "windows": (
        lambda x: x.view(1, 4, 2, 4, 3, 4).permute(0, 2, 4, 3, 5, 1).reshape(6, 16, 4),
        "tokens y2:4.x3:4 y4.x4 4 of 8x12 /1 +0",
    ),
    "stack": (lambda x: torch.stack([x, x], 1), "map 1 2 4 y8 x12 of 8x12 /1 +0"),
    "repeat of channels": (lambda x: x.repeat(1, 2, 1, 1), "map 1 8 y8 x12 of 8x12 /1 +0"),
    "picked channels": (lambda x: x[:, torch.tensor([2, 0])], "map 1 2 y8 x12 of 8x12 /1 +0"),
}
JOINS = {
    "pointwise": (lambda x: x.sigmoid() * 2, "map 1 4 y8 x12 of 8x12 /1 +0"),
    "broadcast": (lambda x: x + x.mean((2, 3), keepdim=True), "map 1 4 y8 x12 of 8x12 /1 +0"),
    "strip": (lambda x: x.mean(2), "tokens 1 4 x12 of 1x12 /8,1 +7/2,0"),
    "mean of channels": (lambda x: x.mean(1, keepdim=True), "map 1 1 y8 x12 of 8x12 /1 +0"),
    "global mean": (lambda x: x.mean((2, 3)), "global"),
    "tokens by tokens": (lambda x: x.flatten(2).mT @ x.flatten(2), "tokens 1 y8.x12 96 of 8x12 /1 +0"),
    "channels by channels": (lambda x: x.flatten(2) @ x.flatten(2).mT, "global"),
    "einsum": (lambda x: torch.einsum("bchw,dc->bdhw", x, torch.ones(5, 4)), "map 1 5 y8 x12 of 8x12 /1 +0"),
    "attention": (
        lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT[:, None]] * 3),
        "tokens 1 1 y8.x12 4 of 8x12 /1 +0",
    ),
    "softmax of places": (lambda x: x.flatten(2).softmax(-1), "tokens 1 4 y8.x12 of 8x12 /1 +0"),
    "group norm": (lambda x: F.group_norm(x, 2), "map 1 4 y8 x12 of 8x12 /1 +0"),
    "glu": (lambda x: F.glu(x, 1), "map 1 2 y8 x12 of 8x12 /1 +0"),
    "patches": (
        lambda x: x.view(1, 4, 2, 4, 3, 4).permute(0, 2, 4, 1, 3, 5).reshape(1, 6, 64) @ torch.ones(64, 5),
        "tokens 1 y2.x3 5 of 2x3 /4 +3/2",
    ),
    "greatest places": (lambda x: x.flatten(2).topk(3, -1)[0], "global"),
}
OPAQUE = {
    "an op without a rule": lambda x: torch.fft.rfft2(x).real,
    "a reshape across the map": lambda x: x.reshape(1, 4, 6, 16),
    "a gather by places": lambda x: x.flatten(2)[:, :, x[0, 0].flatten().argsort()],
    "computed weights": lambda x: F.conv2d(x, x[:, :, :3, :3]),
    "causal attention": lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT] * 3, is_causal=True),
    "repeat of places": lambda x: x.repeat(1, 1, 2, 1),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name: str) -> None:
    function, want = WINDOWS[name]
    assert last(function) == want


@pytest.mark.parametrize("name", MOVES)
def test_moves(name: str) -> None:
    function, want = MOVES[name]
    assert last(function) == want


@pytest.mark.parametrize("name", JOINS)
def test_joins(name: str) -> None:
    function, want = JOINS[name]
    assert last(function) == want


@pytest.mark.parametrize("name", OPAQUE)
def test_opaque(name: str) -> None:
    assert last(OPAQUE[name]) == "opaque"


def test_opaque_says_why_and_stays() -> None:
    module = captured(Do(lambda x: x.reshape(1, 4, 6, 16).relu()), SHAPE)
    assert infer_domains(module) == 2
    found = [domain(n).opaque for n in module.graph.nodes if n.op == "call_function"]
    assert found == ["reshape cuts across the map: ((1, 4, 8, 12),)"] * 2


def test_inputs() -> None:
    def both(x: Tensor, y: Tensor) -> Tensor:
        return x * y.sum()

    assert_expected_inline(
        domains(Do(both), SHAPE, (1, 7)),
        """\
x_0          map 1 4 y8 x12 of 8x12 /1 +0
x_1          global
sum_1        global
mul          map 1 4 y8 x12 of 8x12 /1 +0""",
    )


def test_an_image_with_its_channels_last() -> None:
    assert_expected_inline(
        domains(Do(lambda x: x.permute(0, 3, 1, 2)), (1, 8, 12, 3)),
        """\
x_0          map 1 y8 x12 3 of 8x12 /1 +0
permute      map 1 3 y8 x12 of 8x12 /1 +0""",
    )
    assert domains(Do(torch.sin), (1, 3, 8, 4)).startswith("x_0          map 1 3 y8 x4")


def test_frames_lie_as_they_say() -> None:
    module = captured(nn.ReLU(), (8, 12, 3))
    module.meta["frames_layout"] = "hwc"
    infer_domains(module)
    assert str(domain(next(iter(module.graph.nodes)))) == "map y8 x12 3 of 8x12 /1 +0"
