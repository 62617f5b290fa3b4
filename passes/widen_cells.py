"""A resize of one cell repeats it.

    %m: f32[1x256x1x1] = aten.mean(%x, dim=[2, 3])
    %y: f32[1x256x32x32] = aten.upsample_bilinear2d(%m, output_size=[32, 32])
 ->
    %y: f32[1x256x32x32] = aten.expand(%m, size=[1, 256, 32, 32])

Image-level features are spread over the map so (DeepLab, PSPNet). Left alone: maps of more than one cell, and rows or
columns of cells.
"""

import torch
from torch.fx import GraphModule

from fluxcompile.ir import call, calls, operand, replace, shape
from fluxcompile.passes.rules_window import RESIZES

aten = torch.ops.aten


def widen_cells(module: GraphModule) -> int:
    targets = [getattr(getattr(aten, name), o) for name in RESIZES for o in getattr(aten, name).overloads()]
    count = 0
    for node in calls(module, targets):
        if shape(operand(node))[2:] != (1, 1):
            continue
        with module.graph.inserting_before(node):
            wide = call(module, aten.expand.default, operand(node), list(shape(node)))
        replace(node, wide)
        count += 1
    return count
