"""Convolutions, products, pooling, resizes, norms and pooled vectors as steps of a plan (see `lower_plan`)."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from fluxcompile.geometry import Layout, free_shape, is_placed, matrix_window, to_rows
from fluxcompile.ir import argument, is_constant, operand, shape
from fluxcompile.passes.cache_pooling import is_even, pooling_matrix
from fluxcompile.passes.flow import Join, WindowFlow, domain, has_domain, layout
from fluxcompile.passes.plan_moves import coarsened, refined
from fluxcompile.passes.plan_pointwise import argument_or, epilogue, like, name_of
from fluxcompile.passes.plan_values import Part, Storage, Value, fresh, fresh_like, part_of, size_of
from fluxcompile.passes.rules import dims_of, pair
from fluxcompile.passes.rules_window import RESIZES, conv_padding, pool_arguments, resize_matrix

if TYPE_CHECKING:
    from fluxcompile.passes.lower_plan import Lowering

GROUPS = 64
"""Outer free coordinates up to which a product repeats its weights instead of running in torch."""


def head_of(lowering: "Lowering", node: Node) -> Node:
    """The convolution or product a node's chain begins with."""
    chain = lowering.chains.get(node)
    return chain.members[0] if chain else node


def seen_map(lowering: "Lowering", node: Node) -> Value | None:
    """The operand of a window op when it lies as the map the window sees."""
    flow = domain(node).flow
    value = lowering.value(operand(node))
    if not isinstance(flow, WindowFlow) or value is None or len(shape(node)) not in (3, 4):
        return None
    whole = value.layout.grid == flow.layout.grid and value.rows == flow.layout.rows and value.layout.map_dims
    batch = shape(operand(node))[0] if len(shape(node)) == 4 else 1
    return value if whole and batch == 1 else None


def convolution(lowering: "Lowering", node: Node) -> Value | None:
    conv = head_of(lowering, node)
    if not is_constant(operand(conv, 1)) or not _is_constant_or_none(argument(conv, "bias")):
        return None
    if isinstance(domain(conv).flow, Join) or _of_a_vector(conv):
        return _product(lowering, node, conv, lowering.tensor(operand(conv, 1)).flatten(1), _channel_dim(conv))
    source = seen_map(lowering, conv)
    if source is None:
        return None
    groups = argument(conv, "groups")
    if not (source.plain or (groups == 1 and source.packed)):
        source = lowering.copied(operand(conv), source)
    stride, dilation = pair(argument(conv, "stride")), pair(argument(conv, "dilation"))
    args = {
        "weight": _weight(lowering, conv, source),
        "bias": lowering.weight(argument(conv, "bias")),
        "stride": list(stride),
        "padding": [p[0] for p in conv_padding(conv)],
        "dilation": list(dilation),
        "groups": groups,
    }
    out = fresh(layout(node))
    end = epilogue(lowering, node, out.order)
    if end is None:
        return None
    return lowering.compute("conv2d", node, out, source=conv, x=part_of(source), **args, **end)


def _of_a_vector(conv: Node) -> bool:
    """A 1x1 convolution of one cell: a squeeze-excite's."""
    sizes = {*shape(conv)[2:], *shape(operand(conv))[2:], *shape(operand(conv, 1))[2:]}
    return layout(conv).is_global and layout(operand(conv)).is_global and sizes <= {1}


def _is_constant_or_none(value: Any) -> bool:
    return value is None or is_constant(value)


def _channel_dim(conv: Node) -> int:
    return len(shape(conv)) - len(shape(operand(conv, 1))) + 1


def _weight(lowering: "Lowering", conv: Node, source: Value) -> Any:
    """The weight, its input channels in the order the operand's lie in."""
    if source.plain:
        return lowering.weight(operand(conv, 1))
    weight = lowering.tensor(operand(conv, 1))
    turned = torch.empty_like(weight)
    turned[:, torch.from_numpy(source.order)] = weight
    return {"@": lowering.constant(turned, f"{operand(conv, 1).target}")}


