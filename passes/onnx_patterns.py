"""Written-out forms that exporters leave for one torch call, put back where they mean exactly the same.

    mul(mul(x, add(erf(div(x, sqrt(2))), 1)), 0.5)                             ->  gelu(x)
    add(mul(div(d, sqrt(add(mean(pow(d, 2)), eps))), w), b), d = x - mean(x)   ->  layer_norm(x, shape, w, b, eps)
    add(linear(x, w), b)                                                       ->  linear(x, w, b)

Left alone: other constants, axes that are not the last ones, and a sum or product that something else reads too.
Each function takes the recorded graph, whose nodes carry meta tensors, and returns how many places changed.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx


def fuse_gelu(graph: fx.Graph) -> int:
    """The product of x, 0.5 and 1 + erf(x / sqrt(2)), in any order."""
    count = 0
    for erf in graph.find_nodes(op="call_function", target=torch.erf):
        x = _scaled_by_half_root(erf.args[0])
        product, one = _followed(erf, torch.add)
        if x is None or one != 1.0:
            continue
        factors: list[Any] = []
        while len(factors) < 2:
            following, other = _followed(product, torch.mul)
            if following is product:
                break
            factors += [other] if other in (x, 0.5) else _args(other, torch.mul) or [other]
            product = following
        if factors in ([x, 0.5], [0.5, x]):
            _replace(graph, product, F.gelu, (x,))
            count += 1
    return count


def _scaled_by_half_root(node: Any) -> Any:
    """x, where node is x / sqrt(2) in float32."""
    for target, factor in ((torch.div, math.sqrt(2)), (torch.mul, math.sqrt(0.5))):
        args = _args(node, target)
        if args and isinstance(args[1], float) and abs(args[1] / factor - 1) < torch.finfo(torch.float32).eps:
            return args[0]
    return None


def fuse_layer_norm(graph: fx.Graph) -> int:
    count = 0
    for norm in graph.find_nodes(op="call_function", target=torch.div):
        x, dims, epsilon = _normalized(norm)
        if x is None:
            continue
        shape = list(x.meta["val"].shape[-len(dims) :])
        last, weight = _followed(norm, torch.mul, shape)
        last, bias = _followed(last, torch.add, shape) if weight is not None else (last, None)
        _replace(graph, last, F.layer_norm, (x, shape, weight, bias, epsilon))
        count += 1
    return count


def _normalized(norm: fx.Node) -> tuple[Any, list[int], float]:
    """(x, dims, eps), where norm is (x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + eps) over the last axes."""
    centred, deviation = norm.args
    x, average = _args(centred, torch.sub) or (None, None)
    mean = _args(average, torch.mean)
    (shifted,) = _args(deviation, torch.sqrt) or [None]
    variance, epsilon = _args(shifted, torch.add) or (None, None)
    square = _args(variance, torch.mean)
    again, power = _args(square[0], torch.pow) if square else (None, None)
    if not mean or mean[0] is not x or not square or square[1:] != mean[1:] or power not in (2, 2.0):
        return None, [], 0.0
    rank = x.meta["val"].ndim
    dims = sorted(dim % rank for dim in mean[1])
    whole = dims == list(range(rank - len(dims), rank)) and mean[2] is True
    twin = again is centred or (
        _args(again, torch.sub)[:1] == [x] and _args(_args(again, torch.sub)[1], torch.mean) == mean
    )
    return (x, dims, epsilon) if whole and twin and isinstance(epsilon, float) else (None, [], 0.0)


def fuse_linear_bias(graph: fx.Graph) -> int:
    count = 0
    for linear in graph.find_nodes(op="call_function", target=F.linear):
        if len(linear.args) == 2:
            last, bias = _followed(linear, torch.add, [linear.args[1].meta["val"].shape[0]])
            if bias is not None:
                _replace(graph, last, F.linear, (*linear.args, bias))
                count += 1
    return count


def _args(node: Any, target: Callable[..., object]) -> list[Any]:
    """The operands, where node is a call of target."""
    return list(node.args) if isinstance(node, fx.Node) and node.target is target else []


def _followed(node: fx.Node, target: Callable[..., object], shape: list[int] | None = None) -> tuple[fx.Node, Any]:
    """(user, other operand) where all that reads node is target(node, other), other a constant of `shape` if given."""
    user = next(iter(node.users), node)
    args = _args(user, target)
    if len(node.users) != 1 or len(args) != 2 or user.kwargs or args.count(node) != 1:
        return node, None
    (other,) = (a for a in args if a is not node)
    if shape is None or (
        isinstance(other, fx.Node) and other.op == "get_attr" and list(other.meta["val"].shape) == shape
    ):
        return user, other
    return node, None


def _replace(graph: fx.Graph, last: fx.Node, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Call target in place of what ends in `last`; the rest falls to dead code elimination."""
    with graph.inserting_before(last):
        call = graph.create_node("call_function", target, args, {}, last.name)
    call.meta = dict(last.meta)
    last.replace_all_uses_with(call)
    graph.erase_node(last)


PATTERNS: tuple[Callable[[fx.Graph], int], ...] = (fuse_gelu, fuse_layer_norm, fuse_linear_bias)
