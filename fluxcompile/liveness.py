"""How much memory the values of a graph take while its ops run, from when they are made until they are last read."""

import math
from collections.abc import Container, Mapping

from fluxcompile.program import Graph, types_in

VIEWS = {
    "getitem", "aten.alias", "aten.chunk", "aten.contiguous", "aten.detach", "aten.expand", "aten.flatten",
    "aten.narrow", "aten.permute", "aten.reshape", "aten.select", "aten.slice", "aten.split",
    "aten.split_with_sizes", "aten.squeeze", "aten.t", "aten.transpose", "aten.unbind", "aten.unflatten",
    "aten.unsqueeze", "aten.view",
}  # fmt: skip
"""Ops whose result lies in their operand's memory."""

BYTES = {"f64": 8, "i64": 8, "c64": 8, "f32": 4, "i32": 4, "f16": 2, "bf16": 2, "i16": 2, "i8": 1, "u8": 1, "b8": 1}


def type_bytes(text: str, sizes: Mapping[str, int] = BYTES) -> int:
    """The bytes of a type in text form: f32[1x16x8x8], or several."""
    return sum(sizes.get(dtype, 0) * math.prod(shape) for dtype, shape in types_in(text))


def activation_bytes(graph: Graph, sizes: Mapping[str, int] = BYTES, views: Container[str] = VIEWS) -> tuple[int, int]:
    """(peak, sum) of what the ops of a graph give: each freed after its last use, or kept to the end."""
    owner: dict[str, str] = {}  # the op whose memory a value lies in; an input's or a constant's is not counted
    size: dict[str, int] = {}
    last: dict[str, int] = {}
    for at, op in enumerate(graph.ops):
        reads = [owner[name] for name in op.reads if name in owner]
        last |= dict.fromkeys(reads, at)
        if ".".join(op.op.split(".")[:2]) in views:
            if reads:
                owner[op.name] = reads[0]
            continue
        owner[op.name], size[op.name], last[op.name] = op.name, type_bytes(op.type, sizes), at
    last |= {owner[name]: len(graph.ops) for name in graph.kept if name in owner}
    live = peak = 0
    dying: dict[int, int] = {}
    for name, at in last.items():
        dying[at] = dying.get(at, 0) + size[name]
    for at, op in enumerate(graph.ops):
        live += size.get(op.name, 0)
        peak = max(peak, live)
        live -= dying.get(at, 0)
    return peak, sum(size.values())
