"""Which codec a picture goes by: the one that has it there first, told by what each took so far."""

import math
from dataclasses import dataclass

from fluxcompile.runtime.changed_blocks import BLOCK
from fluxcompile.runtime.fit import Image
from fluxcompile.runtime.h264 import CRF
from fluxcompile.runtime.moving_average import moving_average
from fluxcompile.runtime.rate import LinkEstimate
from fluxcompile.runtime.transport import CODECS, Packet, Sender

KEY_OF_BYTES = 8.0
"""How many times a key packet is larger than one that follows, before one was seen."""
FAIR_MBPS = 20.0
"""Bytes are charged as if the link had this rate at most: others use it too."""
FIRST_BYTES = 24.0
"""Of a block, before any packet was seen."""


@dataclass
class _Cost:
    """Of a codec, for each block that changed."""

    bytes_per_block: float
    ms_per_block: float

    def saw(self, blocks: float, num_bytes: float, took_ms: float) -> None:
        self.bytes_per_block = moving_average(self.bytes_per_block, num_bytes / max(blocks, 1.0))
        self.ms_per_block = moving_average(self.ms_per_block, took_ms / max(blocks, 1.0))


@dataclass(frozen=True)
class Choice:
    """A codec for one picture: what it should cost."""

    codec: str
    num_bytes: float
    encode_ms: float


class Codecs:
    """The codecs of one camera. codec: one of transport's, or "auto" for the quickest; crf, coarser: of H.264."""

    def __init__(self, codec: str = "auto", crf: int | None = None, coarser: int = 0) -> None:
        self._names = CODECS if codec == "auto" else (codec,)
        self._crf, self._coarser = CRF if crf is None else crf, coarser
        self._costs: dict[str, _Cost] = {}

    def sender(self, size: tuple[int, int]) -> Sender:
        return Sender(size, crf=self._crf, coarser=self._coarser)

    @property
    def untried(self) -> list[str]:
        """Of which nothing is known yet."""
        return [name for name in self._names if name not in self._costs]

    def trial(self, picture: Image, name: str) -> Packet:
        """The picture in that codec, for nothing but to know what it costs (`tried`)."""
        return self.sender((picture.shape[0], picture.shape[1])).send(picture, name)

    def tried(self, packet: Packet, took_ms: float) -> None:
        later = KEY_OF_BYTES if packet.codec == "h264" else 1.0
        blocks = math.prod(-(-n // BLOCK) for n in packet.size)
        self._costs[packet.codec] = _Cost(len(packet.data) / blocks / later, took_ms / blocks)

    def best(self, blocks: float, link: LinkEstimate, now_ms: float) -> Choice:
        """For a picture of which so many blocks changed since the last that was sent."""
        if not self._costs:
            return Choice(self._names[0], FIRST_BYTES * blocks, 0.0)
        choices = [Choice(n, c.bytes_per_block * blocks, c.ms_per_block * blocks) for n, c in self._costs.items()]
        return min(choices, key=lambda c: c.encode_ms + link.delivery_ms(round(c.num_bytes), now_ms) + _price_ms(c))

    def saw(self, packet: Packet, blocks: float, took_ms: float) -> None:
        """What a packet was."""
        if not packet.key:
            self._costs[packet.codec].saw(blocks, len(packet.data), took_ms)


def _price_ms(choice: Choice) -> float:
    return 0.008 / FAIR_MBPS * choice.num_bytes
