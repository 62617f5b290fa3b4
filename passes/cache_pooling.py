"""Recompute pooling only in tiles that miss.

    %y = aten.max_pool2d(%x, kernel_size=[3, 3], stride=[2, 2], padding=[1, 1])
 ->
    %g = flux.halo_gather(%x, %tiles, dims=[2, 3], step=[8, 8], start=[-1, -1], extent=[9, 9], fill=-inf)
    %p = aten.max_pool2d(%g, kernel_size=[3, 3], stride=[2, 2], padding=[0, 0])
    %y = flux.tile_scatter(%p, %cache_y, %tiles, dims=[2, 3], size=[4, 4])

Average pooling whose border cells divide by fewer (padding not counted, ceil mode, adaptive) is separable and linear:
it becomes `flux.resample` with its own weights. Left alone: max pooling that returns indices, adaptive max pooling,
border-dividing averages of a batch, values that are opaque or have no place.
"""

from typing import Any

import torch
from torch.fx import GraphModule, Node

from fluxcompile.ir import argument, call, operand, shape
from fluxcompile.passes.blocking import finish_tiles, gather_tiles, tile_list, tile_of, uncut
from fluxcompile.passes.cache_resize import resample
from fluxcompile.passes.flow import WindowFlow, domain
from fluxcompile.passes.rules_window import adaptive_matrix, pool_arguments

aten = torch.ops.aten
AVERAGES = (aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default)


def cache_pooling(module: GraphModule) -> int:
    count = 0
    for node in uncut(module, (aten.max_pool2d.default, *AVERAGES)):
        if not isinstance(domain(node).flow, WindowFlow) or len(shape(node)) != 4:
            continue
        if node.target is aten.max_pool2d.default:
            _block(module, node, fill=-torch.inf)
        elif node.target is aten.avg_pool2d.default and is_even(node):
            _block(module, node, fill=0.0)
        elif shape(node)[0] > 1:
            continue
        else:
            resample(module, node, (pooling_matrix(node, 0), pooling_matrix(node, 1)))
        count += 1
    return count


def _block(module: GraphModule, node: Node, fill: float) -> None:
    source, tile = operand(node), list(tile_of(node))
    kernel, stride, padding, dilation = pool_arguments(node)
    extent = [(t - 1) * s + (k - 1) * d + 1 for t, s, k, d in zip(tile, stride, kernel, dilation, strict=True)]
    step, start = [t * s for t, s in zip(tile, stride, strict=True)], [-p for p in padding]
    tiles = tile_list(module, node, tile)
    halo = gather_tiles(module, node, source, tiles, [2, 3], step, start, extent, fill)
    spans = [list(kernel), list(stride), [0, 0]]
    with module.graph.inserting_before(node):
        if node.target is aten.max_pool2d.default:
            packed = call(module, node.target, halo, *spans, list(dilation), path=node.meta.get("path", ""))
        else:
            more = (False, True, argument(node, "divisor_override"))
            packed = call(module, node.target, halo, *spans, *more, path=node.meta.get("path", ""))
    finish_tiles(module, node, packed, tiles, [2, 3], tile)


def is_even(node: Node) -> bool:
    """Whether every output divides by the same number."""
    kernel, stride, padding, _ = pool_arguments(node)
    source = operand(node)
    if argument(node, "divisor_override"):
        return True
    inside = all(
        (o - 1) * s - p + k <= n + p
        for o, s, p, k, n in zip(shape(node)[2:], stride, padding, kernel, shape(source)[2:], strict=True)
    )
    return inside and (argument(node, "count_include_pad") or not any(padding))


def pooling_matrix(node: Node, axis: int) -> Any:
    """Average pooling along one axis as a matrix (n_out, n_in)."""
    source = operand(node)
    n_in, n_out = shape(source)[2 + axis], shape(node)[2 + axis]
    if node.target is not aten.avg_pool2d.default:
        return adaptive_matrix(n_in, n_out)
    kernel, stride, padding, _ = (p[axis] for p in pool_arguments(node))
    return torch.nn.functional.avg_pool1d(
        torch.eye(n_in, dtype=torch.float64)[:, None],
        kernel,
        stride,
        padding,
        argument(node, "ceil_mode"),
        argument(node, "count_include_pad"),
    )[:, 0].T.numpy()
