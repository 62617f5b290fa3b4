"""Integer geometry: which frame pixels a cell stands for, how a tensor lays out its cells, what a window reads.

Everything here is exact (integers and fractions) and knows nothing of torch. Order is (y, x) everywhere.

A *grid* is a map seen from the frame: h x w cells, each `scale` frame pixels apart, cell (0, 0) centred at `origin`.
A *layout* says how the dimensions of one tensor enumerate the cells of a grid. A dimension is a product of factors,
outermost first; a factor is placed (it walks `step` cells along y or x) or free (channels, heads). Text form:

    1 64 y80 x80          a map, channels first
    1 y14.x14 384         tokens: one dimension walks the map row by row
    y8:7.x8:7 y7.x7 96    windows of 7 x 7 cells: the first dimension walks windows, the second cells of one
    1 (1+14x14) 384       a class token before 14 x 14 tokens
    1 84 (80x80+40x40)    tokens of two maps, one after the other

The *rows* of a layout are what can be hit or missed on its own: the cells, row by row, or the entries of a chain.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """The cells of a map: h x w of them, `scale` frame pixels apart, cell (0, 0) centred at frame pixel `origin`.

    `turn` counts cells the map was rolled by (cell i lies where cell i + turn was); a turned grid never moves.
    """

    h: int
    w: int
    scale: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))
    origin: tuple[Fraction, Fraction] = (Fraction(0), Fraction(0))
    turn: tuple[int, int] = (0, 0)

    @property
    def cells(self) -> int:
        return self.h * self.w

    def coarser(self, y: int, x: int) -> "Grid":
        """The grid of blocks of y x x cells."""
        if (y, x) == (1, 1):
            return self
        (sy, sx), (oy, ox) = self.scale, self.origin
        return Grid(
            self.h // y,
            self.w // x,
            (sy * y, sx * x),
            (oy + sy * Fraction(y - 1, 2), ox + sx * Fraction(x - 1, 2)),
            (self.turn[0] // y, self.turn[1] // x)
            if self.turn[0] % y == 0 and self.turn[1] % x == 0
            else (self.turn[0] and 1, self.turn[1] and 1),
        )

    def finer(self, y: int, x: int) -> "Grid":
        """The grid in which each cell has become y x x cells."""
        if (y, x) == (1, 1):
            return self
        (sy, sx), (oy, ox) = self.scale, self.origin
        return Grid(
            self.h * y,
            self.w * x,
            (sy / y, sx / x),
            (oy - sy * Fraction(y - 1, 2 * y), ox - sx * Fraction(x - 1, 2 * x)),
            (self.turn[0] * y, self.turn[1] * x),
        )

    def window(self, y: "Window", x: "Window") -> "Grid":
        """The grid of the outputs of a window along each axis."""
        (sy, sx), (oy, ox) = self.scale, self.origin
        return Grid(
            y.n_out,
            x.n_out,
            (sy * y.ratio, sx * x.ratio),
            (oy + sy * y.offset, ox + sx * x.offset),
            self.turn if (y.n_out, x.n_out) == (self.h, self.w) else (self.turn[0] and 1, self.turn[1] and 1),
        )

    def __str__(self) -> str:
        def pair(v: tuple[Any, Any]) -> str:
            return str(v[0]) if v[0] == v[1] else f"{v[0]},{v[1]}"

        text = f"{self.h}x{self.w} /{pair(self.scale)} +{pair(self.origin)}"
        return text + (f" turned {pair(self.turn)}" if any(self.turn) else "")


@dataclass(frozen=True)
class Window:
    """What each output of one axis of a window op reads: `reads[i, j]` is an input index, -1 for padding.

    `ratio` is input cells per output cell, `offset` the input coordinate at which output 0 is centred.
    """

    n_in: int
    reads: tuple[tuple[int, ...], ...]
    ratio: Fraction
    offset: Fraction

    @property
    def n_out(self) -> int:
        return len(self.reads)

    def table(self) -> Ints:
        """The reads as an int64 array (n_out, taps)."""
        return np.array(self.reads, dtype=np.int64).reshape(self.n_out, -1)


def _inside(index: int, size: int) -> int:
    return index if 0 <= index < size else -1


@lru_cache(maxsize=4096)
def strided_window(n_in: int, n_out: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Window:
    """Convolution and pooling: output i reads i * stride - padding + dilation * j for j in [0, kernel)."""
    reads = tuple(
        tuple(_inside(i * stride - padding + dilation * j, n_in) for j in range(kernel)) for i in range(n_out)
    )
    return Window(n_in, reads, Fraction(stride), Fraction(dilation * (kernel - 1), 2) - padding)


@lru_cache(maxsize=4096)
def transposed_window(
    n_in: int, n_out: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Window:
    """Transposed convolution: output i reads every j with i = j * stride - padding + dilation * k, k in [0, kernel)."""
    taps = []
    for i in range(n_out):
        places = [i + padding - dilation * k for k in range(kernel)]
        taps.append([p // stride if p % stride == 0 and 0 <= p // stride < n_in else -1 for p in places])
    offset = (Fraction(padding) - Fraction(dilation * (kernel - 1), 2)) / stride
    return Window(n_in, tuple(map(tuple, taps)), Fraction(1, stride), offset)


def matrix_window(matrix: npt.NDArray[Any]) -> Window:
    """A linear map along one axis, given as its matrix (n_out, n_in): output i reads where row i is not zero."""
    n_out, n_in = matrix.shape
    rows = [np.flatnonzero(row).tolist() or [0] for row in matrix]
    width = max(map(len, rows))
    reads = tuple(tuple(r + [-1] * (width - len(r))) for r in rows)
    ratio = Fraction(n_in, n_out)
    return Window(n_in, reads, ratio, (ratio - 1) / 2)


@dataclass(frozen=True)
class Factor:
    """`size` places, `step` cells apart, along axis "y" or "x"; axis "" is free (no place)."""

    axis: str
    size: int
    step: int = 1

    def __str__(self) -> str:
        return f"{self.axis}{self.size}" + (f":{self.step}" if self.axis and self.step != 1 else "")


@dataclass(frozen=True)
class Chain:
    """One dimension made of segments laid end to end: the cells of a grid row by row, or `rows` without a place."""

    segments: tuple[tuple[int, Grid | None], ...]

    @property
    def size(self) -> int:
        return sum(rows for rows, _ in self.segments)

    def __str__(self) -> str:
        return "(" + "+".join(f"{g.h}x{g.w}" if g else str(n) for n, g in self.segments) + ")"


Dim = tuple[Factor, ...] | Chain


def _merged(factors: Sequence[Factor]) -> tuple[Factor, ...]:
    """Factors with neighbours joined where they walk on without a break."""
    out: list[Factor] = []
    for f in factors:
        if f.size == 1:
            continue
        last = out[-1] if out else None
        if last and last.axis == f.axis and (not f.axis or last.step == f.step * f.size):
            out[-1] = Factor(f.axis, last.size * f.size, f.step if f.axis else 1)
        else:
            out.append(f)
    return tuple(out)


def dim_size(dim: Dim) -> int:
    return dim.size if isinstance(dim, Chain) else math.prod(f.size for f in dim)


def free(size: int) -> tuple[Factor, ...]:
    """A dimension without a place."""
    return (Factor("", size),) if size != 1 else ()


def is_placed(dim: Dim) -> bool:
    return isinstance(dim, Chain) or any(f.axis for f in dim)


@dataclass(frozen=True)
class Layout:
    """How the dimensions of a tensor enumerate the cells of `grid`; see the module docstring for the text form."""

    grid: Grid
    dims: tuple[Dim, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(dim_size(d) for d in self.dims)

    @property
    def chain(self) -> Chain | None:
        return next((d for d in self.dims if isinstance(d, Chain)), None)

    @property
    def rows(self) -> int:
        return self.chain.size if self.chain else self.grid.cells

    @property
    def is_global(self) -> bool:
        """No place: one row stands for the whole tensor."""
        return not self.chain and self.rows == 1

    @property
    def map_dims(self) -> tuple[int, int] | None:
        """The (y, x) dimensions when each is one whole axis of the grid, a map; otherwise None."""
        places = {}
        for i, dim in enumerate(self.dims):
            if isinstance(dim, Chain) or not is_placed(dim):
                if isinstance(dim, Chain):
                    return None
                continue
            if len(dim) != 1 or dim[0].step != 1 or dim[0].axis in places:
                return None
            places[dim[0].axis] = i
        if places.keys() != {"y", "x"}:
            return None
        return places["y"], places["x"]

    @property
    def kind(self) -> str:
        if self.is_global:
            return "global"
        return "map" if self.map_dims else "tokens"

    def __str__(self) -> str:
        return " ".join(str(d) if isinstance(d, Chain) else ".".join(map(str, d)) or "1" for d in self.dims)

    def row_index(self) -> Ints:
        """The row each element belongs to: one dimension per tensor dimension, of size 1 where it has no place."""
        return _row_index(str(self))

    def reshape(self, shape: Sequence[int]) -> "Layout | None":
        """The layout after a reshape, None where dimensions are cut across the grid in a way it cannot say."""
        queue: list[Factor | Chain] = []
        for dim in self.dims:
            for f in (dim,) if isinstance(dim, Chain) else dim:
                if f.size > 1:
                    queue.append(f)
        dims: list[Dim] = []
        for size in shape:
            taken, queue = _take(queue, size)
            if taken is None:
                return None
            dims.append(taken)
        return replace(self, dims=tuple(dims)) if not queue else None

    def permute(self, order: Sequence[int]) -> "Layout":
        return replace(self, dims=tuple(self.dims[i] for i in order))

    def with_dim(self, index: int, dim: Dim) -> "Layout":
        return replace(self, dims=(*self.dims[:index], dim, *self.dims[index + 1 :]))

    def simplified(self) -> "Layout | None":
        """The same dimensions over the coarsest grid that still has a cell for every placed index; None if none has."""
        if self.chain:
            return self
        steps = {}
        for axis, extent in (("y", self.grid.h), ("x", self.grid.w)):
            factors = sorted((f for _, f in self.factors() if f.axis == axis), key=lambda f: f.step)
            base = at = factors[0].step if factors else extent
            for f in factors:
                if f.step != at:
                    return None
                at *= f.size
            if at != extent:
                return None
            steps[axis] = base
        dims = tuple(
            tuple(replace(f, step=f.step // steps[f.axis]) if f.axis else f for f in d)
            if not isinstance(d, Chain)
            else d
            for d in self.dims
        )
        return Layout(self.grid.coarser(steps["y"], steps["x"]), dims)

    def factors(self) -> Iterator[tuple[int, Factor]]:
        for i, dim in enumerate(self.dims):
            if not isinstance(dim, Chain):
                for f in dim:
                    yield i, f

    def as_map(self, y: int, x: int) -> "Layout | None":
        """A layout of the same tensor in which dimensions y and x are the two whole axes of a grid.

        Places finer than these dimensions are dropped to the coarser grid, free factors inside them become cells.
        """
        return None if self.chain else _promoted(self, y, x)


def _promoted(layout: Layout, y: int, x: int) -> Layout | None:
    """The work of `as_map`: each of the two dimensions must be [one placed factor][one free factor]."""
    grid = layout.grid
    cell: dict[str, int] = {}
    fine: dict[str, int] = {}
    for index, axis, extent in ((y, "y", grid.h), (x, "x", grid.w)):
        dim = layout.dims[index]
        assert not isinstance(dim, Chain)
        if not dim:
            if extent != 1:
                return None
            cell[axis], fine[axis] = 1, 1
            continue
        if dim[0].axis != axis:
            if dim[0].axis == "" and extent == 1 and len(dim) == 1:
                cell[axis], fine[axis] = 1, dim[0].size
                continue
            return None
        if len(dim) > 2 or (len(dim) == 2 and dim[1].axis):
            return None
        if dim[0].step * dim[0].size != extent:
            return None
        cell[axis] = dim[0].step
        fine[axis] = dim[1].size if len(dim) == 2 else 1
    grid = grid.coarser(cell["y"], cell["x"]).finer(fine["y"], fine["x"])
    dims: list[Dim] = [free(s) for s in layout.shape]
    dims[y] = _merged([Factor("y", grid.h)])
    dims[x] = _merged([Factor("x", grid.w)])
    return Layout(grid, tuple(dims))


def _take(queue: list[Factor | Chain], size: int) -> tuple[Dim | None, list[Factor | Chain]]:
    """The factors from the front of `queue` that make a dimension of `size`, and the rest."""
    queue = list(queue)
    need, dim = size, list[Factor]()
    while need > 1:
        if not queue:
            return None, queue
        f = queue.pop(0)
        if isinstance(f, Chain):
            return (f, queue) if not dim and f.size == need else (None, queue)
        while not f.axis and need % f.size and f.size % need and queue:
            after = queue[0]
            if isinstance(after, Chain) or after.axis:
                break
            f = Factor("", f.size * after.size)
            queue.pop(0)
        common = math.gcd(need, f.size)
        if common == 1:
            return None, queue
        dim.append(Factor(f.axis, common, f.step * (f.size // common) if f.axis else 1))
        if f.size > common:
            queue.insert(0, Factor(f.axis, f.size // common, f.step))
        need //= common
    return _merged(dim), queue


def global_layout(shape: Sequence[int]) -> Layout:
    """A tensor without a place."""
    return Layout(Grid(1, 1), tuple(free(s) for s in shape))


def map_layout(shape: Sequence[int], y: int, x: int, grid: Grid | None = None) -> Layout:
    """A tensor whose dimensions y and x are the axes of a map."""
    grid = grid or Grid(shape[y], shape[x])
    dims: list[Dim] = [free(s) for s in shape]
    dims[y], dims[x] = _merged([Factor("y", grid.h)]), _merged([Factor("x", grid.w)])
    return Layout(grid, tuple(dims))


def parse_layout(text: str) -> Layout:
    """The layout a text form stands for, over a plain grid (scale 1) of the right size."""
    dims: list[Dim] = []
    h = w = 1
    for word in text.split():
        if word.startswith("("):
            parts = [p.split("x") for p in word[1:-1].split("+")]
            dims.append(
                Chain(
                    tuple(
                        (int(p[0]) * int(p[1]), Grid(int(p[0]), int(p[1]))) if len(p) == 2 else (int(p[0]), None)
                        for p in parts
                    )
                )
            )
            continue
        factors = []
        for piece in word.split("."):
            match = re.fullmatch(r"([yx]?)(\d+)(?::(\d+))?", piece)
            if not match:
                raise ValueError(f"layout {text!r}: {piece!r} is no factor; write y8, x8:7 or 64")
            axis, size, step = match.group(1), int(match.group(2)), int(match.group(3) or 1)
            h, w = h * (size if axis == "y" else 1), w * (size if axis == "x" else 1)
            if size != 1:
                factors.append(Factor(axis, size, step))
        dims.append(tuple(factors))
    return Layout(Grid(h, w), tuple(dims))


@lru_cache(maxsize=4096)
def _row_index(text: str) -> Ints:
    layout = parse_layout(text)
    index = np.zeros([1] * len(layout.dims), dtype=np.int64)
    for i, dim in enumerate(layout.dims):
        shape = [1] * len(layout.dims)
        if isinstance(dim, Chain):
            shape[i] = dim.size
            index = index + np.arange(dim.size, dtype=np.int64).reshape(shape)
        elif is_placed(dim):
            at = np.zeros(1, dtype=np.int64)
            for f in dim:
                step = f.step * (layout.grid.w if f.axis == "y" else 1) if f.axis else 0
                at = (at[:, None] + np.arange(f.size, dtype=np.int64)[None] * step).reshape(-1)
            shape[i] = at.size
            index = index + at.reshape(shape)
    index.setflags(write=False)
    return index


@lru_cache(maxsize=4096)
def _row_order(text: str) -> tuple[tuple[int, ...], tuple[int, ...], int] | None:
    """(sizes of every factor, the order that brings places first, rows); None where the rows are not all walked."""
    layout = parse_layout(text)
    factors: list[tuple[tuple[int, int], int]] = []
    for dim in layout.dims:
        if isinstance(dim, Chain):
            factors.append(((0, 0), dim.size))
        else:
            factors += [(("yx ".index(f.axis or " "), -f.step if f.axis else 0), f.size) for f in dim]
    order = sorted(range(len(factors)), key=lambda i: factors[i][0])
    sizes = tuple(size for _, size in factors)
    placed = math.prod(size for (axis, _), size in factors if axis < 2)
    return (sizes, tuple(order), layout.rows) if placed == layout.rows else None


def has_rows(layout: Layout) -> bool:
    """Whether a tensor of this layout holds each row once, so that `to_rows` can take it apart."""
    return _row_order(str(layout)) is not None


def to_rows(array: npt.NDArray[Any], layout: Layout) -> npt.NDArray[Any]:
    """A tensor as (rows, channels): its places row by row, its free dimensions in their order."""
    found = _row_order(str(layout))
    assert found is not None
    sizes, order, rows = found
    return array.reshape(sizes).transpose(order).reshape(rows, -1)


def from_rows(array: npt.NDArray[Any], layout: Layout) -> npt.NDArray[Any]:
    """The tensor that `to_rows` took apart."""
    found = _row_order(str(layout))
    assert found is not None
    sizes, order, _ = found
    back = sorted(range(len(order)), key=order.__getitem__)
    return array.reshape([sizes[i] for i in order]).transpose(back).reshape(layout.shape)


def free_shape(layout: Layout) -> tuple[int, ...]:
    """How many channels each dimension of a layout walks: its size without the places in it."""
    return tuple(1 if isinstance(d, Chain) else math.prod(f.size for f in d if not f.axis) for d in layout.dims)


def own_pixels(cells: int, pixels: int, scale: float, origin: float) -> tuple[Ints, Ints]:
    """[low, high): the frame pixels each cell of one axis stands for, a partition of the frame.

    Cells of all scales lie over each other: a map that covers the frame, within a cell or, resized by an odd factor,
    within 5 % of it, is cut into equal parts, whatever half cells its windows moved its centres by. A map cut from a
    larger one is shifted by whole cells.
    """
    beyond = abs(cells * scale - pixels)
    if beyond < scale or (scale != round(scale) and beyond < 0.05 * pixels):
        edge = np.arange(cells + 1, dtype=np.float64) * pixels / cells
    else:
        edge = (np.arange(cells + 1, dtype=np.float64) + round((origin - (scale - 1) / 2) / scale)) * scale
    low = np.clip(np.floor(edge[:-1]), 0, pixels - 1).astype(np.int64)
    high = np.clip(np.ceil(edge[1:]), 1, pixels).astype(np.int64)
    return low, np.maximum(high, low + 1)


SHARED = 4
"""Of cells larger than FINE pixels, the share of a neighbour, one over this, in which a change is theirs too."""
FINE = 16


def near_pixels(cells: int, pixels: int, scale: float, origin: float) -> tuple[Ints, Ints]:
    """[low, high): the frame pixels whose changes a cell follows under a radius: its own, and if it is large some more.

    What lies at the border of a large cell moves its neighbour by as much, since their windows overlap; a radius that
    suits fine maps would leave the neighbour stale.
    """
    low, high = own_pixels(cells, pixels, scale, origin)
    more = int(scale) // SHARED if scale > FINE else 0
    return np.maximum(low - more, 0), np.minimum(high + more, pixels)
