"""Ops of a plan that only move data: most become views (see `plan_values`), the others `gather` steps."""

import math
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node

from fluxcompile.geometry import Chain, free, free_shape, from_rows, has_rows, is_placed, to_rows
from fluxcompile.ir import argument, op_name, operand, shape
from fluxcompile.passes.flow import Join, Remap, domain, has_domain, layout
from fluxcompile.passes.plan_values import Part, Storage, Value, fresh, part_of
from fluxcompile.passes.rules import dims_of
from fluxcompile.passes.rules_cut import PAD
from fluxcompile.passes.rules_move import RESHAPE

if TYPE_CHECKING:
    from fluxcompile.passes.lower_plan import Lowering

LARGEST = 1 << 24
"""Elements up to which a move is looked at one by one."""


def reshape(lowering: "Lowering", node: Node) -> Value | None:
    source = lowering.value(operand(node))
    if source is None:
        return None
    return Value(source.storage, layout(node), source.index.reshape(free_shape(layout(node))), source.first)


def permute(lowering: "Lowering", node: Node) -> Value | None:
    """Any reordering of dimensions, found by reordering a tensor of distinct sizes."""
    source = lowering.value(operand(node))
    if source is None:
        return None
    rank = len(shape(operand(node)))
    probe = torch.empty([i + 2 for i in range(rank)], device="meta")
    moved = node.target(probe, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    order = [s - 2 for s in moved.shape]
    return Value(source.storage, layout(node), source.index.transpose(order), source.first)


def cut(lowering: "Lowering", node: Node) -> Value | None:
    """A part along one dimension: slice, narrow, select, or one result of a split."""
    maker = operand(node) if node.target is operator.getitem else node
    source = lowering.value(operand(maker))
    if source is None:
        return None
    size = shape(operand(maker))
    (dim,) = dims_of(maker) if argument(maker, "dim") is not None else (0,)
    start, stop, step, dropped = _span(node, maker, dim, size[dim])
    if not is_placed(source.layout.dims[dim]):
        index = source.index.take(range(start, stop, step), dim)
        return Value(source.storage, layout(node), index.squeeze(dim) if dropped else index, source.first)
    if isinstance(source.layout.dims[dim], Chain) and step == 1:
        index = source.index.squeeze(dim) if dropped else source.index
        return Value(source.storage, layout(node), index, source.first + start)
    return rearrange(lowering, node) if node is maker else None


def _span(node: Node, maker: Node, dim: int, size: int) -> tuple[int, int, int, bool]:
    """(start, stop, step, whether the dimension goes)."""
    name = op_name(maker.target).removeprefix("aten.")
    if name == "slice":
        return (*slice(argument(maker, "start"), argument(maker, "end"), argument(maker, "step")).indices(size), False)
    if name == "narrow":
        start = argument(maker, "start")
        return start, start + argument(maker, "length"), 1, False
    if name == "select":
        index = argument(maker, "index") % size
        return index, index + 1, 1, True
    results, which = maker.meta["val"], node.args[1]
    assert isinstance(which, int)
    if name == "unbind":
        return which, which + 1, 1, True
    start = sum(v.shape[dim] for v in results[:which])
    return start, start + results[which].shape[dim], 1, False


def widen(lowering: "Lowering", node: Node) -> Value | None:
    """Expand: the same channel read several times."""
    source = lowering.value(operand(node))
    if source is None or layout(node).grid != source.layout.grid or layout(node).rows != source.rows:
        return None
    shape_ = free_shape(layout(node))
    index = source.index.reshape((1,) * (len(shape_) - source.index.ndim) + source.index.shape)
    return Value(source.storage, layout(node), np.broadcast_to(index, shape_), source.first)


def join(lowering: "Lowering", node: Node) -> Value | None:
    """Concatenation along channels or along tokens; operands move into the result where they can."""
    tensors: list[Any] = [t for t in node.args[0] if isinstance(t, Node)]  # type: ignore[union-attr]
    dim = (argument(node, "dim") or 0) % len(shape(node))
    stacked = op_name(node.target) == "aten.stack"
    if isinstance(layout(node).dims[dim], Chain):
        return None if stacked else _join_rows(lowering, node, tensors, dim)
    values = [_with_rows(lowering, node, lowering.value(t)) for t in tensors]
    if not isinstance(domain(node).flow, Join) or any(v is None or v.rows != layout(node).rows for v in values):
        return None
    found: list[Value] = [v for v in values if v is not None]
    shape_ = free_shape(layout(node))
    out = Storage(layout(node).rows, math.prod(shape_))
    parts, at = [], 0
    for group in _by_storage(found):
        storage = group[0].storage
        used = np.concatenate([v.index.reshape(-1) for v in group])
        whole = np.array_equal(np.sort(used), np.arange(storage.channels)) and storage.rows == out.rows
        if whole and storage.home is None and not storage.fixed:
            storage.place(out, 0, at)
            parts += [(v, v.index + at) for v in group]
            at += storage.channels
            continue
        for v in group:
            packed = Value(out, v.layout, at + np.arange(v.channels).reshape(v.index.shape))
            _copy(lowering, node, packed, v)
            parts.append((v, packed.index))
            at += v.channels
    lookup = {id(v): index for v, index in parts}
    pieces = [np.expand_dims(lookup[id(v)], dim) if stacked else lookup[id(v)] for v in found]
    return Value(out, layout(node), np.concatenate(pieces, dim))


def _with_rows(lowering: "Lowering", node: Node, value: Value | None) -> Value | None:
    """A value without a place that was widened over the map, as rows of it."""
    at = layout(node)
    if value is None or value.rows != 1 or at.rows == 1 or value.index.ndim != len(at.dims):
        return value
    index = value.index
    for dim in (d for d, places in enumerate(at.dims) if is_placed(places)):
        if (index != index.take([0], dim)).any():
            return None
        index = index.take([0], dim)
    out = fresh(
        replace(at, dims=tuple(d if is_placed(d) else free(n) for d, n in zip(at.dims, index.shape, strict=True)))
    )
    table = np.broadcast_to(index.reshape(1, -1) - value.start, (at.rows, index.size))
    return lowering.gathered(node, out, value, table, 0.0)


def _by_storage(values: Sequence[Value]) -> list[list[Value]]:
    """Values that lie in one storage together, in the order they come; a value twice is two groups."""
    groups: list[list[Value]] = []
    for v in values:
        mine = next((g for g in groups if g[0].storage is v.storage and all(v is not u for u in g)), None)
        if mine is None:
            groups.append([v])
        else:
            mine.append(v)
    return groups


def _copy(lowering: "Lowering", node: Node, out: Value, source: Value) -> None:
    """The rows of `source` that miss, into channels of `out` in the order of its free dimensions."""
    mask = lowering.masks.of(node.meta["miss"])
    if source.plain:
        lowering.step("pointwise", node=node, mask=mask, out=part_of(out), x=part_of(source), terms=[])
        return
    low = source.start
    table = (source.index.reshape(-1) - low)[None]
    lowering.gather(mask, out, source, table, relative=True, low=low, width=int(table.max()) + 1)


def _join_rows(lowering: "Lowering", node: Node, tensors: list[Node], dim: int) -> Value | None:
    """Tokens end to end: each operand is a range of the result's rows."""
    if not isinstance(domain(node).flow, Remap):
        return None
    shape_ = free_shape(layout(node))
    channels = math.prod(shape_)
    out = Storage(layout(node).rows, channels)
    index = np.arange(channels).reshape(shape_)
    values = [lowering.value(t) for t in tensors]
    for t, v in zip(tensors, values, strict=True):
        if has_domain(t) and (v is None or (v.rows != shape(t)[dim])):
            return None
    orders = [v.order for v in values if v is not None and v.packed]
    order = orders[0] if orders and all(np.array_equal(o, orders[0]) for o in orders) else index.reshape(-1)
    at = 0
    for t, v in zip(tensors, values, strict=True):
        rows = shape(t)[dim]
        here = Part(out, at, rows, 1, 0, channels)
        if v is None:
            value = np.broadcast_to(
                lowering.tensor(t).numpy(), [s if i != dim else rows for i, s in enumerate(shape(node))]
            )
            flat = np.moveaxis(value, dim, 0).reshape(rows, -1)
            table = np.empty_like(flat)
            table[:, order] = flat
            name = lowering.constant(torch.from_numpy(table), "tokens")
            lowering.step("constant", node=node, out=here, value={"@": name})
        elif (
            np.array_equal(v.order, order)
            and v.storage.channels == channels
            and v.storage.rows == rows
            and v.storage.home is None
            and not v.storage.fixed
        ):
            v.storage.place(out, at, 0)
        else:
            lowering.copy_rows(t, v, here, order)
        at += rows
    return Value(out, layout(node), order.reshape(shape_))


def rearrange(lowering: "Lowering", node: Node) -> Value | None:
    """Any other move of one value, found by moving numbers: pixel shuffle, pad, roll, flip, unfolding."""
    source = lowering.value(operand(node))
    size = shape(operand(node))
    if source is None or math.prod(size) > LARGEST or math.prod(shape(node)) > LARGEST:
        return None
    source = source if source.packed else lowering.copied(operand(node), source)
    flat = source.order[None] + np.arange(source.rows)[:, None] * source.channels
    number = torch.from_numpy(from_rows(flat + 1, source.layout).astype(np.float64))
    args, kwargs, fill = _without_fill(node)
    moved = node.target(number, *args, **kwargs)  # type: ignore[operator]
    table = to_rows(moved.numpy().astype(np.int64), layout(node)) - 1
    shape_ = free_shape(layout(node))
    channels = math.prod(shape_)
    own = np.arange(layout(node).rows)[:, None] * source.channels
    if layout(node).rows == source.rows and (table >= 0).all() and (table - own == table[:1]).all():
        return Value(source.storage, layout(node), (table[0] + source.start).reshape(shape_), source.first)
    out = Value(Storage(layout(node).rows, channels), layout(node), np.arange(channels).reshape(shape_))
    return lowering.gathered(node, out, source, table, fill)


def coarsened(lowering: "Lowering", node: Node, value: Value, dim: int) -> Value | None:
    """A node's value with the places inside one dimension as channels: each row becomes a block of cells.

    None where the dimension walks whole axes of the map, or no grid has such blocks for cells.
    """
    size = shape(node)[dim]
    was = value.layout
    now = replace(was, dims=was.with_dim(dim, free(size)).dims).simplified()
    if now is None or now.is_global or now.chain or not has_rows(now) or math.prod(shape(node)) > LARGEST:
        return None
    value = value if value.packed else lowering.copied(node, value)
    flat = value.order[None] + np.arange(value.rows)[:, None] * value.channels
    table = to_rows(from_rows(flat, was), now)
    out = fresh(now)
    mask = lowering.masks.seen(node.meta.get("changed", node.meta["miss"]), was, now)
    lowering.gather(mask, out, value, table, relative=False, low=value.start, width=value.channels)
    return out


def refined(lowering: "Lowering", node: Node, value: Value) -> Value:
    """A node's value, of which rows are blocks of cells (see `coarsened`), with the rows of the node's own layout."""
    at = layout(node)
    value = value if value.packed else lowering.copied(node, value)
    flat = value.order[None] + np.arange(value.rows)[:, None] * value.channels
    table = to_rows(from_rows(flat, value.layout), at)
    return lowering.gathered(node, fresh(at), value, table, 0.0)


def _without_fill(node: Node) -> tuple[list[Any], dict[str, Any], float]:
    """The arguments after the first, with what a pad fills in set to 0, and that value."""
    args, kwargs = list(node.args[1:]), dict(node.kwargs)
    try:
        fill = argument(node, "value")
    except KeyError:
        return args, kwargs, 0.0
    if "value" in kwargs:
        kwargs["value"] = 0.0
    else:
        names = [a.name for a in node.target._schema.arguments][1:]  # type: ignore[union-attr]
        at = names.index("value")
        if at < len(args):
            args[at] = 0.0
    return args, kwargs, float(fill or 0.0)


MOVES = {
    **dict.fromkeys(RESHAPE, reshape),
    **dict.fromkeys(("permute", "transpose", "swapaxes", "swapdims", "movedim", "t", "mT"), permute),
    **dict.fromkeys(("slice", "narrow", "select", "split", "split_with_sizes", "chunk", "unbind"), cut),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), widen),
    **dict.fromkeys(("cat", "stack", "concat"), join),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle", "roll", "flip", "channel_shuffle", *PAD), rearrange),
    **dict.fromkeys(("im2col", "unfold", "index_select", "repeat", "native_channel_shuffle"), rearrange),
}
"""The rules of this file by ATen name, without overload."""
