"""Play a clip through a net under several settings beside dense inference, and keep what a report shows.

`fluxcompile run` and `fluxcompile demo` are this, with different nets, clips and ways to read the outputs.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fluxcompile.options import TILE_PIXELS, Policy
from fluxcompile.runtime import report
from fluxcompile.runtime.video import Image, Placement, TruncatedVideo, Writer

Array = npt.NDArray[Any]
Decode = Callable[[Sequence[Array]], npt.NDArray[np.float32]]
"""From the outputs, as a flat list of arrays, to boxes [n, 5]: xyxy in pixels of the fitted frame, then a score."""

RECOMPUTED = (235, 110, 20)
BOXED = (60, 220, 110)
PANEL_WIDTH = 352
HEADER_HEIGHT = 24
PICTURES = 6
LIKENESS_NOTE = "Likeness is 1 minus the relative error of the worst output against dense inference on the same frame."
BOXES_NOTE = (
    "F1 counts boxes that overlap one of dense inference on the same frame by three quarters or more (IoU 0.75)."
)


class Stats(Protocol):
    """What a stream says about its last frame."""

    work_share: float
    miss: Array
    dense: bool
    layers: dict[str, float]


class Stream(Protocol):
    """The state of one camera."""

    @property
    def stats(self) -> Any: ...
    def __call__(self, frame: Image) -> Any: ...


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
        return f"threshold {self.policy.threshold:g}, radius {radius}, gate {self.policy.gate:g}"


@dataclass
class Track:
    """What one setting did, frame by frame; `boxes` counts matched, extra and missing ones against dense."""

    name: str
    knobs: str
    work_share: list[float] = field(default_factory=list)
    dense_frames: int = 0
    seconds: float = 0.0
    max_error: float = 0.0
    likeness: list[float] = field(default_factory=list)
    boxes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    layers: dict[str, float] = field(default_factory=dict)

    def compare(self, outputs: Sequence[Array], dense: Sequence[Array], decode: Decode | None) -> None:
        """Add one frame's agreement with dense inference."""
        errors = [_largest_error(one, two) for one, two in zip(outputs, dense, strict=True)]
        self.max_error = max([self.max_error, *errors])
        if decode is None:
            self.likeness.append(likeness(outputs, dense))
        else:
            self.boxes += match_boxes(decode(outputs), decode(dense))

    def agreement(self, decode: Decode | None) -> float | None:
        """Return F1 of the boxes, or the mean likeness of the outputs; None where there was nothing to compare."""
        if decode is None:
            return float(np.mean(self.likeness)) if self.likeness else None
        matched, extra, missing = (int(count) for count in self.boxes)
        return 2 * matched / (2 * matched + extra + missing) if matched + extra + missing else None


@dataclass
class Playback:
    """The result: a track for dense, when it was compared, and for each setting."""

    tracks: list[Track]
    num_frames: int = 0
    pictures: list[report.Picture] = field(default_factory=list)
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
    on_frame: Callable[[Playback], None] = lambda playback: None,
) -> Playback:
    """Play fitted frames through the net; Ctrl-C and a clip that breaks off end it early, with what was done."""
    streams = [net.stream(policy=setting.policy) for setting in settings]
    tracks = [Track(setting.name, setting.knobs) for setting in settings]
    dense_track = Track("dense", "the whole net on every frame")
    playback = Playback([dense_track, *tracks] if compare else tracks)
    strip = Strip()
    try:
        for index, (image, placement) in enumerate(frames):
            panels = []
            dense: list[Array] = []
            if compare:
                began = time.perf_counter()
                dense = leaves(net.dense(image))
                dense_track.seconds += time.perf_counter() - began
                dense_track.work_share.append(1.0)
                dense_track.compare(dense, dense, decode)
                panels.append(panel(image, placement, None, decode(dense) if decode else None, "dense", 1.0))
            for stream, track in zip(streams, tracks, strict=True):
                began = time.perf_counter()
                outputs = leaves(stream(image))
                track.seconds += time.perf_counter() - began
                stats: Stats = stream.stats
                track.work_share.append(float(stats.work_share))
                track.dense_frames += bool(stats.dense)
                for name, share in stats.layers.items():
                    track.layers[name] = track.layers.get(name, 0.0) + float(share)
                if compare:
                    track.compare(outputs, dense, decode)
                boxes = decode(outputs) if decode else None
                panels.append(panel(image, placement, stats.miss, boxes, track.name, track.work_share[-1]))
            picture = np.hstack(panels)
            if writer is not None:
                writer.write(picture)
            strip.offer(index, picture)
            playback.num_frames += 1
            on_frame(playback)
    except KeyboardInterrupt:
        playback.interrupted = True
        for track in playback.tracks:  # the frame under way may be in some tracks only
            del track.work_share[playback.num_frames :]
    except TruncatedVideo as error:
        playback.notes.append(str(error))
    playback.pictures = strip.pictures()
    return playback


def settings_of(playback: Playback, decode: Decode | None, compare: bool = True) -> list[report.Setting]:
    """Return the rows of the report's first table."""
    return [
        report.Setting(
            name=track.name,
            knobs=track.knobs,
            work_share=track.work_share,
            agreement=track.agreement(decode) if compare else None,
            max_error=track.max_error if compare else None,
            ms_per_frame=1000 * track.seconds / playback.num_frames if playback.num_frames else None,
            dense_frames=track.dense_frames,
        )
        for track in playback.tracks
    ]


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


