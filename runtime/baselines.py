"""What ours is compared with, on the same nets, kernels and codecs: for each picture, what runs where.

A baseline takes a picture and what is known of the link, and goes through stages: each is yielded with the work it is
and the function that does it, or with the bytes that cross; who drives it sends back what the function gave. So it is
driven for real, each stage on its device and timed, or on a virtual clock, or at once by `finish`. No I/O, no clock.

    Dense     the whole net on the edge, on every frame
    Offload   every frame to the cloud: raw, JPEG or H.264
    Delta     DeltaCNN: changed pixels through every layer, where that is faster; no motion, no blocks, no salience

SPINN and COACH, which cut the net, are in `split_baselines`.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import OptionError
from fluxcompile.runtime.canvas import Pair, centred
from fluxcompile.runtime.changed_blocks import QUALITY, from_jpeg, jpeg
from fluxcompile.runtime.device import Work
from fluxcompile.runtime.fit import Image
from fluxcompile.runtime.frame import leaves
from fluxcompile.runtime.latency import BLOCK
from fluxcompile.runtime.plan import CpuStream
from fluxcompile.runtime.profile import Profile
from fluxcompile.runtime.rate import LinkView
from fluxcompile.runtime.transport import CODECS, Sender

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
PAID_BACK = 30
"""Frames in which a change of place should be worth what it costs to catch up there."""


@dataclass(frozen=True, eq=False)
class Stage:
    """Work on one device, which `run` does, or bytes on the uplink. place: edge, uplink or cloud."""

    place: str
    work: Work | None = None
    run: Callable[[], Any] = lambda: None
    num_bytes: int = 0


@dataclass(frozen=True, eq=False)
class Outcome:
    """A picture's outputs, of a picture in the middle of the net's input.

    hit_ratio: the share of the picture that was reused. work_share: MACs that ran, over those of a dense frame. stages:
    as `finish` went through them.
    """

    outputs: list[Array]
    hit_ratio: float = 0.0
    work_share: float = 1.0
    stages: tuple[Stage, ...] = ()

    @property
    def num_bytes(self) -> int:
        return sum(stage.num_bytes for stage in self.stages)


Steps = Generator[Stage, Any, Outcome]
"""The stages of a picture, one after the other."""


class Baseline(Protocol):
    """One camera's. Pictures are uint8 (height, width, 3), not larger than the net's input."""

    def reset(self) -> None: ...

    def step(self, picture: Image, link: LinkView) -> Steps: ...


def finish(steps: Steps) -> Outcome:
    """The outcome, each stage's work done at once."""
    stages: list[Stage] = []
    given: Any = None
    while True:
        try:
            stages.append(steps.send(given))
        except StopIteration as end:
            outcome: Outcome = end.value
            return replace(outcome, stages=tuple(stages))
        given = stages[-1].run()


def run_dense(stream: CpuStream, *inputs: Any) -> Any:
    """The stream's outputs, nothing reused."""
    stream.reset()
    return stream(*inputs)


def copied(outputs: Any) -> list[Array]:
    """The arrays in a tree of outputs, which the next frame does not write into."""
    return [np.array(leaf) for leaf in leaves(outputs)]


def compute(place: str, stream: CpuStream, picture: Image, size: Pair) -> Stage:
    """The whole net on a whole picture."""
    return Stage(place, dense_work(size), lambda: copied(run_dense(stream, centred(picture, size))))


class Dense:
    """The whole net on the edge, on every frame."""

    def __init__(self, stream: CpuStream, size: Pair) -> None:
        self._stream, self._size = stream, size

    def reset(self) -> None: ...

    def step(self, picture: Image, link: LinkView) -> Steps:
        del link
        return Outcome((yield compute("edge", self._stream, picture, self._size)))


class Offload:
    """Every frame to the cloud, whole, and dense inference there of what it decodes."""

    def __init__(self, stream: CpuStream, size: Pair, codec: str, **options: Any) -> None:
        """options: of H.264, as of `transport.Sender`: fps, crf."""
        if codec not in CODECS:
            raise OptionError(f"codec is {codec!r}; use {', '.join(CODECS)}")
        self._stream, self._size, self._codec, self._options = stream, size, codec, options
        self.reset()

    def reset(self) -> None:
        self._sender: Sender | None = None

    def step(self, picture: Image, link: LinkView) -> Steps:
        del link
        view, num_bytes = picture, picture.nbytes
        if self._codec != "raw":
            view, num_bytes = yield Stage("edge", Work(self._codec), partial(self._coded, picture))
        yield Stage("uplink", num_bytes=num_bytes)
        return Outcome((yield compute("cloud", self._stream, view, self._size)))

    def _coded(self, picture: Image) -> tuple[Image, int]:
        """What the cloud sees, and the bytes it takes."""
        if self._codec == "jpeg":
            data = jpeg(picture, QUALITY)
            return from_jpeg(data, (picture.shape[0], picture.shape[1])), len(data)
        if self._sender is None:
            self._sender = Sender((picture.shape[0], picture.shape[1]), **self._options)
        packet = self._sender.send(picture, "h264")
        assert self._sender.view is not None
        return self._sender.view, len(packet.data)


