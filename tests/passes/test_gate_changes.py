"""A change stops where a value came out as it was."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile.passes.gate_changes import gate_changes
from tests.helpers import Do, Runner, assert_streams, masked, placed, seeded, text_of

SHAPE = (1, 2, 8, 10)


def gated(module: torch.fx.GraphModule) -> list[str]:
    return [n.name for n in module.graph.nodes if n.meta.get("gated")]


def relu_conv() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1), nn.Sigmoid()))


def test_rewrites() -> None:
    module = masked(relu_conv(), SHAPE, first=[gate_changes])
    assert_expected_inline(
        text_of(module, "gate", "miss_window"),
        """\
%gate: f32[] = gate
%gate_1: b8[80] = flux.gate(%relu, %cache_relu, %miss_input, %gate, layout="1 2 y8 x10")
%miss_window: b8[80] = flux.miss_window(%gate_1, @reads_8x3, @reads_10x3, size=[8, 10])""",
    )
    assert_streams(relu_conv(), module)


def test_twice_is_once() -> None:
    module = placed(relu_conv(), SHAPE)
    assert gate_changes(module) == gate_changes(module) == 1
    assert gated(module) == ["relu"]


def misses_after(gate: float, change: float) -> int:
    """How many cells of a convolution miss when one cell before the relu changes from -1."""
    module = masked(relu_conv(), SHAPE, first=[gate_changes])
    window = next(n for n in module.graph.nodes if n.name == "miss_window")
    next(iter(reversed(module.graph.nodes))).args = ([window],)
    run, x = Runner(module), torch.rand(SHAPE)
    x[0, :, 4, 4] = -1.0
    run(x)
    y = x.clone()
    y[0, :, 4, 4] += change
    return int(run(y, gate=gate)[0].sum())


@pytest.mark.parametrize(("gate", "change", "want"), [(0.0, 0.5, 0), (0.0, 1.001, 9), (1.0, 1.001, 0), (1.0, 9.0, 9)])
def test_only_what_changed_spreads(gate: float, change: float, want: int) -> None:
    assert misses_after(gate, change) == want


LEFT: dict[str, Callable[..., Tensor]] = {
    "read cell by cell": lambda x: x.relu().sigmoid(),
    "read by a 1x1 convolution": lambda x: torch.conv2d(x.relu(), torch.ones(2, 2, 1, 1)),
    "no place": lambda x: torch.conv2d(x.mean((2, 3), keepdim=True), torch.ones(2, 2, 1, 1)),
    "moves": lambda x: torch.conv2d(x.unsqueeze(0).squeeze(0), torch.ones(2, 2, 3, 3)),
    "several results": lambda x: torch.conv2d(x.max(1, keepdim=True)[0], torch.ones(2, 1, 3, 3)),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    module = placed(Do(LEFT[name]), SHAPE)
    assert gate_changes(module) == 0
    assert gated(module) == []


CORRECTED: dict[str, tuple[Callable[..., Tensor], list[str]]] = {
    "global": (
        lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT[:, None]] * 3),
        ["scaled_dot_product_attention"],
    ),
    "in lines": (lambda x: F.scaled_dot_product_attention(*[x.permute(0, 2, 3, 1)] * 3), []),
    "with a bias": (lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT[:, None]] * 3, torch.ones(80, 80)), []),
}


@pytest.mark.parametrize("case", CORRECTED)
def test_attention_that_is_corrected(case: str) -> None:
    function, want = CORRECTED[case]
    exact, incremental = (placed(Do(function), SHAPE) for _ in range(2))
    assert gate_changes(exact) == 0
    assert gate_changes(incremental, attention="incremental") == len(want)
    assert gated(incremental) == want
