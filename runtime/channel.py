"""A way for bytes to go both ways: a TCP connection, with TLS off the machine; the simulator brings its own."""

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Protocol

from fluxcompile.errors import ProtocolError

CHUNK = 1 << 16
CONNECT_TIMEOUT_S = 5.0


class Channel(Protocol):
    """`read` gives b"" at the end, `backlog` the bytes that were written and are not on their way yet."""

    @property
    def peer(self) -> str: ...
    @property
    def backlog(self) -> int: ...
    async def read(self) -> bytes: ...
    def write(self, data: bytes) -> None: ...
    async def close(self) -> None: ...


Connect = Callable[[], Awaitable[Channel]]


class TcpChannel:
    """Over asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        host, *rest = writer.get_extra_info("peername") or ("?",)
        self.peer = f"{host}:{rest[0]}" if rest else str(host)

    @property
    def backlog(self) -> int:
        return self._writer.transport.get_write_buffer_size()

    async def read(self) -> bytes:
        try:
            return await self._reader.read(CHUNK)
        except (OSError, ssl.SSLError):
            return b""

    def write(self, data: bytes) -> None:
        if data and not self._writer.is_closing():
            self._writer.write(data)

    async def close(self) -> None:
        with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
            self._writer.close()
            await asyncio.wait_for(self._writer.wait_closed(), 1.0)


async def listen(
    talk: Callable[[Channel], Awaitable[None]],
    host: str = "127.0.0.1",
    port: int = 0,
    context: ssl.SSLContext | None = None,
) -> tuple[asyncio.Server, int]:
    """Talk to whoever connects; the listener and its port, a free one for 0. context: for connections over TLS."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await talk(TcpChannel(reader, writer))

    listener = await asyncio.start_server(connected, host, port, ssl=context)
    return listener, int(listener.sockets[0].getsockname()[1])


def fingerprint(certificate: bytes) -> str:
    """Of a certificate in DER form: what a token carries to know the server by."""
    return hashlib.sha256(certificate).hexdigest()


def tcp(host: str, port: int, pinned: str | None = None) -> Connect:
    """Connects to a server. pinned: the fingerprint of its certificate, over TLS; None for one in the clear."""
    context = None
    if pinned is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the pin says who it is, whatever its name

    async def connect() -> Channel:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port, ssl=context), CONNECT_TIMEOUT_S)
        if pinned is not None:
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            if certificate is None or fingerprint(certificate) != pinned:
                writer.close()
                raise ProtocolError(f"{host}:{port} is not the server this token is for: its certificate is another")
        return TcpChannel(reader, writer)

    return connect
