"""What a program takes of a device's memory, told before anything is built there."""

import numpy as np

from fluxcompile.bundle import Memory
from fluxcompile.errors import ExportError
from fluxcompile.liveness import BYTES, activation_bytes, type_bytes
from fluxcompile.passes.lower_tensorrt import Lowered
from fluxcompile.program import Program
from fluxcompile.targets import Target

WORKSPACE_BYTES = 256 << 20
USABLE = 0.75
"""Share of memory that an engine may fill where the system lives in it too."""
ENGINE_BYTES = BYTES | {"u8": 4}
"""Images of bytes are floats to an engine."""
PARTS = ("getitem",)
"""Ops whose result is a part of what is there; what else an engine may alias is not counted on."""


def estimate(program: Program, lowered: Lowered, capacity: float | None = None) -> Memory:
    """Memory on the device, before anything is built there: everything is missed, weights and maps are float32.

    With a capacity there are two engines, each with weights and activations of its own.
    """
    graph = program.graphs["blocked"]
    engines = 1 if capacity is None else 2
    weights = sum(int(np.prod(t.dims)) * 4 for t in lowered.model.graph.initializer)
    caches = sum(type_bytes(i.type, ENGINE_BYTES) for i in graph.inputs if i.role == "cache")
    activations, _ = activation_bytes(graph, ENGINE_BYTES, PARTS)
    return Memory(engines * weights, 2 * caches, engines * activations, WORKSPACE_BYTES)


def require_room(memory: Memory, machine: Target, memory_bytes: int) -> None:
    usable = int(memory_bytes * (USABLE if machine.shares_memory else 0.9))
    if memory.total_bytes > usable:
        parts = ", ".join(f"{k.removesuffix('_bytes')} {v / 2**20:.0f}" for k, v in parts_of(memory))
        raise ExportError(
            f"{machine.name}: the program needs about {memory.total_bytes / 2**20:.0f} MiB ({parts}), the device has "
            f"{usable / 2**20:.0f} to give; compile for smaller frames, or say what it has (--memory-gib)"
        )


def parts_of(memory: Memory) -> list[tuple[str, int]]:
    return [(name, getattr(memory, name)) for name in memory.__struct_fields__]
