"""What the rules of `infer_domains` are made of: letters, and how an op with element-wise dependence keeps places.

A rule takes a node and gives its domain, or None for what it cannot follow.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fluxcompile.geometry import (
    Dim,
    Factor,
    Grid,
    Layout,
    dim_size,
    free,
    global_layout,
    is_placed,
)
from fluxcompile.ir import argument, operand, shape
from fluxcompile.passes.flow import Anything, Domain, Join, has_domain, layout

aten = torch.ops.aten

Rule = Callable[[Node], "Domain | None"]
LETTERS = "abcdefghijklmnop"
"""The letters of an output's dimensions, in order."""


def letters_of(size: Sequence[int], out: Sequence[int]) -> str:
    """The word of an operand broadcast to `out`: capitals where it is widened."""
    skip = len(out) - len(size)
    return "".join(LETTERS[skip + i] if s == out[skip + i] else LETTERS[skip + i].upper() for i, s in enumerate(size))


def joined(
    words: Sequence[tuple[Node, str]], out: str, size: Sequence[int], *, lead: Node | None = None, independent: str = ""
) -> Domain:
    """The domain of an op with element-wise dependence; `lead` names the operand whose places the output keeps."""
    placed = [(n, w) for n, w in words if has_domain(n)]
    constants = tuple((n, w) for n, w in words if not has_domain(n))
    flow = Join(tuple(placed), out, constants, independent or out)
    best: Layout | None = None
    for n, word in sorted(placed, key=lambda p: p[0] is not lead):
        found = kept_places(layout(n), word, out, size)
        if best is None or (found.rows > best.rows and lead is None):
            best = found
        if lead is not None and not best.is_global:
            break
    return Domain(best or global_layout(size), flow)


def kept_places(source: Layout, word: str, out: str, size: Sequence[int]) -> Layout:
    """The places of an operand that reach the output."""
    dims: list[Dim] = []
    for letter, s in zip(out, size, strict=True):
        at = source.dims[word.index(letter)] if letter in word else free(s)
        dims.append(at if dim_size(at) == s else free(s))
    lost = [d for d, letter in zip(source.dims, word, strict=True) if is_placed(d) and letter not in out]
    kept = Layout(source.grid, tuple(dims))
    if source.chain and not kept.chain:
        return global_layout(size)
    if not lost:
        return kept
    return kept.simplified() or global_layout(size)


def dims_of(node: Node, name: str = "dim") -> list[int]:
    """A dim argument as sorted non-negative numbers; all dimensions where it is missing."""
    rank = len(shape(operand(node)))
    try:
        value = argument(node, name)
    except KeyError:
        value = None
    if value is None or value == []:
        return list(range(rank))
    return sorted(d % rank for d in ([value] if isinstance(value, int) else value))


def with_other(word: str, dim: int) -> str:
    return word[:dim] + word[dim].upper() + word[dim + 1 :]


def row_major(grid: Grid) -> tuple[Factor, ...]:
    return tuple(f for f in (Factor("y", grid.h), Factor("x", grid.w)) if f.size > 1)


def pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def anything(node: Node, sources: Sequence[Node], reason: str) -> Domain:
    value = node.meta["val"]
    flow = Anything(tuple(sources))
    if isinstance(value, Tensor):
        return Domain(global_layout(value.shape), flow, reason)
    parts = tuple(Domain(global_layout(v.shape), flow, reason) for v in value)
    return Domain(global_layout(()), flow, reason, parts)
