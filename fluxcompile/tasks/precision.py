"""Average precision as COCO has it: the stream's boxes ranked by score over a whole clip, dense's are the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
PRECISION_OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RECALLS = np.linspace(0, 1, 101)
"""Where COCO reads precision."""
MISS, HIT, LEFT_OUT = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Ranked:
    """One frame's boxes: scores and classes [n], verdicts [n, overlaps] in MISS, HIT, LEFT_OUT; truths' classes [m]."""

    scores: Array
    classes: Array
    verdicts: npt.NDArray[np.int8]
    truths: Array


def precision_figures(frames: Sequence[Ranked]) -> dict[str, float | None]:
    """Means over the classes that the truth has: at IoU 0.5 and 0.75, and over 0.5 to 0.95."""
    truths = np.concatenate([frame.truths for frame in frames]) if frames else np.zeros(0)
    if not len(truths):
        return {"map": None, "map_50": None, "map_75": None}
    scores, classes = (np.concatenate([getattr(f, name) for f in frames]) for name in ("scores", "classes"))
    verdicts = np.concatenate([frame.verdicts for frame in frames])
    each = []
    for kind, count in zip(*np.unique(truths, return_counts=True), strict=True):
        of = np.flatnonzero(classes == kind)
        of = of[np.argsort(-scores[of], kind="stable")]
        each.append([average_precision(column[column != LEFT_OUT] == HIT, int(count)) for column in verdicts[of].T])
    means = np.mean(each, 0)
    at = {f"map_{round(100 * iou)}": float(means[PRECISION_OVERLAPS.index(iou)]) for iou in (0.5, 0.75)}
    return {"map": float(means.mean()), **at}


def average_precision(hits: npt.NDArray[np.bool_], truths: int) -> float:
    """hits: whether each box is one of the truths, the best score first."""
    true = np.cumsum(hits)
    precision = true / np.arange(1, len(hits) + 1)
    reached = np.maximum.accumulate(precision[::-1])[::-1]  # the best at this recall or more
    return float(np.append(reached, 0.0)[np.minimum(np.searchsorted(true / truths, RECALLS), len(hits))].mean())


def share(part: float, whole: float) -> float | None:
    """None where there is nothing to have a share of."""
    return float(part / whole) if whole else None
