"""A camera or a clip through a net: each picture with what the net sees in it, told in the picture's own pixels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import TaskError
from fluxcompile.options import Policy
from fluxcompile.runtime.camera import Camera
from fluxcompile.runtime.frame import FrameStats
from fluxcompile.runtime.plan import CpuStream
from fluxcompile.runtime.video import Image, Placement, Source, fit, frames
from fluxcompile.tasks import Task

if TYPE_CHECKING:
    from fluxcompile.net import Net


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
        if not isinstance(self.result, np.ndarray) or self.result.ndim != 2 or self.result.shape[1] < 6:
            raise TaskError("boxes: what this task gives are none; `result` is what it gives")
        return self.placement.boxes_to_source(self.result)


def watch(
    net: "Net", source: Source, policy: Policy | str, task: Task | str | None, threads: int, count: int | None
) -> Iterator[Watched]:
    """See `Net.watch`."""
    size, meaning = net.frame_size, net.task(task)
    stream = net.stream(policy, backend="cpu", threads=threads, task=meaning)
    assert isinstance(stream, CpuStream)
    margin = net.margin if stream.policy.anchor else (0, 0)
    return _watched(Camera(stream, meaning, size), margin, frames(source, count=count))


def _watched(camera: Camera, margin: tuple[int, int], pictures: Iterator[Image]) -> Iterator[Watched]:
    for picture in pictures:
        image, placement = fit(picture, *camera.size, margin=margin)
        camera.look(np.ascontiguousarray(placement.crop(image)))
        result = camera.compute().result
        stats = camera.stream.stats
        assert stats is not None
        yield Watched(picture, result, placement, stats)
