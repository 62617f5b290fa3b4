"""The miss classifier: which blocks of a frame must be computed anew, told by how far they are from the reference.

Salience is what the task makes of the last outputs, a weight in [0, 1] for each block of 8 x 8 pixels. Salient blocks
are held to a tight threshold, over their weight, and may spread; others miss only where something clearly changed. What
is left out though it differs is stale: it grows old, and is repaired by and by.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.kernels import _cpu
from fluxcompile.options import Policy
from fluxcompile.runtime.blocks import block_residual
from fluxcompile.runtime.canvas import Canvas, Pair
from fluxcompile.runtime.frame import CAUSES
from fluxcompile.runtime.grids import around, near
from fluxcompile.runtime.latency import Latency
from fluxcompile.runtime.motion import BLOCK as MOTION_BLOCK
from fluxcompile.runtime.motion import MATCHED, Alignment, Exposure, Reference, align

Array = npt.NDArray[Any]
Grid = npt.NDArray[np.bool_]
BLOCK = 8
"""Frame pixels a side of what is missed or hit together."""
FAR = 1 << 24
"""A radius beyond every frame."""
DRIFT = 1 / 48
"""Share of white by which the light may have changed since the reference; beyond it, dark and bright are cut off."""
EDGE = 2
"""Blocks along the frame's edges where new things come in."""
GROWN = 2
"""Blocks around a miss of the background that are held to the salient threshold."""
ROUNDING = 0.25
"""Levels by which the luma of equal pixels may differ."""
STRICTER = 2
"""More blocks that must miss together in the background than where it is salient."""
HIT, STALE, SALIENT, BACKGROUND, AT_EDGE, REFRESHED, DENSE = range(len(CAUSES))


@dataclass(frozen=True, eq=False)
class Classes:
    """What a frame was found to be: the image to take its new pixels from, and which these are.

    `miss` is uint8 (height, width), None for a frame better run dense; `bound` the pixels that its changes may reach,
    None where they reach as far as windows do.
    """

    image: Array
    miss: Array | None
    bound: Array | None


