"""Frames as bytes: H.264, JPEG or raw blocks, and the picture that the other side then holds, exactly.

A `Sender` keeps the receiver's view by decoding what it sent: the edge's proxy of the cloud. Packets form a chain, each
one coded against the view that those before it left; a packet out of turn is told apart by its place in the chain, and
a key packet begins anew. Pictures are uint8 (height, width, 3), red first, all of one size. No I/O.
"""

import hashlib
import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fluxcompile.errors import InputError, OptionError, TransportError
from fluxcompile.runtime.blocks import block_residual

Image = npt.NDArray[np.uint8]
BLOCK = 16
"""Pixels a side of what JPEG and raw packets leave out or hold whole: a JPEG's own unit, chroma halved."""
Region = tuple[int, int, int, int]
"""Top, left, height, width, in pixels of a picture."""
CODECS = ("h264", "jpeg", "raw")
LARGEST_SIDE = 8192
DECODER_PADDING = 64
"""Pixels by which a decoder's picture may be larger than what it shows; for a larger one it takes no memory."""
CRF = 26
"""x264's constant rate factor."""
STEPS = 51
"""Of x264's quantiser and of its rate factor."""
MOST_REGIONS = 16
"""Of a picture that are told apart; each costs the encoder some microseconds."""
QUALITY = 90
"""JPEG's quality."""
TOLERANCE = 2.0
"""Levels of mean absolute difference up to which a block is not sent again as JPEG; raw blocks are sent for any."""


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
        self._encoder: _H264Encoder | None = None
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
                self._encoder = _H264Encoder(self.size, self._fps, self._crf, self._coarser)
            data = self._encoder.encode(picture, regions)
        else:
            data = _blocks_of(picture, self.view, codec, self._quality)
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
        self.vectors: Any = None
        self._next, self._broken = 0, True
        self._h264: _H264Decoder | None = None

    @property
    def digest(self) -> bytes:
        """16 bytes that tell views apart; empty without one."""
        return b"" if self.view is None else hashlib.blake2b(self.view.data, digest_size=16).digest()

    def follows(self, packet: Packet) -> bool:
        """Whether it is the turn of the packet: it is a key, or the next of the chain; not one seen before."""
        return packet.at >= self._next if packet.key else packet.at == self._next and not self._broken

    def receive(self, packet: Packet) -> Image:
        """The view with the packet; `vectors` is then the stream's motion, None where the codec has none."""
        if packet.codec not in CODECS:
            raise TransportError(f"a packet of codec {packet.codec!r}; this side knows {', '.join(CODECS)}")
        if not all(1 <= n <= LARGEST_SIDE for n in packet.size):
            raise TransportError(f"a packet of size {packet.size}; sides must be from 1 to {LARGEST_SIDE}")
        if self.size is not None and packet.size != self.size:
            raise TransportError(f"a packet of size {packet.size}, this stream has {self.size}")
        if not self.follows(packet):
            raise TransportError(f"packet {packet.at} came where {self._next} was to come; send a key packet")
        self._next, self._broken, self.vectors = packet.at + 1, True, None
        if packet.codec == "h264":
            if packet.key or self._h264 is None:
                self._h264 = _H264Decoder(packet.size)
            view, self.vectors = self._h264.decode(packet.data)
        else:
            view = _with_blocks(packet, None if packet.key else self.view)
        view.setflags(write=False)
        self.view, self.size, self._broken = view, packet.size, False
        return view


