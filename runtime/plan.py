"""Runs a program's plan with the CPU kernels: one call a frame, no torch unless a region asks for it.

A `CpuStream` is the state of one camera, like `Stream`, and equals it within the tolerance of two backends. The arrays
it returns are read-only, and the next frame writes only what changed into them unless the caller still holds them:
results are copied when they are kept, or wanted as torch tensors.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import ProgramError
from fluxcompile.geometry import to_rows
from fluxcompile.kernels.cpu import best_variant
from fluxcompile.options import Policy
from fluxcompile.program import Program
from fluxcompile.runtime.build_plan import Builder
from fluxcompile.runtime.frame import DTYPES, Seen, not_finite, require_fit, to_array
from fluxcompile.runtime.miss import FAR
from fluxcompile.runtime.policy_stream import PolicyStream, Salience
from fluxcompile.runtime.sight import Picture, Taken

Array = npt.NDArray[Any]


class CpuStream(PolicyStream):
    """The state of one camera, computed by the CPU kernels.

    threads: of the kernels; more of them change results by rounding alone. variant: of the kernels, the best of this
    machine when not given. A frame that comes with `motion` runs dense. What lies near the edges after a roll keeps
    what it had of its old neighbours, so that an exact stream runs dense instead.
    """

    follows_motion = False

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
        self.variant = variant or best_variant()
        self._build = build = Builder(program, self.variant, threads)
        self._plan, self._segments = build.plan, build.segments()
        self._rolls = program.plan.rolls
        super().__init__(policy, self._takes(program), program.layers, program.template, salience, clock)
        exact = policy.exact
        radius = -1 if exact or policy.radius is None else min(policy.radius, FAR)
        gate = 0.0 if exact else policy.gate
        self._plan.set(0.0 if exact else policy.threshold, gate, radius, policy.gate_by == "mean")
        self._took_ms: npt.NDArray[np.float64] | None = None

    def _takes(self, program: Program) -> Taken:
        build = self._build
        return Taken(
            program.graphs["dense"].inputs,
            [i for i in program.graphs["blocked"].inputs if i.role == "motion"],
            {i: build.input_sizes[i] for i in build.images},
            {i: Picture(build.frame_shapes[i], build.references[i][0]) for i in build.images},
            self._rolls.unit,
        )

    @property
    def cache_bytes(self) -> int:
        """Memory of the maps kept from frame to frame."""
        return sum(b.nbytes for b in self._build.buffers)

    def reference(self, index: int) -> Array:
        return self._build.references[index][1]

    def _move(self, dy: int, dx: int) -> bool:
        unit = self._rolls.unit
        if self.policy.exact or not unit or dy % unit[0] or dx % unit[1]:
            return False
        self._plan.roll(dy, dx)
        return True

    def _run(self, seen: Seen) -> None:
        for i, (array, step) in enumerate(zip(seen.arrays, self._build.inputs, strict=True)):
            if not self._plan.feed(step, array, seen.given.get(i)):
                raise not_finite(self._taken.inputs[i], int((~np.isfinite(array)).sum()))
            for reach in self._build.reaches.get(i, ()):
                self._plan.bound_to(reach, seen.bounds.get(i))
        self._build.results.make_ready(self._plan)
        for begin, end, region in self._segments:
            self._plan.run(seen.fresh, begin, end)
            if region is not None:
                region.run(self._plan, seen.fresh)
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

    def _array(self, index: int, frame: Any) -> Array:
        """The frame as the dense array an input step reads."""
        spec = self._taken.inputs[index]
        value = to_array(frame)
        require_fit(spec, value.shape, str(value.dtype), np.dtype(DTYPES[spec.dtype]).name)
        at = self._build.input_layouts.get(index)
        return np.ascontiguousarray(value if at is None else to_rows(np.ascontiguousarray(value), at))

    def _leaves(self, tensors: bool) -> list[Any]:
        return self._build.results.leaves(tensors)

    def _shares(self) -> Mapping[int, float]:
        return self._build.shares()

    def _missed(self) -> npt.NDArray[np.bool_]:
        image = self._build.images[0]
        return np.frombuffer(self._plan.bits(image), dtype=np.bool_).reshape(self._build.input_sizes[image])
