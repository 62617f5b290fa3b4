"""Norms, softmax and attention as steps of a plan (see `lower_plan`)."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node

from fluxcompile.geometry import Layout, free_shape, is_placed
from fluxcompile.ir import argument, is_constant, operand, shape
from fluxcompile.passes.blocking import changed_of
from fluxcompile.passes.flow import has_domain, layout
from fluxcompile.passes.plan_chains import argument_or, is_constant_or_none, name_of
from fluxcompile.passes.plan_moves import coarsened, refined
from fluxcompile.passes.plan_values import (
    Part,
    Storage,
    Value,
    dim_last,
    evenly,
    fresh,
    fresh_like,
    like,
    outer_free,
    part_of,
    size_of,
)
from fluxcompile.passes.rules import dims_of

if TYPE_CHECKING:
    from fluxcompile.passes.lower_plan import Lowering

SUMS = 3
"""What a row and head of corrected attention keep beside their mean (see `kernels.h`)."""


def layer_norm(lowering: "Lowering", node: Node) -> Value | None:
    source = lowering.value(operand(node))
    last = argument(node, "normalized_shape")
    given = [argument(node, n) for n in ("weight", "bias")]
    if source is None or not all(map(is_constant_or_none, given)):
        return None
    coarse = len(last) == 1 and is_placed(source.layout.dims[-1]) and outer_free(source, -1) == 1
    if coarse:  # what is merged from a block of cells
        source = coarsened(lowering, operand(node), source, len(shape(node)) - 1)
    if source is None or int(np.prod(last)) != source.channels:
        return None
    source = source if source.packed else lowering.copied(operand(node), source)
    vectors = []
    for n in given:
        placed = None
        if n is not None:
            placed = torch.empty(source.channels)
            placed[torch.from_numpy(source.order)] = lowering.tensor(n).reshape(-1)
        vectors.append({"@": lowering.constant(placed, str(n.target))} if placed is not None else None)
    eps = float(argument(node, "eps"))
    args: dict[str, Any] = {"x": part_of(source), "gamma": vectors[0], "beta": vectors[1], "epsilon": eps}
    if coarse:
        out = fresh_like(source.layout, source.order)
        mask = lowering.masks.seen(node.meta["miss"], layout(node), source.layout)
        lowering.step("layer_norm", node=node, mask=mask, out=part_of(out), **args)
        users = [u for u in node.users if has_domain(u) or u.op == "output"]
        return out if all(name_of(u) == "linear" for u in users) else refined(lowering, node, out)
    return lowering.compute("layer_norm", node, like(source, layout(node)), **args)


def softmax(lowering: "Lowering", node: Node) -> Value | None:
    """Along one free dimension; with others beside it, every combination of those is a row of its own."""
    source, (dim,) = lowering.value(operand(node)), dims_of(node)
    if source is None or is_placed(source.layout.dims[dim]) or layout(node).rows != source.rows:
        return None
    size = source.index.shape[dim]
    last = source.with_last(dim)
    if last is None or not source.packed or not evenly(last):
        moved = np.moveaxis(np.arange(source.channels).reshape(dim_last(source, dim)), -1, dim)
        source = lowering.copied(operand(node), source, moved.reshape(-1))
    outer = source.channels // size
    out = like(source, layout(node))
    if outer == 1:
        return lowering.compute("softmax", node, out, x=part_of(source), scale=1.0)
    whole = Value(Storage(source.rows, source.channels, fixed=True), out.layout, out.index)
    dense = _own(lowering, node, source)
    table = np.arange(source.rows * outer) // outer
    name = lowering.constant(torch.from_numpy(table.astype(np.int32)), f"lookup_{table.size}")
    reader = {"kind": "table", "in": {"mask": lowering.masks.of(node.meta["miss"])}, "table": {"@": name}}
    mask = lowering.masks.join(table.size, [reader])
    parts = [Part(v.storage, 0, source.rows, 1, 0, source.channels) for v in (whole, dense)]
    lowering.step("softmax", node=node, mask=mask, out=parts[0], x=parts[1], scale=1.0, split=outer)
    return whole


def _own(lowering: "Lowering", node: Node, source: Value) -> Value:
    """The value in a buffer of its own, so that its rows can be cut into shorter ones."""
    if (
        source.storage.home is None
        and source.channels == source.storage.channels
        and source.first == 0
        and source.rows == source.storage.rows
    ):
        source.storage.fixed = True
        return source
    own = lowering.copied(operand(node), source, source.order)
    own.storage.fixed = True
    return own


def attention(lowering: "Lowering", node: Node) -> Value | None:
    """Queries against the keys of their group: of their window, or of everything."""
    q, k, v = (argument(node, n) for n in ("query", "key", "value"))
    found = [lowering.value(n) for n in (q, k, v)]
    if any(x is None for x in found) or argument(node, "is_causal") or argument_or(node, "enable_gqa"):
        return None
    values: list[Value] = [x for x in found if x is not None]
    rank = len(shape(node))
    at, (own, other, _) = layout(node), values
    batch = [d for d in range(rank - 2) if is_placed(own.layout.dims[d])]
    if at.rows != own.rows or other.rows != values[2].rows or any(len(shape(n)) != rank for n in (q, k, v)):
        return None
    for x in values:
        placed = [d for d in range(rank - 2) if is_placed(x.layout.dims[d])]
        one_token = shape(node)[-2] == 1
        if placed != batch or is_placed(x.layout.dims[-1]) or not (is_placed(x.layout.dims[-2]) or one_token):
            return None
    heads = [free_shape(x.layout)[:-2] for x in values]
    if heads[0] != heads[1] or heads[0] != heads[2]:
        return None
    group_of, member_of, _ = _groups(own.layout, batch)
    _, _, keys = _groups(other.layout, batch)
    if keys.shape[0] != int(group_of.max()) + 1:
        return None
    bias = _bias(lowering, node, batch)
    if bias is None:
        return None
    parts = [part_of(x if x.plain else lowering.copied(n, x)) for n, x in zip((q, k, v), values, strict=True)]
    scale = argument(node, "scale")
    args: dict[str, Any] = {
        "heads": int(np.prod(heads[0])),
        "scale": float(scale) if scale is not None else shape(q)[-1] ** -0.5,
        **dict(zip("qkv", parts, strict=True)),
    }
    if lowering.attention == "incremental" and "changed" in node.meta and not batch and bias["bias"] is None:
        return _corrected(lowering, node, args, values)
    args |= bias
    tables = {"keys": keys, "group_of": group_of, "member_of": member_of}
    args |= {n: {"@": lowering.constant(torch.from_numpy(t.astype(np.int32)), n)} for n, t in tables.items()}
    return lowering.compute("attention", node, fresh(at), **args)


def _corrected(lowering: "Lowering", node: Node, args: dict[str, Any], values: list[Value]) -> Value:
    """Attention of all rows over all keys, with the state its corrections need."""
    queries, *keys = (lowering.masks.of(changed_of(argument(node, n))) for n in ("query", "key", "value"))
    at = layout(node)
    sums = Storage(at.rows, SUMS * args["heads"], fixed=True, seen=[(0, at)])
    args |= {n: part_of(fresh(x.layout)) for n, x in zip(("k_old", "v_old"), values[1:], strict=True)}
    args |= {"mean": part_of(fresh(at)), "sums": Part(sums, 0, *size_of(at), 0, sums.channels)}
    args |= {"queries": {"mask": queries}, "keys": [{"mask": m} for m in keys]}
    return lowering.compute("correct_attention", node, fresh(at), **args)


def _groups(at: Layout, batch: list[int]) -> tuple[Any, Any, Any]:
    """(group of each row, its place in it, rows by group and place) of tokens that attend to each other."""
    index = at.row_index()
    rows = np.moveaxis(index, [*batch, index.ndim - 2], range(len(batch) + 1)).reshape(-1, index.shape[-2])
    group_of, member_of = np.zeros(at.rows, dtype=np.int64), np.zeros(at.rows, dtype=np.int64)
    group_of[rows] = np.arange(rows.shape[0])[:, None]
    member_of[rows] = np.arange(rows.shape[1])
    return group_of, member_of, rows


def _bias(lowering: "Lowering", node: Node, batch: list[int]) -> dict[str, Any] | None:
    """The bias as (groups or 1, heads or 1, queries, keys); None where it is computed."""
    mask = argument(node, "attn_mask")
    if mask is None:
        return {"bias": None}
    if not is_constant(mask):
        return None
    value = lowering.tensor(mask)
    if value.dtype == torch.bool:
        value = torch.zeros(value.shape).masked_fill(~value, -torch.inf)
    rank = len(shape(node))
    value = value.float().reshape((1,) * (rank - value.dim()) + tuple(value.shape))
    score = (*shape(node)[:-1], shape(argument(node, "key"))[-2])
    others = [d for d in range(rank - 2) if d not in batch]
    value = value.expand(*value.shape[:-2], *score[-2:])
    for dims in (batch, others):  # shared by all, or told for each
        if any(value.shape[d] > 1 for d in dims):
            value = value.expand([score[d] if d in dims else s for d, s in enumerate(value.shape)])
    value = value.permute(*batch, *others, rank - 2, rank - 1)
    groups = int(np.prod(value.shape[: len(batch)]))
    value = value.reshape(groups, -1, *score[-2:]).contiguous()
    return {"bias": {"@": lowering.constant(value, "bias")}}


ROWS = {
    "layer_norm": layer_norm,
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(("softmax", "_softmax"), softmax),
}
"""The rules of this file by ATen name, without overload."""
