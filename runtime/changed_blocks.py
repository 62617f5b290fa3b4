"""A picture as those of its blocks that changed: which, then their pixels one below the other, or as one JPEG."""

import zlib

import msgspec
import numpy as np
import numpy.typing as npt

from fluxcompile.errors import TransportError
from fluxcompile.runtime.blocks import block_residual
from fluxcompile.runtime.fit import Image
from fluxcompile.runtime.h264 import decode_one, open_decoder

BLOCK = 16
"""Pixels a side of what JPEG and raw packets leave out or hold whole: a JPEG's own unit, chroma halved."""
QUALITY = 90
"""JPEG's quality."""
TOLERANCE = 2.0
"""Levels of mean absolute difference up to which a block is not sent again as JPEG; raw blocks are sent for any."""


class _Blocks(msgspec.Struct, frozen=True, array_like=True):
    """`bits` are np.packbits of the grid, `pixels` bytes of zlib or a JPEG."""

    bits: bytes
    pixels: bytes


_blocks = msgspec.msgpack.Decoder(_Blocks)


def encode_blocks(picture: Image, view: Image | None, codec: str, quality: int) -> bytes:
    """The blocks of a picture that differ from the view, all of them without one. codec: jpeg or raw."""
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


def with_blocks(codec: str, data: bytes, size: tuple[int, int], view: Image | None) -> Image:
    """The view with the blocks of a packet; TransportError where it holds none of such a picture."""
    h, w = (-(-n // BLOCK) for n in size)
    try:
        blocks = _blocks.decode(data)
    except msgspec.MsgspecError as error:
        raise TransportError(f"a {codec} packet that holds no blocks: {error}") from error
    if len(blocks.bits) != -(-h * w // 8):
        raise TransportError(f"a {codec} packet with {len(blocks.bits)} bytes of bits for {h} x {w} blocks")
    sent = np.unpackbits(np.frombuffer(blocks.bits, np.uint8), count=h * w).astype(np.bool_).reshape(h, w)
    count = int(sent.sum())
    if view is None and count < sent.size:
        raise TransportError(f"a {codec} key packet with {count} of {sent.size} blocks; it is to hold all")
    cut = _cut(np.zeros((*size, 3), np.uint8) if view is None else view)
    if count:
        cut[sent] = _raw(blocks.pixels, count) if codec == "raw" else _from_jpeg(blocks.pixels, count)
    joined = cut.swapaxes(1, 2).reshape(h * BLOCK, w * BLOCK, 3)
    return np.ascontiguousarray(joined[: size[0], : size[1]])


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
    frame = decode_one(open_decoder("mjpeg", size), data, size)
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
