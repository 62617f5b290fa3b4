"""What a program takes of a device's memory, told before anything is built there."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from fluxcompile.bundle import Memory
from fluxcompile.errors import ExportError
from fluxcompile.passes.lower_tensorrt import Lowered
from fluxcompile.passes.trt_call import types_in
from fluxcompile.program import Graph, Program
from fluxcompile.targets import Target

WORKSPACE_BYTES = 256 << 20
USABLE = 0.75
"""Share of memory that an engine may fill where the system lives in it too."""
BYTES = {"f32": 4, "i32": 4, "i64": 8, "b8": 1, "u8": 4}


def estimate(program: Program, lowered: Lowered, capacity: float | None = None) -> Memory:
    """Memory on the device, before anything is built there: everything is missed, weights and maps are float32.

    With a capacity there are two engines, each with weights and activations of its own.
    """
    graph = program.graphs["blocked"]
    engines = 1 if capacity is None else 2
    weights = sum(int(np.prod(t.dims)) * 4 for t in lowered.model.graph.initializer)
    caches = sum(int(np.prod(i.shape)) * BYTES[i.dtype] for i in graph.inputs if i.role == "cache")
    return Memory(engines * weights, 2 * caches, engines * activation_bytes(graph), WORKSPACE_BYTES)


def activation_bytes(graph: Graph) -> int:
    """The most that values take at any one time, from when they are made until they are last read."""
    last: dict[str, int] = {}
    for at, op in enumerate(graph.ops):
        for name in names_in([*op.args, *op.kwargs.values()]):
            last[name] = at
    for name in names_in([*graph.outputs, *({"%": v} for _, v in graph.caches)]):
        last[name] = len(graph.ops)
    freed: dict[int, list[str]] = {}
    for name, at in last.items():
        freed.setdefault(at, []).append(name)
    sizes: dict[str, int] = {}
    now = most = 0
    for at, op in enumerate(graph.ops):
        if op.op != "getitem":  # a part of what is there
            sizes[op.name] = sum(int(np.prod(shape)) * BYTES.get(dtype, 8) for dtype, shape in types_in(op.type))
            now += sizes[op.name]
        most = max(most, now)
        now -= sum(sizes.get(name, 0) for name in freed.get(at, ()))
    return most


def names_in(values: Iterable[Any]) -> list[str]:
    found = []
    for value in values:
        if isinstance(value, list | tuple):
            found += names_in(value)
        elif isinstance(value, dict) and "%" in value:
            found.append(value["%"])
    return found


def require_room(memory: Memory, machine: Target, memory_bytes: int) -> None:
    usable = int(memory_bytes * (USABLE if machine.shares_memory else 0.9))
    if memory.total_bytes > usable:
        parts = ", ".join(f"{k.removesuffix('_bytes')} {v / 2**20:.0f}" for k, v in parts_of(memory))
        raise ExportError(
            f"{machine.name}: the program needs about {memory.total_bytes / 2**20:.0f} MiB ({parts}), the device has "
            f"{usable / 2**20:.0f} to give; compile for smaller frames, or say its memory if it has more"
        )


def parts_of(memory: Memory) -> list[tuple[str, int]]:
    return [(name, getattr(memory, name)) for name in memory.__struct_fields__]
