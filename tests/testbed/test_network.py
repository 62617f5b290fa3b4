"""The virtual clock, and links whose rate follows a trace."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcompile.errors import OptionError
from fluxcompile.testbed.clock import run_virtually
from fluxcompile.testbed.network import TRICKLE_MBPS, Shape, Trace, joined
from fluxcompile.testbed.shaper import Shaper

rates = st.lists(st.floats(0, 50), min_size=1, max_size=6)


def trace_of(mbps: list[float]) -> Trace:
    return Trace(tuple(float(second) for second in range(len(mbps) + 1)), tuple(mbps))


def test_time_passes_at_once() -> None:
    async def main() -> tuple[list[str], float]:
        order: list[str] = []

        async def wait(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            order.append(name)

        await asyncio.gather(wait("late", 3600), wait("early", 1), wait("between", 60))
        return order, asyncio.get_running_loop().time()

    order, now = run_virtually(main())
    assert order == ["early", "between", "late"]
    assert now == pytest.approx(3600)


def test_waiting_for_nothing_is_told() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="something waits for it"):
        run_virtually(main())


@settings(deadline=None)
@given(rates, st.floats(0, 20), st.integers(0, 2_000_000))
def test_bytes_take_what_the_trace_allows(mbps: list[float], start_s: float, num_bytes: int) -> None:
    """What was carried between start and end is what was sent, summed in small steps."""
    trace = trace_of(mbps)
    if max(mbps) < 1:
        return
    end = trace.done_s(start_s, num_bytes)
    step, carried, now = 1e-3, 0.0, start_s
    while now < end:
        part = min(step, end - now)
        carried += max(trace.mbps[int(now % len(mbps))], TRICKLE_MBPS) * part / 8e-6
        now += part
    assert carried == pytest.approx(num_bytes, rel=0.02, abs=0.02 * max(mbps) / 8e-6)


@settings(deadline=None)
@given(rates, st.lists(st.tuples(st.floats(0, 1), st.integers(1, 100_000)), min_size=1, max_size=12))
def test_first_in_first_out(mbps: list[float], sent: list[tuple[float, int]]) -> None:
    shape, now, last = Shape(trace_of([*mbps, 5.0]), 20.0), 0.0, 0.0
    for after_s, num_bytes in sent:
        now += after_s
        arrival = shape.arrival_s(now, num_bytes)
        assert arrival >= max(last, now + 0.01)
        last = arrival


def test_links_that_are_down() -> None:
    shape = Shape(Trace.constant(8.0), 0.0, down=[(1.0, 2.0)])
    assert shape.arrival_s(0.0, 1_000_000) == pytest.approx(2.0)
    assert shape.arrival_s(1.5, 500_000) == pytest.approx(2.5)


def test_traces(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("time_s,mbps\n5,10\n6,30\n7,20\n")
    trace = Trace.read(path)
    assert trace.times_s == (0, 1, 2, 3)
    assert trace.mean_mbps == 20
    assert trace.scaled(10).mbps == (5, 15, 10)
    for text in ("", "time_s,mbps\n1,2\n", "a,b\n1,2\n", "time_s,mbps\n1,x\n2,3\n", "time_s,mbps\n2,1\n1,1\n"):
        path.write_text(text)
        with pytest.raises(OptionError):
            Trace.read(path)
    with pytest.raises(OptionError, match="no trace"):
        Trace.read(tmp_path / "none.csv")


def test_pipes_carry_everything_in_order() -> None:
    async def main() -> tuple[bytes, bytes]:
        ours, theirs = joined(Shape(Trace.constant(1.0), 10.0), Shape(Trace.constant(1.0), 10.0))
        for index in range(50):
            ours.write(bytes([index]) * 100)
        assert ours.backlog == 5000
        heard = b""
        while len(heard) < 5000:
            heard += await theirs.read()
        theirs.write(b"back")
        back = await ours.read()
        await ours.close()
        assert await theirs.read() == b""
        return heard, back

    heard, back = run_virtually(main())
    assert heard == b"".join(bytes([index]) * 100 for index in range(50))
    assert back == b"back"


def test_the_shaper_carries_everything() -> None:
    """Both directions, in order, to the end; a connection that cannot be made is closed."""

    async def main() -> tuple[bytes, bytes, int]:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1000):
                writer.write(data)
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        shaper = Shaper(port, *(2 * [lambda: Shape(Trace.constant(400.0), 2.0)]))
        reader, writer = await asyncio.open_connection("127.0.0.1", await shaper.start())
        said = bytes(range(256)) * 400
        writer.write(said)
        writer.write_eof()
        heard = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        server.close()
        lost = Shaper(port, *(2 * [lambda: Shape(Trace.constant(400.0))]))
        reader, writer = await asyncio.open_connection("127.0.0.1", await lost.start())
        nothing = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        await shaper.stop()
        await lost.stop()
        return heard, nothing, shaper.carried_bytes

    heard, nothing, carried = asyncio.run(main())
    assert heard == bytes(range(256)) * 400
    assert nothing == b""
    assert carried == 2 * len(heard)
