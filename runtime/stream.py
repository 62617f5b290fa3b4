"""A stream: the state of one camera. Takes frames, keeps the caches, gives back the model's own tree of outputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fluxcompile.errors import InputError, OptionError
from fluxcompile.geometry import parse_layout
from fluxcompile.options import Policy
from fluxcompile.program import Input, Program
from fluxcompile.runtime.execute import CPU, STILL, TYPES, UNLIMITED, Calls, Executor, constants
from fluxcompile.runtime.frame import (
    FrameStats,
    masks_of,
    motion_of,
    not_finite,
    rebuild,
    require_count,
    require_fit,
    to_array,
)
from fluxcompile.runtime.miss import Classifier


def check_frame(frame: Any, spec: Input) -> Tensor:
    """The frame as the tensor an input wants; InputError says what does not fit."""
    value = frame.detach() if isinstance(frame, Tensor) else torch.from_numpy(np.ascontiguousarray(to_array(frame)))
    require_fit(spec, value.shape, *(str(d).removeprefix("torch.") for d in (value.dtype, TYPES[spec.dtype])))
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise not_finite(spec, int((~torch.isfinite(value)).sum()))
    return value


def _results(template: Any, outputs: Sequence[Any], frames: Sequence[Any]) -> Any:
    """The model's own tree of outputs, as the frames came; copies, since a leaf may be a cache or a constant."""
    first = next((f for f in frames if isinstance(f, Tensor)), None)

    def leaf(x: Tensor) -> Any:
        return x.cpu().numpy().copy() if first is None else x.to(first.device, copy=True)

    return rebuild(template, [leaf(x) if isinstance(x, Tensor) else x for x in outputs])


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
        return _results(self._template, outputs, frames)


