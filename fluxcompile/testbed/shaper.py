"""A link in user space: TCP that is let through at a trace's rate, each direction by itself."""

import asyncio
from collections.abc import Callable

from fluxcompile.runtime.background import end
from fluxcompile.testbed.network import Shape

CHUNK = 1 << 14
MOST_WAITING = 64
"""Chunks on their way, in one direction; then the sender is made to wait."""


class Shaper:
    """Listens, and passes on to a port of this machine. up, down: made for each connection."""

    def __init__(self, target: int, up: Callable[[], Shape], down: Callable[[], Shape]) -> None:
        self._target, self._up, self._down = target, up, down
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()
        self.carried_bytes = 0

    async def start(self) -> int:
        """The port to connect to."""
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for talk in list(self._talks):
            await end(talk)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        back = None
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, back, self._up()))
                both.create_task(self._carry(there, writer, self._down()))
        except* (OSError, asyncio.CancelledError):
            pass  # either end is gone, or all is stopped
        finally:
            for end in (writer, back):
                if end is not None:
                    end.close()
            self._talks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, shape: Shape) -> None:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MOST_WAITING)

        async def deliver() -> None:
            while True:
                arrival_s, data = await waiting.get()
                await asyncio.sleep(max(0.0, arrival_s - loop.time()))
                if not data:
                    writer.write_eof()  # the other direction may still have something to say
                    return
                writer.write(data)
                await writer.drain()

        delivering = asyncio.ensure_future(deliver())
        try:
            while data := await reader.read(CHUNK):
                self.carried_bytes += len(data)
                await waiting.put((shape.arrival_s(loop.time(), len(data)), data))
            await waiting.put((loop.time(), b""))
            await delivering
        finally:
            delivering.cancel()
