"""How the values of changed tiles are written: as they are, in half precision, or as bytes of their difference.

Each takes (cells, channels) of new values and of those the receiver has, and reads back what the receiver will have:
sender and receiver run the same `unpack`, so that they agree to the bit.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import InputError

Array = npt.NDArray[Any]
LEVELS = 255
"""Steps of a byte."""


class Precision(Protocol):
    """`tolerance` is the share of a channel's largest value by which the receiver may be off before a tile is sent."""

    @property
    def tolerance(self) -> float: ...
    def size(self, cells: int, channels: int) -> int: ...
    def pack(self, new: Array, old: Array) -> bytes: ...
    def unpack(self, data: bytes, old: Array) -> Array: ...


@dataclass(frozen=True)
class Plain:
    """The values themselves as `dtype`."""

    dtype: Any
    tolerance: float

    def size(self, cells: int, channels: int) -> int:
        return cells * channels * int(np.dtype(self.dtype).itemsize)

    def pack(self, new: Array, old: Array) -> bytes:
        with np.errstate(over="ignore"):
            packed = new.astype(self.dtype)
        if not np.isfinite(packed).all():
            raise InputError(
                f"a value of {np.abs(new).max():g} is beyond {np.dtype(self.dtype).name}; use int8 or fp32"
            )
        return packed.tobytes()

    def unpack(self, data: bytes, old: Array) -> Array:
        return np.frombuffer(data, self.dtype).astype(old.dtype).reshape(old.shape)


@dataclass(frozen=True)
class Affine:
    """What is added to the receiver's value: a byte of steps from the channel's least difference.

    The range fits the differences of each message, so that what one leaves wrong the next makes smaller.
    """

    tolerance: float = 1 / 128

    def size(self, cells: int, channels: int) -> int:
        return channels * (cells + 8) if cells else 0

    def pack(self, new: Array, old: Array) -> bytes:
        if not new.size:
            return b""
        difference = new - old
        low, high = difference.min(0), difference.max(0)
        step = (high - low) / np.float32(LEVELS)
        if not np.isfinite(step).all():
            raise InputError("values lie too far apart for int8; use fp32")
        codes = np.rint((difference - low) / np.where(step > 0, step, 1)).clip(0, LEVELS).astype(np.uint8)
        return bytes(low.tobytes() + step.tobytes() + codes.tobytes())

    def unpack(self, data: bytes, old: Array) -> Array:
        if not old.size:
            return old
        channels = old.shape[1]
        low, step = np.frombuffer(data, np.float32, 2 * channels).reshape(2, channels)
        codes = np.frombuffer(data, np.uint8, offset=8 * channels).reshape(old.shape)
        return np.asarray(old + (low + step * codes.astype(np.float32)))


EXACT = Plain(np.uint8, 0.0)
"""Of maps that hold bytes."""
PRECISIONS: dict[str, Precision] = {
    "fp32": Plain(np.float32, 0.0),
    "fp16": Plain(np.float16, 2**-11),
    "int8": Affine(),
}
