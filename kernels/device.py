"""Rows of the op table by device kernels: arguments as kernels take them, outputs made, the work planned and run.

A kernel knows raw sizes and pointers. What runs it is given: `kernels.cuda` on a GPU, and in tests the shim, which runs
the same kernels on a CPU.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from fluxcompile.geometry import Chain, parse_layout
from fluxcompile.ops import TABLE, Op, near_pixels_on

try:
    from fluxcompile.kernels import _device
except ImportError as error:
    raise ImportError(
        f"fluxcompile.kernels: the extension that plans device kernels is missing or does not load ({error}); "
        "install fluxcompile with a C++17 compiler at hand, in a checkout with `make` or `pip install --editable .`"
    ) from error

plan = _device.plan
"""What to do to run an op on tensors that fit it: copies and launches, in order."""
THREADS: int = _device.THREADS
"""Of a block, in every kernel."""
Attributes = Mapping[str, list[int] | list[float]]
Described = tuple[int, str, tuple[int, ...]]
"""A tensor as its address, type and shape."""

TYPES = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.float64: "f64",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
    torch.bool: "b8",
}
"""What kernels know."""
_DTYPES = {name: dtype for dtype, name in TYPES.items()}


class Runner(Protocol):
    """Runs an op on tensors that fit it, in the memory they lie in."""

    def __call__(
        self, op: str, attributes: Attributes, inputs: list[Described], outputs: list[Described], workspace: int
    ) -> None: ...


@lru_cache(maxsize=4096)
def row_factors(layout: str) -> tuple[list[int], list[int]]:
    """The factors of a layout, outermost first: their sizes, and the rows each walks at a time, 0 without a place."""
    parsed = parse_layout(layout)
    sizes, row_steps = [], []
    for dim in parsed.dims:
        if isinstance(dim, Chain):
            sizes.append(dim.size)
            row_steps.append(1)
            continue
        for factor in dim:
            sizes.append(factor.size)
            row_steps.append(factor.step * {"y": parsed.grid.w, "x": 1, "": 0}[factor.axis])
    return sizes, row_steps


@lru_cache
def _defaults(name: str) -> dict[str, Any]:
    """The arguments of an op in order, and what they are where a call leaves them out."""
    return {a.name: a.default_value for a in TABLE[name].overload._schema.arguments}


def bind(op: Op, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Tensor], Attributes]:
    """The tensors of a call in order, without gaps, and its attributes."""
    if op.name in BOUND:
        return BOUND[op.name](*args, **kwargs)
    defaults = _defaults(op.name)
    given = {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}
    tensors: list[Tensor] = []
    attributes: dict[str, list[int] | list[float]] = {}
    for name, value in given.items():
        if isinstance(value, Tensor):
            tensors.append(value.contiguous())
        elif name == "layout":
            attributes["sizes"], attributes["row_steps"] = row_factors(value)
        elif isinstance(value, float):
            attributes[name] = [value]
        else:
            attributes[name] = [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)]
    return tensors, attributes


def _spans(miss: Tensor, reach: Tensor, *where: Any) -> tuple[list[Tensor], Attributes]:
    """What `limit` takes: in place of scales and origins, which are doubles, the spans of pixels they give."""
    (y_low, y_high), (x_low, x_high) = (near_pixels_on(miss.device, *axis) for axis in zip(*where, strict=True))
    return [miss.contiguous(), reach.contiguous(), y_low, y_high, x_low, x_high], {"frame": list(where[1])}


BOUND: dict[str, Callable[..., tuple[list[Tensor], Attributes]]] = {"limit": _spans}
"""Rows whose kernels take other arguments than the row."""


def describe(tensor: Tensor) -> Described:
    return tensor.data_ptr(), TYPES[tensor.dtype], tuple(tensor.shape)


def kernel_of(op: Op, run: Runner) -> Callable[..., Any]:
    """The op by its kernels, called as its reference is; by its reference for types that the kernels do not take."""

    def call(*args: Any, **kwargs: Any) -> Any:
        inputs, attributes = bind(op, args, kwargs)
        types = [TYPES.get(x.dtype, "") for x in inputs]
        if not _device.takes(op.name, types):
            return op.reference(*args, **kwargs)
        shapes = [tuple(x.shape) for x in inputs]
        device = inputs[0].device
        outputs = [
            torch.empty(shape, dtype=_DTYPES[dtype], device=device)
            for dtype, shape in _device.outputs(op.name, attributes, types, shapes)
        ]
        workspace = torch.empty(_device.workspace_bytes(op.name, shapes), dtype=torch.uint8, device=device)
        run(
            op.name,
            attributes,
            [describe(x) for x in inputs],
            [describe(x) for x in outputs],
            workspace.data_ptr(),
        )
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return call


def kernels(run: Runner) -> dict[str, Callable[..., Any]]:
    """Every row of the table that has kernels."""
    return {name: kernel_of(TABLE[name], run) for name in _device.ops()}
