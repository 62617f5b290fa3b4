"""Streams over whole clips: their time beside the fastest dense peer's, their results beside those of dense inference.

`fluxcompile bench MODEL --clips` is this. A clip is decoded and fitted before anything is timed; what a stream does
with a frame, from bytes to outputs, is timed whole. Dense results are computed once a clip for all policies. The peer
takes its turns between the frames of a stream, on the same frames; making them its floats is not counted against it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile import peers
from fluxcompile.bench import machine, over, torch_threads
from fluxcompile.errors import OptionError
from fluxcompile.options import Frames, Policy
from fluxcompile.peers import Infer, Peer, arrays, peer_run
from fluxcompile.runtime.video import Image, TruncatedVideo, VideoError, fit, frames
from fluxcompile.tasks import Delay, Task, delay_figures, task_of
from fluxcompile.timing import take_turns, uncollected

Array = npt.NDArray[Any]
SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}
PEERS = ("openvino", "onnxruntime")
POLICY = Policy(exact=False, residual=3.0, radius=8)
PEER_TURNS = 40
"""How often a clip's frames are shown to the peer, in each pass of a stream."""
FEWEST_BETWEEN = 5
"""Frames of a stream between two turns of the peer, which leaves the processor's caches cold."""
TRIALS = 5
"""Rounds in which the peers are timed to find the fastest."""


@dataclass(frozen=True)
class Plan:
    """What is measured; `frames` None plays clips to their end, `task` None is guessed from the outputs."""

    policies: Sequence[Policy] = (POLICY,)
    frames: int | None = None
    threads: int = 1
    backend: str = "cpu"
    peers: Sequence[str] = PEERS
    task: str | None = None


@dataclass
class Track:
    """What one policy did over a clip, or over several."""

    work: list[float] = field(default_factory=list)
    hits: list[float] = field(default_factory=list)
    dense: list[bool] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    peer_ms: list[float] = field(default_factory=list)
    tallies: list[Array] = field(default_factory=list)
    delays: list[Delay] = field(default_factory=list)

    def row(self, clip: str, task: Task) -> dict[str, Any]:
        """The figures: `speedup` is of medians, `of_best_dense` of means, so that dense frames count in full."""
        told = task.told(self.tallies)
        per_frame = told.pop("per_frame")
        ours, theirs = (median(ms) if ms else None for ms in (self.ms, self.peer_ms))
        found = {
            "clip": clip,
            "frames": len(self.ms),
            "work_share": mean(self.work),
            "speedup": over(theirs, ours),
            "ms": ours,
            "ms_mean": mean(self.ms),
            "ms_worst": max(self.ms),
            "peer_ms": theirs,
            "peer_ms_least": min(self.peer_ms, default=None),
            "of_best_dense": over(mean(self.ms), mean(self.peer_ms) if self.peer_ms else None),
            "hit_ratio": mean(self.hits),
            "dense_frames": sum(self.dense),
            **told,
        }
        if task.delays:
            found["new_object_delay"] = delay_figures(self.delays)
        return {**found, "per_frame": {task.figure: per_frame, "work_share": self.work, "ms": self.ms}}

    def add(self, other: "Track") -> None:
        for name, values in vars(other).items():
            getattr(self, name).extend(values)


@dataclass
class Result:
    """One policy over all clips; `figure` names the one of the task's figures that stands for them."""

    model: str
    machine: dict[str, Any]
    threads: int
    backend: str
    frame: tuple[int, int]
    macs: int
    policy: dict[str, Any]
    task: str = ""
    figure: str = ""
    best_dense: str | None = None
    peers: list[dict[str, Any]] = field(default_factory=list)
    clips: list[dict[str, Any]] = field(default_factory=list)
    all: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_clips(text: str) -> list[Path]:
    """The clips of a folder, or those that are named, with commas between them."""
    found: list[Path] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        path = Path(word)
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside or not path.exists():
            raise OptionError(f"--clips {word}: {'holds no clip' if path.exists() else 'no such file or folder'}")
        found += inside
    if not found:
        raise OptionError("--clips names no clip; give a folder, or files with commas between them")
    return found


