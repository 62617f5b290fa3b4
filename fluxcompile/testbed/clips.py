"""Pictures of clips as a net takes them, and what dense inference says of each."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fluxcompile.net import Net
from fluxcompile.runtime.canvas import centred
from fluxcompile.runtime.fit import Image, resize, scaled
from fluxcompile.runtime.frame import leaves
from fluxcompile.runtime.video import frames, probe
from fluxcompile.tasks import Task


@dataclass(eq=False)
class Footage:
    """A clip for one net. `dense` are the results of pictures in the middle of its input, made when first asked for."""

    name: str
    fps: float
    pictures: list[Image]
    net: Net
    task: Task
    _dense: dict[int, Any] = field(default_factory=dict)

    def truth(self, index: int) -> Any:
        if index not in self._dense:
            size = self.net.frame_size
            outputs = self.net.dense(centred(self.pictures[index], size))
            self._dense[index] = self.task.decode([np.array(leaf) for leaf in leaves(outputs)], size)
        return self._dense[index]


def footage(path: Path, net: Net, task: Task, count: int, *, margin: tuple[int, int], crop: bool) -> Footage:
    """A clip's first frames, letterboxed with a margin that an anchor uses.

    crop: instead, the middle of the frames is cut to the net's proportions, as a detector before it would.
    """
    pictures = []
    size = net.frame_size
    for image in frames(path, count=count):
        if crop:
            pictures.append(np.ascontiguousarray(_middle(image, size)))
        else:
            pictures.append(np.ascontiguousarray(scaled(image, *size, margin)))
    return Footage(path.stem, probe(path).fps, pictures, net, task)


def _middle(image: Image, size: tuple[int, int]) -> Image:
    (h, w), (height, width) = image.shape[:2], size
    scale = min(h / height, w / width)
    cut_h, cut_w = int(height * scale), int(width * scale)
    top, left = (h - cut_h) // 2, (w - cut_w) // 2
    return resize(np.ascontiguousarray(image[top : top + cut_h, left : left + cut_w]), height, width)
