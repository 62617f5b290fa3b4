"""Compute once what does not depend on the input.

    %a: f32[49x49x3] = aten.index(@table, @index)
    %b: f32[3x49x49] = aten.permute(%a, dims=[2, 0, 1])
    %y = aten.add(%x, %b)
 ->
    %y = aten.add(%x, @b)

Position tables, anchors and window masks are such. Left alone: random ops, and results of several tensors.
"""

import torch
from torch.fx import GraphModule, Node

from fluxcompile.ir import constant, constant_value


def fold_constants(module: GraphModule) -> int:
    """Only chain ends become constants; what lies before them is dead afterwards."""
    values: dict[Node, torch.Tensor] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            values[node] = constant_value(module, node)
        elif _can_fold(node) and all(n in values for n in node.all_input_nodes):
            args, kwargs = (torch.fx.map_arg(a, lambda n: values[n]) for a in (node.args, node.kwargs))
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
    count = 0
    for node, value in list(values.items()):
        if node.op == "call_function" and any(user not in values for user in node.users):
            new = constant(module, value.contiguous(), node.name)
            if node.meta.get("path"):
                new.meta.setdefault("path", node.meta["path"])
            node.replace_all_uses_with(new)
            count += 1
    module.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
    return count


def _can_fold(node: Node) -> bool:
    if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
        return False
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return torch.Tag.nondeterministic_seeded not in target.tags and not target._schema.is_mutable
