"""What `fluxcompile()` and `load()` return: a compiled net, its streams and what is known of it."""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluxcompile.errors import OptionError, ProgramError
from fluxcompile.options import Policy, policy_of
from fluxcompile.program import Layer, Program, load_program

if TYPE_CHECKING:
    from fluxcompile.bundle import Manifest
    from fluxcompile.measure.calibrate import Calibration
    from fluxcompile.parts import Partition
    from fluxcompile.runtime.plan import CpuStream
    from fluxcompile.runtime.stream import Stream
    from fluxcompile.tasks import Task
    from fluxcompile.watch import Watched


BACKENDS = ("cpu", "cuda", "reference")
MARGIN = 32
"""Pixels that frames leave free where maps cannot roll."""


class Explanation:
    """Each layer's domain, form and cost, and why it is dense where it is. `str()` is a table."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers

    @property
    def total_macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def blocked_mac_share(self) -> float:
        """MACs in layers that run only where something changed, over all MACs."""
        blocked = sum(layer.macs for layer in self.layers if layer.form != "dense")
        return blocked / self.total_macs if self.total_macs else 1.0

    def to_json(self) -> dict[str, Any]:
        return {
            "blocked_mac_share": self.blocked_mac_share,
            "total_macs": self.total_macs,
            "layers": [
                {"name": x.name, "op": x.op, "domain": x.domain, "form": x.form, "macs": x.macs, "reason": x.reason}
                for x in self.layers
            ],
        }

    def __str__(self) -> str:
        rows = [("layer", "op", "form", "MMACs", "domain")]
        rows += [
            (x.name, x.op, x.form, f"{x.macs / 1e6:.2f}", x.domain + (f"  ({x.reason})" if x.reason else ""))
            for x in self.layers
        ]
        wide = [max(len(r[i]) for r in rows) for i in range(4)]
        lines = [
            f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c:<{wide[2]}}  {d:>{wide[3]}}  {e}".rstrip() for a, b, c, d, e in rows
        ]
        total = f"{100 * self.blocked_mac_share:.1f} % of {self.total_macs / 1e6:.1f} MMACs"
        return "\n".join([*lines, "", f"{total} run only where something changed"])


class Net:
    """A compiled net. Holds no camera's state: that is a stream's."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._dense: Any = None

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        return [tuple(i.shape) for i in self.program.graphs["dense"].inputs]

    @property
    def margin(self) -> tuple[int, int]:
        """Pixels that frames should leave free on the input, down and across, for an anchor to move them."""
        unit = self.program.plan.rolls.unit if self.program.plan else []
        return (unit[0], unit[1]) if unit else (MARGIN, MARGIN)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the camera frames it takes; OptionError where it takes something else."""
        shapes = self.input_shapes
        if not self.takes_frames:
            raise OptionError(f"this net takes {shapes}, no camera frames; compile it with frames=Frames(...)")
        return shapes[0][0], shapes[0][1]

    @property
    def takes_frames(self) -> bool:
        """Whether it takes camera frames, (height, width, 3)."""
        shapes = self.input_shapes
        return len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][2] == 3

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
        threads: of the kernels; results do not depend on how many.
        task: what outputs mean, and so what of them is salient to a policy; guessed from their shapes when not given.
            Of a part of a net it says nothing: what is salient is known when the cloud is done (`CpuStream.hint`).
        """
        policy = Policy(**self.program.policy) if policy is None else policy_of(policy)
        backend = backend or ("cpu" if self.program.plan else "reference")
        if backend not in BACKENDS:
            raise OptionError(f"backend is {backend!r}; use {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}")
        salience = _Salience(task) if self.program.part is None else None
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
        from fluxcompile.watch import watch

        return watch(self, source, policy, task, threads, count)

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
        return partition(self, at, **options)

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

    def export(self, target: str, folder: str | Path, **options: Any) -> "Manifest":
        """Write an engine bundle for a target, "jetson-xavier-nx", "jetson-orin", "rtx-3080" or "rtx".

        options: as of `fluxcompile.export.export`: policy, precision, clip, keep, capacity, memory_bytes.
        """
        from fluxcompile.export import export

        return export(self.program, target, folder, **options)


class _Salience:
    """The salience of a task, which the first outputs decide where nobody named it."""

    def __init__(self, task: "Task | str | None") -> None:
        self._task = task

    def __call__(self, outputs: Any, size: tuple[int, int]) -> Any:
        from fluxcompile.tasks import task_of

        self._task = task_of(outputs, self._task)
        return self._task.salience(outputs, size)


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
