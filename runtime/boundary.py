"""Boundary maps between edge and cloud: bytes of the tiles that changed, and the maps that come of them. No I/O.

    sender, receiver = MapSender(maps), MapReceiver(maps)         # maps: as `Partition.boundary` describes them
    data = sender.encode(early["boundary"])
    maps, misses = receiver.decode(data)
    late = cloud(*maps, miss=misses)

The sender keeps the receiver's view and compares each map with that, not with the last map: what rounding or a
tolerance left off is seen again in every frame, and never adds up. Messages build on each other; one that is lost makes
the next be refused, and `MapSender.reset` begins anew.

A message: magic, version, precision, tile, flags, number of maps, sequence | deflated: for each map a bit per tile and
the values of the tiles that are set | CRC-32 of all before.
"""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import BoundaryError, OptionError
from fluxcompile.geometry import from_rows, global_layout, parse_layout, to_rows
from fluxcompile.program import Input
from fluxcompile.runtime.frame import DTYPES, not_finite, require_count, require_fit, to_array
from fluxcompile.runtime.precision import EXACT, PRECISIONS, Precision

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
HEADER = struct.Struct("<4sBBBBHI")
CHECK = struct.Struct("<I")
MAGIC, VERSION, WHOLE = b"flxb", 1, 1
TILE = 4
"""Cells a side of what is sent together."""
FAST = 1
"""Level of deflate: the higher ones find little more in a map."""


class Received(NamedTuple):
    """Maps as tensors of their own shapes, and of each the cells that changed, bool (h, w): what a stream takes."""

    maps: list[Array]
    misses: list[Mask]


