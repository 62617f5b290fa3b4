"""Recompute a convolution only in tiles that miss.

    %y = aten.conv2d(%x, @w, @b, stride=[2, 2], padding=[1, 1])
 ->
    %tiles = flux.tiles(%miss_y, %fresh, size=[32, 32], tile=[4, 4])
    %g = flux.halo_gather(%x, %tiles, dims=[2, 3], step=[8, 8], start=[-1, -1], extent=[9, 9])
    %c = aten.conv2d(%g, @w, @b, stride=[2, 2], padding=[0, 0])
    %y = flux.tile_scatter(%c, %cache_y, %tiles, dims=[2, 3], size=[4, 4])

The halo holds what padding held. A transposed convolution reads the inputs its tile is made of and cuts the tile out
of what they give. A 1x1 convolution of tokens becomes a linear layer of rows. Left alone: values that are opaque or
have no place, weights that are computed, grouped convolutions of tokens.
"""

import math

import torch
from torch.fx import GraphModule, Node

from fluxcompile.ir import argument, call, constant, constant_value, operand, shape
from fluxcompile.ops import flux
from fluxcompile.passes.blocking import (
    become,
    cache_of,
    charge,
    finish_tiles,
    gather_tiles,
    row_dim,
    row_list,
    tile_list,
    tile_of,
    uncut,
)
from fluxcompile.passes.flow import Join, WindowFlow, domain
from fluxcompile.passes.rules import pair
from fluxcompile.passes.rules_window import conv_padding

aten = torch.ops.aten
CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding)
CELLS = (aten.conv1d.default, aten.conv1d.padding)


def cache_convolution(module: GraphModule) -> int:
    count = 0
    for node in uncut(module, (*CONVOLUTIONS, *CELLS, aten.conv_transpose2d.input)):
        if isinstance(domain(node).flow, Join):
            count += _block_cells(module, node)
        if not isinstance(domain(node).flow, WindowFlow) or len(shape(node)) != 4:
            continue
        if node.target in CONVOLUTIONS:
            _block(module, node)
        else:
            _block_transposed(module, node)
        count += 1
    return count


def _block_cells(module: GraphModule, node: Node) -> bool:
    """A 1x1 convolution of tokens, as a linear layer of the rows that miss."""
    flow, dim = domain(node).flow, row_dim(node)
    assert isinstance(flow, Join)
    if dim is None or argument(node, "groups") != 1:
        return False
    weight, rank = operand(node, 1), len(shape(node))
    channel = rank - len(shape(weight)) + 1
    last = [d for d in range(rank) if d != channel] + [channel]
    rows = row_list(module, node, dim)
    flat = constant(module, constant_value(module, weight).flatten(1).contiguous(), f"{weight.target}.flat")
    with module.graph.inserting_before(node):
        cells = call(module, aten.index_select.default, operand(node), dim, rows)
        cells = call(module, aten.permute.default, cells, last)
        path = node.meta.get("path", "")
        cells = call(module, aten.linear.default, cells, flat, argument(node, "bias"), path=path)
        charge(node, cells, rows)
        packed = call(module, aten.permute.default, cells, [last.index(d) for d in range(rank)])
    become(module, node, flux.row_scatter.default, packed, cache_of(module, node), rows, dim)
    return True


def _block(module: GraphModule, node: Node) -> None:
    source, weight = operand(node), operand(node, 1)
    tile = list(tile_of(node))
    stride, dilation = pair(argument(node, "stride")), pair(argument(node, "dilation"))
    start = [-p[0] for p in conv_padding(node)]
    extent = [
        (t - 1) * s + (k - 1) * d + 1 for t, s, k, d in zip(tile, stride, shape(weight)[2:], dilation, strict=True)
    ]
    step = [t * s for t, s in zip(tile, stride, strict=True)]
    tiles = tile_list(module, node, tile)
    halo = gather_tiles(module, node, source, tiles, [2, 3], step, start, extent)
    with module.graph.inserting_before(node):
        bias, groups = argument(node, "bias"), argument(node, "groups")
        args = (halo, weight, bias, list(stride), [0, 0], list(dilation), groups)
        packed = call(module, aten.conv2d.default, *args, path=node.meta.get("path", ""))
        charge(node, packed, tiles)
    finish_tiles(module, node, packed, tiles, [2, 3], tile)


def _block_transposed(module: GraphModule, node: Node) -> None:
    source, weight = operand(node), operand(node, 1)
    stride, padding, dilation = (pair(argument(node, n)) for n in ("stride", "padding", "dilation"))
    tile = [math.lcm(t, s) for t, s in zip(tile_of(node), stride, strict=True)]
    start, extent, cut = [], [], []
    for t, s, p, d, k in zip(tile, stride, padding, dilation, shape(weight)[2:], strict=True):
        low = -((d * (k - 1) - p) // s)
        high = (t - 1 + p) // s
        start.append(low)
        extent.append(high - low + 1)
        cut.append(p - low * s)
    step = [t // s for t, s in zip(tile, stride, strict=True)]
    tiles = tile_list(module, node, tile)
    halo = gather_tiles(module, node, source, tiles, [2, 3], step, start, extent)
    with module.graph.inserting_before(node):
        bias, groups = argument(node, "bias"), argument(node, "groups")
        args = (halo, weight, bias, list(stride), [0, 0], [0, 0], groups, list(dilation))
        packed = call(module, aten.conv_transpose2d.input, *args, path=node.meta.get("path", ""))
        charge(node, packed, tiles)
        for dim, (at, t) in enumerate(zip(cut, tile, strict=True), start=2):
            packed = call(module, aten.slice.Tensor, packed, dim, at, at + t)
    finish_tiles(module, node, packed, tiles, [2, 3], tile)
