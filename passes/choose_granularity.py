"""Choose how many cells of each map are recomputed together.

    %conv2d    map 1 64 y80 x80 of 80x80 /8      tile (4, 4)
    %conv2d_1  map 1 512 y20 x20 of 20x20 /32    tile (2, 2)

A tile spans `TILE_PIXELS` frame pixels on every map, so that tiles of different maps lie over each other; at least 2
cells (a single cell would read nine for a 3x3 window), at most 16. An input that is a boundary map counts the frame
pixels of its cells (`meta["pixels"]`). No node changes; maps get `meta["tile"]`.
"""

from torch.fx import GraphModule

from fluxcompile.ir import inputs
from fluxcompile.options import TILE_PIXELS
from fluxcompile.passes.flow import has_domain, layout


def choose_granularity(module: GraphModule) -> int:
    count = 0
    pixels = min((n.meta.get("pixels", 1.0) for n in inputs(module)), default=1.0)
    for node in module.graph.nodes:
        if has_domain(node) and layout(node).map_dims and "tile" not in node.meta:
            y, x = (min(16, max(2, int(TILE_PIXELS / (s * pixels)))) for s in layout(node).grid.scale)
            node.meta["tile"] = (y, x)
            count += 1
    return count
