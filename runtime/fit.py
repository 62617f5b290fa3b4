"""Fit pictures of any size to a model's input, and what was found there back to the picture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.runtime.canvas import FILL, centred

Image = npt.NDArray[np.uint8]
"""(height, width, 3), red first."""


@dataclass(frozen=True)
class Placement:
    """Where `fit` put a frame: a source pixel (y, x) lies at (top + y * scale_y, left + x * scale_x)."""

    top: int
    left: int
    height: int
    width: int
    source_height: int
    source_width: int

    @classmethod
    def middle(cls, shown: Image, height: int, width: int, source: Image) -> "Placement":
        """Of what is shown of the source, in the middle of height x width."""
        (h, w), (source_height, source_width) = shown.shape[:2], source.shape[:2]
        return cls((height - h) // 2, (width - w) // 2, h, w, source_height, source_width)

    @property
    def scale_y(self) -> float:
        return self.height / self.source_height

    @property
    def scale_x(self) -> float:
        return self.width / self.source_width

    def boxes_to_source(self, boxes: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Return boxes of the fitted image in pixels of the source frame, clipped to it.

        boxes: [n, 4], xyxy, or [n, 6 + 3k] with score, class and x, y, score of k keypoints, which are not clipped.
        """
        found = np.asarray(boxes, np.float32).copy()
        for axis, (begin, scale, size) in enumerate(
            ((self.left, self.scale_x, self.source_width), (self.top, self.scale_y, self.source_height))
        ):
            found[:, axis:4:2] = ((found[:, axis:4:2] - begin) / scale).clip(0, size)
            found[:, 6 + axis :: 3] = (found[:, 6 + axis :: 3] - begin) / scale
        return found

    def crop(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the part of a fitted image, or of a map of its size, that holds the frame."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


def resize(image: Image, height: int, width: int) -> Image:
    """Return the image at another size: averaged where it shrinks, bilinear where it grows."""
    import cv2

    if image.shape[:2] == (height, width):
        return image
    shrinks = height < image.shape[0] or width < image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def fit(
    frame: Image, height: int, width: int, fill: int = FILL, margin: tuple[int, int] = (0, 0)
) -> tuple[Image, Placement]:
    """Return the frame letterboxed to height x width, its proportions kept, and where it lies there.

    margin: pixels that it leaves free down and across, for an anchor to move it.
    """
    resized = scaled(frame, height, width, margin)
    placement = Placement.middle(resized, height, width, frame)
    if (placement.height, placement.width) == (height, width):
        return resized, placement
    return centred(resized, (height, width), fill), placement


def scaled(frame: Image, height: int, width: int, margin: tuple[int, int] = (0, 0)) -> Image:
    """Return the frame as large as it fits into height x width less the margin, its proportions kept."""
    inside = height - margin[0], width - margin[1]
    scale = min(inside[0] / frame.shape[0], inside[1] / frame.shape[1])
    inner = [min(most, max(1, round(n * scale))) for most, n in zip(inside, frame.shape, strict=False)]
    return resize(frame, inner[0], inner[1])
