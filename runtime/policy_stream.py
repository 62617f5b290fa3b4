"""What every stream does with a frame, whoever computes it: looks where it lies and what of it is new, keeps account.

A backend's stream says how a frame is computed (`_run`), how what it keeps moves along with the camera (`_move`), and
what a frame gave and cost.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import InputError, OptionError
from fluxcompile.options import Policy
from fluxcompile.program import Layer
from fluxcompile.runtime.frame import (
    FrameStats,
    Seen,
    are_tensors,
    masks_of,
    motion_of,
    rebuild,
    require_count,
)
from fluxcompile.runtime.miss import BLOCK, DENSE, SALIENT
from fluxcompile.runtime.sight import Sight, Taken

Array = npt.NDArray[Any]
SLICE = 64
"""Blocks that are refreshed between two looks at the clock."""

Salience = Callable[[Sequence[Array], tuple[int, int]], npt.NDArray[np.float32]]
"""Of a frame's outputs and the net's size: a weight in [0, 1] for each block of 8 x 8 pixels."""


class PolicyStream(ABC):
    """Frames of one camera, in order. A frame that is refused (InputError) leaves the caches as they were.

    salience: what of the outputs matters; without it everything does. clock: seconds, for the policy's budget.
    """

    def __init__(
        self,
        policy: Policy,
        taken: Taken,
        layers: Sequence[Layer],
        template: Any,
        salience: Salience | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.policy = policy
        self._taken, self._layers, self._template = taken, layers, template
        self._salience, self._clock = salience, clock
        self._sight = Sight(policy, taken)
        self._fresh, self._frame, self._was_fresh = True, 0, True
        self._seen: Seen | None = None
        self._total = sum(layer.macs for layer in layers)

    # --- what a backend says ---

    follows_motion = True
    """Whether it takes frames that come with their motion; else such a frame runs dense."""

    @abstractmethod
    def _array(self, index: int, frame: Any) -> Any:
        """The frame as `_run` takes it; InputError says what does not fit the input."""

    @abstractmethod
    def _run(self, seen: Seen) -> None:
        """Compute a frame."""

    @abstractmethod
    def reference(self, index: int) -> Array:
        """The image (height, width, channels) of an input that what is kept was computed from."""

    @abstractmethod
    def _move(self, dy: int, dx: int) -> bool:
        """What is kept, the reference first, lies (dy, dx) pixels further on; False where it cannot."""

    @abstractmethod
    def _leaves(self, tensors: bool) -> list[Any]:
        """The last frame's outputs."""

    @abstractmethod
    def _shares(self) -> Mapping[int, float]:
        """The share of each layer, by its number, that the last frame took."""

    @abstractmethod
    def _missed(self) -> npt.NDArray[np.bool_]:
        """The frame pixels that the last frame saw anew."""

    # --- frames ---

    def reset(self) -> None:
        """Forget every cache; the next frame runs dense (a scene cut, a new clip)."""
        self._fresh = True

    def roll(self, dy: int, dx: int) -> bool:
        """Say that the next frame lies (dy, dx) pixels further down and to the right: the caches move along.

        What comes in at the edges was not seen before and must be new in that frame. Caches that cannot move so far
        are forgotten, and False returned.
        """
        if (dy or dx) and not self._fresh and not self._move(dy, dx):
            self.reset()
        return not self._fresh

    def __call__(self, *frames: Any, miss: Any = None, motion: Any = None) -> Any:
        """The model's outputs for the next frame: torch tensors if it was one, else numpy arrays.

        miss: bool (height, width), the frame pixels that are new; the caller vouches for the others. None: frames are
        compared, as inputs that are no images always are. A list has one of these for each input.
        motion: where content came from, int (2, blocks_y, blocks_x): one vector (dy, dx) in frame pixels per block of
        16 x 16 pixels, so that pixel p now holds what p + (dy, dx) held. None: nothing moved. Any motion is safe in
        exact mode; a right one saves work.
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
        grids = [classifier.causes for classifier in self._sight.classifiers.values()]
        if seen.fresh or not grids or any(causes is None for causes in grids):
            return sum(math.prod(-(-n // BLOCK) for n in picture.size) for picture in self._taken.pictures.values())
        return sum(int(np.count_nonzero(causes >= SALIENT)) for causes in grids if causes is not None)

    def compute(self) -> Any:
        """The outputs of the frame that was looked at."""
        seen, self._seen = self._seen, None
        if seen is None:
            raise InputError("compute: there is no frame to compute; look at one first")
        if seen.fresh:
            seen.start_afresh()
        self._run(seen)
        for i, classifier in self._sight.classifiers.items():
            classifier.saw(self._salient(i), seen.given.get(i))
            if self.policy.budget_ms and classifier.causes is not None:
                blocks = int(np.count_nonzero(classifier.causes >= SALIENT))
                classifier.latency.saw(blocks, 1000 * (self._clock() - seen.began_s))
        self._was_fresh, self._fresh = seen.fresh, False
        self._frame += 1
        return rebuild(self._template, self._leaves(seen.tensors))

    def leave(self, salience: npt.NDArray[np.float32] | None = None) -> None:
        """The frame that was looked at is computed elsewhere, and `salience` is what its outputs made salient.

        Its blocks are stale from now on; `refresh` repairs them, the next frame sees what is left of them.
        """
        seen, self._seen = self._seen, None
        if seen is not None:
            self._fresh |= seen.fresh
            for classifier in self._sight.classifiers.values():
                classifier.leave()
        if salience is not None:
            self.hint(salience)

    def hint(self, salience: npt.NDArray[np.float32]) -> None:
        """What the last frame's outputs make salient, where these are computed elsewhere."""
        for classifier in self._sight.classifiers.values():
            classifier.hint(salience)

    def refresh(self, time_ms: float, most: int | None = None) -> int:
        """Use idle time after a frame: doubtful blocks of it, the oldest and most salient, are computed in slices.

        Stops before the slice that would not fit into the time; `most` asks for so many blocks, in one slice. Returns
        how many blocks were computed. The outputs of the next frame are better for it. Needs a policy with `residual`
        and `anchor`.
        """
        if self._sight.canvas is None:
            raise OptionError("refresh: only a stream whose policy has residual and anchor keeps its last frame")
        (classifier,) = self._sight.classifiers.values()
        began, done, slowest = self._clock(), 0, 0.0
        while not self._fresh:
            started = self._clock()
            if 1000 * (started - began) + slowest >= time_ms:
                break
            found = classifier.stalest(SLICE if most is None else most)
            if found is None or found.miss is None:
                break
            self._run(Seen([found.image], {0: found.miss}, {0: found.bound}))
            classifier.refreshed(found.miss, self._salient(0))
            done += int(np.count_nonzero(found.miss)) // BLOCK**2
            slowest = max(slowest, 1000 * (self._clock() - started))
            if most is not None:
                break
        return done

    # --- what is known of the last one ---

    @property
    def cold(self) -> bool:
        """Whether there is nothing that the next frame could reuse."""
        return self._fresh

    @property
    def salience(self) -> npt.NDArray[np.float32] | None:
        """What the last outputs made salient, for each 8 x 8 pixels of the net's input; None where all matters."""
        return next((classifier.salience for classifier in self._sight.classifiers.values()), None)

    @property
    def offset(self) -> tuple[int, int]:
        """Where the frame lies on the net's input."""
        return (0, 0) if self._sight.canvas is None else self._sight.canvas.offset

    @property
    def stats(self) -> FrameStats | None:
        """What the last frame cost."""
        if not self._frame:
            return None
        shares = self._shares()
        done = sum(layer.macs * shares.get(i, 1.0) for i, layer in enumerate(self._layers))
        told = FrameStats(
            frame=self._frame - 1,
            work_share=done / self._total if self._total else 0.0,
            miss=self._missed(),
            dense=self._was_fresh,
            layers={layer.name: shares.get(i, 1.0) for i, layer in enumerate(self._layers)},
        )
        if not self._sight.classifiers:
            return told
        image, classifier = next(iter(self._sight.classifiers.items()))
        causes, alignment = classifier.causes, classifier.alignment
        if causes is None and self.policy.residual:
            causes = np.full([-(-n // BLOCK) for n in self._taken.pictures[image].size], DENSE, np.uint8)
        return replace(
            told,
            causes=causes,
            offset=self.offset,
            shift=classifier.shift,
            roll=classifier.roll,
            vectors=alignment.vectors if alignment and self.policy.vectors else None,
        )

    # --- looking ---

    def _look(self, frames: Sequence[Any], miss: Any, motion: Any) -> Seen:
        """What a frame was found to be; what was kept has moved with the camera."""
        taken, sight = self._taken, self._sight
        require_count(frames, taken.inputs)
        began = self._clock()
        arrays = [sight.placed(f) if sight.canvas is not None else self._array(i, f) for i, f in enumerate(frames)]
        field = motion_of(motion, taken.motion)
        given = {i: mask.view(np.uint8) for i, mask in masks_of(miss, taken.sizes, len(taken.inputs)).items()}
        moved = field is not None and bool(field.any())
        fresh = self._fresh or (moved and not self.follows_motion)
        seen = Seen(arrays, given, {}, fresh, field, are_tensors(frames), began)
        # where the caller tells the motion, pixels are compared with what has moved
        sight.look(seen, self, compares=miss is None and not moved)
        return seen

    def _salient(self, index: int) -> npt.NDArray[np.float32] | None:
        if self._salience is None or not self.policy.background:
            return None
        return self._salience(self._leaves(tensors=False), self._taken.pictures[index].size)