class _H264Encoder:
    """x264 without look-ahead: a packet for each picture, at once."""

    def __init__(self, size: tuple[int, int], fps: float, crf: int, coarser: int) -> None:
        import av

        self._coarser = coarser
        self._pad = [(0, n % 2) for n in size]
        context: Any = av.CodecContext.create("libx264", "w")
        context.height, context.width = (n + n % 2 for n in size)
        context.pix_fmt = "yuv420p"
        context.time_base = Fraction(1, 1000)
        context.framerate = Fraction(fps).limit_denominator(1001)
        context.thread_count = 1
        context.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "crf": str(crf),
            "x264-params": "keyint=infinite:repeat-headers=1",
        }
        self._context, self._count, self._ms = context, 0, 1000 / fps

    def encode(self, picture: Image, regions: Sequence[Region] | None = None) -> bytes:
        import av
        import cv2

        padded = np.pad(picture, (*self._pad, (0, 0)), mode="edge") if any(after for _, after in self._pad) else picture
        planes = np.asarray(cv2.cvtColor(padded, cv2.COLOR_RGB2YUV_I420), np.uint8)  # FFmpeg's own darkens by a level
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts = round(self._count * self._ms)
        frame.time_base = Fraction(1, 1000)
        self._count += 1
        if self._coarser and regions is not None:
            frame = _with_regions(frame, regions, self._coarser)
        return b"".join(bytes(packet) for packet in self._context.encode(frame))


def _with_regions(frame: Any, regions: Sequence[Region], coarser: int) -> Any:
    """The frame, marked for x264: PyAV writes no such marks itself, a graph of FFmpeg's filters does."""
    import av

    graph = av.filter.Graph()
    last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format.name, time_base=frame.time_base)
    marks = [f"x={x}:y={y}:w={w}:h={h}:qoffset=0" for y, x, h, w in regions[:MOST_REGIONS]]  # of two, the first counts
    for mark in (*marks, f"x=0:y=0:w=iw:h=ih:qoffset={coarser / STEPS:.4f}"):
        following = graph.add("addroi", mark)
        last.link_to(following)
        last = following
    sink = graph.add("buffersink")
    last.link_to(sink)
    graph.configure()
    graph.push(frame)
    return graph.pull()


