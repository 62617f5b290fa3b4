"""Play a clip through a net under several settings beside dense inference, and keep what a report shows.

`fluxcompile run` and `fluxcompile demo` are this, with different nets, clips and ways to read the outputs.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fluxcompile.options import Policy
from fluxcompile.panels import Strip, panel
from fluxcompile.runtime import report
from fluxcompile.runtime.fit import Image, Placement
from fluxcompile.runtime.frame import leaves
from fluxcompile.runtime.overlay import Seen, legend
from fluxcompile.runtime.video import TruncatedVideo, Writer
from fluxcompile.tasks import Task, task_of
from fluxcompile.tasks.boxes import CLEAR, boxes_of

Array = npt.NDArray[Any]


class Net(Protocol):
    """What is asked of a compiled net here; the tests play a fake one."""

    def stream(self, policy: Policy | None = None, *, task: Task | None = None) -> Any: ...
    def dense(self, frame: Image) -> Any: ...
    def explain(self) -> Any: ...


@dataclass(frozen=True)
class Setting:
    """A name for a policy."""

    name: str
    policy: Policy

    @property
    def knobs(self) -> str:
        """The policy in words, for a table."""
        return "everything a change can reach" if self.policy.exact else self.policy.words


@dataclass
class Track:
    """What one setting did, frame by frame; `tallies` are its task's, against dense.

    causes: for each frame the share of blocks of each of CAUSES. marks: the frames in which something happened.
    """

    name: str
    knobs: str
    work_share: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    causes: list[list[float]] = field(default_factory=list)
    marks: dict[str, list[int]] = field(default_factory=lambda: {"dense": [], "anchor": [], "roll": []})
    max_error: float = 0.0
    agreements: list[float | None] = field(default_factory=list)
    tallies: list[Array] = field(default_factory=list)
    layers: dict[str, float] = field(default_factory=dict)

    def saw(self, stats: Any, seen: Seen) -> None:
        """Add what a stream says of its last frame."""
        happened = {
            "dense": bool(stats.dense),
            "anchor": any(stats.shift),
            "roll": any(stats.roll),
        }
        for what, yes in happened.items():
            if yes:
                self.marks[what].append(len(self.work_share))
        self.work_share.append(float(stats.work_share))
        self.causes.append(seen.shares())
        for name, share in stats.layers.items():
            self.layers[name] = self.layers.get(name, 0.0) + float(share)

    def compare(self, outputs: Sequence[Array], dense: Sequence[Array] | None, tally: Any, task: Task) -> None:
        """Add one frame's agreement with dense inference; dense: its outputs, where the frame lay at the same place."""
        if dense is not None:
            errors = [largest_error(one, two) for one, two in zip(outputs, dense, strict=True)]
            self.max_error = max([self.max_error, *errors])
        self.tallies.append(tally)
        self.agreements.append(task.figures([tally])[task.figure])

    def agreement(self, task: Task | None) -> float | None:
        """Return the task's figure over all frames; None where there was nothing to compare."""
        return None if task is None or not self.tallies else task.figures(self.tallies)[task.figure]

    def cut(self, count: int) -> None:
        """Keep so many frames: the one under way may be in some lists only."""
        for values in (self.work_share, self.ms, self.causes, self.agreements, self.tallies):
            del values[count:]
        self.marks = {what: [frame for frame in frames if frame < count] for what, frames in self.marks.items()}


@dataclass
class Playback:
    """The result: a track for dense, when it was compared, and for each setting.

    layer_ms: the time spent in each layer under the last setting, where it was asked for and the stream tells it.
    """

    tracks: list[Track]
    task: Task | None = None
    num_frames: int = 0
    pictures: list[report.Picture] = field(default_factory=list)
    layer_ms: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False


