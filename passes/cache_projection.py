"""Recompute products and reductions only in the tokens or tiles that miss.

    %y: f32[1x196x384] = aten.linear(%x, @w, @b)
 ->
    %rows = flux.rows(%miss_y, %fresh, layout="1 y14.x14 384", dim=1)
    %g = aten.index_select(%x, dim=1, %rows)
    %p = aten.linear(%g, @w, @b)
    %y = flux.row_scatter(%p, %cache_y, %rows, dim=1)

Linear layers, matrix products and einsums whose output keeps places, and sums or means along channels. A product of
queries and keys keeps the places of the queries. Left alone: what mixes every place.
"""

from torch.fx import GraphModule

from fluxcompile.passes.blocking import block_join, joins
from fluxcompile.passes.rules_join import JOINS, add_product, einsum, linear, matmul, reduce

RULES = (linear, matmul, add_product, einsum, reduce)
PRODUCTS = {name for name, rule in JOINS.items() if rule in RULES}


def cache_projection(module: GraphModule) -> int:
    return sum(block_join(module, node) for node in joins(module, PRODUCTS))
