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

import torch
from torch.fx import GraphModule, Node

from fluxcompile.geometry import Layout, is_placed
from fluxcompile.ir import call, constant, inputs
from fluxcompile.ops import flux
from fluxcompile.passes.blocking import cache_of, changed_of, renamed, setting
from fluxcompile.passes.flow import Anything, Flow, Held, Join, Remap, Same, WindowFlow, domain, has_domain, layout

aten = torch.ops.aten


def insert_misses(module: GraphModule) -> int:
    """Returns the number of masks."""
    fresh, threshold = setting(module, "fresh"), setting(module, "threshold")
    made: dict[tuple[object, ...], Node] = {}
    nodes = [n for n in module.graph.nodes if has_domain(n)]
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


def _see_through(module: GraphModule, node: Node, gate: Node) -> None:
    """Others see only the rows whose value did change."""
    cache = cache_of(module, node)
    with module.graph.inserting_after(node):
        node.meta["changed"] = call(module, flux.gate.default, node, cache, node.meta["miss"], gate, str(layout(node)))


def _first_call(module: GraphModule) -> Node:
    """Where work begins: after what only prepares the motion."""
    ready = {n for n in module.graph.nodes if n.op == "call_function" and not has_domain(n)}
    return next(n for n in module.graph.nodes if n.op in ("call_function", "output") and n not in ready)


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
        return source.meta["miss"][index]  # type: ignore[no-any-return]
    if isinstance(flow, Held):
        return changed_of(flow.source)

    def once(target: object, *args: object) -> Node:
        key = (target, *map(_key, args))
        if key not in made:
            made[key] = call(module, target, *args)
        return made[key]

    miss = _flowed(module, flow, at, once)
    if "shift" in node.meta:
        apart = _apart(module, node, flow, at, once)
        if apart is not None:
            miss = once(aten.logical_or.default, miss, apart)
    if node.meta.get("limited"):
        miss = _limited(module, miss, at, once)
    return miss


def _limited(module: GraphModule, miss: Node, at: Layout, once: object) -> Node:
    """The mask within reach of the pixels that changed (see `limit_spread`)."""
    assert callable(once)
    (image,) = [n for n in inputs(module) if not layout(n).is_global]
    frame = [layout(image).grid.h, layout(image).grid.w]
    near = once(flux.reach.default, image.meta["miss"], setting(module, "radius"), frame)
    scale, origin = _scale(at), [float(o) for o in at.grid.origin]
    return once(flux.limit.default, miss, near, [at.grid.h, at.grid.w], frame, scale, origin)  # type: ignore[no-any-return]


def _key(value: object) -> object:
    return tuple(map(_key, value)) if isinstance(value, list | tuple) else value


def _flowed(module: GraphModule, flow: Flow, at: Layout, once: object) -> Node:
    assert callable(once)
    match flow:
        case Same(source) | Held(source):
            return changed_of(source)
        case Anything(sources):
            misses = list(dict.fromkeys(changed_of(s) for s in sources))
            if len(misses) == 1 and at.rows == 1 and misses[0].meta["val"].shape[0] == 1:
                return misses[0]
            return once(flux.miss_any.default, misses, at.rows)  # type: ignore[no-any-return]
        case Remap(sources, rows):
            misses = [changed_of(s) for s in sources]
            joined = misses[0] if len(misses) == 1 else once(aten.cat.default, misses)
            table = constant(module, torch.from_numpy(rows.copy()), f"rows_{rows.size}")
            return once(flux.miss_remap.default, joined, table)  # type: ignore[no-any-return]
        case WindowFlow(source, seen, y, x):
            miss = as_map(once, changed_of(source), layout(source), seen)
            if is_cellwise(flow):
                return miss
            reads = [window_table(module, w.table()) for w in (y, x)]
            return once(flux.miss_window.default, miss, *reads, [seen.grid.h, seen.grid.w])  # type: ignore[no-any-return]
        case Join(operands, out, _, _):
            pairs = [(changed_of(n), word, layout(n)) for n, word in operands]
            if all(_keeps_rows(word, out, was, at) for _, word, was in pairs) and len({m for m, _, _ in pairs}) == 1:
                return pairs[0][0]
            unique = list(dict.fromkeys((m, w, str(was)) for m, w, was in pairs))
            letters = " ".join([w for _, w, _ in unique] + ["->", out])
            return once(flux.miss_join.default, [m for m, _, _ in unique], letters, [t for _, _, t in unique], str(at))  # type: ignore[no-any-return]


def is_cellwise(flow: WindowFlow) -> bool:
    """A window that reads only its own cell."""
    return all(w.reads == tuple((i,) for i in range(w.n_in)) for w in (flow.y, flow.x))


def window_table(module: GraphModule, table: object) -> Node:
    """The reads of one axis of a window as a shared constant."""
    assert hasattr(table, "shape")
    return constant(module, torch.from_numpy(table), f"reads_{table.shape[0]}x{table.shape[1]}")