def play(
    net: Net,
    frames: Iterable[tuple[Image, Placement]],
    settings: Sequence[Setting],
    *,
    compare: bool = True,
    task: Task | None = None,
    writer: Writer | None = None,
    time_layers: bool = False,
    on_frame: Callable[[Playback], None] = lambda playback: None,
) -> Playback:
    """Play fitted frames through the net; Ctrl-C and a clip that breaks off end it early, with what was done.

    task: what the outputs mean; guessed from those of the first frame unless given.
    """
    streams = [net.stream(policy=setting.policy, task=task) for setting in settings]
    tracks = [Track(setting.name, setting.knobs) for setting in settings]
    dense_track = Track("dense", "the whole net on every frame")
    playback = Playback([dense_track, *tracks] if compare else tracks, task)
    strip = Strip()
    below: Image | None = None
    try:
        for index, (image, placement) in enumerate(frames):
            inner = np.ascontiguousarray(placement.crop(image))
            shown = [inner if setting.policy.anchor else image for setting in settings]
            if index == 0:
                _warm(streams, shown, time_layers)
            panels = []
            size, middle = (image.shape[0], image.shape[1]), (placement.top, placement.left)
            dense: list[Array] = []
            expected: Any = None
            if compare:
                dense, ms = _timed(net.dense, image)
                task = playback.task = task or task_of(dense)
                expected = task.decode(dense, size)
                dense_track.ms.append(ms)
                dense_track.work_share.append(1.0)
                dense_track.compare(dense, dense, task.compare(expected, expected), task)
                panels.append(panel(image, placement, None, boxes_in(expected), "dense", 1.0))
            told = dict.fromkeys(["moved"] if any(setting.policy.vectors for setting in settings) else [])
            for stream, track, given in zip(streams, tracks, shown, strict=True):
                outputs, ms = _timed(stream, given)
                task = playback.task = task or task_of(outputs)
                places = given is inner and inner.shape != image.shape
                result, there = task.decode(outputs, size), stream.stats.offset if places else middle
                if there != middle:
                    result = task.shift(result, (middle[0] - there[0], middle[1] - there[1]))
                seen = Seen.of(stream.stats, size, None if places else middle)
                track.ms.append(ms)
                track.saw(stream.stats, seen)
                told |= dict.fromkeys(seen.tells)
                if compare:
                    same = dense if there == middle else None
                    track.compare(outputs, same, task.compare(result, expected), task)
                panels.append(panel(image, placement, seen, boxes_in(result), track.name, track.work_share[-1]))
            picture = np.hstack(panels)
            if below is None:
                below = legend(picture.shape[1], list(told))
            picture = np.vstack([picture, below])
            if writer is not None:
                writer.write(picture)
            strip.offer(index, picture)
            playback.num_frames += 1
            on_frame(playback)
    except KeyboardInterrupt:
        playback.interrupted = True
        for track in playback.tracks:
            track.cut(playback.num_frames)
    except TruncatedVideo as error:
        playback.notes.append(str(error))
    playback.pictures = strip.pictures()
    if time_layers and streams and hasattr(streams[-1], "layer_ms"):
        playback.layer_ms = dict(streams[-1].layer_ms())
    return playback


def _warm(streams: Sequence[Any], images: Sequence[Image], time_layers: bool) -> None:
    """A stream's memory comes into being at its first frame, which would be told as the time of a dense one."""
    for stream, image in zip(streams, images, strict=True):
        stream(image)
        stream.reset()
    if time_layers and streams and hasattr(streams[-1], "time_layers"):
        streams[-1].time_layers(True)


def _timed(infer: Callable[[Image], Any], image: Image) -> tuple[list[Array], float]:
    began = time.perf_counter()
    outputs = leaves(infer(image))
    return outputs, 1000 * (time.perf_counter() - began)


def boxes_in(result: Any) -> npt.NDArray[np.float32] | None:
    """The clear boxes of a task's result, where it has boxes."""
    found = boxes_of(result)
    return None if found is None else found[found[:, 4] >= CLEAR]


def largest_error(one: Array, two: Array) -> float:
    """Return the largest |one - two|; what is infinite or NaN in both alike differs by 0, in one alone by infinity."""
    ours, theirs = one.astype(np.float64), two.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(ours - theirs)
    alike = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    return float(np.where(alike, 0.0, np.where(np.isnan(difference), np.inf, difference)).max(initial=0.0))
