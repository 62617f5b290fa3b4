"""Recompute element-wise ops, and norms along channels, only where they miss.

    %y = aten.silu(%x)
 ->
    %g = flux.halo_gather(%x, %tiles, dims=[2, 3], step=[4, 4], start=[0, 0], extent=[4, 4])
    %s = aten.silu(%g)
    %y = flux.tile_scatter(%s, %cache_y, %tiles, dims=[2, 3], size=[4, 4])

On tokens the gather is an `index_select` along the dimension that walks the map. Left alone: values that are opaque or
have no place, norms over places, and ops that only move data (they cost no arithmetic).
"""

import torch
from torch.fx import GraphModule

from fluxcompile.ir import op_name
from fluxcompile.passes.blocking import block_join
from fluxcompile.passes.flow import Join, has_domain
from fluxcompile.passes.infer_domains import RULES, along_dim, by_channel, glu, layer_norm, pointwise

aten = torch.ops.aten
MOVES = {"expand", "expand_as", "broadcast_to", "zeros_like", "ones_like"}
POINTWISE = {
    name for name, rule in RULES.items() if rule in (pointwise, by_channel, along_dim, glu, layer_norm) and name not in MOVES
}


def cache_pointwise(module: GraphModule) -> int:
    count = 0
    for node in list(module.graph.nodes):
        if node.op == "call_function" and has_domain(node) and isinstance(node.meta["domain"].flow, Join):
            if op_name(node.target).removeprefix("aten.") in POINTWISE:
                count += block_join(module, node)
    return count
