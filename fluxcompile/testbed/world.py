"""Cameras, their links and one server on a virtual clock: what a system does with each picture of a clip.

Ours is the code that runs for real (`Edge`, `Link`, `Server`), on modelled devices and links. A baseline tells the
stages of each picture, and these take their time on the same devices and links. A camera shows each picture of its clip
in turn, no earlier than its time; one that comes while the last is not answered is waited with, not skipped.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fluxcompile.net import Net
from fluxcompile.options import Policy
from fluxcompile.remote import Uplink, checker, edge_of, served_as, worker_of
from fluxcompile.runtime.baselines import Baseline, Outcome
from fluxcompile.runtime.channel import Channel
from fluxcompile.runtime.device import LANES
from fluxcompile.runtime.pool import LocalPool
from fluxcompile.runtime.profile import Profile
from fluxcompile.runtime.rate import LinkEstimate
from fluxcompile.runtime.serve import Limits, Server
from fluxcompile.tasks import Task
from fluxcompile.testbed.clips import Footage
from fluxcompile.testbed.clock import paced, run_virtually
from fluxcompile.testbed.devices import Beside, Modelled, costs
from fluxcompile.testbed.network import Shape, Trace, joined

TOKEN = "testbed"
RESULT_BYTES = 1000
"""What a baseline's answer takes on the way down."""

EDGE, CLOUD = Beside(), Beside(look=0.5, h264=1.0, jpeg=1.0, raw=0.5, compare=0.5, quantise=0.5, decode=0.5)
"""What is done beside the net, where the paper says nothing of it."""


@dataclass(frozen=True)
class Setting:
    """Devices and links. start_s: where in the trace the first camera begins; the next is offset_s further on."""

    edge: Profile
    cloud: Profile
    trace: Trace
    rtt_ms: float
    beside_edge: Beside = EDGE
    beside_cloud: Beside = CLOUD
    start_s: float = 0.0
    offset_s: float = 37.0
    edge_lanes: int = len(LANES)


@dataclass
class Run:
    """What one system did, picture by picture of all cameras; `results` by camera."""

    latency_ms: list[float] = field(default_factory=list)
    lasted_ms: list[float] = field(default_factory=list)
    """How long each picture was the newest: its latency, or till the camera took the next."""
    hits: list[float] = field(default_factory=list)
    sent_bytes: int = 0
    lasted_s: float = 0.0
    edge_busy_ms: float = 0.0
    cloud_busy_ms: float = 0.0
    places: list[str] = field(default_factory=list)
    fallbacks: int = 0
    results: list[list[Any]] = field(default_factory=list)

    def saw(self, latency_ms: float, fps: float, hit_ratio: float, place: str, sent_bytes: int) -> None:
        """One picture, of a camera with so many a second."""
        self.latency_ms.append(latency_ms)
        self.lasted_ms.append(max(latency_ms, 1000 / fps))
        self.hits.append(hit_ratio)
        self.places.append(place)
        self.sent_bytes += sent_bytes


def play_ours(net: Net, task: Task, policy: Policy, clips: Sequence[Footage], setting: Setting, **options: Any) -> Run:
    """Ours with a camera for each clip. options: as of `edge_of`, places above all."""
    return run_virtually(_ours(net, task, policy, clips, setting, options))


def play_baseline(make: Callable[[], Baseline], task: Task, clips: Sequence[Footage], setting: Setting) -> Run:
    """A baseline with a camera for each clip."""
    return run_virtually(_baseline(make, task, clips, setting))


