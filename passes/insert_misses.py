"""Give every value a mask of the rows that must be recomputed.

    %x: f32[1x3x64x64] = input
    %conv2d = aten.conv2d(%x, @w, @b, padding=[1, 1])
 ->
    %x: f32[1x3x64x64] = input
    %cache_x: f32[1x3x64x64] = cache
    %miss_x: b8[4096] = flux.miss_input(%x, %cache_x, %fresh, %threshold, layout="1 3 y64 x64")
    %reference_x: f32[1x3x64x64] = flux.merge(%x, %cache_x, %miss_x, layout="1 3 y64 x64")
    %miss_conv2d: b8[4096] = flux.miss_window(%miss_x, @reads, @reads, size=[64, 64])
    %conv2d = aten.conv2d(%reference_x, @w, @b, padding=[1, 1])

The net sees the reference image: the pixels its caches were computed from. Misses follow the dependence found by
`infer_domains` exactly, so that a row not in its mask holds what dense inference would give. Where caches can move
(`insert_motion_reindex` ran before), rows whose operands moved apart miss too.
Values of the same rows that miss together share one mask. Left alone: constants.
"""

from dataclasses import replace

import torch
from torch.fx import GraphModule, Node

from fluxcompile.geometry import Grid, Layout, is_placed
from fluxcompile.ir import call, constant, inputs
from fluxcompile.ops import flux
from fluxcompile.passes.blocking import cache_of, changed_of, renamed, setting
from fluxcompile.passes.flow import Anything, Flow, Held, Join, Remap, Same, WindowFlow, domain, has_domain, layout
from fluxcompile.passes.moving_apart import (
    Once,
    is_cellwise,
    join_letters,
    keeps_rows,
    moved_apart,
    window_table,
)

aten = torch.ops.aten


def insert_misses(module: GraphModule, attention: str = "exact") -> int:
    """Returns the number of masks. With `attention` "active" a query of global attention misses only by itself."""
    fresh, threshold = setting(module, "fresh"), setting(module, "threshold")
    made: dict[tuple[object, ...], Node] = {}
    nodes = [n for n in module.graph.nodes if has_domain(n)]
    if attention == "active":
        for node in nodes:
            _see_own_queries(node)
    for frame in inputs(module):
        with module.graph.inserting_before(_first_call(module)):
            _insert_input(module, frame, fresh, threshold)
    for node in nodes:
        if node.op == "call_function":
            with module.graph.inserting_before(node):
                flows = [p.flow for p in domain(node).parts] or [domain(node).flow]
                layouts = [p.layout for p in domain(node).parts] or [layout(node)]
                misses = [_miss(module, node, f, at, made) for f, at in zip(flows, layouts, strict=True)]
                node.meta["miss"] = misses if domain(node).parts else misses[0]
            if isinstance(domain(node).flow, Held):
                _see_through(module, node, constant(module, torch.tensor(0.0), "zero"))
            elif node.meta.get("gated"):
                _see_through(module, node, setting(module, "gate"))
    return len(made)


def _see_own_queries(node: Node) -> None:
    flow = node.meta["domain"].flow
    if node.target is not aten.scaled_dot_product_attention.default or not isinstance(flow, Join):
        return
    (query, word), *others = flow.operands
    if not any(is_placed(d) for n, _ in others for d in layout(n).dims[:-2]):
        node.meta["domain"] = replace(domain(node), flow=replace(flow, operands=((query, word),)))


def _see_through(module: GraphModule, node: Node, gate: Node) -> None:
    """Others see only the rows whose value did change."""
    cache = cache_of(module, node)
    with module.graph.inserting_after(node):
        node.meta["changed"] = call(module, flux.gate.default, node, cache, node.meta["miss"], gate, str(layout(node)))


def _first_call(module: GraphModule) -> Node:
    """Where work begins: after what only prepares the motion."""
    ready = {n for n in module.graph.nodes if n.op == "call_function" and not has_domain(n)}
    nodes: list[Node] = list(module.graph.nodes)
    return next(n for n in nodes if n.op in ("call_function", "output") and n not in ready)


def _insert_input(module: GraphModule, frame: Node, fresh: Node, threshold: Node) -> None:
    text = str(layout(frame))
    cache = cache_of(module, frame)
    miss = call(module, flux.miss_input.default, frame, cache, fresh, threshold, text)
    reference = call(module, flux.merge.default, frame, cache, miss, text)
    for key in ("domain", "shift", "source"):
        if key in frame.meta:
            reference.meta[key] = frame.meta[key]
    frame.meta["miss"] = reference.meta["miss"] = miss
    frame.replace_all_uses_with(reference, delete_user_cb=lambda n: n not in (miss, reference))
    for user in reference.users:
        if has_domain(user):
            user.meta["domain"] = renamed(domain(user), frame, reference)
    cached = next(i for i, (c, v) in enumerate(module.meta["caches"]) if v is frame)
    module.meta["caches"][cached] = (module.meta["caches"][cached][0], reference)


