"""Edge and cloud with a net that is cut inside: boundary maps over the same protocol, with the same faults."""

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fluxcompile import Frames, OptionError, Policy, fluxcompile
from fluxcompile.errors import InputError, TransportError
from fluxcompile.net import Partition
from fluxcompile.remote import Uplink, checker, cut_edge_of, half_camera_of, policy_words, require_servable, worker_of
from fluxcompile.runtime.codecs import Choice
from fluxcompile.runtime.cut_edge import CutEdge
from fluxcompile.runtime.edge import Answer
from fluxcompile.runtime.half import Crossing, HalfCamera, MapCoder, MapReceiver
from fluxcompile.runtime.messages import Frame, Result, Skipped
from fluxcompile.runtime.transport import Packet
from fluxcompile.testbed.clock import run_virtually
from fluxcompile.testbed.devices import Modelled
from tests.remote import EXACT, SIZE, World, agreement, cost_ms, dense, pictures, play, served, small_net

SPARSE = Policy(exact=False, residual=0.5)


@lru_cache(maxsize=1)
def halves() -> Partition:
    return small_net().partition("one")


def world(cloud_ms: float = 4.0) -> World:
    parts = halves()
    assert parts.cloud is not None
    return World(served(parts.cloud, Modelled(cost_ms(cloud_ms))))


async def camera(here: World, edge_ms: float = 80.0, **options: Any) -> CutEdge:
    uplink = Uplink(here.connect, "secret")
    edge = cut_edge_of(halves(), Modelled(cost_ms(edge_ms)), uplink, **{"policy": SPARSE, **options})
    assert edge.proxy is not None
    await asyncio.wait_for(edge.proxy.link.opened.wait(), 10.0)
    return edge


@pytest.mark.parametrize("places", [("edge",), ("cloud",), ("edge", "cloud")])
def test_exact_is_exact_wherever_the_second_half_runs(places: tuple[str, ...]) -> None:
    clip = pictures(8)

    async def main() -> list[Answer]:
        edge = await camera(world(), policy=EXACT, precision="fp32", places=places)
        answers = await play(edge, clip)
        await edge.close()
        return answers

    answers = run_virtually(main())
    assert agreement(answers, dense(clip)) == 1.0
    assert {answer.place for answer in answers} <= set(places)
    assert agreement(answers[::-1], dense(clip)) < 1.0
    assert [answer.seq for answer in answers] == list(range(8))


def test_changed_tiles_cross() -> None:
    clip = pictures(12)

    async def main() -> list[Answer]:
        edge = await camera(world(), places=("cloud",))
        answers = await play(edge, [*clip, clip[-1]])
        await edge.close()
        return answers

    answers = run_virtually(main())
    assert agreement(answers[:-1], dense(clip)) > 0.95
    first, *others, still = answers
    assert max(answer.sent_bytes for answer in others) < first.sent_bytes / 2
    assert first.work_share == 1.0
    assert all(0 < answer.work_share < 0.6 and answer.hit_ratio > 0.4 for answer in others)
    assert (still.hit_ratio, still.work_share) == (1.0, 0.0)
    assert still.sent_bytes < 40


@pytest.mark.parametrize("place", ["edge", "cloud"])
def test_what_is_salient_comes_back(place: str) -> None:
    """A change that matters little is left where the outputs of the frame before say so, wherever they were made."""
    policy = Policy(exact=False, residual=0.5, background=60.0)
    clip = [pictures(1)[0].clip(0, 200) + np.uint8(20 * changed) for changed in (0, 1)]

    async def main(weight: float) -> float:
        edge = await camera(world(), policy=policy, places=(place,))
        rest = edge.second.camera
        assert isinstance(rest, HalfCamera)
        await edge(clip[0])
        await asyncio.sleep(1.0)
        assert rest.salience is not None
        rest.salience = np.full_like(rest.salience, weight)
        answer = await edge(clip[1])
        await edge.close()
        return answer.hit_ratio

    assert run_virtually(main(0.0)) == 1.0
    assert run_virtually(main(1.0)) < 1.0


def test_the_quicker_side_has_the_second_half() -> None:
    async def main(edge_ms: float, cloud_ms: float) -> set[str]:
        edge = await camera(world(cloud_ms), edge_ms)
        answers = await play(edge, pictures(30), every_s=0.5)
        await edge.close()
        return {answer.place for answer in answers[12:]}

    assert run_virtually(main(400.0, 4.0)) == {"cloud"}
    assert run_virtually(main(4.0, 400.0)) == {"edge"}


def test_a_server_lost_in_the_middle_of_a_frame() -> None:
    """The second half goes on here, from the maps that are there, and is marked; then the stream is resumed."""
    clip = pictures(40)

    async def main() -> tuple[list[Answer], World]:
        here = world()
        edge = await camera(here, policy=EXACT, precision="fp32", places=("cloud",))
        answers = await play(edge, clip[:10])
        here.hold = True
        asked = asyncio.ensure_future(edge(clip[10]))
        await asyncio.sleep(0.06)
        assert not asked.done()
        await here.cut()
        answers += [await asked, *await play(edge, clip[11:20])]
        here.hold = False
        await asyncio.sleep(6.0)
        answers += await play(edge, clip[20:])
        await edge.close()
        return answers, here

    answers, here = run_virtually(main())
    assert [answer.fallback for answer in answers[9:12]] == [False, True, True]
    assert {answer.place for answer in answers[10:20]} == {"edge"}
    assert answers[-1].place == "cloud"
    assert here.server.counts.resumed == 1
    assert agreement(answers, dense(clip)) == 1.0


