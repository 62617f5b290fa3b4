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


def emit_graph(module: GraphModule, constants: dict[str, Tensor]) -> Graph:
    """The graph as data; the constants it names are added to `constants`."""

    def plain(value: Any) -> Any:
        if isinstance(value, Node):
            if value.op == "get_attr":
                constants[str(value.target)] = constant_value(module, value)
                return {"@": str(value.target)}
            return {"%": value.name}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        if isinstance(value, torch.dtype):
            return {"dtype": DTYPES[value]}
        if isinstance(value, torch.device | torch.layout | torch.memory_format):
            return None
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": str(value)}
        return value

    inputs, ops = [], []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            text = str(layout(node)) if has_domain(node) and not layout(node).is_global else ""
            role = node.meta.get("role", "input")
            inputs.append(Input(node.name, role, DTYPES[value.dtype], list(value.shape), text))
        elif node.op in ("call_function", "call_module"):
            ops.append(
                Op(
                    name=node.name,
                    op="region" if node.op == "call_module" else _name(node.target),
                    args=plain(node.args),
                    kwargs={k: plain(v) for k, v in node.kwargs.items()},
                    type=type_text(node.meta["val"]),
                    path=node.meta.get("path", ""),
                    macs=node.meta.get("macs", 0),
                    layer=node.meta.get("layer", -1),
                    lists=[(n.name, n.meta["val"].shape[0]) for n in node.meta.get("list", ())],
                    body=emit_graph(getattr(module, str(node.target)).body, constants)
                    if node.op == "call_module"
                    else None,
                )
            )
    found = output(module).args
    caches = [(c.name, v.name) for c, v in module.meta.get("caches", [])]
    return Graph(inputs, ops, plain(found[0]), caches)


def _name(target: Any) -> str:
    return str(target) if isinstance(target, torch._ops.OpOverload) else "getitem"
