"""Measures a net on this device: `fluxcompile profile MODEL`. See `runtime.profile` for what comes of it.

Frames of chosen activity, blobs that are new before a fixed camera, or those of a clip under a policy: each is timed
whole and by layer, with the blocks that it computed, some of them dense. Of a clip, what is done beside the net too: to
look at a frame, encode and decode it. All are played several times over, and of each
frame the fastest counts: whatever else the machine did then made it slower.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from fluxcompile.errors import OptionError
from fluxcompile.measure.activity import Camera, draw
from fluxcompile.measure.machine import torch_threads
from fluxcompile.measure.peers.shown import Shown
from fluxcompile.options import Frames, Policy
from fluxcompile.runtime.fit import Image
from fluxcompile.runtime.latency import BLOCK, fit
from fluxcompile.runtime.profile import LayerProfile, Profile
from fluxcompile.runtime.transport import CODECS, Receiver, Sender

if TYPE_CHECKING:
    from fluxcompile.tasks import Task

ACTIVITIES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""Shares of a frame that are new, where no clip says it."""
DRAWN = 4
"""Frames of each activity."""
FEWEST = 8
"""Frames that are not dense without which no curve is fitted."""
CODED = 40
"""Frames of a clip that are encoded and decoded."""
PEER_TRIALS = 30
"""Rounds in which dense runtimes are timed."""
GROUPS = 9
"""Activities at which layers are told."""

Step = Callable[[int], None]
Call = Callable[[], Any]
Turn = tuple[Call, Call]
"""To look at a frame, and to compute it."""


def nothing() -> None:
    """What there is to look at in a frame of which all is known."""


@dataclass(frozen=True)
class Sample:
    """A frame: blocks computed, milliseconds, and by layer milliseconds and the share of cells computed.

    look_ms: of looking at it before.
    """

    blocks: float
    ms: float
    dense: bool
    layer_ms: dict[str, float]
    shares: dict[str, float]
    look_ms: float = 0.0


def profile_net(
    net: Any,
    *,
    device: str,
    name: str,
    clips: Sequence[str] = (),
    policy: Policy | None = None,
    task: "Task | str | None" = None,
    frames: int | None = None,
    rounds: int = 4,
    threads: int = 1,
    seed: int = 0,
    peer: tuple[str, float] | None = None,
    on_step: Step = lambda done: None,
) -> Profile:
    """The profile of a net on this device.

    clips, policy, task, frames: play these so, and so many frames of each; otherwise frames of each of `ACTIVITIES`
    are made, whose changes spread no further than the policy lets them (not at all, if none is given).
    rounds: how often all are played. peer: the fastest dense runtime here and what a frame takes it, milliseconds.
    """
    if net.program.plan is None:
        raise OptionError("profile: the net has no plan for the CPU, the only device that can be measured here")
    with torch_threads(threads):
        if not clips:
            options: dict[str, Any] = {} if policy is None else {"policy": policy}
            camera = Camera(net, "cpu", threads, seed=seed, **options)
            stream, size, calls = camera.stream, camera.size, partial(_made, camera, seed)
            source = f"frames of {len(ACTIVITIES)} activities"
        else:
            (height, width, *_), *_ = net.input_shapes
            stream, size = net.stream(policy, task=task, threads=threads), (height, width)
            calls = partial(_played, net, stream, clips, frames)
            source = f"{len(clips)} clips, policy {(policy or Policy()).words}"
        samples = _fastest(stream, calls, rounds, on_step)
        beside_ms = _beside(net, stream, clips[0], frames, samples) if clips else {}
    source = f"measured on {source}, {threads} threads, the fastest of {rounds} rounds"
    found = profile_of(samples, device=device, net=name, source=source, frame=size)
    known = {"beside_ms": beside_ms} | ({} if peer is None else {"peer": peer[0], "peer_ms": peer[1]})
    return msgspec.structs.replace(found, **known)


def fastest_peer(
    net: Any, source: Any, pixels: Frames | None, wanted: Sequence[str], threads: int = 1
) -> tuple[str, float]:
    """The dense runtime that is the fastest here, and its least milliseconds; arguments as of `Shown`."""
    shown = Shown(net, source, pixels)
    with torch_threads(threads):
        noise = np.random.default_rng(0).integers(0, 256, (*net.frame_size, 3), np.uint8)
        shown.open(noise, threads, wanted, trials=PEER_TRIALS)
    if shown.fastest is None or shown.fastest_ms is None:
        raise OptionError(f"peers: none of {', '.join(wanted)} runs this net: {'; '.join(shown.notes)}")
    return shown.fastest.name, shown.fastest_ms


