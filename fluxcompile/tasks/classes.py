"""What a whole frame shows: the best class, the best few, and how the probabilities lie."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import TaskError

Array = npt.NDArray[Any]
BEST = 5


def decode_classes(outputs: Sequence[Array], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Probabilities: the output itself if it is that already, else its softmax. All NaN where it is not finite."""
    if len(outputs) != 1 or outputs[0].ndim != 2 or outputs[0].shape[0] != 1 or outputs[0].shape[1] < 2:
        raise TaskError(f"classify: the outputs are {[x.shape for x in outputs]}; they must be one [1, classes]")
    found: npt.NDArray[np.float64] = outputs[0][0].astype(np.float64)
    if not np.isfinite(found).all():
        return np.full_like(found, np.nan)
    if found.min() >= 0 and abs(found.sum() - 1) < 1e-3:
        return found
    found = np.exp(found - found.max())
    found /= found.sum()
    return found


def compare_classes(result: Array, dense: Array) -> Array:
    """Whether the best class is the same, the share of dense's BEST that are, half the distance of all.

    Of fewer than twice BEST classes the better half is looked at: all would be the same ones always.
    """
    if np.isnan(result).any() or np.isnan(dense).any():
        same = np.array_equal(result, dense, equal_nan=True)
        return np.array([same, same, not same], np.float64)
    count = min(BEST, len(dense) // 2)
    best = [set(np.argsort(-x, kind="stable")[:count].tolist()) for x in (result, dense)]
    distance = np.abs(result - dense).sum() / 2
    return np.array([result.argmax() == dense.argmax(), len(best[0] & best[1]) / count, distance])


def class_figures(tallies: Sequence[Array]) -> dict[str, Any]:
    """Means over frames; `likeness` is 1 minus the total variation distance."""
    if not len(tallies):
        return {"top1": None, "top5": None, "likeness": None}
    top1, top5, distance = np.mean(tallies, 0)
    return {"top1": float(top1), "top5": float(top5), "likeness": 1.0 - float(distance)}


def unmoved(result: Array, offset: tuple[int, int]) -> Array:
    """What a frame shows has no place in it."""
    return result
