"""ATen ops that compute, in ONNX: a rule takes the writer and a call of the op it is named after."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fluxcompile.errors import ExportError
from fluxcompile.passes import trt_moves
from fluxcompile.passes.trt_call import Call
from fluxcompile.passes.trt_writer import BOOL, FLOAT, INT64, Value, Writer

Rule = Callable[[Writer, Call], Value | list[Value]]

# --- pointwise ---


def unary(kind: str, **attributes: Any) -> Rule:
    return lambda w, call: w.op(kind, w.cast(call["self"], call.dtype), **attributes)


def number(w: Writer, value: Any, dtype: int) -> Value:
    """A value or a number as a value of a type."""
    if isinstance(value, Value):
        return w.cast(value, dtype)
    return w.cast(w.constant(np.float32(value) if dtype == FLOAT else np.int64(value)), dtype)


def arithmetic(kind: str) -> Rule:
    def rule(w: Writer, call: Call) -> Value:
        a, b = (number(w, call[name], call.dtype) for name in ("self", "other"))
        if "alpha" in call and call["alpha"] != 1:
            b = w.broadcast("Mul", b, number(w, call["alpha"], call.dtype))
        return w.broadcast(kind, a, b)

    return rule


def comparison(kind: str, turned: bool = False) -> Rule:
    def rule(w: Writer, call: Call) -> Value:
        given = [call["self"], call["other"]]
        is_float = any(v.is_float if isinstance(v, Value) else isinstance(v, float) for v in given)
        found = w.broadcast(kind, *(number(w, v, FLOAT if is_float else INT64) for v in given), dtype=BOOL)
        return w.op("Not", found) if turned else found

    return rule


def logical(kind: str) -> Rule:
    def rule(w: Writer, call: Call) -> Value:
        names = ("self", "other") if "other" in call else ("self",)
        operands = [w.cast(call[name], BOOL) for name in names]
        return w.broadcast(kind, *operands)

    return rule


def divided(w: Writer, call: Call) -> Value:
    mode = call.get("rounding_mode")
    ratio = w.broadcast("Div", *(number(w, call[name], FLOAT) for name in ("self", "other")))
    if mode == "floor":
        ratio = w.op("Floor", ratio)
    elif mode == "trunc":
        ratio = w.broadcast("Mul", w.op("Sign", ratio), w.op("Floor", w.op("Abs", ratio)))
    return w.cast(ratio, call.dtype)


def powered(w: Writer, call: Call) -> Value:
    return w.broadcast("Pow", number(w, call["self"], call.dtype), number(w, call["exponent"], call.dtype))


def reversed_sub(w: Writer, call: Call) -> Value:
    return w.broadcast("Sub", number(w, call["other"], call.dtype), number(w, call["self"], call.dtype))


def reciprocal(w: Writer, call: Call) -> Value:
    return w.broadcast("Div", number(w, 1.0, FLOAT), call["self"])


def silu(w: Writer, call: Call) -> Value:
    return w.broadcast("Mul", call["self"], w.op("Sigmoid", call["self"]))


def mish(w: Writer, call: Call) -> Value:
    return w.broadcast("Mul", call["self"], w.op("Tanh", w.op("Softplus", call["self"])))


def gelu(w: Writer, call: Call) -> Value:
    x = call["self"]
    if call["approximate"] == "tanh":
        cube = w.broadcast("Mul", w.broadcast("Mul", w.broadcast("Mul", x, x), x), number(w, 0.044715, FLOAT))
        inner = w.broadcast("Mul", w.broadcast("Add", x, cube), number(w, math.sqrt(2 / math.pi), FLOAT))
        part = w.op("Tanh", inner)
    else:
        part = w.op("Erf", w.broadcast("Mul", x, number(w, math.sqrt(0.5), FLOAT)))
    half = w.broadcast("Mul", x, number(w, 0.5, FLOAT))
    return w.broadcast("Mul", half, w.broadcast("Add", part, number(w, 1.0, FLOAT)))


def hardsigmoid(w: Writer, call: Call) -> Value:
    return w.op("HardSigmoid", call["self"], alpha=1 / 6, beta=0.5)


def hardswish(w: Writer, call: Call) -> Value:
    return w.broadcast("Mul", call["self"], hardsigmoid(w, call))


def leaky_relu(w: Writer, call: Call) -> Value:
    return w.op("LeakyRelu", call["self"], alpha=float(call["negative_slope"]))


def elu(w: Writer, call: Call) -> Value:
    if call["scale"] != 1 or call["input_scale"] != 1:
        raise ExportError(f"{call.where}: ELU with scales has no lowering; write it as a product")
    return w.op("Elu", call["self"], alpha=float(call["alpha"]))


def prelu(w: Writer, call: Call) -> Value:
    x, slope = call["self"], call["weight"]
    if slope.shape != (1,):
        slope = w.reshape(slope, [slope.shape[0]] + [1] * (len(x.shape) - 2))
    zero = number(w, 0.0, FLOAT)
    below = w.broadcast("Mul", w.broadcast("Min", x, zero), slope)
    return w.broadcast("Add", w.broadcast("Max", x, zero), below)


def clamped(w: Writer, call: Call) -> Value:
    x = w.cast(call["self"], call.dtype)
    names = (("min", "Max"), ("max", "Min")) if "min" in call else (("min_val", "Max"), ("max_val", "Min"))
    for name, kind in names:
        if call[name] is not None:
            x = w.broadcast(kind, x, number(w, call[name], call.dtype))
    return x


def relu6(w: Writer, call: Call) -> Value:
    return w.broadcast("Min", w.op("Relu", call["self"]), number(w, 6.0, FLOAT))


def where(w: Writer, call: Call) -> Value:
    a, b = (number(w, call[name], call.dtype) for name in ("self", "other"))
    return w.broadcast("Where", call["condition"], a, b)


def masked_fill(w: Writer, call: Call) -> Value:
    x = call["self"]
    return w.broadcast("Where", call["mask"], number(w, call["value"], x.dtype), x)


# --- reductions and norms ---


def reduction(kind: str) -> Rule:
    def rule(w: Writer, call: Call) -> Value:
        x, dims = w.cast(call["self"], call.dtype), call.get("dim")
        axes = range(len(x.shape)) if dims in (None, []) else [dims] if isinstance(dims, int) else dims
        return w.reduce(kind, x, list(axes), bool(call.get("keepdim")))

    return rule


def extreme(kind: str) -> Rule:
    def rule(w: Writer, call: Call) -> Value:
        if call["dim"] is None:
            raise ExportError(f"{call.where}: over all dimensions has no lowering; flatten first and give dim")
        keep = bool(call["keepdim"])
        return w.op(kind, call["self"], shape=call.shape, dtype=INT64, axis=call["dim"], keepdims=int(keep))

    return rule


def softmax(w: Writer, call: Call) -> Value:
    return w.op("Softmax", call["self"], axis=call["dim"])


def normalised(w: Writer, x: Value, axes: list[int], eps: float) -> Value:
    middle = w.broadcast("Sub", x, w.reduce("ReduceMean", x, axes, keepdims=True))
    variance = w.reduce("ReduceMean", w.broadcast("Mul", middle, middle), axes, keepdims=True)
    return w.broadcast("Div", middle, w.op("Sqrt", w.broadcast("Add", variance, number(w, eps, FLOAT))))


def scaled(w: Writer, x: Value, call: Call, shape: list[int] | None = None) -> Value:
    for name, kind in (("weight", "Mul"), ("bias", "Add")):
        if call[name] is not None:
            x = w.broadcast(kind, x, w.reshape(call[name], shape) if shape else call[name])
    return x


def layer_norm(w: Writer, call: Call) -> Value:
    x, last = call["input"], len(call["normalized_shape"])
    rank = len(x.shape)
    return scaled(w, normalised(w, x, list(range(rank - last, rank)), call["eps"]), call)


def group_norm(w: Writer, call: Call) -> Value:
    x, groups = call["input"], call["num_groups"]
    n, c, *rest = x.shape
    split = w.reshape(x, [0, groups, -1], [n, groups, c // groups * math.prod(rest)])
    back = w.reshape(normalised(w, split, [2], call["eps"]), [0, c, *rest], x.shape)
    return scaled(w, back, call, [c, *[1] * len(rest)])


def batch_norm(w: Writer, call: Call) -> Value:
    x = call["input"]
    line = [x.shape[1], *[1] * (len(x.shape) - 2)]
    mean, variance = (w.reshape(call[name], line) for name in ("running_mean", "running_var"))
    spread = w.op("Sqrt", w.broadcast("Add", variance, number(w, call["eps"], FLOAT)))
    return scaled(w, w.broadcast("Div", w.broadcast("Sub", x, mean), spread), call, line)


# --- products ---


def linear(w: Writer, call: Call) -> Value:
    x = call["input"]
    y = w.op("MatMul", x, w.transposed_constant(call["weight"]), shape=call.shape)
    return y if call["bias"] is None else w.broadcast("Add", y, call["bias"])


def matmul(w: Writer, call: Call) -> Value:
    return w.op("MatMul", call["self"], call["other" if "other" in call else "mat2"], shape=call.shape)


def einsum(w: Writer, call: Call) -> Value:
    equation = call["equation"].replace(" ", "")
    return w.op("Einsum", *call["tensors"], shape=call.shape, equation=equation)


def attention(w: Writer, call: Call) -> Value:
    q, k, v = call["query"], call["key"], call["value"]
    if call["is_causal"]:
        raise ExportError(f"{call.where}: causal attention has no lowering; give the mask as a tensor")
    scale = call["scale"] if call["scale"] is not None else 1 / math.sqrt(q.shape[-1])
    rank = len(k.shape)
    turned = w.transpose(k, [*range(rank - 2), rank - 1, rank - 2])
    asked = w.broadcast("Mul", q, number(w, scale, FLOAT)) if scale != 1 else q
    score = w.op("MatMul", asked, turned, shape=[*call.shape[:-1], k.shape[-2]])
    mask = call["attn_mask"]
    if mask is not None and mask.dtype == BOOL:
        score = w.broadcast("Where", mask, score, number(w, -math.inf, FLOAT))
    elif mask is not None:
        score = w.broadcast("Add", score, mask)
    return w.op("MatMul", w.op("Softmax", score, axis=-1), v, shape=call.shape)


UNARY = (
    *("Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Neg", "Abs", "Floor", "Ceil", "Round"),
    *("Erf", "Sin", "Cos", "Softplus", "Sign"),
)
ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "multiply": "Mul", "maximum": "Max", "minimum": "Min"}

RULES: dict[str, Rule] = {
    **trt_moves.RULES,
    **{kind.lower(): unary(kind) for kind in UNARY},
    **{name: arithmetic(kind) for name, kind in ARITHMETIC.items()},
    "div": divided,
    "floor_divide": divided,
    "pow": powered,
    "rsub": reversed_sub,
    "eq": comparison("Equal"),
    "ne": comparison("Equal", turned=True),
    "lt": comparison("Less"),
    "gt": comparison("Greater"),
    "le": comparison("LessOrEqual"),
    "ge": comparison("GreaterOrEqual"),
    "logical_and": logical("And"),
    "logical_or": logical("Or"),
    "logical_not": logical("Not"),
    "bitwise_not": logical("Not"),
    "reciprocal": reciprocal,
    "silu": silu,
    "mish": mish,
    "gelu": gelu,
    "hardsigmoid": hardsigmoid,
    "hardswish": hardswish,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "prelu": prelu,
    "clamp": clamped,
    "clamp_min": clamped,
    "hardtanh": clamped,
    "relu6": relu6,
    "where": where,
    "masked_fill": masked_fill,
    "mean": reduction("ReduceMean"),
    "sum": reduction("ReduceSum"),
    "amax": reduction("ReduceMax"),
    "amin": reduction("ReduceMin"),
    "argmax": extreme("ArgMax"),
    "argmin": extreme("ArgMin"),
    "softmax": softmax,
    "_softmax": softmax,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "batch_norm": batch_norm,
    "linear": linear,
    "matmul": matmul,
    "bmm": matmul,
    "mm": matmul,
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
}
