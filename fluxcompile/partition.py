"""A net in two parts: the edge's, and the cloud's that goes on from its boundary maps.

    halves = net.partition(at="model.9")
    edge, cloud = halves.edge.stream(), halves.cloud.stream()
    early = edge(frame)
    late = cloud(*early["boundary"])
    outputs = halves.outputs(early, late)       # the model's own tree

Each part is a program of its own. With `at="edge"` or "cloud" the other side has none.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.fx import GraphModule

from fluxcompile.cuts import CutTable, Link, cut_table
from fluxcompile.errors import OptionError, ProgramError
from fluxcompile.net import Net, load
from fluxcompile.options import Frames
from fluxcompile.passes.count_macs import count_macs
from fluxcompile.passes.find_cuts import Cut, cut_after
from fluxcompile.passes.infer_domains import infer_domains
from fluxcompile.passes.load_graph import load_graph
from fluxcompile.passes.partition import can_cross, split
from fluxcompile.pipeline import compile_part
from fluxcompile.program import Input, Part, Program
from fluxcompile.runtime.frame import rebuild
from fluxcompile.runtime.profile import Profile, find_profile

SIDES = ("edge", "cloud")


@dataclass(frozen=True)
class Partition:
    """A net on two machines; a side with nothing to do has no net."""

    edge: Net | None
    cloud: Net | None
    cuts: CutTable | None = None

    @property
    def boundary(self) -> list[Input]:
        """The maps that cross: names, types, shapes, layouts."""
        return boundary_of(self.cloud.program) if self.edge and self.cloud else []

    def explain(self) -> CutTable:
        """Where the net could be cut and what that costs, the chosen cut marked; `str()` is a table."""
        if self.cuts is None:
            raise OptionError("explain: this partition was loaded and knows no other cuts; partition the whole net")
        return self.cuts

    def outputs(self, edge: Any, cloud: Any) -> Any:
        """The model's own tree, of what the streams of both parts gave; None for a side without a net."""
        if self.edge is None or self.cloud is None:
            return cloud if self.edge is None else edge
        late = self.cloud.program.part
        early = self.edge.program.part
        assert early is not None
        assert late is not None
        leaves = dict(zip(early.leaves, edge["outputs"], strict=True)) | dict(zip(late.leaves, cloud, strict=True))
        return rebuild(late.template, [leaves[i] for i in range(len(leaves))])

    def save(self, folder: str | Path) -> list[Path]:
        """Write edge.flux and cloud.flux, those there are."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"edge": self.edge, "cloud": self.cloud}
        written = []
        for side, net in parts.items():
            path = folder / f"{side}.flux"
            path.unlink(missing_ok=True)  # of another partition
            if net is not None:
                net.save(path)
                written.append(path)
        return written


def boundary_of(cloud: Program) -> list[Input]:
    """The maps that a cloud's program takes."""
    return [i for i in cloud.graphs["blocked"].inputs if i.role == "input"]


def load_partition(folder: str | Path) -> Partition:
    """The partition that `save` wrote; ProgramError when its parts are of different nets or cuts."""
    paths = [Path(folder) / f"{side}.flux" for side in SIDES]
    edge, cloud = (load(path) if path.is_file() else None for path in paths)
    if edge is None and cloud is None:
        raise ProgramError(f"{folder}: holds neither edge.flux nor cloud.flux; write them with Partition.save")
    parts = [net.program.part if net else None for net in (edge, cloud)]
    for net, part, other in zip((edge, cloud), parts, reversed(parts), strict=True):
        if net is not None and (part.whole if part else "") != (other.whole if other else ""):
            raise ProgramError(f"{folder}: edge.flux and cloud.flux are not two parts of one net; partition it again")
    return Partition(edge, cloud)


def partition(
    net: Net,
    at: str | int | Sequence[str],
    *,
    edge: Profile | str | None = None,
    cloud: Profile | str | None = None,
    mbps: float | None = None,
    **link: Any,
) -> Partition:
    """See `Net.partition`.

    edge, cloud: profiles of this net on both devices, or their names (see `runtime.profile`); "auto" needs them.
    mbps, link: the link between them, as `cuts.Link` takes it: rtt_ms, active, precision, frame_bytes.
    """
    given = (edge is not None, cloud is not None, mbps is not None)
    if any(given) != all(given):
        raise OptionError("partition: give edge, cloud and mbps together, or none of them")
    if at == "auto" and not all(given):
        raise OptionError('at="auto" needs profiles of both devices and the rate between them: edge, cloud, mbps')
    if link and mbps is None:
        raise OptionError(f"partition: {', '.join(link)} say what a link is like; give edge, cloud and mbps too")
    module = analysed(net.program)
    edge, cloud = (find_profile(p) if isinstance(p, str) else p for p in (edge, cloud))
    table = cut_table(module, edge, cloud, None if mbps is None else Link(mbps, **link))
    table.chosen = _chosen(module, table, at)
    cut, name = table.cuts[table.chosen], table.rows[table.chosen].at
    if cut is None:
        return Partition(net if name == "edge" else None, net if name == "cloud" else None, table)
    return cut_at(net, module, cut, table)


def _chosen(module: GraphModule, table: CutTable, at: str | int | Sequence[str]) -> int:
    """The row of the table that `at` means, added where it is none of the candidates."""
    if at == "auto":
        return table.fastest()
    whole = [row.at for row, cut in zip(table.rows, table.cuts, strict=True) if cut is None]
    if at in whole:
        return whole.index(str(at))
    if isinstance(at, int):
        if not 0 <= at < len(table.rows) - len(whole):
            raise OptionError(f"at: there is no cut {at}; the net can be cut in {len(table.rows) - 2} places, from 0")
        return len(whole) + at
    cut = cut_after(module, [at] if isinstance(at, str) else at)
    if not cut.boundary:
        return whole.index("edge")
    same = [i for i, other in enumerate(table.cuts) if other and other.edge == cut.edge]
    return same[0] if same else table.add(cut)


def analysed(program: Program) -> GraphModule:
    """The captured graph of a program with domains and layers, as cuts are looked for in."""
    module = load_graph(program)
    infer_domains(module)
    count_macs(module)
    return module


def cut_at(net: Net, module: GraphModule, cut: Cut, table: CutTable | None = None) -> Partition:
    """The net cut there: a program for each side."""
    for node in cut.boundary:
        if not can_cross(node):
            raise OptionError(f"at {cut.name}: {node.name} would have to cross, which is no map of floats or bytes")
    halves, whole = split(module, cut.edge), net.program
    digest = _digest(whole, [n.name for n in halves.boundary])
    frames = Frames(**whole.frames) if whole.frames else None
    count, ready = len(halves.boundary), len(halves.edge_leaves)
    shown = {"boundary": {"list": [*range(count)]}, "outputs": {"list": [*range(count, count + ready)]}}
    templates = ({"dict": shown}, {"list": [*range(len(halves.cloud_leaves))]})
    sides = zip(SIDES, (halves.edge, halves.cloud), templates, (halves.edge_leaves, halves.cloud_leaves), strict=True)
    found = []
    for side, part, template, leaves in sides:
        program = compile_part(part, whole, template, frames if side == "edge" else None)
        names = [n.name for n in halves.boundary]
        program.part = Part(side, digest, names, list(leaves), whole.template)
        found.append(Net(program))
    first, second = found
    return Partition(first, second, table)


def _digest(program: Program, boundary: list[str]) -> str:
    """Of a net and where it was cut."""
    return hashlib.sha256(" ".join([program.digest(), *boundary]).encode()).hexdigest()
