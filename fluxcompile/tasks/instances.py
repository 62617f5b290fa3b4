"""Objects with masks: boxes as in detection, which are the same where their masks overlap."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.runtime import heads
from fluxcompile.tasks.boxes import SEEN, Boxes, BoxTally, compare_boxes, overlaps, shift_boxes, strongest
from fluxcompile.tasks.delays import Delay, new_object_delays
from fluxcompile.tasks.maps import moved

Array = npt.NDArray[Any]
Masks = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Instances:
    """masks: [n, h, w] in cells of the prototypes, over an input of `size`; known: [h, w], what no shift left out."""

    boxes: Boxes
    masks: Masks
    known: Masks
    size: tuple[int, int]


def decode_instances(outputs: Sequence[Array], size: tuple[int, int]) -> Instances:
    """The boxes of a YOLO head, and the prototypes weighed by each, above 0 and within the cells its box touches."""
    found, prototypes = heads.objects(outputs, SEEN)
    boxes = strongest(found)
    many, (rows, columns) = len(prototypes), prototypes.shape[1:]
    masks = (boxes[:, 6:] @ prototypes.reshape(many, -1)).reshape(-1, rows, columns) > 0
    cells = boxes[:, :4] * np.array([columns / size[1], rows / size[0]] * 2, np.float32)
    low, high = np.floor(cells[:, :2, None]), np.ceil(cells[:, 2:, None])
    within = [(np.arange(n) >= low[:, axis]) & (np.arange(n) < high[:, axis]) for axis, n in enumerate((columns, rows))]
    masks &= within[1][:, :, None] & within[0][:, None, :]
    return Instances(boxes[:, :6], masks, np.ones((rows, columns), bool), size)


def compare_instances(result: Instances, dense: Instances) -> BoxTally:
    return compare_boxes(result.boxes, dense.boxes, mask_overlaps(result, dense))


def mask_overlaps(result: Instances, dense: Instances) -> npt.NDArray[np.float64]:
    """Intersection over union of masks where both are known; of boxes where neither mask has a cell."""
    known = result.known & dense.known
    one, two = (x.masks[:, known].astype(np.float32) for x in (result, dense))
    both = (one @ two.T).astype(np.float64)
    union = one.sum(1)[:, None] + two.sum(1)[None] - both
    found = overlaps(result.boxes, dense.boxes)
    np.divide(both, union, out=found, where=union > 0)
    return found


def shift_instances(result: Instances, offset: tuple[int, int]) -> Instances:
    """Boxes moved by (dy, dx) pixels, masks to the nearest cell."""
    masks, known = (moved(x, offset, result.size, False) for x in (result.masks, result.known))
    return replace(result, boxes=shift_boxes(result.boxes, offset), masks=masks, known=known)


def instance_delays(results: Sequence[Instances], dense: Sequence[Instances]) -> list[Delay]:
    return new_object_delays([x.boxes for x in results], [x.boxes for x in dense])
