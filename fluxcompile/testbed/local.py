"""This machine as its own testbed: edge and cloud as processes, a shaped link between them, and what was predicted."""

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any, TypeVar

from fluxcompile.net import Net
from fluxcompile.options import Policy
from fluxcompile.remote import checker, edge_of
from fluxcompile.runtime.channel import listen, tcp
from fluxcompile.runtime.device import ThisMachine, Work
from fluxcompile.runtime.edge import Answer
from fluxcompile.runtime.latency import BLOCK, fit
from fluxcompile.runtime.pool import ProcessPool, python_command
from fluxcompile.runtime.profile import Profile
from fluxcompile.runtime.serve import Server
from fluxcompile.tasks import Task
from fluxcompile.testbed.clips import Footage
from fluxcompile.testbed.devices import Beside
from fluxcompile.testbed.network import Shape, Trace
from fluxcompile.testbed.shaper import Shaper
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
    """Edge here, a server in a process of its own, a shaped link between them."""
    pool = ProcessPool(python_command("fluxcompile.serve_worker", str(program), "1"))
    server = Server(net.digest, [pool], token=TOKEN, check=checker(net))
    listener, port = await listen(server.talk)
    shaper = Shaper(port, *(2 * [lambda: Shape(trace, rtt_ms)]))
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


def measure(net: Net, task: Task, policy: Policy, clip: Footage, trace: Trace, rtt_ms: float) -> list[dict[str, Any]]:
    """A row for each choice of places: mean latency as it was, and as the simulator said before.

    The first half of the clip is played over an open link, edge alone and cloud alone: that is all the simulator knows
    of this machine. The second half is predicted, then played over the shaped link.
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

        alone, machine = really(first, OPEN_LINK, 0.0, ("edge",))
        through, remote = really(first, OPEN_LINK, 0.0, ("cloud",))
        known = _fitted(net, task, policy, first, (alone, machine), (through, remote))
        rows = []
        for places in (("edge",), ("cloud",), ("edge", "cloud")):
            setting = replace(known, trace=trace, rtt_ms=rtt_ms + known.rtt_ms)
            told = play_ours(net, task, policy, [second], setting, places=places)
            answers, _ = really(second, trace, rtt_ms, places)
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
    setting = Setting(profile, profile, OPEN_LINK, 0.0, beside, replace(beside, decode=0.5))
    here = play_ours(net, task, policy, [clip], setting, places=("edge",))
    more_ms = max(0.0, median(_steady(edge[0])) - median(here.latency_ms[SKIPPED:]))
    setting = replace(setting, beside_edge=replace(beside, look=beside.look + more_ms))
    there = play_ours(net, task, policy, [clip], setting, places=("cloud",))
    return replace(setting, rtt_ms=max(0.0, median(_steady(cloud[0])) - median(there.latency_ms[SKIPPED:])))
