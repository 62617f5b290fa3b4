"""Persons: boxes as in detection, and how near their keypoints are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.runtime import heads
from fluxcompile.tasks.boxes import (
    CLEAR,
    OVERLAPS,
    SEEN,
    Boxes,
    BoxTally,
    box_figures,
    compare_boxes,
    match,
    strongest,
)
from fluxcompile.tasks.precision import share

Array = npt.NDArray[Any]
SIGMAS = (0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
          0.089, 0.089)  # fmt: skip
"""COCO's tolerance of each keypoint, of the root of a person's area."""
SIGMA = 0.05
AREA_OF_BOX = 0.53
VISIBLE = 0.5
NEAR = 0.1
"""PCK: a keypoint is right within this share of its box's longer side."""


@dataclass(frozen=True, eq=False)
class KeypointTally:
    """points: of persons on both sides, keypoints near dense's, all; the sum of OKS, persons."""

    boxes: BoxTally
    points: npt.NDArray[np.float64]


def decode_keypoints(outputs: Sequence[Array], size: tuple[int, int]) -> Boxes:
    """Persons of a pose head: boxes of one class, each with its keypoints behind it."""
    return strongest(heads.persons(outputs, SEEN))


def compare_keypoints(result: Boxes, dense: Boxes) -> KeypointTally:
    """Persons are who their boxes are; only keypoints that dense sees count."""
    near = seen = persons = 0
    similar = 0.0
    clear = result[result[:, 4] >= CLEAR]
    for ours, at in zip(clear, match(clear, dense, OVERLAPS[0]), strict=True):
        if at < 0:
            continue
        points, others = ours[6:].reshape(-1, 3), dense[at, 6:].reshape(-1, 3)
        visible = others[:, 2] >= VISIBLE
        if not visible.any():
            continue
        height, width = (float(dense[at, k + 2] - dense[at, k]) for k in (1, 0))
        apart = np.hypot(*(points - others)[:, :2].T.astype(np.float64))
        sigmas = np.array(SIGMAS if len(points) == len(SIGMAS) else [SIGMA] * len(points))
        likeness = np.exp(-(apart**2) / (2 * AREA_OF_BOX * max(height * width, 1.0) * (2 * sigmas) ** 2))
        near += int((apart[visible] <= NEAR * max(height, width)).sum())
        seen += int(visible.sum())
        similar += float(likeness[visible].mean())
        persons += 1
    return KeypointTally(compare_boxes(result, dense), np.array([near, seen, similar, persons]))


def keypoint_figures(tallies: Sequence[KeypointTally]) -> dict[str, Any]:
    """The figures of the boxes, PCK and OKS of the persons that both sides have."""
    near, seen, similar, persons = np.sum([tally.points for tally in tallies], 0) if len(tallies) else (0, 0, 0, 0)
    boxes = box_figures([tally.boxes for tally in tallies])
    return {**boxes, "pck": share(near, seen), "oks": share(similar, persons)}
