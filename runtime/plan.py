"""Runs a program's plan with the CPU kernels: one call a frame, no torch unless a region asks for it.

A `CpuStream` is the state of one camera, like `Stream`, and equals it within the tolerance of two backends. The arrays
it returns are read-only, and the next frame writes only what changed into them unless the caller still holds them:
results are copied when they are kept, or wanted as torch tensors.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import InputError, OptionError, ProgramError
from fluxcompile.geometry import to_rows
from fluxcompile.kernels.cpu import best_variant
from fluxcompile.options import Policy
from fluxcompile.program import Input, Program
from fluxcompile.runtime.build_plan import Builder
from fluxcompile.runtime.canvas import Canvas
from fluxcompile.runtime.frame import (
    DTYPES,
    FrameStats,
    Seen,
    are_tensors,
    masks_of,
    motion_of,
    not_finite,
    rebuild,
    require_count,
    require_fit,
    to_array,
)
from fluxcompile.runtime.miss import BLOCK, DENSE, FAR, SALIENT, Classes, Classifier

Array = npt.NDArray[Any]
SLICE = 64
"""Blocks that are refreshed between two looks at the clock."""

Salience = Callable[[Sequence[Array], tuple[int, int]], npt.NDArray[np.float32]]
"""Of a frame's outputs and the net's size: a weight in [0, 1] for each block of 8 x 8 pixels."""


class CpuStream:
    """Frames of one camera, in order. A frame that is refused (InputError) leaves the caches as they were.

    salience: what of the outputs matters; without it everything does. threads: of the kernels; results do not depend on
    how many. variant: of the kernels, the best of this machine when not given. clock: seconds, for the policy's budget.
    """

    def __init__(
        self,
        program: Program,
        policy: Policy,
        *,
        salience: Salience | None = None,
        threads: int = 1,
        variant: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if program.plan is None:
            taken = ", ".join(f"{i.name} {i.dtype}" for i in program.graphs["dense"].inputs)
            raise ProgramError(
                f"the CPU kernels take float32 and uint8 images, this net takes {taken}; use backend='reference'"
            )
        self.policy = policy
        self.variant = variant or best_variant()
        self._inputs = program.graphs["dense"].inputs
        self._motion = [i for i in program.graphs["blocked"].inputs if i.role == "motion"]
        self._template, self._layers = program.template, program.layers
        self._rolls = program.plan.rolls
        self._build = Builder(program, self.variant, threads)
        self._plan = self._build.plan
        self._segments = self._build.segments()
        self._salience, self._clock = salience, clock
        self._canvas = self._made_canvas() if policy.anchor else None
        self._classify = {i: Classifier(policy, self._canvas) for i in self._build.images}
        self._fresh, self._frame = True, 0
        self._seen: Seen | None = None
        self._total = sum(layer.macs for layer in program.layers)
        exact = policy.exact
        radius = -1 if exact or policy.radius is None else min(policy.radius, FAR)
        self._plan.set(0.0 if exact else policy.threshold, 0.0 if exact else policy.gate, radius)
        self._was_fresh = True
        self._took_ms: npt.NDArray[np.float64] | None = None

    @property
    def cache_bytes(self) -> int:
        """Memory of the maps kept from frame to frame."""
        return sum(b.nbytes for b in self._build.buffers)

    @property
    def cold(self) -> bool:
        """Whether there is nothing that the next frame could reuse."""
        return self._fresh

    def reset(self) -> None:
        """Forget every cache; the next frame runs dense (a scene cut, a new clip)."""
        self._fresh = True

    def roll(self, dy: int, dx: int) -> None:
        """Say that the next frame lies (dy, dx) pixels further down and to the right: the caches move along.

        What comes in at the edges was not seen before and must be new in that frame; what lies near them keeps what it
        had of its old neighbours, so that an exact stream runs dense, as does a plan that cannot roll by so much.
        """
        if (dy or dx) and not self._fresh:
            unit = self._rolls.unit
            if not self.policy.exact and unit and dy % unit[0] == 0 and dx % unit[1] == 0:
                self._plan.roll(dy, dx)
            else:
                self.reset()

    def __call__(self, *frames: Any, miss: Any = None, motion: Any = None) -> Any:
        """The model's outputs for the next frame: torch tensors if it was one, else numpy arrays.

        miss: bool (height, width), the frame pixels that are new; the caller vouches for the others. None: frames are
        compared, as inputs that are no images always are. A list has one of these for each input.
        motion: as `Stream` takes it; this backend follows none yet, a frame with motion runs dense.
        """
        self._seen = self._look(frames, miss, motion)
        return self.compute()

    def look(self, *frames: Any) -> int:
        """Take the next frame in without computing it: how many blocks of 8 x 8 pixels would be, all of a dense frame.

        `compute` gives its outputs then; `leave` does not, or `look` at the frame after it: what missed is stale.
        """
        if self._seen is not None:
            self.leave()
        self._seen = seen = self._look(frames, None, None)
        grids = [self._classify[i].causes for i in self._build.images]
        if seen.fresh or not grids or any(causes is None for causes in grids):
            return sum(math.prod(-(-n // BLOCK) for n in self._build.input_sizes[i]) for i in self._build.images)
        return sum(int(np.count_nonzero(causes >= SALIENT)) for causes in grids if causes is not None)

    def compute(self) -> Any:
        """The outputs of the frame that was looked at."""
        seen, self._seen = self._seen, None
        if seen is None:
            raise InputError("compute: there is no frame to compute; look at one first")
        self._run(seen.arrays, {} if seen.fresh else seen.given, {} if seen.fresh else seen.bounds, seen.fresh)
        for i, classifier in self._classify.items():
            classifier.saw(self._salient(i), None if seen.fresh or i not in seen.given else seen.given[i])
            if self.policy.budget_ms and classifier.causes is not None:
                blocks = int(np.count_nonzero(classifier.causes >= SALIENT))
                classifier.latency.saw(blocks, 1000 * (self._clock() - seen.began_s))
        self._was_fresh, self._fresh = seen.fresh, False
        self._frame += 1
        return rebuild(self._template, self._build.results.leaves(seen.tensors))

    def leave(self, salience: npt.NDArray[np.float32] | None = None) -> None:
        """The frame that was looked at is computed elsewhere, and `salience` is what its outputs made salient.

        Its blocks are stale from now on; `refresh` repairs them, the next frame sees what is left of them.
        """
        seen, self._seen = self._seen, None
        if seen is not None:
            self._fresh |= seen.fresh
            for classifier in self._classify.values():
                classifier.leave()
        if salience is not None:
            self.hint(salience)

    def hint(self, salience: npt.NDArray[np.float32]) -> None:
        """What the last frame's outputs make salient, where these are computed elsewhere."""
        for classifier in self._classify.values():
            classifier.hint(salience)

    @property
    def salience(self) -> npt.NDArray[np.float32] | None:
        """What the last outputs made salient, for each 8 x 8 pixels of the net's input; None where all matters."""
        return next((classifier.salience for classifier in self._classify.values()), None)

    @property
    def offset(self) -> tuple[int, int]:
        """Where the frame lies on the net's input."""
        return (0, 0) if self._canvas is None else self._canvas.offset

    def _look(self, frames: Sequence[Any], miss: Any, motion: Any) -> Seen:
        """What a frame was found to be; what was kept has moved with the camera."""
        require_count(frames, self._inputs)
        began = self._clock()
        images, sizes = self._build.images, self._build.input_sizes
        arrays = [self._array(i, f) for i, f in enumerate(frames)]
        field = motion_of(motion, self._motion)
        masks = masks_of(miss, {i: sizes[i] for i in images}, len(self._inputs))
        given: dict[int, Array] = {i: mask.view(np.uint8) for i, mask in masks.items()}
        fresh = self._fresh or (field is not None and bool(field.any()))
        bounds: dict[int, Array | None] = {}
        if self._canvas is not None:
            fresh |= not self._canvas.fit(arrays[0])
            if fresh:
                self._canvas.centre()
        for classifier in self._classify.values():
            classifier.causes = None
        compares = miss is None and not fresh
        if compares and self.policy.residual:
            for i in images:
                found = self._classified(i, arrays[i])
                fresh |= found.miss is None
                arrays[i] = found.image
                given |= {} if found.miss is None else {i: found.miss}
                bounds[i] = found.bound
        elif self._canvas is not None:
            if compares and not self._followed(0, arrays[0]):
                self._canvas.centre()
                fresh = True
            self._canvas.put(arrays[0])
            arrays[0] = self._canvas.image
        return Seen(arrays, given, bounds, fresh or self._fresh, are_tensors(frames), began)

    def refresh(self, time_ms: float, most: int | None = None) -> int:
        """Use idle time after a frame: doubtful blocks of it, the oldest and most salient, are computed in slices.

        Stops before the slice that would not fit into the time; `most` asks for so many blocks, in one slice. Returns
        how many blocks were computed. The outputs of the next frame are better for it. Needs a policy with `residual`
        and `anchor`.
        """
        if self._canvas is None:
            raise OptionError("refresh: only a stream whose policy has residual and anchor keeps its last frame")
        (classifier,) = self._classify.values()
        began, done, slowest = self._clock(), 0, 0.0
        while not self._fresh:
            started = self._clock()
            if 1000 * (started - began) + slowest >= time_ms:
                break
            found = classifier.stalest(SLICE if most is None else most)
            if found is None or found.miss is None:
                break
            self._run([found.image], {0: found.miss}, {0: found.bound}, fresh=False)
            classifier.refreshed(found.miss, self._salient(0))
            done += int(np.count_nonzero(found.miss)) // BLOCK**2
            slowest = max(slowest, 1000 * (self._clock() - started))
            if most is not None:
                break
        return done

    def _run(self, arrays: list[Array], given: dict[int, Array], bounds: dict[int, Array | None], fresh: bool) -> None:
        for i, (array, step) in enumerate(zip(arrays, self._build.inputs, strict=True)):
            if not self._plan.feed(step, array, given.get(i)):
                raise not_finite(self._inputs[i], int((~np.isfinite(array)).sum()))
            for reach in self._build.reaches.get(i, ()):
                self._plan.bound_to(reach, bounds.get(i))
        self._build.results.make_ready(self._plan)
        for begin, end, region in self._segments:
            self._plan.run(fresh, begin, end)
            if region is not None:
                region.run(self._plan, fresh)
        if self._took_ms is not None:
            self._took_ms += self._plan.took_ms()

    def time_layers(self, timed: bool) -> None:
        """From now on, how long each layer takes; a few microseconds a step."""
        self._plan.time(timed)
        self._took_ms = np.zeros(len(self._plan)) if timed else None

    def layer_ms(self) -> dict[str, float]:
        """Milliseconds by layer over the frames since they are timed; masks, input and output are no layer's."""
        took = np.zeros(len(self._plan)) if self._took_ms is None else self._took_ms
        return {self._layers[at].name: float(took[steps].sum()) for at, steps, _ in self._build.costs}

    def _made_canvas(self) -> Canvas:
        """What smaller frames lie on."""
        if len(self._inputs) != 1 or min(self._build.input_sizes[0]) == 1:
            raise OptionError("Policy: anchor needs a net with one image as input; pass anchor=False")
        rolls = None if not self._rolls.unit else tuple(math.lcm(n, BLOCK) for n in self._rolls.unit)
        planar, _ = self._build.references[0]
        return Canvas(self._build.frame_shapes[0], planar, DTYPES[self._inputs[0].dtype], rolls)  # type: ignore[arg-type]

    def _array(self, index: int, frame: Any) -> Array:
        """The frame as a dense array: of the input's shape, or of three dimensions where it may be smaller."""
        spec = self._inputs[index]
        if self._canvas is None:
            checked, at = _checked(frame, spec), self._build.input_layouts.get(index)
            return checked if at is None else np.ascontiguousarray(to_rows(checked, at))
        array, dtype = to_array(frame), np.dtype(DTYPES[spec.dtype])
        while array.ndim > 3 and array.shape[0] == 1:
            array = array[0]
        if array.ndim != 3 or array.dtype != dtype or 0 in array.shape:
            shape, dims = self._canvas.image.shape, "channels first" if self._canvas.planar else "channels last"
            raise InputError(
                f"input {spec.name}: {array.dtype} {array.shape}, expected {dtype}, {dims}, not larger than {shape}"
            )
        return np.ascontiguousarray(array)

    def _classified(self, index: int, array: Array) -> Classes:
        """The frame as the net is to see it; what was kept has moved with the camera."""
        classify, shape = self._classify[index], self._build.frame_shapes[index]
        planar, reference = self._build.references[index]
        frame = array if self._canvas is not None else array.reshape(shape)
        sane = self._followed(index, frame)
        if self._canvas is None:
            found = classify.classify(frame, planar, reference) if sane else Classes(frame, None, None)
            return Classes(found.image.reshape(array.shape), found.miss, found.bound)
        self._canvas.put(frame)
        image = self._canvas.image
        found = classify.classify(image, planar, reference) if sane else Classes(image, None, None)
        if found.miss is None:  # where everything is computed anew, the middle costs nothing
            self._canvas.centre()
            self._canvas.put(frame)
        return found

    def _followed(self, index: int, frame: Array) -> bool:
        """Follow the camera: what was kept moves with it; False if the frame is better run dense."""
        classify = self._classify[index]
        sane = classify.align(frame, *self._build.references[index])
        self.roll(*classify.roll)
        return sane and not self._fresh

    def _salient(self, index: int) -> npt.NDArray[np.float32] | None:
        if self._salience is None or not self.policy.background:
            return None
        return self._salience(self._build.results.leaves(tensors=False), self._build.input_sizes[index])

    @property
    def stats(self) -> FrameStats | None:
        """What the last frame cost."""
        if not self._frame:
            return None
        shares = self._build.shares()
        done = sum(layer.macs * shares.get(i, 1.0) for i, layer in enumerate(self._layers))
        image = self._build.images[0]
        classifier, canvas = self._classify[image], self._canvas
        causes = classifier.causes
        if causes is None and self.policy.residual:
            causes = np.full([-(-n // BLOCK) for n in self._build.input_sizes[image]], DENSE, np.uint8)
        alignment = classifier.alignment
        return FrameStats(
            frame=self._frame - 1,
            work_share=done / self._total if self._total else 0.0,
            miss=np.frombuffer(self._plan.bits(image), dtype=np.bool_).reshape(self._build.input_sizes[image]),
            dense=self._was_fresh,
            layers={layer.name: shares.get(i, 1.0) for i, layer in enumerate(self._layers)},
            causes=causes,
            offset=canvas.offset if canvas else (0, 0),
            shift=classifier.shift,
            roll=classifier.roll,
            vectors=alignment.vectors if alignment and self.policy.vectors else None,
        )


def _checked(frame: Any, spec: Input) -> Array:
    """The frame as the dense array an input step reads; InputError says what does not fit."""
    value = to_array(frame)
    require_fit(spec, value.shape, str(value.dtype), np.dtype(DTYPES[spec.dtype]).name)
    return np.ascontiguousarray(value)
