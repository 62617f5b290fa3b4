"""How late a stream has what is new in a clip."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fluxcompile.tasks.boxes import CLEAR, OVERLAPS, Boxes, match

TRACK_IOU = 0.3
"""Overlap from which boxes of two frames in a row are the same object."""
LASTING = 3
"""Frames that an object must stay, and must have been away, to be a new one: a flicker is none."""


@dataclass(frozen=True)
class Delay:
    """Frames until a stream had a new object; `found` is False where the object left before."""

    frames: int
    found: bool


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


def _followed(box: Boxes, later: Sequence[Boxes]) -> list[Boxes]:
    track = [box]
    for boxes in later:
        at = match(track[-1][None], boxes, TRACK_IOU)[0]
        if at < 0:
            break
        track.append(boxes[at])
    return track
