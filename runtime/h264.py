"""Pictures as H.264 and back by FFmpeg, a packet for each, and what matters in them coded finer (see `transport`)."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from fluxcompile.errors import TransportError
from fluxcompile.runtime.fit import Image

Region = tuple[int, int, int, int]
"""Top, left, height, width, in pixels of a picture."""
CRF = 26
"""x264's constant rate factor."""
STEPS = 51
"""Of x264's quantiser and of its rate factor."""
MOST_REGIONS = 16
"""Of a picture that are told apart; each costs the encoder some microseconds."""
DECODER_PADDING = 64
"""Pixels by which a decoder's picture may be larger than what it shows; for a larger one it takes no memory."""


class Encoder:
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


class Decoder:
    """Takes what the encoder gave; a picture of another size is refused before it has any memory."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._context = open_decoder("h264", size)

    def decode(self, data: bytes) -> Image:
        import cv2

        frame = decode_one(self._context, data, tuple(n + n % 2 for n in self._size))
        image = cv2.cvtColor(frame.to_ndarray(format="yuv420p"), cv2.COLOR_YUV2RGB_I420)
        return np.ascontiguousarray(image[: self._size[0], : self._size[1]], np.uint8)


def open_decoder(name: str, size: tuple[int, int]) -> Any:
    import av

    context: Any = av.CodecContext.create(name, "r")
    context.thread_count = 1
    most = int(np.prod([n + DECODER_PADDING for n in size]))
    context.options = {"flags": "+low_delay", "err_detect": "explode", "max_pixels": str(most)}
    return context


def decode_one(context: Any, data: bytes, size: tuple[int, ...]) -> Any:
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