class View:
    """One map as the receiver has it: `cells` is (h, w, channels), all zeros before anything was sent."""

    def __init__(self, spec: Input, tile: int, precision: Precision) -> None:
        if spec.dtype not in DTYPES:
            raise OptionError(f"boundary map {spec.name}: holds {spec.dtype}; only {', '.join(DTYPES)} can be sent")
        self.spec, self.tile = spec, tile
        self.layout = parse_layout(spec.layout) if spec.layout else global_layout(spec.shape)
        h, w = (self.layout.rows, 1) if self.layout.chain else (self.layout.grid.h, self.layout.grid.w)
        self.cells = np.zeros((h, w, int(np.prod(spec.shape)) // (h * w)), DTYPES[spec.dtype])
        self.precision = EXACT if spec.dtype == "u8" else precision
        self.tiles = -(-h // tile), -(-w // tile)

    @property
    def bitmap_bytes(self) -> int:
        return -(-self.tiles[0] * self.tiles[1] // 8)

    def take(self, value: Any) -> Array:
        """A map as the stream gives it, (h, w, channels)."""
        array = to_array(value, f"boundary map {self.spec.name}")
        require_fit(self.spec, array.shape, str(array.dtype), np.dtype(DTYPES[self.spec.dtype]).name)
        if not np.isfinite(array).all():
            raise not_finite(self.spec, int((~np.isfinite(array)).sum()))
        return to_rows(array, self.layout).reshape(self.cells.shape)

    def give(self) -> Array:
        """The map in its own shape, a copy."""
        rows = self.cells.reshape(self.layout.rows, -1)
        return np.array(from_rows(rows, self.layout), order="C")

    def covered(self, tiles: Mask) -> Mask:
        """The cells of some tiles."""
        h, w, _ = self.cells.shape
        return tiles.repeat(self.tile, 0)[:h].repeat(self.tile, 1)[:, :w]

    def touched(self, cells: Mask) -> Mask:
        """The tiles of some cells."""
        starts = (np.arange(n) * self.tile for n in self.tiles)
        return np.logical_or.reduceat(np.logical_or.reduceat(cells, next(starts), 0), next(starts), 1)


class _Mirror:
    """What both ends hold: a view of every map."""

    def __init__(self, maps: Sequence[Input], precision: str = "int8", tile: int = TILE) -> None:
        if precision not in PRECISIONS:
            raise OptionError(f"precision is {precision!r}; use one of {', '.join(PRECISIONS)}")
        if not 1 <= tile <= 255:
            raise OptionError(f"tile is {tile}; it counts cells a side, from 1 to 255")
        self.precision, self.tile, self.specs = precision, tile, list(maps)
        self.views = [View(spec, tile, PRECISIONS[precision]) for spec in maps]
        self._sequence = -1

    def digest(self) -> str:
        """Of everything the receiver has: equal at both ends, or the next message must be a whole one."""
        found = hashlib.sha256(str(self._sequence).encode())
        for view in self.views:
            found.update(view.cells.tobytes())
        return found.hexdigest()


class MapSender(_Mirror):
    """The edge's end. `precision` is fp32 (exact), fp16 or int8 to int2; maps of bytes are always exact.

    tolerance: the share of a channel's largest value by which the receiver may be off before a tile is sent again; by
    default what rounding leaves.
    """

    def __init__(
        self, maps: Sequence[Input], *, precision: str = "int8", tile: int = TILE, tolerance: float | None = None
    ) -> None:
        super().__init__(maps, precision, tile)
        if tolerance is not None and not 0 <= tolerance < 1:
            raise OptionError(f"tolerance is {tolerance}; it is a share of a channel's largest value, below 1")
        self._tolerance = tolerance
        self.reset()

    def reset(self) -> None:
        """The next message holds every tile, and the receiver needs none before it."""
        self._whole = True
        self._peaks = [np.zeros(view.cells.shape[2], np.float32) for view in self.views]

    def encode(self, maps: Sequence[Any]) -> bytes:
        """The message that makes the receiver's maps like these. InputError for maps that do not fit."""
        require_count(maps, self.specs)
        taken = [view.take(value) for view, value in zip(self.views, maps, strict=True)]
        if self._whole:
            for view in self.views:
                view.cells[:] = 0
        parts, fresh = [], []
        for i, (view, cells) in enumerate(zip(self.views, taken, strict=True)):
            tiles = np.ones(view.tiles, np.bool_) if self._whole else view.touched(self._off(i, cells))
            covered = view.covered(tiles)
            old, new = view.cells[covered], cells[covered]
            data = view.precision.pack(new, old)
            parts += [np.packbits(tiles).tobytes(), data]
            fresh.append((covered, new, view.precision.unpack(data, old)))
        for view, peaks, (covered, new, seen) in zip(self.views, self._peaks, fresh, strict=True):
            view.cells[covered] = seen
            if new.size:
                np.maximum(peaks, np.abs(new).max(0), out=peaks)
        self._sequence = (self._sequence + 1) % 2**32
        kind = list(PRECISIONS).index(self.precision)
        flags, self._whole = WHOLE if self._whole else 0, False
        head = HEADER.pack(MAGIC, VERSION, kind, self.tile, flags, len(self.views), self._sequence)
        body = head + zlib.compress(b"".join(parts), FAST)
        return body + CHECK.pack(zlib.crc32(body))

    def _off(self, index: int, cells: Array) -> Mask:
        """The cells where the receiver is further off than it may be."""
        view = self.views[index]
        if view.cells.dtype == np.uint8:
            return np.asarray((cells != view.cells).any(2))
        tolerance = view.precision.tolerance if self._tolerance is None else self._tolerance
        return np.asarray((np.abs(cells - view.cells) > tolerance * self._peaks[index]).any(2))


class MapReceiver(_Mirror):
    """The cloud's end, for the sender's precision and tile. A message that is refused changes nothing."""

    def decode(self, data: bytes) -> Received:
        """The maps after a message. BoundaryError for one that is damaged, out of order or of other maps."""
        whole, sequence, body = self._opened(data)
        at, fresh = 0, []
        for view in self.views:
            tiles, at = _bits(body, at, view)
            covered = view.covered(tiles)
            old = np.zeros_like(view.cells[covered]) if whole else view.cells[covered]
            size = view.precision.size(*old.shape)
            values = body[at : at + size]
            if len(values) != size or (whole and not tiles.all()):
                raise BoundaryError(f"boundary map {view.spec.name}: the message ends early; ask for a whole one")
            seen, at = view.precision.unpack(values, old), at + size
            if not np.isfinite(seen).all():
                raise BoundaryError(f"boundary map {view.spec.name}: values are NaN or infinite; ask for a whole one")
            fresh.append((covered, seen))
        if at != len(body):
            raise BoundaryError(f"{len(body) - at} bytes follow the last map; the sender has other maps")
        self._sequence = sequence
        for view, (covered, seen) in zip(self.views, fresh, strict=True):
            view.cells[covered] = seen
        return Received([view.give() for view in self.views], [covered for covered, _ in fresh])

    def _opened(self, data: bytes) -> tuple[bool, int, bytes]:
        """(whole, sequence, body) of a message that is in order."""
        if len(data) < HEADER.size + CHECK.size:
            raise BoundaryError(f"a message of {len(data)} bytes is cut off; ask for a whole one")
        body, (check,) = data[: -CHECK.size], CHECK.unpack(data[-CHECK.size :])
        magic, version, kind, tile, flags, count, sequence = HEADER.unpack_from(body)
        if magic != MAGIC or zlib.crc32(body) != check:
            raise BoundaryError("a message is damaged or none of boundary maps; ask for a whole one")
        if version != VERSION:
            raise BoundaryError(f"a message of version {version}, this fluxcompile reads {VERSION}; upgrade both ends")
        mine = (list(PRECISIONS).index(self.precision), self.tile, len(self.views))
        if (kind, tile, count) != mine:
            raise BoundaryError(
                f"a message of {count} maps in precision {kind} and tiles of {tile}; this end takes {mine[2]} in "
                f"precision {mine[0]} and tiles of {mine[1]}: both ends need the same options"
            )
        whole = bool(flags & WHOLE)
        if not whole and sequence != (self._sequence + 1) % 2**32:
            raise BoundaryError(f"message {sequence} follows {self._sequence}: one was lost; ask for a whole one")
        return whole, sequence, self._inflated(body[HEADER.size :])

    def _inflated(self, packed: bytes) -> bytes:
        most = sum(v.bitmap_bytes + v.precision.size(v.layout.rows, v.cells.shape[2]) for v in self.views)
        try:
            return zlib.decompressobj().decompress(packed, most + 1)
        except zlib.error as e:
            raise BoundaryError(f"a message is damaged ({e}); ask for a whole one") from e


def _bits(body: bytes, at: int, view: View) -> tuple[Mask, int]:
    """The tiles of a map that are set, and where its values begin."""
    end = at + view.bitmap_bytes
    bits = np.unpackbits(np.frombuffer(body[at:end], np.uint8)).view(np.bool_)
    count = view.tiles[0] * view.tiles[1]
    if len(bits) < count or bits[count:].any():
        raise BoundaryError(f"boundary map {view.spec.name}: its tiles are damaged; ask for a whole one")
    return bits[:count].reshape(view.tiles), end
