"""Where a frame matters, by the outputs of the last one: float32 in [0, 1] for each 8 x 8 pixels of the net's input.

It is a weight: where it is half, a block may differ twice as much before it is computed anew; 0 is background. This
runs beside every frame. A detector's candidates are painted as they come, without suppression and whatever their score:
what the next frame may show there is worth the same.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.runtime import heads
from fluxcompile.runtime.grids import near

Array = npt.NDArray[Any]
Salience = npt.NDArray[np.float32]
Pair = tuple[int, int]
Index = slice | npt.NDArray[np.intp]
CELL = 8
LEAST = 0.1
"""Score from which a candidate matters; what is found counts from 0.25."""
GROWN = 12
"""Pixels around a box in which its object may be found next."""
LARGE = 128
"""Pixels a side from which an object weighs less, by as much as it is larger: more of a frame goes into its score."""
CLOSE = 0.5
"""Of the mean margin between the best two classes: below it a place is unsure."""


def boxes(outputs: Sequence[Array], size: tuple[int, int]) -> Salience:
    """The weight of the smallest candidate of a YOLO or YOLOX head over each cell."""
    return painted(heads.candidates(outputs, size, LEAST), size)


def keypoints(outputs: Sequence[Array], size: tuple[int, int]) -> Salience:
    """The same of a pose head, whose persons are salient as a whole."""
    return painted(heads.persons(outputs, LEAST), size)


def instances(outputs: Sequence[Array], size: tuple[int, int]) -> Salience:
    """The same of a head with prototypes; no mask is made."""
    return painted(heads.objects(outputs, LEAST)[0], size)


def maps(outputs: Sequence[Array], size: tuple[int, int]) -> Salience:
    """1 within a cell of a border between classes, less where the best two classes are only close.

    One place of each cell is looked at: what is smaller than a cell and lies between them is not seen.
    """
    found: Salience = np.zeros(_cells(size), np.float32)
    for output in outputs:
        if output.ndim != 4 or output.shape[1] < 2:
            return everywhere(outputs, size)
        logits = output[0]
        y, x = (_middles(*axis) for axis in zip(found.shape, logits.shape[1:], size, strict=True))
        margin, label = _best_two(logits, y, x)
        unsure = 1 - margin / max(CLOSE * float(margin.mean()), np.finfo(np.float32).tiny)
        np.maximum(found, np.nan_to_num(unsure, nan=1.0), out=found)
        found[_borders(label)] = 1
    return found


def everywhere(outputs: Sequence[Array], size: tuple[int, int]) -> Salience:
    """The whole frame alike."""
    return np.ones(_cells(size), np.float32)


def _cells(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // CELL), -(-size[1] // CELL)


def painted(found: heads.Candidates, size: tuple[int, int]) -> Salience:
    """The weight of each candidate over the cells that its box, grown, touches."""
    paint: Salience = np.zeros(_cells(size), np.float32)
    areas = np.nan_to_num(found.centres[:, 2:].prod(1))
    weights = np.minimum(1, LARGE / np.sqrt(np.maximum(areas, 1)))
    order = np.argsort(weights, kind="stable")  # the smallest is painted last
    centres, half = found.centres[order, :2], found.centres[order, 2:] / 2 + GROWN
    low = np.floor((centres - half) / CELL)
    high = np.ceil((centres + half) / CELL)
    edges = np.nan_to_num(np.concatenate([low, high], 1)).clip(0, max(paint.shape)).astype(np.int32)
    for (left, top, right, bottom), weight in zip(edges.tolist(), weights[order].tolist(), strict=True):
        paint[top:bottom, left:right] = weight
    return paint


def _middles(cells: int, extent: int, pixels: int) -> Index:
    """The row, or column, of a map in the middle of each cell; a slice where it can be, for a view costs less."""
    step, rest = divmod(extent, cells)
    if not rest and cells * CELL == pixels:
        return slice(step // 2, None, step)
    return np.minimum((np.arange(cells) * CELL + CELL // 2) * extent // pixels, extent - 1)


def _best_two(logits: Array, y: Index, x: Index) -> tuple[Array, Array]:
    """How far the best class is from the next, and which it is; class by class, for a sort costs more."""
    best = logits[0][y][:, x].astype(np.float32)
    second = np.full_like(best, -np.inf)
    label = np.zeros(best.shape, np.int32)
    for number, values in enumerate(logits[1:], 1):
        here = values[y][:, x]
        np.copyto(label, number, where=here > best)
        np.maximum(second, np.minimum(best, here), out=second)
        np.maximum(best, here, out=best)
    return best - second, label


def _borders(label: Array) -> npt.NDArray[np.bool_]:
    """Cells whose class is not that of the next, down or across, and those around them."""
    border = np.zeros(label.shape, bool)
    down, across = label[1:] != label[:-1], label[:, 1:] != label[:, :-1]
    border[1:] |= down
    border[:-1] |= down
    border[:, 1:] |= across
    border[:, :-1] |= across
    return near(border, 1)


def regions(salience: Salience, at: Pair, size: Pair, most: int) -> list[tuple[int, int, int, int]]:
    """Boxes (top, left, height, width) around what is salient in a picture of a size that lies there: the largest."""
    import cv2

    (top, left), (height, width) = at, size
    count, _, stats, _ = cv2.connectedComponentsWithStats(np.asarray(salience > 0, np.uint8))
    found = []
    for x, y, w, h, _ in stats[1:count]:
        y0, y1 = (int(np.clip(CELL * n - top, 0, height)) for n in (y, y + h))
        x0, x1 = (int(np.clip(CELL * n - left, 0, width)) for n in (x, x + w))
        if y1 > y0 and x1 > x0:
            found.append((y0, x0, y1 - y0, x1 - x0))
    return sorted(found, key=lambda box: -box[2] * box[3])[:most]