def test_a_server_that_begins_anew_is_sent_everything() -> None:
    clip = pictures(20)

    async def main() -> tuple[list[Answer], World]:
        here = world()
        edge = await camera(here, policy=EXACT, precision="fp32", places=("cloud",))
        answers = await play(edge, clip[:8])
        await here.cut()
        here.server = served(halves().cloud, Modelled(cost_ms(4.0)))  # type: ignore[arg-type]
        await asyncio.sleep(2.0)
        answers += await play(edge, clip[8:])
        await edge.close()
        return answers, here

    answers, here = run_virtually(main())
    assert here.server.counts.resumed == 0
    assert answers[8].sent_bytes == pytest.approx(answers[0].sent_bytes, rel=0.2)
    assert answers[-1].place == "cloud"
    assert agreement(answers, dense(clip)) == 1.0


def test_a_packet_that_is_lost_asks_for_a_key() -> None:
    clip = pictures(12)

    async def main() -> tuple[list[Answer], World]:
        here = world()
        edge = await camera(here, policy=EXACT, precision="fp32", places=("cloud",))
        answers = await play(edge, clip[:4])
        assert edge.proxy is not None
        send, dropped = edge.proxy.link.send, []

        def dropping(frame: Frame) -> int:
            if not dropped:
                dropped.append(frame)
                return 0
            return send(frame)

        edge.proxy.link.send = dropping  # type: ignore[method-assign]
        answers += await play(edge, clip[4:], every_s=0.3)
        await edge.close()
        return answers, here

    answers, here = run_virtually(main())
    assert answers[4].fallback
    assert here.server.counts.skipped == {"key": 1}
    assert answers[-1].place == "cloud"
    assert agreement(answers, dense(clip)) == 1.0


async def _packets(clip: Sequence[Any]) -> list[Packet]:
    parts = halves()
    assert parts.edge is not None
    stream, coder = parts.edge.stream(EXACT), MapCoder(parts.boundary, SIZE, "fp32")

    async def run(coding: Any, codec: str) -> tuple[Packet, float]:
        return coding(), 1.0

    found = []
    for picture in clip:
        crossing = Crossing(stream(picture)["boundary"], 1.0)
        found.append(await coder.packet(crossing, Choice("fp32", 0.0, 0.0), 1.0, run))
    return found


def test_what_changed_in_frames_that_were_not_computed_is_kept() -> None:
    """Three frames come before the first is computed: the newest's answer is as if all had been."""
    parts, clip = halves(), pictures(4)
    assert parts.cloud is not None
    worker = worker_of(parts.cloud)
    worker.open("one", policy_words(EXACT), "segment")
    told: list[Any] = []
    for seq, packet in enumerate(asyncio.run(_packets(clip))):
        told += worker.take("one", Frame(seq, True, 0.0, packet), 0.0)
        if seq == 0:
            assert worker.step(0.0) is not None
    assert [type(answer) for answer in told].count(Skipped) == 2
    step = worker.step(1.0)
    assert step is not None
    assert isinstance(step.answer, Result)
    whole = worker_of(parts.cloud)
    whole.open("one", policy_words(EXACT), "segment")
    for seq, packet in enumerate(asyncio.run(_packets(clip))):
        whole.take("one", Frame(seq, True, 0.0, packet), 0.0)
        each = whole.step(0.0)
    assert each is not None
    assert isinstance(each.answer, Result)
    assert step.answer.values == each.answer.values


def test_packets_that_are_refused() -> None:
    receiver = MapReceiver(halves().boundary, SIZE)
    key, second, third = asyncio.run(_packets(pictures(3)))
    replace = msgspec.structs.replace
    for wrong, message in (
        (second, "before one that needs no other"),
        (replace(key, codec="h264"), "takes fp32"),
        (replace(key, size=(64, 64)), "frames of"),
        (replace(key, data=key.data[:-1] + b"?"), "damaged"),
        (replace(key, data=b""), "cut off"),
    ):
        with pytest.raises(TransportError, match=message):
            receiver.receive(wrong)
        assert receiver.view is None
    receiver.receive(key)
    digest = receiver.digest
    for wrong, message in ((third, "one was lost"), (replace(second, codec="int8"), "before one that needs no other")):
        with pytest.raises(TransportError, match=message):
            receiver.receive(wrong)
        assert receiver.digest == digest
    receiver.receive(second)
    assert receiver.digest != digest


class Early(nn.Module):
    """One of its outputs is ready before the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        early = self.one(x)
        return early, self.two(early)


def test_refusals() -> None:
    parts, device = halves(), Modelled(cost_ms(1.0))
    assert parts.edge is not None
    with pytest.raises(OptionError, match="keep their place"):
        cut_edge_of(parts, device, None, policy=Policy(exact=False, residual=1.0, anchor=True))
    with pytest.raises(OptionError, match="whole net on one side"):
        cut_edge_of(small_net().partition("cloud"), device, None, policy=EXACT)
    with pytest.raises(OptionError, match="not the cloud's half"):
        require_servable(parts.edge)
    net = fluxcompile(Early().eval(), torch.zeros(1, 3, *SIZE), frames=Frames())
    cut = net.partition("one").cloud
    assert cut is not None
    with pytest.raises(OptionError, match="ready at the edge"):
        half_camera_of(cut, EXACT)
    assert parts.cloud is not None
    assert "one image" in str(
        checker(parts.cloud)(policy_words(Policy(exact=False, anchor=True, residual=1.0)), "segment")
    )

    async def show() -> None:
        await cut_edge_of(parts, device, None, policy=EXACT)(np.zeros((8, 8), np.uint8))

    with pytest.raises(InputError, match="this net takes"):
        run_virtually(show())
