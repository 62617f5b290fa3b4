"""ATen ops that read windows, in ONNX: convolution, pooling, resizing. On packed tiles the halo holds the padding."""

from typing import Any

import numpy as np

from fluxcompile.errors import ExportError
from fluxcompile.passes.trt_call import Call
from fluxcompile.passes.trt_writer import Array, Value, Writer


def conv2d(w: Writer, call: Call) -> Value:
    padding = call["padding"]
    if isinstance(padding, str):
        raise ExportError(f"{call.where}: padding {padding!r} has no lowering; give it in cells")
    attributes = {
        "strides": call["stride"],
        "pads": [*padding, *padding],
        "dilations": call["dilation"],
        "group": call["groups"],
        "kernel_shape": list(call["weight"].shape[2:]),
    }
    return _with_bias(w, "Conv", call, attributes)


def conv_transpose2d(w: Writer, call: Call) -> Value:
    padding, more = call["padding"], call["output_padding"]
    attributes = {
        "strides": call["stride"],
        "pads": [*padding, *padding],
        "output_padding": more,
        "dilations": call["dilation"],
        "group": call["groups"],
        "kernel_shape": list(call["weight"].shape[2:]),
    }
    return _with_bias(w, "ConvTranspose", call, attributes)


def _with_bias(w: Writer, kind: str, call: Call, attributes: dict[str, Any]) -> Value:
    """A bias that is computed cannot be the layer's own."""
    bias = call["bias"]
    own = [bias] if bias is not None and bias.name in w.constants else []
    y = w.op(kind, call["input"], call["weight"], *own, shape=call.shape, **attributes)
    return y if bias is None or own else w.broadcast("Add", y, w.reshape(bias, [bias.shape[0], 1, 1]))


def _pair(value: int | list[int]) -> list[int]:
    found = [value] if isinstance(value, int) else list(value)
    return found * 2 if len(found) == 1 else found


def max_pool2d(w: Writer, call: Call) -> Value:
    kernel = _pair(call["kernel_size"])
    padding = _pair(call["padding"])
    return w.op(
        "MaxPool",
        call["self"],
        shape=call.shape,
        kernel_shape=kernel,
        strides=_pair(call["stride"] or kernel),
        pads=[*padding, *padding],
        dilations=_pair(call["dilation"]),
        ceil_mode=int(call["ceil_mode"]),
    )


def avg_pool2d(w: Writer, call: Call) -> Value:
    if call["divisor_override"] is not None:
        raise ExportError(f"{call.where}: divisor_override has no lowering; scale the result instead")
    kernel, padding = _pair(call["kernel_size"]), _pair(call["padding"])
    return w.op(
        "AveragePool",
        call["self"],
        shape=call.shape,
        kernel_shape=kernel,
        strides=_pair(call["stride"] or kernel),
        pads=[*padding, *padding],
        ceil_mode=int(call["ceil_mode"]),
        count_include_pad=int(call["count_include_pad"]),
    )


def adaptive_avg_pool2d(w: Writer, call: Call) -> Value:
    x, out = call["self"], call.shape[-2:]
    if out == (1, 1):
        return w.reduce("ReduceMean", x, [-2, -1], keepdims=True)
    across = w.op("MatMul", x, w.constant(_means(x.shape[-1], out[1]).T), shape=[*x.shape[:-1], out[1]])
    return w.op("MatMul", w.constant(_means(x.shape[-2], out[0])), across, shape=call.shape)


def _means(n: int, n_out: int) -> Array:
    """The matrix (n_out, n) of adaptive pooling along one axis."""
    found = np.zeros((n_out, n), np.float32)
    for i in range(n_out):
        first, last = i * n // n_out, -(-(i + 1) * n // n_out)
        found[i, first:last] = 1 / (last - first)
    return found


def upsample_nearest2d(w: Writer, call: Call) -> Value:
    return _resized(w, call, mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric")


def upsample_bilinear2d(w: Writer, call: Call) -> Value:
    how = "align_corners" if call["align_corners"] else "pytorch_half_pixel"
    return _resized(w, call, mode="linear", coordinate_transformation_mode=how)


def _resized(w: Writer, call: Call, **attributes: Any) -> Value:
    x = call["input" if "input" in call else "self"]
    ratios = [out / n for out, n in zip(call.shape[-2:], x.shape[-2:], strict=True)]
    scales = w.constant(np.array([1, 1, *ratios], np.float32))
    if all(r == int(r) for r in ratios):  # which leaves the number of tiles open
        return w.op("Resize", x, None, scales, shape=call.shape, **attributes)
    return w.op("Resize", x, None, None, w.ints(call.shape), shape=call.shape, **attributes)


RULES = {
    "conv2d": conv2d,
    "conv_transpose2d": conv_transpose2d,
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "upsample_nearest2d": upsample_nearest2d,
    "upsample_bilinear2d": upsample_bilinear2d,
}