def measure(
    name: str,
    net: Any,
    source: Any,
    pixels: Frames | None,
    clips: Sequence[Path],
    plan: Plan,
    *,
    on_step: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Result]:
    """A result for each policy; Ctrl-C ends it early, with what was done.

    net: takes camera frames. source: what the peers get, a module, a path, or None for the net's own dense graph;
    pixels: how camera frames become its input.
    """
    (shape,) = net.input_shapes
    size = (int(shape[0]), int(shape[1]))
    about = (name, machine(), plan.threads, plan.backend, size, net.explain().to_json()["total_macs"])
    results = [Result(*about, policy=policy.to_json()) for policy in plan.policies]
    bench = _Bench(net, source, pixels, size, plan, on_step)
    totals = [Track() for _ in results]
    with torch_threads(plan.threads):
        try:
            for clip in clips:
                tracks: list[Track] = []
                try:
                    for track in bench.clip(clip):
                        tracks.append(track)
                except VideoError as error:
                    if len(clips) == 1:
                        raise
                    bench.notes.append(str(error))
                finally:
                    for result, total, track in zip(results, totals, tracks, strict=False):
                        _fill(result, bench, clip.stem, total, track)
        except KeyboardInterrupt:
            for result in results:
                result.interrupted = True
    for result in results:
        result.notes = bench.notes
        if bench.peer is not None:
            result.best_dense, result.peers = bench.peer.name, bench.peers
    return results


