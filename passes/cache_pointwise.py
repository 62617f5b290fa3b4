"""Recompute element-wise ops, and norms along channels, only where they miss.

    %y = aten.silu(%x)
 ->
    %g = flux.halo_gather(%x, %tiles, dims=[2, 3], step=[4, 4], start=[0, 0], extent=[4, 4])
    %s = aten.silu(%g)
    %y = flux.tile_scatter(%s, %cache_y, %tiles, dims=[2, 3], size=[4, 4])

On tokens the gather is an `index_select` along the dimension that walks the map. Left alone: values that are opaque or
have no place, norms over places, and ops that only move data (they cost no arithmetic).
"""

from torch.fx import GraphModule

from fluxcompile.passes.blocking import block_join, joins
from fluxcompile.passes.rules_join import JOINS, along_dim, by_channel, glu, layer_norm, pointwise

RULES = (pointwise, by_channel, along_dim, glu, layer_norm)
MOVES = {"expand", "expand_as", "broadcast_to", "zeros_like", "ones_like"}
POINTWISE = {name for name, rule in JOINS.items() if rule in RULES} - MOVES


def cache_pointwise(module: GraphModule) -> int:
    return sum(block_join(module, node) for node in joins(module, POINTWISE))
