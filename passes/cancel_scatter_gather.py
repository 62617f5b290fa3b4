"""A value that is scattered and gathered again over the same tiles never needs its map.

    %m = flux.tile_scatter(%c, %cache_m, %tiles, dims=[2, 3], size=[4, 4])
    %g = flux.halo_gather(%m, %tiles, dims=[2, 3], step=[4, 4], start=[0, 0], extent=[4, 4])
    %s = aten.silu(%g)
 ->
    %s = aten.silu(%c)

The same for rows. Where nobody else reads the map, its cache goes too. Left alone: a gather with a halo, or over other
tiles. A tile's cells beyond the edge of the map hold other values than the gather's fill; nothing reads them.
"""

import torch
from torch.fx import GraphModule, Node

from fluxcompile.ir import calls, clean, operand, output
from fluxcompile.ops import flux

aten = torch.ops.aten


def cancel_scatter_gather(module: GraphModule) -> int:
    count = 0
    for gather in calls(module, (flux.halo_gather.default, aten.index_select.default)):
        scatter = gather.args[0]
        if isinstance(scatter, Node) and _undoes(gather, scatter):
            gather.replace_all_uses_with(operand(scatter))
            module.graph.erase_node(gather)
            count += 1
    drop_unread_caches(module)
    return count


def _undoes(gather: Node, scatter: Node) -> bool:
    if gather.target is aten.index_select.default:
        if scatter.target is not flux.row_scatter.default:
            return False
        _, _, rows, dim = scatter.args
        return (dim, rows) == tuple(gather.args[1:])
    if scatter.target is not flux.tile_scatter.default:
        return False
    _, _, tiles, dims, size = scatter.args
    _, over, along, step, start, extent = gather.args[:6]
    return over is tiles and along == dims and step == size and extent == size and start == [0, 0]


def drop_unread_caches(module: GraphModule) -> None:
    """Caches go when only their own scatter reads them and only the next frame reads the scatter."""
    outputs, scatters = output(module).args[0], (flux.tile_scatter.default, flux.row_scatter.default)
    output(module).args = (outputs, [v for _, v in module.meta["caches"] if v.target not in scatters])
    clean(module)
    kept = [(cache, value) for cache, value in module.meta["caches"] if not value._erased]
    module.meta["caches"] = kept
    output(module).args = (outputs, [value for _, value in kept])
    used = {cache for cache, _ in kept}
    for node in list(module.graph.nodes):
        if node.op == "placeholder" and node.meta.get("role") == "cache" and node not in used:
            module.graph.erase_node(node)
    clean(module)
