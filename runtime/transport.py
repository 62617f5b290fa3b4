"""Frames as bytes: H.264, JPEG or raw blocks, and the picture that the other side then holds, exactly.

A `Sender` keeps the receiver's view by decoding what it sent: the edge's proxy of the cloud. Packets form a chain, each
one coded against the view that those before it left; a packet out of turn is told apart by its place in the chain, and
a key packet begins anew. Pictures are uint8 (height, width, 3), red first, all of one size. No I/O.
"""

import hashlib
from collections.abc import Sequence

import msgspec
import numpy as np

from fluxcompile.errors import InputError, OptionError, TransportError
from fluxcompile.runtime import h264
from fluxcompile.runtime.changed_blocks import QUALITY, encode_blocks, with_blocks
from fluxcompile.runtime.fit import Image
from fluxcompile.runtime.h264 import CRF, STEPS, Region

CODECS = ("h264", "jpeg", "raw")
LARGEST_SIDE = 8192


class Packet(msgspec.Struct, frozen=True, array_like=True):
    """One picture. `at` is its place in the chain; `key` says that it needs none of those before it."""

    codec: str
    at: int
    key: bool
    size: tuple[int, int]
    data: bytes


class Sender:
    """Makes packets of one camera's pictures. `view` is the receiver's picture after the last of them.

    coarser: of H.264, quantiser steps by which what lies outside of the regions of a picture is coded more coarsely.
    """

    def __init__(
        self, size: tuple[int, int], *, fps: float = 30.0, crf: int = CRF, quality: int = QUALITY, coarser: int = 0
    ) -> None:
        if not all(1 <= n <= LARGEST_SIDE for n in size):
            raise OptionError(f"pictures of {size}; sides must be from 1 to {LARGEST_SIDE}")
        if not 0 <= crf <= STEPS or not 1 <= quality <= 100 or not fps > 0 or not 0 <= coarser <= STEPS:
            raise OptionError(
                f"crf is {crf}, coarser {coarser} (0 to {STEPS}), quality {quality} (1 to 100), fps {fps} (above 0)"
            )
        self.size, self._fps, self._crf, self._quality, self._coarser = size, fps, crf, quality, coarser
        self._at = 0
        self._encoder: h264.Encoder | None = None
        self._receiver = Receiver(size)

    @property
    def view(self) -> Image | None:
        """What the receiver sees; None before the first picture, and after `restart`."""
        return self._receiver.view

    @property
    def digest(self) -> bytes:
        return self._receiver.digest

    def restart(self) -> None:
        """The receiver lost its state: the next packet is a key."""
        self._encoder, self._receiver = None, Receiver(self.size)

    def send(self, picture: Image, codec: str = "h264", regions: Sequence[Region] | None = None) -> Packet:
        """The packet that shows the picture to the receiver. regions: what matters in it; None for all of it."""
        if picture.dtype != np.uint8 or picture.shape != (*self.size, 3):
            raise InputError(f"a picture of {picture.dtype} {picture.shape}, this sender takes uint8 {(*self.size, 3)}")
        if codec not in CODECS:
            raise OptionError(f"codec is {codec!r}; use {', '.join(CODECS)}")
        key = self.view is None or (codec == "h264" and self._encoder is None)
        if codec == "h264":
            if self._encoder is None:
                self._encoder = h264.Encoder(self.size, self._fps, self._crf, self._coarser)
            data = self._encoder.encode(picture, regions)
        else:
            data = encode_blocks(picture, self.view, codec, self._quality)
        packet = Packet(codec, self._at, key, self.size, data)
        self._receiver.receive(packet)
        self._at += 1
        return packet


class Receiver:
    """Makes pictures of packets. What cannot be decoded (TransportError) leaves the view as it was.

    After such a packet only a key goes on. size: what packets must have; None takes that of the first.
    """

    def __init__(self, size: tuple[int, int] | None = None) -> None:
        self.size = size
        self.view: Image | None = None
        self._next, self._broken = 0, True
        self._h264: h264.Decoder | None = None

    @property
    def digest(self) -> bytes:
        """16 bytes that tell views apart; empty without one."""
        return b"" if self.view is None else hashlib.blake2b(self.view.data, digest_size=16).digest()

    def follows(self, packet: Packet) -> bool:
        """Whether it is the turn of the packet: it is a key, or the next of the chain; not one seen before."""
        return packet.at >= self._next if packet.key else packet.at == self._next and not self._broken

    def receive(self, packet: Packet) -> Image:
        """The view with the packet."""
        if packet.codec not in CODECS:
            raise TransportError(f"a packet of codec {packet.codec!r}; this side knows {', '.join(CODECS)}")
        if not all(1 <= n <= LARGEST_SIDE for n in packet.size):
            raise TransportError(f"a packet of size {packet.size}; sides must be from 1 to {LARGEST_SIDE}")
        if self.size is not None and packet.size != self.size:
            raise TransportError(f"a packet of size {packet.size}, this stream has {self.size}")
        if not self.follows(packet):
            raise TransportError(f"packet {packet.at} came where {self._next} was to come; send a key packet")
        self._next, self._broken = packet.at + 1, True
        if packet.codec == "h264":
            if packet.key or self._h264 is None:
                self._h264 = h264.Decoder(packet.size)
            view = self._h264.decode(packet.data)
        else:
            view = with_blocks(packet.codec, packet.data, packet.size, None if packet.key else self.view)
        view.setflags(write=False)
        self.view, self.size, self._broken = view, packet.size, False
        return view
