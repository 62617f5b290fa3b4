"""What each way to place a net on two machines costs.

    seconds = edge's layers + round trip + bytes / bandwidth + cloud's layers

Times are those of device profiles at a share of active blocks; bytes are those of the cells that then change.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from fluxcompile.cut_table import CutTable, Row
from fluxcompile.errors import OptionError
from fluxcompile.ir import inputs, shape
from fluxcompile.passes.find_cuts import Cut, candidates, cut_of, fastest_side
from fluxcompile.passes.partition import can_cross
from fluxcompile.runtime.precision import PRECISIONS, Precision
from fluxcompile.runtime.profile import Profile


@dataclass(frozen=True)
class Link:
    """Between edge and cloud, and how much crosses it.

    active: the share of a frame's blocks that is computed anew. precision: of boundary maps (see `runtime.boundary`).
    frame_bytes: of a whole frame as its transport sends it, an H.264 stream's say; its active blocks raw, if not given.
    """

    mbps: float
    rtt_ms: float = 0.0
    active: float = 0.2
    precision: str = "int8"
    frame_bytes: float | None = None

    def __post_init__(self) -> None:
        if not self.mbps > 0 or not self.rtt_ms >= 0:
            raise OptionError(
                f"mbps is {self.mbps}, rtt_ms {self.rtt_ms}; a link has a rate above 0 and a delay from 0"
            )
        if not 0 < self.active <= 1:
            raise OptionError(f"active is {self.active}; it is a share of a frame's blocks, above 0 and at most 1")
        if self.precision not in PRECISIONS:
            raise OptionError(f"precision is {self.precision!r}; use one of {', '.join(PRECISIONS)}")

    def send_ms(self, count: float) -> float:
        return count * 8 / (1000 * self.mbps)


class Placements:
    """Every candidate in a table, and the cut of each row; None for the whole net on one side."""

    def __init__(self, costs: "Costs") -> None:
        self._costs = costs
        self.table = CutTable(costs.whole())
        self.cuts: list[Cut | None] = [None] * len(self.table.rows)

    def add(self, cut: Cut) -> int:
        """Add a row; its index."""
        row = self._costs.row(cut)
        row.number = sum(one is not None for one in self.cuts)
        self.table.rows.append(row)
        self.cuts.append(cut)
        return len(self.cuts) - 1


def placements(module: GraphModule, edge: Profile | None, cloud: Profile | None, link: Link | None) -> Placements:
    """Both whole placements, every candidate cut and, where there are profiles, the fastest of all cuts."""
    costs = Costs(module, (edge, cloud, link) if edge and cloud and link else None)
    known, found = Placements(costs), candidates(module)
    best = costs.fastest()
    if best is not None and best.layers not in [cut.layers for cut in found]:
        found.append(best)
    for cut in found:
        known.add(cut)
    return known


class Costs:
    """What placements of one net cost; `devices` are the edge's profile, the cloud's and the link, None if unknown."""

    def __init__(self, module: GraphModule, devices: tuple[Profile, Profile, Link] | None) -> None:
        self._module, self._devices = module, devices
        self._macs = {layer["name"]: layer["macs"] for layer in module.meta["layers"]}
        self._names = list(self._macs)
        self._shares = self._changing()

    def whole(self) -> list[Row]:
        """The net on the edge, and in the cloud."""
        frames = inputs(self._module)
        here, there = Row("edge", [], 1.0, 0.0), Row("cloud", [_described(n) for n in frames], 0.0, self._bytes(frames))
        if self._devices is not None:
            edge, cloud, link = self._devices
            there.bytes = there.bytes if link.frame_bytes is None else link.frame_bytes
            here.edge_ms, here.send_ms, here.cloud_ms = edge.ms(link.active * edge.blocks), 0.0, 0.0
            there.edge_ms, there.send_ms = 0.0, link.rtt_ms + link.send_ms(there.bytes)
            there.cloud_ms = cloud.ms(link.active * cloud.blocks)
        return [here, there]

    def row(self, cut: Cut) -> Row:
        first = [self._names[i] for i in cut.layers]
        macs_share = sum(self._macs[n] for n in first) / max(1, sum(self._macs.values()))
        row = Row(cut.name, [_described(n) for n in cut.boundary], macs_share, self._bytes(cut.boundary))
        if self._devices is not None:
            edge, cloud, link = self._devices
            rest = set(self._names) - set(first)
            row.edge_ms = edge.part_ms(self._macs, first, link.active * edge.blocks)
            row.send_ms = link.rtt_ms + link.send_ms(row.bytes)
            row.cloud_ms = cloud.part_ms(self._macs, rest, link.active * cloud.blocks)
        return row

    def fastest(self) -> Cut | None:
        """The cut of least time; None where it is one of the whole placements, or nothing is known of the devices."""
        if self._devices is None:
            return None
        edge, cloud, link = self._devices

        def layer_s(profile: Profile) -> Callable[[Node], float]:
            times = profile.layer_ms(self._macs, link.active * profile.blocks)
            return lambda n: times[self._names[n.meta["layer"]]] / 1000 if "layer" in n.meta else 0.0

        found = fastest_side(
            self._module, layer_s(edge), layer_s(cloud), lambda n: link.send_ms(self._bytes([n])) / 1000
        )
        cut = cut_of(self._module, "least time", found)
        return cut if cut.layers and cut.boundary else None

    def _changing(self) -> dict[Node, float]:
        """Of each value, the share of its cells that changes: that of the layer it comes from. All, if unknown."""
        found: dict[Node, float] = {}
        for node in self._module.graph.nodes:
            if node.op == "placeholder":
                found[node] = self._devices[2].active if self._devices else 1.0
            elif node.op == "call_function":
                found[node] = max((found[n] for n in node.all_input_nodes if n in found), default=0.0)
                if self._devices is not None and "layer" in node.meta:
                    edge, _, link = self._devices
                    found[node] = edge.share(self._names[node.meta["layer"]], link.active * edge.blocks)
        return found

    def _bytes(self, boundary: Iterable[Node]) -> float:
        """Of what changes in some maps."""
        precision = PRECISIONS[self._devices[2].precision if self._devices else "int8"]
        return sum(self._shares[n] * _whole_bytes(n, precision) for n in boundary)


def _whole_bytes(node: Node, precision: Precision) -> float:
    """Of a whole map; the ranges of its channels are little beside it."""
    value = node.meta["val"]
    if not can_cross(node):
        return 0
    return float(value.numel() * (precision.bits / 8 if value.is_floating_point() else value.element_size()))


def _described(node: Node) -> str:
    return f"{node.name} {'x'.join(map(str, shape(node)))}"
