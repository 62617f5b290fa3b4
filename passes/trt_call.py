"""One op of a program as the rules of the lowering to ONNX see it: arguments by name, tensors as its values."""

from collections.abc import Mapping
from typing import Any

from fluxcompile.errors import ExportError
from fluxcompile.geometry import parse_layout
from fluxcompile.passes.trt_writer import BOOL, FLOAT, INT32, INT64, Array, Value, Writer
from fluxcompile.program import Op, types_in

TYPES = {
    "f32": FLOAT,
    "u8": FLOAT,
    "i64": INT64,
    "i32": INT32,
    "b8": BOOL,
}
"""A program's types as the graph has them."""


def onnx_type(dtype: str, where: str) -> int:
    if dtype not in TYPES:
        raise ExportError(f"{where}: is {dtype}; TensorRT engines are made of f32, i32, i64 and bool programs")
    return TYPES[dtype]


class Call:
    """One op of a program as a rule sees it: `call["dim"]` is an argument by its name, tensors as values.

    radius: how far changes may spread in frame pixels, None for any distance.
    """

    def __init__(self, op: Op, arguments: dict[str, Any], resolve: "Resolver", radius: int | None) -> None:
        self.op, self.radius = op, radius
        self._arguments, self._resolve = arguments, resolve
        self.types = types_in(op.type)

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"{self.op.name} ({self.op.op.removesuffix('.default')}{', ' + self.op.path if self.op.path else ''})"

    def __getitem__(self, name: str) -> Any:
        return self._resolve(self._arguments[name])

    def __contains__(self, name: str) -> bool:
        return name in self._arguments

    def get(self, name: str, default: Any = None) -> Any:
        return self._resolve(self._arguments.get(name, default))

    def table(self, name: str) -> Array:
        """A constant argument as numbers."""
        return self._resolve.table(self._arguments[name], self.where)

    def places(self, name: str) -> list[int]:
        """Of the dimensions of a layout: their sizes where they have a place, else 1."""
        return list(parse_layout(self._arguments[name]).row_index().shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its only output."""
        return self.types[0][1]

    @property
    def dtype(self) -> int:
        return onnx_type(self.types[0][0], self.where)


class Resolver:
    """Turns the JSON arguments of a program into values of the graph that is written."""

    def __init__(self, writer: Writer, constants: Mapping[str, Array]) -> None:
        self.writer, self.constants = writer, constants
        self.values: dict[str, Value | list[Value]] = {}

    def __call__(self, value: Any) -> Any:
        match value:
            case list():
                return [self(v) for v in value]
            case {"%": name}:
                return self.values[name]
            case {"@": name}:
                return self.writer.constant(self.constants[name], name)
            case {"dtype": name}:
                return onnx_type(name, "a cast")
            case dict():  # an infinite number, in words
                return float(str(*value.values()))
        return value

    def table(self, value: Any, where: str) -> Array:
        if not (isinstance(value, dict) and "@" in value):
            raise ExportError(f"{where}: reads places that are computed; TensorRT engines take tables of constants")
        return self.constants[value["@"]]
