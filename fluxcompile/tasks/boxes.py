"""Boxes: who is who on both sides, and how many agree.

Detections agree by a margin: what is scored CLEAR or more on one side must be there at SEEN or more on the other. Right
at one threshold alone, noise would count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.runtime import heads
from fluxcompile.tasks.precision import HIT, LEFT_OUT, MISS, PRECISION_OVERLAPS, Ranked, precision_figures, share

Array = npt.NDArray[Any]
Boxes = npt.NDArray[np.float32]
"""[n, 6 and more]: xyxy in pixels of the net's input, score, class, then three numbers for each keypoint."""

SEEN, CLEAR = 0.25, 0.4
SUPPRESS_IOU = 0.5
OVERLAPS = (0.5, 0.75)


@dataclass(frozen=True, eq=False)
class BoxTally:
    """counts: for each of OVERLAPS, clear boxes of the stream that dense has, all of them; the same the other way."""

    counts: npt.NDArray[np.int64]
    ranked: Ranked


def decode_boxes(outputs: Sequence[Array], size: tuple[int, int]) -> Boxes:
    """Boxes of a YOLO or YOLOX head, SEEN or more, the best of those that overlap in each class."""
    return strongest(heads.candidates(outputs, size, SEEN))


def strongest(found: heads.Candidates) -> Boxes:
    """The best candidates of those that overlap in each class, what follows their scores behind them."""
    import cv2

    centres, scores, classes, more = found
    corners = centres[:, :2] - centres[:, 2:] / 2
    columns = [corners, corners + centres[:, 2:], scores[:, None], classes[:, None], more]
    boxes = np.concatenate(columns, 1).astype(np.float32)
    if not len(boxes):
        return boxes
    around = np.concatenate([corners, centres[:, 2:]], 1)
    kept = cv2.dnn.NMSBoxesBatched(around.tolist(), scores.tolist(), classes.tolist(), 0.0, SUPPRESS_IOU)
    return boxes[np.asarray(kept, np.int64).reshape(-1)]


def boxes_of(result: Any) -> Boxes | None:
    """A task's result, where it is boxes."""
    is_boxes = isinstance(result, np.ndarray) and result.ndim == 2 and result.shape[1] >= 6
    return result if is_boxes else None


def match(boxes: Boxes, others: Boxes, overlap: float, likeness: Array | None = None) -> list[int]:
    """For each box the one of the others that it is, or -1: same class, one to one, the best scores choose first.

    likeness: of each box with each other, where it is not the overlap of boxes.
    """
    found = [-1] * len(boxes)
    if not len(boxes) or not len(others):
        return found
    likeness = overlaps(boxes, others) if likeness is None else likeness
    likeness = np.where(boxes[:, None, 5] == others[None, :, 5], likeness, -1.0)
    for at in np.argsort(-boxes[:, 4], kind="stable"):
        best = int(likeness[at].argmax())
        if likeness[at, best] >= overlap:
            found[at] = best
            likeness[:, best] = -1.0
    return found


def overlaps(boxes: Boxes, others: Boxes) -> npt.NDArray[np.float64]:
    """Intersection over union of each box with each other."""
    one, two = boxes[:, None, :4].astype(np.float64), others[None, :, :4].astype(np.float64)
    sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2])
    both = sides.clip(0).prod(-1)
    areas = [(x[..., 2:] - x[..., :2]).clip(0).prod(-1) for x in (one, two)]
    union = areas[0] + areas[1] - both
    found: npt.NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(union), where=union > 0)
    return found


def compare_boxes(result: Boxes, dense: Boxes, likeness: Array | None = None) -> BoxTally:
    """likeness: as in `match`."""
    likeness = overlaps(result, dense) if likeness is None else likeness
    counts = []
    for overlap in OVERLAPS:
        row: list[int] = []
        for ours, theirs, alike in ((result, dense, likeness), (dense, result, likeness.T)):
            clear = ours[:, 4] >= CLEAR
            row += [sum(at >= 0 for at in match(ours[clear], theirs, overlap, alike[clear])), int(clear.sum())]
        counts.append(row)
    return BoxTally(np.array(counts), _ranked(result, dense, likeness))


def _ranked(result: Boxes, dense: Boxes, likeness: Array) -> Ranked:
    """Clear boxes of dense are the truth; the stream's that match a faint one count neither way."""
    clear = dense[:, 4] >= CLEAR
    hits = np.zeros((len(result), len(PRECISION_OVERLAPS)), np.int8)
    for column, overlap in zip(hits.T, PRECISION_OVERLAPS, strict=True):
        true = np.array(match(result, dense[clear], overlap, likeness[:, clear]), np.int64) >= 0
        faint = match(result[~true], dense[~clear], overlap, likeness[~true][:, ~clear])
        column[true] = HIT
        column[~true] = np.where(np.array(faint, np.int64) >= 0, LEFT_OUT, MISS)
    return Ranked(result[:, 4], result[:, 5].astype(np.int64), hits, dense[clear, 5].astype(np.int64))


def box_figures(tallies: Sequence[BoxTally]) -> dict[str, Any]:
    """F1 over all clear boxes of both sides; precision over the stream's, recall over dense's; average precision."""
    sums = np.sum([tally.counts for tally in tallies], 0) if len(tallies) else np.zeros((2, 4), np.int64)
    told: dict[str, Any] = {}
    for overlap, (kept, ours, found, theirs) in zip(OVERLAPS, sums, strict=True):
        at = round(100 * overlap)
        told[f"f1_{at}"] = share(kept + found, ours + theirs)
        told[f"precision_{at}"], told[f"recall_{at}"] = share(kept, ours), share(found, theirs)
    return {**told, **precision_figures([tally.ranked for tally in tallies]), "boxes": int(sums[0, 3])}


def shift_boxes(boxes: Boxes, offset: tuple[int, int]) -> Boxes:
    """Boxes, and the keypoints behind them, moved by (dy, dx) pixels."""
    moved = boxes.copy()
    for axis, by in ((1, offset[0]), (0, offset[1])):
        moved[:, [axis, axis + 2]] += by
        moved[:, 6 + axis :: 3] += by
    return moved
