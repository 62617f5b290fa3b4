"""The other machine of `local`: a server behind a shaped link, in a process of its own, on cores of its own.

    python -m fluxcompile.testbed.local_cloud NET.flux TRACE RTT_MS [CORE ...]

TRACE is a trace as JSON. Prints the port to connect to; ends with its standard input.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from fluxcompile.net import load
from fluxcompile.remote import checker, served_as
from fluxcompile.runtime.channel import listen
from fluxcompile.runtime.pool import ProcessPool, python_command
from fluxcompile.runtime.serve import Server
from fluxcompile.testbed.network import Shape, Trace
from fluxcompile.testbed.shaper import Shaper

STARTS_WITHIN_S = 60.0


@contextlib.asynccontextmanager
async def beside(program: Path, token: str, trace: Trace, rtt_ms: float, cores: Sequence[int]) -> AsyncIterator[int]:
    """Such a process, and the port of its link."""
    what = [str(program), msgspec.json.encode(trace).decode(), str(rtt_ms), *map(str, cores)]
    process = await asyncio.create_subprocess_exec(
        *python_command("fluxcompile.testbed.local_cloud", *what),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={**os.environ, "FLUX_TOKEN": token},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(await asyncio.wait_for(process.stdout.readline(), STARTS_WITHIN_S))
    finally:
        process.stdin.close()
        await process.wait()


async def serve(program: Path, token: str, trace: Trace, rtt_ms: float) -> None:
    """Until standard input ends."""
    net = load(program)
    pool = ProcessPool(python_command("fluxcompile.serve_worker", str(program), "1"))
    server = Server(served_as(net), [pool], token=token, check=checker(net))
    listener, port = await listen(server.talk)
    shaper = Shaper(port, *(2 * [lambda: Shape(trace, rtt_ms)]))
    print(await shaper.start(), flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    await shaper.stop()
    listener.close()
    await server.drain()


def main() -> None:
    program, trace, rtt_ms, *cores = sys.argv[1:]
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores])
    link = msgspec.json.decode(trace, type=Trace)
    asyncio.run(serve(Path(program), os.environ["FLUX_TOKEN"], link, float(rtt_ms)))


if __name__ == "__main__":
    main()
