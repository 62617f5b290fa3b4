"""Edge's image of the cloud: the picture it sees, what it was asked, and how long its answers take.

The view is what cloud decoded, bit for bit, for the sender decodes what it sends; cloud tells a digest of each picture
it has, and where the two differ it is sent a key.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fluxcompile.errors import ProtocolError
from fluxcompile.runtime.codecs import Choice
from fluxcompile.runtime.device import Device, Work
from fluxcompile.runtime.latency import Latency
from fluxcompile.runtime.link import Link
from fluxcompile.runtime.messages import Frame, Message, Received, Result, Skipped
from fluxcompile.runtime.moving_average import moving_average
from fluxcompile.runtime.schedule import Estimate
from fluxcompile.runtime.sending import Coder
from fluxcompile.runtime.transport import Packet

log = logging.getLogger("fluxcompile")
CROWDED = 0.5
"""Share of what a frame takes there, that it waits before, from which others are in its way."""
HALVED_MS = 1000.0
"""Time in which what is known of that loses half of its weight."""
MOST_OFF = 4.0
"""Times that cloud may compute more blocks than changed, before it is taken for chance."""


@dataclass(frozen=True)
class Asked:
    """A frame under way. `answer` becomes the result, or None where there will be none."""

    seq: int
    changed: float
    num_bytes: int
    began_ms: float
    expected_ms: float
    answer: "asyncio.Future[Result | None]"


class Proxy:
    """One camera's cloud.

    coder: of what crosses. latency: what is known of cloud's device before its first answer.
    """

    def __init__(self, link: Link, device: Device, coder: Coder, latency: Latency | None = None) -> None:
        self.link, self._device, self.coder = link, device, coder
        self.latency = latency or Latency()
        self._queue_ms, self._compute_ms, self._answered_ms = 0.0, 0.0, 0.0
        self._ratio, self._off_ms = 1.0, 0.0
        self._turn = asyncio.Lock()
        self._open: dict[int, Asked] = {}
        self._digests: dict[int, bytes] = {}
        link.on_message, link.on_state, link.digest = self._heard, self._link_changed, lambda: coder.digest

    @property
    def free(self) -> bool:
        """Whether a frame can be sent now."""
        return self.link.free

    @property
    def crowded(self) -> bool:
        """Whether frames wait there longer than they take."""
        return self._waits_ms() > CROWDED * self._compute_ms

    def estimate(self, changed: float) -> Estimate:
        """When its answer to a picture with so many changed blocks should be here."""
        choice = self._choice(changed)
        delivery_ms = self.link.estimate.delivery_ms(round(choice.num_bytes), self._device.now_ms())
        compute_ms = self.latency.predict_ms(self._ratio * changed) or 0.0
        total_ms = choice.encode_ms + delivery_ms + self._waits_ms() + compute_ms
        return Estimate("cloud", total_ms, max(self.link.estimate.spread_ms, self._off_ms))

    async def ask(self, seq: int, shown: Any, changed: float, *, wanted: bool, deadline_ms: float) -> Asked:
        """Send what a camera shows. wanted: an answer is waited for; else it only keeps cloud's caches fresh."""
        began_ms, expected_ms = self._device.now_ms(), self.estimate(changed).ms
        answer: asyncio.Future[Result | None] = asyncio.get_running_loop().create_future()
        async with self._turn:  # packets leave in the order in which they were coded
            packet = await self.coder.packet(shown, self._choice(changed), changed, self._coded)
            asked = Asked(seq, changed, len(packet.data), began_ms, expected_ms, answer)
            self._open[seq], self._digests[seq] = asked, self.coder.digest
            try:
                self.link.send(Frame(seq, wanted, deadline_ms, packet))
            except ProtocolError:  # the link closed while the packet was made
                self.coder.restart()
                self._settle(seq, None)
        if not wanted:
            self._settle(seq, None)
        return asked

    async def _coded(self, coding: Callable[[], Packet], codec: str) -> tuple[Packet, float]:
        return await self._device.run(coding, Work(codec), lane="codec")

    def forget(self, asked: Asked) -> None:
        """Its answer is not waited for any more."""
        self._settle(asked.seq, None)

    def _waits_ms(self) -> float:
        """How long frames wait there for their turn, less believed the longer nothing was heard of it."""
        return float(self._queue_ms * 0.5 ** ((self._device.now_ms() - self._answered_ms) / HALVED_MS))

    def _choice(self, changed: float) -> Choice:
        return self.coder.choice(changed, self.link.estimate, self._device.now_ms())

    def _heard(self, message: Message) -> None:
        match message:
            case Received(seq, digest):
                if self._digests.pop(seq, digest) != digest:
                    self._begin_anew(f"frame {seq}: cloud sees another picture than the one that was sent")
            case Result(seq) if seq in self._open:
                asked = self._open[seq]
                self.latency.saw(message.blocks, message.compute_ms, message.dense)
                self._queue_ms = (self._waits_ms() + message.queue_ms) / 2
                self._compute_ms = (
                    (self._compute_ms + message.compute_ms) / 2 if self._answered_ms else message.compute_ms
                )
                self._answered_ms = self._device.now_ms()
                if asked.changed:
                    ratio = min(message.blocks / asked.changed, MOST_OFF)
                    self._ratio = moving_average(self._ratio, ratio)
                off_ms = abs(self._device.now_ms() - asked.began_ms - asked.expected_ms)
                self._off_ms = moving_average(self._off_ms, off_ms)
                self._settle(seq, message)
            case Skipped(seq, reason):
                self._digests.pop(seq, None)
                if reason == "key":
                    self._begin_anew(f"frame {seq}: cloud lost its view")
                self._settle(seq, None)

    def _link_changed(self, is_open: bool, resumed: bool) -> None:
        if is_open and not resumed:
            self._begin_anew("a new stream")
        if not is_open:
            self._digests.clear()
            for seq in list(self._open):
                self._settle(seq, None)

    def _begin_anew(self, why: str) -> None:
        log.info("%s; the next picture is sent whole", why)
        self.coder.restart()
        self._digests.clear()

    def _settle(self, seq: int, result: Result | None) -> None:
        asked = self._open.pop(seq, None)
        if asked is not None and not asked.answer.done():
            asked.answer.set_result(result)
