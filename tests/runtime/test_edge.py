"""Edge and cloud on a virtual clock: every picture gets one answer, whatever happens to the link or the server."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from fluxcompile import Policy
from fluxcompile.errors import InputError
from fluxcompile.remote import camera_of, policy_words
from fluxcompile.runtime.edge import Answer
from fluxcompile.runtime.messages import VERSION, Frame, Hello, Received, encode
from fluxcompile.runtime.profile import Profile
from fluxcompile.runtime.protocol import EdgeEnd
from fluxcompile.runtime.transport import Sender
from fluxcompile.testbed.clock import run_virtually
from fluxcompile.testbed.devices import Modelled
from fluxcompile.testbed.network import Shape, Trace
from tests.remote import (
    EXACT,
    MOVING,
    SIZE,
    World,
    agreement,
    camera,
    cost_ms,
    dense,
    pictures,
    play,
    served,
    small_net,
    world,
)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return run_virtually(main)


def test_exact_is_exact_wherever_it_runs() -> None:
    """Raw pictures and an exact policy: what cloud answers is what dense inference says."""
    clip = pictures(8)

    async def main(places: tuple[str, ...]) -> list[Answer]:
        edge = await camera(world(), policy=EXACT, codec="raw", places=places)
        answers = await play(edge, clip)
        await edge.close()
        return answers

    for places in (("edge",), ("cloud",), ("edge", "cloud")):
        answers = run(main(places))
        assert agreement(answers, dense(clip)) == 1.0
        assert {answer.place for answer in answers} <= set(places)
    assert agreement(answers, dense(clip[::-1])) < 1.0


def test_the_quicker_side_is_chosen() -> None:
    async def main(edge_ms: float, cloud_ms: float) -> list[Answer]:
        here = World(served(small_net(), Modelled(cost_ms(cloud_ms))))
        edge = await camera(here, edge_ms)
        answers = await play(edge, pictures(30))
        await edge.close()
        return answers[5:]

    assert {answer.place for answer in run(main(400.0, 4.0))} == {"cloud"}
    assert {answer.place for answer in run(main(4.0, 400.0))} == {"edge"}


def test_it_is_the_same_every_time() -> None:
    async def main() -> list[tuple[str, float, float]]:
        edge = await camera(world())
        answers = await play(edge, pictures(20))
        await edge.close()
        return [(a.place, a.latency_ms, float(a.result.values[0].sum())) for a in answers]

    assert run(main()) == run(main())


def test_lossy_pictures_agree_about() -> None:
    """H.264 and the anchor, on both sides in turn; results lie where the camera has them."""
    clip = [picture[4:60, 6:90] for picture in pictures(24)]
    net = small_net()
    task = net.task()
    at_camera = [np.pad(p, ((4, 4), (6, 6), (0, 0)), constant_values=114) for p in clip]

    async def main(places: tuple[str, ...]) -> list[Answer]:
        edge = await camera(world(), places=places, crf=10)
        answers = await play(edge, clip)
        await edge.close()
        return answers

    truth = [task.decode([net.dense(picture)], SIZE).values[0] for picture in at_camera]
    for places in (("edge",), ("cloud",)):
        assert agreement(run(main(places)), truth) > 0.9
    assert agreement(run(main(("edge",))), [np.roll(classes, 2, 1) for classes in truth]) < 0.7


def test_caches_are_repaired_while_cloud_works() -> None:
    """After pictures that cloud answered, edge has less to do than one that only looked at them."""

    async def main(refresh: bool) -> float:
        here = World(served(small_net(), Modelled(cost_ms(4.0))))
        edge = await camera(here)
        await play(edge, pictures(2))
        edge.places = ("cloud",)
        if not refresh:
            edge._slice = lambda left_ms: 0.0  # type: ignore[method-assign]
        await play(edge, pictures(12)[2:], every_s=0.2)
        edge.places = ("edge",)
        (answer,) = await play(edge, [pictures(12)[-1]])
        await edge.close()
        return answer.blocks

    edge_only = run(main(False))
    assert edge_only > 0
    edge_places = run(main(True))
    assert edge_places <= edge_only


def test_a_picture_is_sent_while_the_net_is_at_work() -> None:
    """Edge's own dense frame takes 400 ms; cloud has the pictures that come meanwhile, and answers them."""

    async def main() -> tuple[list[Answer], bool]:
        known = Profile("d", "n", "s", SIZE, dense_ms=400.0, a=0, b=0, c=200.0)
        edge = await camera(world(), 400.0, profiles=(known, None))
        cold = edge.camera.cold
        answers = await play(edge, pictures(20))
        await edge.close()
        assert not edge.camera.cold  # made while cloud answered
        return answers, cold

    answers, cold = run(main())
    assert cold
    assert {answer.place for answer in answers} == {"cloud"}
    assert max(answer.latency_ms for answer in answers) < 60


