"""Stop a change where a value came out as it was.

    %miss_b = flux.miss_window(%miss_a, @reads, @reads, size=[32, 32])
 ->
    %changed_a = flux.gate(%a, %cache_a, %miss_a, %gate, layout="1 16 y32 x32")
    %miss_b = flux.miss_window(%changed_a, @reads, @reads, size=[32, 32])

With `gate` 0 only a row that is exactly what its cache was stops, so the result is exact. Values that a window or a
product reads are gated: there a change would spread; so is attention that is corrected by the keys that changed. Each
gets `meta["gated"]`, from which `insert_misses` builds it.
Left alone: values without a place, those read only cell by cell, and results of several tensors.
"""

import operator

import torch
from torch.fx import GraphModule, Node

from fluxcompile.geometry import is_placed
from fluxcompile.ir import argument
from fluxcompile.passes.flow import Anything, Join, Same, WindowFlow, domain, has_domain, layout


def gate_changes(module: GraphModule, attention: str = "exact") -> int:
    count = 0
    for node in module.graph.nodes:
        if node.op != "call_function" or not has_domain(node):
            continue
        if _worth_gating(node) or (attention == "incremental" and _is_corrected(node)):
            node.meta["gated"] = True
            count += 1
    return count


def _is_corrected(node: Node) -> bool:
    """Global attention, whose every row moves a little when any key does."""
    if node.target is not torch.ops.aten.scaled_dot_product_attention.default or not isinstance(
        domain(node).flow, Join
    ):
        return False
    unmasked = argument(node, "attn_mask") is None
    return unmasked and not any(is_placed(d) for d in layout(argument(node, "key")).dims[:-2])


def _worth_gating(node: Node) -> bool:
    found = domain(node)
    if found.layout.is_global or found.parts or found.opaque or node.target is operator.getitem:
        return False
    if isinstance(found.flow, Same | Anything) or not node.meta["val"].is_floating_point():
        return False
    return any(has_domain(u) and _spreads(node, u) for u in node.users)


def _spreads(node: Node, user: Node) -> bool:
    flow = domain(user).flow
    if isinstance(flow, WindowFlow):
        return len(flow.y.reads[0]) > 1 or len(flow.x.reads[0]) > 1
    return isinstance(flow, Join) and layout(user).rows < layout(node).rows