class Stream:
    """Frames of one camera, in order. A frame that is refused (InputError) leaves the caches as they were.

    What misses in the background spreads here like everything, and frames keep their place (`anchor`).
    """

    def __init__(
        self,
        program: Program,
        policy: Policy,
        salience: Any = None,
        *,
        kernels: Calls | None = None,
        device: torch.device = CPU,
    ) -> None:
        if policy.anchor:
            raise OptionError("Policy: frames move on the CPU backend only; pass anchor=False, or backend='cpu'")
        self._salience, self._device = salience, device
        self._waits = device != CPU  # whoever looks at a value waits for the device
        graph = program.graphs["blocked"]
        self.policy = policy
        self.stats: FrameStats | None = None
        self._template, self._layers = program.template, program.layers
        self._run = Executor(graph, constants(program, device), kernels=kernels, device=device)
        self._roles: dict[str, list[Input]] = {}
        for i in graph.inputs:
            self._roles.setdefault(i.role, []).append(i)
        self._caches: dict[str, Tensor] = {}
        self._classify = Classifier(policy)
        self._frame = 0
        self._total = sum(layer.macs for layer in program.layers)
        images = (i for i in self._roles["input"] if i.layout and parse_layout(i.layout).map_dims)
        self._placed = next(images, None)

    def reset(self) -> None:
        """Forget every cache; the next frame runs dense (a scene cut, a new clip)."""
        self._caches = {}

    @property
    def cache_bytes(self) -> int:
        """Memory of the maps kept from frame to frame."""
        return sum(c.nbytes for c in self._caches.values())

    def __call__(self, *frames: Any, miss: Any = None, motion: Any = None) -> Any:
        """The model's outputs for the next frame.

        miss: bool (height, width), the frame pixels that are new; the caller vouches for the others. None: frames are
        compared. A list has one of these for each input.
        motion: where content came from, int (2, blocks_y, blocks_x): one vector (dy, dx) in frame pixels per block of
        16 x 16 pixels, so that pixel p now holds what p + (dy, dx) held. None: nothing moved. Any motion is safe in
        exact mode; a right one saves work.
        """
        require_count(frames, self._roles["input"])
        specs = self._roles["input"]
        values = {s.name: check_frame(f, s).to(self._device) for f, s in zip(frames, specs, strict=True)}
        fresh = not self._caches
        old = self._caches or {
            i.name: torch.zeros(i.shape, dtype=TYPES[i.dtype], device=self._device)
            for i in self._roles.get("cache", [])
        }
        reference = self._reference(old)
        if miss is None and self.policy.residual and not fresh:
            miss = self._classified(values, old)
            fresh = miss is None
        if miss is not None and not fresh:
            values |= self._masked(values, old, miss)
        outputs, caches = self._run({**values, **old, **self._settings(fresh, motion)}, self._known(motion))
        self._caches = caches
        self._classify.saw(self._salient(outputs), None)  # the whole reference is looked at again
        self.stats = self._count(fresh, reference)
        self._frame += 1
        return _results(self._template, outputs, frames)

    def _classified(self, values: dict[str, Tensor], old: dict[str, Tensor]) -> Any:
        """The mask of the image input's new pixels, None where the whole frame is to be computed."""
        if self._placed is None:
            raise InputError("residual: none of the net's inputs is an image whose blocks could be compared")
        name = self._placed.name
        frame, reference = values[name].cpu(), old[f"cache_{name}"].float().cpu()
        planar = frame.dim() == 4 or frame.shape[-1] not in (1, 3)
        frame, reference = (x[0] if x.dim() == 4 else x for x in (frame, reference))
        last = (reference.permute(1, 2, 0) if planar else reference).contiguous().numpy()
        sane = self._classify.align(frame.numpy(), planar, last)
        found = self._classify.classify(frame.numpy(), planar, last) if sane else None
        if found is None or found.miss is None:
            return None
        image = torch.from_numpy(np.ascontiguousarray(found.image))
        values[name] = image.to(self._device).reshape(values[name].shape)
        return found.miss.view(np.bool_)

    def _salient(self, outputs: list[Any]) -> Any:
        if self._salience is None or not self.policy.background or self._placed is None:
            return None
        dims = parse_layout(self._placed.layout).map_dims
        assert dims is not None
        size = self._placed.shape[dims[0]], self._placed.shape[dims[1]]
        return self._salience([x.cpu().numpy() if isinstance(x, Tensor) else x for x in outputs], size)

    def _masked(self, values: dict[str, Tensor], old: dict[str, Tensor], miss: Any) -> dict[str, Tensor]:
        """The frames with the pixels outside the mask as they were."""
        specs, dims = self._roles["input"], {}
        for i, spec in enumerate(specs):
            placed = parse_layout(spec.layout).map_dims if spec.layout else None
            if placed is not None:
                dims[i] = placed
        sizes = {i: [specs[i].shape[d] for d in placed] for i, placed in dims.items()}
        found = {}
        for i, mask in masks_of(miss, sizes, len(specs)).items():
            spec, placed = specs[i], dims[i]
            turned = mask.T.copy() if placed[0] > placed[1] else mask
            wide = torch.from_numpy(turned).to(self._device)
            wide = wide.reshape([n if d in placed else 1 for d, n in enumerate(spec.shape)])
            found[spec.name] = torch.where(wide, values[spec.name], old[f"cache_{spec.name}"])
        return found

    def _known(self, motion: Any) -> Calls:
        """Ops of which the frame's settings tell what they give. The reference works out even these."""
        if not self._waits:
            return {}
        still = STILL if motion is None else {}
        unlimited = UNLIMITED if self.policy.exact or self.policy.radius is None else {}
        return {**still, **unlimited}

    def _settings(self, fresh: bool, motion: Any) -> dict[str, Tensor]:
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
        field = motion_of(motion, self._roles.get("motion", []))
        for spec in self._roles.get("motion", []):
            moved = np.zeros(spec.shape, np.int32) if field is None else field
            found[spec.name] = torch.from_numpy(moved).to(self._device)
        return found

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
        return np.asarray(changed.cpu().numpy() | fresh)
