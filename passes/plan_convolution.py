"""Convolutions and products with constants as steps of a plan (see `lower_plan`)."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from fluxcompile.geometry import is_placed, to_rows
from fluxcompile.ir import argument, is_constant, operand, shape
from fluxcompile.passes.flow import Join, domain, layout
from fluxcompile.passes.plan_chains import argument_or, epilogue, head_of, is_constant_or_none
from fluxcompile.passes.plan_moves import coarsened
from fluxcompile.passes.plan_values import Storage, Value, dim_last, evenly, fresh, outer_free, part_of, size_of
from fluxcompile.passes.plan_windows import seen_map
from fluxcompile.passes.rules import pair
from fluxcompile.passes.rules_window import conv_padding

if TYPE_CHECKING:
    from fluxcompile.passes.lower_plan import Lowering

GROUPS = 64
"""Outer free coordinates up to which a product repeats its weights instead of running in torch."""


def convolution(lowering: "Lowering", node: Node) -> Value | None:
    conv = head_of(lowering, node)
    if not is_constant(operand(conv, 1)) or not is_constant_or_none(argument(conv, "bias")):
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
    if source is None or not is_constant(operand(conv, 1)) or not is_constant_or_none(argument(conv, "bias")):
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
    if not is_constant(operand(head, 1)) or not is_constant_or_none(argument(head, "bias")):
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
        if last is None or not evenly(last):
            moved = np.moveaxis(np.arange(source.channels).reshape(dim_last(source, dim)), -1, dim)
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


CONVOLUTIONS = {
    **dict.fromkeys(("conv2d", "conv1d"), convolution),
    "conv_transpose2d": transposed,
    "linear": linear,
    **dict.fromkeys(("matmul", "mm"), matmul),
    "addmm": add_product,
}
"""The rules of this file by ATen name, without overload."""
