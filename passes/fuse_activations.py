"""Name activations that were written out.

    %s = aten.sigmoid(%x)
    %y = aten.mul(%x, %s)
 ->
    %y = aten.silu(%x)

Exports to ONNX write them so. A backend can then put them into the epilogue of the convolution before. Left alone: a
sigmoid with a second user, and a gate (another value times a sigmoid).
"""

import torch
from torch.fx import GraphModule, Node

from fluxcompile.ir import call, calls, replace

aten = torch.ops.aten


def fuse_activations(module: GraphModule) -> int:
    count = 0
    for gate in calls(module, (aten.sigmoid.default,)):
        (x,) = gate.args
        users: list[Node] = list(gate.users)
        if len(users) != 1 or users[0].target is not aten.mul.Tensor or set(users[0].args) != {x, gate}:
            continue
        (product,) = users
        with module.graph.inserting_before(product):
            silu = call(module, aten.silu.default, x)
        replace(product, silu)
        module.graph.erase_node(gate)
        count += 1
    return count
