"""One camera's stream with results told at the camera's own place: what edge and cloud both run.

A stream's outputs lie where the frame lay on the net's input; two streams of the same camera may hold it at different
places. So results, and salience, are moved to where a frame in the middle of the input would have them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import InputError
from fluxcompile.runtime.canvas import Pair, centred
from fluxcompile.runtime.fit import Image
from fluxcompile.runtime.frame import leaves
from fluxcompile.runtime.h264 import MOST_REGIONS, Region
from fluxcompile.runtime.latency import BLOCK
from fluxcompile.runtime.miss import BLOCK as MISS_BLOCK
from fluxcompile.runtime.plan import CpuStream
from fluxcompile.runtime.salience import CELL, Salience, regions
from fluxcompile.runtime.transport import Receiver

Array = npt.NDArray[Any]
PER_BLOCK = (BLOCK // MISS_BLOCK) ** 2
"""What the classifier counts, in one of the blocks that latencies are told by."""


class Meaning(Protocol):
    """What of a task is needed here: outputs told in words of their own, and moved (see `tasks.Task`)."""

    @property
    def name(self) -> str: ...
    @property
    def result(self) -> Any: ...
    def decode(self, outputs: Sequence[Array], size: Pair, /) -> Any: ...
    def shift(self, result: Any, offset: Pair, /) -> Any: ...


class Eye(Protocol):
    """What edge and cloud ask of a camera: `Camera`, or the second half of one, to which maps are what is shown."""

    @property
    def stream(self) -> CpuStream: ...
    @property
    def size(self) -> Pair: ...
    @property
    def task(self) -> Meaning: ...
    @property
    def all_blocks(self) -> float: ...
    @property
    def cold(self) -> bool: ...
    def require(self, shown: Any, /) -> None: ...
    def blocks_of(self, shown: Any, /) -> float: ...
    def receiver(self) -> Any: ...
    def look(self, shown: Any, /) -> float: ...
    def compute(self) -> "Computed": ...
    def leave(self, salience: Salience | None = None) -> None: ...
    def refresh(self, blocks: float) -> float: ...
    def reset(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Computed:
    """A frame's result and salience, both at the camera's place; `blocks` of 16 x 16 pixels were computed."""

    result: Any
    salience: Salience | None
    blocks: float
    work_share: float
    dense: bool


class Camera:
    """Takes pictures uint8 (height, width, 3) not larger than the net's input, `size`."""

    def __init__(self, stream: CpuStream, task: Meaning, size: Pair) -> None:
        self.stream, self.task, self.size = stream, task, size
        self._picture: Pair = (0, 0)
        self._blocks = 0.0

    @property
    def all_blocks(self) -> float:
        """Those of a dense frame."""
        return float(np.prod([-(-n // MISS_BLOCK) for n in self.size])) / PER_BLOCK

    def require(self, picture: Image) -> None:
        """InputError for what the net does not take."""
        require_picture(picture, self.size)

    def blocks_of(self, picture: Image) -> float:
        """All of a picture."""
        return math.prod(picture.shape[:2]) / BLOCK**2

    def receiver(self) -> Receiver:
        """Of a session at the cloud."""
        return Receiver()

    @property
    def cold(self) -> bool:
        """Whether the next frame is dense, whatever it shows: there is nothing to reuse."""
        return self.stream.cold

    def regions(self, picture: Image) -> list[Region] | None:
        """Where the picture matters, by the outputs of the last; None where nothing is known of that."""
        salience = self.stream.salience
        if salience is None or self.cold:
            return None
        size = picture.shape[0], picture.shape[1]
        middle = (self.size[0] - size[0]) // 2, (self.size[1] - size[1]) // 2
        return regions(salience, self.stream.offset if self.stream.policy.anchor else middle, size, MOST_REGIONS)

    def look(self, picture: Image) -> float:
        """Take the picture in without computing it: the blocks that `compute` would."""
        self.require(picture)
        self._picture = (picture.shape[0], picture.shape[1])
        self._blocks = (
            self.stream.look(picture if self.stream.policy.anchor else centred(picture, self.size)) / PER_BLOCK
        )
        return self._blocks

    def compute(self) -> Computed:
        """The picture that was looked at."""
        outputs = self.stream.compute()
        stats = self.stream.stats
        assert stats is not None
        by = self._back()
        result = self.task.shift(self.task.decode(leaves(outputs), self.size), by)
        salience = self.stream.salience
        at_camera = None if salience is None else moved(salience, by)
        return Computed(result, at_camera, self._blocks, stats.work_share, stats.dense)

    def leave(self, salience: Salience | None = None) -> None:
        """The picture that was looked at is computed elsewhere; what was salient there."""
        back = self._back()
        self.stream.leave(None if salience is None else moved(salience, (-back[0], -back[1])))

    def refresh(self, blocks: float) -> float:
        """Compute so many of the blocks that were left, oldest and most salient first; how many that were."""
        if not self.stream.policy.anchor:
            return 0.0
        return self.stream.refresh(float("inf"), most=round(blocks * PER_BLOCK)) / PER_BLOCK

    def reset(self) -> None:
        self.stream.reset()

    def _back(self) -> Pair:
        """From where the picture lies on the net's input to its middle."""
        if not self.stream.policy.anchor:
            return 0, 0
        offset = self.stream.offset
        y, x = ((n - m) // 2 - at for n, m, at in zip(self.size, self._picture, offset, strict=True))
        return y, x


def require_picture(picture: Image, size: Pair) -> None:
    """A picture that a net of that input takes."""
    if picture.ndim != 3 or picture.shape[2] != 3 or any(n > m for n, m in zip(picture.shape, size, strict=False)):
        raise InputError(f"a picture of {picture.shape}; this net takes (height, width, 3) up to {size}")


def moved(salience: Salience, by: Pair) -> Salience:
    """Salience when everything moves by (dy, dx) pixels; a cell that comes to lie between two counts in both."""
    for axis, pixels in enumerate(by):
        whole, rest = divmod(pixels, CELL)
        shifted = _along(salience, axis, whole)
        salience = np.maximum(shifted, _along(salience, axis, whole + 1)) if rest else shifted
    return salience


def _along(salience: Salience, axis: int, cells: int) -> Salience:
    found = np.zeros_like(salience)
    n = salience.shape[axis]
    if abs(cells) < n:
        to, of = slice(max(cells, 0), n + min(cells, 0)), slice(max(-cells, 0), n - max(cells, 0))
        np.moveaxis(found, axis, 0)[to] = np.moveaxis(salience, axis, 0)[of]
    return found
