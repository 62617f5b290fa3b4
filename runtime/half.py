"""The second half of a net that is cut inside: boundary maps in, results at the camera's place out, edge or cloud.

    edge    first half -> `Crossing` -> a second half of its own (`HalfCamera`), or `MapCoder` -> the link
    cloud   the link -> `MapReceiver` of a session -> `HalfCamera`

A map crosses as the tiles that changed (see `boundary`); one that was not computed there keeps what changed in it for
the one after it. Frames keep their place, so that results need not be moved.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import BoundaryError, TransportError
from fluxcompile.program import Input
from fluxcompile.runtime import boundary
from fluxcompile.runtime.camera import Computed, Meaning
from fluxcompile.runtime.canvas import Pair
from fluxcompile.runtime.codecs import Choice, Codecs
from fluxcompile.runtime.frame import leaves
from fluxcompile.runtime.latency import BLOCK
from fluxcompile.runtime.plan import CpuStream
from fluxcompile.runtime.precision import PRECISIONS
from fluxcompile.runtime.rate import LinkEstimate
from fluxcompile.runtime.salience import Salience
from fluxcompile.runtime.sending import Coding
from fluxcompile.runtime.transport import Packet

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Salient = Callable[[Any, Pair], Any]
"""What of outputs is salient, for a frame of a size."""


@dataclass(eq=False)
class Crossing:
    """A frame's boundary maps. misses: the cells that changed since they were computed last; None: who takes the maps
    compares them. blocks: of 16 x 16 pixels of the frame, that changed.
    """

    maps: list[Array]
    blocks: float
    misses: list[Mask] | None = None


class HalfCamera:
    """A camera's second half: takes `maps` of frames of a size. order: where each output belongs among the net's.

    `salience` is what the outputs of the last frame made salient, here or where it was computed.
    """

    def __init__(
        self,
        stream: CpuStream,
        task: Meaning,
        maps: Sequence[Input],
        size: Pair,
        order: Sequence[int],
        salient: Salient,
    ) -> None:
        self.stream, self.task, self.maps, self.size = stream, task, maps, size
        self.salience: Salience | None = None
        self._order, self._salient = np.argsort(order), salient
        self._shown: Crossing | None = None

    def receiver(self) -> "MapReceiver":
        """Of a session at the cloud."""
        return MapReceiver(self.maps, self.size)

    @property
    def all_blocks(self) -> float:
        """Those of a dense frame."""
        return self.size[0] * self.size[1] / BLOCK**2

    def require(self, crossing: Crossing) -> None:
        """Maps are of the first half's making."""

    def blocks_of(self, crossing: Crossing) -> float:
        """All of a frame."""
        del crossing
        return self.all_blocks

    @property
    def cold(self) -> bool:
        """Whether the next frame is dense, whatever it shows."""
        return self.stream.cold

    def look(self, crossing: Crossing) -> float:
        """Take the maps in without computing what follows: blocks that `compute` should."""
        self._shown = crossing
        return self.all_blocks if self.cold else crossing.blocks

    def compute(self) -> Computed:
        """What follows the maps that were looked at."""
        shown = self._shown
        assert shown is not None
        outputs = leaves(self.stream(*shown.maps, miss=shown.misses))
        for miss in shown.misses or ():
            miss[:] = False
        stats = self.stream.stats
        assert stats is not None
        ordered = [outputs[index] for index in self._order]
        self.salience = self._salient(ordered, self.size)
        blocks = self.all_blocks if stats.dense else shown.blocks
        return Computed(self.task.decode(ordered, self.size), self.salience, blocks, stats.work_share, stats.dense)

    def leave(self, salience: Salience | None = None) -> None:
        """The maps that were looked at are computed elsewhere. What changed is found when the next are compared."""
        self._shown = None
        if salience is not None:
            self.salience = salience

    def refresh(self, blocks: float) -> float:
        """Nothing is repaired: the first half says what changed."""
        del blocks
        return 0.0

    def reset(self) -> None:
        self.stream.reset()


class MapCoder:
    """Boundary maps for the link, of frames of a size, as the tiles in which cloud's differ."""

    def __init__(self, maps: Sequence[Input], size: Pair, precision: str) -> None:
        self._sender = boundary.MapSender(maps, precision=precision)
        self._size, self._precision, self._costs = size, precision, Codecs(precision)
        self._at, self._changed = 0, 0.0
        self._counted: Crossing | None = None
        self.digest = b""
        self.view = None
        """Cloud sees no picture."""

    def changed(self, shown: Crossing) -> float:
        if shown is not self._counted:  # what changed in frames that were not sent has still to cross
            self._counted, self._changed = shown, self._changed + shown.blocks
        every = self._size[0] * self._size[1] / BLOCK**2
        return min(every, self._changed) if self.digest else every

    def choice(self, changed: float, link: LinkEstimate, now_ms: float) -> Choice:
        return self._costs.best(changed, link, now_ms)

    async def packet(self, shown: Crossing, choice: Choice, changed: float, run: Coding) -> Packet:
        def coded() -> Packet:
            return Packet(choice.codec, self._at, not self.digest, self._size, self._sender.encode(shown.maps))

        packet, took_ms = await run(coded, "quantise")
        self.digest, self._at, self._changed = chained(self.digest, packet), self._at + 1, 0.0
        if self._costs.untried:
            self._costs.tried(packet, took_ms)
        self._costs.saw(packet, changed, took_ms)
        return packet

    def restart(self) -> None:
        self._sender.reset()
        self.digest = b""


@dataclass(eq=False)
class MapReceiver:
    """Cloud's end of `MapCoder`, as `transport.Receiver` is of pictures. A packet that is refused changes nothing."""

    maps: Sequence[Input]
    size: Pair
    view: Crossing | None = None
    digest: bytes = b""
    _mirror: boundary.MapReceiver | None = field(default=None, repr=False)

    def receive(self, packet: Packet) -> Crossing:
        """The maps with the packet's tiles; what changed in those that were not computed is kept."""
        if packet.codec not in PRECISIONS:
            raise TransportError(f"a packet of codec {packet.codec!r}; this server takes {', '.join(PRECISIONS)}")
        if tuple(packet.size) != self.size:
            raise TransportError(f"a packet of frames of {packet.size}; this net takes {self.size}")
        if packet.key and (self._mirror is None or packet.codec != self._mirror.precision):
            self._mirror = boundary.MapReceiver(self.maps, packet.codec)
        if self._mirror is None or packet.codec != self._mirror.precision:
            raise TransportError(f"a packet of {packet.codec} before one that needs no other; send a key packet")
        try:
            found = self._mirror.decode(packet.data)
        except BoundaryError as error:
            raise TransportError(str(error)) from error
        last = self.view.misses if self.view is not None and not packet.key else None
        misses = found.misses if last is None else [np.asarray(a | b) for a, b in zip(last, found.misses, strict=True)]
        share = max(float(miss.mean()) for miss in misses)
        self.view = Crossing(found.maps, share * self.size[0] * self.size[1] / BLOCK**2, misses)
        self.digest = chained(b"" if packet.key else self.digest, packet)
        return self.view


def chained(before: bytes, packet: Packet) -> bytes:
    """A digest of all packets since the last key: equal where what was decoded of them is."""
    return hashlib.blake2b(before + packet.data, digest_size=16).digest()
