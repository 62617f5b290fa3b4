"""Where the places of ops go that read a dimension otherwise: slices, pads, rolls, indices (see `infer_domains`)."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from torch.fx import Node

from fluxcompile.geometry import (
    Chain,
    Dim,
    Factor,
    Grid,
    Layout,
    free,
    is_placed,
)
from fluxcompile.ir import argument, op_name, operand, shape
from fluxcompile.passes.flow import Domain, Join, Remap, Same, has_domain, layout
from fluxcompile.passes.rules import LETTERS, Rule, dims_of, joined, row_major, with_other

PAD = ["constant_pad_nd", "pad", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d"]


def axis_of(source: Layout, dim: int) -> str | None:
    """The axis, "y" or "x", that a dimension walks from end to end, with nothing else in it."""
    at = source.dims[dim]
    if isinstance(at, Chain) or len(at) != 1 or not at[0].axis or at[0].step != 1:
        return None
    extent = source.grid.h if at[0].axis == "y" else source.grid.w
    return at[0].axis if at[0].size == extent else None


def _resampled(
    was: Layout,
    source: Node,
    dim: int,
    index: Sequence[int],
    scale: int,
    start: int,
    *,
    turned: bool = False,
    turn: int = 0,
) -> Domain | None:
    """Output index i along `dim` is input index index[i] (-1: a constant); the grid changes with it."""
    axis = axis_of(was, dim)
    if axis is None:
        return None
    k = 0 if axis == "y" else 1
    g, n = was.grid, len(index)
    scales, origins, turns = list(g.scale), list(g.origin), list(g.turn)
    origins[k] += scales[k] * start
    scales[k] *= scale
    size = (g.h, g.w)[k]
    if turned:
        turns[k] = (turns[k] + turn) % size if turn else turns[k] + 1
    elif turns[k] and n != size:
        turns[k] = 1
    grid = Grid(n if k == 0 else g.h, n if k == 1 else g.w, _pair(scales), _pair(origins), (turns[0], turns[1]))
    if n == 1:
        new_dim: Dim = ()
    else:
        new_dim = (Factor(axis, n),)
    at = np.asarray(index, dtype=np.int64)
    if k == 0:
        rows = np.where(at[:, None] < 0, -1, at[:, None] * g.w + np.arange(g.w))
    else:
        rows = np.where(at[None] < 0, -1, np.arange(g.h)[:, None] * g.w + at[None])
    return Domain(Layout(grid, was.with_dim(dim, new_dim).dims), Remap((source,), rows.reshape(-1)))


def _pair(v: list[Fraction]) -> tuple[Fraction, Fraction]:
    return v[0], v[1]


def _cut(node: Node, source: Node, dim: int, start: int, stop: int, step: int = 1) -> Domain | None:
    """A slice of one dimension."""
    was = layout(source)
    at = was.dims[dim]
    n = len(range(start, stop, step))
    if isinstance(at, Chain):
        return _cut_chain(source, dim, at, start, stop, step)
    if not is_placed(at):
        word = LETTERS[: len(was.dims)]
        return Domain(
            was.with_dim(dim, free(n)), Join(((source, with_other(word, dim)),), word, (), word.replace(word[dim], ""))
        )
    return _resampled(layout(source), source, dim, list(range(start, stop, step)), step, start)


def _cut_chain(source: Node, dim: int, chain: Chain, start: int, stop: int, step: int) -> Domain | None:
    segments: list[tuple[int, Grid | None]] = []
    at = 0
    for rows, grid in chain.segments:
        low, high = max(start, at), min(stop, at + rows)
        if low < high:
            if grid and high - low != rows:
                return None
            segments.append((high - low, grid))
        at += rows
    if step != 1:
        return None
    was, flow = layout(source), Remap((source,), np.arange(start, stop, dtype=np.int64))
    if len(segments) == 1 and segments[0][1]:
        grid = segments[0][1]
        cells = Layout(grid, was.with_dim(dim, row_major(grid)).dims)
        return Domain(cells, flow)
    if stop - start == 1:
        return Domain(Layout(Grid(1, 1), was.with_dim(dim, ()).dims), flow)
    return Domain(was.with_dim(dim, Chain(tuple(segments))), flow)


def slice_(node: Node) -> Domain | None:
    (dim,) = dims_of(node)
    size = shape(operand(node))[dim]
    start, stop, step = argument(node, "start"), argument(node, "end"), argument(node, "step")
    start, stop, step = slice(start, stop, step).indices(size)
    return _cut(node, operand(node), dim, start, stop, step)


def narrow(node: Node) -> Domain | None:
    (dim,) = dims_of(node)
    start, length = argument(node, "start"), argument(node, "length")
    return _cut(node, operand(node), dim, start, start + length) if isinstance(start, int) else None


def select(node: Node) -> Domain | None:
    (dim,) = dims_of(node)
    source, index = operand(node), argument(node, "index")
    index %= shape(source)[dim]
    found = _cut(node, source, dim, index, index + 1)
    if found is None:
        return None
    dims = found.layout.dims
    flow = found.flow
    if isinstance(flow, Join):
        ((_, word),) = flow.operands
        flow = Join(((source, word),), flow.out[:dim] + flow.out[dim + 1 :], (), flow.independent)
    grid = found.layout.grid
    return Domain(Layout(grid, dims[:dim] + dims[dim + 1 :]), flow)


def split(node: Node) -> Domain | None:
    (dim,) = dims_of(node) if argument(node, "dim") is not None else (0,)
    source, at, parts = operand(node), 0, []
    unbind = op_name(node.target) == "aten.unbind"
    for value in node.meta["val"]:
        n = 1 if unbind else value.shape[dim]
        part = _cut(node, source, dim, at, at + n)
        if part is None:
            return None
        if unbind:
            dims, flow = part.layout.dims, part.flow
            if isinstance(flow, Join):
                flow = Join(flow.operands, flow.out[:dim] + flow.out[dim + 1 :], (), flow.independent)
            part = Domain(Layout(part.layout.grid, dims[:dim] + dims[dim + 1 :]), flow)
        parts.append(part)
        at += n
    return Domain(layout(source), parts[0].flow, "", tuple(parts))


def pad(node: Node) -> Domain | None:
    source = operand(node)
    was = layout(source)
    amounts = list(argument(node, "padding" if "ion_pad" in op_name(node.target) else "pad"))
    name = op_name(node.target)
    mode = (
        argument(node, "mode")
        if name == "aten.pad"
        else {"aten.constant_pad_nd": "constant"}.get(name, name[5:].split("ion_")[0])
    )
    rank = len(shape(source))
    spans = [(rank - 1 - i, amounts[2 * i], amounts[2 * i + 1]) for i in range(len(amounts) // 2)]
    spans = [s for s in spans if s[1] or s[2]]
    placed = [s for s in spans if is_placed(was.dims[s[0]])]
    if any(axis_of(was, s[0]) is None for s in placed):
        return None
    found = Domain(was)
    current_rows: Any = None
    for dim, low, high in placed:
        size = shape(source)[dim]
        index = [_padded(i, size, mode) for i in range(-low, size + high)]
        step = _resampled(found.layout, source, dim, index, 1, -low)
        if step is None or any(i is None for i in index):
            return None
        assert isinstance(step.flow, Remap)
        rows = step.flow.rows
        current_rows = rows if current_rows is None else np.where(rows < 0, -1, current_rows[rows])
        found = step
    result = found.layout
    for dim, low, high in spans:
        if (dim, low, high) not in placed:
            result = result.with_dim(dim, free(shape(source)[dim] + low + high))
    if current_rows is None:
        word = LETTERS[:rank]
        padded = {s[0] for s in spans}
        own = "".join(c.upper() if i in padded else c for i, c in enumerate(word))
        return Domain(result, Join(((source, own),), word, (), "".join(c for c in own if c.islower())))
    return Domain(result, Remap((source,), current_rows))


def _padded(i: int, size: int, mode: str) -> int:
    if 0 <= i < size:
        return i
    if mode.startswith("reflect"):
        return -i if i < 0 else 2 * (size - 1) - i
    if mode.startswith("replic"):
        return min(max(i, 0), size - 1)
    if mode == "circular":
        return i % size
    return -1


def roll(node: Node) -> Domain | None:
    source = operand(node)
    shifts, dims = argument(node, "shifts"), argument(node, "dims")
    if not dims:
        return None
    found, rows = Domain(layout(source), Same(source)), None
    for shift, dim in zip(shifts, dims, strict=True):
        dim %= len(shape(source))
        size = shape(source)[dim]
        if not is_placed(found.layout.dims[dim]):
            return None
        index = [(i - shift) % size for i in range(size)]
        step = _resampled(found.layout, source, dim, index, 1, 0, turned=True, turn=-shift % size)
        if step is None:
            return None
        assert isinstance(step.flow, Remap)
        rows = step.flow.rows if rows is None else rows[step.flow.rows]
        found = step
    return Domain(found.layout, Remap((source,), rows)) if rows is not None else None


def flip(node: Node) -> Domain | None:
    source = operand(node)
    found, rows = Domain(layout(source), Same(source)), None
    for dim in dims_of(node, "dims"):
        if not is_placed(found.layout.dims[dim]):
            continue
        index = list(range(shape(source)[dim]))[::-1]
        step = _resampled(found.layout, source, dim, index, 1, 0, turned=True)
        if step is None:
            return None
        assert isinstance(step.flow, Remap)
        rows = step.flow.rows if rows is None else rows[step.flow.rows]
        found = step
    return Domain(found.layout, Remap((source,), rows)) if rows is not None else Domain(found.layout, Same(source))


def index_select(node: Node) -> Domain | None:
    return _index_free(node, *dims_of(node))


def index(node: Node) -> Domain | None:
    indices = list(node.args[1])  # type: ignore[arg-type]
    used = [i for i, x in enumerate(indices) if x is not None]
    if len(used) != 1 or has_domain(indices[used[0]]):
        return None
    return _index_free(node, used[0])


def _index_free(node: Node, dim: int) -> Domain | None:
    """Picking entries of a dimension without a place."""
    source = operand(node)
    was = layout(source)
    if any(has_domain(n) for n in node.all_input_nodes[1:]) or is_placed(was.dims[dim]):
        return None
    extra = len(shape(node)) - len(shape(source)) + 1
    word = with_other(LETTERS[: len(was.dims)], dim)
    new = "".join(LETTERS[len(was.dims) + i] for i in range(extra))
    out = word[:dim] + new + word[dim + 1 :]
    return joined([(source, word)], out, shape(node), independent="".join(c for c in word if c.islower()))


CUTS: dict[str, Rule] = {
    "slice": slice_,
    "narrow": narrow,
    "select": select,
    **dict.fromkeys(
        ("split", "split_with_sizes", "chunk", "unbind", "unsafe_split", "tensor_split", "unsafe_chunk"), split
    ),
    **dict.fromkeys(PAD, pad),
    "roll": roll,
    "flip": flip,
    "index_select": index_select,
    "index": index,
}
"""The rules of this file by ATen name, without overload."""