def test_who_can_leaves_a_crowded_server_to_others() -> None:
    """Of cameras with a deadline those stay at home that keep it there; without one, all take what is quickest."""

    async def main(deadline_ms: float | None) -> list[list[Answer]]:
        here = world(cloud_ms=24.0)
        slow = [await camera(here, 400.0, deadline_ms=deadline_ms, camera=f"slow {n}") for n in range(3)]
        quick = await camera(here, 150.0, deadline_ms=deadline_ms, camera="quick")
        played = await asyncio.gather(*(play(edge, pictures(60)) for edge in (*slow, quick)))
        for edge in (*slow, quick):
            await edge.close()
        return [answers[20:] for answers in played]

    *slow, quick = run(main(100.0))
    assert [answer.place for answer in quick].count("edge") > 0.7 * len(quick)
    assert all([answer.place for answer in answers].count("cloud") > 0.9 * len(answers) for answers in slow)
    assert max(answer.latency_ms for answer in quick) < 100
    assert [answer.place for answer in run(main(None))[3]].count("edge") < 0.5 * len(quick)


# --- faults ---


def test_a_stalled_link() -> None:
    """The link carries nothing for three seconds: answers come from edge, none is late by more than it takes there."""
    clip = pictures(200)

    async def main() -> list[Answer]:
        here = world()
        here.up = Shape(Trace.constant(100.0), 20.0, down=[(1.0, 4.0)])
        edge = await camera(here)
        answers = await play(edge, clip)
        await edge.close()
        return answers

    answers = run(main())
    assert max(answer.latency_ms for answer in answers[5:]) < 150
    assert sum(answer.fallback for answer in answers) <= 3
    assert [answer.place for answer in answers[35:80]].count("edge") >= 43
    assert {answer.place for answer in answers[-20:]} == {"cloud"}


def test_a_broken_link_is_resumed() -> None:
    clip = pictures(60)

    async def main() -> tuple[list[Answer], World]:
        here = world()
        edge = await camera(here)
        answers = await play(edge, clip[:20])
        here.hold = True
        await here.cut()
        answers += await play(edge, clip[20:30])
        assert {answer.place for answer in answers[20:]} == {"edge"}
        here.hold = False
        await asyncio.sleep(6.0)
        answers += await play(edge, clip[30:])
        await edge.close()
        return answers, here

    answers, here = run(main())
    assert [answer.seq for answer in answers] == list(range(60))
    assert here.server.counts.resumed == 1
    assert here.server.counts.skipped.get("key", 0) == 0
    assert {answer.place for answer in answers[-10:]} == {"cloud"}
    assert agreement(answers, dense(clip)) > 0.9


@pytest.mark.parametrize("share", [0.3])
def test_connections_that_keep_breaking(share: float) -> None:
    """A third of all pictures lose their connection: each still has its one answer."""
    clip = pictures(80)

    async def main() -> list[Answer]:
        here, random = world(), np.random.default_rng(1)
        edge = await camera(here)
        answers = []
        for picture in clip:
            asked = asyncio.ensure_future(edge(picture))
            if random.random() < share:
                await asyncio.sleep(float(random.uniform(0, 0.03)))
                await here.cut()
            answers.append(await asked)
            await asyncio.sleep(0.15)
        await edge.close()
        return answers

    answers = run(main())
    assert [answer.seq for answer in answers] == list(range(80))
    assert {answer.place for answer in answers} == {"edge", "cloud"}
    assert agreement(answers, dense(clip)) > 0.9


