"""One clip through streams, dense inference and the fastest peer (see `clips`)."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.measure.bench import over
from fluxcompile.measure.peers import Peer, arrays
from fluxcompile.measure.peers.int8 import Calibration, int8_row
from fluxcompile.measure.peers.shown import Shown
from fluxcompile.measure.timing import second_ms, uncollected
from fluxcompile.options import VIDEO, Frames, Policy
from fluxcompile.runtime.canvas import centred
from fluxcompile.runtime.fit import Image, scaled
from fluxcompile.runtime.video import TruncatedVideo, frames
from fluxcompile.tasks import Delay, Task, delay_figures, task_of

Array = npt.NDArray[Any]
Pair = tuple[int, int]
PEERS = ("openvino", "onnxruntime")
PEER_TURNS = 40
"""How often a clip's frames are shown to the peer, in each pass of a stream."""
FEWEST_BETWEEN = 5
"""Frames of a stream between two turns of the peer, which leaves the processor's caches cold."""


@dataclass(frozen=True)
class Plan:
    """What is measured: `frames` of each clip from `start`, None to its end; `task` None is guessed from outputs."""

    policies: Sequence[Policy] = (VIDEO,)
    frames: int | None = None
    start: int = 0
    threads: int = 1
    backend: str = "cpu"
    peers: Sequence[str] = PEERS
    task: Task | str | None = None
    int8: bool = False


@dataclass
class Track:
    """What one policy did over a clip, or over several."""

    work: list[float] = field(default_factory=list)
    hits: list[float] = field(default_factory=list)
    dense: list[bool] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    peer_ms: list[float] = field(default_factory=list)
    tallies: list[Any] = field(default_factory=list)
    at_camera: list[Any] = field(default_factory=list)
    rolls: list[bool] = field(default_factory=list)
    offsets: list[Pair | None] = field(default_factory=list)
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
            "rolls": sum(self.rolls),
            **told,
            "at_camera": task.figures(self.at_camera),
        }
        if task.delays:
            found["new_object_delay"] = delay_figures(self.delays)
        return {**found, "per_frame": {task.figure: per_frame, "work_share": self.work, "ms": self.ms}}

    def add(self, other: "Track") -> None:
        for name, values in vars(other).items():
            getattr(self, name).extend(values)


