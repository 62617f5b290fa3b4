"""Where the values of a plan lie: rows of channels in buffers, and views of them (see `lower_plan`).

A value of layout `1 64 y80 x80` is 6400 rows of 64 channels, and so are its tokens `1 y80.x80 64`: reshapes, splits,
concatenations and turns of the free dimensions only change `index`, which says for every combination of free
coordinates which channel of a row holds it. Nothing is copied until an op needs its channels in another order.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.geometry import Layout, free_shape

Index = npt.NDArray[np.int64]


@dataclass(eq=False)
class Storage:
    """Rows of channels; a part of another storage once it has been placed there."""

    rows: int
    channels: int
    fixed: bool = False
    """Must stay a buffer of its own."""
    home: "tuple[Storage, int, int] | None" = None
    """(storage, first row, first channel) it is a part of."""
    seen: list[tuple[int, Layout]] = field(default_factory=list)
    """(first row, layout) of every value in it."""

    def place(self, home: "Storage", row: int, channel: int) -> None:
        assert self.home is None
        assert not self.fixed
        self.home = (home, row, channel)

    def root(self) -> "tuple[Storage, int, int]":
        """(buffer, first row, first channel)."""
        if self.home is None:
            return self, 0, 0
        outer, row, channel = self.home
        buffer, first, start = outer.root()
        return buffer, first + row, start + channel


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor: rows first .. of a storage; `index` gives the channel of each combination of free coordinates."""

    storage: Storage
    layout: Layout
    index: Index
    first: int = 0

    def __post_init__(self) -> None:
        self.storage.seen.append((self.first, self.layout))

    @property
    def rows(self) -> int:
        return self.layout.rows

    @property
    def channels(self) -> int:
        return self.index.size

    @property
    def start(self) -> int:
        """The first channel it uses."""
        return int(self.index.min())

    @property
    def order(self) -> Index:
        """For each free coordinate, row-major, its channel counted from `start`."""
        return self.index.reshape(-1) - self.start

    @property
    def packed(self) -> bool:
        """Its channels are a run of the storage without gaps or repeats."""
        return bool(np.array_equal(np.sort(self.order), np.arange(self.channels)))

    @property
    def plain(self) -> bool:
        """Packed, and in the order of its free dimensions."""
        return bool(np.array_equal(self.order, np.arange(self.channels)))

    def with_last(self, dim: int) -> Index | None:
        """(outer, size of dim): channels with one dimension last, None where it does not lie dense."""
        index = np.moveaxis(self.index, dim, -1).reshape(-1, self.index.shape[dim])
        return index if (index == index[:, :1] + np.arange(index.shape[1])).all() else None


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a storage as an argument of a step: h x w rows from `first`, `channels` from `start`."""

    storage: Storage
    first: int
    h: int
    w: int
    start: int
    channels: int

    def plain(self, buffers: dict[Storage, int]) -> dict[str, Any]:
        """As `program.Step` holds it."""
        root, row, channel = self.storage.root()
        return {"map": [buffers[root], self.first + row, self.h, self.w, self.start + channel, self.channels]}


def size_of(layout: Layout) -> tuple[int, int]:
    """Height and width of a map; tokens of several maps are one column."""
    return (layout.rows, 1) if layout.chain else (layout.grid.h, layout.grid.w)


def part_of(value: Value) -> Part:
    """All of a packed value."""
    assert value.packed
    return Part(value.storage, value.first, *size_of(value.layout), value.start, value.channels)


def fresh(layout: Layout, *, fixed: bool = False) -> Value:
    """A value with a storage of its own, in the order of its free dimensions."""
    shape = free_shape(layout)
    channels = int(np.prod(shape))
    return Value(Storage(layout.rows, channels, fixed), layout, np.arange(channels).reshape(shape))


def fresh_like(layout: Layout, order: Index) -> Value:
    """A value with a storage of its own, whose channels lie as `order` (see `Value.order`) says."""
    return Value(Storage(layout.rows, order.size), layout, order.reshape(free_shape(layout)))


@dataclass
class Chain:
    """A convolution or product and what its epilogue takes over: `last` is the node whose value it computes."""

    last: Any
    act: Any = None
    residual: Any = None
    residual_first: bool = False
    members: list[Any] = field(default_factory=list)


def outer_free(source: Value, dim: int) -> int:
    """Combinations of the free coordinates of the other dimensions."""
    return int(source.channels // source.index.shape[dim])


def dim_last(source: Value, dim: int) -> list[int]:
    return [*(s for i, s in enumerate(source.index.shape) if i != dim), source.index.shape[dim]]


def evenly(last: "np.ndarray[Any, Any]") -> bool:
    """Groups that follow each other without gaps, in any order."""
    starts = np.sort(last[:, 0])
    return bool((starts == starts[0] + np.arange(len(starts)) * last.shape[1]).all())


def like(source: Value, at: Layout) -> Value:
    """A new value of this layout with the channels of `source`, in the same order."""
    return Value(Storage(at.rows, source.channels), at, source.order.reshape(free_shape(at)))
