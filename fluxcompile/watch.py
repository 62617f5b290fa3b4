"""A camera or a clip through a net: each picture with what the net sees in it, told in the picture's own pixels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import TaskError
from fluxcompile.runtime.camera import Camera
from fluxcompile.runtime.canvas import Pair
from fluxcompile.runtime.fit import Image, Placement, scaled
from fluxcompile.runtime.frame import FrameStats
from fluxcompile.runtime.plan import CpuStream
from fluxcompile.tasks import Task
from fluxcompile.tasks.boxes import boxes_of


@dataclass(frozen=True, eq=False)
class Watched:
    """picture: uint8 (height, width, 3), red first, as it came. stats: what it cost.

    result: the task's, in pixels of the net's input, the picture in its middle as `placement` says; of a map,
    `placement.crop(map)` is the picture's part.
    """

    picture: Image
    result: Any
    placement: Placement
    stats: FrameStats

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """[n, 6 and more]: xyxy in pixels of the picture, score, class, then x, y and score of each keypoint."""
        found = boxes_of(self.result)
        if found is None:
            raise TaskError("boxes: what this task gives are none; `result` is what it gives")
        return self.placement.boxes_to_source(found)


def watch(stream: CpuStream, task: Task, size: Pair, margin: Pair, pictures: Iterator[Image]) -> Iterator[Watched]:
    """Pictures of any size through a stream of a net of `size`; margin: what an anchor needs around them."""
    camera = Camera(stream, task, size)
    for picture in pictures:
        shown = scaled(picture, *size, margin if stream.policy.anchor else (0, 0))
        camera.look(np.ascontiguousarray(shown))
        result = camera.compute().result
        assert stream.stats is not None
        yield Watched(picture, result, Placement.middle(shown, *size, picture), stream.stats)