def likeness(outputs: Sequence[Array], dense: Sequence[Array]) -> float:
    """Return 1 minus the relative error (root mean square) of the worst output, not below 0."""
    return min((_likeness(one, two) for one, two in zip(outputs, dense, strict=True)), default=1.0)


def _likeness(one: Array, two: Array) -> float:
    difference = _difference(one, two)
    if not np.isfinite(difference).all():
        return 0.0
    error, norm = (
        float(np.linalg.norm(difference)),
        float(np.linalg.norm(np.nan_to_num(two.astype(np.float64), posinf=0, neginf=0))),
    )
    return max(0.0, 1.0 - error / norm) if norm else float(error == 0)


def _largest_error(one: Array, two: Array) -> float:
    return float(_difference(one, two).max(initial=0.0))


def _difference(one: Array, two: Array) -> npt.NDArray[np.float64]:
    """Return |one - two|; what is infinite or NaN in both alike differs by 0, in one alone by infinity."""
    ours, theirs = one.astype(np.float64), two.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(ours - theirs)
    alike = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    return np.where(alike, 0.0, np.where(np.isnan(difference), np.inf, difference))


def match_boxes(
    boxes: npt.NDArray[np.float32], dense: npt.NDArray[np.float32], overlap: float = 0.75
) -> npt.NDArray[np.int64]:
    """Return how many boxes match one of dense, are extra, are missing; best scores choose first, one to one."""
    free = list(range(len(dense)))
    matched = 0
    for box in sorted(boxes, key=lambda row: -float(row[4])):
        best = max(free, key=lambda index: iou(box, dense[index]), default=None)
        if best is not None and iou(box, dense[best]) >= overlap:
            free.remove(best)
            matched += 1
    return np.array([matched, len(boxes) - matched, len(dense) - matched])


def iou(one: npt.NDArray[np.float32], two: npt.NDArray[np.float32]) -> float:
    """Return intersection over union of two xyxy boxes."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = float(width * height)
    return both / float((one[2] - one[0]) * (one[3] - one[1]) + (two[2] - two[0]) * (two[3] - two[1]) - both)


def panel(
    image: Image,
    placement: Placement,
    miss: Array | None,
    boxes: npt.NDArray[np.float32] | None,
    name: str,
    share: float,
) -> Image:
    """Return one annotated view: tiles with a change in them tinted, boxes drawn, a header that says what it cost."""
    import cv2

    view = placement.crop(image).copy()
    if miss is not None:
        there = placement.crop(whole_tiles(np.broadcast_to(np.asarray(miss, bool), image.shape[:2])))
        view[there] = (0.62 * view[there] + 0.38 * np.array(RECOMPUTED)).astype(np.uint8)
    scale = max(1, round(PANEL_WIDTH / view.shape[1]))
    if scale > 1:
        view = np.asarray(cv2.resize(view, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR), np.uint8)
    for box in boxes if boxes is not None else ():
        left, right = (round(float(scale * (x - placement.left))) for x in box[0:3:2])
        top, bottom = (round(float(scale * (y - placement.top))) for y in box[1:4:2])
        cv2.rectangle(view, (left, top), (right, bottom), BOXED, 2, cv2.LINE_AA)
    header = np.full((HEADER_HEIGHT, view.shape[1], 3), 24, np.uint8)
    cv2.rectangle(
        header, (0, HEADER_HEIGHT - 3), (round(view.shape[1] * min(share, 1.0)), HEADER_HEIGHT), RECOMPUTED, -1
    )
    text = f"{name}: {share:.0%} of the work"
    cv2.putText(header, text, (8, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.44, (235, 235, 235), 1, cv2.LINE_AA)
    framed = np.vstack([header, view])
    framed[:, -1] = 24  # a seam between panels that stand side by side
    return framed


def whole_tiles(miss: Array) -> Array:
    """Return a mask of pixels grown to the tiles that hold them: the unit in which the first layers are recomputed."""
    height, width = miss.shape
    rows, columns = -(-height // TILE_PIXELS), -(-width // TILE_PIXELS)
    padded = np.zeros((rows * TILE_PIXELS, columns * TILE_PIXELS), bool)
    padded[:height, :width] = miss
    tiles = padded.reshape(rows, TILE_PIXELS, columns, TILE_PIXELS).any(axis=(1, 3))
    return tiles.repeat(TILE_PIXELS, axis=0).repeat(TILE_PIXELS, axis=1)[:height, :width]


class Strip:
    """Keeps a few pictures spread evenly over a clip whose length nobody knows."""

    def __init__(self) -> None:
        self._every = 1
        self._kept: list[tuple[int, Image]] = []

    def offer(self, index: int, picture: Image) -> None:
        if index % self._every:
            return
        self._kept.append((index, picture))
        if len(self._kept) == 4 * PICTURES:
            self._kept = self._kept[::2]
            self._every *= 2

    def pictures(self) -> list[report.Picture]:
        """Return at most PICTURES of them as JPEG, the first and the last kept one included."""
        chosen = sorted({round(position) for position in np.linspace(0, len(self._kept) - 1, PICTURES)})
        return [
            report.Picture(content=jpeg(picture), caption=f"frame {index}")
            for index, picture in (self._kept[position] for position in chosen if self._kept)
        ]


def jpeg(image: Image, quality: int = 85) -> bytes:
    import cv2

    done, content = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return content.tobytes()


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
    """Return what a report shows of a playback; the layer table is that of the last setting."""
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
