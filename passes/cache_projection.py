"""Recompute products and reductions only in the tokens or tiles that miss.

    %y: f32[1x196x384] = aten.linear(%x, @w, @b)
 ->
    %rows = flux.rows(%miss_y, %fresh, layout="1 y14.x14 384", dim=1)
    %g = aten.index_select(%x, dim=1, %rows)
    %p = aten.linear(%g, @w, @b)
    %y = flux.row_scatter(%p, %cache_y, %rows, dim=1)

Linear layers, matrix products and einsums whose output keeps places, 1x1 convolutions of tokens, and sums or means
along channels. A product of queries and keys keeps the places of the queries. Left alone: what mixes every place.
"""

from torch.fx import GraphModule

from fluxcompile.ir import op_name
from fluxcompile.passes.blocking import block_join
from fluxcompile.passes.flow import Join, has_domain
from fluxcompile.passes.infer_domains import RULES, add_product, conv1d, einsum, linear, matmul, reduce

PRODUCTS = {name for name, rule in RULES.items() if rule in (linear, matmul, add_product, einsum, conv1d, reduce)}


def cache_projection(module: GraphModule) -> int:
    count = 0
    for node in list(module.graph.nodes):
        if node.op == "call_function" and has_domain(node) and isinstance(node.meta["domain"].flow, Join):
            if op_name(node.target).removeprefix("aten.") in PRODUCTS:
                count += block_join(module, node)
    return count
