"""A stream whose frames an engine computes: the state of one camera on an NVIDIA GPU, with the interface of `Stream`.

    stream = EngineStream("bundle/")
    outputs = stream(frame)

The engine looks at pixels; what looks at blocks (`residual` and its companions in a policy) does so here, on the host,
and gives the engine the reference image wherever nothing is new.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from fluxcompile.errors import InputError, OptionError
from fluxcompile.options import Policy
from fluxcompile.program import Input
from fluxcompile.runtime.engine import Session
from fluxcompile.runtime.frame import (
    are_tensors,
    mask_of,
    motion_of,
    not_finite,
    rebuild,
    require_count,
    require_fit,
    to_array,
)
from fluxcompile.runtime.miss import Classifier

Array = npt.NDArray[Any]
NAMES = {"f32": "float32", "u8": "uint8", "i32": "int32", "i64": "int64", "b8": "bool"}


class Engine(Protocol):
    """What runs a frame: `Session`, or what a test puts in its place."""

    manifest: dict[str, Any]

    def __call__(self, feed: Mapping[str, Array]) -> dict[str, Array]: ...


class EngineStream:
    """Frames of one camera, in order. A frame that is refused (InputError) leaves the state as it was.

    policy: of threshold and gate as it likes; a radius is built into the engine and must be the bundle's.
    """

    def __init__(self, bundle: str | Path, policy: Policy | None = None, *, engine: Engine | None = None) -> None:
        self._engine = engine or Session(bundle)
        manifest = self._engine.manifest
        self.policy = policy or Policy(**manifest["policy"])
        built = Policy(**manifest["policy"])
        if _radius(self.policy) != _radius(built):
            raise OptionError(
                f"the engine is built with radius {_radius(built)}, the policy has {_radius(self.policy)}; export again"
            )
        if self.policy.anchor:
            raise OptionError("Policy: frames move on the CPU backend only; pass anchor=False")
        self._inputs = msgspec.convert(manifest["frames_in"], list[Input])
        roles = {t["role"]: t for t in manifest["inputs"] if t["role"] != "cache"}
        self._motion = [Input(t["name"], "motion", t["dtype"], t["shape"]) for t in [roles.get("motion")] if t]
        self._settings = {role: roles[role]["name"] for role in ("fresh", "threshold", "gate") if role in roles}
        self._classify = Classifier(self.policy)
        self._reference: dict[str, Array] = {}

    def reset(self) -> None:
        """Forget every cache; the next frame runs dense (a scene cut, a new clip)."""
        self._reference = {}

    def __call__(self, *frames: Any, miss: Any = None, motion: Any = None) -> Any:
        """The model's outputs for the next frame; `miss` and `motion` as `Stream` takes them."""
        require_count(frames, self._inputs)
        arrays = {s.name: _checked(f, s) for s, f in zip(self._inputs, frames, strict=True)}
        field = motion_of(motion, self._motion)
        fresh = not self._reference
        if self.policy.residual and miss is None and not fresh:
            miss = self._classified(arrays)
            fresh = miss is None
        if miss is not None and not fresh:
            self._mask(arrays, miss)
        results = self._engine({**self._as_fed(arrays), **self._rest(field, fresh)})
        self._reference = arrays
        self._classify.saw(None, None)
        leaves: list[Any] = [results[name] for name in self._engine.manifest["results"]]
        if are_tensors(frames):
            import torch

            leaves = [torch.from_numpy(leaf) for leaf in leaves]
        return rebuild(self._engine.manifest["template"], leaves)

    def _as_fed(self, arrays: dict[str, Array]) -> dict[str, Array]:
        """Images of bytes are floats to the engine."""
        return {name: a.astype(np.float32) if a.dtype == np.uint8 else a for name, a in arrays.items()}

    def _rest(self, field: Array | None, fresh: bool) -> dict[str, Array]:
        exact = self.policy.exact
        values = {
            "fresh": np.array([fresh], np.int32),
            "threshold": np.array([0 if exact else self.policy.threshold], np.float32),
            "gate": np.array([0 if exact else self.policy.gate], np.float32),
        }
        found = {name: values[role] for role, name in self._settings.items()}
        return found | {s.name: np.zeros(s.shape, np.int32) if field is None else field for s in self._motion}

    def _image(self) -> tuple[Input, tuple[int, int]]:
        """The input that is an image, and where its height and width are."""
        for spec in self._inputs:
            match spec.shape:
                case [_, _, 1 | 3]:
                    return spec, (0, 1)
                case [1, 1 | 3, _, _]:
                    return spec, (2, 3)
        raise InputError("miss: none of the net's inputs is an image of one channel or three")

    def _classified(self, arrays: dict[str, Array]) -> Array | None:
        """The mask of the image's new pixels, None where the whole frame is to be computed."""
        spec, dims = self._image()
        planar = dims == (2, 3)
        frame, reference = (a[spec.name].reshape(spec.shape[-3:]) for a in (arrays, self._reference))
        last = np.ascontiguousarray(reference.transpose(1, 2, 0) if planar else reference).astype(np.float32)
        if not self._classify.align(frame, planar, last):
            return None
        found = self._classify.classify(frame, planar, last)
        if found.miss is None:
            return None
        arrays[spec.name] = np.ascontiguousarray(found.image).reshape(spec.shape)
        return found.miss.view(np.bool_)

    def _mask(self, arrays: dict[str, Array], miss: Any) -> None:
        """The image with the pixels outside the mask as they were."""
        spec, dims = self._image()
        mask = mask_of(miss, [spec.shape[d] for d in dims])
        wide = mask.reshape([n if d in dims else 1 for d, n in enumerate(spec.shape)])
        arrays[spec.name] = np.where(wide, arrays[spec.name], self._reference[spec.name])


def _radius(policy: Policy) -> int | None:
    return None if policy.exact else policy.radius


def _checked(frame: Any, spec: Input) -> Array:
    value = np.ascontiguousarray(to_array(frame))
    require_fit(spec, value.shape, str(value.dtype), NAMES[spec.dtype])
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise not_finite(spec, int((~np.isfinite(value)).sum()))
    return value
