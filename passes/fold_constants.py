"""Compute once what does not depend on the input.

    %a: f32[49x49x3] = aten.index(@table, @index)
    %b: f32[3x49x49] = aten.permute(%a, dims=[2, 0, 1])
    %y = aten.add(%x, %b)
 ->
    %y = aten.add(%x, @b)

Position tables, anchors and window masks are such; so is what reads only the shape of a value. Raises CaptureError for
random numbers, which no cache could hold.
"""

from typing import Any

import torch
from torch.fx import GraphModule, Node

from fluxcompile.errors import CaptureError
from fluxcompile.ir import argument, constant, constant_value, op_name, schema_arguments

SHAPE_ONLY = {"new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"}
LIKE_SECOND = {"type_as", "expand_as", "view_as", "reshape_as"}


def fold_constants(module: GraphModule) -> int:
    """Only chain ends become constants; what lies before them is dead afterwards."""
    values: dict[Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            values[node] = constant_value(module, node)
        elif node.op == "call_function" and all(n in values for n in _read(node)):
            _require_repeatable(node)
            args, kwargs = (torch.fx.map_arg(a, lambda n: _value(n, values)) for a in (node.args, node.kwargs))
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
    count = 0
    for node, value in list(values.items()):
        if node.op != "call_function" or not isinstance(value, torch.Tensor):
            continue
        if any(user not in values for user in node.users):
            new = constant(module, value.contiguous(), node.name)
            if node.meta.get("path"):
                new.meta.setdefault("path", node.meta["path"])
            node.replace_all_uses_with(new)
            count += 1
    module.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
    return count


def _read(node: Node) -> list[Node]:
    """The operands whose numbers matter; of others an op reads only shape or type."""
    name = op_name(node.target).removeprefix("aten.")
    if name in SHAPE_ONLY:
        return []
    return node.all_input_nodes[:1] if name in LIKE_SECOND else node.all_input_nodes


def _value(node: Node, values: dict[Node, Any]) -> Any:
    if node in values:
        return values[node]
    fake = node.meta["val"]
    return torch.empty(fake.shape, dtype=fake.dtype)


def _require_repeatable(node: Node) -> None:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return
    chances = [argument(node, a.name) for a in schema_arguments(node) if a.name in ("p", "dropout_p")]
    if not chances or any(chances):
        where = node.meta.get("path") or node.name
        raise CaptureError(f"{where}: {target} draws random numbers; make inference deterministic before compiling")
