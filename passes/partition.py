"""Take a captured graph apart into two: what the edge computes, and what the cloud makes of its boundary maps.

    %a = aten.conv2d(%x, @w)            # stem
    %b = aten.relu(%a)
    %c = aten.conv2d(%b, @v)            # head
    return [%c]
 ->
    edge:                               cloud:
    %a = aten.conv2d(%x, @w)            %b: f32[1x16x32x32] = input
    %b = aten.relu(%a)                  %c = aten.conv2d(%b, @v)
    return [%b]                         return [%c]

The edge's share is closed under what it reads, so that values cross once and in one direction. It returns the boundary
maps, then those of the net's outputs that are ready; an input that only the cloud reads crosses as it is. In the cloud
a boundary map is an input of the places it had (`infer_domains` ran before), over a grid of its own.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from fluxcompile.geometry import global_layout, has_rows, parse_layout
from fluxcompile.ir import inputs, output
from fluxcompile.passes.flow import Domain, layout

CROSSES = (torch.float32, torch.float64, torch.uint8)
"""What a boundary map may hold."""


@dataclass(frozen=True)
class Halves:
    """Two graphs, the values that cross, and which leaves of the net's outputs each half gives."""

    edge: GraphModule
    cloud: GraphModule
    boundary: tuple[Node, ...]
    edge_leaves: tuple[int, ...]
    cloud_leaves: tuple[int, ...]


def closure(seeds: Iterable[Node]) -> set[Node]:
    """Calls that some calls need, and these; a result of several tensors comes with each of them."""
    found: set[Node] = set()
    queue = [n for n in seeds if n.op == "call_function"]
    while queue:
        node = queue.pop()
        if node in found:
            continue
        found.add(node)
        queue += [n for n in node.all_input_nodes if n.op == "call_function"]
        if not isinstance(node.meta["val"], Tensor):
            queue += list(node.users)
    return found


def crossing(module: GraphModule, edge: Collection[Node]) -> list[Node]:
    """The values that the cloud reads of what the edge has, in graph order."""
    end, here = output(module), {*inputs(module), *edge}
    return [n for n in module.graph.nodes if n in here and any(u not in edge and u is not end for u in n.users)]


def can_cross(node: Node) -> bool:
    value = node.meta["val"]
    return isinstance(value, Tensor) and value.dtype in CROSSES


def split(module: GraphModule, edge: Collection[Node]) -> Halves:
    """The halves of a graph with domains; the graph itself stays as it is."""
    boundary = crossing(module, edge)
    leaves: list[Any] = list(output(module).args[0])  # type: ignore[arg-type]
    early = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Node) and leaf in edge]
    late = [i for i in range(len(leaves)) if i not in early]
    frames = inputs(module)
    calls: list[Node] = [n for n in module.graph.nodes if n.op == "call_function"]
    first = _part(module, frames, [n for n in calls if n in edge], [*boundary, *(leaves[i] for i in early)])
    read = boundary + [n for n in frames if n not in boundary and any(leaves[i] is n for i in late)]
    second = _part(module, read, [n for n in calls if n not in edge], [leaves[i] for i in late])
    for node in inputs(second):
        at = parse_layout(str(layout(node)))
        if not layout(node).is_global:
            node.meta["pixels"] = float(min(layout(node).grid.scale))
        node.meta["domain"] = Domain(at if has_rows(at) else global_layout(at.shape))
    return Halves(first, second, tuple(read), tuple(early), tuple(late))


def _part(module: GraphModule, read: list[Node], calls: list[Node], results: list[Any]) -> GraphModule:
    """The calls as a graph of its own that shares the constants."""
    graph, env = Graph(), dict[Node, Node]()
    for node in read:
        env[node] = graph.placeholder(node.name)
        env[node].meta = {"role": "input", "val": node.meta["val"], "domain": node.meta["domain"]}
    for node in calls:
        for name in (n for n in node.all_input_nodes if n.op == "get_attr" and n not in env):
            env[name] = graph.get_attr(str(name.target))
            env[name].meta["val"] = name.meta["val"]
        env[node] = graph.node_copy(node, env.__getitem__)
        env[node].meta = {k: v for k, v in node.meta.items() if k in ("val", "path")}
    for leaf in results:
        if isinstance(leaf, Node) and leaf.op == "get_attr" and leaf not in env:
            env[leaf] = graph.get_attr(str(leaf.target))
            env[leaf].meta["val"] = leaf.meta["val"]
    graph.output([env[v] if isinstance(v, Node) else v for v in results])
    part = GraphModule(module, graph)
    part.meta = {"fake_mode": module.meta["fake_mode"]}
    if "frames_layout" in module.meta:
        part.meta["frames_layout"] = module.meta["frames_layout"]
    return part