def _miss(module: GraphModule, node: Node, flow: Flow | None, at: Layout, made: dict[tuple[object, ...], Node]) -> Node:
    if flow is None:  # a part of a tuple
        source, index = node.args
        assert isinstance(source, Node)
        misses: list[Node] = source.meta["miss"]
        return misses[index]  # type: ignore[index]
    if isinstance(flow, Held):
        return changed_of(flow.source)

    def once(target: object, *args: object) -> Node:
        key = (target, *map(_key, args))
        if key not in made:
            made[key] = call(module, target, *args)
        return made[key]

    miss = _flowed(module, flow, at, once)
    if "shift" in node.meta:
        apart = moved_apart(module, node, flow, at, once)
        if apart is not None:
            miss = once(aten.logical_or.default, miss, apart)
    if node.meta.get("limited"):
        miss = _limited(module, miss, at, once)
    return miss


def _limited(module: GraphModule, miss: Node, at: Layout, once: Once) -> Node:
    """The mask within reach of the pixels that changed (see `limit_spread`)."""
    changed, frame, several = _frame_mask(module, once)
    near = once(flux.reach.default, changed, setting(module, "radius"), frame)

    def limited(part: Node, grid: Grid) -> Node:
        scale, origin = [float(s) for s in grid.scale], [float(o) for o in grid.origin]
        if several:
            scale = [n / m for n, m in zip(frame, (grid.h, grid.w), strict=True)]
            origin = [(s - 1) / 2 for s in scale]
        return once(flux.limit.default, part, near, [grid.h, grid.w], frame, scale, origin)

    if not at.chain:
        return limited(miss, at.grid)
    parts, first = [], 0
    for rows, grid in at.chain.segments:
        table = constant(module, torch.arange(first, first + rows), f"rows_{rows}")
        part = once(flux.miss_remap.default, miss, table)
        parts.append(limited(part, grid) if grid and not any(grid.turn) else part)
        first += rows
    return parts[0] if len(parts) == 1 else once(aten.cat.default, parts)


def _frame_mask(module: GraphModule, once: Once) -> tuple[Node, list[int], bool]:
    """The pixels that changed in any image, the size of the finest, and whether there are several."""
    images = [n for n in inputs(module) if not layout(n).is_global]
    images.sort(key=lambda n: -layout(n).grid.cells)
    finest = layout(images[0]).grid
    masks: list[Node] = [images[0].meta["miss"]]
    for image in images[1:]:
        grid = layout(image).grid
        y, x = (torch.arange(n) * m // n for n, m in ((finest.h, grid.h), (finest.w, grid.w)))
        rows = constant(module, (y[:, None] * grid.w + x).reshape(-1), f"under_{grid.h}x{grid.w}")
        masks.append(once(flux.miss_remap.default, image.meta["miss"], rows))
    if len(masks) == 1:
        return masks[0], [finest.h, finest.w], False
    text = f"y{finest.h} x{finest.w}"
    words = " ".join(["ab"] * len(masks))
    joined = once(flux.miss_join.default, masks, f"{words} -> ab", [text] * len(masks), text)
    return joined, [finest.h, finest.w], True


def _key(value: object) -> object:
    return tuple(map(_key, value)) if isinstance(value, list | tuple) else value


def _flowed(module: GraphModule, flow: Flow, at: Layout, once: Once) -> Node:
    match flow:
        case Same(source) | Held(source):
            return changed_of(source)
        case Anything(()):
            return constant(module, torch.zeros(at.rows, dtype=torch.bool), f"never_{at.rows}")
        case Anything(sources):
            misses = list(dict.fromkeys(changed_of(s) for s in sources))
            if len(misses) == 1 and at.rows == 1 and misses[0].meta["val"].shape[0] == 1:
                return misses[0]
            return once(flux.miss_any.default, misses, at.rows)
        case Remap(sources, rows):
            misses = [changed_of(s) for s in sources]
            joined = misses[0] if len(misses) == 1 else once(aten.cat.default, misses)
            table = constant(module, torch.from_numpy(rows.copy()), f"rows_{rows.size}")
            return once(flux.miss_remap.default, joined, table)
        case WindowFlow(source, seen, y, x):
            miss = as_map(once, changed_of(source), layout(source), seen)
            if is_cellwise(flow):
                return miss
            reads = [window_table(module, w.table()) for w in (y, x)]
            return once(flux.miss_window.default, miss, *reads, [seen.grid.h, seen.grid.w])
        case Join(operands, out, _, _):
            pairs = [(changed_of(n), word, layout(n)) for n, word in operands]
            if all(keeps_rows(word, out, was, at) for _, word, was in pairs) and len({m for m, _, _ in pairs}) == 1:
                return pairs[0][0]
            unique = list(dict.fromkeys((m, w, str(was)) for m, w, was in pairs))
            letters = join_letters([w for _, w, _ in unique], out)
            return once(flux.miss_join.default, [m for m, _, _ in unique], letters, [t for _, _, t in unique], str(at))


def as_map(once: Once, miss: Node, was: Layout, seen: Layout) -> Node:
    """The mask of a value seen as a map of coarser or finer cells."""
    if was.grid == seen.grid:
        return miss
    word = "abcdefgh"[: len(was.dims)]
    return once(flux.miss_join.default, [miss], f"{word} -> {word}", [str(was)], str(seen))
