"""Fold an inference batch norm into the convolution that feeds it.

    %c = aten.conv2d(%x, @w, @b)
    %y = aten.batch_norm(%c, @gamma, @beta, @mean, @var)
 ->
    %y = aten.conv2d(%x, @w1, @b1)

Left alone: a convolution with a second user, weights that are not constants, a norm in training mode.
"""

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fluxcompile.ir import argument, call, calls, constant, constant_value, is_constant, replace

aten = torch.ops.aten


def fold_batch_norm(module: GraphModule) -> int:
    count = 0
    for norm in calls(module, [aten.batch_norm.default]):
        conv = norm.args[0]
        if not isinstance(conv, Node) or len(conv.users) > 1 or argument(norm, "training"):
            continue
        if conv.target not in (aten.conv2d.default, aten.conv_transpose2d.input) or not is_constant(conv.args[1]):
            continue
        scale, shift = _affine(module, norm)
        weight, bias = constant_value(module, conv.args[1]), argument(conv, "bias")  # type: ignore[arg-type]
        if bias is not None and not is_constant(bias):
            continue
        if bias is not None:
            shift = shift + constant_value(module, bias).double() * scale
        if conv.target is aten.conv2d.default:
            folded = weight.double() * scale.view(-1, 1, 1, 1)
        else:
            groups = argument(conv, "groups")
            folded = (weight.double().unflatten(0, (groups, -1)) * scale.view(groups, 1, -1, 1, 1)).flatten(0, 1)
        name = conv.meta.get("path") or conv.name
        w = constant(module, folded.to(weight.dtype), f"{name}.weight")
        b = constant(module, shift.to(weight.dtype), f"{name}.bias")
        with module.graph.inserting_before(conv):
            new = call(module, conv.target, conv.args[0], w, b, *conv.args[3:], path=name, **conv.kwargs)
        replace(norm, new)
        module.graph.erase_node(conv)
        count += 1
    return count


def _affine(module: GraphModule, norm: Node) -> tuple[Tensor, Tensor]:
    """The norm as x * scale + shift, in float64."""

    def value(name: str, default: float) -> Tensor:
        node = argument(norm, name)
        return (
            constant_value(module, node).double()
            if isinstance(node, Node)
            else torch.full((norm.meta["val"].shape[1],), default, dtype=torch.float64)
        )

    scale = value("weight", 1) / torch.sqrt(value("running_var", 1) + argument(norm, "eps"))
    return scale, value("bias", 0) - value("running_mean", 0) * scale