class Classifier:
    """Decides for one camera which pixels must be computed anew, by the residual and its companions in a policy."""

    def __init__(self, policy: Policy, canvas: Canvas | None = None) -> None:
        self.policy, self.canvas = policy, canvas
        self.latency = Latency()
        self.alignment: Alignment | None = None
        self.shift: Pair = (0, 0)
        self.roll: Pair = (0, 0)
        self.causes: npt.NDArray[np.uint8] | None = None
        self.salience: npt.NDArray[np.float32] | None = None
        self._reference: Reference | None = None
        self._changed: Array | None = None
        self._residual: npt.NDArray[np.float32] | None = None
        self._age: npt.NDArray[np.int32] | None = None
        self._masks: tuple[Array, Array] | None = None
        self._exposed: Grid = np.zeros((1, 1), np.bool_)
        self._band: tuple[tuple[Pair, Pair] | None, Grid] | None = None

    # --- one frame ---

    def align(self, frame: Array, planar: bool, reference: Array) -> bool:
        """Look where the frame lies; False if it is better run dense. Before `classify`, everything moves by `roll`.

        frame: the camera's, (height, width, channels) or planar. reference: float32 or as the frame, (height, width,
        channels) of the net's input, what the caches were computed from.
        """
        if not (self.policy.exposure or self.policy.anchor or self.policy.vectors):
            return True
        view = reference if self.canvas is None else self.canvas.of(reference, planar=False)
        self.alignment = found = self._aligned(frame, view)
        self.shift = self.roll = (0, 0)
        if self.policy.exposure and _drift(found.exposure, 255 if frame.dtype == np.uint8 else 1) > DRIFT:
            return False
        if self.canvas is not None and self.policy.anchor and found.shift != (0, 0):
            roll = self.canvas.move(found.shift)
            if roll is None:
                return False
            self.shift, self.roll = found.shift, roll
            self._roll_state()
        return True

    def classify(self, image: Array, planar: bool, reference: Array) -> Classes:
        """image: of the net's size, with the frame in it; a canvas's is changed where it is new, to other light."""
        policy, exposure = self.policy, self.alignment.exposure if self.policy.exposure and self.alignment else None
        residual = self._residuals(image, planar, reference, exposure)
        strong = ~(residual <= (policy.background or policy.residual))
        if policy.background and policy.texture:
            gradient = np.empty_like(residual)
            _cpu.block_gradient(image, planar, BLOCK, residual, policy.background, gradient)
            strong = ~(residual <= policy.background + policy.texture * gradient)
        inside = self._inside(residual.shape)
        if np.count_nonzero(strong & inside) > policy.dense * np.count_nonzero(inside):
            return Classes(image, None, None)
        causes = self._causes(residual, strong, inside)
        self._residual = residual
        self._leave_for_later(causes)
        levels = np.zeros(causes.shape, np.uint8)
        levels[causes >= SALIENT] = 1
        levels[(causes == BACKGROUND) | (causes == REFRESHED)] = 2
        self.causes = causes
        self._grow_old(causes)
        self._exposed = levels > 0
        if exposure is not None and self.canvas is None:
            image = image.copy()
        self._expose(image, planar, levels)
        return Classes(image, *self._painted(levels, reference.shape[:2]))

    def saw(self, salience: npt.NDArray[np.float32] | None, miss: Array | None) -> None:
        """The frame was computed: its outputs are salient there, the reference changed where it missed (None: all)."""
        self.salience, self._changed = salience, miss
        if miss is None:
            self._reference = self._age = self.alignment = self.causes = None

    def leave(self) -> None:
        """The frame is not computed: what missed is stale from now on, and the reference stays what it is."""
        if self.causes is None or self._age is None or self._masks is None:
            return
        left = self.causes >= SALIENT
        self.causes[left], self._age[left] = STALE, 1
        self._changed = np.zeros_like(self._masks[0])

    def hint(self, salience: npt.NDArray[np.float32]) -> None:
        """What is salient by outputs that were computed elsewhere."""
        self.salience = salience

    # --- idle time ---

    def refreshed(self, miss: Array, salience: npt.NDArray[np.float32] | None) -> None:
        """The blocks that `stalest` gave were computed."""
        self.salience = salience
        if self._changed is not None:
            self._changed = self._changed | miss

    def stalest(self, count: int) -> Classes | None:
        """Of the last frame the doubtful blocks that are oldest and most salient; None if there are none."""
        if self._age is None or self.canvas is None or self.causes is None:
            return None
        due = self._due(self._age > 0, count)
        if not due.any():
            return None
        self._age[due] = 0
        self.causes[due] = REFRESHED
        levels = due.astype(np.uint8) * 2
        self._expose(self.canvas.image, self.canvas.planar, np.where(self._exposed, np.uint8(0), levels))
        self._exposed |= due
        return Classes(self.canvas.image, *self._painted(levels, self.canvas.size))

    # --- parts ---

    def _aligned(self, frame: Array, view: Array) -> Alignment:
        if self._reference is None:
            levels = (0.0, 255.0) if frame.dtype == np.uint8 else (0.0, 1.0)
            self._reference = Reference(view, levels=levels)
        else:
            changed = self._changed
            if self.roll != (0, 0) or self.shift != (0, 0):
                changed = None  # it was seen through another window
            if changed is not None and self.canvas is not None:
                changed = self.canvas.of(changed, planar=False)
            self._reference.update(view, None if changed is None else np.ascontiguousarray(changed).view(np.bool_))
        policy = self.policy
        same = policy.threshold * (1 if frame.dtype == np.uint8 else 255)
        same = MATCHED if policy.residual else min(max(same, ROUNDING), MATCHED)
        moves = policy.anchor or policy.vectors
        return align(
            frame, self._reference, self.alignment, matched=same, exposure=policy.exposure, refine=moves,
            by_block=policy.vectors,
        )  # fmt: skip

    def _causes(self, residual: Array, strong: Grid, inside: Grid) -> npt.NDArray[np.uint8]:
        policy = self.policy
        salience = self._projected() if policy.background else None
        differs = ~(residual <= self._allowed(salience))
        if salience is not None:
            if policy.support:
                strong = strong & (around(strong) >= policy.support + STRICTER)
            strong = strong | (near(strong, GROWN) & differs)
        salient: Grid = np.ones_like(strong) if salience is None else salience > 0
        missed = salient & differs
        edge = np.zeros_like(strong)
        if policy.edge and salience is not None:
            edge = self._edges(inside) & ~salient & ~(residual <= policy.edge)
        if policy.support:
            together = around(missed | edge | strong) >= policy.support
            missed, edge = missed & together, edge & together
        causes = np.where(differs, STALE, HIT).astype(np.uint8)
        if salience is not None:
            causes[strong] = BACKGROUND
        causes[edge] = AT_EDGE
        causes[missed] = SALIENT
        if policy.freshness and self._age is not None:
            due = self._due((causes == STALE) & (self._age > 0), max(1, round(policy.freshness * causes.size)))
            causes[due] = REFRESHED
        return causes

    def _allowed(self, salience: npt.NDArray[np.float32] | None) -> Array | float:
        """How far each block may be off: by as much more as its weight is less, but no more than in the background."""
        policy = self.policy
        if salience is None:
            return policy.residual
        weight = np.where(salience > 0, salience, 1).clip(policy.residual / policy.background, 1)
        return policy.residual / weight

    def _expose(self, image: Array, planar: bool, levels: npt.NDArray[np.uint8]) -> None:
        """See the blocks that are set in the reference's light."""
        if not self.policy.exposure or self.alignment is None or self.alignment.exposure is None:
            return
        channels, light = image.shape[0 if planar else 2], self.alignment.exposure
        gain, bias = (np.resize(np.array(v, np.float32), channels) for v in (light.gain, light.bias))
        _cpu.expose_blocks(image, planar, BLOCK, levels, gain, bias)

    def _projected(self) -> npt.NDArray[np.float32] | None:
        """What was salient, where it was and where it is by now."""
        if self.salience is None or not self.policy.vectors or self.alignment is None:
            return self.salience
        vectors = self.alignment.vectors - np.array(self.alignment.shift, np.int32).reshape(2, 1, 1)
        top, left = (0, 0) if self.canvas is None else self.canvas.offset
        found = self.salience.copy()
        h, w = found.shape
        for y, x in np.argwhere(vectors.any(0)):
            there, here = (np.array([y, x]) * MOTION_BLOCK + (top, left) + d for d in (vectors[:, y, x], 0))
            span = MOTION_BLOCK // BLOCK + 1
            y0, x0 = (np.clip(there // BLOCK, 0, (h - 1, w - 1))).astype(int)
            weight = self.salience[y0 : y0 + span, x0 : x0 + span].max()
            y1, x1 = np.clip(here // BLOCK, 0, (h - 1, w - 1)).astype(int)
            view = found[y1 : y1 + span, x1 : x1 + span]
            np.maximum(view, weight, out=view)
        return found

    def _leave_for_later(self, causes: npt.NDArray[np.uint8]) -> None:
        """Take the blocks that matter most, as many as the budget has time for; the others become stale."""
        if not self.policy.budget_ms:
            return
        chosen = causes >= SALIENT
        most = self.latency.most(self.policy.budget_ms)
        if most is None or np.count_nonzero(chosen) <= most:
            return
        criticality = np.where(chosen, self._criticality() * (1 if self._age is None else 1 + self._age), -1.0)
        left = np.argsort(-criticality, axis=None, kind="stable")[most : np.count_nonzero(chosen)]
        causes.reshape(-1)[left] = STALE

    def _criticality(self) -> Array:
        """How far each block was off, more where it is salient."""
        assert self._residual is not None
        return self._residual * (1 if self.salience is None else 1 + self.salience)

    def _due(self, stale: Grid, count: int) -> Grid:
        """Of the stale blocks the oldest and most salient."""
        if self._age is None or self._residual is None:
            return np.zeros_like(stale)
        rank = np.where(stale, self._age * self._criticality(), 0)
        due = np.zeros(stale.size, np.bool_)
        due[np.argsort(-rank, axis=None, kind="stable")[:count]] = True
        return due.reshape(stale.shape) & (rank > 0)

    def _grow_old(self, causes: npt.NDArray[np.uint8]) -> None:
        age = 0 if self._age is None else self._age
        self._age = np.where(causes == STALE, age + 1, 0).astype(np.int32)

    def _roll_state(self) -> None:
        by = tuple(n // BLOCK for n in self.roll)
        if any(by):
            age, salience = self._age, self.salience
            self._age = None if age is None else np.roll(age, by, (0, 1))
            self.salience = None if salience is None else np.roll(salience, by, (0, 1))

    def _inside(self, shape: tuple[int, ...]) -> Grid:
        """The blocks that the frame touches."""
        if self.canvas is None:
            return np.ones(shape, np.bool_)
        inside = np.zeros(shape, np.bool_)
        (y, x), (h, w) = self.canvas.offset, self.canvas.frame
        inside[y // BLOCK : -(-(y + h) // BLOCK), x // BLOCK : -(-(x + w) // BLOCK)] = True
        return inside

    def _residuals(
        self, image: Array, planar: bool, reference: Array, exposure: Exposure | None
    ) -> npt.NDArray[np.float32]:
        """Of every block; only lines that the frame touches, or did, can differ."""
        if self.canvas is None or planar:
            return block_residual(image, planar, reference, BLOCK, exposure)
        found = np.zeros([-(-n // BLOCK) for n in self.canvas.size], np.float32)
        top = self.canvas.offset[0]
        ends = (top, top + self.canvas.frame[0])
        last = (0, self.canvas.size[0]) if self.roll[0] else [e - self.shift[0] for e in ends]
        low, high = max(0, min(*ends, *last)) // BLOCK, -(-min(self.canvas.size[0], max(*ends, *last)) // BLOCK)
        rows = slice(low * BLOCK, high * BLOCK)
        found[low:high] = block_residual(image[rows], planar, reference[rows], BLOCK, exposure)
        return found

    def _edges(self, inside: Grid) -> Grid:
        """The blocks along the frame's edges."""
        where = None if self.canvas is None else (self.canvas.offset, self.canvas.frame)
        if self._band is None or self._band[0] != where:
            outside = np.pad(~inside, EDGE, constant_values=True)
            self._band = where, inside & near(outside, EDGE)[EDGE:-EDGE, EDGE:-EDGE]
        return self._band[1]

    def _painted(self, levels: npt.NDArray[np.uint8], size: tuple[int, ...]) -> tuple[Array, Array | None]:
        """(miss, bound) of pixels."""
        if self._masks is None:
            self._masks = np.empty(size, np.uint8), np.empty(size, np.uint8)
        radius = FAR if self.policy.radius is None else min(self.policy.radius, FAR)
        _cpu.paint_blocks(levels, BLOCK, [radius, 0], *self._masks)
        miss, bound = self._masks
        return miss, None if self.policy.radius is None else bound


def _drift(light: Exposure | None, white: float) -> float:
    """How far a medium grey has moved, over white."""
    if light is None:
        return 0.0
    return max(abs((g - 1) * white / 2 + b) for g, b in zip(light.gain, light.bias, strict=True)) / white
