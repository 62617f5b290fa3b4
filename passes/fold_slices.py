"""Fold strided slices laid side by side into the convolution that reads them.

    %a = aten.slice(aten.slice(%x, dim=2, start=0, step=2), dim=3, start=0, step=2)       # and %b, %c, %d from 1
    %cat = aten.cat([%a, %b, %c, %d], dim=1)
    %y = aten.conv2d(%cat, @w, @b, padding=[1, 1])                                          # 3 x 3
 ->
    %y = aten.conv2d(%x, @w1, @b, stride=[2, 2], padding=[2, 2])                            # 6 x 6

A "focus" stem: space to depth, then a convolution. Tap (ky, kx) of part (i, j) is tap (2 ky + i, 2 kx + j) of a
convolution of the picture itself; the sums are the same. Left alone: parts that others read, of several values, or that
do not come from whole steps; grouped or dilated convolutions.
"""

from typing import Any

import torch
from torch.fx import GraphModule, Node

from fluxcompile.ir import argument, call, calls, constant, constant_value, is_constant, operand, replace, shape
from fluxcompile.passes.rules import pair

aten = torch.ops.aten


def fold_slices(module: GraphModule) -> int:
    count = 0
    for conv in calls(module, (aten.conv2d.default,)):
        found = _parts(conv)
        if found is None:
            continue
        source, step, starts = found
        weight = constant_value(module, operand(conv, 1))
        stride, padding = pair(argument(conv, "stride")), pair(argument(conv, "padding"))
        with module.graph.inserting_before(conv):
            folded = constant(module, _folded(weight, step, starts), f"{operand(conv, 1).target}_sliced")
            new = call(
                module,
                aten.conv2d.default,
                source,
                folded,
                argument(conv, "bias"),
                [a * s for a, s in zip(stride, step, strict=True)],
                [p * s for p, s in zip(padding, step, strict=True)],
            )
        replace(conv, new)
        module.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
        count += 1
    return count


def _parts(conv: Node) -> tuple[Node, tuple[int, int], list[tuple[int, int]]] | None:
    """(what is sliced, the steps, where each part starts) of a convolution of slices laid along the channels."""
    cat = operand(conv)
    plain = argument(conv, "groups") == 1 and pair(argument(conv, "dilation")) == (1, 1)
    if not plain or cat.target is not aten.cat.default or len(cat.users) != 1 or not is_constant(operand(conv, 1)):
        return None
    parts: list[Any] = list(cat.args[0])  # type: ignore[arg-type]
    if (argument(cat, "dim") or 0) % 4 != 1 or not all(isinstance(p, Node) for p in parts):
        return None
    traced = [_traced(p, cat) for p in parts]
    sources = {t[0] for t in traced if t}
    steps = {t[1] for t in traced if t}
    if None in traced or len(sources) != 1 or len(steps) != 1:
        return None
    (source,), (step,) = sources, steps
    if step == (1, 1) or any(n % s for n, s in zip(shape(source)[2:], step, strict=True)):
        return None
    return source, step, [t[2] for t in traced if t]


def _traced(part: Node, reader: Node) -> tuple[Node, tuple[int, int], tuple[int, int]] | None:
    """(source, steps, starts) of slices along height and width, each taken once, whole from its start."""
    found: dict[int, tuple[int, int]] = {}
    node, user = part, reader
    while node.target is aten.slice.Tensor and len(found) < 2:
        dim = argument(node, "dim") % 4
        size = shape(operand(node))[dim] if len(shape(operand(node))) == 4 else 0
        start, stop, step = slice(argument(node, "start"), argument(node, "end"), argument(node, "step")).indices(size)
        whole = stop == size and 0 <= start < step
        shared = any(u.target is not aten.slice.Tensor for u in node.users if u is not user)
        if dim not in (2, 3) or dim in found or not whole or shared:
            return None
        found[dim] = (start, step)
        node, user = operand(node), node
    if found.keys() != {2, 3}:
        return None
    return node, (found[2][1], found[3][1]), (found[2][0], found[3][0])


def _folded(weight: torch.Tensor, step: tuple[int, int], starts: list[tuple[int, int]]) -> torch.Tensor:
    out, channels, h, w = weight.shape
    each = channels // len(starts)
    folded = torch.zeros(out, each, h * step[0], w * step[1], dtype=weight.dtype)
    for part, (y, x) in zip(weight.split(each, 1), starts, strict=True):
        folded[:, :, y :: step[0], x :: step[1]] += part
    return folded
