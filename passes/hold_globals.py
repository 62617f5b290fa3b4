"""Keep a value without a place until it changes, so that what it scales need not be computed again.

    %s: f32[1x16x1x1] = aten.sigmoid(%m)
    %y: f32[1x16x32x32] = aten.mul(%x, %s)
 ->
    %h: f32[1x16x1x1] = flux.hold(%s, %cache_s, %gate, %fresh)
    %changed: b8[1] = flux.gate(%h, %cache_s, %miss_s, %zero, layout="1 16 1 1")
    %y: f32[1x16x32x32] = aten.mul(%x, %h)

A squeeze-excite would otherwise touch every pixel of every frame. With `gate` 0 only an equal value is held, which is
exact. Left alone: values that no value with a place reads.
"""

from torch.fx import GraphModule, Node

from fluxcompile.ir import add_input, call
from fluxcompile.ops import flux
from fluxcompile.passes.blocking import keep, renamed, setting
from fluxcompile.passes.flow import Domain, Held, domain, has_domain, layout


def hold_globals(module: GraphModule) -> int:
    count = 0
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not has_domain(node) or not _worth_holding(node):
            continue
        gate, fresh = setting(module, "gate"), setting(module, "fresh")
        cache = add_input(module, f"cache_{node.name}", node.meta["val"], "cache")
        with module.graph.inserting_after(node):
            held = call(module, flux.hold.default, node, cache, gate, fresh)
        held.meta["domain"] = Domain(layout(node), Held(node))
        held.meta["cache"] = cache
        if "shift" in node.meta:
            held.meta["shift"], held.meta["source"] = node.meta["shift"], None
        node.replace_all_uses_with(held, delete_user_cb=lambda n, held=held: n is not held)
        for user in held.users:
            if has_domain(user):
                user.meta["domain"] = renamed(domain(user), node, held)
        keep(module, cache, held)
        count += 1
    return count


def _worth_holding(node: Node) -> bool:
    found = domain(node)
    if node.target is flux.hold.default or any(u.target is flux.hold.default for u in node.users):
        return False
    if not found.layout.is_global or found.parts or found.opaque or not node.meta["val"].is_floating_point():
        return False
    return any(has_domain(u) and not layout(u).is_global for u in node.users)