async def _ours(
    net: Net, task: Task, policy: Policy, clips: Sequence[Footage], setting: Setting, options: dict[str, Any]
) -> Run:
    run, loop = Run(), asyncio.get_running_loop()
    cloud = Modelled(costs(setting.cloud, setting.beside_cloud))
    server = Server(served_as(net), [LocalPool(worker_of(net), cloud)], token=TOKEN, check=checker(net), limits=ALL)
    talks: list[asyncio.Future[None]] = []

    async def camera(index: int, clip: Footage) -> list[Any]:
        shapes = [Shape(setting.trace, setting.rtt_ms, setting.start_s + index * setting.offset_s) for _ in range(2)]

        async def connect() -> Channel:
            ours, theirs = joined(shapes[0], shapes[1])
            talks.append(asyncio.ensure_future(server.talk(theirs)))
            return ours

        device = Modelled(costs(setting.edge, setting.beside_edge), setting.edge_lanes)
        edge = edge_of(
            net, device, Uplink(connect, TOKEN, str(index), index), policy=policy, task=task,
            profiles=(setting.edge, setting.cloud), **options,
        )  # fmt: skip
        assert edge.proxy is not None
        await edge.proxy.link.opened.wait()
        await asyncio.sleep(_phase_s(index, len(clips), clip))
        results, began = [], loop.time()
        async for picture in paced(clip.pictures, 1 / clip.fps):
            answer = await edge(picture)
            results.append(answer.result)
            run.saw(answer.latency_ms, clip.fps, answer.hit_ratio, answer.place, answer.sent_bytes)
            run.fallbacks += answer.fallback
        run.lasted_s += loop.time() - began
        await edge.close()
        run.sent_bytes += edge.background_bytes
        run.edge_busy_ms += device.busy_ms
        return results

    run.results = list(await asyncio.gather(*(camera(*found) for found in enumerate(clips))))
    run.cloud_busy_ms = cloud.busy_ms
    await server.drain()
    return run


async def _baseline(make: Callable[[], Baseline], task: Task, clips: Sequence[Footage], setting: Setting) -> Run:
    run, loop = Run(), asyncio.get_running_loop()
    cloud = Modelled(costs(setting.cloud, setting.beside_cloud))

    async def camera(index: int, clip: Footage) -> list[Any]:
        baseline, link = make(), LinkEstimate()
        up, down = (Shape(setting.trace, setting.rtt_ms, setting.start_s + index * setting.offset_s) for _ in range(2))
        device = Modelled(costs(setting.edge, setting.beside_edge))
        await asyncio.sleep(_phase_s(index, len(clips), clip))
        results, began = list[Any](), loop.time()
        async for picture in paced(clip.pictures, 1 / clip.fps):
            number, start = len(results), loop.time()
            now = link.seen(1000 * start)
            seen = replace(now, mbps=min(now.mbps, setting.trace.mean_mbps))
            steps, given, sent_bytes = baseline.step(picture, seen), None, 0
            while True:
                try:
                    stage = steps.send(given)
                except StopIteration as end:
                    outcome: Outcome = end.value
                    break
                given = None
                if stage.place == "uplink":
                    link.sent(number, stage.num_bytes, 1000 * loop.time())
                    await asyncio.sleep(up.arrival_s(loop.time(), stage.num_bytes) - loop.time())
                    link.arrived(number, 1000 * loop.time() + setting.rtt_ms / 2)
                    sent_bytes += stage.num_bytes
                elif stage.work is not None:
                    given, _ = await (device if stage.place == "edge" else cloud).run(stage.run, stage.work)
            if sent_bytes:
                await asyncio.sleep(down.arrival_s(loop.time(), RESULT_BYTES) - loop.time())
            results.append(task.decode(outcome.outputs, clip.net.frame_size))
            place = "cloud" if sent_bytes else "edge"
            run.saw(1000 * (loop.time() - start), clip.fps, outcome.hit_ratio, place, sent_bytes)
        run.lasted_s += loop.time() - began
        run.edge_busy_ms += device.busy_ms
        return results

    run.results = list(await asyncio.gather(*(camera(*found) for found in enumerate(clips))))
    run.cloud_busy_ms = cloud.busy_ms
    return run


ALL = Limits(cameras=4096, connections=8192)
"""A testbed refuses nobody; what that costs is what it measures."""


def _phase_s(index: int, count: int, clip: Footage) -> float:
    """Cameras are not in step."""
    return index / count / clip.fps


def tallied(run: Run, clips: Sequence[Footage]) -> list[Any]:
    """Of each result with dense's, of all cameras."""
    return [
        clip.task.compare(result, clip.truth(index))
        for clip, results in zip(clips, run.results, strict=True)
        for index, result in enumerate(results)
    ]


def percentile(runs: Sequence[Run], share: float) -> float:
    """Latency, over time: a stall of three seconds is one late answer to who waits for it, and ninety to a camera."""
    latency_ms, lasted_ms = (
        np.concatenate([getattr(run, name) for run in runs]) for name in ("latency_ms", "lasted_ms")
    )
    order = np.argsort(latency_ms)
    passed = np.cumsum(lasted_ms[order]) / lasted_ms.sum()
    return float(latency_ms[order][np.searchsorted(passed, share)])
