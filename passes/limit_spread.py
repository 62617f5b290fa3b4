"""Bound how far a change spreads: the `radius` of the policy.

    %miss_b = flux.miss_window(%miss_a, @reads, @reads, size=[32, 32])
 ->
    %reach = flux.reach(%miss_x, %radius, size=[64, 64])
    %miss_b = flux.miss_window(%miss_a, @reads, @reads, size=[32, 32])
    %limited = flux.limit(%miss_b, %reach, size=[32, 32], frame=[64, 64], scale=[2.0, 2.0], origin=[0.5, 0.5])

Followed exactly, a miss grows with every window, and attention or a pooled vector carries it everywhere. With radius
-1 (exact) nothing is dropped; else a cell misses only if its own pixels lie within `radius` of a changed pixel. Values
that a miss may reach from elsewhere get `meta["limited"]`, from which `insert_misses` builds it: what a window makes,
what mixes places, what a value without a place takes part in, what was rolled back. Tokens without a place, a class
token say, are never dropped. Several images, boundary maps of a net that was cut, are taken to show the same view: a
change of any counts, on the grid of the finest. Left alone: nets with tokens of several maps as input, values on a
turned grid or without a place.
"""

from torch.fx import GraphModule, Node

from fluxcompile.ir import inputs
from fluxcompile.passes.flow import Join, Remap, WindowFlow, domain, has_domain, layout
from fluxcompile.passes.moving_apart import keeps_rows


def limit_spread(module: GraphModule) -> int:
    images = [n for n in inputs(module) if not layout(n).is_global]
    if not images or any(layout(image).chain for image in images):
        return 0
    count = 0
    for node in module.graph.nodes:
        if node.op == "call_function" and has_domain(node) and _has_grid(node) and _reached_from_afar(node):
            node.meta["limited"] = True
            count += 1
    return count


def _has_grid(node: Node) -> bool:
    found = domain(node)
    if found.parts or found.opaque or found.layout.is_global:
        return False
    at = found.layout
    return any(g for _, g in at.chain.segments) if at.chain else not any(at.grid.turn)


def _reached_from_afar(node: Node) -> bool:
    at = layout(node)
    match domain(node).flow:
        case WindowFlow():
            return True
        case Remap(sources, _):
            return any(any(layout(s).grid.turn) for s in sources)
        case Join(operands, out, _, _):
            return not all(keeps_rows(word, out, layout(n), at) for n, word in operands)
    return False
