"""A graph module -> plain data that runs without the compiler (see `fluxcompile.program`).

    %conv2d = aten.conv2d(%g, @w, None, stride=[2, 2])
 ->
    {"name": "conv2d", "op": "aten.conv2d.default", "args": [{"%": "g"}, {"@": "w"}, null, [2, 2]], ...}

Arguments left at their default are left out, as in the graph. Constants are taken by name, never copied twice.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fluxcompile.ir import DTYPES, constant_value, output, type_text
from fluxcompile.passes.flow import has_domain, layout
from fluxcompile.program import Graph, Input, Op


def plain_argument(module: GraphModule, value: Any, constants: dict[str, Tensor]) -> Any:
    """An argument of a node as data; a constant it names is added to `constants`."""
    if isinstance(value, Node):
        if value.op == "get_attr":
            constants[str(value.target)] = constant_value(module, value)
            return {"@": str(value.target)}
        return {"%": value.name}
    if isinstance(value, list | tuple):
        return [plain_argument(module, v, constants) for v in value]
    if isinstance(value, torch.dtype):
        return {"dtype": DTYPES[value]}
    if isinstance(value, torch.device | torch.layout | torch.memory_format):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def emit_op(module: GraphModule, node: Node, constants: dict[str, Tensor]) -> Op:
    """One node as data."""
    region = node.op == "call_module"
    return Op(
        name=node.name,
        op="region" if region else _name(node.target),
        args=plain_argument(module, node.args, constants),
        kwargs={k: plain_argument(module, v, constants) for k, v in node.kwargs.items()},
        type=type_text(node.meta["val"]),
        path=node.meta.get("path", ""),
        macs=node.meta.get("macs", 0),
        layer=node.meta.get("layer", -1),
        lists=[(n.name, n.meta["val"].shape[0]) for n in node.meta.get("list", ())],
        body=emit_graph(getattr(module, str(node.target)).body, constants) if region else None,
    )


def emit_graph(module: GraphModule, constants: dict[str, Tensor]) -> Graph:
    """The graph as data; the constants it names are added to `constants`."""
    found, ops = [], []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            text = str(layout(node)) if has_domain(node) and not layout(node).is_global else ""
            role = node.meta.get("role", "input")
            found.append(Input(node.name, role, DTYPES[value.dtype], list(value.shape), text))
        elif node.op in ("call_function", "call_module"):
            ops.append(emit_op(module, node, constants))
    outputs = plain_argument(module, output(module).args[0], constants)
    caches = [(c.name, v.name) for c, v in module.meta.get("caches", [])]
    return Graph(found, ops, outputs, caches)


def _name(target: Any) -> str:
    return str(target) if isinstance(target, torch._ops.OpOverload) else "getitem"
