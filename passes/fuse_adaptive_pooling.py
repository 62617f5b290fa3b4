"""Name adaptive average pooling that was written out.

    %i = aten.index(%x_channels_last, [@rows, @columns])
    %p = aten.permute(%i, dims=[5, 4, 0, 1, 2, 3])
    %y: f32[1x10x32x64] = aten.mean(%p, dim=[3, 5])
 ->
    %y: f32[1x10x32x64] = aten.adaptive_avg_pool2d(%x, output_size=[32, 64])

Exports to ONNX gather the cells of each window so and, where windows differ in size, blank some, add them up one by
one and divide by their number. Any such tangle is linear in one map, so it is the pooling if it gives what the
pooling gives for a random map (a linear map that differs agrees with chance 0). Left alone: anything else, and a
tangle whose parts others read.
"""

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fluxcompile.ir import call, calls, constant_value, is_constant, replace, shape

aten = torch.ops.aten
LAST = (aten.mean.dim, aten.div.Tensor)
LINEAR = {
    *LAST,
    aten.index.Tensor,
    aten.permute.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.where.self,
    aten.where.ScalarSelf,
    aten.select.int,
    aten.slice.Tensor,
    aten.add.Tensor,
    aten.sum.dim_IntList,
    operator.getitem,
}


def fuse_adaptive_pooling(module: GraphModule) -> int:
    count = 0
    for last in reversed(calls(module, LAST)):
        if last._erased or len(shape(last)) != 4:
            continue
        found = _tangle(last)
        if found is None:
            continue
        source, nodes = found
        if not _pools(module, source, nodes, last):
            continue
        with module.graph.inserting_before(last):
            pooled = call(module, aten.adaptive_avg_pool2d.default, source, list(shape(last)[2:]))
        replace(last, pooled)
        module.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
        count += 1
    return count


def _tangle(last: Node) -> tuple[Node, list[Node]] | None:
    """(the map, the ops between, in order): everything `last` is made of, down to the one map that is indexed."""
    inside: set[Node] = set()
    sources: set[Node] = set()
    queue = [last]
    while queue:
        node = queue.pop()
        if node in inside or is_constant(node):
            continue
        if node is not last and _is_map(node, last):
            sources.add(node)
            continue
        if node.op != "call_function" or node.target not in LINEAR:
            return None
        inside.add(node)
        queue += node.all_input_nodes
    if len(sources) != 1 or not any(n.target is aten.index.Tensor for n in inside):
        return None
    if any(u not in inside for n in inside if n is not last for u in n.users):
        return None
    nodes: list[Node] = [n for n in last.graph.nodes if n in inside]
    return sources.pop(), nodes


def _is_map(node: Node, last: Node) -> bool:
    """A map of the same channels that is no smaller."""
    value = node.meta["val"]
    if not isinstance(value, Tensor) or value.dim() != 4 or value.shape[:2] != shape(last)[:2]:
        return False
    return all(n >= m for n, m in zip(value.shape[2:], shape(last)[2:], strict=True)) and value.shape != shape(last)


def _pools(module: GraphModule, source: Node, nodes: list[Node], last: Node) -> bool:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(shape(source), generator=generator, dtype=torch.float64)
    values: dict[Node, Any] = {source: x}
    try:
        for node in nodes:
            for c in node.all_input_nodes:
                if is_constant(c):
                    value = constant_value(module, c)
                    values[c] = value.double() if value.is_floating_point() else value
            args: Any = torch.fx.map_arg(node.args, values.__getitem__)
            kwargs: Any = torch.fx.map_arg(node.kwargs, values.__getitem__)
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    except (RuntimeError, TypeError, IndexError):
        return False
    got, want = values[last], aten.adaptive_avg_pool2d.default(x, list(shape(last)[2:]))
    return isinstance(got, Tensor) and got.shape == want.shape and bool(torch.allclose(got, want, rtol=0, atol=1e-6))