def transposed(lowering: "Lowering", node: Node) -> Value | None:
    conv = head_of(lowering, node)
    source = seen_map(lowering, conv)
    if source is None or not is_constant(operand(conv, 1)) or not _is_constant_or_none(argument(conv, "bias")):
        return None
    source = source if source.plain else lowering.copied(operand(conv), source)
    out = fresh(layout(node))
    end = epilogue(lowering, node, out.order)
    if end is None:
        return None
    args: dict[str, Any] = {n: list(pair(argument(conv, n))) for n in ("stride", "padding", "dilation")}
    args |= {"weight": lowering.weight(operand(conv, 1)), "bias": lowering.weight(argument(conv, "bias"))}
    args |= {"groups": argument(conv, "groups")} | end
    return lowering.compute("conv_transpose2d", node, out, gated=False, source=conv, x=part_of(source), **args)


def linear(lowering: "Lowering", node: Node) -> Value | None:
    head = head_of(lowering, node)
    if not is_constant(operand(head, 1)) or not _is_constant_or_none(argument(head, "bias")):
        return None
    source = lowering.value(operand(head))
    if source is not None and source.rows > 1 and layout(node).is_global:
        return _of_everything(lowering, node, head, source)
    return _product(lowering, node, head, lowering.tensor(operand(head, 1)), len(shape(head)) - 1)


def _of_everything(lowering: "Lowering", node: Node, head: Node, source: Value) -> Value | None:
    """A product of a whole map laid flat is a convolution whose window is the map."""
    weight, size = lowering.tensor(operand(head, 1)), shape(operand(head))
    if int(np.prod(size)) != weight.shape[1] or weight.dtype != torch.float32:
        return None
    source = source if source.packed else lowering.copied(operand(head), source)
    columns = to_rows(np.arange(weight.shape[1]).reshape(size), source.layout)
    placed = np.empty_like(columns)
    placed[:, source.order] = columns
    h, w = size_of(source.layout)
    kernel = weight[:, torch.from_numpy(placed.T.reshape(-1).copy())].reshape(-1, source.channels, h, w).contiguous()
    out = fresh(layout(node))
    end = epilogue(lowering, node, out.order)
    if end is None:
        return None
    args: dict[str, Any] = {"weight": {"@": lowering.constant(kernel, f"{operand(head, 1).target}.window")}}
    args |= {"bias": lowering.weight(argument(head, "bias")), "groups": 1}
    args |= {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]} | end
    return lowering.compute("conv2d", node, out, gated=False, source=head, x=part_of(source), **args)


def matmul(lowering: "Lowering", node: Node) -> Value | None:
    """A product with a constant matrix is a linear layer."""
    weight = operand(node, 1)
    if not is_constant(weight) or len(shape(weight)) != 2 or len(shape(operand(node))) < 2:
        return None
    return _product(lowering, node, node, lowering.tensor(weight).T, len(shape(node)) - 1)


def add_product(lowering: "Lowering", node: Node) -> Value | None:
    head = head_of(lowering, node)
    bias, a, weight = argument(head, "self"), argument(head, "mat1"), argument(head, "mat2")
    if not (is_constant(bias) and is_constant(weight)) or argument(head, "alpha") != 1 or argument(head, "beta") != 1:
        return None
    value = lowering.tensor(bias).expand(shape(head)[-1])
    return _product(lowering, node, head, lowering.tensor(weight).T, len(shape(head)) - 1, operand_=a, bias=value)


