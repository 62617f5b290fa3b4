"""What the lowering to ONNX writes with: nodes named after the program's ops, constants kept once, shapes known.

A `Value` is a tensor of the ONNX graph with the type it has there and the shape it has when everything is missed.
float64 and integers narrower than int32 do not occur: uint8 images are held as float32, lists and shifts as int32.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from fluxcompile.errors import ExportError

Array = npt.NDArray[Any]
OPSET = 17
"""The newest that TensorRT 8.5 reads."""
IR_VERSION = 8
"""The oldest that has functions."""
FLOAT: int = TensorProto.FLOAT
INT32: int = TensorProto.INT32
INT64: int = TensorProto.INT64
BOOL: int = TensorProto.BOOL
NUMPY: dict[int, type] = {FLOAT: np.float32, INT64: np.int64, INT32: np.int32, BOOL: np.bool_}


@dataclass(frozen=True)
class Value:
    """A tensor: its name, TensorProto type and all-miss shape."""

    name: str
    dtype: int
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        return self.dtype == FLOAT


class Writer:
    """Collects the nodes and constants of one graph. `at` is the op that nodes are named after.

    capacity: the share of all tiles or rows that a list has room for; None for lists as long as what they hold.
    `overflows` tells of each list with less room than there may be entries whether they did not fit; `counts` by the op
    that lists how many entries there are, and of a dense region 1 or 0.
    """

    def __init__(self, outer: "Writer | None" = None, capacity: float | None = None) -> None:
        self.capacity: float | None = outer.capacity if outer else capacity
        self.overflows: list[Value] = []
        self.counts: dict[str, Value] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = outer.constants if outer else {}
        self._held: dict[bytes, Value] = outer._held if outer else {}
        self.at: str = outer.at if outer else ""
        self._count = 0
        self._made: dict[Any, Value] = {}

    def constant(self, array: Any, name: str = "") -> Value:
        """A constant tensor, kept once however often it is wanted."""
        value = np.asarray(array)
        value = value.astype(NUMPY[_narrowed(value.dtype, name)])
        key = hashlib.sha256(repr((value.dtype.str, value.shape)).encode() + value.tobytes()).digest()
        if key not in self._held:
            free = name or f"constant_{len(self.constants)}"
            while free in self.constants:
                free += "_"
            self.constants[free] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), free)
            self._held[key] = Value(free, self.constants[free].data_type, tuple(value.shape))
        return self._held[key]

    def transposed_constant(self, x: Value) -> Value:
        """A matrix, turned now if it is a constant."""
        if x.name not in self.constants:
            return self.transpose(x, [1, 0])
        return self.once(
            ("turned", x), lambda: self.constant(numpy_helper.to_array(self.constants[x.name]).T, x.name + ".T")
        )

    def ints(self, values: Sequence[int]) -> Value:
        """A list of int64: shapes, axes and the like."""
        return self.constant(np.array(list(values), np.int64))

    def write(
        self, kind: str, inputs: Sequence[Value | None], outputs: Sequence[tuple[int, Sequence[int]]], **attributes: Any
    ) -> list[Value]:
        """Append a node with so many outputs, each of a type and shape."""
        self._count += 1
        name = f"{self.at}/{kind}_{self._count}"
        names = [f"{name}:{i}" for i in range(len(outputs))]
        node = helper.make_node(kind, [v.name if v else "" for v in inputs], names, name, **attributes)
        self.nodes.append(node)
        return [Value(n, dtype, tuple(shape)) for n, (dtype, shape) in zip(names, outputs, strict=True)]

    def op(
        self,
        kind: str,
        *inputs: Value | None,
        shape: Sequence[int] | None = None,
        dtype: int | None = None,
        **attributes: Any,
    ) -> Value:
        """A node of one output, of the first input's type, and shape unless they are given."""
        first = next(v for v in inputs if v)
        kept = first.shape if shape is None else shape
        (out,) = self.write(kind, inputs, [(first.dtype if dtype is None else dtype, kept)], **attributes)
        return out

    def once(self, key: Any, make: Callable[[], Value]) -> Value:
        """What was made under a key before, or is now."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    # --- what every rule needs ---

    def cast(self, x: Value, dtype: int) -> Value:
        return x if x.dtype == dtype else self.op("Cast", x, dtype=dtype, to=dtype)

    def reshape(self, x: Value, shape: Sequence[int], out: Sequence[int] | None = None) -> Value:
        """`shape` may hold 0 (as it is) and -1; `out` is then what it comes to."""
        shape = tuple(shape)
        known = tuple(out) if out is not None else shape
        return x if shape == x.shape else self.op("Reshape", x, self.ints(shape), shape=known)

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        if list(order) == list(range(len(x.shape))):
            return x
        return self.op("Transpose", x, shape=[x.shape[i] for i in order], perm=list(order))

    def unsqueeze(self, x: Value, axes: Sequence[int]) -> Value:
        shape = list(x.shape)
        for axis in sorted(axes):
            shape.insert(axis, 1)
        return self.op("Unsqueeze", x, self.ints(axes), shape=shape) if axes else x

    def gather(self, x: Value, index: Value, axis: int) -> Value:
        shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
        return self.op("Gather", x, index, shape=shape, axis=axis)

    def reduce(self, kind: str, x: Value, axes: Sequence[int], keepdims: bool = False) -> Value:
        axes = sorted(a % len(x.shape) for a in axes)
        shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes]
        if kind == "ReduceSum":  # the one whose axes are an input by now
            return self.op(kind, x, self.ints(axes), shape=shape, keepdims=int(keepdims))
        return self.op(kind, x, shape=shape, axes=axes, keepdims=int(keepdims))

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        if len(parts) == 1:
            return parts[0]
        axis %= len(parts[0].shape)
        total = sum(p.shape[axis] for p in parts)
        return self.op(
            "Concat", *parts, shape=[total if i == axis else n for i, n in enumerate(parts[0].shape)], axis=axis
        )

    def slice(self, x: Value, axis: int, start: int, end: int, step: int = 1) -> Value:
        n = len(range(x.shape[axis])[start:end:step])
        shape = [n if i == axis else s for i, s in enumerate(x.shape)]
        if tuple(shape) == x.shape and step == 1:
            return x
        return self.op("Slice", x, *map(self.ints, ([start], [end], [axis], [step])), shape=shape)

    def broadcast(self, kind: str, *operands: Value, dtype: int | None = None, **attributes: Any) -> Value:
        """A pointwise node of several operands."""
        shape = np.broadcast_shapes(*(v.shape for v in operands))
        last = operands[-1].dtype if kind == "Where" else operands[0].dtype
        return self.op(kind, *operands, shape=shape, dtype=last if dtype is None else dtype, **attributes)

    # --- masks ---

    def any(self, x: Value, axes: Sequence[int]) -> Value:
        """bool: whether anything along the axes is set."""
        whole = self.reduce("ReduceMax", self.cast(x, FLOAT), axes)
        return self.cast(whole, BOOL)

    def either(self, *masks: Value) -> Value:
        found = masks[0]
        for mask in masks[1:]:
            found = self.broadcast("Or", found, mask)
        return found

    def differ(self, a: Value, b: Value) -> Value:
        return self.op("Not", self.broadcast("Equal", a, b, dtype=BOOL))

    # --- names ---

    def rename(self, value: Value, name: str, first: int) -> Value:
        """The value under another name, if one of the nodes from `first` on makes it; else as it is."""
        made = any(value.name in node.output for node in self.nodes[first:])
        if not made:
            return value
        for node in self.nodes[first:]:
            for names in (node.input, node.output):
                for i, old in enumerate(names):
                    if old == value.name:
                        names[i] = name
        return Value(name, value.dtype, value.shape)


def _narrowed(dtype: np.dtype[Any], name: str) -> int:
    """The TensorProto type that numbers of a numpy type are held in."""
    if dtype.kind == "f" or dtype == np.uint8:
        if dtype == np.float64 and name:
            raise ExportError(f"constant {name}: is float64; TensorRT has none, convert the model with .float()")
        return FLOAT
    if dtype.kind == "b":
        return BOOL
    return INT64 if dtype == np.int64 else TensorProto.INT32
