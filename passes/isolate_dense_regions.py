"""Put runs of ops that have to run whole into a region of their own, skipped when nothing they read changed.

    %m: f32[1x512] = aten.mean(%x, dim=[2, 3])
    %l: f32[1x1000] = aten.linear(%m, @w, @b)
 ->
    %dense_0 = dense_0([%x], [%miss_x], %fresh, [%cache_l])
    %l: f32[1x1000] = getitem(%dense_0, 0)

    dense_0:
        %m: f32[1x512] = aten.mean(%x, dim=[2, 3])
        %l: f32[1x1000] = aten.linear(%m, @w, @b)
        return [%l]

A region is a run of dense arithmetic with no blocked op between; its results become caches. Left alone: ops that only
move data, and runs that cost nothing to repeat (no layer, no norm, no reduction).
"""

import operator

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from fluxcompile.ir import call, fake_mode, op_name
from fluxcompile.passes.blocking import cache_of, setting
from fluxcompile.passes.flow import has_domain
from fluxcompile.passes.rules_cut import CUTS
from fluxcompile.passes.rules_move import MOVES

MOVING = MOVES.keys() | CUTS.keys()
"""Ops that only move data."""


class Region(nn.Module):
    """The body of a dense region and when it runs."""

    def __init__(self, body: GraphModule) -> None:
        super().__init__()
        self.body = body

    def forward(
        self, operands: list[Tensor], misses: list[Tensor], fresh: Tensor, old: list[Tensor]
    ) -> tuple[Tensor, ...]:
        if not fresh and not any(bool(m.any()) for m in misses):
            return tuple(old)
        return tuple(self.body(*operands))


def isolate_dense_regions(module: GraphModule) -> int:
    """Returns the number of regions."""
    regions = [r for r in _runs(module) if any("layer" in n.meta or _mixes(n) for n in r)]
    for i, region in enumerate(regions):
        _isolate(module, region, f"dense_{i}")
    return len(regions)


def _runs(module: GraphModule) -> list[list[Node]]:
    """Dense ops in graph order, cut where something else needs one of them."""
    runs: list[list[Node]] = [[]]
    for node in list(module.graph.nodes):
        if _is_dense(node, runs[-1]):
            runs[-1].append(node)
        elif runs[-1] and any(n in runs[-1] for n in node.all_input_nodes):
            runs.append([])
            if _is_dense(node, []):
                runs[-1].append(node)
    return [_trimmed(r) for r in runs if r]


def _trimmed(run: list[Node]) -> list[Node]:
    """Without moves at the end: they cost nothing and their results would be cached twice."""
    while run and op_name(run[-1].target).removeprefix("aten.") in MOVING:
        run = run[:-1]
    return run


def _is_dense(node: Node, run: list[Node]) -> bool:
    if node.op != "call_function" or not has_domain(node) or "miss" not in node.meta or node.meta["domain"].parts:
        return False
    name = op_name(node.target)
    if node.target is operator.getitem:
        return False
    if name.removeprefix("aten.") in MOVING:
        return any(n in run for n in node.all_input_nodes)
    return name.startswith("aten.")


def _mixes(node: Node) -> bool:
    return op_name(node.target).removeprefix("aten.") in ("group_norm", "instance_norm", "adaptive_avg_pool2d", "mean")


def _isolate(module: GraphModule, region: list[Node], name: str) -> None:
    inside = set(region)
    operands = list(
        dict.fromkeys(o for n in region for o in n.all_input_nodes if o not in inside and o.op != "get_attr")
    )
    results = [n for n in region if any(u not in inside for u in n.users)]
    body = _body(module, region, operands, results)
    module.add_submodule(name, Region(body))
    fresh = setting(module, "fresh")
    caches = [cache_of(module, n) for n in results]
    misses = list(dict.fromkeys(n.meta["miss"] for n in results))
    with module.graph.inserting_after(region[-1]):
        whole = module.graph.call_module(name, (operands, misses, fresh, caches))
    whole.meta["val"] = tuple(n.meta["val"] for n in results)
    last = whole
    for i, node in enumerate(results):
        with module.graph.inserting_after(last):
            part = call(module, operator.getitem, whole, i)
        last = part
        part.meta |= {
            k: v for k, v in node.meta.items() if k in ("domain", "miss", "changed", "shift", "source", "cache")
        }
        _hand_over(module, node, part, inside)
    for node in reversed(region):
        module.graph.erase_node(node)


def _hand_over(module: GraphModule, node: Node, part: Node, inside: set[Node]) -> None:
    """Everyone outside the region reads the part, and the next frame keeps it."""
    node.replace_all_uses_with(part, delete_user_cb=lambda u: u not in inside)
    module.meta["caches"] = [(c, part if v is node else v) for c, v in module.meta["caches"]]


def _body(module: GraphModule, region: list[Node], operands: list[Node], results: list[Node]) -> GraphModule:
    graph, env = Graph(), dict[Node, Node]()
    for node in operands:
        env[node] = graph.placeholder(node.name)
        env[node].meta["val"], env[node].meta["role"] = node.meta["val"], "input"
    for node in region:
        for c in node.all_input_nodes:
            if c.op == "get_attr" and c not in env:
                env[c] = graph.get_attr(str(c.target))
                env[c].meta["val"] = c.meta["val"]
        env[node] = graph.node_copy(node, lambda n: env[n])
    graph.output([env[n] for n in results])
    body = GraphModule(module, graph)
    body.meta["fake_mode"] = fake_mode(module)
    return body
