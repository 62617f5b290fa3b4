"""ONNX operators that work element by element: operator -> torch function, exact in float32."""

import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxcompile.passes.onnx_values import TYPES, Operator, known, number, refuse


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda x: function(x)


def _binary(function: Callable[..., Tensor]) -> Operator:
    return lambda a, b: function(a, number(b, a))


def _commutative(function: Callable[..., Tensor]) -> Operator:
    """A constant goes second, where torch takes a number."""
    return lambda a, b: function(b, number(a, b)) if known(a) else function(a, number(b, a))


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda *xs: reduce(function, xs)


def _sub(a: Tensor, b: Tensor) -> Tensor:
    left = number(a, b)
    return torch.rsub(b, left) if isinstance(left, (int, float)) else torch.sub(a, number(b, a))


def _div(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype.is_floating_point:
        return torch.div(a, number(b, a))
    return torch.div(a, number(b, a), rounding_mode="trunc")


def _pow(base: Tensor, exponent: Tensor) -> Tensor:
    one = known(exponent) and not known(base) and exponent.numel() == 1 and exponent.ndim <= base.ndim
    power = torch.pow(base, exponent.item() if one else exponent)
    return _to(power, base.dtype)


def _mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return (torch.fmod if fmod else torch.remainder)(a, number(b, a))


def _shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    return torch.bitwise_left_shift(a, b) if direction == "LEFT" else torch.bitwise_right_shift(a, b)


def _mean(*xs: Tensor) -> Tensor:
    return torch.div(reduce(torch.add, xs), float(len(xs)))


def _clip(x: Tensor, min: Tensor | float | None = None, max: Tensor | float | None = None) -> Tensor:
    for bound, extreme in ((min, torch.maximum), (max, torch.minimum)):
        if bound is not None and not known(bound):
            assert not isinstance(bound, float)
            x = extreme(x, bound)
    low, high = (b.item() if isinstance(b, Tensor) else b if known(b) else None for b in (min, max))
    return x if low is None and high is None else torch.clamp(x, low, high)


def _hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    if _float32(alpha) == _float32(1 / 6) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(torch.add(torch.mul(x, alpha), beta), 0.0, 1.0)


def _selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    if (_float32(alpha), _float32(gamma)) == (1.67326319217681884765625, 1.05070102214813232421875):
        return F.selu(x)
    return torch.mul(F.elu(x, alpha), gamma)


def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def _swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.silu(x) if alpha == 1.0 else torch.mul(x, torch.sigmoid(torch.mul(x, alpha)))


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Torch's own where the slope is one number or one a channel, in whatever broadcast form."""
    padded = (1,) * (x.ndim - slope.ndim) + tuple(slope.shape)
    per_channel = x.ndim > 1 and padded == tuple(x.shape[i] if i == 1 else 1 for i in range(x.ndim))
    if known(slope) and (per_channel or padded == (1,) * x.ndim):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(torch.ge(x, 0), x, torch.mul(slope, x))


def _is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    signs = [math.inf] * detect_positive + [-math.inf] * detect_negative
    tests = [torch.eq(x, sign) for sign in signs]
    return reduce(torch.logical_or, tests) if tests else torch.zeros(x.shape, dtype=torch.bool)


def _cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    if to not in TYPES:
        raise refuse(f"cast to ONNX type {to}", "only float, integer and bool types up to 64 bits are supported")
    return _to(x, TYPES[to])


def _cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return _to(x, like.dtype)


def _to(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)


def _float32(x: float) -> float:
    return torch.tensor(x, dtype=torch.float32).item()


def _dropout(x: Tensor, ratio: object = None, training: Tensor | None = None, *, seed: int = 0) -> Tensor:
    if training is not None and not (known(training) and not training.item()):
        raise refuse("training_mode is on", "export the model in eval mode")
    return x


def _quantize(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    saturate: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
) -> Tensor:
    """Round half to even, clamp, cast: real integers; with the DequantizeLinear after it an exact fake quantization."""
    dtype = TYPES.get(output_dtype, torch.uint8) if zero is None else zero.dtype
    if dtype not in (torch.uint8, torch.int8, torch.int16) or block_size or precision not in (0, 1):
        raise refuse(f"quantization to {dtype}, block_size={block_size}", "only int8, uint8, int16 without blocks")
    steps = torch.round(torch.div(x, _along(scale, x, axis)))
    if zero is not None and not (known(zero) and not zero.any()):
        steps = torch.add(steps, _along(_to(zero, x.dtype), x, axis))
    limits = torch.iinfo(dtype)
    return _to(torch.clamp(steps, limits.min, limits.max), dtype)


def _dequantize(
    x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Tensor:
    if block_size:
        raise refuse(f"block_size={block_size}", "only per tensor and per axis quantization are supported")
    steps = _to(x, scale.dtype)
    if zero is not None and not (known(zero) and not zero.any()):
        steps = torch.sub(steps, _along(_to(zero, scale.dtype), x, axis))
    return torch.mul(steps, _along(scale, x, axis))


def _along(vector: Tensor, x: Tensor, axis: int) -> Tensor:
    """A scalar as it is, a vector laid along one axis of x."""
    if vector.ndim == 0 or vector.shape[0] == 1:
        return vector.reshape(())
    shape: Sequence[int] = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
    return vector.reshape(shape)


POINTWISE: dict[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Acos": _unary(torch.acos),
    "Acosh": _unary(torch.acosh),
    "Add": _commutative(torch.add),
    "And": _binary(torch.logical_and),
    "Asin": _unary(torch.asin),
    "Asinh": _unary(torch.asinh),
    "Atan": _unary(torch.atan),
    "Atanh": _unary(torch.atanh),
    "BitShift": _shift,
    "BitwiseAnd": _binary(torch.bitwise_and),
    "BitwiseNot": _unary(torch.bitwise_not),
    "BitwiseOr": _binary(torch.bitwise_or),
    "BitwiseXor": _binary(torch.bitwise_xor),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _unary(torch.ceil),
    "Celu": lambda x, *, alpha=1.0: F.celu(x, alpha),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Cosh": _unary(torch.cosh),
    "DequantizeLinear": _dequantize,
    "Div": _div,
    "Dropout": _dropout,
    "Elu": lambda x, *, alpha=1.0: F.elu(x, alpha),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": _gelu,
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda x: x),
    "IsInf": _is_inf,
    "IsNaN": _unary(torch.isnan),
    "LeakyRelu": lambda x, *, alpha=0.01: F.leaky_relu(x, alpha),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "Max": _variadic(torch.maximum),
    "Mean": _mean,
    "Min": _variadic(torch.minimum),
    "Mish": _unary(F.mish),
    "Mod": _mod,
    "Mul": _commutative(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _pow,
    "QuantizeLinear": _quantize,
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(F.relu),
    "Round": _unary(torch.round),
    "Selu": _selu,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Sinh": _unary(torch.sinh),
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _sub,
    "Sum": _variadic(torch.add),
    "Swish": _swish,
    "Tan": _unary(torch.tan),
    "Tanh": _unary(torch.tanh),
    "ThresholdedRelu": lambda x, *, alpha=1.0: F.threshold(x, alpha, 0.0),
    "Where": lambda condition, x, y: torch.where(condition, x, y),
    "Xor": _binary(torch.logical_xor),
}
