"""What a model's outputs mean, and how well a stream's results agree with those of dense inference.

    detect     YOLO heads [1, 4 + classes, n], or YOLOX's [1, n, 5 + classes]: boxes
    keypoints  [1, 5 + 3k, n]: persons with k keypoints
    segment    every output is [1, classes, h, w]: the best class of each pixel
    regress    anything else: numbers

A result is one frame's; a tally holds what one frame adds to the figures, so that those of a clip, of a part of it and
of many clips come from the same tallies. Detections agree by a margin: what is scored CLEAR or more on one side must be
there at SEEN or more on the other. Right at one threshold alone, noise would count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import FluxError, OptionError

Array = npt.NDArray[Any]
Boxes = npt.NDArray[np.float32]
"""[n, 6 and more]: xyxy in pixels of the net's input, score, class, then three numbers for each keypoint."""

SEEN, CLEAR = 0.25, 0.4
SUPPRESS_IOU = 0.5
OVERLAPS = (0.5, 0.75)
TRACK_IOU = 0.3
"""Overlap from which boxes of two frames in a row are the same object."""
LASTING = 3
"""Frames that an object must stay, and must have been away, to be a new one: a flicker is none."""

STRIDES = (8, 16, 32)
LARGEST_OFFSET = 32.0
"""Box values up to here are offsets in cells and logarithms; decoded ones reach over the whole input."""

PERSONS = (17, 21, 26, 133)
"""Numbers of keypoints that a head is guessed to have: COCO's, a hand's, Halpe's, the whole body's."""
SIGMAS = (0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
          0.089, 0.089)  # fmt: skip
"""COCO's tolerance of each keypoint, of the root of a person's area."""
SIGMA = 0.05
AREA_OF_BOX = 0.53
VISIBLE = 0.5
NEAR = 0.1
"""PCK: a keypoint is right within this share of its box's longer side."""

MOST_CLASSES = 160
SAMPLES = 65536
"""Values of an output that `regress` looks at, always the same ones: maps of a whole clip would fill the memory."""


class TaskError(FluxError):
    """The outputs are not those of the task."""


@dataclass(frozen=True)
class Task:
    """`decode(outputs, size)` gives one frame's result, `compare(result, dense)` a tally, `figures(tallies)` the rest.

    `figure` names the figure that stands for all. `delays` tells after how many frames each new object was found.
    """

    name: str
    figure: str
    decode: Callable[[Sequence[Array], tuple[int, int]], Any]
    compare: Callable[[Any, Any], Array]
    figures: Callable[[Sequence[Array]], dict[str, Any]]
    delays: Callable[[Sequence[Any], Sequence[Any]], list["Delay"]] | None = None

    def agreement(self, results: Sequence[Any], dense: Sequence[Any]) -> dict[str, Any]:
        """The figures of a clip; `per_frame` is `figure` frame by frame, None where there was nothing to compare."""
        return self.told([self.compare(one, two) for one, two in zip(results, dense, strict=True)])

    def told(self, tallies: Sequence[Array]) -> dict[str, Any]:
        """The same from tallies."""
        return {**self.figures(tallies), "per_frame": [self.figures([tally])[self.figure] for tally in tallies]}


@dataclass(frozen=True)
class Delay:
    """Frames until a stream had a new object; `found` is False where the object left before."""

    frames: int
    found: bool


def task_of(outputs: Sequence[Array], name: str | None = None) -> Task:
    """The task that a name says, or that the shapes of the outputs suggest."""
    if name is not None:
        if name not in TASKS:
            raise OptionError(f"task is {name!r}; use {', '.join(TASKS)}")
        return TASKS[name]
    shapes = [x.shape for x in outputs]
    match shapes:
        case [(1, rows, n)] if rows < n and rows > 4:
            return TASKS["keypoints" if rows - 5 in [3 * k for k in PERSONS] else "detect"]
        case [(1, n, columns)] if 5 < columns < n:
            return TASKS["detect"]
    if shapes and all(len(s) == 4 and s[0] == 1 and 2 <= s[1] <= MOST_CLASSES for s in shapes):
        return TASKS["segment"]
    return TASKS["regress"]


def decode_boxes(outputs: Sequence[Array], size: tuple[int, int]) -> Boxes:
    """Boxes of a YOLO or YOLOX head, SEEN or more, the best of those that overlap in each class."""
    head = _head(outputs)
    if head.shape[0] < head.shape[1]:  # a row for each number, a column for each candidate
        if head.shape[0] < 5:
            raise TaskError(f"detect: [1, {head.shape[0]}, n] holds no scores; name the task, or use regress")
        centres, scores = head[:4].T, head[4:].T
    else:
        if head.shape[1] < 6:
            raise TaskError(f"detect: [1, n, {head.shape[1]}] holds no scores; name the task, or use regress")
        centres, scores = decode_grid(head[:, :4], size), head[:, 4:5] * head[:, 5:]
    classes = scores.argmax(1)
    return _suppressed(centres, scores[np.arange(len(scores)), classes], classes)


