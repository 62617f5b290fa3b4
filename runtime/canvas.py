"""The anchor: a camera's frames lie on the net's input, which is larger, and move there as the camera moves.

What the camera pans over then stays where it was, at every scale, and nothing of it must be computed again. When a
frame would leave the input, everything rolls by whole units, so that it lies on the other side (see `program.Rolls`).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import InputError

Array = npt.NDArray[Any]
Pair = tuple[int, int]
FILL = 114
"""Grey level around frames, as detectors are trained with; for float frames, over 255."""


def centred(frame: Array, size: Pair, fill: float = FILL, offset: Pair | None = None) -> Array:
    """An image of the size with the frame (height, width, channels) in its middle, or at an offset."""
    (h, w), (height, width) = frame.shape[:2], size
    y, x = offset or ((height - h) // 2, (width - w) // 2)
    image = np.full((height, width, *frame.shape[2:]), fill, frame.dtype)
    image[y : y + h, x : x + w] = frame
    return image


class Canvas:
    """The image that the net sees, and the place of the last frame in it.

    shape: of the net's input, (height, width, channels) or, planar, (channels, height, width). unit: whole cells of
    every map, in pixels down and across; None where maps cannot roll.
    """

    def __init__(self, shape: Sequence[int], planar: bool, dtype: Any, unit: Pair | None) -> None:
        self.planar, self.unit = planar, unit
        self.fill = FILL if dtype == np.uint8 else FILL / 255
        self.image: Array = np.full(tuple(shape), self.fill, dtype)
        self.size: Pair = (self.image.shape[1], self.image.shape[2]) if planar else self.image.shape[:2]
        self.frame: Pair = (0, 0)
        self.offset: Pair = (0, 0)

    def of(self, image: Array, planar: bool | None = None) -> Array:
        """The part of an image of the net's size that the last frame lies in."""
        (y, x), (h, w) = self.offset, self.frame
        planar = self.planar if planar is None else planar
        return image[:, y : y + h, x : x + w] if planar else image[y : y + h, x : x + w]

    def fit(self, frame: Array) -> bool:
        """Whether the frame has the size of the last; a new size lies in the middle."""
        h, w = (frame.shape[1], frame.shape[2]) if self.planar else frame.shape[:2]
        channels = frame.shape[0 if self.planar else -1]
        if h > self.size[0] or w > self.size[1] or channels != self.image.shape[0 if self.planar else -1]:
            raise InputError(f"a frame of {frame.shape} does not fit into the net's input of {self.image.shape}")
        if (h, w) == self.frame:
            return True
        self.frame = (h, w)
        self.centre()
        return False

    def centre(self) -> None:
        self.image[...] = self.fill
        self.offset = ((self.size[0] - self.frame[0]) // 2, (self.size[1] - self.frame[1]) // 2)

    def put(self, frame: Array) -> None:
        self.of(self.image)[...] = frame

    def move(self, shift: Pair) -> Pair | None:
        """Move the frame by `shift`; by how much everything must roll besides, None where there is no room."""
        places = [self._place(axis, shift[axis]) for axis in (0, 1)]
        if None in places:
            return None
        self.of(self.image)[...] = self.fill
        (y, down), (x, right) = (p for p in places if p is not None)
        self.offset = (y, x)
        return down, right

    def _place(self, axis: int, shift: int) -> Pair | None:
        """(offset, roll) along one axis."""
        room, at = self.size[axis] - self.frame[axis], self.offset[axis] + shift
        if 0 <= at <= room:
            return at, 0
        if self.unit is None:
            return None
        unit = self.unit[axis]
        roll = unit * math.ceil(-at / unit) if at < 0 else -unit * math.ceil((at - room) / unit)
        return (at + roll, roll) if 0 <= at + roll <= room else None
