"""Where the places of window ops go: convolutions, pooling, resizes and unfolding (see `infer_domains`)."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fluxcompile.geometry import (
    Dim,
    Factor,
    Layout,
    Window,
    free,
    is_placed,
    map_layout,
    matrix_window,
    strided_window,
    transposed_window,
)
from fluxcompile.ir import argument, op_name, operand, schema_arguments, shape
from fluxcompile.passes.flow import Domain, WindowFlow, has_domain, layout
from fluxcompile.passes.rules import LETTERS, Rule, anything, joined, pair, row_major, with_other
from fluxcompile.passes.rules_cut import axis_of

aten = torch.ops.aten


def conv_padding(node: Node) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) of a convolution, also for padding="same" and "valid"."""
    value = argument(node, "padding")
    if not isinstance(value, str):
        (y, x) = pair(value)
        return (y, y), (x, x)
    if value == "valid":
        return (0, 0), (0, 0)
    weight = node.args[1]
    assert isinstance(weight, Node)
    spans = []
    for k, d in zip(shape(weight)[-2:], pair(argument(node, "dilation")), strict=True):
        total = d * (k - 1)
        spans.append((total // 2, total - total // 2))
    return spans[0], spans[1]


def _windowed(node: Node, windows: tuple[Window, Window]) -> Domain | None:
    source = operand(node)
    rank = len(shape(source))
    seen = layout(source).as_map(rank - 2, rank - 1)
    if seen is None or seen.is_global:
        return _from_cell(node, source) if layout(source).is_global else None
    grid = seen.grid.window(*windows)
    size = node.meta["val"].shape if isinstance(node.meta["val"], Tensor) else node.meta["val"][0].shape
    found = Domain(map_layout(size, rank - 2, rank - 1, grid), WindowFlow(source, seen, *windows))
    return found if isinstance(node.meta["val"], Tensor) else replace(found, parts=(found,) * len(node.meta["val"]))


def _from_cell(node: Node, source: Node) -> Domain:
    """A window op on a value without a place has none either."""
    return anything(node, [source], "")


def conv2d(node: Node) -> Domain | None:
    weight = node.args[1]
    if not isinstance(weight, Node) or has_domain(weight):
        return None
    kernel, stride, dilation = shape(weight)[-2:], pair(argument(node, "stride")), pair(argument(node, "dilation"))
    padding = conv_padding(node)
    sizes = zip(
        shape(operand(node))[-2:], shape(node)[-2:], kernel, stride, (p[0] for p in padding), dilation, strict=True
    )
    y, x = (strided_window(*s) for s in sizes)
    found = _windowed(node, (y, x))
    if found is None and tuple(kernel) == stride == (1, 1) and shape(node)[-2:] == shape(operand(node))[-2:]:
        return across_channels(node)
    return found


def across_channels(node: Node) -> Domain:
    """A 1x1 convolution: every cell by itself, however the other dimensions walk the map."""
    out = LETTERS[: len(shape(node))]
    channel = out[len(out) - len(shape(node.args[1])) + 1]  # type: ignore[arg-type]
    word = out.replace(channel, channel.upper())
    return joined([(operand(node), word)], out, shape(node), independent=out.replace(channel, ""))


def conv_transpose2d(node: Node) -> Domain | None:
    weight = node.args[1]
    if not isinstance(weight, Node) or has_domain(weight):
        return None
    kernel, stride, padding, dilation = (
        shape(weight)[-2:],
        *(pair(argument(node, n)) for n in ("stride", "padding", "dilation")),
    )
    sizes = zip(shape(operand(node))[-2:], shape(node)[-2:], kernel, stride, padding, dilation, strict=True)
    y, x = (transposed_window(*s) for s in sizes)
    return _windowed(node, (y, x))


def conv1d(node: Node) -> Domain | None:
    weight = node.args[1]
    if not isinstance(weight, Node) or has_domain(weight) or shape(weight)[-1] != 1:
        return None
    return across_channels(node) if shape(node)[-1] == shape(operand(node))[-1] else None


def pool_arguments(node: Node) -> tuple[tuple[int, int], ...]:
    """kernel, stride, padding, dilation of a pooling op."""
    kernel = pair(argument(node, "kernel_size"))
    stride = pair(argument(node, "stride")) if argument(node, "stride") else kernel
    dilation = pair(argument(node, "dilation")) if "max_pool" in op_name(node.target) else (1, 1)
    return kernel, stride, pair(argument(node, "padding")), dilation


def pool(node: Node) -> Domain | None:
    value = node.meta["val"]
    size = (value if isinstance(value, Tensor) else value[0]).shape[-2:]
    sizes = zip(shape(operand(node))[-2:], size, *pool_arguments(node), strict=True)
    y, x = (strided_window(*s) for s in sizes)
    return _windowed(node, (y, x))


def adaptive_pool(node: Node) -> Domain | None:
    value = node.meta["val"]
    size = (value if isinstance(value, Tensor) else value[0]).shape
    source = operand(node)
    if tuple(size[-2:]) == (1, 1):
        out = LETTERS[: len(size)]
        word = out[:-2] + out[-2:].upper()
        found = joined([(source, word)], out, size, independent=out[:-2])
        return found if isinstance(value, Tensor) else replace(found, parts=(found, found))
    windows = []
    for n_in, n_out in zip(shape(source)[-2:], size[-2:], strict=True):
        if n_in % n_out == 0:
            windows.append(strided_window(n_in, n_out, n_in // n_out, n_in // n_out))
        else:
            windows.append(matrix_window(adaptive_matrix(n_in, n_out)))
    return _windowed(node, (windows[0], windows[1]))


def adaptive_matrix(n_in: int, n_out: int) -> Any:
    """Adaptive average pooling along one axis as a matrix (n_out, n_in)."""
    eye = torch.eye(n_in, dtype=torch.float64)[:, None]
    return torch.nn.functional.adaptive_avg_pool1d(eye, n_out)[:, 0].T.numpy()


RESIZES = ("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_nearest_exact2d",
           "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")  # fmt: skip


def resize_scale(node: Node, axis: int) -> float | None:
    """The factor a resize op was told for an axis (0: y, 1: x); None where it takes the ratio of the sizes."""
    names = [a.name for a in schema_arguments(node)]
    if "scale_factors" in names:
        factors = argument(node, "scale_factors")
        return float(factors[axis]) if factors else None
    told = argument(node, ("scales_h", "scales_w")[axis]) if "scales_h" in names else None
    return float(told) if told else None


def resize_matrix(node: Node, axis: int) -> Any:
    """A resize op along one axis (0: y, 1: x) as a matrix (n_out, n_in), found by resizing unit vectors."""
    source = operand(node)
    n_in, n_out = shape(source)[2 + axis], shape(node)[2 + axis]
    eye = torch.eye(n_in, dtype=torch.float64)[None, None]
    eye = eye.mT if axis == 0 else eye
    size = [n_out, n_in] if axis == 0 else [n_in, n_out]
    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    name = op_name(node.target).removeprefix("aten.")
    scale = resize_scale(node, axis)
    scales = [scale, None] if axis == 0 else [None, scale]
    overload = getattr(aten, name).default
    args = [argument(node, "align_corners")] if "align_corners" in names else []
    out = overload(eye, size, *args, *scales)[0, 0]
    return (out if axis == 0 else out.mT).numpy()


def resize(node: Node) -> Domain | None:
    source = operand(node)
    corners = "align_corners" in [a.name for a in node.target._schema.arguments] and argument(node, "align_corners")  # type: ignore[union-attr]
    windows = []
    for axis in range(2):
        n_in, n_out = shape(source)[2 + axis], shape(node)[2 + axis]
        window = matrix_window(resize_matrix(node, axis))
        told = resize_scale(node, axis)
        if told:  # the op steps by what it was told, which need not be the ratio of the sizes
            ratio = 1 / Fraction(told).limit_denominator(1000)
            window = replace(window, ratio=ratio, offset=(ratio - 1) / 2)
        if corners and n_out > 1 and n_in > 1:
            window = replace(window, ratio=Fraction(n_in - 1, n_out - 1), offset=Fraction(0))
        windows.append(window)
    if layout(source).is_global:
        return None
    return _windowed(node, (windows[0], windows[1]))


def im2col(node: Node) -> Domain | None:
    source = operand(node)
    kernel, dilation, padding, stride = (
        pair(argument(node, n)) for n in ("kernel_size", "dilation", "padding", "stride")
    )
    seen = layout(source).as_map(2, 3)
    if seen is None or len(shape(source)) != 4:
        return None
    windows = []
    for n, k, d, p, s in zip(shape(source)[2:], kernel, dilation, padding, stride, strict=True):
        windows.append(strided_window(n, (n + 2 * p - d * (k - 1) - 1) // s + 1, k, s, p, d))
    grid = seen.grid.window(windows[0], windows[1])
    dims: tuple[Dim, ...] = (free(shape(node)[0]), free(shape(node)[1]), row_major(grid))
    return Domain(Layout(grid, dims), WindowFlow(source, seen, windows[0], windows[1]))


def unfold(node: Node) -> Domain | None:
    source = operand(node)
    was = layout(source)
    dim = argument(node, "dimension") % len(was.dims)
    size, step = argument(node, "size"), argument(node, "step")
    axis = axis_of(was, dim)
    if not is_placed(was.dims[dim]):
        word = LETTERS[: len(was.dims)]
        out = word + LETTERS[len(was.dims)]
        kept = word.replace(word[dim], "")
        return joined([(source, with_other(word, dim))], out, shape(node), independent=kept)
    if axis is None or was.map_dims is None:
        return None
    n = shape(source)[dim]
    other = was.grid.w if axis == "y" else was.grid.h
    along, across = strided_window(n, shape(node)[dim], size, step), strided_window(other, other, 1)
    y, x = (along, across) if axis == "y" else (across, along)
    grid = was.grid.window(y, x)
    dims = [*was.with_dim(dim, (Factor(axis, shape(node)[dim]),) if shape(node)[dim] > 1 else ()).dims, free(size)]
    return Domain(Layout(grid, tuple(dims)), WindowFlow(source, was, y, x))


WINDOWS: dict[str, Rule] = {
    "conv2d": conv2d,
    "conv_transpose2d": conv_transpose2d,
    "conv1d": conv1d,
    **dict.fromkeys(("max_pool2d", "avg_pool2d"), pool),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d", "_adaptive_avg_pool2d"), adaptive_pool),
    **dict.fromkeys(RESIZES, resize),
    "im2col": im2col,
    "unfold": unfold,
}
"""The rules of this file by ATen name, without overload."""
