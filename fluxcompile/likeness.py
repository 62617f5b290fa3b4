"""How near the outputs of a frame are to those of dense inference, as numbers and as boxes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def likeness(outputs: Sequence[Array], dense: Sequence[Array]) -> float:
    """Return 1 minus the relative error (root mean square) of the worst output, not below 0."""
    return min((_likeness(one, two) for one, two in zip(outputs, dense, strict=True)), default=1.0)


def _likeness(one: Array, two: Array) -> float:
    difference = _difference(one, two)
    if not np.isfinite(difference).all():
        return 0.0
    error, norm = (
        float(np.linalg.norm(difference)),
        float(np.linalg.norm(np.nan_to_num(two.astype(np.float64), posinf=0, neginf=0))),
    )
    return max(0.0, 1.0 - error / norm) if norm else float(error == 0)


def largest_error(one: Array, two: Array) -> float:
    return float(_difference(one, two).max(initial=0.0))


def _difference(one: Array, two: Array) -> npt.NDArray[np.float64]:
    """Return |one - two|; what is infinite or NaN in both alike differs by 0, in one alone by infinity."""
    ours, theirs = one.astype(np.float64), two.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(ours - theirs)
    alike = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    return np.where(alike, 0.0, np.where(np.isnan(difference), np.inf, difference))


def match_boxes(
    boxes: npt.NDArray[np.float32], dense: npt.NDArray[np.float32], overlap: float = 0.75
) -> npt.NDArray[np.int64]:
    """Return how many boxes match one of dense, are extra, are missing; best scores choose first, one to one."""
    free = list(range(len(dense)))
    matched = 0
    for box in sorted(boxes, key=lambda row: -float(row[4])):
        best = max(free, key=lambda index: iou(box, dense[index]), default=None)
        if best is not None and iou(box, dense[best]) >= overlap:
            free.remove(best)
            matched += 1
    return np.array([matched, len(boxes) - matched, len(dense) - matched])


def f1(counts: npt.NDArray[np.int64]) -> float | None:
    """Return F1 of matched, extra and missing boxes; None where there were none."""
    matched, extra, missing = (int(count) for count in counts)
    return 2 * matched / (2 * matched + extra + missing) if matched + extra + missing else None


def iou(one: npt.NDArray[np.float32], two: npt.NDArray[np.float32]) -> float:
    """Return intersection over union of two xyxy boxes."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = float(width * height)
    return both / float((one[2] - one[0]) * (one[3] - one[1]) + (two[2] - two[0]) * (two[3] - two[1]) - both)