def test_a_connection_open_on_one_side() -> None:
    """Nothing is carried and nobody is told: edge goes on by itself, and after three beats connects anew."""

    async def main() -> tuple[list[Answer], int]:
        here = world()
        edge = await camera(here)
        answers = await play(edge, pictures(10))
        here.go_silent()
        answers += await play(edge, pictures(160))
        assert edge.proxy is not None
        reconnects = edge.proxy.link.reconnects
        await edge.close()
        return answers, reconnects

    answers, reconnects = run(main())
    assert reconnects == 1
    assert max(answer.latency_ms for answer in answers[5:]) < 300
    assert answers[-1].place == "cloud"


def test_a_server_that_dies_and_comes_back() -> None:
    """Its streams are gone: edge begins anew, with a key."""

    async def main() -> tuple[list[Answer], World]:
        here = world()
        edge = await camera(here)
        answers = await play(edge, pictures(15))
        await here.cut()
        here.server = served(small_net(), Modelled(cost_ms(4.0)))
        answers += await play(edge, pictures(60), every_s=0.1)
        await edge.close()
        return answers, here

    answers, here = run(main())
    assert here.server.counts.results > 10
    assert here.server.counts.resumed == 0
    assert answers[-1].place == "cloud"


def test_an_edge_that_starts_anew() -> None:
    """The old stream lingers, then goes; the new one begins with a key and both are told apart."""

    async def main() -> list[int]:
        here = world(linger_ms=2000.0)
        first = await camera(here)
        await play(first, pictures(5))
        await here.cut()
        assert first.proxy is not None
        await first.proxy.link.close()
        second = await camera(here)
        await play(second, pictures(5))
        counts = [here.server.cameras]
        await asyncio.sleep(3.0)
        counts.append(here.server.cameras)
        await second.close()
        return counts

    assert run(main()) == [2, 1]


def test_a_drained_server() -> None:
    """Cameras are told, and go on alone until another server is there."""

    async def main() -> list[Answer]:
        here = world()
        edge = await camera(here)
        await play(edge, pictures(10))
        draining = asyncio.ensure_future(here.server.drain())
        answers = await play(edge, pictures(10))
        await draining
        here.server = served(small_net(), Modelled(cost_ms(4.0)))
        await asyncio.sleep(5.0)
        answers += await play(edge, pictures(10))
        await edge.close()
        return answers

    answers = run(main())
    assert answers[-1].place == "cloud"
    assert max(answer.latency_ms for answer in answers) < 300


def test_what_is_under_way_is_answered() -> None:
    """A server that is told to stop answers the frame it has before it says goodbye."""

    async def main() -> tuple[Answer, World]:
        here = world(cloud_ms=40.0)
        edge = await camera(here, 4000.0, places=("cloud",))
        await play(edge, pictures(3))
        asked = asyncio.ensure_future(edge(pictures(4)[3]))
        while not any(connection.wanted for connection in here.server._connections):
            await asyncio.sleep(0.001)
        await here.server.drain()
        answer = await asked
        await edge.close()
        return answer, here

    answer, here = run(main())
    assert (answer.place, answer.fallback) == ("cloud", False)
    assert here.server.counts.results == 4


def test_packets_out_of_turn() -> None:
    """A frame that comes twice is answered once; one that is missing makes cloud ask for a key, and edge gives it."""

    async def main() -> tuple[list[Answer], World]:
        here = world()
        edge = await camera(here)
        assert edge.proxy is not None
        link = edge.proxy.link
        answers = await play(edge, pictures(6))
        send, dropped = link.send, []

        def dropping(frame: Frame) -> int:
            if not dropped:
                dropped.append(frame)
                return 0
            return send(frame)

        link.send = dropping  # type: ignore[method-assign]
        answers += await play(edge, pictures(12)[6:])

        def doubling(frame: Frame) -> int:
            assert link._end is not None
            link._end._say(frame, 0.0)
            return send(frame)

        link.send = doubling  # type: ignore[method-assign]
        answers += await play(edge, pictures(20)[12:])
        await edge.close()
        return answers, here

    answers, here = run(main())
    assert answers[6].fallback
    assert here.server.counts.skipped["key"] == 1
    assert [answer.place for answer in answers[-5:]] == ["cloud"] * 5
    assert agreement(answers, dense(pictures(20))) > 0.9


