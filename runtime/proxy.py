"""Edge's image of the cloud: the picture it sees, what it was asked, and how long its answers take.

The view is what cloud decoded, bit for bit, for the sender decodes what it sends; cloud tells a digest of each picture
it has, and where the two differ it is sent a key.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import ProtocolError
from fluxcompile.runtime.blocks import block_residual
from fluxcompile.runtime.codecs import Choice, Codecs
from fluxcompile.runtime.device import Device, Work
from fluxcompile.runtime.latency import BLOCK, Curve, Latency
from fluxcompile.runtime.link import Link
from fluxcompile.runtime.messages import Frame, Message, Received, Result, Skipped
from fluxcompile.runtime.schedule import Estimate
from fluxcompile.runtime.transport import Image, Packet, Sender

log = logging.getLogger("fluxcompile")
FADE = 0.8
"""Weight of what was measured so far against one answer."""
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

    residual: of blocks of a picture against the one sent last, beyond which they changed. start: what is known of
    cloud's device before its first answer.
    """

    def __init__(self, link: Link, device: Device, codecs: Codecs, residual: float, start: Curve | None = None) -> None:
        self.link, self._device, self._codecs, self._residual = link, device, codecs, residual
        self.latency = Latency(start)
        self._queue_ms, self._compute_ms, self._answered_ms = 0.0, 0.0, 0.0
        self._ratio, self._off_ms = 1.0, 0.0
        self._turn = asyncio.Lock()
        self._sender: Sender | None = None
        self._sent: npt.NDArray[np.float32] | None = None
        self._open: dict[int, Asked] = {}
        self._digests: dict[int, bytes] = {}
        link.on_message, link.on_state, link.digest = self._heard, self._link_changed, lambda: self.digest

    @property
    def free(self) -> bool:
        """Whether a frame can be sent now."""
        return self.link.free

    @property
    def crowded(self) -> bool:
        """Whether frames wait there longer than they take."""
        return self._waits_ms() > CROWDED * self._compute_ms

    @property
    def digest(self) -> bytes:
        """Of what cloud sees."""
        return b"" if self._sender is None else self._sender.digest

    @property
    def view(self) -> Image | None:
        """What cloud sees; None before the first picture."""
        return None if self._sender is None else self._sender.view

    def changed(self, picture: Image) -> float:
        """Blocks of 16 x 16 pixels that differ from the picture that was sent last; all of them where none was."""
        sender = self._sender
        if self._sent is None or self._sent.shape != picture.shape or sender is None or sender.view is None:
            return float(np.prod([-(-n // BLOCK) for n in picture.shape[:2]]))
        residual = block_residual(picture, False, self._sent, BLOCK)
        return float(np.count_nonzero(residual > self._residual))

    def estimate(self, changed: float) -> Estimate:
        """When its answer to a picture with so many changed blocks should be here."""
        choice = self._choice(changed)
        delivery_ms = self.link.estimate.delivery_ms(round(choice.num_bytes), self._device.now_ms())
        compute_ms = self.latency.predict_ms(self._ratio * changed) or 0.0
        total_ms = choice.encode_ms + delivery_ms + self._waits_ms() + compute_ms
        return Estimate("cloud", total_ms, max(self.link.estimate.spread_ms, self._off_ms))

    async def ask(self, seq: int, picture: Image, changed: float, *, wanted: bool, deadline_ms: float) -> Asked:
        """Send the picture. wanted: an answer is waited for; else it only keeps cloud's caches fresh."""
        began_ms, expected_ms = self._device.now_ms(), self.estimate(changed).ms
        answer: asyncio.Future[Result | None] = asyncio.get_running_loop().create_future()
        async with self._turn:  # packets leave in the order in which they were coded
            packet = await self._packet(picture, changed)
            asked = Asked(seq, changed, len(packet.data), began_ms, expected_ms, answer)
            assert self._sender is not None
            self._open[seq], self._digests[seq] = asked, self._sender.digest
            self._sent = picture.astype(np.float32)
            try:
                self.link.send(Frame(seq, wanted, deadline_ms, packet))
            except ProtocolError:  # the link closed while the packet was made
                self._sender.restart()
                self._settle(seq, None)
        if not wanted:
            self._settle(seq, None)
        return asked

    async def _packet(self, picture: Image, changed: float) -> Packet:
        size = picture.shape[0], picture.shape[1]
        if self._sender is None or self._sender.size != size:
            for name in self._codecs.untried:
                self._codecs.tried(*await self._coded(partial(self._codecs.trial, picture, name), name))
            self._sender = self._codecs.sender(size)
        sender, codec = self._sender, self._choice(changed).codec
        packet, took_ms = await self._coded(partial(sender.send, picture, codec), codec)
        self._codecs.saw(packet, changed, took_ms)
        return packet

    async def _coded(self, coding: Callable[[], Packet], codec: str) -> tuple[Packet, float]:
        return await self._device.run(coding, Work(codec), lane="codec")

    def forget(self, asked: Asked) -> None:
        """Its answer is not waited for any more."""
        self._settle(asked.seq, None)

    def _waits_ms(self) -> float:
        """How long frames wait there for their turn, less believed the longer nothing was heard of it."""
        return float(self._queue_ms * 0.5 ** ((self._device.now_ms() - self._answered_ms) / HALVED_MS))

    def _choice(self, changed: float) -> Choice:
        return self._codecs.best(changed, self.link.estimate, self._device.now_ms())

    def _heard(self, message: Message) -> None:
        match message:
            case Received(seq, digest):
                if self._digests.pop(seq, digest) != digest:
                    self._begin_anew(f"frame {seq}: cloud sees another picture than the one that was sent")
            case Result(seq) if seq in self._open:
                asked = self._open[seq]
                self.latency.saw(message.blocks, message.compute_ms)
                self._queue_ms = FADE * self._waits_ms() + (1 - FADE) * message.queue_ms
                self._compute_ms = FADE * self._compute_ms + (1 - FADE) * message.compute_ms
                self._answered_ms = self._device.now_ms()
                if asked.changed:
                    ratio = min(message.blocks / asked.changed, MOST_OFF)
                    self._ratio = FADE * self._ratio + (1 - FADE) * ratio
                off_ms = abs(self._device.now_ms() - asked.began_ms - asked.expected_ms)
                self._off_ms = FADE * self._off_ms + (1 - FADE) * off_ms
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
        if self._sender is not None:
            self._sender.restart()
        self._digests.clear()

    def _settle(self, seq: int, result: Result | None) -> None:
        asked = self._open.pop(seq, None)
        if asked is not None and not asked.answer.done():
            asked.answer.set_result(result)
