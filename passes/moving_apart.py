"""Where operands moved apart, so that a value's moved cache is not what they would give (see `insert_misses`).

In an exact net a cache may move only with everything it was computed from: operands by the same frame pixels, windows
whole and over the edge in the same way, what is mixed or differs by place not at all.
"""

from collections.abc import Callable

import torch
from torch.fx import GraphModule, Node

from fluxcompile.geometry import Layout, is_placed
from fluxcompile.ir import constant
from fluxcompile.ops import flux
from fluxcompile.passes.flow import Anything, Flow, Held, Join, Remap, Same, WindowFlow, layout

Once = Callable[..., Node]
"""Makes a call, or gives the node that already makes it."""


def join_letters(words: list[str], out: str) -> str:
    """The `letters` of a join as its ops take them."""
    return " ".join([w or "_" for w in (*words, "->", out)])


def is_cellwise(flow: WindowFlow) -> bool:
    """A window that reads only its own cell."""
    return all(w.reads == tuple((i,) for i in range(w.n_in)) for w in (flow.y, flow.x))


def window_table(module: GraphModule, table: object) -> Node:
    """The reads of one axis of a window as a shared constant."""
    assert hasattr(table, "shape")
    return constant(module, torch.from_numpy(table), f"reads_{table.shape[0]}x{table.shape[1]}")


def keeps_rows(word: str, out: str, was: Layout, now: Layout) -> bool:
    """Whether an operand's rows are the output's, one for one."""
    if was.grid != now.grid or was.rows != now.rows or (was.chain != now.chain):
        return False
    placed = {c: d for c, d in zip(word, was.dims, strict=True) if is_placed(d)}
    return all(c in out and now.dims[out.index(c)] == d for c, d in placed.items())


def scale_of(at: Layout) -> list[float]:
    """Frame pixels per cell; tokens of several maps have none, so they must stand still."""
    return [1.0, 1.0] if at.chain else [float(s) for s in at.grid.scale]


def moved_apart(module: GraphModule, node: Node, flow: Flow, at: Layout, once: Once) -> Node | None:
    """The rows whose operands moved apart; None where they cannot."""
    own = node.meta["shift"]
    match flow:
        case Same() | Held():
            return None
        case Anything(sources):
            moving = [s.meta["shift"] for s in sources if not layout(s).is_global]
            return once(flux.apart_any.default, moving, at.rows) if moving else None
        case Remap(sources, rows):
            if all(n.meta["source"] is None for n in (node, *sources)):
                return None
            parts = [_source(module, s, layout(s)) for s in sources]
            joined = parts[0] if len(parts) == 1 else once(flux.chain_source.default, parts)
            table = constant(module, torch.from_numpy(rows.copy()), f"rows_{rows.size}")
            return once(flux.apart_remap.default, joined, _source(module, node, at), table)
        case WindowFlow(source, seen, y, x):
            if is_cellwise(flow) and layout(source).grid == at.grid:
                return None
            if layout(source).grid != seen.grid:
                return once(flux.apart_any.default, [source.meta["shift"], own], at.rows)
            reads = [window_table(module, w.table()) for w in (y, x)]
            size = [seen.grid.h, seen.grid.w]
            return once(
                flux.apart_window.default, source.meta["shift"], own, *reads, size, scale_of(seen), scale_of(at)
            )
        case Join(operands, out, constants, _):
            moving = [(n.meta["shift"], word, layout(n)) for n, word in operands]
            fixed = [_fixed(module, n, word, out, at) for n, word in constants]
            moving += [f for f in fixed if f is not None]
            if all(shift is own and keeps_rows(word, out, was, at) for shift, word, was in moving):
                return None
            if at.chain or any(was.chain for _, _, was in moving):
                if all(was.is_global or (s is own and keeps_rows(word, out, was, at)) for s, word, was in moving):
                    return None
                return once(flux.apart_any.default, [s for s, _, _ in moving], at.rows)
            letters = join_letters([_still_placed(w, out, was, at) for _, w, was in moving], out)
            scales = [s for _, _, was in moving for s in scale_of(was)]
            return once(
                flux.apart_join.default,
                [s for s, _, _ in moving],
                letters,
                [str(was) for _, _, was in moving],
                scales,
                own,
                str(at),
                scale_of(at),
            )


def _still_placed(word: str, out: str, was: Layout, now: Layout) -> str:
    """The operand's letters, those capital along which its places are no places of the output (keys, say): there it
    must not move at all.
    """
    return "".join(
        c.upper() if is_placed(d) and c in out and now.dims[out.index(c)] != d else c
        for c, d in zip(word, was.dims, strict=True)
    )


def _source(module: GraphModule, node: Node, at: Layout) -> Node:
    """The rows a value's cache is read from; each its own where it never moves."""
    found = node.meta["source"]
    return found if isinstance(found, Node) else constant(module, torch.arange(at.rows), f"rows_{at.rows}")


def _fixed(module: GraphModule, node: Node, word: str, out: str, at: Layout) -> tuple[Node, str, Layout] | None:
    """A constant that differs from place to place stands still where it is."""
    dims = [at.dims[out.index(c)] if c in out else () for c in word]
    if not any(map(is_placed, dims)):
        return None
    still = constant(module, torch.zeros(2, at.rows, dtype=torch.int32), f"still_{at.rows}")
    return still, word, Layout(at.grid, tuple(dims))
