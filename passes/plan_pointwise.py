"""Element-wise ops of a plan as terms of a `pointwise` step (see `lower_plan`)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node

from fluxcompile.geometry import Layout, free_shape, is_placed, to_rows
from fluxcompile.ir import argument, is_constant, operand, shape
from fluxcompile.passes.flow import Join, domain, layout
from fluxcompile.passes.plan_chains import ACTIVATIONS, Term, argument_or, name_of
from fluxcompile.passes.plan_values import Index, Part, Storage, Value, like, part_of

if TYPE_CHECKING:
    from fluxcompile.passes.lower_plan import Lowering

BINARY = {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "maximum": "max", "minimum": "min", "rsub": "rsub"}


def unary(lowering: "Lowering", node: Node) -> Value | None:
    source, term = lowering.value(operand(node)), ACTIVATIONS[name_of(node)](node)
    if source is None or term is None:
        return None
    source = source if source.packed else lowering.copied(operand(node), source)
    out = like(source, layout(node))
    return lowering.compute("pointwise", node, out, x=part_of(source), terms=[term])


def binary(lowering: "Lowering", node: Node) -> Value | None:
    term, flow = BINARY[name_of(node)], domain(node).flow
    if not (isinstance(flow, Join) or layout(node).is_global) or argument_or(node, "rounding_mode") is not None:
        return None
    first, second = node.args[:2]
    alpha = float(argument_or(node, "alpha") or 1)
    if alpha != 1 and term == "rsub":
        return None
    if not isinstance(second, Node):
        source = lowering.value(first)
        if source is None or layout(node).rows != source.rows:
            return None
        source = source if source.packed else lowering.copied(operand(node), source)
        return lowering.compute(
            "pointwise",
            node,
            like(source, layout(node)),
            x=part_of(source),
            terms=[_scalar(term, float(second) * alpha)],  # type: ignore[arg-type]
        )
    if alpha != 1:
        return None
    assert isinstance(first, Node)
    words = {n: w for n, w in (*flow.operands, *flow.constants)} if isinstance(flow, Join) else {}
    lead, other = first, second
    if not _leads(lowering, lead, words, node):
        lead, other = second, first
        term = {"sub": "rsub", "rsub": "sub"}.get(term, term)
        if term == "div" or not _leads(lowering, lead, words, node):
            return None
    source = lowering.value(lead)
    assert source is not None
    order = source.order if source.packed else np.arange(source.channels)
    operand_ = _other(lowering, node, other, words, order)
    if operand_ is None:
        return None
    source = source if source.packed else lowering.copied(lead, source)
    return lowering.compute(
        "pointwise", node, like(source, layout(node)), x=part_of(source), terms=[[term, 0.0, 0.0, operand_]]
    )


def _scalar(term: str, value: float) -> Term:
    match term:
        case "add":
            return ["scale", 1.0, value, None]
        case "sub":
            return ["scale", 1.0, -value, None]
        case "rsub":
            return ["scale", -1.0, value, None]
        case "mul":
            return ["scale", value, 0.0, None]
        case "div":
            return ["scale", 1 / value, 0.0, None]
        case "max":
            return ["clamp", value, np.inf, None]
    return ["clamp", -np.inf, value, None]


def _leads(lowering: "Lowering", node: Node, words: dict[Node, str], out: Node) -> bool:
    """Whether the result has this operand's rows and channels."""
    value = lowering.value(node)
    return (
        value is not None
        and shape(node) == shape(out)
        and _same_rows(node, words, value, out)
        and free_shape(value.layout) == free_shape(layout(out))
    )


def _same_rows(node: Node, words: dict[Node, str], value: Value, out: Node) -> bool:
    flow = domain(out).flow
    if not isinstance(flow, Join):  # values without a place
        return value.rows == layout(out).rows == 1
    return _side_by_side(words[node], flow.out, value.layout, layout(out))


def _side_by_side(word: str, out: str, was: Layout, now: Layout) -> bool:
    """Rows one for one, whatever pixels of the frame they stand for."""
    if was.rows != now.rows or (was.chain is None) != (now.chain is None):
        return False
    if (was.grid.h, was.grid.w) != (now.grid.h, now.grid.w):
        return False
    placed = {c: d for c, d in zip(word, was.dims, strict=True) if is_placed(d)}
    return all(c in out and str(now.dims[out.index(c)]) == str(d) for c, d in placed.items())


