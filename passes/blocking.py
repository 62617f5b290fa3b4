"""What the cache passes share: caches, lists of tiles and rows, and the two ways to cut an op into pieces.

A *tile* form cuts a map along its two axes; a *row* form takes indices of one dimension. Which an op can take follows
from its domain: `independent` letters are those no argument of the op speaks about.
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.fx import GraphModule, Node

from fluxcompile.geometry import is_placed
from fluxcompile.ir import (
    add_input,
    call,
    calls,
    constant,
    constant_value,
    fake_mode,
    inputs,
    is_constant,
    op_name,
    shape,
)
from fluxcompile.ops import flux
from fluxcompile.passes.flow import Anything, Domain, Held, Join, Remap, Same, WindowFlow, domain, has_domain, layout

aten = torch.ops.aten

TILE = (8, 8)
"""Cells of a tile where `choose_granularity` was left out."""


def cache_of(module: GraphModule, node: Node) -> Node:
    """The cache of a value, moved with the scene where it can be; made once, before the node (an input's: here)."""
    if "cache" not in node.meta:
        cache = add_input(module, f"cache_{node.name}", node.meta["val"], "cache")
        source = node.meta.get("source")
        keep(module, cache, node)
        if source is not None:
            here = nullcontext() if node.op == "placeholder" else module.graph.inserting_before(node)
            with here:
                cache = call(module, flux.motion_reindex.default, cache, source, str(layout(node)))
        node.meta["cache"] = cache
    found = node.meta["cache"]
    assert isinstance(found, Node)
    return found


def keep(module: GraphModule, cache: Node, value: Node) -> None:
    """The next frame's cache is `value`."""
    module.meta.setdefault("caches", []).append((cache, value))


def setting(module: GraphModule, role: str) -> Node:
    """A setting every frame brings: fresh (bool), threshold, gate (floats) or radius (int), all without dimensions."""
    found = inputs(module, role)
    if found:
        return found[0]
    dtype = {"fresh": torch.bool, "radius": torch.int64}.get(role, torch.float32)
    with fake_mode(module):
        return add_input(module, role, torch.empty((), dtype=dtype), role)


def changed_of(node: Node) -> Node:
    """The mask of rows whose change others must see: after the gate, where there is one."""
    found = node.meta.get("changed", node.meta["miss"])
    assert isinstance(found, Node)
    return found


def tile_of(node: Node) -> tuple[int, int]:
    """The tile chosen for a map."""
    return node.meta.get("tile", TILE)  # type: ignore[no-any-return]


def tile_list(module: GraphModule, node: Node, tile: Sequence[int]) -> Node:
    """The tiles of a value that miss; made right after its mask, once per tile size."""
    miss, grid = node.meta["miss"], layout(node).grid
    size = [grid.h, grid.w]
    readers: list[Node] = list(miss.users)
    for user in readers:
        if user.target is flux.tiles.default and user.args[2:] == (size, list(tile)):
            return user
    with module.graph.inserting_after(miss):
        return call(module, flux.tiles.default, miss, setting(module, "fresh"), size, list(tile))


def row_list(module: GraphModule, node: Node, dim: int, mask: Node | None = None) -> Node:
    """The indices of one dimension of a value that miss; made right after the mask, once per layout and dimension."""
    mask, at = mask or node.meta["miss"], layout(node)
    # Without the sizes of its other dimensions, so that every value of these rows shares one list.
    text = str(dataclasses.replace(at, dims=tuple(d if is_placed(d) else () for d in at.dims)))
    readers: list[Node] = list(mask.users)
    for user in readers:
        if user.target is flux.rows.default and user.args[2:] == (text, dim):
            return user
    with module.graph.inserting_after(mask):
        return call(module, flux.rows.default, mask, setting(module, "fresh"), text, dim)


def join_form(node: Node) -> str:
    """How an op can be cut: "tile", "rows" or, for what has to run whole, "dense: why"."""
    found = domain(node)
    if found.opaque:
        return f"dense: {found.opaque}"
    if found.layout.is_global:
        return "dense: no place"
    if not isinstance(found.flow, Join) or found.parts:
        return "dense: several results"
    if tile_dims(node) is not None:
        return "tile"
    return "rows" if row_dim(node) is not None else "dense: mixes every place"


def tile_dims(node: Node) -> tuple[int, int] | None:
    """The two output dimensions a tile form cuts along."""
    found = domain(node)
    at, flow = found.layout, found.flow
    dims = at.map_dims
    if dims is None or not isinstance(flow, Join) or not shape(node) or shape(node)[0] != 1 or 0 in dims:
        return None
    letters = {flow.out[0], flow.out[dims[0]], flow.out[dims[1]]}
    if not letters <= set(flow.independent):
        return None
    for operand, word in (*flow.operands, *flow.constants):
        tiled = [c for c in word if c in letters - {flow.out[0]}]
        if not tiled:
            continue
        if len(set(tiled)) != 2 and any(shape(operand)[word.index(c)] > 1 for c in tiled):
            return None
        if len(set(tiled)) == 2 and not _has_batch(operand, word, flow.out[0]):
            return None
    return dims


def _has_batch(operand: Node, word: str, batch: str) -> bool:
    """The operand has a batch dimension of one in front, or is a constant that can be given one."""
    if word[0] in (batch, batch.upper()):
        return shape(operand)[0] == 1
    return is_constant(operand)


def row_dim(node: Node) -> int | None:
    """The output dimension a row form takes indices of: the one along which most places lie apart."""
    found = domain(node)
    flow = found.flow
    assert isinstance(flow, Join)
    best, most = None, 1
    for i, (letter, dim) in enumerate(zip(flow.out, found.layout.dims, strict=True)):
        if letter not in flow.independent or not is_placed(dim):
            continue
        places = shape(node)[i]
        shared = all(letter in word for _, word in flow.operands if not layout(_).is_global)
        rank = places * (1000 if shared else 1)
        if rank > most and all(
            shape(n)[w.index(letter)] == places for n, w in (*flow.operands, *flow.constants) if letter in w
        ):
            best, most = i, rank
    return best


def uncut(module: GraphModule, targets: Iterable[Any]) -> list[Node]:
    """The nodes calling any of `targets` that have not been cut into pieces yet."""
    return [n for n in calls(module, targets) if has_domain(n)]


def joins(module: GraphModule, names: Collection[str]) -> list[Node]:
    """The nodes calling any of these ATen ops whose dependence is element-wise."""
    return [
        n
        for n in module.graph.nodes
        if n.op == "call_function"
        and op_name(n.target).removeprefix("aten.") in names
        and has_domain(n)
        and isinstance(domain(n).flow, Join)
    ]


def block_join(module: GraphModule, node: Node) -> bool:
    """Rewrite an op with element-wise dependence into gather, op, scatter; False where it has to run whole."""
    form = join_form(node)
    if form == "tile":
        _block_tiles(module, node)
    elif form == "rows":
        _block_rows(module, node)
    else:
        return False
    return True


def _block_tiles(module: GraphModule, node: Node) -> None:
    flow, dims, tile = domain(node).flow, tile_dims(node), list(tile_of(node))
    assert isinstance(flow, Join)
    assert dims is not None
    y, x = (flow.out[d] for d in dims)
    tiles = tile_list(module, node, tile)
    with module.graph.inserting_before(node):
        pieces: list[tuple[Node, Node]] = []
        for operand, word in (*flow.operands, *flow.constants):
            if y not in word or x not in word:
                pieces.append((operand, operand))
            else:
                source, skip = operand, 0
                if word[0] not in (flow.out[0], flow.out[0].upper()):
                    value, skip = constant_value(module, operand), len(flow.out) - len(word)
                    source = constant(module, value.reshape((1,) * skip + tuple(value.shape)), f"{operand.target}_1")
                at = [word.index(y) + skip, word.index(x) + skip]
                wide = [shape(source)[d] > 1 for d in at]
                step = [t if w else 0 for t, w in zip(tile, wide, strict=True)]
                extent = [t if w else 1 for t, w in zip(tile, wide, strict=True)]
                pieces.append((operand, gather_tiles(module, node, source, tiles, at, step, [0, 0], extent)))
        packed = call_on(module, node, pieces, tiles)
    finish_tiles(module, node, packed, tiles, list(dims), tile)


def gather_tiles(
    module: GraphModule,
    before: Node,
    source: Node,
    tiles: Node,
    dims: list[int],
    step: list[int],
    start: list[int],
    extent: list[int],
    fill: float = 0.0,
    clamp: bool = False,
) -> Node:
    """A halo_gather before a node, shared by everything that reads the same."""
    args = (source, tiles, dims, step, start, extent, fill, clamp)
    for user in source.users:
        if user.target is flux.halo_gather.default and tuple(user.args) == args and user < before:
            return user
    with module.graph.inserting_before(before):
        return call(module, flux.halo_gather.default, *args)


def call_on(module: GraphModule, node: Node, pieces: Sequence[tuple[Node, Node]], listed: Node) -> Node:
    """The same op on pieces of its operands, taken by the list `listed`.

    pieces: each operand with its piece, in the order of the arguments: a value may be there twice, cut in two ways.
    """
    queues: dict[Node, list[Node]] = {}
    for operand, part in pieces:
        queues.setdefault(operand, []).append(part)

    def piece(n: Node) -> Node:
        queue = queues.get(n, [n])
        return queue.pop(0) if len(queue) > 1 else queue[0]

    args, kwargs = torch.fx.map_arg(node.args, piece), torch.fx.map_arg(node.kwargs, piece)
    packed = call(module, node.target, *args, path=node.meta.get("path", ""), **kwargs)
    charge(node, packed, listed)
    return packed


def charge(node: Node, packed: Node, *listed: Node) -> None:
    """The packed op costs what the node cost, by the share of the lists that a frame needs (at most all of it)."""
    for key in ("macs", "layer"):
        if key in node.meta:
            packed.meta[key] = node.meta[key]
    packed.meta["list"] = listed


def finish_tiles(module: GraphModule, node: Node, packed: Node, tiles: Node, dims: list[int], tile: list[int]) -> None:
    """The node becomes its cache with fresh tiles laid over it."""
    become(module, node, flux.tile_scatter.default, packed, cache_of(module, node), tiles, dims, tile)


def become(module: GraphModule, node: Node, target: Any, *args: Any) -> None:
    """In place, so that every domain and mask that names the node still means the same value."""
    node.target, node.args, node.kwargs = target, args, {}
    for key in ("path", "macs", "layer"):
        node.meta.pop(key, None)


def _block_rows(module: GraphModule, node: Node) -> None:
    flow, dim = domain(node).flow, row_dim(node)
    assert isinstance(flow, Join)
    assert dim is not None
    letter = flow.out[dim]
    rows = row_list(module, node, dim)
    with module.graph.inserting_before(node):
        pieces = [
            (n, call(module, aten.index_select.default, n, w.index(letter), rows) if letter in w else n)
            for n, w in (*flow.operands, *flow.constants)
        ]
        packed = call_on(module, node, pieces, rows)
    become(module, node, flux.row_scatter.default, packed, cache_of(module, node), rows, dim)


def renamed(found: Domain, old: Node, new: Node) -> Domain:
    """A domain with one node in place of another."""

    def swap(n: Node) -> Node:
        return new if n is old else n

    flow = found.flow
    match flow:
        case Join():
            flow = dataclasses.replace(flow, operands=tuple((swap(n), w) for n, w in flow.operands))
        case Remap() | Anything():
            flow = dataclasses.replace(flow, sources=tuple(map(swap, flow.sources)))
        case Same() | WindowFlow() | Held():
            flow = dataclasses.replace(flow, source=swap(flow.source))
    return dataclasses.replace(found, flow=flow, parts=tuple(renamed(p, old, new) for p in found.parts))
