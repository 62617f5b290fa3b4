"""A stream: the state of one camera. Takes frames, keeps the caches, gives back the model's own tree of outputs."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fluxcompile.errors import InputError
from fluxcompile.geometry import parse_layout
from fluxcompile.options import Policy
from fluxcompile.program import Input, Program
from fluxcompile.runtime.frame import FrameStats, rebuild, require_count
from fluxcompile.runtime.execute import TYPES, Executor, constants


def to_tensor(frame: Any) -> Tensor:
    """A tensor of what the caller passed: a torch tensor or anything numpy takes."""
    if isinstance(frame, Tensor):
        return frame.detach()
    try:
        array = np.asarray(frame)
    except ValueError as e:
        raise InputError(f"a frame of type {type(frame).__name__} is no array of numbers ({e})") from e
    if array.dtype.kind not in "biuf":
        raise InputError(f"a frame of type {type(frame).__name__} is no array of numbers")
    return torch.from_numpy(np.ascontiguousarray(array))


def check_frame(frame: Any, spec: Input) -> Tensor:
    """The frame as the tensor an input wants; InputError says what does not fit."""
    value = to_tensor(frame)
    want = tuple(spec.shape)
    if tuple(value.shape) != want:
        raise InputError(f"input {spec.name}: shape {tuple(value.shape)}, the net was compiled for {want}")
    if value.dtype != TYPES[spec.dtype]:
        raise InputError(f"input {spec.name}: dtype {value.dtype}, the net was compiled for {TYPES[spec.dtype]}")
    if value.is_floating_point() and not torch.isfinite(value).all():
        bad = int((~torch.isfinite(value)).sum())
        raise InputError(f"input {spec.name}: {bad} values are NaN or infinite; drop this frame, the stream goes on")
    return value


def _copy(leaf: Any) -> Any:
    """A copy of a result: the caller may change it, and it may be a cache or a constant."""
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


class Dense:
    """Plain dense inference of the captured model."""

    def __init__(self, program: Program) -> None:
        self._template = program.template
        self._run = Executor(program.graphs["dense"], constants(program))
        self._inputs = program.graphs["dense"].inputs

    def __call__(self, *frames: Any) -> Any:
        require_count(frames, self._inputs)
        values = {s.name: check_frame(f, s) for f, s in zip(frames, self._inputs, strict=True)}
        outputs, _ = self._run(values)
        return rebuild(self._template, [_copy(leaf) for leaf in outputs])


class Stream:
    """Frames of one camera, in order. A frame that is refused (InputError) leaves the caches as they were."""

    def __init__(self, program: Program, policy: Policy) -> None:
        graph = program.graphs["blocked"]
        self.policy = policy
        self.stats: FrameStats | None = None
        self._template, self._layers = program.template, program.layers
        self._run = Executor(graph, constants(program))
        self._roles: dict[str, list[Input]] = {}
        for i in graph.inputs:
            self._roles.setdefault(i.role, []).append(i)
        self._caches: dict[str, Tensor] = {}
        self._frame = 0
        self._total = sum(layer.macs for layer in program.layers)
        self._placed = next((i for i in self._roles["input"] if i.layout), None)

    def reset(self) -> None:
        """Forget every cache; the next frame runs dense (a scene cut, a new clip)."""
        self._caches = {}

    def __call__(self, *frames: Any, motion: Any = None) -> Any:
        """The model's outputs for the next frame.

        motion: where content came from, int (2, blocks_y, blocks_x): one vector (dy, dx) in frame pixels per block of
        16 x 16 pixels, so that pixel p now holds what p + (dy, dx) held. None: nothing moved. Any motion is safe in
        exact mode; a right one saves work.
        """
        require_count(frames, self._roles["input"])
        values = {s.name: check_frame(f, s) for f, s in zip(frames, self._roles["input"], strict=True)}
        fresh = not self._caches
        old = self._caches or {i.name: torch.zeros(i.shape, dtype=TYPES[i.dtype]) for i in self._roles.get("cache", [])}
        reference = self._reference(old)
        outputs, caches = self._run({**values, **old, **self._settings(fresh, motion)})
        self._caches = caches
        self.stats = self._count(fresh, reference)
        self._frame += 1
        return rebuild(self._template, [_copy(leaf) for leaf in outputs])

    def _settings(self, fresh: bool, motion: Any) -> dict[str, Tensor]:
        policy = self.policy
        settings = {
            "fresh": torch.tensor(fresh),
            "threshold": torch.tensor(0.0 if policy.exact else policy.threshold),
            "gate": torch.tensor(0.0 if policy.exact else policy.gate),
            "radius": torch.tensor(-1 if policy.exact or policy.radius is None else policy.radius),
        }
        found = {i.name: settings[role] for role in settings for i in self._roles.get(role, [])}
        for spec in self._roles.get("motion", []):
            found[spec.name] = self._motion(motion, spec)
        if motion is not None and "motion" not in self._roles:
            raise InputError("this net was compiled without insert_motion_reindex and cannot follow motion")
        return found

    def _motion(self, motion: Any, spec: Input) -> Tensor:
        if motion is None:
            return torch.zeros(spec.shape, dtype=torch.int32)
        value = to_tensor(motion)
        if tuple(value.shape) != tuple(spec.shape) or value.is_floating_point():
            raise InputError(f"motion: {value.dtype} {tuple(value.shape)}, expected integers {tuple(spec.shape)}")
        return value.to(torch.int32)

    def _reference(self, caches: dict[str, Tensor]) -> Tensor | None:
        return caches.get(f"cache_{self._placed.name}") if self._placed else None

    def _count(self, fresh: bool, before: Tensor | None) -> FrameStats:
        shares = self._run.work
        done = sum(layer.macs * shares.get(i, 1.0) for i, layer in enumerate(self._layers))
        return FrameStats(
            frame=self._frame,
            work_share=done / self._total if self._total else 0.0,
            miss=self._miss(fresh, before),
            dense=fresh,
            layers={layer.name: shares.get(i, 1.0) for i, layer in enumerate(self._layers)},
        )

    def _miss(self, fresh: bool, before: Tensor | None) -> npt.NDArray[np.bool_]:
        """Frame pixels whose reference changed in this frame."""
        if self._placed is None or before is None:
            return np.ones((1, 1), dtype=np.bool_)
        dims = parse_layout(self._placed.layout).map_dims
        assert dims is not None
        now = self._caches[f"cache_{self._placed.name}"]
        others = [d for d in range(now.dim()) if d not in dims]
        changed = (now != before).any(dim=others) if others else now != before
        return np.asarray(changed.numpy() | fresh)
