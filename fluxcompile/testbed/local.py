"""This machine as its own testbed: edge and cloud as processes, a shaped link between them, and what was predicted."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

from fluxcompile.net import Net
from fluxcompile.options import Policy
from fluxcompile.remote import checker, edge_of
from fluxcompile.runtime.channel import TcpChannel, tcp
from fluxcompile.runtime.device import ThisMachine, Work
from fluxcompile.runtime.edge import Answer
from fluxcompile.runtime.latency import Curve, fit
from fluxcompile.runtime.pool import ProcessPool, python_command
from fluxcompile.runtime.profile import Profile
from fluxcompile.runtime.serve import Server
from fluxcompile.tasks import Task
from fluxcompile.testbed.clips import Footage
from fluxcompile.testbed.devices import Beside
from fluxcompile.testbed.network import Shape, Trace
from fluxcompile.testbed.shaper import Shaper
from fluxcompile.testbed.world import TOKEN, Run, Setting, play_ours

T = TypeVar("T")
OPEN_LINK = Trace.constant(10_000.0)


@dataclass
class Watched(ThisMachine):
    """This machine, and how long each kind of work took; of nets with the blocks that were computed."""

    took_ms: dict[str, list[float]] = field(default_factory=dict)
    frames: list[tuple[Work, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    async def run(self, work: Callable[[], T], told: Callable[[T], Work] | Work) -> tuple[T, float]:
        done, took_ms = await super().run(work, told)
        what = told if isinstance(told, Work) else told(done)
        self.took_ms.setdefault(what.kind, []).append(took_ms)
        if what.kind == "compute":
            self.frames.append((what, took_ms))
        return done, took_ms


@dataclass(frozen=True)
class Measured:
    """One way of running it: where, and mean latency as it was and as the simulator says."""

    places: str
    latency_ms: float
    predicted_ms: float
    cloud_share: float
    predicted_cloud_share: float

    @property
    def off(self) -> float:
        return self.predicted_ms / self.latency_ms - 1


async def play_for_real(
    net: Net, program: Path, task: Task, policy: Policy, clip: Footage, trace: Trace, rtt_ms: float, machine: Watched,
    **options: Any,
) -> list[Answer]:  # fmt: skip
    """Edge here, a server in a process of its own, a shaped link between them."""
    pool = ProcessPool(python_command("fluxcompile.serve_worker", str(program), "1"))
    server = Server(net.digest, [pool], token=TOKEN, check=checker(net))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.talk(TcpChannel(reader, writer))

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    shaper = Shaper(listener.sockets[0].getsockname()[1], *(2 * [lambda: Shape(trace, rtt_ms)]))
    edge = edge_of(
        net, machine, tcp("127.0.0.1", await shaper.start()), policy=policy, token=TOKEN, task=task, **options
    )
    assert edge.proxy is not None
    await asyncio.wait_for(edge.proxy.link.opened.wait(), 30.0)
    loop, answers = asyncio.get_running_loop(), list[Answer]()
    began = loop.time()
    try:
        for number, picture in enumerate(clip.pictures):
            await asyncio.sleep(max(0.0, began + number / clip.fps - loop.time()))
            answers.append(await edge(picture))
    finally:
        await edge.close()
        await shaper.stop()
        listener.close()
        await server.drain()
    return answers


def measure(
    net: Net, program: Path, task: Task, policy: Policy, clip: Footage, trace: Trace, rtt_ms: float
) -> tuple[list[Measured], Profile]:
    """Profile this machine over an open link, then predict and measure over the shaped one."""

    def really(link: Trace, rtt: float, places: tuple[str, ...]) -> tuple[list[Answer], Watched]:
        machine = Watched()
        try:
            played = play_for_real(net, program, task, policy, clip, link, rtt, machine, places=places)
            return asyncio.run(played), machine
        finally:
            machine.close()

    alone, machine = really(OPEN_LINK, 0.0, ("edge",))
    through, remote = really(OPEN_LINK, 0.0, ("cloud",))
    profile = _profile(net, machine)
    beside = _beside({**remote.took_ms, **machine.took_ms})
    ideal = Setting(profile, profile, OPEN_LINK, 0.0, beside, replace(beside, decode=0.5))
    # What the way itself takes on this machine, between processes: whatever the model leaves out of an open link.
    predicted = play_ours(net, task, policy, [clip], ideal, places=("cloud",))
    way_ms = max(0.0, mean(_steady(through)) - mean(predicted.latency_ms[SKIPPED:]))
    setting = replace(ideal, trace=trace, rtt_ms=rtt_ms + way_ms)
    rows = []
    for places in (("edge",), ("cloud",), ("edge", "cloud")):
        answers = alone if places == ("edge",) else really(trace, rtt_ms, places)[0]
        told: Run = play_ours(net, task, policy, [clip], setting, places=places)
        rows.append(
            Measured(
                "+".join(places),
                mean(_steady(answers)),
                mean(told.latency_ms[SKIPPED:]),
                mean(answer.place == "cloud" for answer in answers),
                mean(place == "cloud" for place in told.places),
            )
        )
    return rows, profile


SKIPPED = 3
"""First pictures, whose memory comes into being and whose codecs are tried."""


def _steady(answers: list[Answer]) -> list[float]:
    return [answer.latency_ms for answer in answers[SKIPPED:]]


def _profile(net: Net, machine: Watched) -> Profile:
    sparse = [(work.blocks, ms) for work, ms in machine.frames if not work.dense]
    dense = [ms for work, ms in machine.frames if work.dense][1:]
    curve: Curve = fit([n for n, _ in sparse], [ms for _, ms in sparse]).curve
    whole = net.frame_size[0] * net.frame_size[1] / 256
    dense_ms = mean(dense) if dense else curve.ms(whole)
    return Profile(
        "this machine", "net", "a run over an open link", net.frame_size, dense_ms, curve.a, curve.b, curve.c
    )


def _beside(took_ms: dict[str, list[float]]) -> Beside:
    known = {
        kind: mean(took_ms[kind][1:] or took_ms[kind]) for kind in ("look", "h264", "jpeg", "raw") if kind in took_ms
    }
    return replace(Beside(), **known)
