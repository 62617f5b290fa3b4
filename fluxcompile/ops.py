"""The op table: every flux op is a row of schema, plain torch reference and samples.

The reference is the meaning. A backend adds a kernel for a row, never a row. Two values recur in every schema:

*miss*   bool[rows]: which rows of a layout must be recomputed (see `geometry` for rows and the text of a layout);
*shift*  int32[2, rows]: where each row's content was in the last frame, in cells of its grid: (dy, dx) so that row
         (y, x) holds what row (y + dy, x + dx) held.

Lists that depend on data (`tiles`, `rows`) have, as fake values, the shape they take when everything is missed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxcompile.geometry import Layout, near_pixels, parse_layout

Sample = tuple[Any, ...]


@dataclass(frozen=True)
class Op:
    """A row of the table. `fake` gives the all-miss shape where the reference depends on data."""

    name: str
    schema: str
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    samples: Callable[[], Iterator[Sample]]

    @property
    def overload(self) -> Any:
        return getattr(torch.ops.flux, self.name).default


def operator_of(name: str) -> Any:
    """The torch operator that a program calls `namespace.name.overload`; None where this torch has none."""
    namespace, packet, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet, None), overload, None)


TABLE: dict[str, Op] = {}
_library = torch.library.Library("flux", "DEF")


def define(
    schema: str, *, samples: Callable[[], Iterator[Sample]], fake: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare one op once: its reference is its meaning, its fallback and, unless `fake` is given, its fake."""

    def add(reference: Callable[..., Any]) -> Callable[..., Any]:
        name = schema.split("(", 1)[0]
        _library.define(schema)
        _library.impl(name, reference, "CompositeExplicitAutograd")
        torch.library.register_fake(f"flux::{name}", fake or reference, lib=_library)
        TABLE[name] = Op(name, schema, reference, fake or reference, samples)
        return reference

    return add


CPU = torch.device("cpu")


@lru_cache(maxsize=512)
def row_index(layout: str, device: torch.device = CPU) -> Tensor:
    """The row of each element of a tensor of this layout, of size 1 along dimensions without a place."""
    return torch.from_numpy(parse_layout(layout).row_index().copy()).to(device)


@lru_cache(maxsize=512)
def _layout(text: str) -> Layout:
    return parse_layout(text)


@lru_cache(maxsize=4096)
def _same_rows(layout: str, other: str) -> bool:
    """Whether tensors of both layouts have their rows at the same places."""
    a, b = (row_index(text) for text in (layout, other))
    return a.shape == b.shape and torch.equal(a, b)


def spread(values: Tensor, layout: str) -> Tensor:
    """Per-row values laid out over the tensor's dimensions (size 1 where there is no place)."""
    return values[..., row_index(layout, values.device)]


def collect(mask: Tensor, layout: str) -> Tensor:
    """bool[rows]: whether any element of a row is set; `mask` broadcasts against the layout's dimensions."""
    index = row_index(layout, mask.device)
    shape = torch.broadcast_shapes(mask.shape, index.shape)
    rows, values = index.expand(shape).reshape(-1), mask.expand(shape).reshape(-1).to(torch.int8)
    out = torch.zeros(_layout(layout).rows, dtype=torch.int8, device=mask.device)
    if len(rows) == len(out):  # one element a row; quicker
        out.index_put_((rows,), values)
    else:
        out.scatter_reduce_(0, rows, values, "amax")
    return out.bool()


def split_letters(letters: str) -> tuple[list[str], str]:
    """The words of "bcyx _ -> bcyx": one per operand, and the output's; "_" stands for no dimension at all."""
    *words, _, out = ("" if word == "_" else word for word in letters.split())
    return words, out


def _fold(x: Tensor, letters: str, out_letters: str) -> Tensor:
    """`x` with any() over the letters the output lacks, transposed and widened to the output's dimensions."""
    drop = [i for i, c in enumerate(letters) if c not in out_letters]
    if drop:
        x = x.any(drop) if x.dim() else x
        letters = "".join(c for c in letters if c in out_letters)
    order = sorted(range(len(letters)), key=lambda i: out_letters.index(letters[i]))
    x = x.permute(order)
    for i, c in enumerate(out_letters):
        if c not in letters:
            x = x.unsqueeze(i)
    return x


# --- misses ----------------------------------------------------------------------------------------------------------


def _miss_input_samples() -> Iterator[Sample]:
    x = torch.zeros(1, 3, 4, 6)
    y = x.clone()
    y[0, 1, 2, 3] = 5.0
    yield y, x, torch.tensor(False), torch.tensor(0.0), "1 3 y4 x6"
    yield y, x, torch.tensor(False), torch.tensor(5.0), "1 3 y4 x6"
    yield x, x, torch.tensor(True), torch.tensor(0.0), "1 3 y4 x6"


@define(
    "miss_input(Tensor frame, Tensor reference, Tensor fresh, Tensor threshold, str layout) -> Tensor",
    samples=_miss_input_samples,
    fake=lambda frame, reference, fresh, threshold, layout: frame.new_empty(_layout(layout).rows, dtype=torch.bool),
)
def miss_input(frame: Tensor, reference: Tensor, fresh: Tensor, threshold: Tensor, layout: str) -> Tensor:
    """Rows of the frame that differ from the reference by more than `threshold`; all of them when `fresh`."""
    if frame.dtype == torch.bool or not frame.is_floating_point():
        differs = (frame.long() - reference.long()).abs() > threshold
    else:
        differs = ~((frame - reference).abs() <= threshold)
    return collect(differs, layout) | fresh


