"""This machine as its own testbed: edge and cloud as processes, a shaped link between them, and what was predicted.

Where there are cores enough, edge has one of its own and cloud the others, so that neither is in the other's way: two
machines, as the simulator has them. What edge does at once, net and codec, then shares its one core there as here.
"""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any, TypeVar

from fluxcompile.net import Net
from fluxcompile.options import Policy
from fluxcompile.remote import Uplink, edge_of
from fluxcompile.runtime.channel import tcp
from fluxcompile.runtime.device import ThisMachine, Work
from fluxcompile.runtime.edge import Answer
from fluxcompile.runtime.latency import BLOCK, fit
from fluxcompile.runtime.profile import Profile
from fluxcompile.tasks import Task
from fluxcompile.testbed.clips import Footage
from fluxcompile.testbed.clock import paced
from fluxcompile.testbed.devices import Beside
from fluxcompile.testbed.local_cloud import beside
from fluxcompile.testbed.network import Trace
from fluxcompile.testbed.world import TOKEN, Setting, play_ours

T = TypeVar("T")
OPEN_LINK = Trace.constant(10_000.0)


@dataclass
class Watched(ThisMachine):
    """This machine, and how long each kind of work took; of nets with the blocks that were computed."""

    took_ms: dict[str, list[float]] = field(default_factory=dict)
    frames: list[tuple[Work, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    async def run(self, work: Callable[[], T], told: Callable[[T], Work] | Work, lane: str = "net") -> tuple[T, float]:
        done, took_ms = await super().run(work, told, lane)
        what = told if isinstance(told, Work) else told(done)
        self.took_ms.setdefault(what.kind, []).append(took_ms)
        if what.kind == "compute":
            self.frames.append((what, took_ms))
        return done, took_ms


async def play_for_real(
    net: Net, program: Path, task: Task, policy: Policy, clip: Footage, trace: Trace, rtt_ms: float, machine: Watched,
    **options: Any,
) -> list[Answer]:  # fmt: skip
    """Edge here, a server behind a shaped link in a process of its own."""
    mine, others = cores()
    async with beside(program, TOKEN, trace, rtt_ms, others) as port:
        edge = edge_of(net, machine, Uplink(tcp("127.0.0.1", port), TOKEN), policy=policy, task=task, **options)
        assert edge.proxy is not None
        await asyncio.wait_for(edge.proxy.link.opened.wait(), 30.0)
        with pinned(mine):
            try:
                return [await edge(picture) async for picture in paced(clip.pictures, 1 / clip.fps)]
            finally:
                await edge.close()


def cores() -> tuple[list[int], list[int]]:
    """Edge's core and cloud's; none to either where there is but one, or where nobody can be tied to one."""
    free = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (free[:1], free[1:]) if len(free) > 1 else ([], [])


@contextlib.contextmanager
def pinned(to: Sequence[int]) -> Iterator[None]:
    """This process with all of its threads on these cores; where there are none, anywhere."""
    if not to:
        yield
        return
    before = {int(thread): os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")}
    for thread in before:
        os.sched_setaffinity(thread, to)
    try:
        yield
    finally:
        for thread, allowed in before.items():
            with contextlib.suppress(ProcessLookupError):  # one that has ended
                os.sched_setaffinity(thread, allowed)


def measure(
    net: Net, task: Task, policy: Policy, clip: Footage, trace: Trace, rtt_ms: float, rounds: int = 1
) -> list[dict[str, Any]]:
    """A row for each choice of places: mean latency as it was, and as the simulator said before.

    Of several rounds the quietest counts, since whatever else the machine does makes it slower. The first half of the
    clip is played over an open link, edge alone and cloud alone: that is all the simulator knows of this machine. The
    second half is predicted, then played over the shaped link.
    """
    half = len(clip.pictures) // 2
    first, second = (replace(clip, pictures=part, _dense={}) for part in (clip.pictures[:half], clip.pictures[half:]))
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "net.flux"
        net.save(program)

        def really(shown: Footage, link: Trace, rtt: float, places: tuple[str, ...]) -> tuple[list[Answer], Watched]:
            machine = Watched()
            try:
                played = play_for_real(net, program, task, policy, shown, link, rtt, machine, places=places)
                return asyncio.run(played), machine
            finally:
                machine.close()

        def quietest(*what: Any) -> Played:
            return min((really(*what) for _ in range(rounds)), key=lambda played: mean(_steady(played[0])))

        alone, through = (quietest(first, OPEN_LINK, 0.0, (place,)) for place in ("edge", "cloud"))
        known = _fitted(net, task, policy, first, alone, through)
        rows = []
        for places in (("edge",), ("cloud",), ("edge", "cloud")):
            setting = replace(known, trace=trace, rtt_ms=rtt_ms + known.rtt_ms)
            told = play_ours(net, task, policy, [second], setting, places=places)
            answers, _ = quietest(second, trace, rtt_ms, places)
            measured, predicted = mean(_steady(answers)), mean(told.latency_ms[SKIPPED:])
            rows.append(
                {
                    "places": "+".join(places),
                    "latency_ms": measured,
                    "predicted_ms": predicted,
                    "off": predicted / measured - 1,
                    "cloud_share": mean(answer.place == "cloud" for answer in answers),
                    "predicted_cloud_share": mean(place == "cloud" for place in told.places),
                }
            )
    return rows


SKIPPED = 3
"""First pictures, whose memory comes into being and whose codecs are tried."""
Played = tuple[list[Answer], Watched]


def _steady(answers: list[Answer]) -> list[float]:
    return [answer.latency_ms for answer in answers[SKIPPED:]]


def _fitted(net: Net, task: Task, policy: Policy, clip: Footage, edge: Played, cloud: Played) -> Setting:
    """What both runs say of this machine; what they took beyond it is the way (rtt_ms) and a part of each look."""
    sparse = [(work.blocks, ms) for work, ms in edge[1].frames if not work.dense]
    dense = [ms for work, ms in edge[1].frames if work.dense][1:]
    curve = fit([n for n, _ in sparse], [ms for _, ms in sparse]).curve
    dense_ms = mean(dense) if dense else curve.ms(net.frame_size[0] * net.frame_size[1] / BLOCK**2)
    profile = Profile(
        "this machine", "net", "a run over an open link", net.frame_size, dense_ms, curve.a, curve.b, curve.c
    )
    took = {kind: mean(ms[1:] or ms) for kind, ms in {**cloud[1].took_ms, **edge[1].took_ms}.items()}
    beside = replace(Beside(), **{kind: took[kind] for kind in ("look", "h264", "jpeg", "raw") if kind in took})
    lanes = 1 if cores()[0] else 2
    setting = Setting(profile, profile, OPEN_LINK, 0.0, beside, replace(beside, decode=0.5), edge_lanes=lanes)
    here = play_ours(net, task, policy, [clip], setting, places=("edge",))
    more_ms = max(0.0, median(_steady(edge[0])) - median(here.latency_ms[SKIPPED:]))
    setting = replace(setting, beside_edge=replace(beside, look=beside.look + more_ms))
    there = play_ours(net, task, policy, [clip], setting, places=("cloud",))
    return replace(setting, rtt_ms=max(0.0, median(_steady(cloud[0])) - median(there.latency_ms[SKIPPED:])))
