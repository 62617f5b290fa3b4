"""Edge and cloud for real: processes, TCP, TLS, a live page, a cluster; strangers and killed workers."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluxcompile.errors import OptionError, ProtocolError, RefusedError
from fluxcompile.identity import identity, is_loopback, parse_server, reached
from fluxcompile.live import LivePage
from fluxcompile.remote import RemoteStream, Uplink, checker, edge_of
from fluxcompile.runtime.channel import listen
from fluxcompile.runtime.device import ThisMachine
from fluxcompile.runtime.edge import Answer
from fluxcompile.runtime.messages import MAGIC
from fluxcompile.runtime.pool import ProcessPool, python_command
from fluxcompile.runtime.serve import Limits, Server
from fluxcompile.serving import metrics_of
from tests.browser import need_browser, opened
from tests.remote import EXACT, MOVING, SIZE, pictures, small_net

TOKEN = "secret"
REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net.flux"
    small_net().save(path)
    return path


@contextlib.asynccontextmanager
async def listening(
    program: Path, workers: int = 1, **limits: Any
) -> AsyncIterator[tuple[Server, int, list[ProcessPool]]]:
    """A server with processes of its own, and its port."""
    net = small_net()
    pools = [ProcessPool(python_command("fluxcompile.serve_worker", str(program), "1")) for _ in range(workers)]
    server = Server(net.digest, pools, token=TOKEN, check=checker(net), limits=Limits(**limits))
    listener, port = await listen(server.talk)
    try:
        yield server, port, pools
    finally:
        listener.close()
        await server.drain()


async def camera(port: int, machine: ThisMachine, **options: Any) -> Any:
    connect, secret = reached(f"127.0.0.1:{port}", TOKEN)
    uplink = Uplink(connect, options.pop("token", secret), options.pop("camera", "one"))
    edge: Any = edge_of(small_net(), machine, uplink, **{"policy": MOVING, "places": ("cloud",), **options})
    await asyncio.wait_for(edge.proxy.link.opened.wait(), 30)
    return edge


def run(main: Callable[[ThisMachine], Any]) -> Any:
    machine = ThisMachine()
    try:
        return asyncio.run(asyncio.wait_for(main(machine), 90))
    finally:
        machine.close()


def test_two_cameras_and_a_killed_worker(program: Path) -> None:
    """Each stream answers its own pictures; a worker that is killed costs its streams a picture or two, nobody else."""

    async def main(machine: ThisMachine) -> tuple[list[Answer], list[Answer], Server, list[ProcessPool]]:
        async with listening(program, workers=2) as (server, port, pools):
            first = await camera(port, machine, policy=EXACT, codec="raw")
            second = await camera(port, machine, policy=EXACT, codec="raw", camera="two")
            ours, theirs = [], []
            for index, (one, two) in enumerate(zip(pictures(16), pictures(16, seed=3), strict=True)):
                if index == 6:
                    assert pools[0].pid is not None
                    os.kill(pools[0].pid, signal.SIGKILL)
                if index == 8:
                    await asyncio.sleep(4)
                ours.append(await first(one))
                theirs.append(await second(two))
            await first.close()
            await second.close()
            return ours, theirs, server, pools

    ours, theirs, server, pools = run(main)
    net = small_net()
    task = net.task()
    for answers, seed in ((ours, 0), (theirs, 3)):
        assert [answer.seq for answer in answers] == list(range(16))
        for answer, picture in zip(answers, pictures(16, seed=seed), strict=True):
            dense = task.decode([net.dense(picture)], SIZE)
            np.testing.assert_array_equal(answer.result.values[0], dense.values[0])
        assert answers[-1].place == "cloud"
    assert sorted(pool.restarts for pool in pools) == [0, 1]
    assert sorted(sum(answer.fallback for answer in answers) == 0 for answers in (ours, theirs)) == [False, True]
    assert server.counts.skipped["key"] >= 1


def test_what_a_server_refuses(program: Path) -> None:
    async def main(machine: ThisMachine) -> list[str]:
        found = []
        async with listening(program, cameras=1) as (server, port, _):
            for options in ({"token": "wrong"}, {}, {"camera": "two"}):
                edge = await camera(port, machine, **options) if options != {"camera": "two"} else None
                if edge is not None and edge.proxy.link.refused is not None:
                    found.append(str(edge.proxy.link.refused))
                    await edge.close()
            connect, _ = reached(f"127.0.0.1:{port}", TOKEN)
            two = edge_of(small_net(), machine, Uplink(connect, TOKEN, "two"), policy=MOVING)
            answer = await two(pictures(1)[0])  # it answers by itself
            assert (answer.place, answer.fallback) == ("edge", False)
            await asyncio.sleep(0.3)
            assert server.counts.refused == {"full": server.counts.refused["full"]}
            metrics = metrics_of(server)
            assert metrics.get_sample_value("flux_refused_cameras_total", {"code": "full"}) >= 1
            assert metrics.get_sample_value("flux_cameras") == 1
            await two.close()
            return found

    (refused,) = run(main)
    assert "token is not this server's" in refused


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        MAGIC + b"\xff\xff\xff\xff",
        MAGIC + b"\x00\x00\x00\x03abc",
        b"\x16\x03\x01" * 50,
        MAGIC[:2],
    ],
    ids=["http", "oversized", "garbage", "tls", "half"],
)
def test_strangers(program: Path, said: bytes) -> None:
    """A stranger is cut off, and the camera beside it does not notice."""

    async def main(machine: ThisMachine) -> tuple[bytes, Answer]:
        async with listening(program) as (server, port, _):
            edge = await camera(port, machine)
            await edge(pictures(1)[0])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            if said == MAGIC[:2]:
                writer.write_eof()
            heard = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            answer = await edge(pictures(2)[1])
            await edge.close()
            assert server.cameras == 1
            return heard, answer

    heard, answer = run(main)
    assert len(heard) < 300
    assert TOKEN.encode() not in heard
    assert answer.place == "cloud"


def test_tls_and_pins(program: Path, tmp_path: Path) -> None:
    """Off the machine a camera connects to the certificate that its token names, and to no other."""
    who, other = identity(tmp_path / "one"), identity(tmp_path / "two")
    assert identity(tmp_path / "one") == who
    assert (tmp_path / "one" / "key.pem").stat().st_mode & 0o077 == 0
    net = small_net()

    async def main(machine: ThisMachine) -> str:
        pool = ProcessPool(python_command("fluxcompile.serve_worker", str(program), "1"))
        server = Server(net.digest, [pool], token=who.secret, check=checker(net))
        listener, port = await listen(server.talk, context=who.context())
        connect, secret = reached(f"127.0.0.1:{port}", who.token(True))
        edge = edge_of(net, machine, Uplink(connect, secret), policy=MOVING, places=("cloud",))
        await asyncio.wait_for(edge.proxy.link.opened.wait(), 30)  # type: ignore[union-attr]
        answer = await edge(pictures(1)[0])
        await edge.close()
        wrong, _ = reached(f"127.0.0.1:{port}", f"{who.secret}.{other.token(True).split('.')[1]}")
        with pytest.raises(ProtocolError, match="its certificate is another"):
            await wrong()
        listener.close()
        await server.drain()
        return answer.place

    assert run(main) == "cloud"


def test_where_to_connect() -> None:
    assert parse_server("[::1]:70") == ("::1", 70)
    assert is_loopback("localhost")
    assert not is_loopback("example.org")
    for wrong in ("host", "host:", "host:0", ":70", "host:99999"):
        with pytest.raises(OptionError, match="write HOST:PORT"):
            parse_server(wrong)
    with pytest.raises(OptionError, match="in the clear"):
        reached("192.168.1.2:70", "secret")
    with pytest.raises(OptionError, match="cut off"):
        reached("192.168.1.2:70", "secret.abc")


def test_the_callers_own_loop(program: Path) -> None:
    """`RemoteStream` is a stream as any other; a server that refuses it says why."""

    async def serve(ready: asyncio.Future[int], stop: asyncio.Event) -> None:
        async with listening(program) as (_, port, _):
            ready.set_result(port)
            await stop.wait()

    async def main(machine: ThisMachine) -> None:
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        serving = asyncio.ensure_future(serve(ready, stop))
        port = await ready

        def use() -> list[Answer]:
            with RemoteStream(small_net(), f"127.0.0.1:{port}", TOKEN, policy=MOVING, places=("cloud",)) as stream:
                stream.wait_until_open(30)
                return [stream(picture) for picture in pictures(3)]

        def refused() -> None:
            with RemoteStream(small_net(), f"127.0.0.1:{port}", "wrong", policy=MOVING) as stream:
                for _ in range(2):  # whoever asks, and however late
                    with pytest.raises(RefusedError, match="not this server's"):
                        stream.wait_until_open(30)
                    time.sleep(0.3)
                stream.wait_until_open(30)

        answers = await asyncio.to_thread(use)
        assert [answer.place for answer in answers] == ["cloud"] * 3
        with pytest.raises(RefusedError, match="not this server's"):
            await asyncio.to_thread(refused)
        stop.set()
        await serving

    run(main)


def test_the_live_page(tmp_path: Path) -> None:
    """The page shows numbers and both views while a run goes on, without an error in its console."""
    need_browser()
    from tests.remote import world

    async def main(machine: ThisMachine) -> dict[str, Any]:
        here = world()
        edge = edge_of(small_net(), machine, Uplink(here.connect, TOKEN, "one"), policy=MOVING)
        assert edge.proxy is not None
        await edge.proxy.link.opened.wait()
        edge.places = ("cloud",)
        page = LivePage(edge, "a <net> & a clip")
        port = await page.start("127.0.0.1", 0)
        playing = True

        async def play() -> None:
            while playing:
                for picture in pictures(20):
                    page.show(picture, await edge(picture))
                    await asyncio.sleep(0.03)

        task = asyncio.ensure_future(play())
        async with opened(f"http://127.0.0.1:{port}/", tmp_path) as tab:
            await tab.until("answers.length > 20 && document.getElementById('cloud').naturalWidth > 0")
            found = {
                "title": await tab.value("document.title"),
                "state": await tab.value("document.getElementById('state').textContent"),
                "tiles": await tab.value("document.querySelectorAll('.tile').length"),
                "bars": await tab.value("document.querySelectorAll('#chart rect').length"),
                "views": await tab.value("[...document.images].map(image => image.naturalWidth)"),
                "errors": tab.errors,
            }
        playing = False
        await task
        await page.stop()
        await edge.close()
        return found

    found = run(main)
    assert found["title"] == "a <net> & a clip"
    assert "from cloud" in found["state"]
    assert found["tiles"] == 7
    assert found["bars"] > 20
    assert found["views"] == [96, 96]
    assert found["errors"] == []


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_the_commands(program: Path, tmp_path: Path, cut: bool) -> None:
    """`serve` and `edge` as one would type them; a full disk costs the log and nothing else."""
    from fluxcompile.runtime.video import Writer

    clip = tmp_path / "clip.mp4"
    writer = Writer(clip, 60.0)
    for picture in pictures(12):
        writer.write(picture)
    writer.close()

    served, shown = program, program
    if cut:
        shown = tmp_path / "parts"
        (_, served) = small_net().partition("one").save(shown)

    async def main(machine: ThisMachine) -> tuple[dict[str, Any], dict[str, Any], int]:
        folder = str(tmp_path / "identity")
        command = [sys.executable, "-m", "fluxcompile.cli"]
        serve = [*command, "serve", str(served), "--port", "0", "--identity", folder, "--json"]
        server = await asyncio.create_subprocess_exec(*serve, stdout=asyncio.subprocess.PIPE)
        assert server.stdout is not None
        ready = json.loads(await server.stdout.readline())
        told = []
        for log in (str(tmp_path / "log.jsonl"), "/dev/full"):
            options = ["--server", f"127.0.0.1:{ready['port']}", "--places", "cloud", "--log", log, "--json"]
            edge = await asyncio.create_subprocess_exec(
                *command, "edge", str(shown), "--camera", str(clip), *options,
                env={**os.environ, "FLUX_TOKEN": ready["token"]}, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, _ = await edge.communicate()
            told.append(json.loads(out))
        server.send_signal(signal.SIGTERM)
        return told[0], told[1], await server.wait()

    logged, unlogged, code = run(main)
    assert code == 0
    for told in (logged, unlogged):
        assert told["frames"] == 12
        assert told["cloud_share"] > 0.5
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["seq"] for row in rows] == list(range(12))


def test_a_cluster(program: Path) -> None:
    """Streams on a cluster of two nodes; an actor that dies is started anew, and its stream begins with a key."""
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'fluxcompile[cluster]'")
    import ray
    from ray.cluster_utils import Cluster

    from fluxcompile.cluster import ray_pools

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80 << 20})
    nodes.add_node(num_cpus=1, object_store_memory=80 << 20)
    net = small_net()

    async def main(machine: ThisMachine) -> tuple[list[Answer], set[str], Any]:
        (pool,) = ray_pools(program, nodes.address)
        server = Server(net.digest, [pool], token=TOKEN, check=checker(net))
        listener, port = await listen(server.talk)
        edges = [await camera(port, machine, policy=EXACT, codec="raw", camera=name) for name in ("one", "two")]
        answers = []
        for index, picture in enumerate(pictures(10)):
            if index == 4:
                places = {await actor.node.remote() for actor in pool.actors.values()}  # type: ignore[attr-defined]
                session = next(iter(pool.actors))  # type: ignore[attr-defined]
                ray.kill(pool.actors[session])  # type: ignore[attr-defined]
            answers.append(await edges[0](picture))
            await edges[1](picture)
        for edge in edges:
            await edge.close()
        listener.close()
        await server.drain()
        return answers, places, pool

    try:
        answers, places, pool = run(main)
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert len(places) == 2
    assert pool.restarts == 1
    assert sum(answer.fallback for answer in answers) >= 1
    assert answers[-1].place == "cloud"
    task = net.task()
    for answer, picture in zip(answers, pictures(10), strict=True):
        dense = task.decode([net.dense(picture)], SIZE)
        np.testing.assert_array_equal(answer.result.values[0], dense.values[0])
