"""Pooling, resizes and pooled vectors as steps of a plan (see `lower_plan`)."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node

from fluxcompile.geometry import free_shape, is_placed, matrix_window
from fluxcompile.ir import argument, operand, shape
from fluxcompile.passes.cache_pooling import is_even, pooling_matrix
from fluxcompile.passes.flow import Join, WindowFlow, domain, layout
from fluxcompile.passes.plan_chains import name_of
from fluxcompile.passes.plan_values import Part, Storage, Value, like, part_of
from fluxcompile.passes.rules import dims_of
from fluxcompile.passes.rules_window import RESIZES, pool_arguments, resize_matrix

if TYPE_CHECKING:
    from fluxcompile.passes.lower_plan import Lowering


def seen_map(lowering: "Lowering", node: Node) -> Value | None:
    """The operand of a window op when it lies as the map the window sees."""
    flow = domain(node).flow
    value = lowering.value(operand(node))
    if not isinstance(flow, WindowFlow) or value is None or len(shape(node)) not in (3, 4):
        return None
    whole = value.layout.grid == flow.layout.grid and value.rows == flow.layout.rows and value.layout.map_dims
    batch = shape(operand(node))[0] if len(shape(node)) == 4 else 1
    return value if whole and batch == 1 else None


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
    return lowering.compute(
        "pool2d", node, like(source, layout(node)), x=part_of(source), kind=kind, divisor=divisor, **args
    )


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
    return lowering.compute("resample2d", node, like(source, layout(node)), x=part_of(source), **args)


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


WINDOWS = {
    **dict.fromkeys(("max_pool2d", "avg_pool2d"), pool),
    **dict.fromkeys(("adaptive_avg_pool2d", "_adaptive_avg_pool2d"), adaptive_pool),
    **dict.fromkeys(RESIZES, resize),
    "mean": mean,
    "hold": hold,
}
"""The rules of this file by ATen name, without overload."""
