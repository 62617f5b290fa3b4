"""What of a camera crosses to the cloud, and what that costs: its pictures here, boundary maps in `half`."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fluxcompile.runtime.blocks import block_residual
from fluxcompile.runtime.codecs import Choice, Codecs
from fluxcompile.runtime.fit import Image
from fluxcompile.runtime.h264 import Region
from fluxcompile.runtime.latency import BLOCK
from fluxcompile.runtime.rate import LinkEstimate
from fluxcompile.runtime.transport import Packet, Sender

Coding = Callable[[Callable[[], Packet], str], Awaitable[tuple[Packet, float]]]
"""Runs what makes a packet, of that codec, on a device; gives the packet and the milliseconds that took."""


class Coder(Protocol):
    """Makes packets of what a camera shows, and knows what cloud sees after them.

    `digest`: of what cloud sees, `view`: that itself, where it is a picture. `changed`: 16 x 16 pixels each that differ
    from what cloud sees, all of them where it sees nothing. `restart`: cloud lost its view.
    """

    @property
    def digest(self) -> bytes: ...
    @property
    def view(self) -> Image | None: ...
    def changed(self, shown: Any) -> float: ...
    def choice(self, changed: float, link: LinkEstimate, now_ms: float) -> Choice: ...
    async def packet(self, shown: Any, choice: Choice, changed: float, run: Coding) -> Packet: ...
    def restart(self) -> None: ...


class PictureCoder:
    """Pictures by a choice of codecs. residual: of blocks against the picture sent last, beyond which they changed.

    regions: where a picture matters, None for all of it.
    """

    def __init__(
        self,
        codecs: Codecs,
        residual: float,
        regions: Callable[[Image], list[Region] | None] = lambda picture: None,
    ) -> None:
        self._codecs, self._residual, self._regions = codecs, residual, regions
        self._sender: Sender | None = None
        self._sent: npt.NDArray[np.float32] | None = None

    @property
    def digest(self) -> bytes:
        return b"" if self._sender is None else self._sender.digest

    @property
    def view(self) -> Image | None:
        return None if self._sender is None else self._sender.view

    def changed(self, shown: Image) -> float:
        if self._sent is None or self._sent.shape != shown.shape or self.view is None:
            return float(np.prod([-(-n // BLOCK) for n in shown.shape[:2]]))
        return float(np.count_nonzero(block_residual(shown, False, self._sent, BLOCK) > self._residual))

    def choice(self, changed: float, link: LinkEstimate, now_ms: float) -> Choice:
        return self._codecs.best(changed, link, now_ms)

    async def packet(self, shown: Image, choice: Choice, changed: float, run: Coding) -> Packet:
        size = shown.shape[0], shown.shape[1]
        if self._sender is None or self._sender.size != size:
            for name in self._codecs.untried:
                self._codecs.tried(*await run(partial(self._codecs.trial, shown, name), name))
            self._sender = self._codecs.sender(size)
        packet, took_ms = await run(partial(self._sender.send, shown, choice.codec, self._regions(shown)), choice.codec)
        self._codecs.saw(packet, changed, took_ms)
        self._sent = shown.astype(np.float32)
        return packet

    def restart(self) -> None:
        if self._sender is not None:
            self._sender.restart()
