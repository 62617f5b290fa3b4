"""A small net, its pictures, and edge and cloud of it on a virtual clock, with links that can be broken."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxcompile import Frames, Policy, fluxcompile
from fluxcompile.net import Net
from fluxcompile.remote import Uplink, checker, edge_of, served_as, worker_of
from fluxcompile.runtime.channel import Channel
from fluxcompile.runtime.cut_edge import CutEdge
from fluxcompile.runtime.device import Work
from fluxcompile.runtime.edge import Answer, Edge
from fluxcompile.runtime.pool import LocalPool
from fluxcompile.runtime.serve import Limits, Server
from fluxcompile.runtime.worker import Worker
from fluxcompile.testbed.clock import paced
from fluxcompile.testbed.devices import Modelled
from fluxcompile.testbed.network import Pipe, Shape, Trace, joined

SIZE = (64, 96)
FRAME_S = 1 / 30
FAST = Trace.constant(100.0)
MOVING = Policy(exact=False, residual=2.0, background=6.0, radius=16, anchor=True)
EXACT = Policy()


class Small(nn.Module):
    """Four classes of 4 x 4 pixels each, by how bright they and what is around them are."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 4, 3, 2, 1)
        levels = torch.tensor([0.15, 0.35, 0.5, 0.65])
        with torch.no_grad():
            self.one.bias.zero_()  # type: ignore[union-attr]
            self.one.weight.fill_(1 / 27).add_(0.01 * torch.randn_like(self.one.weight))
            self.two.weight.copy_((2 * levels / 54 / 0.6)[:, None, None, None].expand_as(self.two.weight))
            self.two.bias.copy_(-(levels**2))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.silu(self.one(x)))


@lru_cache(maxsize=1)
def small_net() -> Net:
    torch.manual_seed(0)
    return fluxcompile(Small().eval(), torch.zeros(1, 3, *SIZE), frames=Frames())


def pictures(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """A textured scene in which a square moves."""
    random = np.random.default_rng(seed)
    cells = random.integers(0, 220, (*(-(-n // 8) for n in size), 1))
    scene = (np.kron(cells, np.ones((8, 8, 3)))[: size[0], : size[1]] + random.integers(0, 20, (*size, 3))).astype(
        np.uint8
    )
    found = []
    for index in range(count):
        picture = scene.copy()
        left = (3 * index + 5 * seed) % (size[1] - 16)
        picture[20:36, left : left + 16] = 250
        found.append(picture)
    return found


def cost_ms(compute_ms: float, look_ms: float = 1.0, codec_ms: float = 2.0) -> Callable[[Work], float]:
    """A device on which a dense frame takes so long, and one in which nothing changed half of that."""

    def cost(work: Work) -> float:
        if work.kind in ("compute", "refresh"):
            return compute_ms * (0.5 + 0.5 * work.blocks / 24)
        return {"look": look_ms, "h264": codec_ms, "jpeg": codec_ms, "raw": codec_ms}.get(work.kind, 0.2)

    return cost


@dataclass
class World:
    """One server, and the connections to it. up, down: their links; `hold`: no new connection is let through."""

    server: Server
    up: Shape = field(default_factory=lambda: Shape(FAST, 20.0))
    down: Shape = field(default_factory=lambda: Shape(FAST, 20.0))
    hold: bool = False
    pipes: list[tuple[Pipe, Pipe]] = field(default_factory=list)
    talks: list[asyncio.Future[None]] = field(default_factory=list)

    async def connect(self) -> Channel:
        if self.hold:
            raise OSError("no route")
        ours, theirs = joined(self.up, self.down)
        self.pipes.append((ours, theirs))
        self.talks.append(asyncio.ensure_future(self.server.talk(theirs)))
        return ours

    async def cut(self) -> None:
        """Every connection breaks, and both ends see it."""
        for ours, _ in self.pipes:
            ours.cut()
        self.pipes.clear()

    def go_silent(self) -> None:
        """Every connection stops carrying bytes, and neither end is told."""
        for ours, theirs in self.pipes:
            ours._other = theirs._other = None
        self.pipes.clear()


def served(net: Net, device: Modelled, worker: Worker | None = None, token: str = "secret", **limits: Any) -> Server:
    pools = [LocalPool(worker or worker_of(net), device)]
    return Server(served_as(net), pools, token=token, check=checker(net), limits=Limits(**limits))


def world(cloud_ms: float = 4.0, **limits: Any) -> World:
    return World(served(small_net(), Modelled(cost_ms(cloud_ms)), **limits))


async def camera(here: World, edge_ms: float = 80.0, **options: Any) -> Edge:
    """A camera whose connection is open."""
    uplink = Uplink(here.connect, options.pop("token", "secret"), options.pop("camera", "one"), options.pop("seed", 0))
    edge = edge_of(small_net(), Modelled(cost_ms(edge_ms)), uplink, **{"policy": MOVING, **options})
    assert edge.proxy is not None
    await asyncio.wait_for(edge.proxy.link.opened.wait(), 10.0)
    return edge


async def play(edge: Edge | CutEdge, clip: Sequence[Any], every_s: float = FRAME_S) -> list[Answer]:
    """The answers to pictures that come at a steady rate, or as soon as the last one is answered."""
    answers = [await edge(picture) async for picture in paced(clip, every_s)]
    assert [answer.seq for answer in answers] == list(range(answers[0].seq, answers[0].seq + len(clip)))
    return answers


def dense(clip: Sequence[Any]) -> list[Any]:
    """What dense inference sees in pictures."""
    net = small_net()
    task = net.task()
    return [task.decode([net.dense(picture)], SIZE).values[0] for picture in clip]


def agreement(answers: Sequence[Answer], truth: Sequence[Any]) -> float:
    return float(np.mean([(a.result.values[0] == t).mean() for a, t in zip(answers, truth, strict=True)]))