def test_another_view_is_noticed() -> None:
    """Cloud tells a digest of what it sees; where it is another, the next picture is a key."""

    async def main() -> list[bool]:
        here = world()
        edge = await camera(here)
        await play(edge, pictures(4))
        assert edge.proxy is not None
        keys: list[bool] = []
        send = edge.proxy.link.send
        edge.proxy.link.send = lambda frame: (keys.append(frame.packet.key), send(frame))[1]  # type: ignore[method-assign, func-returns-value]
        await play(edge, pictures(5)[4:])
        edge.proxy._digests[99] = b"ours"
        edge.proxy._heard(Received(99, b"theirs"))
        await play(edge, pictures(6)[5:])
        await edge.close()
        return keys

    assert run(main()) == [False, True]


def test_cloud_alone_still_answers() -> None:
    """With cloud as the only place, a link that is gone makes edge answer, and says that it did."""

    async def main() -> list[Answer]:
        here = world()
        edge = await camera(here, places=("cloud",))
        await play(edge, pictures(5))
        here.hold = True
        await here.cut()
        answers = await play(edge, pictures(5))
        await edge.close()
        return answers

    answers = run(main())
    assert all(answer.fallback and answer.place == "edge" for answer in answers)


def test_deadlines() -> None:
    """A deadline makes edge begin early enough to keep it."""

    async def main(deadline_ms: float | None) -> list[Answer]:
        here = world()
        here.up = Shape(Trace.constant(100.0), 20.0, down=[(1.0, 1.2), (2.0, 2.3)])
        edge = await camera(here, deadline_ms=deadline_ms)
        answers = await play(edge, pictures(90))
        await edge.close()
        return answers[6:]

    held = run(main(100.0))
    assert max(answer.latency_ms for answer in held) <= 110
    assert any(answer.fallback for answer in held)


def test_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks much and reads nothing is cut off; what waits for him stays small."""
    monkeypatch.setattr("fluxcompile.runtime.serve.SLOW_READER_BYTES", 4000)

    async def main() -> tuple[int, int]:
        here = world()
        pipe = await here.connect()
        hello = Hello(VERSION, b"", small_net().digest, policy_words(MOVING), "segment", "slow")
        end = EdgeEnd(0.0, token="secret", hello=hello)
        pipe.write(end.take_out())
        while end.state != "open":
            list(end.receive(await pipe.read(), 0.0))
            pipe.write(end.take_out())
        here.down.trace = Trace.constant(0.001)
        sender, most = Sender(SIZE), 0
        _, theirs = here.pipes[-1]
        for seq, picture in enumerate(pictures(400)):
            pipe.write(encode(Frame(seq, True, 0.0, sender.send(picture, "raw"))))
            await asyncio.sleep(0.02)
            most = max(most, theirs.backlog)
            if not here.server._connections:
                return seq, most
        return 400, most

    frames, most = run(main())
    assert 0 < frames < 400
    assert 4000 < most < 8000


def test_bad_pictures() -> None:
    net = small_net()

    async def main() -> None:
        edge = await camera(world())
        await play(edge, pictures(3))
        for wrong in (np.zeros((200, 96, 3), np.uint8), np.zeros((64, 96), np.uint8)):
            with pytest.raises(InputError, match="this net takes"):
                await edge(wrong)
        await play(edge, pictures(5)[3:])
        await edge.close()

    run(main())
    with pytest.raises(InputError, match="this net takes"):
        camera_of(net, Policy(), net.task()).look(np.zeros((65, 96, 3), np.uint8))
    assert MOVING.anchor
