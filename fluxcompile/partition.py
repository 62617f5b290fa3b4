"""Cuts a program in two and compiles both parts (see `net.Partition` for what they are).

Parts are made of the dense graph that every program holds, so that a `.flux` file is enough; they are compiled as the
whole was. The cloud's stream takes its maps as they are and computes what changed of them, by default no further about
it than the net's own radius.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from torch.fx import GraphModule

from fluxcompile.cut_table import CutTable
from fluxcompile.cuts import Link, Placements, placements
from fluxcompile.errors import OptionError
from fluxcompile.ir import inputs
from fluxcompile.options import Frames, Policy
from fluxcompile.passes.count_macs import count_macs
from fluxcompile.passes.find_cuts import Cut, cut_after
from fluxcompile.passes.infer_domains import infer_domains
from fluxcompile.passes.load_graph import load_graph
from fluxcompile.passes.partition import can_cross, split
from fluxcompile.pipeline import compile_part
from fluxcompile.program import SIDES, Part, Program
from fluxcompile.runtime.profile import Profile, find_profile


def partition(
    program: Program,
    at: str | int | Sequence[str],
    *,
    edge: Profile | str | None = None,
    cloud: Profile | str | None = None,
    mbps: float | None = None,
    **link: Any,
) -> tuple[Program | None, Program | None, CutTable]:
    """The edge's program, the cloud's, and the table of cuts; see `Net.partition`.

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
    module = analysed(program)
    edge, cloud = (find_profile(p) if isinstance(p, str) else p for p in (edge, cloud))
    known = placements(module, edge, cloud, None if mbps is None else Link(mbps, **link))
    known.table.chosen = chosen = _chosen(module, known, at)
    cut, name = known.cuts[chosen], known.table.rows[chosen].at
    if cut is None:
        return program if name == "edge" else None, program if name == "cloud" else None, known.table
    return *_cut(program, module, cut), known.table


def _chosen(module: GraphModule, known: Placements, at: str | int | Sequence[str]) -> int:
    """The row that `at` means, added where it is none of the candidates."""
    rows, cuts = known.table.rows, known.cuts
    if at == "auto":
        return known.table.fastest()
    whole = [row.at for row, cut in zip(rows, cuts, strict=True) if cut is None]
    if at in whole:
        return whole.index(str(at))
    if isinstance(at, int):
        numbers = [row.number for row in rows]
        if at not in numbers:
            raise OptionError(f"at: there is no cut {at}; the net can be cut in {len(rows) - 2} places, from 0")
        return numbers.index(at)
    cut = cut_after(module, [at] if isinstance(at, str) else at)
    if not cut.boundary:
        return whole.index("edge")
    same = [i for i, other in enumerate(cuts) if other and other.edge == cut.edge]
    return same[0] if same else known.add(cut)


def analysed(program: Program) -> GraphModule:
    """The captured graph of a program with domains and layers, as cuts are looked for in."""
    module = load_graph(program)
    infer_domains(module)
    count_macs(module)
    return module


def _cut(whole: Program, module: GraphModule, cut: Cut) -> tuple[Program, Program]:
    """A program for each side."""
    for node in cut.boundary:
        if not can_cross(node):
            raise OptionError(f"at {cut.name}: {node.name} would have to cross, which is no map of floats or bytes")
    halves = split(module, cut.edge)
    digest = _digest(whole, [n.name for n in halves.boundary])
    frames = Frames(**whole.frames) if whole.frames else None
    names = [n.name for n in halves.boundary]
    count, ready = len(names), len(halves.edge_leaves)
    shown = {"boundary": {"list": [*range(count)]}, "outputs": {"list": [*range(count, count + ready)]}}
    edge = compile_part(halves.edge, whole, {"dict": shown}, frames, Policy(**whole.policy))
    edge.part = Part(SIDES[0], digest, names, list(halves.edge_leaves), whole.template, whole.frame_size)
    late = {"list": [*range(len(halves.cloud_leaves))]}
    cloud = compile_part(halves.cloud, whole, late, None, _after(Policy(**whole.policy), halves.cloud))
    cloud.part = Part(SIDES[1], digest, names, list(halves.cloud_leaves), whole.template, whole.frame_size)
    return edge, cloud


def _after(policy: Policy, cloud: GraphModule) -> Policy:
    """What the cloud makes of a net's policy."""
    return policy.behind_cut(min((node.meta.get("pixels", 1.0) for node in inputs(cloud)), default=1.0))


def _digest(program: Program, boundary: list[str]) -> str:
    """Of a net and where it was cut."""
    return sha256(" ".join([program.digest(), *boundary]).encode()).hexdigest()
