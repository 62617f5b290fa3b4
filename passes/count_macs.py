"""Count what each layer costs: multiply-accumulates of convolutions, linear layers, products and attention.

    %conv2d: f32[1x16x32x32]    3 * 3 * 3 * 16 * 32 * 32 = 442368

No node changes; each gets `meta["macs"]` and, when that is not 0, `meta["layer"]`, its number in `meta["layers"]`.
A second op of one module is called `path#2`.
"""

import math
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from fluxcompile.ir import argument, op_name, operand, shape
from fluxcompile.passes.blocking import join_form
from fluxcompile.passes.flow import WindowFlow, domain, has_domain, layout


def count_macs(module: GraphModule) -> int:
    layers: list[dict[str, Any]] = []
    used: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
            continue
        macs = _macs(node)
        if macs:
            node.meta["macs"], node.meta["layer"] = macs, len(layers)
            name = node.meta.get("path") or node.name
            used[name] = used.get(name, 0) + 1
            layers.append(
                {
                    "name": name if used[name] == 1 else f"{name}#{used[name]}",
                    "op": op_name(node.target).removeprefix("aten."),
                    "domain": str(domain(node)),
                    "macs": macs,
                    "reason": _reason(node),
                }
            )
    module.meta["layers"] = layers
    return len(layers)


def _macs(node: Node) -> int:
    name = op_name(node.target).removeprefix("aten.")
    out: int = math.prod(node.meta["val"].shape)
    if name in ("conv1d", "conv2d", "conv3d", "linear"):
        return out * math.prod(shape(operand(node, 1))[1:])
    if name.startswith("conv_transpose"):
        return math.prod(shape(operand(node))) * math.prod(shape(operand(node, 1))[1:])
    if name in ("matmul", "mm", "bmm"):
        return out * shape(operand(node))[-1]
    if name in ("addmm", "baddbmm"):
        return out * shape(operand(node, 1))[-1]
    if name == "scaled_dot_product_attention":
        q, k, v = (shape(argument(node, n)) for n in ("query", "key", "value"))
        return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
    if name == "einsum":
        sizes: dict[str, int] = {}
        words = str(node.args[0]).replace(" ", "").split("->")[0].split(",")
        for word, tensor in zip(words, node.all_input_nodes, strict=False):
            if len(word) == len(shape(tensor)):
                sizes.update(zip(word, shape(tensor), strict=True))
        return math.prod(sizes.values()) if len(words) > 1 else 0
    return 0


def _reason(node: Node) -> str:
    """Why a layer has to run dense; empty where it need not."""
    if isinstance(domain(node).flow, WindowFlow):
        return ""
    placed = [n for n in node.all_input_nodes if has_domain(n) and not layout(n).is_global]
    if placed and not domain(node).opaque and layout(node).is_global:
        return "mixes every place"
    form = join_form(node)
    return form.removeprefix("dense: ") if form.startswith("dense") else ""
