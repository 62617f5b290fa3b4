"""A stream computed by torch: takes frames, keeps the caches, gives back the model's own tree of outputs."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fluxcompile.geometry import parse_layout
from fluxcompile.ops import gate_by_mean
from fluxcompile.options import Policy
from fluxcompile.program import Input, Program
from fluxcompile.runtime.execute import CPU, STILL, TYPES, UNLIMITED, Calls, Executor, constants
from fluxcompile.runtime.frame import Seen, not_finite, rebuild, require_count, require_fit, to_array
from fluxcompile.runtime.policy_stream import PolicyStream, Salience
from fluxcompile.runtime.sight import Picture, Taken

Array = npt.NDArray[Any]


def check_frame(frame: Any, spec: Input) -> Tensor:
    """The frame as the tensor an input wants; InputError says what does not fit."""
    value = frame.detach() if isinstance(frame, Tensor) else torch.from_numpy(np.ascontiguousarray(to_array(frame)))
    require_fit(spec, value.shape, *(str(d).removeprefix("torch.") for d in (value.dtype, TYPES[spec.dtype])))
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise not_finite(spec, int((~torch.isfinite(value)).sum()))
    return value


def _shown(outputs: Sequence[Any], on: torch.device | None) -> list[Any]:
    """Tensors on a device, else arrays; copies, since an output may be a cache or a constant."""

    def leaf(x: Tensor) -> Any:
        return x.cpu().numpy().copy() if on is None else x.to(on, copy=True)

    return [leaf(x) if isinstance(x, Tensor) else x for x in outputs]


def _device_of(frames: Sequence[Any]) -> torch.device | None:
    """Where results are wanted: as the frames came."""
    return next((f.device for f in frames if isinstance(f, Tensor)), None)


class Dense:
    """Plain dense inference of the captured model."""

    def __init__(self, program: Program) -> None:
        self._template = program.template
        self._run = Executor(program.graphs["dense"], constants(program))
        self._inputs = program.graphs["dense"].inputs

    def __call__(self, *frames: Any) -> Any:
        require_count(frames, self._inputs)
        values = {s.name: check_frame(f, s).to(CPU) for f, s in zip(frames, self._inputs, strict=True)}
        outputs, _ = self._run(values)
        return rebuild(self._template, _shown(outputs, _device_of(frames)))


class Stream(PolicyStream):
    """The state of one camera, computed by torch: the reference, or on a GPU with kernels between its layers.

    What misses in the background spreads here like everything. Rolls are frames in which everything moved.
    """

    def __init__(
        self,
        program: Program,
        policy: Policy,
        salience: Salience | None = None,
        *,
        kernels: Calls | None = None,
        device: torch.device = CPU,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._device = device
        self._waits = device != CPU  # whoever looks at a value waits for the device
        graph = program.graphs["blocked"]
        if policy.gate_by == "mean":
            kernels = {**(kernels or {}), "gate": gate_by_mean}
        self._executor = Executor(graph, constants(program, device), kernels=kernels, device=device)
        self._roles: dict[str, list[Input]] = {}
        for i in graph.inputs:
            self._roles.setdefault(i.role, []).append(i)
        self._caches: dict[str, Tensor] = {}
        self._before: Tensor | None = None
        self._outputs: list[Any] = []
        self._shown_on: torch.device | None = None
        self._rolled: tuple[int, int] = (0, 0)
        placed = {i: _places(spec) for i, spec in enumerate(self._roles["input"])}
        self._places = {i: places for i, places in placed.items() if places is not None}
        super().__init__(policy, self._takes(program), program.layers, program.template, salience, clock)

    def _takes(self, program: Program) -> Taken:
        specs, pictures = self._roles["input"], {}
        for i, (y, x) in self._places.items():
            *batch, first, second, third = [1, *specs[i].shape]
            if x == y + 1 and set(batch) == {1}:
                planar = x == len(specs[i].shape) - 1
                pictures[i] = Picture((first, second, third), planar)
        sizes = {i: (specs[i].shape[y], specs[i].shape[x]) for i, (y, x) in self._places.items()}
        unit = program.plan.rolls.unit if program.plan else []
        return Taken(specs, self._roles.get("motion", []), sizes, pictures, unit)

    def _array(self, index: int, frame: Any) -> Tensor:
        return check_frame(frame, self._taken.inputs[index])

    def _look(self, frames: Sequence[Any], miss: Any, motion: Any) -> Seen:
        self._shown_on = _device_of(frames)
        return super()._look(frames, miss, motion)

    def _run(self, seen: Seen) -> None:
        specs = self._taken.inputs
        values = {s.name: self._value(a, s) for a, s in zip(seen.arrays, specs, strict=True)}
        old = self._caches or {
            i.name: torch.zeros(i.shape, dtype=TYPES[i.dtype], device=self._device)
            for i in self._roles.get("cache", [])
        }
        values |= {specs[i].name: self._masked(i, values[specs[i].name], old, mask) for i, mask in seen.given.items()}
        self._before = next((self._rolled_back(i, old[f"cache_{specs[i].name}"]) for i in self._places), None)
        moved = self._motion(seen.motion)
        settings = self._settings(seen.fresh, moved)
        self._outputs, self._caches = self._executor({**values, **old, **settings}, self._known(moved))
        self._rolled = (0, 0)

    def _value(self, array: Any, spec: Input) -> Tensor:
        value = array if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
        return value.to(self._device).reshape(spec.shape)

    def _masked(self, index: int, value: Tensor, old: Mapping[str, Tensor], mask: Array) -> Tensor:
        """The frame with the pixels outside the mask as they were."""
        spec, places = self._taken.inputs[index], self._places[index]
        turned = np.ascontiguousarray(mask.T if places[0] > places[1] else mask).view(np.bool_)
        wide = torch.from_numpy(turned.copy()).to(self._device)
        wide = wide.reshape([n if d in places else 1 for d, n in enumerate(spec.shape)])
        return torch.where(wide, value, self._rolled_back(index, old[f"cache_{spec.name}"]))

    # --- what moves ---

    def _move(self, dy: int, dx: int) -> bool:
        self._rolled = (self._rolled[0] + dy, self._rolled[1] + dx)
        return bool(self._taken.motion)

    def _rolled_back(self, index: int, image: Tensor) -> Tensor:
        """An image of an input as it lies in this frame."""
        return image.roll(self._rolled, self._places[index]) if any(self._rolled) else image

    def _motion(self, told: Array | None) -> Array | None:
        """The motion of this frame, what the caller told and the roll together; None where nothing moves."""
        if not any(self._rolled):
            return told
        (spec,) = self._taken.motion
        by = np.array(self._rolled, np.int32).reshape(2, 1, 1)
        return np.broadcast_to(-by if told is None else told - by, spec.shape).astype(np.int32)

    def reference(self, index: int) -> Array:
        picture = self._taken.pictures[index]
        held = self._rolled_back(index, self._caches[f"cache_{self._taken.inputs[index].name}"])
        image = held.float().cpu().numpy().reshape(picture.shape)
        return np.ascontiguousarray(image.transpose(1, 2, 0) if picture.planar else image)

    # --- what a frame is run with, gave and cost ---

    def _known(self, motion: Any) -> Calls:
        """Ops of which the frame's settings tell what they give. The reference works out even these."""
        if not self._waits:
            return {}
        still = STILL if motion is None else {}
        unlimited = UNLIMITED if self.policy.exact or self.policy.radius is None else {}
        return {**still, **unlimited}

    def _settings(self, fresh: bool, motion: Array | None) -> dict[str, Tensor]:
        policy = self.policy
        settings = {
            "fresh": fresh,
            "threshold": 0.0 if policy.exact else policy.threshold,
            "gate": 0.0 if policy.exact else policy.gate,
            "radius": -1 if policy.exact or policy.radius is None else policy.radius,
        }
        found = {
            i.name: torch.tensor(value, device=self._device)
            for role, value in settings.items()
            for i in self._roles.get(role, [])
        }
        for spec in self._taken.motion:
            field = np.zeros(spec.shape, np.int32) if motion is None else motion
            found[spec.name] = torch.from_numpy(field).to(self._device)
        return found

    def _leaves(self, tensors: bool) -> list[Any]:
        return _shown(self._outputs, self._shown_on if tensors else None)

    def _shares(self) -> Mapping[int, float]:
        return self._executor.work

    def _missed(self) -> npt.NDArray[np.bool_]:
        """Frame pixels whose reference changed in this frame."""
        if self._before is None:
            return np.ones((1, 1), dtype=np.bool_)
        index, places = next(iter(self._places.items()))
        now = self._caches[f"cache_{self._taken.inputs[index].name}"]
        others = [d for d in range(now.dim()) if d not in places]
        changed = (now != self._before).any(dim=others) if others else now != self._before
        return np.asarray(changed.cpu().numpy() | self._was_fresh)


def _places(spec: Input) -> tuple[int, int] | None:
    """The dimensions of an input that are its height and width."""
    return parse_layout(spec.layout).map_dims if spec.layout else None