def _fill(result: Result, bench: "_Bench", clip: str, total: Track, track: Track) -> None:
    """A clip's row, the agreement of its first and last quarter, and the row of all clips so far."""
    task = bench.task
    if not track.ms or task is None:
        return
    total.add(track)
    result.task, result.figure = task.name, task.figure
    quarter = max(1, len(track.ms) // 4)
    quarters = {"first_quarter": track.tallies[:quarter], "last_quarter": track.tallies[-quarter:]}
    row = track.row(clip, task)
    row |= {name: task.figures(tallies)[task.figure] for name, tallies in quarters.items()}
    result.clips.append(row)
    result.all = total.row("all", task)
    del result.all["per_frame"]
    for name in quarters:
        known = [row[name] for row in result.clips if row[name] is not None]
        result.all[name] = mean(known) if known else None


class _Bench:
    """The streams, one for each policy, and the fastest peer, opened at the first frame."""

    def __init__(
        self, net: Any, source: Any, pixels: Frames | None, size: tuple[int, int], plan: Plan, on_step: Any
    ) -> None:
        self.net, self.size, self.plan, self.on_step = net, size, plan, on_step
        self.streams = [net.stream(policy, backend=plan.backend, threads=plan.threads) for policy in plan.policies]
        self.task: Task | None = None
        self.peer: Peer | None = None
        self.peers: list[dict[str, Any]] = []
        self.notes: list[str] = []
        takes_bytes = source is None or (isinstance(source, Path) and source.suffix not in (".onnx", ".pt2"))
        self._source = None if takes_bytes else source
        self._pixels = None if takes_bytes else pixels or Frames()
        self._shown: Array | None = None

    def clip(self, clip: Path) -> Iterator[Track]:
        """A track for each policy, one after the other; the one under way is given as far as it came."""
        images = self._images(clip)
        if not images:
            return
        dense = list(self._dense(clip.stem, images))
        if self.peer is None and self.plan.peers:
            self._open_peers(images[0])
        for number, stream in enumerate(self.streams, 1):
            what = clip.stem if len(self.streams) == 1 else f"{clip.stem}, policy {number} of {len(self.streams)}"
            track, results = Track(), list[Any]()
            try:
                with uncollected():
                    self._play(what, stream, images, track, results)
            except KeyboardInterrupt:
                yield self._compared(track, results, dense)
                raise
            yield self._compared(track, results, dense)

    def _images(self, clip: Path) -> list[Image]:
        images: list[Image] = []
        self.on_step(f"{clip.stem}: decoding", 0, 1)
        try:
            for image in frames(clip, count=self.plan.frames):
                images.append(fit(image, *self.size)[0])
        except TruncatedVideo as error:
            self.notes.append(str(error))
        return images

    def _dense(self, clip: str, images: Sequence[Image]) -> Iterator[Any]:
        for index, image in enumerate(images):
            outputs = arrays(self.net.dense(image))
            if self.task is None:
                self.task = task_of(outputs, self.plan.task)
            yield self.task.decode(outputs, self.size)
            self.on_step(f"{clip}: dense", index + 1, len(images))

    def _play(self, what: str, stream: Any, images: Sequence[Image], track: Track, results: list[Any]) -> None:
        assert self.task is not None
        every = max(FEWEST_BETWEEN, len(images) // PEER_TURNS)
        stream(images[0])  # its memory comes into being at its first frame
        stream.reset()
        for index, image in enumerate(images):
            began = time.perf_counter()
            outputs = stream(image)
            took = 1000 * (time.perf_counter() - began)
            results.append(self.task.decode(arrays(outputs), self.size))
            stats = stream.stats
            track.work.append(float(stats.work_share))
            track.hits.append(0.0 if stats.dense else 1.0 - float(np.mean(stats.miss)))
            track.dense.append(bool(stats.dense))
            track.ms.append(took)
            if self.peer is not None and self.peer.infer and index % every == every // 2:
                self._show(image)
                track.peer_ms.append(_timed_ms(self.peer.infer))
            self.on_step(what, index + 1, len(images))

    def _compared(self, track: Track, results: Sequence[Any], dense: Sequence[Any]) -> Track:
        assert self.task is not None
        done = min(len(track.ms), len(results))
        kept = {name: values[:done] for name, values in vars(track).items() if name != "peer_ms"}
        track = replace(track, **kept)
        track.tallies = [self.task.compare(one, two) for one, two in zip(results[:done], dense[:done], strict=True)]
        if self.task.delays:
            track.delays = self.task.delays(results[:done], dense[:done])
        return track

    def _open_peers(self, image: Image) -> None:
        """Open them, and keep the fastest."""
        self._shown = np.array(image) if self._pixels is None else as_input(image, self._pixels)
        model = peers.Model(self._source, self.net.program, [self._shown])
        ours = arrays(self.net.dense(image))
        opened: list[Peer] = []
        for peer in peers.open_peers(model, self.plan.threads, ours, self.plan.peers):
            opened.append(peer)
            self.on_step("opening peers", len(opened), len(self.plan.peers))
        (self._shown,) = model.frames  # the memory that the peers read
        runs = {peer.name: peer_run(peer.infer) for peer in opened if peer.infer}
        if not take_turns(runs, TRIALS):
            raise KeyboardInterrupt
        timed = {name: run.best_ms for name, run in runs.items() if run.best_ms is not None}
        for peer in opened:
            told = {"name": peer.name, "version": peer.version, "reason": peer.reason}
            self.peers.append({**told, "ms": timed.get(peer.name), "max_relative_error": peer.max_relative_error})
        self.notes += [f"{peer.name} left out: {peer.reason}" for peer in opened if peer.reason]
        if timed:
            best = min(timed, key=lambda name: timed[name])
            self.peer = next(peer for peer in opened if peer.name == best)

    def _show(self, image: Image) -> None:
        assert self._shown is not None
        self._shown[...] = image if self._pixels is None else as_input(image, self._pixels)


def as_input(image: Image, pixels: Frames) -> npt.NDArray[np.float32]:
    """A camera frame as a model takes it: [1, 3, h, w]."""
    shift, spread = (np.asarray(values, np.float32) for values in (pixels.mean, pixels.std))
    values = (image.astype(np.float32) * np.float32(pixels.scale) - shift) / spread
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)


def _timed_ms(infer: Infer) -> float:
    infer()  # its weights and maps come back into the caches, as between frames
    began = time.perf_counter()
    infer()
    return 1000 * (time.perf_counter() - began)
