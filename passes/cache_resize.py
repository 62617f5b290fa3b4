"""Recompute a resize only in tiles that miss.

    %y = aten.upsample_nearest2d(%x, scale_factors=[2.0, 2.0])
 ->
    %g = flux.halo_gather(%x, %tiles, dims=[2, 3], step=[4, 4], start=[0, 0], extent=[4, 4])
    %u = aten.upsample_nearest2d(%g, output_size=[8, 8])
    %y = flux.tile_scatter(%u, %cache_y, %tiles, dims=[2, 3], size=[8, 8])

That is nearest by a whole factor. Every other linear resize (bilinear, bicubic, any factor, corners aligned or not) is
separable: `flux.resample` reads the taps of each output and weighs them.
Left alone: batches, values that are opaque or have no place.
"""

import math
from typing import Any

import torch
from torch.fx import GraphModule, Node

from fluxcompile.geometry import matrix_window
from fluxcompile.ir import call, constant, operand, shape
from fluxcompile.ops import flux
from fluxcompile.passes.blocking import finish_tiles, gather_tiles, tile_list, tile_of, uncut
from fluxcompile.passes.flow import WindowFlow, domain
from fluxcompile.passes.rules_window import RESIZES, resize_matrix

aten = torch.ops.aten


def cache_resize(module: GraphModule) -> int:
    targets = [getattr(getattr(aten, name), o) for name in RESIZES for o in getattr(aten, name).overloads()]
    count = 0
    for node in uncut(module, targets):
        if not isinstance(domain(node).flow, WindowFlow):
            continue
        source = operand(node)
        factors = [o // i for o, i in zip(shape(node)[2:], shape(source)[2:], strict=True)]
        matrices = resize_matrix(node, 0), resize_matrix(node, 1)
        if shape(node)[0] > 1:
            continue
        if all(_repeats(m, f) for m, f in zip(matrices, factors, strict=True)):
            _repeat(module, node, source, factors)
        else:
            resample(module, node, matrices)
        count += 1
    return count


def _repeats(matrix: Any, factor: int) -> bool:
    """Each input cell is repeated `factor` times."""
    n_out, n_in = matrix.shape
    return (
        n_out == n_in * factor
        and bool((matrix.argmax(1) == torch.arange(n_out).numpy() // factor).all())
        and bool((matrix.max(1) == 1).all())
    )


def _repeat(module: GraphModule, node: Node, source: Node, factors: list[int]) -> None:
    tile = [math.lcm(t, f) for t, f in zip(tile_of(node), factors, strict=True)]
    step = [t // f for t, f in zip(tile, factors, strict=True)]
    tiles = tile_list(module, node, tile)
    halo = gather_tiles(module, node, source, tiles, [2, 3], step, [0, 0], step)
    with module.graph.inserting_before(node):
        packed = call(module, aten.upsample_nearest2d.vec, halo, tile, None, path=node.meta.get("path", ""))
    finish_tiles(module, node, packed, tiles, [2, 3], tile)


def resample(module: GraphModule, node: Node, matrices: tuple[Any, Any]) -> None:
    """Any separable linear map, given as a matrix (n_out, n_in) for each axis."""
    source, tile = operand(node), list(tile_of(node))
    tiles = tile_list(module, node, tile)
    with module.graph.inserting_before(node):
        tables = []
        for matrix in matrices:
            taps = torch.from_numpy(matrix_window(matrix).table())
            weights = torch.from_numpy(matrix).gather(1, taps.clamp(min=0)) * (taps >= 0)
            tables.append(constant(module, taps, f"taps_{matrix.shape[0]}_{matrix.shape[1]}"))
            value = weights.to(node.meta["val"].dtype)
            tables.append(constant(module, value, f"weights_{matrix.shape[0]}_{matrix.shape[1]}"))
        packed = call(module, flux.resample.default, source, tiles, *tables, tile, path=node.meta.get("path", ""))
    finish_tiles(module, node, packed, tiles, [2, 3], tile)
