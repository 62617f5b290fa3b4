"""What each stage allows, and that a broken rewrite is named by the pass that made it."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, Node

from fluxcompile import VerifyError, fluxcompile
from fluxcompile.ir import call
from fluxcompile.ops import flux
from fluxcompile.passes.drop_identities import drop_identities
from fluxcompile.verify import verify
from tests.helpers import captured, masked

SHAPE = (1, 3, 8, 8)
aten = torch.ops.aten


def relu(module: GraphModule) -> Node:
    found: Node = next(n for n in module.graph.nodes if n.target is aten.relu.default)
    return found


def foreign(module: GraphModule) -> None:
    node = relu(module)
    with module.graph.inserting_after(node):
        tiles = call(module, flux.hold.default, node, node, node, node)
    node.replace_all_uses_with(tiles, delete_user_cb=lambda n: n is not tiles)


def python_function(module: GraphModule) -> None:
    relu(module).target = torch.relu


def wrong_value(module: GraphModule) -> None:
    relu(module).meta["val"] = relu(module).meta["val"][:, :1]


def wrong_type(module: GraphModule) -> None:
    relu(module).meta["val"] = relu(module).meta["val"].double()


def no_value(module: GraphModule) -> None:
    del relu(module).meta["val"]


def in_place(module: GraphModule) -> None:
    relu(module).target = aten.relu_.default


def out_of_order(module: GraphModule) -> None:
    node = relu(module)
    node.args[0].append(node)  # type: ignore[union-attr]
    first = next(n for n in module.graph.nodes if n.op == "placeholder")
    first.prepend(node)


BROKEN: dict[Callable[[GraphModule], None], str] = {
    foreign: r"not allowed in a captured graph: %hold",
    python_function: r"not allowed in a captured graph: %relu",
    wrong_value: r"the operands give f32\[1x4x6x6\]: %relu: f32\[1x1x6x6\]",
    wrong_type: r"the operands give f32\[1x4x6x6\]: %relu: f64\[1x4x6x6\]",
    no_value: r"the operands give f32\[1x4x6x6\]: %relu: NoneType",
    in_place: r"changes its operand in place: %relu",
    out_of_order: r"the graph is malformed",
}


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda f: f.__name__)
def test_rejects(breaks: Callable[[GraphModule], None]) -> None:
    module = captured(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), SHAPE)
    verify(module, "captured", "capture")
    breaks(module)
    with pytest.raises(VerifyError, match=f"^after my_pass: {BROKEN[breaks]}"):
        verify(module, "captured", "my_pass")


def test_a_blocked_graph_may_hold_flux_ops() -> None:
    module = masked(nn.ReLU(), SHAPE)
    verify(module, "blocked", "insert_misses")
    with pytest.raises(VerifyError, match=r"not allowed in a captured graph: %miss_input"):
        verify(module, "captured", "insert_misses")


def broken_pass(module: GraphModule) -> int:
    for node in module.graph.nodes:
        if node.target is aten.conv2d.default:
            node.args = (*node.args[:3], [2, 2])
    return drop_identities(module)


@pytest.mark.parametrize(("flag", "after"), [("1", "broken_pass"), ("0", "")])
def test_a_broken_pass_is_named(flag: str, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With FLUX_VERIFY=0 the fault is still found, later."""
    monkeypatch.setenv("FLUX_VERIFY", flag)
    monkeypatch.setattr("fluxcompile.pipeline.CAPTURED", (broken_pass,))
    with pytest.raises(VerifyError, match=f"^after {after}"):
        fluxcompile(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.zeros(SHAPE))