class _H264Decoder:
    """Takes what the encoder gave; a picture of another size is refused before it has any memory."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._context = _decoder("h264", size)

    def decode(self, data: bytes) -> tuple[Image, Any]:
        import cv2

        frame = _decoded(self._context, data, tuple(n + n % 2 for n in self._size))
        image = cv2.cvtColor(frame.to_ndarray(format="yuv420p"), cv2.COLOR_YUV2RGB_I420)
        return np.ascontiguousarray(image[: self._size[0], : self._size[1]], np.uint8), frame.side_data.get(
            "MOTION_VECTORS"
        )


def _decoder(name: str, size: tuple[int, int]) -> Any:
    import av

    context: Any = av.CodecContext.create(name, "r")
    context.thread_count = 1
    most = int(np.prod([n + DECODER_PADDING for n in size]))
    context.options = {"flags": "+low_delay", "flags2": "+export_mvs", "err_detect": "explode", "max_pixels": str(most)}
    return context


def _decoded(context: Any, data: bytes, size: tuple[int, ...]) -> Any:
    """The one picture in the data."""
    import av

    try:
        frames = context.decode(av.Packet(data)) if data else []
    except (av.FFmpegError, ValueError) as error:
        raise TransportError(f"a {context.name} packet that cannot be decoded: {error}") from error
    if len(frames) != 1 or (frames[0].height, frames[0].width) != size:
        found = [(frame.height, frame.width) for frame in frames]
        raise TransportError(f"a {context.name} packet holds pictures of {found}; it is to hold one of {size}")
    return frames[0]


# --- blocks: which of them, then their pixels one below the other (raw) or as one picture (JPEG) ---


class _Blocks(msgspec.Struct, frozen=True, array_like=True):
    """`bits` are np.packbits of the grid, `pixels` bytes of zlib or a JPEG."""

    bits: bytes
    pixels: bytes


_blocks = msgspec.msgpack.Decoder(_Blocks)


def _blocks_of(picture: Image, view: Image | None, codec: str, quality: int) -> bytes:
    h, w = (-(-n // BLOCK) for n in picture.shape[:2])
    sent = np.ones((h, w), np.bool_)
    if view is not None:
        sent = _residual(picture, view) > (TOLERANCE if codec == "jpeg" else 0)
    pixels = _cut(picture)[sent]
    if codec == "raw":
        coded = zlib.compress(pixels.tobytes(), 1)
    else:
        coded = _jpeg(pixels, quality) if len(pixels) else b""
    return msgspec.msgpack.encode(_Blocks(np.packbits(sent).tobytes(), coded))


def _with_blocks(packet: Packet, view: Image | None) -> Image:
    h, w = (-(-n // BLOCK) for n in packet.size)
    try:
        blocks = _blocks.decode(packet.data)
    except msgspec.MsgspecError as error:
        raise TransportError(f"a {packet.codec} packet that holds no blocks: {error}") from error
    if len(blocks.bits) != -(-h * w // 8):
        raise TransportError(f"a {packet.codec} packet with {len(blocks.bits)} bytes of bits for {h} x {w} blocks")
    sent = np.unpackbits(np.frombuffer(blocks.bits, np.uint8), count=h * w).astype(np.bool_).reshape(h, w)
    count = int(sent.sum())
    if view is None and count < sent.size:
        raise TransportError(f"a {packet.codec} key packet with {count} of {sent.size} blocks; it is to hold all")
    cut = _cut(np.zeros((*packet.size, 3), np.uint8) if view is None else view)
    if count:
        cut[sent] = _raw(blocks.pixels, count) if packet.codec == "raw" else _from_jpeg(blocks.pixels, count)
    joined = cut.swapaxes(1, 2).reshape(h * BLOCK, w * BLOCK, 3)
    return np.ascontiguousarray(joined[: packet.size[0], : packet.size[1]])


def _raw(data: bytes, count: int) -> Image:
    size = count * BLOCK * BLOCK * 3
    inflate = zlib.decompressobj()
    try:
        pixels = inflate.decompress(data, size + 1)
    except zlib.error as error:
        raise TransportError(f"a raw packet that cannot be unpacked: {error}") from error
    if len(pixels) != size:
        raise TransportError(f"a raw packet of {len(pixels)} bytes or more for {count} blocks, which have {size}")
    return np.frombuffer(pixels, np.uint8).reshape(count, BLOCK, BLOCK, 3)


def _jpeg(pixels: Image, quality: int) -> bytes:
    h, w = _atlas(len(pixels))
    atlas = np.zeros((h * w, BLOCK, BLOCK, 3), np.uint8)
    atlas[: len(pixels)] = pixels
    return jpeg(atlas.reshape(h, w, BLOCK, BLOCK, 3).swapaxes(1, 2).reshape(h * BLOCK, w * BLOCK, 3), quality)


def _from_jpeg(data: bytes, count: int) -> Image:
    h, w = _atlas(count)
    return _cut(from_jpeg(data, (h * BLOCK, w * BLOCK))).reshape(-1, BLOCK, BLOCK, 3)[:count]


def jpeg(image: Image, quality: int) -> bytes:
    """An image as JPEG, chroma halved."""
    import cv2

    _, coded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return coded.tobytes()


def from_jpeg(data: bytes, size: tuple[int, int]) -> Image:
    """The image; TransportError where it is none of that size."""
    frame = _decoded(_decoder("mjpeg", size), data, size)
    return np.asarray(frame.reformat(format="rgb24", interpolation="BILINEAR").to_ndarray(), np.uint8)


def _atlas(count: int) -> tuple[int, int]:
    """How many blocks a picture of so many has, down and across."""
    across = int(np.ceil(np.sqrt(count)))
    return -(-count // across), across


def _cut(picture: Image) -> Image:
    """A copy as blocks, [down, across, BLOCK, BLOCK, 3], the last of each line padded with its edge."""
    padded = np.pad(picture, (*((0, -n % BLOCK) for n in picture.shape[:2]), (0, 0)), mode="edge")
    h, w = (n // BLOCK for n in padded.shape[:2])
    return np.ascontiguousarray(padded.reshape(h, BLOCK, w, BLOCK, 3).swapaxes(1, 2))


def _residual(picture: Image, view: Image) -> npt.NDArray[np.float32]:
    return block_residual(picture, False, view.astype(np.float32), BLOCK)
