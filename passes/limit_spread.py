"""Bound how far a change spreads: the `radius` of the policy.

    %miss_b = flux.miss_window(%miss_a, @reads, @reads, size=[32, 32])
 ->
    %reach = flux.reach(%miss_x, %radius, size=[64, 64])
    %miss_b = flux.miss_window(%miss_a, @reads, @reads, size=[32, 32])
    %limited = flux.limit(%miss_b, %reach, size=[32, 32], frame=[64, 64], scale=[2.0, 2.0], origin=[0.5, 0.5])

Followed exactly, a miss grows with every window. With radius -1 (exact) nothing is dropped; else a cell misses only if
its own pixels lie within `radius` of a changed pixel. Values a window makes get `meta["limited"]`, from which
`insert_misses` builds it. Left alone: nets with several images, values on a turned grid or without a place.
"""

from torch.fx import GraphModule

from fluxcompile.ir import inputs
from fluxcompile.passes.flow import WindowFlow, domain, has_domain, layout


def limit_spread(module: GraphModule) -> int:
    if len([n for n in inputs(module) if not layout(n).is_global]) != 1:
        return 0
    count = 0
    for node in module.graph.nodes:
        if node.op != "call_function" or not has_domain(node) or domain(node).parts:
            continue
        if isinstance(domain(node).flow, WindowFlow) and layout(node).map_dims and not any(layout(node).grid.turn):
            node.meta["limited"] = True
            count += 1
    return count
