"""ONNX operators that slide a window over a map: convolution and pooling.

Padding torch can say goes into the operator; any other (asymmetric, wider than half a pooling window) becomes an
explicit pad before it.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxcompile.passes.onnx_layout import cut, spread
from fluxcompile.passes.onnx_values import Operator, refuse

Ints = Sequence[int] | None

_CONV = (F.conv1d, F.conv2d, F.conv3d)
_CONV_TRANSPOSE: tuple[Callable[..., Tensor], ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_MAX_POOL: tuple[Callable[..., Tensor], ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVG_POOL: tuple[Callable[..., Tensor], ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_GLOBAL_POOL: tuple[Callable[..., Tensor], ...] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)


def _axes(x: Tensor) -> int:
    if not 3 <= x.ndim <= 5:
        raise refuse(f"a window over {x.ndim - 2} axes", "only 1, 2 and 3 are supported")
    return x.ndim - 2


def _padding(
    size: Sequence[int], reach: Sequence[int], strides: Sequence[int], auto_pad: str, pads: Ints
) -> tuple[list[int], list[int]]:
    """Padding at the begin and the end of each axis; reach is the extent of a dilated window."""
    rank = len(size)
    if auto_pad in ("", "NOTSET"):
        return (list(pads[:rank]), list(pads[rank:])) if pads else ([0] * rank, [0] * rank)
    if auto_pad == "VALID":
        return [0] * rank, [0] * rank
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise refuse(f"auto_pad={auto_pad}", "use NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    totals = [max(0, (-(-n // s) - 1) * s + r - n) for n, r, s in zip(size, reach, strides, strict=True)]
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (less, more) if auto_pad == "SAME_UPPER" else (more, less)


def _reach(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = None,
    group: int = 1,
    kernel_shape: Ints = None,
    pads: Ints = None,
    strides: Ints = None,
) -> Tensor:
    rank = _axes(x)
    dilations, strides = list(dilations or [1] * rank), list(strides or [1] * rank)
    begin, end = _padding(x.shape[2:], _reach(weight.shape[2:], dilations), strides, auto_pad, pads)
    if begin != end:
        x, begin = F.pad(x, spread(begin, end)), [0] * rank
    return _CONV[rank - 1](x, weight, bias, strides, begin, dilations, group)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = None,
    group: int = 1,
    kernel_shape: Ints = None,
    output_padding: Ints = None,
    output_shape: Ints = None,
    pads: Ints = None,
    strides: Ints = None,
) -> Tensor:
    """The full result, of which ONNX keeps [begin, full - end): torch's padding and output_padding, or a crop."""
    rank = _axes(x)
    dilations, strides = list(dilations or [1] * rank), list(strides or [1] * rank)
    extra = list(output_padding or [0] * rank)
    reach = _reach(weight.shape[2:], dilations)
    full = [s * (n - 1) + r for n, r, s in zip(x.shape[2:], reach, strides, strict=True)]
    if output_shape or auto_pad.startswith("SAME"):
        wanted = list(output_shape or [n * s for n, s in zip(x.shape[2:], strides, strict=True)])[-rank:]
        totals = [f + e - w for f, e, w in zip(full, extra, wanted, strict=True)]
        less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
        begin, end = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
    else:
        begin, end = _padding(x.shape[2:], reach, strides, auto_pad, pads)
    if min(begin + end) < 0:
        raise refuse(f"padding {begin} {end}, a result larger than its windows", "re-export without output_shape")
    padding, output, crop = [], [], []
    for i in range(rank):
        short = extra[i] + begin[i] - end[i]  # what torch's symmetric padding would cut too much at the end
        if short < max(strides[i], dilations[i]):
            padding.append(begin[i])
            output.append(max(0, short))
            crop.append((0, max(0, -short)))
        else:
            padding.append(end[i])
            output.append(extra[i])
            crop.append((begin[i] - end[i], 0))
    y = _CONV_TRANSPOSE[rank - 1](x, weight, bias, strides, padding, output, group, dilations)
    for i, (first, last) in enumerate(crop):
        y = cut(y, i + 2, first, y.shape[i + 2] - last)
    return y


def _pool_geometry(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    reach: Sequence[int],
    ceil: bool,
    auto_pad: str,
    pads: Ints,
) -> tuple[list[int], list[int], list[int], bool]:
    """Padding begin, declared end, the end that just covers the output windows, and whether torch can say it."""
    size = x.shape[2:]
    begin, end = _padding(size, reach, strides, auto_pad, pads)
    cover = []
    for n, b, e, r, s in zip(size, begin, end, reach, strides, strict=True):
        steps = -(-(n + b + e - r) // s) if ceil else (n + b + e - r) // s
        if ceil and steps * s >= n + b:  # a last window must start inside
            steps -= 1
        cover.append(steps * s + r - n - b)
    plain = begin == end and all(2 * b <= k for b, k in zip(begin, kernel, strict=True))
    return begin, end, cover, plain


def max_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints = None,
    kernel_shape: Sequence[int],
    pads: Ints = None,
    storage_order: int = 0,
    strides: Ints = None,
) -> Tensor:
    rank = _axes(x)
    dilations, strides = list(dilations or [1] * rank), list(strides or [1] * rank)
    reach = _reach(kernel_shape, dilations)
    begin, _, cover, plain = _pool_geometry(x, kernel_shape, strides, reach, bool(ceil_mode), auto_pad, pads)
    if not plain:
        lowest = -math.inf if x.dtype.is_floating_point else torch.iinfo(x.dtype).min
        x, begin, ceil_mode = F.pad(x, spread(begin, cover), "constant", lowest), [0] * rank, 0
    return _MAX_POOL[rank - 1](x, list(kernel_shape), strides, begin, dilations, bool(ceil_mode))


def average_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints = None,
    kernel_shape: Sequence[int],
    pads: Ints = None,
    strides: Ints = None,
) -> Tensor:
    """Where torch has no such padding: the mean over a map padded with zeros, times cells in window / cells counted."""
    rank, kernel = _axes(x), list(kernel_shape)
    dilations, strides = list(dilations or [1] * rank), list(strides or [1] * rank)
    begin, end, cover, plain = _pool_geometry(
        x, kernel, strides, _reach(kernel, dilations), bool(ceil_mode), auto_pad, pads
    )
    if plain and set(dilations) == {1}:
        return _AVG_POOL[rank - 1](x, kernel, strides, begin, bool(ceil_mode), bool(count_include_pad))

    def mean(map_: Tensor) -> Tensor:
        if set(dilations) == {1}:
            return _AVG_POOL[rank - 1](map_, kernel, strides)
        weight = torch.full([map_.shape[1], 1, *kernel], 1 / math.prod(kernel))
        return _CONV[rank - 1](map_, weight, None, strides, 0, dilations, map_.shape[1])

    counted = F.pad(torch.ones(1, 1, *x.shape[2:]), spread(begin, end), "constant", float(count_include_pad))
    share = mean(F.pad(counted, spread([0] * rank, [c - e for c, e in zip(cover, end, strict=True)])))
    y = mean(F.pad(x, spread(begin, cover)))
    return y if bool((share == 1).all()) else torch.div(y, share)


def global_average_pool(x: Tensor) -> Tensor:
    return _GLOBAL_POOL[_axes(x) - 1](x, [1] * _axes(x))


def global_max_pool(x: Tensor) -> Tensor:
    return torch.amax(x, list(range(2, x.ndim)), True)


WINDOWS: dict[str, Operator] = {
    "AveragePool": average_pool,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "MaxPool": max_pool,
}
