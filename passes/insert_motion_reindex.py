"""Let the caches move: one shift per grid, from one motion input.

    %x: f32[1x3x64x64] = input
 ->
    %x: f32[1x3x64x64] = input
    %motion: i32[2x4x4] = motion
    %shift: i32[2x4096] = flux.shift_at(%motion, size=[64, 64], scale=[1.0, 1.0], origin=[0.0, 0.0], block=16)
    %source: i64[4096] = flux.source(%shift, width=64)

Every value with a place gets `meta["shift"]` and `meta["source"]`; `insert_misses` adds a miss wherever operands moved
apart, and each cache made later goes through `flux.motion_reindex`. Left alone: nets whose inputs differ in size or are
tokens of several maps. Values on a turned grid and values without a place do not move.
"""

from typing import Any

import torch
from torch.fx import GraphModule, Node

from fluxcompile.geometry import Grid, Layout
from fluxcompile.ir import add_input, call, constant, fake_mode, inputs
from fluxcompile.ops import flux
from fluxcompile.passes.flow import has_domain, layout

BLOCK = 16
"""Frame pixels per motion vector."""


def insert_motion_reindex(module: GraphModule) -> int:
    """Returns the number of grids that can move."""
    frames = [n for n in inputs(module) if not layout(n).is_global]
    sizes = {(layout(n).grid.h, layout(n).grid.w) for n in frames}
    if len(sizes) != 1 or any(layout(n).chain for n in frames):
        return 0
    h, w = sizes.pop()
    with fake_mode(module):
        value = torch.empty(2, -(-h // BLOCK), -(-w // BLOCK), dtype=torch.int32)
    motion = add_input(module, "motion", value, "motion")
    shifts: dict[Grid, Node] = {}
    sources: dict[tuple[Grid | None, ...], Node] = {}
    first = motion.next
    with module.graph.inserting_before(first):
        for node in list(module.graph.nodes):
            if has_domain(node) and not node.meta["domain"].parts:
                at = layout(node)
                node.meta["shift"] = _shift(module, motion, at, shifts)
                node.meta["source"] = _source(module, at, shifts, sources, motion)
    return sum(not _still(g) for g in shifts)


def _still(grid: Grid) -> bool:
    return any(grid.turn) or grid.cells == 1


def _zeros(module: GraphModule, rows: int) -> Node:
    return constant(module, torch.zeros(2, rows, dtype=torch.int32), f"still_{rows}")


def _grid_shift(module: GraphModule, motion: Node, grid: Grid, shifts: dict[Grid, Node]) -> Node:
    if grid not in shifts:
        if _still(grid):
            shifts[grid] = _zeros(module, grid.cells)
        else:
            scale, origin = [float(s) for s in grid.scale], [float(o) for o in grid.origin]
            shifts[grid] = call(module, flux.shift_at.default, motion, [grid.h, grid.w], scale, origin, BLOCK)
    return shifts[grid]


def _segments(at: Layout) -> list[tuple[int, Grid | None]]:
    return list(at.chain.segments) if at.chain else [(at.rows, at.grid)]


def _shift(module: GraphModule, motion: Node, at: Layout, shifts: dict[Grid, Node]) -> Node:
    parts = [_grid_shift(module, motion, g, shifts) if g else _zeros(module, n) for n, g in _segments(at)]
    return parts[0] if len(parts) == 1 else _once(module, torch.ops.aten.cat.default, parts, 1)


def _source(
    module: GraphModule,
    at: Layout,
    shifts: dict[Grid, Node],
    sources: dict[tuple[Grid | None, ...], Node],
    motion: Node,
) -> Node | None:
    """The rows a cache of this layout is read from; None where it never moves."""
    segments = _segments(at)
    if all(g is None or _still(g) for _, g in segments):
        return None
    parts = []
    for n, g in segments:
        key = (g,) if g else (None, Grid(n, 1))
        if key not in sources:
            shift = _grid_shift(module, motion, g, shifts) if g else _zeros(module, n)
            sources[key] = call(module, flux.source.default, shift, g.w if g else 1)
        parts.append(sources[key])
    return parts[0] if len(parts) == 1 else _once(module, flux.chain_source.default, parts)


def _once(module: GraphModule, target: Any, *args: Any) -> Node:
    """A call, or the node that already makes it."""
    same = (n for n in module.graph.find_nodes(op="call_function", target=target) if list(n.args) == list(args))
    return next(same, None) or call(module, target, *args)
