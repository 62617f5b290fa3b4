"""A net in two parts: the edge's, and the cloud's that goes on from its boundary maps. Needs no compiler.

    parts = net.partition(at="model.9")         # or load_partition(folder)
    edge, cloud = parts.edge.stream(), parts.cloud.stream()
    early = edge(frame)
    late = cloud(*early["boundary"])
    outputs = parts.outputs(early, late)        # the model's own tree

Each part is a program of its own. With `at="edge"` or "cloud" the other side has none.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxcompile.cut_table import CutTable
from fluxcompile.errors import OptionError, ProgramError
from fluxcompile.net import Net, load
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
