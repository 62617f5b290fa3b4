"""What `fluxcompile()` and `load()` return: a compiled net, its streams and what is known of it; a net in two parts."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluxcompile.cut_table import CutTable
from fluxcompile.errors import OptionError, ProgramError
from fluxcompile.explanation import Explanation
from fluxcompile.geometry import parse_layout
from fluxcompile.options import Policy, policy_of
from fluxcompile.program import SIDES, Input, Program, load_program
from fluxcompile.runtime.frame import rebuild

if TYPE_CHECKING:
    from fluxcompile.bundle import Manifest
    from fluxcompile.measure.calibrate import Calibration
    from fluxcompile.runtime.plan import CpuStream
    from fluxcompile.runtime.stream import Stream
    from fluxcompile.tasks import Task
    from fluxcompile.watch import Watched


BACKENDS = ("cpu", "cuda", "reference")
MARGIN = 32
"""Pixels that frames leave free where maps cannot roll."""


class Net:
    """A compiled net. Holds no camera's state: that is a stream's."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._dense: Any = None

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        return self.program.input_shapes

    @property
    def margin(self) -> tuple[int, int]:
        """Pixels that frames should leave free on the input, down and across, for an anchor to move them."""
        unit = self.program.plan.rolls.unit if self.program.plan else []
        return (unit[0], unit[1]) if unit else (MARGIN, MARGIN)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the camera frames it takes; OptionError where it takes something else."""
        size = self.program.frame_size
        if size is None:
            raise OptionError(
                f"this net takes {self.input_shapes}, no camera frames; compile it with frames=Frames(...)"
            )
        return size

    @property
    def takes_frames(self) -> bool:
        """Whether it takes camera frames, (height, width, 3)."""
        return self.program.frame_size is not None

    @property
    def digest(self) -> str:
        """A hash of what it computes, whatever its policy: edge and cloud must have the same."""
        return self.program.digest()

    def task(self, name: "Task | str | None" = None) -> "Task":
        """The task itself, that of a name, or the one that the shapes of the outputs suggest."""
        from fluxcompile.tasks import task_of

        return task_of([np.empty(shape, np.bool_) for shape in self.program.output_shapes()], name)

    def stream(
        self,
        policy: Policy | str | None = None,
        *,
        backend: str | None = None,
        threads: int = 1,
        task: "Task | str | None" = None,
    ) -> "Stream | CpuStream":
        """The state of one camera; `stream(frame)` gives the model's outputs, tensors or arrays as the frame is.

        policy: what is recomputed, also in words: "careful", "video", "bold", "video,radius=16". None takes the net's
            own, which is exact unless it was compiled or calibrated with another.
        backend: "cpu" runs the plan with our kernels, with or without torch; "cuda" runs the blocked graph by torch on
            an NVIDIA GPU, with our kernels between its layers; "reference" is plain torch, which decides what a program
            means. None takes "cpu" for a program that has a plan.
        threads: of the kernels; more of them change results by rounding alone.
        task: what outputs mean, and so what of them is salient to a policy; guessed from their shapes when not given.
            Of a part of a net it says nothing: what is salient is known when the cloud is done (`CpuStream.hint`).
        """
        from fluxcompile.tasks import TaskSalience

        policy = Policy(**self.program.policy) if policy is None else policy_of(policy)
        backend = backend or ("cpu" if self.program.plan else "reference")
        if backend not in BACKENDS:
            raise OptionError(f"backend is {backend!r}; use {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}")
        salience = TaskSalience(task) if self.program.part is None else None
        if backend == "cpu":
            try:
                from fluxcompile.runtime.plan import CpuStream
            except ImportError as e:  # the extension is not built
                raise ProgramError(str(e)) from e
            return CpuStream(self.program, policy, salience=salience, threads=threads)
        made = _runtime("cuda").cuda_stream if backend == "cuda" else _runtime("stream").Stream
        stream: Stream = made(self.program, policy, salience)
        return stream

    def watch(
        self,
        source: "str | Path | int",
        policy: Policy | str = "video",
        *,
        task: "Task | str | None" = None,
        threads: int = 1,
        count: int | None = None,
    ) -> "Iterator[Watched]":
        """Every picture of a clip, an rtsp:// or http:// address, or a camera by its index, with what is seen in it.

        `watched.boxes` are in pixels of the picture; a stream is for who has frames of the net's own size. The net
        takes camera frames (`frames=Frames(...)`). count: pictures, all of them when not given. Raises VideoError for
        what cannot be opened, TruncatedVideo where a clip breaks off, after the pictures before.
        """
        size, meaning = self.frame_size, self.task(task)
        stream: Any = self.stream(policy, backend="cpu", threads=threads, task=meaning)

        from fluxcompile.runtime.video import frames
        from fluxcompile.watch import watch

        return watch(stream, meaning, size, self.margin, frames(source, count=count))

    def calibrate(self, clip: str | Path, agreement: float, **options: Any) -> "Calibration":
        """Pick the policy of least work that agrees with dense inference on a clip, for streams from now on.

        options: as of `fluxcompile.measure.calibrate.calibrate`. `str()` of the result is the table of what was tried.
        """
        from fluxcompile.measure.calibrate import calibrate

        found = calibrate(self, clip, agreement, **options)
        if found.policy is not None:
            self.program.policy = found.policy.to_json()
        return found

    def partition(self, at: "str | int | Sequence[str]", **options: Any) -> "Partition":
        """Two nets, for the edge and the cloud, that run one after the other as this one does.

        at: "edge" or "cloud" for the whole net on one side; the modules or layers after which to cut, by the names that
            `explain` prints; the number of one of the cuts that "auto" compares; "auto" for the fastest.
        options: as of `fluxcompile.partition.partition`. `.explain()` of the result is the table of cuts.
        """
        try:
            from fluxcompile.partition import partition
        except ModuleNotFoundError as e:
            if e.name not in ("torch", "networkx"):
                raise
            raise ProgramError(
                f"partition compiles both parts and needs {e.name}; pip install fluxcompile[compile]"
            ) from e
        *sides, cuts = partition(self.program, at, **options)
        edge, cloud = (None if p is None else self if p is self.program else Net(p) for p in sides)
        return Partition(edge, cloud, cuts)

    def dense(self, *frames: Any) -> Any:
        """Plain dense inference: the outputs an exact stream must equal, tensors or arrays as the frame is."""
        self._dense = self._dense or _runtime("stream").Dense(self.program)
        return self._dense(*frames)

    def explain(self) -> Explanation:
        return Explanation(self.program.layers)

    def text(self) -> str:
        """The blocked program in text form."""
        return self.program.text

    def save(self, path: str | Path) -> None:
        self.program.save(path)

    def export(self, target: str, folder: str | Path, *, after: "Net | None" = None, **options: Any) -> "Manifest":
        """Write an engine bundle for a target, "jetson-xavier-nx", "jetson-orin", "rtx-3080" or "rtx".

        after: of the cloud's half of a net, the edge's half, through which a clip goes first.
        options: as of `fluxcompile.export.export`: policy, precision, clip, keep, capacity, memory_bytes.
        """
        from fluxcompile.export import export

        return export(self.program, target, folder, after=None if after is None else after.program, **options)


@dataclass(frozen=True)
class Partition:
    """A net in two parts: the edge's, and the cloud's that goes on from its boundary maps.

        parts = net.partition(at="model.9")         # or load_partition(folder)
        edge, cloud = parts.edge.stream(), parts.cloud.stream()
        early = edge(frame)
        late = cloud(*early["boundary"])
        outputs = parts.outputs(early, late)        # the model's own tree

    Each part is a net of its own. With `at="edge"` or "cloud" the other side has none.
    """

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
        return policy.behind_cut(height / max((grid.h for grid in layouts), default=height))

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


def _runtime(name: str) -> Any:
    """A module that runs programs by torch; a device without it can read them only."""
    try:
        return importlib.import_module(f"fluxcompile.runtime.{name}")
    except ModuleNotFoundError as e:
        if e.name != "torch":
            raise
        raise ProgramError(
            "the reference executor needs torch and this machine has none; pip install fluxcompile[compile]"
        ) from e
    except ImportError as e:  # an extension is not built
        raise ProgramError(str(e)) from e


def load(path: str | Path) -> Net:
    """A net from a `.flux` file; needs no compiler. Raises ProgramError for a broken, altered or newer file."""
    return Net(load_program(path))


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
