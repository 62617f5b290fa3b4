"""Fold what scales and shifts a convolution's input into its weights.

    %m = aten.mul(%x, 0.00392)
    %s = aten.sub(%m, @mean)
    %y = aten.conv2d(%s, @w, @b, padding=[1, 1])
 ->
    %s = aten.sub(%x, @mean1)
    %y = aten.conv2d(%s, @w1, @b, padding=[1, 1])

A scale always folds. A shift folds too where the convolution pads nothing (or is nothing); padding puts zeros beside
shifted values, so there the shift stays, as one subtraction. Left alone: values with a second user, factors that are
not constant per channel, a channel scaled to nothing beside padding, grouped convolutions, weights that are computed.
"""

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fluxcompile.ir import argument, call, calls, constant, constant_value, is_constant, operand, replace, shape
from fluxcompile.passes.rules_window import conv_padding

aten = torch.ops.aten
AFFINE = (aten.mul.Tensor, aten.div.Tensor, aten.sub.Tensor, aten.add.Tensor)


def fold_normalisation(module: GraphModule) -> int:
    count = 0
    for conv in calls(module, (aten.conv2d.default, aten.conv2d.padding)):
        source, weight = conv.args[:2]
        bias = argument(conv, "bias")
        if not isinstance(source, Node) or not is_constant(weight) or (bias is not None and not is_constant(bias)):
            continue
        if argument(conv, "groups") != 1 or source.target not in AFFINE or len(shape(conv)) != 4:
            continue
        assert isinstance(weight, Node)
        start, scale, shift, steps = _chain(module, source, conv)
        padded = any(p for ends in conv_padding(conv) for p in ends)
        if padded and bool((scale == 0).any()):
            continue
        if not steps or (padded and steps == 1 and bool((scale == 1).all())):
            continue
        _rewrite(module, conv, start, scale, shift, keep_shift=padded and bool((shift != 0).any()))
        count += steps
    return count


def _chain(module: GraphModule, node: Node, user: Node) -> tuple[Node, Tensor, Tensor, int]:
    """(x, scale, shift, ops) such that `node` is x * scale + shift, float64 per channel."""
    channels = shape(node)[1]
    scale, shift = torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    steps = 0
    while node.target in AFFINE and len(node.users) == 1 and user in node.users:
        x, number = node.args[:2]
        value = _per_channel(module, number, channels)
        if not isinstance(x, Node) or x.op == "get_attr" or value is None or shape(x) != shape(node):
            break
        if node.kwargs or len(node.args) > 2 or x.meta["val"].dtype != node.meta["val"].dtype:
            break
        if node.target in (aten.mul.Tensor, aten.div.Tensor):
            scale = scale * (value if node.target is aten.mul.Tensor else 1 / value)
        else:
            shift = shift + scale * (value if node.target is aten.add.Tensor else -value)
        user, node, steps = node, x, steps + 1
    return node, scale, shift, steps


def _per_channel(module: GraphModule, number: object, channels: int) -> Tensor | None:
    if isinstance(number, int | float):
        return torch.full((channels,), float(number), dtype=torch.float64)
    if not isinstance(number, Node) or number.op != "get_attr":
        return None
    value = constant_value(module, number)
    if value.numel() == 1:
        return value.double().reshape(1).expand(channels)
    aligned = (1,) * (4 - value.dim()) + tuple(value.shape)
    return value.double().reshape(-1) if aligned == (1, channels, 1, 1) else None


def _rewrite(module: GraphModule, conv: Node, x: Node, scale: Tensor, shift: Tensor, *, keep_shift: bool) -> None:
    weight = operand(conv, 1)
    value, bias = constant_value(module, weight), argument(conv, "bias")
    folded = value.double() * scale.view(1, -1, 1, 1)
    name = conv.meta.get("path") or conv.name
    with module.graph.inserting_before(conv):
        if keep_shift:
            left = (-shift / scale).to(value.dtype).view(1, -1, 1, 1).contiguous()
            x = call(module, aten.sub.Tensor, x, constant(module, left, f"{name}.shift"))
        else:
            added = (value.double() * shift.view(1, -1, 1, 1)).sum((1, 2, 3))
            total = added if bias is None else added + constant_value(module, bias).double()
            if bias is not None or bool((added != 0).any()):
                bias = constant(module, total.to(value.dtype), f"{name}.bias")
        w = constant(module, folded.to(value.dtype), f"{name}.weight")
        new = call(module, conv.target, x, w, bias, *conv.args[3:], path=conv.meta.get("path", ""), **conv.kwargs)
    replace(conv, new)
    module.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