def decode_grid(raw: Array, size: tuple[int, int]) -> Array:
    """cx, cy, w, h in pixels, [n, 4], of YOLOX's numbers; as they are where the net decodes them itself."""
    if float(raw.max(initial=0.0)) > LARGEST_OFFSET:
        return raw
    cells = []
    for step in STRIDES:
        y, x = np.mgrid[: size[0] // step, : size[1] // step].reshape(2, -1)
        cells.append(np.stack([x, y, np.full_like(x, step)], 1))
    grid: Array = np.concatenate(cells).astype(np.float32)
    if len(grid) != len(raw):
        raise TaskError(f"detect: {len(raw)} candidates; an input of {size} with strides {STRIDES} has {len(grid)}")
    stride = grid[:, 2:]
    return np.concatenate([(raw[:, :2] + grid[:, :2]) * stride, np.exp(raw[:, 2:]) * stride], 1)


def decode_keypoints(outputs: Sequence[Array], size: tuple[int, int]) -> Boxes:
    """Persons of a pose head: boxes of one class, each with its keypoints behind it."""
    head = _head(outputs)
    if head.shape[0] < 8 or (head.shape[0] - 5) % 3:
        raise TaskError(f"keypoints: the output is [1, {head.shape[0]}, n]; it must be [1, 5 + 3k, n]")
    return _suppressed(head[:4].T, head[4], np.zeros(head.shape[1], np.int64), head[5:].T)


def decode_maps(outputs: Sequence[Array], size: tuple[int, int]) -> list[Array]:
    """The best class of each pixel of each output."""
    if not all(x.ndim == 4 and x.shape[0] == 1 for x in outputs):
        raise TaskError(f"segment: the outputs are {[x.shape for x in outputs]}; they must be [1, classes, h, w]")
    return [np.asarray(x[0].argmax(0), np.uint8 if x.shape[1] <= 256 else np.int32) for x in outputs]


def decode_numbers(outputs: Sequence[Array], size: tuple[int, int]) -> list[Array]:
    """The values of each output, or SAMPLES of them."""
    return [_sampled(np.asarray(x).reshape(-1)) for x in outputs]


def match(boxes: Boxes, others: Boxes, overlap: float) -> list[int]:
    """For each box the one of the others that it is, or -1: same class, one to one, the best scores choose first."""
    found = [-1] * len(boxes)
    if not len(boxes) or not len(others):
        return found
    likeness = np.where(boxes[:, None, 5] == others[None, :, 5], overlaps(boxes, others), -1.0)
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


def compare_boxes(result: Boxes, dense: Boxes) -> Array:
    """For each of OVERLAPS: clear boxes of the stream that dense has, all of them; the same the other way round."""
    rows = []
    for overlap in OVERLAPS:
        row: list[int] = []
        for ours, theirs in ((result, dense), (dense, result)):
            clear = ours[ours[:, 4] >= CLEAR]
            row += [sum(at >= 0 for at in match(clear, theirs, overlap)), len(clear)]
        rows.append(row)
    return np.array(rows, np.float64).reshape(-1)


def box_figures(tallies: Sequence[Array]) -> dict[str, Any]:
    """F1 over all clear boxes of both sides; precision over the stream's, recall over dense's."""
    sums = np.sum(tallies, 0)[:8].reshape(2, 4) if len(tallies) else np.zeros((2, 4))
    told: dict[str, Any] = {}
    for overlap, (kept, ours, found, theirs) in zip(OVERLAPS, sums, strict=True):
        at = round(100 * overlap)
        told[f"f1_{at}"] = _share(kept + found, ours + theirs)
        told[f"precision_{at}"], told[f"recall_{at}"] = _share(kept, ours), _share(found, theirs)
    return {**told, "boxes": int(sums[0, 3])}


def compare_keypoints(result: Boxes, dense: Boxes) -> Array:
    """The tally of boxes, then of persons on both sides: keypoints near dense's, all; their OKS, persons."""
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
    return np.concatenate([compare_boxes(result, dense), [near, seen, similar, persons]])


def keypoint_figures(tallies: Sequence[Array]) -> dict[str, Any]:
    """The figures of the boxes, PCK and OKS of the persons that both sides have."""
    near, seen, similar, persons = np.sum(tallies, 0)[8:] if len(tallies) else (0, 0, 0, 0)
    return {**box_figures(tallies), "pck": _share(near, seen), "oks": _share(similar, persons)}


def compare_maps(result: Sequence[Array], dense: Sequence[Array]) -> Array:
    """How many pixels have each class here and each class there, for each output."""
    classes = 1 + max(int(x.max(initial=0)) for x in (*result, *dense))
    pairs = [
        np.bincount(two.reshape(-1).astype(np.int64) * classes + one.reshape(-1), minlength=classes**2)
        for one, two in zip(result, dense, strict=True)
    ]
    return np.stack(pairs).reshape(len(pairs), classes, classes)


def map_figures(tallies: Sequence[Array]) -> dict[str, Any]:
    """The share of equal pixels; mean IoU over the classes that either side has, of all outputs."""
    classes = max((tally.shape[-1] for tally in tallies), default=1)
    sums = np.zeros((len(tallies[0]) if len(tallies) else 1, classes, classes))
    for tally in tallies:
        sums[:, : tally.shape[1], : tally.shape[2]] += tally
    both = np.diagonal(sums, axis1=1, axis2=2)
    either = sums.sum(1) + sums.sum(2) - both
    there = either > 0
    return {
        "miou": float((both[there] / either[there]).mean()) if there.any() else None,
        "equal": _share(float(both.sum()), float(sums.sum())),
    }


def compare_numbers(result: Sequence[Array], dense: Sequence[Array]) -> Array:
    """For each output the sum of squared errors and that of squares; infinite where one side alone is not finite."""
    rows = []
    for one, two in zip(result, dense, strict=True):
        ours, theirs = one.astype(np.float64), two.astype(np.float64)
        alike = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        with np.errstate(invalid="ignore"):
            error = np.where(alike, 0.0, ours - theirs)
        finite = theirs[np.isfinite(theirs)]
        rows.append([np.nan_to_num((error**2).sum(), nan=np.inf, posinf=np.inf), (finite**2).sum()])
    return np.array(rows)


def number_figures(tallies: Sequence[Array]) -> dict[str, Any]:
    """1 minus the relative error (root mean square) of the worst output, not below 0."""
    if not len(tallies):
        return {"likeness": None}
    errors, norms = np.sum(tallies, 0).T
    shares = [e / n if n else float(e > 0) for e, n in zip(errors, norms, strict=True)]
    return {"likeness": max(0.0, 1.0 - float(np.sqrt(max(shares, default=0.0))))}


def new_object_delays(results: Sequence[Boxes], dense: Sequence[Boxes]) -> list[Delay]:
    """For each new clear box of dense that lasts: frames until the stream has it too, wherever it is by then."""
    found = []
    for at in range(1, len(dense)):
        before = dense[max(0, at - LASTING) : at]
        for box in dense[at][dense[at][:, 4] >= CLEAR]:
            if any(match(box[None], boxes, TRACK_IOU)[0] >= 0 for boxes in before):
                continue
            track = _followed(box, dense[at + 1 :])
            if len(track) < LASTING:
                continue
            has = (match(there[None], boxes, OVERLAPS[0])[0] >= 0 for there, boxes in zip(track, results[at:]))  # noqa: B905
            delay = next((frames for frames, yes in enumerate(has) if yes), None)
            found.append(Delay(len(track) if delay is None else delay, delay is not None))
    return found


def delay_figures(delays: Sequence[Delay]) -> dict[str, Any]:
    """Median and worst; `lost` counts objects that left before the stream had them, late as long as they stayed."""
    frames = [delay.frames for delay in delays]
    return {
        "objects": len(delays),
        "median": float(np.median(frames)) if frames else None,
        "worst": max(frames, default=None),
        "lost": sum(not delay.found for delay in delays),
    }


def _followed(box: Array, later: Sequence[Boxes]) -> list[Array]:
    track = [box]
    for boxes in later:
        at = match(track[-1][None], boxes, TRACK_IOU)[0]
        if at < 0:
            break
        track.append(boxes[at])
    return track


def _head(outputs: Sequence[Array]) -> Array:
    if len(outputs) != 1 or outputs[0].ndim != 3 or outputs[0].shape[0] != 1:
        raise TaskError(f"the outputs are {[x.shape for x in outputs]}; a head is one of [1, numbers, candidates]")
    head: Array = outputs[0][0]
    return head


def _suppressed(centres: Array, scores: Array, classes: Array, more: Array | None = None) -> Boxes:
    import cv2

    seen = scores >= SEEN
    centres, scores, classes = centres[seen].astype(np.float32), scores[seen], classes[seen]
    corners = centres[:, :2] - centres[:, 2:] / 2
    columns = [corners, corners + centres[:, 2:], scores[:, None], classes[:, None]]
    boxes = np.concatenate([*columns, *([] if more is None else [more[seen]])], 1).astype(np.float32)
    if not len(boxes):
        return boxes
    around = np.concatenate([corners, centres[:, 2:]], 1)
    kept = cv2.dnn.NMSBoxesBatched(around.tolist(), scores.tolist(), classes.tolist(), 0.0, SUPPRESS_IOU)
    return boxes[np.asarray(kept, np.int64).reshape(-1)]


def _sampled(values: Array) -> Array:
    if len(values) > SAMPLES:
        values = values[np.random.default_rng(0).integers(0, len(values), SAMPLES)]
    return values.copy()


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


_boxes = partial(Task, figure="f1_50", delays=new_object_delays)
TASKS = {
    task.name: task
    for task in (
        _boxes("detect", decode=decode_boxes, compare=compare_boxes, figures=box_figures),
        _boxes("keypoints", decode=decode_keypoints, compare=compare_keypoints, figures=keypoint_figures),
        Task("segment", "miou", decode_maps, compare_maps, map_figures),
        Task("regress", "likeness", decode_numbers, compare_numbers, number_figures),
    )
}
"""Each task by its name."""
