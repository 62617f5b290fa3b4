"""How the values of changed tiles are written: as they are, in half precision, or as a few bits of their difference.

Each takes (cells, channels) of new values and of those the receiver has, and reads back what the receiver will have:
sender and receiver run the same `unpack`, so that they agree to the bit.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import InputError

Array = npt.NDArray[Any]


class Precision(Protocol):
    """`bits`: of a value. `tolerance`: the share of a channel's largest value that the receiver may be off."""

    @property
    def bits(self) -> int: ...
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

    @property
    def bits(self) -> int:
        return 8 * int(np.dtype(self.dtype).itemsize)

    def size(self, cells: int, channels: int) -> int:
        return cells * channels * self.bits // 8

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
    """What is added to the receiver's value: so many bits of steps from the channel's least difference.

    The range fits the differences of each message, so that what one leaves wrong the next makes smaller.
    """

    bits: int

    @property
    def tolerance(self) -> float:
        return float(2 ** (1 - self.bits))

    @property
    def levels(self) -> int:
        return int(2**self.bits - 1)

    def size(self, cells: int, channels: int) -> int:
        return 8 * channels + -(-cells * channels * self.bits // 8) if cells else 0

    def pack(self, new: Array, old: Array) -> bytes:
        if not new.size:
            return b""
        difference = new - old
        low, high = difference.min(0), difference.max(0)
        step = (high - low) / np.float32(self.levels)
        if not np.isfinite(step).all():
            raise InputError(f"values lie too far apart for int{self.bits}; use fp32")
        codes = np.rint((difference - low) / np.where(step > 0, step, 1)).clip(0, self.levels).astype(np.uint8)
        return bytes(low.tobytes() + step.tobytes() + self._packed(codes.reshape(-1)).tobytes())

    def unpack(self, data: bytes, old: Array) -> Array:
        if not old.size:
            return old
        channels = old.shape[1]
        low, step = np.frombuffer(data, np.float32, 2 * channels).reshape(2, channels)
        codes = self._unpacked(np.frombuffer(data, np.uint8, offset=8 * channels), old.size).reshape(old.shape)
        return np.asarray(old + (low + step * codes.astype(np.float32)))

    def _packed(self, codes: Array) -> Array:
        """The low bits of each code, one after the other."""
        if self.bits == 8:
            return codes
        return np.packbits(np.unpackbits(codes[:, None], axis=1)[:, -self.bits :])

    def _unpacked(self, data: Array, count: int) -> Array:
        if self.bits == 8:
            return data
        bits = np.unpackbits(data, count=count * self.bits).reshape(count, self.bits)
        return np.packbits(bits, axis=1).reshape(-1) >> (8 - self.bits)


EXACT = Plain(np.uint8, 0.0)
"""Of maps that hold bytes."""
PRECISIONS: dict[str, Precision] = {
    "fp32": Plain(np.float32, 0.0),
    "fp16": Plain(np.float16, 2**-11),
    **{f"int{bits}": Affine(bits) for bits in range(8, 1, -1)},
}
