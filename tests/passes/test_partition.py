"""A graph taken apart: what each half holds, what crosses, and that one after the other they are the whole."""

import torch
from expecttest import assert_expected_inline
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fluxcompile.ir import text
from fluxcompile.passes.infer_domains import infer_domains
from fluxcompile.passes.partition import can_cross, closure, crossing, split
from tests.helpers import Do, assert_matches, placed, seeded
from tests.helpers import captured as captured_

SHAPE = (1, 3, 8, 8)


def net() -> nn.Module:
    def forward(x: Tensor, stem: nn.Module, deep: nn.Module, head: nn.Module) -> tuple[Tensor, Tensor]:
        a = torch.relu(stem(x))
        b = deep(a)
        return head(torch.cat([a, b], 1)), a.mean((2, 3))

    convs = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 2, 1)]
    return seeded(lambda: Do(forward, *convs))


def named(module: GraphModule, *names: str) -> set[Node]:
    return {n for n in module.graph.nodes if n.name in names}


def test_halves() -> None:
    module = placed(net(), SHAPE)
    before = text(module)
    halves = split(module, closure(named(module, "conv2d_1", "mean")))
    assert [n.name for n in halves.boundary] == ["relu", "conv2d_1"]
    assert (halves.edge_leaves, halves.cloud_leaves) == ((1,), (0,))
    assert text(module) == before
    assert_expected_inline(
        text(halves.edge),
        """\
%x_0: f32[1x3x8x8] = input
%conv2d: f32[1x4x8x8] = aten.conv2d(%x_0, @parts.0.weight, @parts.0.bias, stride=[1, 1], padding=[1, 1])  # parts.0
%relu: f32[1x4x8x8] = aten.relu(%conv2d)
%conv2d_1: f32[1x4x8x8] = aten.conv2d(%relu, @parts.1.weight, @parts.1.bias, stride=[1, 1], padding=[1, 1])  # parts.1
%mean: f32[1x4] = aten.mean(%relu, dim=[2, 3])
return [%relu, %conv2d_1, %mean]""",
    )
    assert_expected_inline(
        text(halves.cloud),
        """\
%relu: f32[1x4x8x8] = input
%conv2d_1: f32[1x4x8x8] = input
%cat: f32[1x8x8x8] = aten.cat([%relu, %conv2d_1], dim=1)
%conv2d_2: f32[1x2x8x8] = aten.conv2d(%cat, @parts.2.weight, @parts.2.bias)  # parts.2
return [%conv2d_2]""",
    )


def test_one_after_the_other_they_are_the_whole() -> None:
    model = net()
    module, x = placed(model, SHAPE), torch.rand(SHAPE)
    want = model(x)
    for names in ({"conv2d"}, {"relu"}, {"conv2d_1"}, {"cat"}, {"mean"}, {"mean", "conv2d_1"}, {"conv2d_2"}):
        halves = split(module, closure(named(module, *names)))
        early = halves.edge(x)
        maps, ready = early[: len(halves.boundary)], early[len(halves.boundary) :]
        late = halves.cloud(*maps)
        leaves = dict(zip(halves.edge_leaves, ready, strict=True)) | dict(zip(halves.cloud_leaves, late, strict=True))
        assert_matches((leaves[0], leaves[1]), want)


def test_a_frame_that_the_cloud_reads_crosses_too() -> None:
    model = Do(lambda x, a, b: a(x) + b(x), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    module = placed(model, SHAPE)
    boundary = crossing(module, closure(named(module, "conv2d")))
    assert [n.name for n in boundary] == ["x_0", "conv2d"]


def test_results_of_several_tensors_stay_together() -> None:
    module = placed(Do(lambda x, c: torch.cat(x.chunk(3, 1)[::-1], 1) + c(x), nn.Conv2d(3, 3, 1)), SHAPE)
    edge = closure(named(module, "getitem"))
    assert {n.name for n in edge} == {"chunk", "getitem", "getitem_1", "getitem_2"}
    assert all(map(can_cross, crossing(module, edge)))


def test_what_crosses_keeps_its_places() -> None:
    """Tokens are known as tokens of a map, not as an image of tokens by channels."""
    module = placed(Do(lambda x, a, b: b(a(x.flatten(2).mT)), nn.Linear(3, 6), nn.Linear(6, 5)), SHAPE)
    halves = split(module, closure(named(module, "linear")))
    infer_domains(halves.cloud)
    assert [str(n.meta["domain"].layout) for n in halves.cloud.graph.nodes if "domain" in n.meta] == [
        "1 y8.x8 6",
        "1 y8.x8 5",
    ]


def test_integers_cannot_cross() -> None:
    module = captured_(Do(lambda x: x.argmax(1)), SHAPE)
    assert [can_cross(n) for n in module.graph.nodes if n.op == "call_function"] == [False]
