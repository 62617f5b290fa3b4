"""Play a clip through a net under several settings beside dense inference, and keep what a report shows.

`fluxcompile run` and `fluxcompile demo` are this, with different nets, clips and ways to read the outputs.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fluxcompile.likeness import Array, f1, largest_error, likeness, match_boxes
from fluxcompile.options import Policy
from fluxcompile.panels import Strip, panel
from fluxcompile.runtime import report
from fluxcompile.runtime.overlay import CAUSES, Seen, legend
from fluxcompile.runtime.video import Image, Placement, TruncatedVideo, Writer

Decode = Callable[[Sequence[Array]], npt.NDArray[np.float32]]
"""From the outputs, as a flat list of arrays, to boxes [n, 5]: xyxy in pixels of the fitted frame, then a score."""

LIKENESS_NOTE = "Likeness is 1 minus the relative error of the worst output against dense inference on the same frame."
BOXES_NOTE = (
    "F1 counts boxes that overlap one of dense inference on the same frame by three quarters or more (IoU 0.75)."
)


class Net(Protocol):
    """What is asked of a compiled net here; the tests play a fake one."""

    def stream(self, policy: Policy | None = None) -> Any: ...
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
        if self.policy.exact:
            return "everything a change can reach"
        radius = "unbounded" if self.policy.radius is None else f"{self.policy.radius} px"
        words = {"threshold": self.policy.threshold, "residual": self.policy.residual, "gate": self.policy.gate}
        told = [f"{name} {value:g}" for name, value in words.items() if value]
        return ", ".join([*told, f"radius {radius}", *(["exposure"] if self.policy.exposure else [])])


@dataclass
class Track:
    """What one setting did, frame by frame; `boxes` counts matched, extra and missing ones against dense.

    causes: for each frame the share of blocks of each of CAUSES. marks: the frames in which something happened.
    """

    name: str
    knobs: str
    work_share: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    causes: list[list[float]] = field(default_factory=list)
    marks: dict[str, list[int]] = field(default_factory=lambda: {"dense": [], "moved": [], "rolled": []})
    max_error: float = 0.0
    agreements: list[float | None] = field(default_factory=list)
    boxes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    layers: dict[str, float] = field(default_factory=dict)

    def saw(self, stats: Any, seen: Seen) -> None:
        """Add what a stream says of its last frame."""
        happened = {
            "dense": bool(stats.dense),
            "moved": any(getattr(stats, "shift", ())),
            "rolled": any(getattr(stats, "roll", ())),
        }
        for what, yes in happened.items():
            if yes:
                self.marks[what].append(len(self.work_share))
        self.work_share.append(float(stats.work_share))
        self.causes.append(seen.shares())
        for name, share in stats.layers.items():
            self.layers[name] = self.layers.get(name, 0.0) + float(share)

    def compare(self, outputs: Sequence[Array], dense: Sequence[Array], decode: Decode | None) -> None:
        """Add one frame's agreement with dense inference."""
        errors = [largest_error(one, two) for one, two in zip(outputs, dense, strict=True)]
        self.max_error = max([self.max_error, *errors])
        if decode is None:
            self.agreements.append(likeness(outputs, dense))
        else:
            counts = match_boxes(decode(outputs), decode(dense))
            self.boxes += counts
            self.agreements.append(f1(counts))

    def agreement(self, decode: Decode | None) -> float | None:
        """Return F1 of all boxes, or the mean likeness of the outputs; None where there was nothing to compare."""
        if decode is not None:
            return f1(self.boxes)
        known = [value for value in self.agreements if value is not None]
        return mean(known) if known else None

    def cut(self, count: int) -> None:
        """Keep so many frames: the one under way may be in some lists only."""
        for values in (self.work_share, self.ms, self.causes, self.agreements):
            del values[count:]
        self.marks = {what: [frame for frame in frames if frame < count] for what, frames in self.marks.items()}


