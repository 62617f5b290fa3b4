"""Keypoints as heatmaps: a map for each, which is highest where the keypoint is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import TaskError
from fluxcompile.tasks.precision import share

Array = npt.NDArray[Any]
NEAR = 0.05
"""PCK: a keypoint is right within this share of the input's longer side."""


@dataclass(frozen=True, eq=False)
class Peaks:
    """points: float32 [k, 3], x and y in pixels of a net's input of `size`, and the height there."""

    points: Array
    size: tuple[int, int]


def decode_heatmaps(outputs: Sequence[Array], size: tuple[int, int]) -> Peaks:
    """The middle of each map's best cell."""
    if len(outputs) != 1 or outputs[0].ndim != 4 or outputs[0].shape[0] != 1:
        raise TaskError(
            f"heatmaps: the outputs are {[x.shape for x in outputs]}; they must be one [1, keypoints, h, w]"
        )
    maps = outputs[0][0]
    rows, columns = maps.shape[1:]
    flat = maps.reshape(len(maps), -1)
    best = flat.argmax(1)
    y, x = np.divmod(best, columns)
    found = [(x + 0.5) * size[1] / columns, (y + 0.5) * size[0] / rows, flat[np.arange(len(maps)), best]]
    return Peaks(np.stack(found, 1).astype(np.float32), size)


def compare_heatmaps(result: Peaks, dense: Peaks) -> Array:
    """Keypoints near dense's, all of them, and the sum of their distances in pixels."""
    apart = np.hypot(*(result.points - dense.points)[:, :2].T.astype(np.float64))
    return np.array([np.count_nonzero(apart <= NEAR * max(dense.size)), len(apart), apart.sum()])


def heatmap_figures(tallies: Sequence[Array]) -> dict[str, Any]:
    """PCK, and the mean distance in pixels."""
    near, count, apart = np.sum(tallies, 0) if len(tallies) else np.zeros(3)
    return {"pck": share(near, count), "distance": share(apart, count)}


def shift_heatmaps(result: Peaks, offset: tuple[int, int]) -> Peaks:
    """Keypoints moved by (dy, dx) pixels."""
    return replace(result, points=result.points + np.array([offset[1], offset[0], 0], np.float32))
