"""Recompute attention only for windows, or queries, that miss.

    %y: f32[1x6x196x64] = aten.scaled_dot_product_attention(%q, %k, %v)
 ->
    %rows = flux.rows(%miss_y, %fresh, layout="1 6 y14.x14 64", dim=2)
    %g = aten.index_select(%q, dim=2, %rows)
    %a = aten.scaled_dot_product_attention(%g, %k, %v)
    %y = flux.row_scatter(%a, %cache_y, %rows, dim=2)

Attention within windows takes whole windows, whose keys and values lie with them. Global attention takes queries
against all keys, and what its mask holds is a setting:

    exact        a query misses when it or any key or value changed
    incremental  the same, but a query that did not change itself keeps its numerator and denominator and only corrects
                 them by the keys that changed (equal to exact within rounding; `fresh` starts over)
    active       a query misses when it changed itself: an approximation, keys elsewhere are seen late

Left alone: causal attention and values that are opaque or have no place.
"""

import operator

import torch
from torch.fx import GraphModule, Node

from fluxcompile.errors import OptionError
from fluxcompile.geometry import is_placed
from fluxcompile.ir import add_input, argument, call, shape
from fluxcompile.ops import flux
from fluxcompile.passes.blocking import (
    become,
    block_join,
    changed_of,
    charge,
    join_form,
    keep,
    row_dim,
    row_list,
    setting,
    uncut,
)
from fluxcompile.passes.flow import Join, domain, layout

aten = torch.ops.aten
SETTINGS = ("exact", "incremental", "active")


def cache_attention(module: GraphModule, attention: str = "exact") -> int:
    if attention not in SETTINGS:
        raise OptionError(f"attention is {attention!r}; use one of {', '.join(SETTINGS)}")
    count = 0
    for node in uncut(module, (aten.scaled_dot_product_attention.default,)):
        if join_form(node) != "rows":
            continue
        if attention == "incremental" and _is_global(node):
            _correct(module, node)
            count += 1
        else:
            count += block_join(module, node)
    return count


def _is_global(node: Node) -> bool:
    """Queries of one map against keys of the whole map, without a mask, four dimensions, one camera."""
    flow = domain(node).flow
    assert isinstance(flow, Join)
    rows = row_dim(node)
    q, k = argument(node, "query"), argument(node, "key")
    return (
        rows == 2
        and argument(node, "attn_mask") is None
        and not argument(node, "enable_gqa")
        and len(shape(node)) == 4
        and all(is_placed(layout(n).dims[2]) and not is_placed(layout(n).dims[1]) for n in (q, k))
        and layout(k).rows == shape(k)[2]
        and layout(q).rows == shape(q)[2]
    )


def _correct(module: GraphModule, node: Node) -> None:
    """The incremental form: state is the last keys and values and, per query, numerator, denominator and offset."""
    q, k, v = (argument(node, n) for n in ("query", "key", "value"))
    scale = argument(node, "scale")
    scale = shape(q)[-1] ** -0.5 if scale is None else float(scale)
    lists = [row_list(module, n, 2, changed_of(n)) for n in (q, k, v)]
    wide, thin = node.meta["val"], node.meta["val"][..., :1]
    state = [
        add_input(module, f"cache_{node.name}_{tag}", value, "cache")
        for tag, value in (
            ("key", k.meta["val"]),
            ("value", v.meta["val"]),
            ("numerator", wide),
            ("denominator", thin),
            ("offset", thin),
        )
    ]
    with module.graph.inserting_before(node):
        anew = setting(module, "fresh")
        if "shift" in node.meta:  # sums over keys that moved cannot be corrected
            for shift in dict.fromkeys(n.meta["shift"] for n in (q, k, v)):
                anew = call(module, aten.logical_or.default, anew, call(module, aten.any.default, shift))
        path = node.meta.get("path", "")
        sums = call(module, flux.correct_attention.default, q, k, v, *state, *lists, anew, scale, path=path)
        charge(node, sums, *lists)
        parts = [call(module, operator.getitem, sums, i) for i in range(1, 4)]
    become(module, node, operator.getitem, sums, 0)
    for cache, value in zip(state, (k, v, *parts), strict=True):
        keep(module, cache, value)