@dataclass
class Playback:
    """The result: a track for dense, when it was compared, and for each setting.

    layer_ms: the time spent in each layer under the last setting, where it was asked for and the stream tells it.
    """

    tracks: list[Track]
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
    decode: Decode | None = None,
    writer: Writer | None = None,
    time_layers: bool = False,
    on_frame: Callable[[Playback], None] = lambda playback: None,
) -> Playback:
    """Play fitted frames through the net; Ctrl-C and a clip that breaks off end it early, with what was done."""
    streams = [net.stream(policy=setting.policy) for setting in settings]
    tracks = [Track(setting.name, setting.knobs) for setting in settings]
    dense_track = Track("dense", "the whole net on every frame")
    playback = Playback([dense_track, *tracks] if compare else tracks)
    strip = Strip()
    below: Image | None = None
    try:
        for index, (image, placement) in enumerate(frames):
            if index == 0:
                _warm(streams, image, time_layers)
            panels = []
            dense: list[Array] = []
            if compare:
                dense, ms = _timed(net.dense, image)
                dense_track.ms.append(ms)
                dense_track.work_share.append(1.0)
                dense_track.compare(dense, dense, decode)
                panels.append(panel(image, placement, None, decode(dense) if decode else None, "dense", 1.0))
            told: dict[str, None] = {}
            for stream, track in zip(streams, tracks, strict=True):
                outputs, ms = _timed(stream, image)
                seen = Seen.of(stream.stats, image.shape)
                track.ms.append(ms)
                track.saw(stream.stats, seen)
                told |= dict.fromkeys(seen.tells)
                if compare:
                    track.compare(outputs, dense, decode)
                boxes = decode(outputs) if decode else None
                panels.append(panel(image, placement, seen, boxes, track.name, track.work_share[-1]))
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


def _warm(streams: Sequence[Any], image: Image, time_layers: bool) -> None:
    """A stream's memory comes into being at its first frame, which would be told as the time of a dense one."""
    for stream in streams:
        stream(image)
        stream.reset()
    if time_layers and streams and hasattr(streams[-1], "time_layers"):
        streams[-1].time_layers(True)


def _timed(infer: Callable[[Image], Any], image: Image) -> tuple[list[Array], float]:
    began = time.perf_counter()
    outputs = leaves(infer(image))
    return outputs, 1000 * (time.perf_counter() - began)


def settings_of(playback: Playback, decode: Decode | None, compare: bool = True) -> list[report.Setting]:
    """Return the rows of the report's first table."""
    return [
        report.Setting(
            name=track.name,
            knobs=track.knobs,
            work_share=track.work_share,
            agreement=track.agreement(decode) if compare else None,
            max_error=track.max_error if compare else None,
            ms_per_frame=mean(track.ms) if track.ms else None,
            dense_frames=len(track.marks["dense"]),
        )
        for track in playback.tracks
    ]


def timeline_of(track: Track) -> report.Timeline:
    """Return what the page's timeline shows of a setting."""
    return report.Timeline(
        causes={cause: [shares[number] for shares in track.causes] for number, cause in enumerate(CAUSES)},
        ms=track.ms,
        dense_ms=min((track.ms[frame] for frame in track.marks["dense"]), default=None),
        agreement=track.agreements,
        marks=track.marks,
    )


def layers_of(explained: Mapping[str, Any], track: Track, num_frames: int) -> list[report.Layer]:
    """Return the report's layer table: what `explain()` says, and what each layer did under one setting."""
    return [
        report.Layer(
            name=layer["name"],
            op=layer["op"],
            domain=layer["domain"],
            form=layer["form"],
            macs=layer["macs"],
            reason=layer.get("reason") or "",
            share=track.layers[layer["name"]] / num_frames if num_frames and layer["name"] in track.layers else None,
        )
        for layer in explained["layers"]
    ]


def leaves(tree: Any) -> list[Array]:
    """Return the arrays of a tree of tensors, in order; a dict by its own order."""
    if isinstance(tree, Mapping):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    if isinstance(tree, (list, tuple)):
        return [leaf for value in tree for leaf in leaves(value)]
    if tree is None:
        return []
    return [np.asarray(tree.detach().cpu() if hasattr(tree, "detach") else tree)]


def run_of(
    net: Net,
    playback: Playback,
    *,
    title: str,
    model: str,
    clip: str,
    size: tuple[int, int],
    compare: bool = True,
    decode: Decode | None = None,
    video: Path | None = None,
) -> report.Run:
    """Return what a report shows of a playback; timeline and layers are those of the last setting."""
    explained = net.explain().to_json()
    last = playback.tracks[-1]
    small = video is not None and video.exists() and video.stat().st_size <= report.EMBEDDED_VIDEO_BYTES
    return report.Run(
        title=title,
        model=model,
        clip=clip,
        size=size,
        settings=settings_of(playback, decode, compare),
        layers=layers_of(explained, last, playback.num_frames),
        layers_setting=last.name,
        layer_ms=playback.layer_ms,
        timeline=timeline_of(last) if last.causes else None,
        pictures=playback.pictures,
        video=video.read_bytes() if video is not None and small else b"",
        video_name=video.name if video is not None and video.exists() else "",
        total_macs=explained["total_macs"],
        blocked_mac_share=explained["blocked_mac_share"],
        agreement_name="likeness" if decode is None else "F1 of boxes at IoU 0.75",
        agreement_note=LIKENESS_NOTE if decode is None else BOXES_NOTE,
        notes=playback.notes,
        interrupted=playback.interrupted,
    )