def _product(
    lowering: "Lowering",
    node: Node,
    head: Node,
    weight: Tensor,
    dim: int,
    *,
    operand_: Node | None = None,
    bias: Tensor | None = None,
) -> Value | None:
    """A product of one free dimension with a weight (out, in): a 1x1 convolution of rows.

    Other free dimensions become groups that share the weight.
    """
    given = argument_or(head, "bias") if bias is None else None
    if bias is None and given is not None:
        bias = lowering.tensor(given)
    read = operand_ or operand(head)
    source, at = lowering.value(read), layout(node)
    if source is not None and is_placed(source.layout.dims[dim]):
        source = coarsened(lowering, read, source, dim) if outer_free(source, dim) == 1 else None
    if (
        source is None
        or source.rows != at.rows
        or is_placed(source.layout.dims[dim])
        or argument_or(head, "groups") not in (None, 1)
    ):
        return None
    outer = source.channels // source.index.shape[dim]
    if outer > GROUPS or weight.dtype != torch.float32:
        return None
    out_dim = dim if len(shape(head)) == len(source.layout.dims) else None
    if out_dim is None or at.dims != source.layout.with_dim(dim, at.dims[dim]).dims:
        return None
    if outer == 1 and source.packed:
        turned = torch.empty_like(weight)
        turned[:, torch.from_numpy(source.order)] = weight
        weight, index = turned, source.index
    else:
        last = source.with_last(dim)
        if last is None or not _evenly(last):
            moved = np.moveaxis(np.arange(source.channels).reshape(_dim_last(source, dim)), -1, dim)
            source = lowering.copied(read, source, moved.reshape(-1))
        index = source.index
    # Groups follow the storage; where each lies among the outer coordinates is what the result's index says.
    starts = np.moveaxis(index, dim, -1).reshape(-1, index.shape[dim]).min(1)
    rank = np.argsort(np.argsort(starts))
    n = weight.shape[0]
    outer_shape = [s for i, s in enumerate(source.index.shape) if i != dim]
    channel = (rank[:, None] * n + np.arange(n)).reshape(*outer_shape, n)
    result = Value(Storage(source.rows, outer * n), at, np.moveaxis(channel, -1, dim))
    end = epilogue(lowering, node, result.order)
    if end is None:
        return None
    whole = weight.repeat(outer, 1)[:, :, None, None].contiguous()
    name = f"{operand(head, 1).target}.rows" if is_constant(operand(head, 1)) else "product"
    args: dict[str, Any] = {"weight": {"@": lowering.constant(whole, name)}}
    args["bias"] = {"@": lowering.constant(bias.repeat(outer), f"{name}.bias")} if bias is not None else None
    args |= {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": outer}
    return lowering.compute("conv2d", node, result, source=head, x=part_of(source), **args, **end)


def outer_free(source: Value, dim: int) -> int:
    """Combinations of the free coordinates of the other dimensions."""
    return int(source.channels // source.index.shape[dim])


def _dim_last(source: Value, dim: int) -> list[int]:
    return [*(s for i, s in enumerate(source.index.shape) if i != dim), source.index.shape[dim]]


def _evenly(last: "np.ndarray[Any, Any]") -> bool:
    """Groups that follow each other without gaps, in any order."""
    starts = np.sort(last[:, 0])
    return bool((starts == starts[0] + np.arange(len(starts)) * last.shape[1]).all())


# --- windows without weights ---


def pool(lowering: "Lowering", node: Node) -> Value | None:
    source = seen_map(lowering, node)
    if source is None:
        return None
    source = source if source.packed else lowering.copied(operand(node), source)
    average = name_of(node) != "max_pool2d"
    if average and not (name_of(node) == "avg_pool2d" and is_even(node)):
        return _resampled(lowering, node, source, (pooling_matrix(node, 0), pooling_matrix(node, 1)))
    kernel, stride, padding, dilation = pool_arguments(node)
    divisor = float(argument(node, "divisor_override") or kernel[0] * kernel[1]) if average else 0.0
    args: dict[str, Any] = {
        "kernel": list(kernel),
        "stride": list(stride),
        "padding": list(padding),
        "dilation": list(dilation),
    }
    kind = "mean" if average else "max"
    return lowering.compute("pool2d", node, like(source, node), x=part_of(source), kind=kind, divisor=divisor, **args)


def resize(lowering: "Lowering", node: Node) -> Value | None:
    source = seen_map(lowering, node)
    if source is None:
        return None
    source = source if source.packed else lowering.copied(operand(node), source)
    return _resampled(lowering, node, source, (resize_matrix(node, 0), resize_matrix(node, 1)))


def _resampled(lowering: "Lowering", node: Node, source: Value, matrices: tuple[Any, Any]) -> Value:
    args: dict[str, Any] = {}
    for axis, matrix in zip("yx", matrices, strict=True):
        taps = matrix_window(matrix).table()
        weights = np.take_along_axis(matrix, np.maximum(taps, 0), 1) * (taps >= 0)
        index, weight = torch.from_numpy(taps.astype(np.int32)), torch.from_numpy(weights.astype(np.float32))
        name = f"taps_{matrix.shape[0]}_{matrix.shape[1]}"
        args[f"index_{axis}"] = {"@": lowering.constant(index, name)}
        args[f"weight_{axis}"] = {"@": lowering.constant(weight, f"{name}.weight")}
    return lowering.compute("resample2d", node, like(source, node), x=part_of(source), **args)


def adaptive_pool(lowering: "Lowering", node: Node) -> Value | None:
    return mean(lowering, node) if layout(node).is_global else pool(lowering, node)


def mean(lowering: "Lowering", node: Node) -> Value | None:
    """The mean over every place, and over nothing else."""
    source = lowering.value(operand(node))
    flow = domain(node).flow
    if source is None or not isinstance(flow, Join) or layout(node).rows != 1 or source.rows == 1:
        return None
    reduced = set(range(len(shape(operand(node)))))
    if name_of(node) == "mean":
        reduced = set(dims_of(node))
    else:
        reduced = {d for d in reduced if d >= len(reduced) - 2}
    sizes = shape(operand(node))
    placed = {i for i, d in enumerate(source.layout.dims) if is_placed(d)}
    if any(sizes[d] > 1 and d not in placed for d in reduced) or not placed <= reduced:
        return None
    if any(free_shape(source.layout)[d] > 1 for d in placed):
        return None
    source = source if source.packed else lowering.copied(operand(node), source)
    index = source.order.reshape(free_shape(layout(node)))
    out = Value(Storage(1, source.channels, fixed=True), layout(node), index)
    mask = lowering.masks.of(operand(node).meta.get("changed", operand(node).meta["miss"]))
    lowering.step("mean", node=node, mask=mask, out=part_of(out), x=part_of(source))
    return out


def hold(lowering: "Lowering", node: Node) -> Value | None:
    source = lowering.value(operand(node))
    if source is None or source.rows != 1:
        return None
    gate = node.meta["changed"]
    lowering.masks.known[gate] = changed = lowering.masks.new(1)
    width = int(source.index.max()) - source.start + 1  # of a widened value, each channel once
    out = Storage(1, width)
    mask = lowering.masks.of(node.meta["miss"])
    seen = Part(source.storage, source.first, 1, 1, source.start, width)
    lowering.step("hold", node=node, mask=mask, changed=changed, out=Part(out, 0, 1, 1, 0, width), x=seen)
    return Value(out, layout(node), source.index - source.start)


# --- rows ---


def layer_norm(lowering: "Lowering", node: Node) -> Value | None:
    source = lowering.value(operand(node))
    last = argument(node, "normalized_shape")
    given = [argument(node, n) for n in ("weight", "bias")]
    if source is None or not all(map(_is_constant_or_none, given)):
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
    return lowering.compute("layer_norm", node, like(source, node), **args)


def softmax(lowering: "Lowering", node: Node) -> Value | None:
    """Along one free dimension; with others beside it, every combination of those is a row of its own."""
    source, (dim,) = lowering.value(operand(node)), dims_of(node)
    if source is None or is_placed(source.layout.dims[dim]) or layout(node).rows != source.rows:
        return None
    size = source.index.shape[dim]
    last = source.with_last(dim)
    if last is None or not source.packed or not _evenly(last):
        moved = np.moveaxis(np.arange(source.channels).reshape(_dim_last(source, dim)), -1, dim)
        source = lowering.copied(operand(node), source, moved.reshape(-1))
    outer = source.channels // size
    out = like(source, node)
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
    args = dict(zip("qkv", parts, strict=True)) | bias
    tables = {"keys": keys, "group_of": group_of, "member_of": member_of}
    args |= {n: {"@": lowering.constant(torch.from_numpy(t.astype(np.int32)), n)} for n, t in tables.items()}
    scale = argument(node, "scale")
    scale = float(scale) if scale is not None else shape(q)[-1] ** -0.5
    return lowering.compute("attention", node, fresh(at), heads=int(np.prod(heads[0])), scale=scale, **args)


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


KERNELS = {
    **dict.fromkeys(("conv2d", "conv1d"), convolution),
    "conv_transpose2d": transposed,
    "linear": linear,
    **dict.fromkeys(("matmul", "mm"), matmul),
    "addmm": add_product,
    **dict.fromkeys(("max_pool2d", "avg_pool2d"), pool),
    **dict.fromkeys(("adaptive_avg_pool2d", "_adaptive_avg_pool2d"), adaptive_pool),
    **dict.fromkeys(RESIZES, resize),
    "mean": mean,
    "hold": hold,
    "layer_norm": layer_norm,
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(("softmax", "_softmax"), softmax),
}
"""The rules of this file by ATen name, without overload."""
