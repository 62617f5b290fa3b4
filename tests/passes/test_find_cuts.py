"""Cuts of a graph: after which layers, through what bytes, and which is the fastest."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fluxcompile import OptionError
from fluxcompile.passes.find_cuts import Cut, candidates, cut_after, fastest_side
from fluxcompile.passes.partition import closure, crossing
from tests.helpers import Do, placed, seeded

SHAPE = (1, 4, 8, 8)


def chain() -> GraphModule:
    """A map that narrows, widens and is concatenated."""

    def forward(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module, d: nn.Module) -> Tensor:
        x = torch.relu(a(x))
        y = torch.relu(b(x))
        return d(torch.cat([x, c(y).repeat(1, 4, 1, 1)], 1))

    convs = [nn.Conv2d(4, 2, 1), nn.Conv2d(2, 8, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(10, 3, 1)]
    return placed(seeded(lambda: Do(forward, *convs)), SHAPE)


def shown(cut: Cut) -> tuple[str, tuple[int, ...], list[str]]:
    return cut.name, cut.layers, [n.name for n in cut.boundary]


def test_candidates_cut_between_layers_where_fewest_bytes_cross() -> None:
    """The activation stays with its layer; what repeats or joins maps stays in the cloud."""
    assert [shown(c) for c in candidates(chain())] == [
        ("parts.0", (0,), ["relu"]),
        ("parts.1", (0, 1), ["relu", "relu_1"]),
        ("parts.2", (0, 1, 2), ["relu", "conv2d_2"]),
    ]


def test_cuts_by_name() -> None:
    module = chain()
    assert shown(cut_after(module, ["parts.1"])) == ("parts.1", (0, 1), ["relu", "relu_1"])
    assert shown(cut_after(module, ["parts.0", "parts.2"]))[1] == (0, 1, 2)
    assert shown(cut_after(module, ["parts"]))[1:] == ((0, 1, 2, 3), [])
    with pytest.raises(OptionError, match=r"no module or layer 'head'; it has parts\.0, parts\.1"):
        cut_after(module, ["head"])
    with pytest.raises(OptionError, match="names no module or layer"):
        cut_after(module, [])


def closed_sets(module: GraphModule) -> list[set[Node]]:
    """Every share the edge could have."""
    calls = [n for n in module.graph.nodes if n.op == "call_function"]
    found = []
    for count in range(len(calls) + 1):
        for chosen in itertools.combinations(calls, count):
            if closure(chosen) == set(chosen):
                found.append(set(chosen))
    return found


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_the_fastest_cut_is_the_fastest_of_all(data: st.DataObject) -> None:
    module = chain()
    seconds = st.integers(0, 30)
    nodes = [n for n in module.graph.nodes if n.op in ("call_function", "placeholder")]
    edge, cloud, send = ({n: data.draw(seconds) / 1000 for n in nodes} for _ in range(3))

    def total(share: set[Node]) -> float:
        took = sum(edge[n] if n in share else cloud[n] for n in nodes if n.op == "call_function")
        return took + sum(send[n] for n in crossing(module, share))

    found = fastest_side(module, edge.__getitem__, cloud.__getitem__, send.__getitem__)
    assert found == closure(found)
    assert total(found) == pytest.approx(min(map(total, closed_sets(module))))
