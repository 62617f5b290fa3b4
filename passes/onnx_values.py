"""What the ONNX operators work on: a constant is a tensor, data flow is a `Value` that records what is done to it.

Operators are written once, as plain torch functions. On constants they run, which is constant folding; on values they
are recorded into an fx graph. A value knows its static shape, so `Shape` of a value is a constant too.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from fluxcompile.errors import CaptureError


class OnnxImportError(CaptureError, ValueError):
    """An ONNX file that cannot be imported exactly: says what, at which node, and what to do."""


Operator = Callable[..., Tensor | list[Tensor]]
"""One ONNX operator: inputs are positional, attributes are keywords under their ONNX names and with their defaults.

An input that was an attribute in older opsets (`axes`, `pads`) is a positional parameter of the attribute's name.
`opset` and `outputs` (how many the node names) are passed to the operators that ask for them.
"""

TYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.int32,  # uint16: torch computes little in it
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float32,  # float16: a wider type changes no result beyond float16's own rounding
    11: torch.float64,
    12: torch.int64,  # uint32
    16: torch.float32,  # bfloat16
}
"""TensorProto.DataType -> the type we compute in."""


class Value(fx.Proxy):
    """A tensor of the data flow, with the static shape and type of its meta tensor."""

    @property
    def meta(self) -> Tensor:
        meta: Tensor = self.node.meta["val"]
        return meta

    @property
    def shape(self) -> torch.Size:
        return self.meta.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.meta.dtype

    @property
    def ndim(self) -> int:
        return self.meta.ndim


def known(x: object) -> bool:
    """Whether x is a constant."""
    return not isinstance(x, Value)


def constant(x: Tensor, what: str) -> Tensor:
    if not known(x):
        raise OnnxImportError(f"{what} depends on the data; only a constant has static shapes: simplify or re-export")
    return x


def ints(x: Tensor | Sequence[int] | int, what: str) -> list[int]:
    """The integers of an attribute or of a constant input."""
    if isinstance(x, int):
        return [x]
    if isinstance(x, (list, tuple)):
        return [int(item) for item in x]
    assert isinstance(x, (Tensor, Value))
    return [int(item) for item in constant(x, what).flatten().tolist()]


def axes_of(x: Tensor, axes: Tensor | Sequence[int] | int, what: str = "axes") -> list[int]:
    """Axes counted from the front, each checked against the rank."""
    found = ints(axes, what)
    for axis in found:
        if not -x.ndim <= axis < x.ndim:
            raise OnnxImportError(f"axis {axis} is outside a tensor of rank {x.ndim}; the file is inconsistent")
    return [axis % x.ndim for axis in found]


def number(x: Tensor, other: Tensor) -> Tensor | float:
    """A constant of one element as a Python number, where it cannot change shape or type of the result."""
    alone = known(x) and not known(other) and x.numel() == 1
    return x.item() if alone and x.ndim <= other.ndim and x.dtype == other.dtype else x


def refuse(what: str, instead: str) -> OnnxImportError:
    return OnnxImportError(f"{what}; {instead}")
