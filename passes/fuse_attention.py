"""Name attention that was written out.

    %s = aten.matmul(%q, %k_transposed)
    %t = aten.mul(%s, 0.125)
    %u = aten.add(%t, @bias)
    %p = aten.softmax(%u, dim=-1)
    %y = aten.matmul(%p, %v)
 ->
    %y = aten.scaled_dot_product_attention(%q, %k, %v, @bias, scale=0.125)

The scale and the bias may be missing, and the scale may be a division. Channels first, the last product is written
the other way round, values times the transposed weights: the result is then transposed back. Left alone: intermediate
values with a second user, anything between the products but scale, one bias and softmax, and products over other than
the last two of three or four dimensions.
"""

import torch
from torch.fx import GraphModule, Node

from fluxcompile.ir import argument, call, calls, operand, replace, shape

aten = torch.ops.aten
PRODUCTS = (aten.matmul.default, aten.bmm.default)
SOFTMAX = (aten.softmax.int, aten._softmax.default)


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
        score, bias = operand(soft), None
        if _only(score, (aten.add.Tensor,), soft) and argument(score, "alpha") == 1:
            pair = [a for a in score.args if isinstance(a, Node)]
            inner = [a for a in pair if _scaled(a, score)]
            if len(pair) == 2 and inner:
                score, bias = inner[0], pair[1 - pair.index(inner[0])]
        found = _scaled(score, None)
        if found is None or (bias is None and not _only(score, None, soft)):
            continue
        first, scale = found
        q, kt = first.args
        if not isinstance(q, Node) or not isinstance(kt, Node):
            continue
        with module.graph.inserting_before(product):
            values = _transposed(module, v) if turned else v
            k = _transposed(module, kt)
            if not _fits(q, kt, values, bias):
                continue
            path = product.meta.get("path", "")
            new = call(module, aten.scaled_dot_product_attention.default, q, k, values, bias, path=path, scale=scale)
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


def _scaled(node: object, user: Node | None) -> tuple[Node, float] | None:
    """(product, scale) when `node` is a product times or divided by a number, or a plain product."""
    if not isinstance(node, Node) or (user is not None and not _only(node, None, user)):
        return None
    if node.target in PRODUCTS:
        return node, 1.0
    if node.target in (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar):
        inner, number = node.args[:2]
        if isinstance(inner, Node) and isinstance(number, float | int) and _only(inner, PRODUCTS, node):
            return inner, float(1 / number if node.target in (aten.div.Tensor, aten.div.Scalar) else number)
    return None


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
