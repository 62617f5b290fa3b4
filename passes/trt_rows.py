"""Which rows depend on which, as integer tables: what the mask algebra of a program becomes before it is written.

A table (rows, k) names for each row of the output the rows of an operand that it depends on, in order, each once where
that makes the table narrower.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.geometry import Chain, Factor, Ints, parse_layout, strided_window

Array = npt.NDArray[Any]


@lru_cache(maxsize=1024)
def dependence(word: str, layout: str, out_word: str, out_layout: str) -> Ints:
    """The table of an operand whose letters are `word`; see `ops.miss_join` for how letters read."""
    index = parse_layout(layout).row_index()
    kept = sorted((i for i, c in enumerate(word) if c in out_word), key=lambda i: out_word.index(word[i]))
    dropped = [i for i, c in enumerate(word) if c not in out_word]
    sizes = [index.shape[i] for i in kept]
    by_place = index.transpose([*kept, *dropped]).reshape(*sizes, -1)
    for i, c in enumerate(out_word):
        if c not in word:
            by_place = np.expand_dims(by_place, i)
    out = parse_layout(out_layout)
    return _by_row(by_place, out.row_index(), out.rows)


@lru_cache(maxsize=256)
def entries(layout: str, dim: int) -> Ints:
    """The table of one dimension: the rows that each of its entries holds something of."""
    at = parse_layout(layout)
    index = np.moveaxis(at.row_index(), dim, 0)
    return _unique(np.broadcast_to(index, (at.shape[dim], *index.shape[1:])).reshape(at.shape[dim], -1))


def _by_row(by_place: Array, out_index: Array, rows: int) -> Ints:
    """The entries of `by_place` (places, k) that belong to each row of the output."""
    places = np.broadcast_shapes(by_place.shape[:-1], out_index.shape)
    listed = np.broadcast_to(by_place, (*places, by_place.shape[-1])).reshape(-1, by_place.shape[-1])
    order = np.argsort(np.broadcast_to(out_index, places).reshape(-1), kind="stable")
    return _unique(listed[order].reshape(rows, -1))


def _unique(table: Array) -> Ints:
    """Each row's entries in order and once; rows that then have fewer repeat their first."""
    table = np.sort(table, 1)
    is_first = np.ones(table.shape, np.bool_)
    is_first[:, 1:] = table[:, 1:] != table[:, :-1]
    out = np.repeat(table[:, :1], is_first.sum(1).max(), 1)
    row, column = np.nonzero(is_first)
    out[row, np.cumsum(is_first, 1)[row, column] - 1] = table[row, column]
    return out.astype(np.int64)


@dataclass(frozen=True)
class View:
    """How to see a tensor as (outer, rows, inner): split into `split`, transposed to `order`, then joined."""

    split: tuple[int, ...]
    order: tuple[int, ...]
    sizes: tuple[int, int, int]

    @property
    def is_plain(self) -> bool:
        return self.order == tuple(range(len(self.order)))


@lru_cache(maxsize=512)
def view_of(text: str) -> View:
    """The view of a layout: its rows in order, whatever walks inside one after them."""
    layout = parse_layout(text)
    factors = [f for dim in layout.dims for f in _factors(dim)]
    placed = sorted((i for i, f in enumerate(factors) if _is_placed(f)), key=lambda i: _walk(factors[i]))
    first = min(placed, default=0)
    before = [i for i in range(first) if i not in placed]
    after = [i for i in range(first, len(factors)) if i not in placed]
    split = tuple(f.size for f in factors)
    outer, rows, inner = (int(np.prod([split[i] for i in part])) for part in (before, placed, after))
    return View(split, (*before, *placed, *after), (outer, rows, inner))


def _factors(dim: tuple[Factor, ...] | Chain) -> Sequence[Factor | Chain]:
    return (dim,) if isinstance(dim, Chain) else dim


def _is_placed(factor: Factor | Chain) -> bool:
    return isinstance(factor, Chain) or bool(factor.axis)


def _walk(factor: Factor | Chain) -> tuple[bool, int]:
    """Sorts places as rows are numbered: along y before along x, wide steps first."""
    return (False, 0) if isinstance(factor, Chain) else (factor.axis == "x", -factor.step)


@dataclass(frozen=True)
class Pooling:
    """A table of reads that is a plain window: what MaxPool takes along one axis."""

    kernel: int
    stride: int
    before: int
    after: int


def pooling_of(reads: Array, size: int) -> Pooling | None:
    """The pooling that reads as the table says; None where no single one does."""
    n, kernel = reads.shape
    inside = np.argwhere(reads >= 0)
    if not inside.size:
        return None
    row, tap = inside[0]
    later = [(r, t) for r, t in inside if r != row]
    stride = 1
    if later:
        r, t = later[-1]
        stride, rest = divmod(int(reads[r, t] - reads[row, tap] - (t - tap)), int(r - row))
        if rest or stride < 1:
            return None
    padding = int(row * stride + tap - reads[row, tap])
    after = max(0, (n - 1) * stride + kernel - padding - size)
    if not 0 <= padding < kernel or after >= kernel:
        return None
    made = strided_window(size, n, kernel, stride, padding).table()
    return Pooling(kernel, stride, padding, after) if np.array_equal(made, reads) else None


def in_units(*scales: float) -> list[int]:
    """Scales as whole numbers of one unit, so that lengths of maps compare exactly."""
    fractions = [Fraction(s).limit_denominator(1 << 12) for s in scales]
    unit = np.lcm.reduce([f.denominator for f in fractions])
    return [int(f * int(unit)) for f in fractions]
