"""Candidates in the heads of detectors, before any suppression: YOLO's [1, numbers, n] and YOLOX's [1, n, numbers]."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import TaskError

Array = npt.NDArray[Any]
STRIDES = (8, 16, 32)
LARGEST_OFFSET = 32.0
"""Box values up to here are offsets in cells and logarithms; decoded ones reach over the whole input."""


class Candidates(NamedTuple):
    """centres: [n, 4], cx, cy, w, h in pixels of the net's input. more: [n, k], what follows the scores."""

    centres: Array
    scores: Array
    classes: Array
    more: Array


def candidates(outputs: Sequence[Array], size: tuple[int, int], least: float) -> Candidates:
    """Those of a YOLO or YOLOX head that are scored `least` or more in their best class."""
    head = only_head(outputs)
    if head.shape[0] < head.shape[1]:  # a row for each number, a column for each candidate
        return chosen(head, head.shape[0] - 4, least)
    if head.shape[1] < 6:
        raise TaskError(f"detect: [1, n, {head.shape[1]}] holds no scores; name the task, or use regress")
    at = np.flatnonzero(head[:, 4] >= least)  # a class multiplies this by 1 at most
    centres, scores = decode_grid(head[:, :4], size)[at], head[at, 4:5] * head[at, 5:]
    best = scores.max(1)
    seen = best >= least
    return Candidates(centres[seen], best[seen], scores[seen].argmax(1), head[at[seen], :0])


def persons(outputs: Sequence[Array], least: float) -> Candidates:
    """Those of a pose head [1, 5 + 3k, n], with their keypoints behind them."""
    head = only_head(outputs)
    if head.shape[0] < 8 or (head.shape[0] - 5) % 3:
        raise TaskError(f"keypoints: the output is [1, {head.shape[0]}, n]; it must be [1, 5 + 3k, n]")
    return chosen(head, 1, least)


def objects(outputs: Sequence[Array], least: float) -> tuple[Candidates, Array]:
    """Those of a head [1, 4 + classes + m, n], with m coefficients behind them, and the prototypes [m, h, w]."""
    shapes = [x.shape for x in outputs]
    if sorted(map(len, shapes)) == [3, 4]:
        head, prototypes = sorted(outputs, key=np.ndim)
        if head.shape[0] == prototypes.shape[0] == 1 and head.shape[1] > 4 + prototypes.shape[1]:
            return chosen(head[0], head.shape[1] - 4 - prototypes.shape[1], least), prototypes[0]
    raise TaskError(f"instances: the outputs are {shapes}; they must be [1, 4 + classes + m, n] and [1, m, h, w]")


def only_head(outputs: Sequence[Array]) -> Array:
    """The one output of a detector, without its batch."""
    if len(outputs) != 1 or outputs[0].ndim != 3 or outputs[0].shape[0] != 1:
        raise TaskError(f"the outputs are {[x.shape for x in outputs]}; a head is one of [1, numbers, candidates]")
    head: Array = outputs[0][0]
    return head


def chosen(head: Array, classes: int, least: float) -> Candidates:
    """The columns of [4 + classes + k, n] that are scored `least` or more."""
    if classes < 1:
        raise TaskError(f"detect: [1, {head.shape[0]}, n] holds no scores; name the task, or use regress")
    scores = head[4 : 4 + classes]
    best = scores.max(0)
    at = np.flatnonzero(best >= least)
    return Candidates(head[:4, at].T, best[at], scores[:, at].argmax(0), head[4 + classes :, at].T)


def decode_grid(raw: Array, size: tuple[int, int]) -> Array:
    """cx, cy, w, h in pixels, [n, 4], of YOLOX's numbers; as they are where the net decodes them itself."""
    if float(raw.max(initial=0.0)) > LARGEST_OFFSET:
        return raw
    grid = _grid(size)
    if len(grid) != len(raw):
        raise TaskError(f"detect: {len(raw)} candidates; an input of {size} with strides {STRIDES} has {len(grid)}")
    stride = grid[:, 2:]
    return np.concatenate([(raw[:, :2] + grid[:, :2]) * stride, np.exp(raw[:, 2:]) * stride], 1)


@lru_cache(maxsize=8)
def _grid(size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """x, y and stride of each candidate's cell."""
    cells = []
    for step in STRIDES:
        y, x = np.mgrid[: size[0] // step, : size[1] // step].reshape(2, -1)
        cells.append(np.stack([x, y, np.full_like(x, step)], 1))
    grid = np.concatenate(cells).astype(np.float32)
    grid.setflags(write=False)
    return grid