def profile_of(samples: Iterable[Sample], *, device: str, net: str, source: str, frame: tuple[int, int]) -> Profile:
    """The profile that frames make."""
    found = list(samples)
    sparse = sorted((s for s in found if not s.dense), key=lambda s: s.blocks)
    if len(sparse) < FEWEST or len(sparse) == len(found):
        raise OptionError(
            f"profile: {len(sparse)} of {len(found)} frames were not dense; a curve needs {FEWEST} or more, and one "
            "that is dense: give more frames, or a policy that reuses more"
        )
    fitted = fit([s.blocks for s in sparse], [s.ms for s in sparse])
    parts = _grouped(sparse, min(GROUPS, len(sparse)))
    layers = {
        layer: LayerProfile(
            ms=[_mean(s.layer_ms[layer] for s in part) for part in parts],
            share=[_mean(s.shares.get(layer, 1.0) for s in part) for part in parts],
        )
        for layer in sparse[0].layer_ms
    }
    return Profile(
        device=device,
        net=net,
        source=source,
        frame=frame,
        dense_ms=median(s.ms for s in found if s.dense),
        a=fitted.curve.a,
        b=fitted.curve.b,
        c=fitted.curve.c,
        residual_ms=fitted.residual_ms,
        left_out_ms=fitted.left_out_ms,
        num_frames=len(sparse),
        activities=[_mean(s.blocks for s in part) for part in parts],
        layers=layers,
    )


def _grouped(samples: list[Sample], count: int) -> list[list[Sample]]:
    """Runs of equal length."""
    edges = np.linspace(0, len(samples), count + 1).astype(int)
    return [samples[low:high] for low, high in itertools.pairwise(edges)]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _fastest(stream: Any, calls: Callable[[], Iterable[Turn]], rounds: int, on_step: Step) -> list[Sample]:
    """Of each frame, the sample of its fastest round."""
    best: list[Sample] = []
    done = 0
    for index in range(-1, rounds):
        stream.reset()
        for at, sample in enumerate(_timed(stream, calls())):
            if index < 0:  # the stream's memory comes into being
                break
            if at == len(best):
                best.append(sample)
            elif sample.ms < best[at].ms:
                best[at] = sample
            on_step(done := done + 1)
    return best


def _timed(stream: Any, calls: Iterable[Turn]) -> Iterator[Sample]:
    """Each call's frame."""
    stream.time_layers(True)
    before = stream.layer_ms()
    for look, call in calls:
        began = time.perf_counter()
        look()
        looked = time.perf_counter()
        call()
        took_ms = 1000 * (time.perf_counter() - looked)
        after, stats = stream.layer_ms(), stream.stats
        layer_ms = {layer: after[layer] - before.get(layer, 0.0) for layer in after}
        yield Sample(
            stats.miss.sum() / BLOCK**2, took_ms, bool(stats.dense), layer_ms, dict(stats.layers),
            1000 * (looked - began),
        )  # fmt: skip
        before = after


def _made(camera: Camera, seed: int) -> Iterator[Turn]:
    """Frames of every activity, in an order of its own, several times; each time begins with a dense one."""
    everything = draw("blobs", camera.size, 1.0, (seed,))
    for index in range(DRAWN):
        order = list(ACTIVITIES)
        random.Random(f"{seed} {index}").shuffle(order)
        camera.stream.reset()
        yield nothing, partial(camera.see, everything)
        for share in order:
            miss = camera.change(draw("blobs", camera.size, share, (seed, index)))
            yield nothing, partial(camera.see, miss)


def _played(net: Any, stream: Any, clips: Sequence[str], count: int | None) -> Iterator[Turn]:
    """The frames of clips, as `run` plays them."""
    for clip in clips:
        stream.reset()
        for picture in _pictures(net, stream, clip, count):
            yield partial(stream.look, picture), stream.compute


def _pictures(net: Any, stream: Any, clip: str, count: int | None) -> Iterator[Image]:
    from fluxcompile.runtime.fit import fit as fitted
    from fluxcompile.runtime.video import frames

    height, width = net.input_shapes[0][:2]
    margin = net.margin if stream.policy.anchor else (0, 0)
    for image in frames(clip, count=count):
        whole, placement = fitted(image, height, width, margin=margin)
        yield np.ascontiguousarray(placement.crop(whole)) if stream.policy.anchor else whole


def _beside(net: Any, stream: Any, clip: str, count: int | None, samples: Sequence[Sample]) -> dict[str, float]:
    """What is done beside the net; of keys, which are rare, nothing."""
    found = {"look": median(sample.look_ms for sample in samples if not sample.dense)}
    pictures = list(_pictures(net, stream, clip, min(count or CODED, CODED)))
    decoded_ms = []
    for codec in CODECS:
        sender, receiver, sent_ms = Sender((pictures[0].shape[0], pictures[0].shape[1])), Receiver(), []
        for picture in pictures:
            began = time.perf_counter()
            packet = sender.send(picture, codec)
            sent = time.perf_counter()
            receiver.receive(packet)
            if not packet.key:
                sent_ms.append(1000 * (sent - began))
                decoded_ms += [1000 * (time.perf_counter() - sent)] if codec == "h264" else []
        found[codec] = median(sent_ms)
    return found | {"decode": median(decoded_ms)}
