"""A net in two parts: the edge's, and the cloud's that goes on from its boundary maps. Needs no compiler.

    parts = net.partition(at="model.9")         # or load_partition(folder)
    edge, cloud = parts.edge.stream(), parts.cloud.stream()
    early = edge(frame)
    late = cloud(*early["boundary"])
    outputs = parts.outputs(early, late)        # the model's own tree

Each part is a program of its own. With `at="edge"` or "cloud" the other side has none.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxcompile.cut_table import CutTable
from fluxcompile.errors import OptionError, ProgramError
from fluxcompile.geometry import parse_layout
from fluxcompile.net import Net, load
from fluxcompile.options import Policy
from fluxcompile.program import Input
from fluxcompile.runtime.frame import rebuild

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
        if self.edge is None or self.cloud is None:
            return []
        return [i for i in self.cloud.program.graphs["blocked"].inputs if i.role == "input"]

    def explain(self) -> CutTable:
        """Where the net could be cut and what that costs, the chosen cut marked; `str()` is a table."""
        if self.cuts is None:
            raise OptionError("explain: this partition was loaded and knows no other cuts; partition the whole net")
        return self.cuts

    @property
    def first(self) -> Net:
        """What takes the camera's frames."""
        net = self.edge or self.cloud
        assert net is not None
        return net

    @property
    def edge_macs_share(self) -> float:
        """Of the net's multiply-adds."""
        early, late = (0 if net is None else net.explain().total_macs for net in (self.edge, self.cloud))
        return early / (early + late) if early + late else 0.0

    def cloud_policy(self, policy: Policy) -> Policy:
        """What the cloud's part makes of a policy for the whole net."""
        height, _ = self.first.frame_size
        layouts = (parse_layout(spec.layout).grid for spec in self.boundary if spec.layout)
        return policy_after(policy, height / max((grid.h for grid in layouts), default=height))

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


def policy_after(policy: Policy, pixels: float) -> Policy:
    """The policy behind a cut: what looks at pixels did so before, and a radius is in cells of so many pixels."""
    radius = None if policy.radius is None else math.ceil(policy.radius / pixels)
    return Policy(exact=policy.exact, gate=policy.gate, radius=radius)


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