class _Pixels:
    """DeltaCNN at one place: the picture its maps were computed from, by pixels."""

    def __init__(self, stream: CpuStream) -> None:
        self.stream = stream
        self.seen: Image | None = None

    def changed(self, picture: Image, threshold: float) -> Mask:
        """Pixels any of whose channels moved by more than the threshold since they were taken in."""
        if self.seen is None:
            return np.ones(picture.shape[:2], np.bool_)
        moved = np.maximum(picture, self.seen) - np.minimum(picture, self.seen)
        return np.asarray((moved > threshold).any(2))

    def with_pixels(self, picture: Image, changed: Mask) -> Image:
        """What changed is the picture's now, the rest is what it was."""
        return picture.copy() if self.seen is None else np.where(changed[:, :, None], picture, self.seen)


class Delta:
    """DeltaCNN: what changed by pixels goes through every layer, cut off there where it is small; no motion.

    threshold: grey levels by which a pixel must move. The streams' policies have the `gate`, the share of each layer's
    own spread by which its cells must move. Both places keep maps of their own; a frame goes where it should be done
    first, and to the cloud as the blocks that hold its changed pixels.
    """

    def __init__(
        self, streams: tuple[CpuStream, CpuStream], profiles: tuple[Profile, Profile], size: Pair, threshold: float
    ) -> None:
        self._edge, self._cloud = (_Pixels(stream) for stream in streams)
        self._profiles, self._size, self._threshold = profiles, size, threshold
        self._bytes_per_block = 3.0 * BLOCK * BLOCK
        self.reset()

    def reset(self) -> None:
        self._sender: Sender | None = None
        self._last = self._edge
        self._edge.seen = self._cloud.seen = None
        self._edge.stream.reset()
        self._cloud.stream.reset()

    def step(self, picture: Image, link: LinkView) -> Steps:
        image = np.asarray(centred(picture, self._size), np.uint8)
        here, there = yield Stage("edge", Work("compare"), partial(self._changed, image))
        usual = _blocks(here if self._last is self._edge else there)
        if self._edge_ms(_blocks(here), usual) <= self._cloud_ms(_blocks(there), usual, link):
            return (yield from self._run(self._edge, image, here, "edge"))
        num_bytes = yield Stage("edge", Work("raw"), partial(self._sent, image, there))
        yield Stage("uplink", num_bytes=num_bytes)
        return (yield from self._run(self._cloud, image, there, "cloud"))

    def _changed(self, image: Image) -> tuple[Mask, Mask]:
        return self._edge.changed(image, self._threshold), self._cloud.changed(image, self._threshold)

    def _sent(self, image: Image, changed: Mask) -> int:
        """The bytes that bring the cloud's pixels up to date."""
        if self._sender is None:
            self._sender = Sender(self._size)
        packet = self._sender.send(self._cloud.with_pixels(image, changed), "raw")
        self._bytes_per_block = len(packet.data) / max(1.0, _blocks(changed))
        return len(packet.data)

    def _edge_ms(self, blocks: float, usual: float) -> float:
        edge, _ = self._profiles
        return _paid_back(edge.ms(blocks), edge.ms(usual))

    def _cloud_ms(self, blocks: float, usual: float, link: LinkView) -> float:
        _, cloud = self._profiles
        now, then = (link.delivery_ms(n * self._bytes_per_block) + cloud.ms(n) for n in (blocks, usual))
        return _paid_back(now, then)

    def _run(self, place: _Pixels, image: Image, changed: Mask, name: str) -> Steps:
        work = Work("compute", _blocks(changed), dense=place.seen is None)
        place.seen, self._last = place.with_pixels(image, changed), place
        outputs = yield Stage(name, work, lambda: copied(place.stream(place.seen, miss=changed)))
        stats = place.stream.stats
        assert stats is not None
        return Outcome(outputs, hit_ratio=1.0 - float(changed.mean()), work_share=stats.work_share)


def _blocks(changed: Mask) -> float:
    """The area of pixels."""
    return float(np.count_nonzero(changed)) / BLOCK**2


def _paid_back(now_ms: float, usual_ms: float) -> float:
    """A frame's time at a place: what it usually is, and a part of what catching up costs now."""
    return usual_ms + max(0.0, now_ms - usual_ms) / PAID_BACK


def dense_work(size: Pair, share: float = 1.0) -> Work:
    """All blocks of a frame, through a share of the net."""
    return Work("compute", size[0] * size[1] / BLOCK**2, dense=True, share=share)