def _other(lowering: "Lowering", node: Node, other: Node, words: dict[Node, str], order: Index) -> Any:
    """The second operand: a map, a map of one channel, or a vector of the channels; None for what is none of these."""
    shape_ = free_shape(layout(node))
    if is_constant(other):
        return _constant(lowering, node, other, order)
    value = lowering.value(other)
    if value is None:
        return None
    padded = value.index.reshape((1,) * (len(shape_) - value.index.ndim) + value.index.shape)
    if any(a not in (1, b) for a, b in zip(padded.shape, shape_, strict=True)):
        return None
    if value.rows == 1 and layout(node).rows != 1:
        index = np.broadcast_to(padded, shape_).reshape(-1)
        wide = np.empty_like(index)
        wide[order] = index
        if wide.size == value.channels and np.array_equal(wide - value.start, np.arange(wide.size)):
            return {"vector": part_of(value)}
        table = (wide - value.start)[None]
        row = Storage(1, wide.size, fixed=True)
        spread = Value(row, value.layout, np.arange(wide.size))
        mask = lowering.masks.of(other.meta.get("changed", other.meta["miss"]))
        lowering.gather(mask, spread, value, table, relative=True, low=value.start, width=int(table.max()) + 1)
        return {"vector": Part(row, 0, 1, 1, 0, wide.size)}
    if not _same_rows(other, words, value, node):
        return None
    if value.channels == 1:
        return part_of(value)
    index = np.broadcast_to(padded, shape_).reshape(-1)
    if index.size == value.channels and value.packed and np.array_equal(index - value.start, order):
        return part_of(value)
    repeated = Value(Storage(value.rows, index.size), layout(node), order.reshape(shape_))
    table = np.empty_like(index)
    table[order] = index - value.start
    mask = lowering.masks.of(other.meta.get("changed", other.meta["miss"]))
    lowering.gather(mask, repeated, value, table[None], relative=True, low=value.start, width=int(table.max()) + 1)
    return part_of(repeated)


def _constant(lowering: "Lowering", node: Node, other: Node, order: Index) -> Any:
    """A constant operand: a vector of the channels where it is the same at every place, else a map."""
    value = lowering.tensor(other).to(torch.float32)
    at = layout(node)
    whole = value.expand(shape(node)).numpy()
    flat = to_rows(np.ascontiguousarray(whole), at)
    placed = np.empty_like(flat)
    placed[:, order] = flat
    if (placed == placed[:1]).all():
        return {"@": lowering.constant(torch.from_numpy(placed[0].copy()), f"{other.target}.channels")}
    h, w = (at.rows, 1) if at.chain else (at.grid.h, at.grid.w)
    table = torch.from_numpy(placed.reshape(h, w, -1).copy())
    return {"@": lowering.constant(table, f"{other.target}.rows")}


def square(lowering: "Lowering", node: Node) -> Value | None:
    source, power = lowering.value(operand(node)), argument_or(node, "exponent")
    if source is None or (name_of(node) == "pow" and power != 2):
        return None
    source = source if source.packed else lowering.copied(operand(node), source)
    x = part_of(source)
    return lowering.compute("pointwise", node, like(source, layout(node)), x=x, terms=[["mul", 0.0, 0.0, x]])


def prelu(lowering: "Lowering", node: Node) -> Value | None:
    source, slope = lowering.value(operand(node)), operand(node, 1)
    if source is None or not is_constant(slope):
        return None
    source = source if source.packed else lowering.copied(operand(node), source)
    each = _per_channel(lowering, node, lowering.tensor(slope), source.order, "slope")
    return lowering.compute(
        "pointwise", node, like(source, layout(node)), x=part_of(source), terms=[["prelu", 0.0, 0.0, each]]
    )


def _per_channel(lowering: "Lowering", node: Node, value: torch.Tensor, order: Index, name: str) -> Any:
    """A vector along dimension 1 as one of the channels."""
    rank = len(shape(node))
    flat = value.reshape([-1 if i == 1 else 1 for i in range(rank)]).expand([*_ones(node)]).reshape(-1)
    placed = torch.empty(flat.shape)
    placed[torch.from_numpy(order)] = flat.float()
    return {"@": lowering.constant(placed, name)}


def _ones(node: Node) -> Sequence[int]:
    return free_shape(layout(node))


def batch_norm(lowering: "Lowering", node: Node) -> Value | None:
    """One that no convolution took over: a scale and a shift for each channel."""
    source = lowering.value(operand(node))
    if source is None or argument_or(node, "training"):
        return None
    read = {n: argument(node, n) for n in ("weight", "bias", "running_mean", "running_var")}
    if any(v is not None and not is_constant(v) for v in read.values()) or None in (
        read["running_mean"],
        read["running_var"],
    ):
        return None
    mean, var = (lowering.tensor(read[n]).double() for n in ("running_mean", "running_var"))
    scale = (var + float(argument(node, "eps"))).rsqrt()
    if read["weight"] is not None:
        scale = scale * lowering.tensor(read["weight"]).double()
    shift = -mean * scale + (lowering.tensor(read["bias"]).double() if read["bias"] is not None else 0)
    source = source if source.packed else lowering.copied(operand(node), source)
    vectors = (_per_channel(lowering, node, v, source.order, n) for v, n in ((scale, "scale"), (shift, "shift")))
    terms = [[op, 0.0, 0.0, v] for op, v in zip(("mul", "add"), vectors, strict=True)]
    return lowering.compute("pointwise", node, like(source, layout(node)), x=part_of(source), terms=terms)


POINTWISE = {
    **dict.fromkeys(ACTIVATIONS, unary),
    **dict.fromkeys(BINARY, binary),
    **dict.fromkeys(("square", "pow"), square),
    "prelu": prelu,
    "batch_norm": batch_norm,
}
"""The rules of this file by ATen name, without overload."""
