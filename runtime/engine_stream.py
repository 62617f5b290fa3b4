"""A stream whose frames an engine computes: the state of one camera on an NVIDIA GPU, with the interface of `Stream`.

    stream = EngineStream("bundle/")
    outputs = stream(frame)

The engine looks at pixels; what looks at blocks, and follows the camera, does so here, on the host, and gives the
engine the reference image wherever nothing is new.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from fluxcompile.errors import OptionError
from fluxcompile.options import Policy
from fluxcompile.program import Input, Layer
from fluxcompile.runtime.engine import Session
from fluxcompile.runtime.frame import Seen, not_finite, require_fit, to_array
from fluxcompile.runtime.policy_stream import PolicyStream, Salience
from fluxcompile.runtime.sight import Picture, Taken

Array = npt.NDArray[Any]
NAMES = {"f32": "float32", "u8": "uint8", "i32": "int32", "i64": "int64", "b8": "bool"}


class Engine(Protocol):
    """What runs a frame: `Session`, or what a test puts in its place."""

    manifest: dict[str, Any]

    def __call__(self, feed: Mapping[str, Array]) -> dict[str, Array]: ...

    @property
    def counts(self) -> Array: ...


class EngineStream(PolicyStream):
    """The state of one camera, computed by the engine of a bundle.

    policy: of threshold and gate as it likes; a radius is built into the engine and must be the bundle's. What misses
    in the background spreads like everything. Rolls are frames in which everything moved.
    """

    def __init__(
        self,
        bundle: str | Path,
        policy: Policy | None = None,
        salience: Salience | None = None,
        *,
        engine: Engine | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine = engine or Session(bundle)
        manifest = self._engine.manifest
        built = Policy(**manifest["policy"])
        policy = policy or built
        policy.require_engine()
        if _radius(policy) != _radius(built):
            raise OptionError(
                f"the engine is built with radius {_radius(built)}, the policy has {_radius(policy)}; export again"
            )
        roles = {t["role"]: t for t in manifest["inputs"] if t["role"] != "cache"}
        self._settings = {role: roles[role]["name"] for role in ("fresh", "threshold", "gate") if role in roles}
        inputs = msgspec.convert(manifest["frames_in"], list[Input])
        motion = [Input(t["name"], "motion", t["dtype"], t["shape"]) for t in [roles.get("motion")] if t]
        self._reference: dict[str, Array] = {}
        self._before: Array | None = None
        self._results: dict[str, Array] = {}
        pictures = {i: Picture(shape, planar) for i, spec in enumerate(inputs) for shape, planar in _pictures(spec)}
        taken = Taken(inputs, motion, {i: p.size for i, p in pictures.items()}, pictures, manifest["unit"])
        layers = [Layer(x["name"], "", "", "", x["macs"]) for x in manifest["layers"]]
        self._lists = [x["lists"] for x in manifest["layers"]]
        self._rolled = (0, 0)
        super().__init__(policy, taken, layers, manifest["template"], salience, clock)

    def _array(self, index: int, frame: Any) -> Array:
        spec = self._taken.inputs[index]
        value = np.ascontiguousarray(to_array(frame))
        require_fit(spec, value.shape, str(value.dtype), NAMES[spec.dtype])
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise not_finite(spec, int((~np.isfinite(value)).sum()))
        return value

    def _run(self, seen: Seen) -> None:
        specs = self._taken.inputs
        frame = {s.name: a.reshape(s.shape) for s, a in zip(specs, seen.arrays, strict=True)}
        for i, mask in seen.given.items():
            frame[specs[i].name] = self._masked(i, frame[specs[i].name], mask)
        # images of bytes are floats to the engine
        feed = {name: a.astype(np.float32) if a.dtype == np.uint8 else a for name, a in frame.items()}
        self._results = self._engine(feed | self._rest(seen.motion, seen.fresh))
        self._keep(frame, seen.fresh, told=seen.motion is not None)
        self._rolled = (0, 0)

    def _masked(self, index: int, frame: Array, mask: Array) -> Array:
        """The image with the pixels outside the mask as they were."""
        spec, picture = self._taken.inputs[index], self._taken.pictures[index]
        wide = mask.view(np.bool_).reshape(picture.size if picture.planar else (*picture.size, 1))
        return np.where(wide, frame, self._rolled_back(spec.name, picture.planar)).astype(frame.dtype)

    def _rest(self, motion: Array | None, fresh: bool) -> dict[str, Array]:
        exact = self.policy.exact
        values = {
            "fresh": np.array([fresh], np.int32),
            "threshold": np.array([0 if exact else self.policy.threshold], np.float32),
            "gate": np.array([0 if exact else self.policy.gate], np.float32),
        }
        found = {name: values[role] for role, name in self._settings.items()}
        by = np.array(self._rolled, np.int32).reshape(2, 1, 1)
        for spec in self._taken.motion:
            told = np.zeros(spec.shape, np.int32) if motion is None else motion
            found[spec.name] = np.zeros(spec.shape, np.int32) if fresh else told - by
        return found

    def _keep(self, frame: dict[str, Array], fresh: bool, told: bool) -> None:
        """What the engine's caches were computed from by now: pixels that differ by no more than the threshold stay.

        Arrays of our own: the caller and the canvas write into theirs.
        """
        names = {i: self._taken.inputs[i].name for i in self._taken.pictures}
        old = {} if fresh else {i: self._rolled_back(n, self._taken.pictures[i].planar) for i, n in names.items()}
        self._before = next(iter(old.values()), None)
        self._reference = {name: array.copy() for name, array in frame.items()}
        threshold = 0.0 if self.policy.exact else self.policy.threshold
        if threshold and not told:
            for i, was in old.items():
                now = self._reference[names[i]]
                change = np.abs(now.astype(np.float32) - was)
                same = change.max(-3 if self._taken.pictures[i].planar else -1, keepdims=True) <= threshold
                np.copyto(now, was, where=same)

    # --- what moves ---

    def _move(self, dy: int, dx: int) -> bool:
        self._rolled = (self._rolled[0] + dy, self._rolled[1] + dx)
        return bool(self._taken.motion)

    def _rolled_back(self, name: str, planar: bool) -> Array:
        """The reference as it lies in this frame, of the input's shape."""
        held = self._reference[name]
        return np.roll(held, self._rolled, (-2, -1) if planar else (-3, -2)) if any(self._rolled) else held

    def reference(self, index: int) -> Array:
        planar = self._taken.pictures[index].planar
        held = self._rolled_back(self._taken.inputs[index].name, planar)
        image = held.reshape(held.shape[-3:]).astype(np.float32)
        return np.ascontiguousarray(image.transpose(1, 2, 0) if planar else image)

    # --- what a frame gave and cost ---

    def _leaves(self, tensors: bool) -> list[Any]:
        leaves: list[Any] = [self._results[name] for name in self._engine.manifest["results"]]
        if tensors:
            import torch

            return [torch.from_numpy(leaf) for leaf in leaves]
        return leaves

    def _shares(self) -> dict[int, float]:
        counts = self._engine.counts
        return {
            i: min(1.0, sum(float(counts[at]) / entries for at, entries in lists))
            for i, lists in enumerate(self._lists)
            if lists
        }

    def _missed(self) -> npt.NDArray[np.bool_]:
        for i, picture in self._taken.pictures.items():
            if self._before is None:
                return np.ones(picture.size, np.bool_)
            now = self._reference[self._taken.inputs[i].name]
            return np.asarray((now != self._before).any(-3 if picture.planar else -1).reshape(picture.size))
        return np.ones((1, 1), np.bool_)


def _radius(policy: Policy) -> int | None:
    return None if policy.exact else policy.radius


def _pictures(spec: Input) -> list[tuple[tuple[int, int, int], bool]]:
    """The shape and order of an input that is an image of one channel or three."""
    match spec.shape:
        case [h, w, (1 | 3) as channels]:
            return [((h, w, channels), False)]
        case [1, (1 | 3) as channels, h, w]:
            return [((channels, h, w), True)]
    return []
