"""Looking at a frame before it is computed: where it lies on the net's input, and which of its pixels are new."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import InputError, OptionError
from fluxcompile.options import Policy
from fluxcompile.program import Input
from fluxcompile.runtime.canvas import Canvas
from fluxcompile.runtime.frame import DTYPES, Seen, to_array
from fluxcompile.runtime.miss import BLOCK, Classes, Classifier

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Picture:
    """An input that is an image: (height, width, channels) or, planar, (channels, height, width)."""

    shape: tuple[int, int, int]
    planar: bool

    @property
    def size(self) -> tuple[int, int]:
        return (self.shape[1], self.shape[2]) if self.planar else (self.shape[0], self.shape[1])


@dataclass(frozen=True, eq=False)
class Taken:
    """What a stream takes: its inputs, those of them that are motion, and the images among them.

    sizes: (height, width) of the inputs that have pixels, by their numbers; pictures: of those that blocks are told of.
    unit: frame pixels by whose multiples what is kept can move, none where it cannot.
    """

    inputs: Sequence[Input]
    motion: Sequence[Input]
    sizes: Mapping[int, tuple[int, int]]
    pictures: Mapping[int, Picture]
    unit: Sequence[int]


class Kept(Protocol):
    """What a stream has kept of the frames before."""

    def reference(self, index: int, /) -> Array:
        """The image (height, width, channels) of an input that it was computed from."""

    def roll(self, dy: int, dx: int, /) -> bool:
        """Move it along; False where it is lost by that."""


class Sight:
    """Looks at one camera's frames; a policy with `anchor` lets smaller ones move on the canvas.

    What is kept is passed in, not held: a stream that nobody wants is gone at once, with its maps.
    """

    def __init__(self, policy: Policy, taken: Taken) -> None:
        self.policy, self.taken = policy, taken
        self.canvas = self._made_canvas() if policy.anchor else None
        self.classifiers = {i: Classifier(policy, self.canvas) for i in taken.pictures}

    def look(self, seen: Seen, kept: Kept, compares: bool) -> None:
        """See a frame as a policy does; compares: nobody said which pixels are new."""
        if self.canvas is not None:
            seen.fresh |= not self.canvas.fit(seen.arrays[0])
            if seen.fresh:
                self.canvas.centre()
        for classifier in self.classifiers.values():
            classifier.causes = None
        compares = compares and not seen.fresh
        if compares and self.policy.residual:
            if not self.classifiers:
                raise InputError("residual: none of the net's inputs is an image whose blocks could be compared")
            for i in self.classifiers:
                self._classify(i, seen, kept)
        elif self.canvas is not None:
            if compares and not self._followed(0, seen.arrays[0], kept):
                self.canvas.centre()
                seen.fresh = True
            self.canvas.put(seen.arrays[0])
            seen.arrays[0] = self.canvas.image

    def _made_canvas(self) -> Canvas:
        """What smaller frames lie on."""
        if len(self.taken.inputs) != 1 or not self.taken.pictures or min(self.taken.pictures[0].size) == 1:
            raise OptionError("Policy: anchor needs a net with one image as input; pass anchor=False")
        unit, picture = self.taken.unit, self.taken.pictures[0]
        rolls = (math.lcm(unit[0], BLOCK), math.lcm(unit[1], BLOCK)) if unit else None
        return Canvas(picture.shape, picture.planar, DTYPES[self.taken.inputs[0].dtype], rolls)

    def placed(self, frame: Any) -> Array:
        """A frame of three dimensions, which may be smaller than the canvas."""
        assert self.canvas is not None
        spec = self.taken.inputs[0]
        array, dtype = to_array(frame), np.dtype(DTYPES[spec.dtype])
        while array.ndim > 3 and array.shape[0] == 1:
            array = array[0]
        if array.ndim != 3 or array.dtype != dtype or 0 in array.shape:
            shape, dims = self.canvas.image.shape, "channels first" if self.canvas.planar else "channels last"
            raise InputError(
                f"input {spec.name}: {array.dtype} {array.shape}, expected {dtype}, {dims}, not larger than {shape}"
            )
        return np.ascontiguousarray(array)

    def _followed(self, index: int, frame: Array, kept: Kept) -> bool:
        """Follow the camera: what is kept moves with it; False if the frame is better run dense."""
        classify = self.classifiers[index]
        sane = classify.align(frame, self.taken.pictures[index].planar, kept.reference(index))
        return sane and (not any(classify.roll) or kept.roll(*classify.roll))

    def _classify(self, index: int, seen: Seen, kept: Kept) -> None:
        """The frame as the net is to see it; what was kept has moved with the camera."""
        classify, picture, array = self.classifiers[index], self.taken.pictures[index], seen.arrays[index]
        frame = to_array(array).reshape(picture.shape) if self.canvas is None else array
        sane = self._followed(index, frame, kept)
        if self.canvas is not None:
            self.canvas.put(frame)
            frame = self.canvas.image
        found = classify.classify(frame, picture.planar, kept.reference(index)) if sane else Classes(frame, None, None)
        if found.miss is None and self.canvas is not None:
            self.canvas.centre()  # where everything is computed anew, the middle costs nothing
            self.canvas.put(array)
        seen.arrays[index] = found.image if self.canvas is not None else found.image.reshape(array.shape)
        seen.bounds[index] = found.bound
        if found.miss is None:
            seen.fresh = True
        else:
            seen.given[index] = found.miss