def _join_samples() -> Iterator[Sample]:
    a, b = torch.zeros(12, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)
    a[5] = True
    yield [a, b], "bcyx bc11 -> bcyx", ["1 8 y3 x4", "1 8 1 1"], "1 8 y3 x4"
    yield [a], "bchw -> bc", ["1 8 y3 x4"], "1 8"
    w = torch.zeros(16, dtype=torch.bool)
    w[3] = True
    yield [w, w], "nqd nkd -> nqk", ["y2:2.x2:2 y2.x2 8"] * 2, "y2:2.x2:2 y2.x2 4"


def _join_fake(misses: Sequence[Tensor], letters: str, layouts: Sequence[str], out_layout: str) -> Tensor:
    return misses[0].new_empty(_layout(out_layout).rows, dtype=torch.bool)


@define(
    "miss_join(Tensor[] misses, str letters, str[] layouts, str out_layout) -> Tensor",
    samples=_join_samples,
    fake=_join_fake,
)
def miss_join(misses: Sequence[Tensor], letters: str, layouts: Sequence[str], out_layout: str) -> Tensor:
    """Misses of a value whose every element depends on its operands where their letters say.

    `letters` reads like an einsum: one word per operand, one letter per dimension; what the output lacks is mixed
    (any element of it changes all), "1" broadcasts, "_" stands for a value without dimensions.
    """
    words, out_word = split_letters(letters)
    if all(w == out_word and _same_rows(x, out_layout) for w, x in zip(words, layouts, strict=True)):
        return torch.stack(tuple(misses)).any(0)
    mask = torch.zeros((), dtype=torch.bool, device=misses[0].device)
    for miss, word, layout in zip(misses, words, layouts, strict=True):
        mask = mask | _fold(spread(miss, layout), word, out_word)
    return collect(mask, out_layout)


def _taps(values: Tensor, reads_y: Tensor, reads_x: Tensor) -> Tensor:
    """values[..., y, x] read through both windows: [..., out_y, taps_y, out_x, taps_x]."""
    read: Tensor = values[..., reads_y.clamp(min=0)[:, :, None, None], reads_x.clamp(min=0)[None, None]]
    return read


def _window_any(mask: Tensor, reads: Tensor, dim: int) -> Tensor:
    """Any over the taps of one axis; padding (-1) counts as False."""
    padded = torch.cat([mask, mask.new_zeros([*mask.shape[:dim], 1, *mask.shape[dim + 1 :]])], dim)
    read = padded.index_select(dim, (reads % (mask.shape[dim] + 1)).reshape(-1))
    out: Tensor = read.unflatten(dim, list(reads.shape)).any(dim + 1)
    return out


