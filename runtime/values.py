"""Results of a task as bytes: arrays, and dataclasses, lists and dicts that hold them. Never pickle."""

import math
import zlib
from typing import Any, TypeVar

import msgspec
import numpy as np

from fluxcompile.errors import ProtocolError
from fluxcompile.runtime.messages import MAX_BYTES

T = TypeVar("T")
LARGEST = 4 * MAX_BYTES
"""Bytes of a result once it is unpacked."""


class _Array(msgspec.Struct, frozen=True, array_like=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def pack(value: Any) -> bytes:
    """The value as bytes."""
    return zlib.compress(msgspec.msgpack.encode(value, enc_hook=_plain), 1)


def unpack(data: bytes, kind: type[T]) -> T:
    """The value of that kind; ProtocolError where the bytes hold none."""
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(data, LARGEST)
        if not inflate.eof:
            raise ProtocolError(f"a result that is cut off, or of more than {LARGEST} bytes")
        return msgspec.msgpack.decode(plain, type=kind, dec_hook=_array)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ProtocolError(f"bytes that are no {kind.__name__}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        return _Array(array.dtype.str, array.shape, array.tobytes())
    raise TypeError(f"a {type(value).__name__} is no result that can be sent")


def _array(kind: Any, value: Any) -> Any:
    found = msgspec.convert(value, _Array)
    try:
        dtype = np.dtype(found.dtype)
    except TypeError as error:
        raise ValueError(f"dtype {found.dtype!r}") from error
    if dtype.kind not in "biuf" or any(n < 0 for n in found.shape):
        raise ValueError(f"an array of {found.dtype} {found.shape}")
    if math.prod(found.shape) * dtype.itemsize != len(found.data):
        raise ValueError(f"{len(found.data)} bytes for an array of {found.dtype} {found.shape}")
    return np.frombuffer(found.data, dtype).reshape(found.shape)
