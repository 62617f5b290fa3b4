"""ATen ops that compute each element by itself, in ONNX: a rule takes the writer and a call of the op."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fluxcompile.errors import ExportError
from fluxcompile.passes.trt_call import Call
from fluxcompile.passes.trt_writer import BOOL, FLOAT, INT64, Value, Writer

Rule = Callable[[Writer, Call], Value | list[Value]]


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


UNARY = (
    *("Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Neg", "Abs", "Floor", "Ceil", "Round"),
    *("Erf", "Sin", "Cos", "Softplus", "Sign"),
)
ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "multiply": "Mul", "maximum": "Max", "minimum": "Min"}

RULES: dict[str, Rule] = {
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
}
