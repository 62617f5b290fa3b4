"""Find where a net may be cut, and the cut that is fastest, as minimum cuts of its graph.

Both are one flow network: what lies on the side of the source is the edge's. A value that crosses costs its transfer,
once however many read it; what the edge computes must not read from the cloud:

    source --cloud's time--> call --transfer--> call' --inf--> readers --inf--> call --edge's time--> sink

`cheapest_side` fixes the layers and lets what lies between them (activations, concatenations, slices) go where fewest
bytes cross. `fastest_side` fixes nothing. Both are exact for costs that add up. Left alone: values that cannot cross
(integers, several tensors), whose transfer costs more than anything.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import networkx as nx
from torch.fx import GraphModule, Node

from fluxcompile.errors import OptionError
from fluxcompile.ir import inputs
from fluxcompile.passes.partition import can_cross, closure, crossing

SOURCE, SINK = "source", "sink"
NANO = 1e-9
"""Costs are rounded to integers, so that a flow is exact: seconds to nanoseconds."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A place to cut: the edge's calls, its layers (indices, in order) and the values that cross."""

    name: str
    edge: frozenset[Node]
    layers: tuple[int, ...]
    boundary: tuple[Node, ...]


def cut_after(module: GraphModule, names: Collection[str]) -> Cut:
    """The cut after modules or layers, by the names `explain` prints; OptionError for a name that is not there."""
    if not names:
        raise OptionError("at: names no module or layer")
    seeds: set[Node] = set()
    for name in names:
        found = [n for n in _calls(module) if _is_called(module, n, name)]
        if not found:
            known = ", ".join(dict.fromkeys(layer["name"] for layer in module.meta["layers"]))
            raise OptionError(f"at: the net has no module or layer {name!r}; it has {known}")
        seeds |= set(found)
    return cut_of(module, " + ".join(names), cheapest_side(module, closure(seeds)))


def candidates(module: GraphModule) -> list[Cut]:
    """Every cut after one layer and what the layer needs, in order of the edge's work; equal ones once."""
    found: dict[tuple[int, ...], Cut] = {}
    for call in _calls(module):
        if "layer" in call.meta:
            name = module.meta["layers"][call.meta["layer"]]["name"]
            cut = cut_of(module, name, cheapest_side(module, closure([call])))
            if cut.boundary and all(map(can_cross, cut.boundary)):
                found.setdefault(cut.layers, cut)
    macs = [layer["macs"] for layer in module.meta["layers"]]
    return sorted(found.values(), key=lambda c: sum(macs[i] for i in c.layers))


def cut_of(module: GraphModule, name: str, edge: set[Node]) -> Cut:
    """The cut with these calls on the edge."""
    layers = sorted(n.meta["layer"] for n in edge if "layer" in n.meta)
    return Cut(name, frozenset(edge), tuple(layers), tuple(crossing(module, edge)))


def cheapest_side(module: GraphModule, seeds: set[Node]) -> set[Node]:
    """What the edge computes if these calls are its last layers: of what needs no other layer, as cuts fewest bytes."""
    others: set[Node] = set()
    for call in _calls(module):
        if call not in seeds and ("layer" in call.meta or any(n in others for n in call.all_input_nodes)):
            others.add(call)
    if not others:
        return set(_calls(module))
    here = {*inputs(module), *seeds}

    def side(node: Node) -> object:
        return SOURCE if node in here else SINK if node in others else node

    network = nx.DiGraph()
    network.add_nodes_from((SOURCE, SINK))
    for node in module.graph.nodes:
        if node.op in ("call_function", "placeholder") and node not in others:
            _add_transfer(network, node, side, _bytes(node))
    return seeds | _source_side(network)


def fastest_side(
    module: GraphModule,
    edge_s: Callable[[Node], float],
    cloud_s: Callable[[Node], float],
    send_s: Callable[[Node], float],
) -> set[Node]:
    """What the edge computes in the cut of least total seconds."""
    network = nx.DiGraph()
    network.add_nodes_from((SOURCE, SINK))

    def side(node: Node) -> object:
        return SOURCE if node.op == "placeholder" else node

    for node in module.graph.nodes:
        if node.op == "call_function":
            network.add_edge(SOURCE, node, capacity=round(cloud_s(node) / NANO))
            network.add_edge(node, SINK, capacity=round(edge_s(node) / NANO))
        if node.op in ("call_function", "placeholder"):
            _add_transfer(network, node, side, round(send_s(node) / NANO) if can_cross(node) else None)
    return _source_side(network)


def _add_transfer(network: "nx.DiGraph", node: Node, side: Callable[[Node], object], cost: int | None) -> None:
    """A value's transfer; without a cost it cannot cross. An edge without capacity is infinite."""
    sent = ("sent", node)
    network.add_edge(side(node), sent, **({} if cost is None else {"capacity": cost}))
    for user in node.users:
        if user.op == "call_function":
            network.add_edge(sent, side(user))
            if side(user) not in (SOURCE, SINK) and side(node) is not SOURCE:
                network.add_edge(side(user), side(node))


def _source_side(network: "nx.DiGraph") -> set[Node]:
    try:
        _, (source, _) = nx.minimum_cut(network, SOURCE, SINK)
    except nx.NetworkXUnbounded:  # what cannot cross would have to
        return set()
    return {n for n in source if isinstance(n, Node)}


def _bytes(node: Node) -> int | None:
    return node.meta["val"].numel() * node.meta["val"].element_size() if can_cross(node) else None


def _calls(module: GraphModule) -> list[Node]:
    return [n for n in module.graph.nodes if n.op == "call_function"]


def _is_called(module: GraphModule, node: Node, name: str) -> bool:
    """By its module, one that holds it, or as a layer."""
    path: str = node.meta.get("path", "")
    layer = node.meta.get("layer")
    named = layer is not None and module.meta["layers"][layer]["name"] == name
    return bool(named) or path == name or path.startswith(name + ".")