class Bench:
    """The streams, one for each policy, and the fastest peer, opened at the first frame."""

    def __init__(
        self, net: Any, source: Any, pixels: Frames | None, size: tuple[int, int], plan: Plan, on_step: Any
    ) -> None:
        self.net, self.size, self.plan, self.on_step = net, size, plan, on_step
        self._streams: dict[Policy, Any] = {}
        self.task: Task | None = None
        self.notes: list[str] = []
        self.int8_rows: list[dict[str, Any]] = []
        self._shown = Shown(net, source, pixels)

    @property
    def peer(self) -> Peer | None:
        """The fastest."""
        return self._shown.fastest

    @property
    def peers(self) -> list[dict[str, Any]]:
        """All that were opened, or the reason why not."""
        return self._shown.told

    def clip(self, clip: Path, calibration: Calibration | None = None) -> Iterator[Track]:
        """A track for each policy, one after the other; the one under way is given as far as it came."""
        loaded = self.load(clip)
        if loaded is None:
            return
        if calibration is not None:
            row = self.int8(clip, loaded, calibration)
            self.int8_rows += [row] if row else []
        for number, policy in enumerate(self.plan.policies, 1):
            several = len(self.plan.policies) > 1
            what = f"{clip.stem}, policy {number} of {len(self.plan.policies)}" if several else clip.stem
            track = Track()
            try:
                self.track(what, loaded, policy, track)
            finally:
                if track.ms:
                    yield track

    def load(self, clip: Path) -> "Loaded | None":
        """A clip's frames and their dense results; None for one without frames."""
        images = self._images(clip)
        if not images:
            return None
        loaded = Loaded(self.net, images, self.size)
        for index in range(len(images)):
            outputs = loaded.outputs(index, None)
            if self.task is None:
                self.task = task_of(outputs, self.plan.task)
            loaded.keep(index, None, self.task.decode(outputs, self.size))
            self.on_step(f"{clip.stem}: dense", index + 1, len(images))
        if self.peer is None and self.plan.peers:
            self._shown.open(
                centred(images[0], self.size), self.plan.threads, self.plan.peers,
                lambda done: self.on_step("opening peers", done, len(self.plan.peers)),
            )  # fmt: skip
            self.notes += self._shown.notes
        return loaded

    def track(self, what: str, loaded: "Loaded", policy: Policy, track: Track) -> Track:
        """Fill a track with what a policy did; Ctrl-C leaves it as far as it came."""
        results = list[Any]()
        images = loaded.images
        shown = images if policy.anchor else [centred(image, self.size) for image in images]
        if policy not in self._streams:
            options = {"backend": self.plan.backend, "threads": self.plan.threads, "task": self.plan.task}
            self._streams[policy] = self.net.stream(policy, **options)
        try:
            with uncollected():
                self._play(what, self._streams[policy], shown, track, results)
        finally:
            self._compare(what, track, results, loaded)
            if policy not in self.plan.policies:
                del self._streams[policy]
        return track

    def int8(self, clip: Path, loaded: "Loaded", calibration: Calibration) -> dict[str, Any] | None:
        """What the same model in eight bits does over the clip, as a row; None where no peer gave it a model."""
        if self._shown.model is None or self.task is None:
            return None
        self.on_step(f"{clip.stem}: int8", 0, 1)
        images = [centred(image, self.size) for image in loaded.images]
        dense = [loaded.result(index, None) for index in range(len(images))]
        return int8_row(
            clip, images, dense, model=self._shown.model, calibration=calibration, show=self._shown.show,
            task=self.task, size=self.size, threads=self.plan.threads, best=self.peer.infer if self.peer else None,
        )  # fmt: skip

    def _images(self, clip: Path) -> list[Image]:
        """The frames as large as they fit, with a margin if any policy moves them."""
        images: list[Image] = []
        self.on_step(f"{clip.stem}: decoding", 0, 1)
        margin = self.net.margin if any(policy.anchor for policy in self.plan.policies) else (0, 0)
        try:
            for image in frames(clip, start=self.plan.start, count=self.plan.frames):
                images.append(np.ascontiguousarray(scaled(image, *self.size, margin)))
        except TruncatedVideo as error:
            self.notes.append(str(error))
        return images

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
            stats, size = stream.stats, image.shape[:2]
            (y, x), (h, w) = stats.offset, size
            track.work.append(float(stats.work_share))
            track.hits.append(0.0 if stats.dense else 1.0 - float(np.mean(stats.miss[y : y + h, x : x + w])))
            track.dense.append(bool(stats.dense))
            track.rolls.append(any(stats.roll))
            track.offsets.append(stats.offset if size != self.size else None)
            track.ms.append(took)
            if self.peer is not None and self.peer.infer and index % every == every // 2:
                self._shown.show(image if size == self.size else centred(image, self.size))
                track.peer_ms.append(second_ms(self.peer.infer))
            self.on_step(what, index + 1, len(images))

    def _compare(self, what: str, track: Track, results: Sequence[Any], dense: "Loaded") -> None:
        task = self.task
        assert task is not None
        done = min(len(track.ms), len(results))
        for name, values in vars(track).items():
            if name != "peer_ms":
                del values[done:]
        home = []
        for index, (result, offset) in enumerate(zip(results[:done], track.offsets, strict=True)):
            if not dense.has(index, offset):
                dense.keep(index, offset, task.decode(dense.outputs(index, offset), self.size))
                self.on_step(f"{what}: dense where frames lay", index + 1, done)
            track.tallies.append(task.compare(result, dense.result(index, offset)))
            home.append(result if offset is None else task.shift(result, dense.back(index, offset)))
            track.at_camera.append(task.compare(home[-1], dense.result(index, None)))
        if task.delays:
            track.delays += task.delays(home, [dense.result(index, None) for index in range(done)])


class Loaded:
    """A clip's frames, and dense results of them: in the middle of the net's input (offset None), or elsewhere."""

    def __init__(self, net: Any, images: Sequence[Image], size: Pair) -> None:
        self._net, self.images, self._size = net, images, size
        self._known: dict[tuple[int, Pair], Any] = {}

    def _key(self, index: int, offset: Pair | None) -> tuple[int, Pair]:
        return index, offset or self._middle(index)

    def _middle(self, index: int) -> Pair:
        h, w = self.images[index].shape[:2]
        return (self._size[0] - h) // 2, (self._size[1] - w) // 2

    def back(self, index: int, offset: Pair) -> Pair:
        """From where the frame lay to the middle."""
        y, x = self._middle(index)
        return y - offset[0], x - offset[1]

    def outputs(self, index: int, offset: Pair | None) -> list[Array]:
        return arrays(self._net.dense(centred(self.images[index], self._size, offset=offset)))

    def has(self, index: int, offset: Pair | None) -> bool:
        return self._key(index, offset) in self._known

    def keep(self, index: int, offset: Pair | None, result: Any) -> None:
        self._known[self._key(index, offset)] = result

    def result(self, index: int, offset: Pair | None) -> Any:
        return self._known[self._key(index, offset)]