def _window_samples() -> Iterator[Sample]:
    from fluxcompile.geometry import strided_window

    miss = torch.zeros(8 * 6, dtype=torch.bool)
    miss[13] = True
    for kernel, stride, padding, dilation in ((3, 1, 1, 1), (3, 2, 1, 1), (2, 2, 0, 1), (3, 1, 2, 2)):
        reads = []
        for n in (8, 6):
            n_out = (n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            reads.append(torch.from_numpy(strided_window(n, n_out, kernel, stride, padding, dilation).table()))
        yield miss, reads[0], reads[1], [8, 6]


@define(
    "miss_window(Tensor miss, Tensor reads_y, Tensor reads_x, int[2] size) -> Tensor",
    samples=_window_samples,
    fake=lambda miss, reads_y, reads_x, size: miss.new_empty(reads_y.shape[0] * reads_x.shape[0]),
)
def miss_window(miss: Tensor, reads_y: Tensor, reads_x: Tensor, size: Sequence[int]) -> Tensor:
    """Misses of a window op over a map of `size` cells: an output misses when anything it reads does."""
    return _window_any(_window_any(miss.view(*size), reads_y, 0), reads_x, 1).reshape(-1)


def _remap_samples() -> Iterator[Sample]:
    yield torch.tensor([True, False, True]), torch.tensor([-1, 0, 1, 2, 2])
    yield torch.tensor([True]), torch.tensor([0, 0, -1])


@define("miss_remap(Tensor miss, Tensor rows) -> Tensor", samples=_remap_samples)
def miss_remap(miss: Tensor, rows: Tensor) -> Tensor:
    """Misses of moved rows: output row r was row rows[r] of the operand, -1 for one that never changes."""
    return miss[rows.clamp(min=0)] & (rows >= 0)


def _any_samples() -> Iterator[Sample]:
    yield [torch.tensor([False, True]), torch.tensor([False])], 1
    yield [torch.tensor([False])], 5


@define(
    "miss_any(Tensor[] misses, int rows) -> Tensor",
    samples=_any_samples,
    fake=lambda misses, rows: misses[0].new_empty(rows),
)
def miss_any(misses: Sequence[Tensor], rows: int) -> Tensor:
    """Every one of `rows` misses when anything did: an op of which nothing better is known."""
    return torch.stack([m.any() for m in misses]).any().expand(rows).clone()


def _gate_samples() -> Iterator[Sample]:
    old = torch.zeros(1, 2, 2, 2)
    new = old.clone()
    new[0, 1, 0, 1], new[0, 0, 1, 0] = 1e-3, 1.0
    for gate in (0.0, 0.5):
        yield new, old, torch.tensor([False, True, True, True]), torch.tensor(gate), "1 2 y2 x2"
        yield new.view(1, 8), old.view(1, 8), torch.tensor([True, False, True, True]), torch.tensor(gate), "1 y2.x2.2"


@define(
    "gate(Tensor new, Tensor old, Tensor miss, Tensor gate, str layout) -> Tensor",
    samples=_gate_samples,
    fake=lambda new, old, miss, gate, layout: torch.empty_like(miss),
)
def gate(new: Tensor, old: Tensor, miss: Tensor, gate: Tensor, layout: str) -> Tensor:
    """Misses that made a difference: the largest change of the row exceeds `gate` times the map's spread.

    With `gate` 0 any change at all passes, so the gate is exact.
    """
    if not new.is_floating_point():
        return miss & collect(new != old, layout)
    bound = gate * new.std() if gate > 0 and new.numel() > 1 else gate
    return miss & collect(~((new - old).abs() <= bound), layout)


WIDE_SHARE = 0.4
"""Of a gate by mean change: the share of its bound that the mean change around a row must exceed."""


def gate_by_mean(new: Tensor, old: Tensor, miss: Tensor, gate: Tensor, layout: str) -> Tensor:
    """`gate` with `gate_by="mean"`: the mean change of the row, or around it, exceeds `gate` times the map's spread.

    What changes weakly but widely passes too: where the mean over 5 x 5 rows exceeds WIDE_SHARE of that. Rows that
    missed beside one that passes, pass with it. Tokens of several maps, and a map of one column, have no neighbours.
    """
    if not new.is_floating_point() or not gate > 0:
        return TABLE["gate"].reference(new, old, miss, gate, layout)  # type: ignore[no-any-return]
    index = row_index(layout, new.device)
    change = (new - old).abs().float()
    rows = index.expand(change.shape).reshape(-1)
    total = change.new_zeros(len(miss)).index_add_(0, rows, change.reshape(-1))
    moved = torch.where(miss, total / (change.numel() // len(miss)), 0)
    bound = gate * (new.float().std() if new.numel() > 1 else 1)
    grid = _layout(layout).grid
    if _layout(layout).chain or grid.w == 1:
        return miss & ~(moved <= bound)
    at = moved.reshape(1, 1, grid.h, grid.w)
    passes = ~(at <= bound) | ~(F.avg_pool2d(at, 5, 1, 2) <= WIDE_SHARE * bound)
    near = F.max_pool2d((passes & miss.reshape(at.shape)).float(), 3, 1, 1) > 0
    return miss & near.reshape(-1)


def _merge_samples() -> Iterator[Sample]:
    yield torch.ones(1, 2, 2, 3), torch.zeros(1, 2, 2, 3), torch.tensor([True] * 2 + [False] * 4), "1 2 y2 x3"


@define(
    "merge(Tensor new, Tensor old, Tensor miss, str layout) -> Tensor",
    samples=_merge_samples,
    fake=lambda new, old, miss, layout: torch.empty_like(new),
)
def merge(new: Tensor, old: Tensor, miss: Tensor, layout: str) -> Tensor:
    """Rows that missed from `new`, the others from `old`."""
    return torch.where(spread(miss, layout), new, old)


def _reach_samples() -> Iterator[Sample]:
    miss = torch.zeros(6 * 8, dtype=torch.bool)
    miss[19] = True
    for radius in (-1, 0, 1, 3):
        yield miss, torch.tensor(radius), [6, 8]


@define(
    "reach(Tensor miss, Tensor radius, int[2] size) -> Tensor",
    samples=_reach_samples,
    fake=lambda miss, radius, size: torch.empty_like(miss),
)
def reach(miss: Tensor, radius: Tensor, size: Sequence[int]) -> Tensor:
    """Frame pixels that changes may spread to: those within `radius` of a miss (a square), all where it is negative."""
    r = int(radius)
    if r < 0:
        return torch.ones_like(miss)
    field = miss.view(1, 1, *size).float()
    return torch.nn.functional.max_pool2d(field, 2 * r + 1, 1, r).bool().reshape(-1)


@lru_cache(maxsize=1024)
def near_pixels_on(device: torch.device, cells: int, pixels: int, scale: float, origin: float) -> tuple[Tensor, Tensor]:
    """`geometry.near_pixels` as tensors."""
    low, high = near_pixels(cells, pixels, scale, origin)
    return torch.from_numpy(low).to(device), torch.from_numpy(high).to(device)


def _limit_samples() -> Iterator[Sample]:
    for side, scale in ((8, 1.0), (8, 2.0), (8, 4.0), (96, 32.0)):
        n = int(side / scale)
        near = torch.zeros(side * side, dtype=torch.bool)
        near[side + 1] = True
        yield torch.ones(n * n, dtype=torch.bool), near, [n, n], [side, side], [scale, scale], [(scale - 1) / 2] * 2


@define(
    "limit(Tensor miss, Tensor reach, int[2] size, int[2] frame, float[2] scale, float[2] origin) -> Tensor",
    samples=_limit_samples,
    fake=lambda miss, reach, size, frame, scale, origin: torch.empty_like(miss),
)
def limit(
    miss: Tensor,
    reach: Tensor,
    size: Sequence[int],
    frame: Sequence[int],
    scale: Sequence[float],
    origin: Sequence[float],
) -> Tensor:
    """Misses kept only in cells whose frame pixels (see `geometry.near_pixels`) touch `reach`."""
    if reach.all():
        return miss.clone()
    total = torch.nn.functional.pad(reach.view(*frame).long().cumsum(0).cumsum(1), (1, 0, 1, 0))
    axes = zip(size, frame, scale, origin, strict=True)
    spans = [near_pixels_on(miss.device, *axis) for axis in axes]
    (y0, y1), (x0, x1) = spans
    count = total[y1][:, x1] - total[y0][:, x1] - total[y1][:, x0] + total[y0][:, x0]
    return miss & (count > 0).reshape(-1)


# --- tiles and rows ---------------------------------------------------------------------------------------------------


def _tile_count(size: Sequence[int], tile: Sequence[int]) -> tuple[int, int]:
    return -(-size[0] // tile[0]), -(-size[1] // tile[1])


def _tiles_samples() -> Iterator[Sample]:
    miss = torch.zeros(5 * 7, dtype=torch.bool)
    miss[[0, 33]] = True
    for tile in ([1, 1], [2, 2], [4, 8]):
        yield miss, torch.tensor(False), [5, 7], tile
    yield miss, torch.tensor(True), [5, 7], [2, 2]


def _tiles_fake(miss: Tensor, fresh: Tensor, size: Sequence[int], tile: Sequence[int]) -> Tensor:
    th, tw = _tile_count(size, tile)
    return miss.new_empty((th * tw, 2), dtype=torch.int64)


@define(
    "tiles(Tensor miss, Tensor fresh, int[2] size, int[2] tile) -> Tensor", samples=_tiles_samples, fake=_tiles_fake
)
def tiles(miss: Tensor, fresh: Tensor, size: Sequence[int], tile: Sequence[int]) -> Tensor:
    """int64[n, 2]: the tiles (y, x) with a miss in them, in order; every tile when `fresh`."""
    th, tw = _tile_count(size, tile)
    mask = torch.nn.functional.pad(miss.view(*size), (0, tw * tile[1] - size[1], 0, th * tile[0] - size[0]))
    return (mask.view(th, tile[0], tw, tile[1]).any(3).any(1) | fresh).nonzero()


def _rows_samples() -> Iterator[Sample]:
    miss = torch.zeros(16, dtype=torch.bool)
    miss[6] = True
    yield miss, torch.tensor(False), "1 y4.x4 8", 1
    yield miss, torch.tensor(False), "y2:2.x2:2 y2.x2 8", 0
    yield miss, torch.tensor(True), "1 y4.x4 8", 1


def _rows_fake(miss: Tensor, fresh: Tensor, layout: str, dim: int) -> Tensor:
    return miss.new_empty(_layout(layout).shape[dim], dtype=torch.int64)


@define("rows(Tensor miss, Tensor fresh, str layout, int dim) -> Tensor", samples=_rows_samples, fake=_rows_fake)
def rows(miss: Tensor, fresh: Tensor, layout: str, dim: int) -> Tensor:
    """int64[n]: the indices of one dimension that hold a miss, in order; all of them when `fresh`."""
    mask = spread(miss, layout)
    others = [i for i in range(mask.dim()) if i != dim]
    mask = (mask.any(others) if others else mask) | fresh
    return mask.expand(_layout(layout).shape[dim]).nonzero().squeeze(1)


def _tile_axis(index: Tensor, step: int, start: int, extent: int) -> Tensor:
    return index[:, None] * step + start + torch.arange(extent, device=index.device)


def _halo_samples() -> Iterator[Sample]:
    x = torch.arange(2 * 5 * 7, dtype=torch.float32).view(1, 2, 5, 7)
    some = torch.tensor([[0, 0], [1, 2], [2, 3]])
    yield x, some, [2, 3], [2, 2], [0, 0], [2, 2], 0.0, False
    yield x, some, [2, 3], [2, 2], [-1, -1], [4, 4], 0.0, False
    yield x, some, [2, 3], [2, 2], [-1, -1], [4, 4], 0.0, True
    yield x[:, :, :1], some, [2, 3], [0, 2], [0, -1], [1, 4], -1.0, False
    yield x.permute(0, 2, 3, 1), some, [1, 2], [2, 2], [0, 0], [2, 2], 0.0, False
    yield x, some[:0], [2, 3], [2, 2], [-1, -1], [4, 4], 0.0, False
    yield x.view(2, 1, 5, 7), some, [2, 3], [2, 2], [-1, -1], [4, 4], 0.0, False


def _halo_fake(
    x: Tensor,
    tiles: Tensor,
    dims: Sequence[int],
    step: Sequence[int],
    start: Sequence[int],
    extent: Sequence[int],
    fill: float = 0.0,
    clamp: bool = False,
) -> Tensor:
    shape = list(x.shape)
    shape[0] *= tiles.shape[0]
    for d, e in zip(dims, extent, strict=True):
        shape[d] = e
    return x.new_empty(shape)


@define(
    "halo_gather(Tensor x, Tensor tiles, int[2] dims, int[2] step, int[2] start, int[2] extent, float fill=0.0, "
    "bool clamp=False) -> Tensor",
    samples=_halo_samples,
    fake=_halo_fake,
)
def halo_gather(
    x: Tensor,
    tiles: Tensor,
    dims: Sequence[int],
    step: Sequence[int],
    start: Sequence[int],
    extent: Sequence[int],
    fill: float = 0.0,
    clamp: bool = False,
) -> Tensor:
    """Tiles with their halo, concatenated along the batch: [n * batch, ..., extent_y, ..., extent_x, ...].

    Tile (i, j) reads `extent` cells from (i, j) * step + start along `dims`. Outside the map there is `fill`, or with
    `clamp` the nearest cell. With step 0 every tile reads the same cells.
    """
    y, xx = dims
    moved = x.movedim((y, xx), (0, 1))
    index, inside = [], []
    for axis, size in ((0, x.shape[y]), (1, x.shape[xx])):
        at = _tile_axis(tiles[:, axis], step[axis], start[axis], extent[axis])
        index.append(at.clamp(0, size - 1))
        inside.append((at >= 0) & (at < size))
    out = moved[index[0][:, :, None], index[1][:, None, :]]
    if not clamp:
        hold = inside[0][:, :, None] & inside[1][:, None, :]
        out = out.masked_fill(~hold.view(*hold.shape, *[1] * (out.dim() - 3)), fill)
    return out.movedim(3, 1).flatten(0, 1).movedim((1, 2), (y, xx)).contiguous()


def _scatter_samples() -> Iterator[Sample]:
    cache = torch.zeros(1, 2, 5, 7)
    some = torch.tensor([[0, 0], [2, 3]])
    yield torch.ones(2, 2, 2, 2), cache, some, [2, 3], [2, 2]
    yield torch.ones(2, 2, 2, 2), cache.permute(0, 2, 3, 1), some, [1, 2], [2, 2]
    yield torch.ones(0, 2, 2, 2), cache, some[:0], [2, 3], [2, 2]
    yield torch.ones(4, 1, 2, 2), cache.view(2, 1, 5, 7), some, [2, 3], [2, 2]


@define(
    "tile_scatter(Tensor tile, Tensor cache, Tensor tiles, int[2] dims, int[2] size) -> Tensor",
    samples=_scatter_samples,
    fake=lambda tile, cache, tiles, dims, size: torch.empty_like(cache),
)
def tile_scatter(tile: Tensor, cache: Tensor, tiles: Tensor, dims: Sequence[int], size: Sequence[int]) -> Tensor:
    """The cache with fresh tiles of `size` cells laid over it; what hangs over the edge is dropped."""
    y, x = dims
    out = cache.movedim((y, x), (0, 1)).clone()
    fresh = tile.movedim((y, x), (1, 2)).unflatten(0, (tiles.shape[0], cache.shape[0])).movedim(1, 3)
    ys = _tile_axis(tiles[:, 0], size[0], 0, size[0])[:, :, None].expand(-1, -1, size[1])
    xs = _tile_axis(tiles[:, 1], size[1], 0, size[1])[:, None, :].expand(-1, size[0], -1)
    keep = (ys < out.shape[0]) & (xs < out.shape[1])
    out[ys[keep], xs[keep]] = fresh[keep].to(out.dtype)
    return out.movedim((0, 1), (y, x)).contiguous()


def _row_scatter_samples() -> Iterator[Sample]:
    yield torch.ones(1, 2, 4), torch.zeros(1, 5, 4), torch.tensor([1, 4]), 1
    yield torch.ones(0, 5, 4), torch.zeros(3, 5, 4), torch.tensor([], dtype=torch.int64), 0


@define(
    "row_scatter(Tensor row, Tensor cache, Tensor rows, int dim) -> Tensor",
    samples=_row_scatter_samples,
    fake=lambda row, cache, rows, dim: torch.empty_like(cache),
)
def row_scatter(row: Tensor, cache: Tensor, rows: Tensor, dim: int) -> Tensor:
    """The cache with fresh indices of one dimension laid over it."""
    return cache.index_copy(dim, rows, row.to(cache.dtype))


def _resample_samples() -> Iterator[Sample]:
    x = torch.arange(2 * 3 * 4, dtype=torch.float32).view(1, 2, 3, 4)
    taps_y, taps_x = torch.tensor([[0, 1], [1, 2], [2, -1], [0, 2]]), torch.tensor([[0, 1], [2, 3]])
    weights_y, weights_x = torch.rand(4, 2), torch.rand(2, 2)
    yield x, torch.tensor([[0, 0], [1, 0]]), taps_y, weights_y, taps_x, weights_x, [2, 2]


def _resample_fake(
    x: Tensor, tiles: Tensor, taps_y: Tensor, weights_y: Tensor, taps_x: Tensor, weights_x: Tensor, tile: Sequence[int]
) -> Tensor:
    return x.new_empty((tiles.shape[0], x.shape[1], tile[0], tile[1]))


@define(
    "resample(Tensor x, Tensor tiles, Tensor taps_y, Tensor weights_y, Tensor taps_x, Tensor weights_x, int[2] tile) "
    "-> Tensor",
    samples=_resample_samples,
    fake=_resample_fake,
)
def resample(
    x: Tensor, tiles: Tensor, taps_y: Tensor, weights_y: Tensor, taps_x: Tensor, weights_x: Tensor, tile: Sequence[int]
) -> Tensor:
    """Tiles of a separable linear resize or pooling: out[i, j] = sum of weights_y[i] weights_x[j] x[taps_y, taps_x]."""
    pieces = []
    for axis, (taps, weights) in enumerate(((taps_y, weights_y), (taps_x, weights_x))):
        at = _tile_axis(tiles[:, axis], tile[axis], 0, tile[axis]).clamp(max=taps.shape[0] - 1)
        pieces.append((taps.clamp(min=0)[at], (weights * (taps >= 0))[at]))
    (ty, wy), (tx, wx) = pieces
    read = x[0][:, ty[:, :, :, None, None], tx[:, None, None, :, :]]
    return torch.einsum("cniajb,nia,njb->ncij", read, wy.to(x.dtype), wx.to(x.dtype))


def _hold_samples() -> Iterator[Sample]:
    for gate in (0.0, 0.5):
        for fresh in (False, True):
            yield torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.2]), torch.tensor(gate), torch.tensor(fresh)


@define(
    "hold(Tensor new, Tensor cache, Tensor gate, Tensor fresh) -> Tensor",
    samples=_hold_samples,
    fake=lambda new, cache, gate, fresh: torch.empty_like(new),
)
def hold(new: Tensor, cache: Tensor, gate: Tensor, fresh: Tensor) -> Tensor:
    """A value without a place, kept until its relative change (norm over norm) exceeds `gate`; 0 keeps only equals."""
    if fresh or not new.is_floating_point():
        return new.clone()
    moved = (new - cache).norm() > gate * cache.norm()
    finite = torch.isfinite(new).all() and torch.isfinite(cache).all()
    return new.clone() if moved or not finite else cache.clone()


def _attention_samples() -> Iterator[Sample]:
    q, k, v = (torch.rand(1, 2, 6, 4) for _ in range(3))
    empty = torch.zeros(1, 2, 6, 1)
    everything = torch.arange(6)
    yield (
        q,
        k,
        v,
        k,
        v,
        torch.zeros(1, 2, 6, 4),
        empty,
        empty,
        everything,
        everything,
        everything,
        torch.tensor(True),
        0.5,
    )


def _attention_fake(
    q: Tensor, k: Tensor, v: Tensor, k_old: Tensor, v_old: Tensor, num: Tensor, den: Tensor, top: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(num), torch.empty_like(num), torch.empty_like(den), torch.empty_like(top)


@define(
    "correct_attention(Tensor q, Tensor k, Tensor v, Tensor k_old, Tensor v_old, Tensor numerator, Tensor denominator, "
    "Tensor offset, Tensor queries, Tensor keys, Tensor values, Tensor fresh, float scale) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    samples=_attention_samples,
    fake=_attention_fake,
)
def correct_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_old: Tensor,
    v_old: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    offset: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    fresh: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attention (1, heads, tokens, channels) that corrects what changed: (output, numerator, denominator, offset).

    A query keeps numerator = sum exp(s - offset) v and denominator = sum exp(s - offset). `queries` are computed anew;
    the others lose the old and gain the new terms of the `keys` and `values` that changed, and are computed anew after
    all where the correction would cost precision (a score far above the offset, a denominator that collapsed).
    """
    moved = torch.cat([keys, values]).unique()
    if not fresh:
        old = torch.exp(q @ k_old[:, :, moved].mT * scale - offset)
        new_score = q @ k[:, :, moved].mT * scale - offset
        new = torch.exp(new_score.clamp(max=20))
        num = numerator - old @ v_old[:, :, moved] + new @ v[:, :, moved]
        den = denominator - old.sum(-1, keepdim=True) + new.sum(-1, keepdim=True)
        poor = den < 0.25 * denominator
        if moved.numel():
            poor = poor | (new_score.amax(-1, keepdim=True) > 10)
        anew = poor[0, :, :, 0].any(0)
        anew[queries] = True
        top = offset
    else:
        num, den, top = (torch.empty_like(t) for t in (numerator, denominator, offset))
        anew = torch.ones(q.shape[2], dtype=torch.bool, device=q.device)
    rows = anew.nonzero().squeeze(1)
    score = q[:, :, rows] @ k.mT * scale
    peak = score.amax(-1, keepdim=True)
    weight = torch.exp(score - peak)
    num, den, top = (
        whole.index_copy(2, rows, part)
        for whole, part in ((num, weight @ v), (den, weight.sum(-1, keepdim=True)), (top, peak))
    )
    return num / den, num, den, top


# --- motion -----------------------------------------------------------------------------------------------------------


def _shift_samples() -> Iterator[Sample]:
    motion = torch.zeros(2, 2, 3, dtype=torch.int32)
    motion[0, 0, 1], motion[1, 1, 2] = -4, 6
    for scale in (1.0, 2.0, 4.0):
        n = [int(8 / scale), int(12 / scale)]
        yield motion, n, [scale, scale], [(scale - 1) / 2] * 2, 4


@define(
    "shift_at(Tensor motion, int[2] size, float[2] scale, float[2] origin, int block) -> Tensor",
    samples=_shift_samples,
    fake=lambda motion, size, scale, origin, block: motion.new_empty((2, size[0] * size[1])),
)
def shift_at(
    motion: Tensor, size: Sequence[int], scale: Sequence[float], origin: Sequence[float], block: int
) -> Tensor:
    """The shift of each cell of a grid, from one vector (dy, dx) in frame pixels for each block of `block` pixels.

    Rounded to whole cells; 0 where the source would lie outside the map.
    """
    at, shift = [], []
    for n, s, o, blocks in zip(size, scale, origin, motion.shape[1:], strict=True):
        pixel = torch.arange(n, dtype=torch.float64, device=motion.device) * s + o
        at.append((pixel / block).floor().long().clamp(0, blocks - 1))
    field = motion[:, at[0][:, None], at[1][None]]
    inside = torch.ones_like(field[0], dtype=torch.bool)
    for axis, (n, s) in enumerate(zip(size, scale, strict=True)):
        cells = (field[axis].double() / s).round().to(torch.int32)
        index = torch.arange(n, dtype=torch.int32, device=motion.device).view([n, 1] if axis == 0 else [1, n])
        inside &= (index + cells >= 0) & (index + cells < n)
        shift.append(cells)
    return torch.stack([torch.where(inside, s, 0) for s in shift]).reshape(2, -1)


def _source_samples() -> Iterator[Sample]:
    shift = torch.zeros(2, 12, dtype=torch.int32)
    yield shift, 4
    shift[0, 0], shift[1, 5] = 1, -1
    yield shift, 4


@define(
    "source(Tensor shift, int width) -> Tensor",
    samples=_source_samples,
    fake=lambda shift, width: shift.new_empty(shift.shape[1], dtype=torch.int64),
)
def source(shift: Tensor, width: int) -> Tensor:
    """int64[rows]: the row each row's content was in, for a grid of `width` cells a line."""
    return torch.arange(shift.shape[1], device=shift.device) + shift[0].long() * width + shift[1].long()


def _chain_samples() -> Iterator[Sample]:
    yield ([torch.tensor([0]), torch.tensor([1, 0, 2])],)


@define("chain_source(Tensor[] sources) -> Tensor", samples=_chain_samples)
def chain_source(sources: Sequence[Tensor]) -> Tensor:
    """The sources of segments laid end to end."""
    out, offset = [], 0
    for s in sources:
        out.append(s + offset)
        offset += s.shape[0]
    return torch.cat(out)


def _reindex_samples() -> Iterator[Sample]:
    cache = torch.arange(2 * 3 * 4, dtype=torch.float32).view(1, 2, 3, 4)
    move = torch.arange(12)
    yield cache, move.clone(), "1 2 y3 x4"
    move[0], move[5] = 4, 4
    yield cache, move, "1 2 y3 x4"
    yield cache.permute(0, 2, 3, 1).reshape(1, 12, 2), move, "1 y3.x4 2"
    yield cache.permute(0, 2, 3, 1).reshape(1, 24), move, "1 y3.x4.2"


@define(
    "motion_reindex(Tensor cache, Tensor source, str layout) -> Tensor",
    samples=_reindex_samples,
    fake=lambda cache, source, layout: torch.empty_like(cache),
)
def motion_reindex(cache: Tensor, source: Tensor, layout: str) -> Tensor:
    """The cache moved so that each row lies where its content is now."""
    row = row_index(layout, cache.device)
    if torch.equal(source, torch.arange(source.shape[0], device=source.device)):
        return cache.clone()
    placed = [i for i in range(cache.dim()) if row.shape[i] > 1]
    order = [*placed, *[i for i in range(cache.dim()) if i not in placed]]
    first = cache.permute(order)
    # Several elements share a row where a free factor lies in a placed dimension: the e-th comes from the e-th.
    by_row = torch.argsort(row.permute(order).reshape(-1), stable=True).view(source.shape[0], -1)
    target = torch.empty(by_row.numel(), dtype=torch.int64, device=cache.device)
    target[by_row.reshape(-1)] = by_row[source].reshape(-1)
    moved = first.reshape(by_row.numel(), *first.shape[len(placed) :])[target].reshape(first.shape)
    return moved.permute([order.index(i) for i in range(cache.dim())]).contiguous()


def _pixels(shift: Tensor, scale: Sequence[float]) -> Tensor:
    """A shift in frame pixels, float64."""
    return shift.double() * torch.tensor(scale, dtype=torch.float64, device=shift.device)[:, None]


def _apart_join_samples() -> Iterator[Sample]:
    shift = torch.zeros(2, 12, dtype=torch.int32)
    shift[1, 5] = 1
    yield [shift, shift], "bcyx bcyx -> bcyx", ["1 8 y3 x4"] * 2, [2.0] * 4, shift, "1 8 y3 x4", [2.0, 2.0]
    yield [shift], "bcyx -> bc", ["1 8 y3 x4"], [2.0, 2.0], shift[:, :1] * 0, "1 8", [1.0, 1.0]


def _apart_fake(
    shifts: Sequence[Tensor],
    letters: str,
    layouts: Sequence[str],
    scales: Sequence[float],
    out: Tensor,
    out_layout: str,
    out_scale: Sequence[float],
) -> Tensor:
    return out.new_empty(out.shape[1], dtype=torch.bool)


@define(
    "apart_join(Tensor[] shifts, str letters, str[] layouts, float[] scales, Tensor out, str out_layout, "
    "float[2] out_scale) -> Tensor",
    samples=_apart_join_samples,
    fake=_apart_fake,
)
def apart_join(
    shifts: Sequence[Tensor],
    letters: str,
    layouts: Sequence[str],
    scales: Sequence[float],
    out: Tensor,
    out_layout: str,
    out_scale: Sequence[float],
) -> Tensor:
    """Rows whose operands did not move as they did, in frame pixels: their moved cache is not what they would give.

    `letters` as in `miss_join`; an operand that is mixed must not move at all.
    """
    if not out.any() and not any(s.any() for s in shifts):
        return out.new_zeros(out.shape[1], dtype=torch.bool)
    words, out_word = split_letters(letters)
    mask = torch.zeros((), dtype=torch.bool, device=out.device)
    own = spread(_pixels(out, out_scale), out_layout)
    for i, (shift, word, layout) in enumerate(zip(shifts, words, layouts, strict=True)):
        field = spread(_pixels(shift, scales[2 * i : 2 * i + 2]), layout)
        kept = "".join(c for c in word if c in out_word)
        dropped = [k for k, c in enumerate(word) if c not in out_word and field.shape[k + 1] > 1]
        if dropped:
            mask = mask | _fold((field != 0).any(0), word, out_word)
            continue
        for axis in range(2):
            here = field[axis]
            for k in reversed([k for k, c in enumerate(word) if c not in out_word]):
                here = here.squeeze(k)
            mask = mask | (_placed_like(here, kept, out_word) != own[axis])
    return collect(mask, out_layout)


def _placed_like(x: Tensor, letters: str, out_letters: str) -> Tensor:
    order = sorted(range(len(letters)), key=lambda i: out_letters.index(letters[i]))
    x = x.permute(order)
    for i, c in enumerate(out_letters):
        if c not in letters:
            x = x.unsqueeze(i)
    return x


def _apart_window_samples() -> Iterator[Sample]:
    for miss, reads_y, reads_x, size in _window_samples():
        del miss
        n = reads_y.shape[0] * reads_x.shape[0]
        moved = torch.zeros(2, size[0] * size[1], dtype=torch.int32)
        moved[0, :20] = 2
        yield moved, torch.zeros(2, n, dtype=torch.int32), reads_y, reads_x, size, [1.0, 1.0], [1.0, 1.0]


def _apart_window_fake(
    shift: Tensor, out: Tensor, reads_y: Tensor, reads_x: Tensor, size: Any, scale: Any, out_scale: Any
) -> Tensor:
    return out.new_empty(out.shape[1], dtype=torch.bool)


@define(
    "apart_window(Tensor shift, Tensor out, Tensor reads_y, Tensor reads_x, int[2] size, float[2] scale, "
    "float[2] out_scale) -> Tensor",
    samples=_apart_window_samples,
    fake=_apart_window_fake,
)
def apart_window(
    shift: Tensor,
    out: Tensor,
    reads_y: Tensor,
    reads_x: Tensor,
    size: Sequence[int],
    scale: Sequence[float],
    out_scale: Sequence[float],
) -> Tensor:
    """Outputs of a window op whose moved cache is not what they would give: receptive-field alignment, locally.

    An output is aligned when all it reads moved as it did, in frame pixels, and its window lay over the edge of the
    map in the same way where it came from.
    """
    if not shift.any() and not out.any():
        return out.new_zeros(out.shape[1], dtype=torch.bool)
    oh, ow = reads_y.shape[0], reads_x.shape[0]
    field = _pixels(shift, scale).view(2, *size)
    own = _pixels(out, out_scale).view(2, oh, ow)
    bad = torch.zeros(oh, ow, dtype=torch.bool, device=shift.device)
    inside = (reads_y >= 0)[:, :, None, None] & (reads_x >= 0)[None, None]
    for axis in range(2):
        read = _taps(field[axis], reads_y, reads_x)
        bad |= ((read != own[axis][:, None, :, None]) & inside).any(3).any(1)
    move = out.view(2, oh, ow).long()
    rows, columns = (torch.arange(n, device=shift.device) for n in (oh, ow))
    places = rows[:, None].expand(oh, ow), columns[None].expand(oh, ow)
    for axis, reads in enumerate((reads_y, reads_x)):
        cells = (own[axis] / scale[axis]).round().long()[..., None]
        was, now = reads[(places[axis] + move[axis]).clamp(0, reads.shape[0] - 1)], reads[places[axis]]
        bad |= torch.where((was < 0) | (now < 0), was != now, was - now != cells).any(-1)
    return bad.reshape(-1)


def _apart_remap_samples() -> Iterator[Sample]:
    yield torch.tensor([0, 2, 2]), torch.tensor([0, 1, 3, 3]), torch.tensor([-1, 0, 1, 2])
    yield torch.arange(3), torch.arange(4), torch.tensor([-1, 0, 1, 2])


@define(
    "apart_remap(Tensor source, Tensor out, Tensor rows) -> Tensor",
    samples=_apart_remap_samples,
    fake=lambda source, out, rows: out.new_empty(out.shape[0], dtype=torch.bool),
)
def apart_remap(source: Tensor, out: Tensor, rows: Tensor) -> Tensor:
    """Rows of a moved, cut or padded map that do not come from where the rows they are made of come from.

    source: the operand's sources; out: the output's; rows: as in `miss_remap`.
    """
    return torch.where(rows >= 0, source[rows.clamp(min=0)], -1) != rows[out]


def _apart_any_samples() -> Iterator[Sample]:
    yield [torch.zeros(2, 3, dtype=torch.int32), torch.ones(2, 1, dtype=torch.int32)], 4
    yield [torch.zeros(2, 3, dtype=torch.int32)], 1


@define(
    "apart_any(Tensor[] shifts, int rows) -> Tensor",
    samples=_apart_any_samples,
    fake=lambda shifts, rows: shifts[0].new_empty(rows, dtype=torch.bool),
)
def apart_any(shifts: Sequence[Tensor], rows: int) -> Tensor:
    """Every row, when any operand moved: an op of which nothing better is known."""
    return torch.stack([s.any() for s in shifts]).any().expand(rows).clone()


flux = torch.ops.flux
"""The table as torch sees it: `flux.tiles.default` is an op a graph may call."""
