"""Find for every value which frame pixels its cells stand for: the analysis everything later is decided from.

    %x: f32[1x3x64x64]              map 1 3 y64 x64 of 64x64 /1 +0
    %conv2d: f32[1x16x32x32]        map 1 16 y32 x32 of 32x32 /2 +1/2
    %flatten: f32[1x16x1024]        tokens 1 16 y32.x32
    %mean: f32[1x16]                global

No node changes; each gets `meta["domain"]`. An op without a rule, or one that cuts a map in a way no layout can say, is
*opaque*: it runs dense, any change of its operands changes all of it, and its reason is kept for `explain()`.
"""

import operator

from torch.fx import GraphModule, Node

from fluxcompile.geometry import (
    global_layout,
    map_layout,
)
from fluxcompile.ir import op_name, shape
from fluxcompile.passes.flow import Domain, channels_last, has_domain, layout, read_by
from fluxcompile.passes.rules import anything
from fluxcompile.passes.rules_cut import CUTS
from fluxcompile.passes.rules_join import JOINS
from fluxcompile.passes.rules_move import MOVES
from fluxcompile.passes.rules_window import WINDOWS

RULES = JOINS | MOVES | CUTS | WINDOWS
"""Every rule by ATen name, without overload."""
SHAPED = {"expand_as", "view_as", "reshape_as", "type_as"}
"""Ops that ask their second operand for its shape or type alone."""


def infer_domains(module: GraphModule) -> int:
    """Returns how many values are opaque."""
    opaque = 0
    for node in module.graph.nodes:
        if node.op == "placeholder":
            if "domain" not in node.meta:  # what crosses a boundary keeps its places
                node.meta["domain"] = _input_domain(node, module.meta.get("frames_layout"))
        elif node.op == "call_function":
            node.meta["domain"] = found = _infer(node)
            opaque += bool(found.opaque)
    return opaque


def _input_domain(node: Node, frames_layout: str | None) -> Domain:
    size = shape(node)
    if frames_layout == "hwc" and len(size) == 3:
        return Domain(map_layout(size, 0, 1))
    if channels_last(size):
        return Domain(map_layout(size, 1, 2))
    if len(size) in (3, 4) and (len(size) == 3 or size[0] == 1):
        return Domain(map_layout(size, len(size) - 2, len(size) - 1))
    return Domain(global_layout(size))


def _infer(node: Node) -> Domain:
    name = op_name(node.target).removeprefix("aten.")
    sources = [n for n in node.all_input_nodes if has_domain(n)]
    if node.target is operator.getitem:
        return layout_of_part(node)
    rule = RULES.get(name)
    if all(layout(n).is_global and not n.meta["domain"].parts for n in sources):
        reason = next((n.meta["domain"].opaque for n in sources if n.meta["domain"].opaque), "")
        return anything(node, sources, reason)
    found = rule(node) if rule else None
    if found is None:
        what = "has no rule" if rule is None else "cuts across the map"
        return anything(node, sources, f"{name} {what}: {tuple(shape(n) for n in sources)}")
    if name not in SHAPED and not set(sources) <= read_by(found.flow):
        return anything(node, sources, f"{name} has a weight or setting that is computed")
    return found


def layout_of_part(node: Node) -> Domain:
    source, index = node.args
    assert isinstance(source, Node)
    return source.meta["domain"].parts[index]  # type: ignore[no-any-return]