def _keeps_rows(word: str, out: str, was: Layout, now: Layout) -> bool:
    """Whether an operand's rows are the output's, one for one."""
    if was.grid != now.grid or was.rows != now.rows or (was.chain != now.chain):
        return False
    placed = {c: d for c, d in zip(word, was.dims, strict=True) if is_placed(d)}
    return all(c in out and now.dims[out.index(c)] == d for c, d in placed.items())


def as_map(once: object, miss: Node, was: Layout, seen: Layout) -> Node:
    """The mask of a value seen as a map of coarser or finer cells."""
    assert callable(once)
    if was.grid == seen.grid:
        return miss
    word = "abcdefgh"[: len(was.dims)]
    return once(flux.miss_join.default, [miss], f"{word} -> {word}", [str(was)], str(seen))  # type: ignore[no-any-return]


def _scale(at: Layout) -> list[float]:
    """Frame pixels per cell; tokens of several maps have none, so they must stand still."""
    return [1.0, 1.0] if at.chain else [float(s) for s in at.grid.scale]


def _apart(module: GraphModule, node: Node, flow: Flow, at: Layout, once: object) -> Node | None:
    """The rows whose operands moved apart; None where they cannot."""
    assert callable(once)
    own = node.meta["shift"]
    match flow:
        case Same() | Held():
            return None
        case Anything(sources):
            moving = [s.meta["shift"] for s in sources if not layout(s).is_global]
            return once(flux.apart_any.default, moving, at.rows) if moving else None
        case Remap(sources, rows):
            if at.chain or any(layout(s).chain for s in sources):
                return None if _pieces_move_alike(sources, at) else once(
                    flux.apart_any.default, [s.meta["shift"] for s in sources], at.rows
                )  # type: ignore[no-any-return]
            table = constant(module, torch.from_numpy(rows.copy()), f"rows_{rows.size}")
            (source,) = sources
            return once(  # type: ignore[no-any-return]
                flux.apart_remap.default, source.meta["shift"], own, table, _scale(layout(source)), _scale(at)
            )
        case WindowFlow(source, seen, y, x):
            if is_cellwise(flow) and layout(source).grid == at.grid:
                return None
            if layout(source).grid != seen.grid:
                return once(flux.apart_any.default, [source.meta["shift"], own], at.rows)  # type: ignore[no-any-return]
            reads = [window_table(module, w.table()) for w in (y, x)]
            size = [seen.grid.h, seen.grid.w]
            return once(  # type: ignore[no-any-return]
                flux.apart_window.default, source.meta["shift"], own, *reads, size, _scale(seen), _scale(at)
            )
        case Join(operands, out, constants, _):
            sources = [(n.meta["shift"], word, layout(n)) for n, word in operands]
            fixed = [_fixed(module, n, word, out, at) for n, word in constants]
            sources += [f for f in fixed if f is not None]
            if all(shift is own and _keeps_rows(word, out, was, at) for shift, word, was in sources):
                return None
            if at.chain or any(was.chain for _, _, was in sources):
                if all(was.is_global or (s is own and _keeps_rows(word, out, was, at)) for s, word, was in sources):
                    return None
                return once(flux.apart_any.default, [s for s, _, _ in sources], at.rows)  # type: ignore[no-any-return]
            letters = " ".join([_still_placed(w, out, was, at) for _, w, was in sources] + ["->", out])
            scales = [s for _, _, was in sources for s in _scale(was)]
            return once(  # type: ignore[no-any-return]
                flux.apart_join.default,
                [s for s, _, _ in sources],
                letters,
                [str(was) for _, _, was in sources],
                scales,
                own,
                str(at),
                _scale(at),
            )


def _still_placed(word: str, out: str, was: Layout, now: Layout) -> str:
    """The operand's letters, those capital along which its places are no places of the output (keys, say): there it
    must not move at all."""
    return "".join(
        c.upper() if is_placed(d) and c in out and now.dims[out.index(c)] != d else c
        for c, d in zip(word, was.dims, strict=True)
    )


def _pieces_move_alike(sources: tuple[Node, ...], at: Layout) -> bool:
    """Laying maps end to end, or taking one out, moves nothing: each keeps its own grid."""
    inner = [g for s in sources for _, g in _grids(layout(s))]
    return all(g is None or g in inner for _, g in _grids(at))


def _grids(at: Layout) -> list[tuple[int, object]]:
    return list(at.chain.segments) if at.chain else [(at.rows, None if at.is_global else at.grid)]


def _fixed(module: GraphModule, node: Node, word: str, out: str, at: Layout) -> tuple[Node, str, Layout] | None:
    """A constant that differs from place to place stands still where it is."""
    dims = [at.dims[out.index(c)] if c in out else () for c in word]
    if not any(map(is_placed, dims)):
        return None
    still = constant(module, torch.zeros(2, at.rows, dtype=torch.int32), f"still_{at.rows}")
    if at.chain:
        return still, word, Layout(at.grid, tuple(dims))
    return still, word, Layout(at.grid, tuple(dims)).simplified() or at
