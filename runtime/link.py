"""Edge's connection to the cloud: kept open, opened again when it breaks, resumed where it was."""

import asyncio
import logging
import random
from collections.abc import Callable

import msgspec

from fluxcompile.errors import ProtocolError, RefusedError
from fluxcompile.runtime.background import end
from fluxcompile.runtime.channel import Channel, Connect
from fluxcompile.runtime.messages import (
    VERSION,
    Bye,
    Challenge,
    Frame,
    Hello,
    Message,
    Received,
    Refusal,
    Result,
    Skipped,
    Welcome,
)
from fluxcompile.runtime.protocol import EdgeEnd
from fluxcompile.runtime.rate import LinkEstimate

log = logging.getLogger("fluxcompile")
RETRY_MS = (100.0, 5000.0)
"""Between two tries to connect: the least, doubled each time, and the most."""
TICK_MS = 100.0
"""How often the connection looks at the clock."""

GREETING = -1
"""What the greeting is called among the deliveries: it tells the first round trip."""


class Link:
    """One camera's connection. It opens by itself and says so (`on_state`); `send` while it is `free`.

    program: hash of what cloud is to run; policy, task: in words. token: the secret shared with the server.
    """

    def __init__(
        self, connect: Connect, *, program: str, policy: str, task: str, camera: str, token: str, seed: int = 0
    ) -> None:
        self._connect, self._token = connect, token
        self._hello = Hello(VERSION, b"", program, policy, task, camera)
        self._end: EdgeEnd | None = None
        self._channel: Channel | None = None
        self._random = random.Random(seed)
        self.estimate = LinkEstimate()
        self.on_message: Callable[[Message], None] = lambda message: None
        self.on_state: Callable[[bool, bool], None] = lambda is_open, resumed: None
        self.digest: Callable[[], bytes] = lambda: b""
        """Of the view that a stream would be resumed with."""
        self.opened = asyncio.Event()
        self.refused: RefusedError | None = None
        """Why the server will never take this camera; no other try is made."""
        self.reconnects = 0
        self._retry_ms = 0.0
        self._task = asyncio.ensure_future(self._run())

    @property
    def free(self) -> bool:
        """Whether a frame can be sent."""
        return self._end is not None and self._end.free

    def send(self, frame: Frame) -> int:
        """The bytes that it took; ProtocolError while the link is not free."""
        if self._end is None or self._channel is None:
            raise ProtocolError(f"frame {frame.seq}: there is no connection")
        now_ms = self._now_ms()
        self._end.send(frame, now_ms)
        num_bytes = self._flush()
        self.estimate.sent(frame.seq, num_bytes, now_ms)
        return num_bytes

    async def close(self) -> None:
        """Say goodbye, and stop."""
        if self._end is not None:
            self._end.bye("the camera is done", self._now_ms())
            self._flush()
        await end(self._task)

    async def _run(self) -> None:
        wait_ms = RETRY_MS[0]
        while self.refused is None:
            try:
                channel = await self._connect()
            except (OSError, TimeoutError, ProtocolError) as error:
                log.info("no connection: %s", error)
            else:
                if await self._talk(channel):
                    wait_ms = RETRY_MS[0]
                self.reconnects += 1
            await asyncio.sleep((self._retry_ms + wait_ms * self._random.uniform(0.5, 1.0)) / 1000)
            wait_ms, self._retry_ms = min(2 * wait_ms, RETRY_MS[1]), 0.0

    async def _talk(self, channel: Channel) -> bool:
        """Until the connection ends; whether it was ever open."""
        hello = msgspec.structs.replace(self._hello, digest=self.digest())
        self._channel, self._end = channel, EdgeEnd(self._now_ms(), token=self._token, hello=hello)
        self._flush()
        ticking = asyncio.ensure_future(self._tick(channel))
        try:
            while data := await channel.read():
                for event in self._end.receive(data, self._now_ms()):
                    self._on(event)
                self._flush()
                if self._end.state == "closed":
                    break
        except ProtocolError as error:
            log.warning("%s: %s", channel.peer, error)
        finally:
            ticking.cancel()
            await channel.close()
            was_open = self.opened.is_set() and self.refused is None
            self._end = self._channel = None
            if self.refused is None:  # else who waits for it later must hear of it, too
                self.opened.clear()
            if was_open:
                self.estimate.reset()
                self.on_state(False, False)
        return was_open

    async def _tick(self, channel: Channel) -> None:
        end = self._end
        while end is not None and end.state != "closed":
            await asyncio.sleep(TICK_MS / 1000)
            lost = end.on_time(self._now_ms())
            self._flush()
            if lost is not None:
                log.warning("%s: %s", channel.peer, lost.reason)
                await channel.close()
                return

    def _on(self, event: Message) -> None:
        match event:
            case Challenge():
                self.estimate.sent(GREETING, 0, self._now_ms())
            case Welcome(session, resumed):
                self.estimate.arrived(GREETING, self._now_ms())
                self._hello = msgspec.structs.replace(self._hello, session=session)
                self.opened.set()
                self.on_state(True, resumed)
            case Refusal(code, reason, retry_ms):
                log.warning("refused: %s", reason)
                self._retry_ms = float(retry_ms)
                if not retry_ms:
                    self.refused = RefusedError(f"the server refuses this camera ({code}): {reason}")
                    self.opened.set()
            case Bye(reason, retry_ms):
                log.info("the server says goodbye: %s", reason)
                self._retry_ms = float(retry_ms)
            case _:
                if isinstance(event, Received | Result | Skipped):
                    self.estimate.arrived(event.seq, self._now_ms())
                self.on_message(event)

    def _flush(self) -> int:
        if self._end is None or self._channel is None:
            return 0
        data = self._end.take_out()
        self._channel.write(data)
        return len(data)

    @staticmethod
    def _now_ms() -> float:
        return 1000 * asyncio.get_running_loop().time()
