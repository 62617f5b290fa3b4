"""Name attention that was written out.

    %s = aten.matmul(%q, %k_transposed)
    %t = aten.mul(%s, 0.125)
    %u = aten.add(%t, @bias)
    %p = aten.softmax(%u, dim=-1)
    %y = aten.matmul(%p, %v)
 ->
    %y = aten.scaled_dot_product_attention(%q, %k, %v, @bias, scale=0.125)

The scale and the bias may be missing, and the scale may be a division. A constant scale for each head goes into the
queries; several biases that are constants become one, seen through the reshapes between (windows that were shifted are
masked one by one). Channels first, the last product is written the other way round, values times transposed weights:
the result is then transposed back. Left alone: intermediate values with a second user, anything else between the
products, and products over other than the last two of three or four dimensions.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fluxcompile.ir import argument, call, calls, constant, constant_value, is_constant, operand, replace, shape

aten = torch.ops.aten
PRODUCTS = (aten.matmul.default, aten.bmm.default)
SOFTMAX = (aten.softmax.int, aten._softmax.default)
RESHAPES = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
Shape = tuple[int, ...]


def fuse_attention(module: GraphModule) -> int:
    count = 0
    for product in calls(module, PRODUCTS):
        soft, v = operand(product), product.args[1]
        if not isinstance(v, Node):
            continue
        turned = not _only(soft, SOFTMAX, product)
        if turned:  # values x weights, both transposed
            soft, v = v, soft
            if not _swaps_last(soft) or not _only(soft, None, product) or not _only(operand(soft), SOFTMAX, soft):
                continue
            soft = operand(soft)
        if argument(soft, "dim") not in (-1, soft.meta["val"].dim() - 1):
            continue
        found = _score(operand(soft), soft)
        if found is None:
            continue
        q, kt = found.product.args
        if not isinstance(q, Node) or not isinstance(kt, Node):
            continue
        with module.graph.inserting_before(product):
            values = _transposed(module, v) if turned else v
            k = _transposed(module, kt)
            bias = _bias(module, found) if found.biases else None
            if (found.biases and bias is None) or not _fits(q, kt, values, bias):
                continue
            path = product.meta.get("path", "")
            if found.by_head is not None:
                q = call(module, aten.mul.Tensor, q, found.by_head, path=path)
            new = call(
                module, aten.scaled_dot_product_attention.default, q, k, values, bias, path=path, scale=found.scale
            )
            new = call(module, aten.transpose.int, new, -2, -1) if turned else new
        if new.meta["val"].shape != product.meta["val"].shape:
            continue
        replace(product, new)
        count += 1
    module.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
    return count


def _only(node: object, targets: tuple[object, ...] | None, user: Node) -> bool:
    """A call of one of `targets` whose only user is `user`."""
    return (
        isinstance(node, Node)
        and (targets is None or node.target in targets)
        and len(node.users) == 1
        and user in node.users
    )


@dataclass
class Score:
    """What stands between a product and its softmax. biases: with the shape that each was added in."""

    product: Node
    scale: float = 1.0
    by_head: Node | None = None
    biases: list[tuple[Node, Shape]] = field(default_factory=list)


def _score(node: object, user: Node) -> Score | None:
    """The product behind `node`, which `user` alone reads, if only scales, biases and reshapes lie between."""
    if not isinstance(node, Node) or not _only(node, None, user):
        return None
    if node.target in PRODUCTS:
        return Score(node)
    if node.target in RESHAPES:
        score = _score(operand(node), node)
        return score if score and shape(node)[-2:] == shape(score.product)[-2:] else None
    if node.target is aten.add.Tensor and argument(node, "alpha") == 1:
        for one, other in (node.args[:2], node.args[1::-1]):
            score = _score(one, node)
            if score and isinstance(one, Node) and isinstance(other, Node) and shape(one) == shape(node):
                score.biases.append((other, shape(node)))
                return score
    if node.target in (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar):
        score, by = _score(node.args[0], node), node.args[1]
        if score and not score.biases:  # a bias would be scaled too
            return _scaled(score, node, by)
    return None


def _scaled(score: Score, node: Node, by: object) -> Score | None:
    """The score times, or divided by, a number, or times a constant of each head."""
    divides = node.target in (aten.div.Tensor, aten.div.Scalar)
    if isinstance(by, float | int):
        score.scale = float(score.scale / by if divides else score.scale * by)
        return score
    whole = shape(score.product)
    if divides or not is_constant(by) or shape(node) != whole or score.by_head is not None:
        return None
    assert isinstance(by, Node)
    if shape(by)[-2:] not in ((1, 1), (1,), ()) or by.meta["val"].dtype != score.product.meta["val"].dtype:
        return None
    score.by_head = by
    return score


def _bias(module: GraphModule, score: Score) -> Node | None:
    """What is added, as one value that broadcasts to the product; None where that takes more than constants."""
    whole = shape(score.product)
    first, seen = score.biases[0]
    if len(score.biases) == 1 and seen == whole:
        return first
    if not all(is_constant(bias) for bias, _ in score.biases):
        return None
    parts = [_seen(constant_value(module, bias), seen, whole) for bias, seen in score.biases]
    return constant(module, sum(parts[1:], parts[0]), "attention_bias")


def _seen(bias: Tensor, seen: Shape, whole: Shape) -> Tensor:
    """A bias of a score that was reshaped to `seen`, as a bias of the score as it was."""
    same = 0
    while same < min(len(seen), len(whole)) and seen[-1 - same] == whole[-1 - same]:
        same += 1
    bias = bias.reshape((1,) * (len(seen) - bias.dim()) + tuple(bias.shape))
    first, rest = len(seen) - same, tuple(bias.shape[len(seen) - same :])
    if bias.shape[:first].numel() == 1:
        return bias.reshape((1,) * (len(whole) - same) + rest)
    return bias.expand(*seen[:first], *rest).reshape(*whole[: len(whole) - same], *rest)


def _fits(q: Node, kt: Node, v: Node, bias: Node | None) -> bool:
    ranks = {len(shape(n)) for n in (q, kt, v)}
    if (
        len(ranks) != 1
        or ranks.pop() not in (3, 4)
        or shape(q)[:-2] != shape(v)[:-2]
        or shape(q)[:-2] != shape(kt)[:-2]
    ):
        return False
    if bias is None:
        return True
    same = bias.meta["val"].dtype == q.meta["val"].dtype
    return bool(same) and torch.broadcast_shapes(shape(bias), (*shape(q)[:-1], shape(kt)[-1])) == torch.Size(
        (*shape(q)[:-1], shape(kt)[-1])
    )


def _swaps_last(node: Node) -> bool:
    """A transpose of the last two dimensions."""
    rank = len(shape(node))
    if node.target is aten.transpose.int:
        return {argument(node, n) % rank for n in ("dim0", "dim1")} == {rank - 1, rank - 2}
    order = [d % rank for d in argument(node, "dims")] if node.target is aten.permute.default else []
    return order == [*range(rank - 2), rank - 1, rank - 2]


def _transposed(module: GraphModule, node: Node) -> Node:
    """The keys: what was transposed to make `node`, else `node` transposed back."""
    return operand(node) if _swaps_last(node) else call(module, aten.transpose.int, node, -2, -1)
