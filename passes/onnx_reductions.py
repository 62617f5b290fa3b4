"""ONNX operators that mix elements without windows: reductions, norms, matrix products, sorting, sampling."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxcompile.passes.onnx_values import Operator, axes_of, ints, known, refuse

Axes = Tensor | Sequence[int] | None


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def reduction(x: Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        dims = [] if axes is None else axes_of(x, axes)
        if not dims and noop_with_empty_axes:
            if function in (torch.sum, torch.mean, torch.amax, torch.amin):
                return x
            raise refuse("noop_with_empty_axes=1 without axes", "its meaning differs between runtimes: give axes")
        return function(x, dims or list(range(x.ndim)), bool(keepdims))

    return reduction


def _prod(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = torch.prod(x, dim, keep)
    return x


def _arg(function: Callable[[Tensor, int, bool], Tensor]) -> Operator:
    def arg(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        if not select_last_index:
            return function(x, axis, bool(keepdims))
        return torch.rsub(function(torch.flip(x, [axis]), axis, bool(keepdims)), x.shape[axis] - 1)

    return arg


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Operator:
    def softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
        if axis is None:
            axis = 1 if opset < 13 else -1
        axis %= x.ndim
        if opset >= 13 or math.prod(x.shape[axis + 1 :]) == 1:
            return function(x, axis)
        return torch.reshape(function(torch.flatten(x, axis), axis), x.shape)  # before 13: over all axes from here on

    return softmax


def top_k(x: Tensor, k: Tensor | Sequence[int], *, axis: int = -1, largest: int = 1, sorted: int = 1) -> list[Tensor]:
    """A stable sort, not torch.topk: among equals the lower index comes first."""
    (count,) = ints(k, "k of TopK")
    ordered = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return [torch.narrow(ordered[i], axis, 0, count) for i in range(2)]


def cum_sum(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    (dim,) = axes_of(x, axis)
    x = torch.flip(x, [dim]) if reverse else x
    total = torch.cumsum(x, dim)
    if exclusive:
        total = torch.narrow(F.pad(total, [0, 0] * (x.ndim - 1 - dim) + [1, 0]), dim, 0, x.shape[dim])
    total = torch.flip(total, [dim]) if reverse else total
    return total if total.dtype == x.dtype else total.to(x.dtype)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    if known(b) and not known(a) and b.ndim == 2 and a.ndim >= 2:
        return F.linear(a, b.t().contiguous())
    return torch.matmul(a, b)


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    a = torch.t(a) if transA else a
    bias = None if c is None or beta == 0.0 else c if beta == 1.0 else torch.mul(c, beta)
    columns = b.shape[0 if transB else 1]
    if known(b) and alpha == 1.0:
        weight = b if transB else b.t().contiguous()
        if bias is None:
            return F.linear(a, weight)
        if known(bias) and bias.numel() == columns and (bias.ndim == 0 or bias.shape[-1] == columns):
            return F.linear(a, weight, bias.reshape(-1))
        return torch.add(F.linear(a, weight), bias)
    product = torch.matmul(a, torch.t(b) if transB else b)
    product = product if alpha == 1.0 else torch.mul(product, alpha)
    return product if bias is None else torch.add(product, bias)


def einsum(*xs: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation.replace(" ", ""), *xs)


def batch_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor:
    if training_mode:
        raise refuse("training_mode=1", "export the model in eval mode")
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)


def layer_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    shape = list(x.shape[axis:])
    if list(scale.shape) == shape and (bias is None or list(bias.shape) == shape):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    y = torch.mul(F.layer_norm(x, shape, eps=epsilon), scale)
    return y if bias is None else torch.add(y, bias)


def rms_norm(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:
    shape = list(x.shape[axis:])
    if list(scale.shape) == shape:
        return F.rms_norm(x, shape, scale, epsilon)
    return torch.mul(F.rms_norm(x, shape, eps=epsilon), scale)


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, use_input_stats=True, eps=epsilon)


def group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5, num_groups: int, stash_type: int = 1, opset: int
) -> Tensor:
    if opset < 21:  # one scale a group
        scale, bias = (torch.repeat_interleave(p, x.shape[1] // num_groups) for p in (scale, bias))
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def local_response_norm(x: Tensor, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int) -> Tensor:
    if size % 2:
        return F.local_response_norm(x, size, alpha, beta, bias)
    channels = torch.unsqueeze(torch.flatten(torch.mul(x, x), 2), 1)  # torch puts the odd neighbour on the other side
    padded = F.pad(channels, [0, 0, (size - 1) // 2, size // 2])
    mean = torch.reshape(F.avg_pool2d(padded, (size, 1), stride=1), x.shape)
    return torch.div(x, torch.pow(torch.add(torch.mul(mean, alpha), bias), beta))


def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    return F.normalize(x, float(p), axis, eps=torch.finfo(x.dtype).tiny)


def grid_sample(
    x: Tensor, grid: Tensor, *, mode: str = "linear", padding_mode: str = "zeros", align_corners: int = 0
) -> Tensor:
    modes = {
        "linear": "bilinear",
        "bilinear": "bilinear",
        "nearest": "nearest",
        "cubic": "bicubic",
        "bicubic": "bicubic",
    }
    if mode not in modes or (x.ndim != 4 and mode in ("cubic", "bicubic")):
        raise refuse(f"mode={mode} on {x.ndim - 2} axes", "only linear, nearest and (on images) cubic are supported")
    return F.grid_sample(x, grid, modes[mode], padding_mode, bool(align_corners))


def _log_sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return torch.log(torch.sum(x, dims, keep))


def _norm(order: int) -> Callable[[Tensor, list[int], bool], Tensor]:
    return lambda x, dims, keep: torch.linalg.vector_norm(x, order, dims, keep)


def _sum_square(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return torch.sum(torch.mul(x, x), dims, keep)


def _det(x: Tensor) -> Tensor:
    det: Tensor = torch.linalg.det(x)
    return det


REDUCTIONS: dict[str, Operator] = {
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "BatchNormalization": batch_norm,
    "CumSum": cum_sum,
    "Det": _det,
    "Einsum": einsum,
    "Gemm": gemm,
    "GridSample": grid_sample,
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LRN": local_response_norm,
    "LayerNormalization": layer_norm,
    "LogSoftmax": _softmax(F.log_softmax),
    "LpNormalization": lp_normalization,
    "MatMul": matmul,
    "RMSNormalization": rms_norm,
    "ReduceL1": _reduction(_norm(1)),
    "ReduceL2": _reduction(_norm(2)),
    "ReduceLogSum": _reduction(_log_sum),
    "ReduceLogSumExp": _reduction(torch.logsumexp),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(torch.mean),
    "ReduceMin": _reduction(torch.amin),
    "ReduceProd": _reduction(_prod),
    "ReduceSum": _reduction(torch.sum),
    "ReduceSumSquare": _reduction(_sum_square),
    "Softmax": _softmax(F.softmax),
    "TopK": top_k,
}
