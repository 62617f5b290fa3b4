"""Where the places of ops go that lay data out anew: reshapes, permutations, concatenations (see `infer_domains`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from fluxcompile.geometry import Chain, Grid, Layout, free, is_placed
from fluxcompile.ir import argument, op_name, operand, shape
from fluxcompile.passes.flow import Domain, Remap, Same, has_domain, layout
from fluxcompile.passes.rules import LETTERS, Rule, joined, row_major, with_other

aten = torch.ops.aten

RESHAPE = ["_unsafe_view", "flatten", "reshape", "reshape_as", "squeeze", "unflatten", "unsqueeze", "view", "view_as"]


def reshape(node: Node) -> Domain | None:
    found = layout(operand(node)).reshape(shape(node))
    return Domain(found, Same(operand(node))) if found else None


def _permuted(node: Node, order: Sequence[int]) -> Domain:
    return Domain(layout(operand(node)).permute(order), Same(operand(node)))


def permute(node: Node) -> Domain | None:
    rank = len(shape(node))
    return _permuted(node, [d % rank for d in argument(node, "dims")])


def transpose(node: Node) -> Domain | None:
    rank = len(shape(node))
    order = list(range(rank))
    name = op_name(node.target)
    axes: Any = node.args[1:3] if len(node.args) > 2 else ((0, 1) if name == "aten.t" else (-2, -1))
    a, b = (d % rank for d in axes)
    order[a], order[b] = b, a
    return _permuted(node, order)


def movedim(node: Node) -> Domain | None:
    source = operand(node)
    rank = len(shape(source))
    order = torch.empty(*range(1, rank + 1), device="meta").movedim(*node.args[1:3]).shape  # type: ignore[arg-type]
    return _permuted(node, [s - 1 for s in order])


def pixel_shuffle(node: Node) -> Domain | None:
    source, r = operand(node), argument(node, "upscale_factor")
    *b, c, h, w = shape(source)
    n = len(b)
    found = layout(source).reshape((*b, c // r**2, r, r, h, w))
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    found = found.permute(order).reshape(shape(node)) if found else None
    return Domain(found, Same(source)) if found else None


def pixel_unshuffle(node: Node) -> Domain | None:
    source, r = operand(node), argument(node, "downscale_factor")
    *b, c, h, w = shape(source)
    n = len(b)
    found = layout(source).reshape((*b, c, h // r, r, w // r, r))
    found = found.permute([*range(n), n, n + 2, n + 4, n + 1, n + 3]).reshape(shape(node)) if found else None
    return Domain(found, Same(source)) if found else None


def cat(node: Node) -> Domain | None:
    tensors = list(node.args[0])  # type: ignore[arg-type]
    dim = (argument(node, "dim") or 0) % len(shape(node))
    return _laid_along(node, [t for t in tensors if isinstance(t, Node)], dim)


def _laid_along(node: Node, tensors: list[Node], dim: int) -> Domain | None:
    placed = [t for t in tensors if has_domain(t)]
    out = LETTERS[: len(shape(node))]
    if not any(is_placed(layout(t).dims[dim]) for t in placed):
        words = [(t, with_other(out, dim)) for t in tensors]
        return joined(words, out, shape(node), independent=out.replace(out[dim], ""))
    return _chained(node, tensors, dim)


def _chained(node: Node, tensors: list[Node], dim: int) -> Domain | None:
    segments: list[tuple[int, Grid | None]] = []
    rows: list[int] = []
    sources: list[Node] = []
    at = 0
    for t in tensors:
        n = shape(t)[dim]
        if not has_domain(t):
            segments.append((n, None))
            rows += [-1] * n
            continue
        was = layout(t)
        here = was.dims[dim]
        if any(is_placed(d) for i, d in enumerate(was.dims) if i != dim):
            return None
        sources.append(t)
        if isinstance(here, Chain):
            segments += here.segments
            rows += range(at, at + n)
        elif was.is_global:
            segments.append((n, None))
            rows += [at] * n
        elif here == row_major(was.grid):
            segments.append((n, was.grid))
            rows += range(at, at + n)
        else:
            return None
        at += was.rows
    dims = [free(s) for s in shape(node)]
    chain = Chain(tuple(segments))
    found = Layout(Grid(1, 1), (*dims[:dim], chain, *dims[dim + 1 :]))
    return Domain(found, Remap(tuple(sources), np.asarray(rows, dtype=np.int64)))


def stack(node: Node) -> Domain | None:
    tensors = [t for t in node.args[0] if isinstance(t, Node)]  # type: ignore[union-attr]
    size = shape(node)
    dim = (argument(node, "dim") or 0) % len(size)
    out = LETTERS[: len(size)]
    inner = out[:dim] + out[dim + 1 :]
    return joined([(t, inner) for t in tensors], out, size, independent=inner)


def repeat(node: Node) -> Domain | None:
    source, out = operand(node), shape(node)
    size = (1,) * (len(out) - len(shape(source))) + shape(source)
    word = "".join(LETTERS[i] if s == o else LETTERS[i].upper() for i, (s, o) in enumerate(zip(size, out, strict=True)))
    word = word[len(out) - len(shape(source)) :]
    if any(is_placed(d) and c.isupper() for d, c in zip(layout(source).dims, word, strict=True)):
        return None
    letters = LETTERS[: len(out)]
    kept = "".join(c for c in word if c.islower())
    return joined([(source, word)], letters, out, independent=kept)


def repeat_interleave(node: Node) -> Domain | None:
    dim = argument(node, "dim")
    source = operand(node)
    if dim is None or is_placed(layout(source).dims[dim % len(shape(source))]):
        return None
    out = LETTERS[: len(shape(node))]
    dim %= len(out)
    return joined([(source, with_other(out, dim))], out, shape(node), independent=out.replace(out[dim], ""))


MOVES: dict[str, Rule] = {
    **dict.fromkeys(RESHAPE, reshape),
    "permute": permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "t", "mT", "adjoint"), transpose),
    "movedim": movedim,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    "stack": stack,
    **dict.fromkeys(("repeat", "tile"), repeat),
    "repeat_interleave": repeat_interleave,
}
"""The rules of this file by ATen name, without overload."""
