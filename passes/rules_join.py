"""Where the places of element-wise ops, norms, reductions and products go (see `infer_domains`)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import Node

from fluxcompile.geometry import (
    global_layout,
    is_placed,
)
from fluxcompile.ir import argument, op_name, operand, shape
from fluxcompile.passes.flow import Domain, Join, has_domain, layout
from fluxcompile.passes.rules import LETTERS, Rule, dims_of, joined, kept_places, letters_of

aten = torch.ops.aten

POINTWISE = [
    "_to_copy",
    "abs",
    "acos",
    "add",
    "addcdiv",
    "addcmul",
    "asin",
    "atan",
    "atan2",
    "bitwise_and",
    "bitwise_not",
    "bitwise_or",
    "bitwise_xor",
    "broadcast_to",
    "ceil",
    "celu",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clip",
    "clone",
    "contiguous",
    "cos",
    "cosh",
    "div",
    "dropout",
    "elu",
    "eq",
    "erf",
    "exp",
    "exp2",
    "expand",
    "expand_as",
    "expm1",
    "fake_quantize_per_tensor_affine",
    "floor",
    "floor_divide",
    "fmod",
    "ge",
    "gelu",
    "gt",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "isfinite",
    "isinf",
    "isnan",
    "le",
    "leaky_relu",
    "lerp",
    "log",
    "log10",
    "log1p",
    "log2",
    "log_sigmoid",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "lt",
    "masked_fill",
    "max.other",
    "maximum",
    "min.other",
    "minimum",
    "mish",
    "mul",
    "nan_to_num",
    "ne",
    "neg",
    "ones_like",
    "pow",
    "reciprocal",
    "relu",
    "relu6",
    "remainder",
    "round",
    "rsqrt",
    "rsub",
    "selu",
    "sgn",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "sinh",
    "softplus",
    "softshrink",
    "softsign",
    "special_erf",
    "sqrt",
    "square",
    "sub",
    "tan",
    "tanh",
    "threshold",
    "to",
    "true_divide",
    "trunc",
    "type_as",
    "where",
    "zeros_like",
]

REDUCE = [
    "all",
    "amax",
    "amin",
    "any",
    "argmax",
    "argmin",
    "linalg_vector_norm",
    "logsumexp",
    "max",
    "mean",
    "median",
    "min",
    "norm",
    "prod",
    "std",
    "sum",
    "var",
]


def _tensors(node: Node, names: Sequence[str] | None = None) -> list[Node]:
    if names is None:
        return list(node.all_input_nodes)
    found = [argument(node, n) for n in names]
    return [n for n in found if isinstance(n, Node)]


def pointwise(node: Node) -> Domain | None:
    out = shape(node)
    like = op_name(node.target) in ("aten.expand_as", "aten.type_as", "aten.zeros_like", "aten.ones_like")
    words = [(n, letters_of(shape(n), out)) for n in (_tensors(node)[:1] if like else _tensors(node))]
    return joined(words, LETTERS[: len(out)], out)


def by_channel(node: Node) -> Domain | None:
    word = LETTERS[: len(shape(node))]
    return joined([(operand(node), word)], word, shape(node), independent=word.replace("b", ""))


def _mixed(node: Node, dims: Sequence[int]) -> Domain:
    """An op that keeps its shape and mixes along `dims`."""
    source, size = operand(node), shape(node)
    out = LETTERS[: len(size)]
    word = "".join(c.upper() if i in dims else c for i, c in enumerate(out))
    kept = "".join(c for i, c in enumerate(out) if i not in dims)
    found = Domain(layout(source), Join(((source, word),), out, (), kept))
    return found if shape(source) == size else Domain(global_layout(size), found.flow)


def along_dim(node: Node) -> Domain | None:
    return _mixed(node, dims_of(node))


def layer_norm(node: Node) -> Domain | None:
    rank = len(shape(node))
    return _mixed(node, range(rank - len(argument(node, "normalized_shape")), rank))


def group_norm(node: Node) -> Domain | None:
    return _mixed(node, range(1, len(shape(node))))


def glu(node: Node) -> Domain | None:
    (dim,) = dims_of(node)
    source = operand(node)
    if is_placed(layout(source).dims[dim]):
        return None
    out = LETTERS[: len(shape(node))]
    word = out[:dim] + out[dim].upper() + out[dim + 1 :]
    return joined([(source, word)], out, shape(node), independent=out.replace(out[dim], ""))


def reduce(node: Node) -> Domain | None:
    value = node.meta["val"]
    if getattr(node.target, "_overloadname", "") == "other":
        return pointwise(node)
    source, dims = operand(node), dims_of(node)
    size = value.shape if isinstance(value, Tensor) else value[0].shape
    word = LETTERS[: len(shape(source))]
    kept = "".join(c for i, c in enumerate(word) if i not in dims)
    out = kept if len(size) == len(kept) else "".join(c.upper() if i in dims else c for i, c in enumerate(word))
    found = joined([(source, word)], out, size, independent=kept)
    return found if isinstance(value, Tensor) else replace(found, parts=(found,) * len(value))


def select_along(node: Node) -> Domain | None:
    source, (dim,) = operand(node), dims_of(node)
    out = LETTERS[: len(shape(source))]
    word = out[:dim] + out[dim].upper() + out[dim + 1 :]
    size = node.meta["val"][0].shape
    found = joined([(source, word)], out, size, independent=out.replace(out[dim], ""))
    return replace(found, parts=(found, found))


def linear(node: Node) -> Domain | None:
    source, weight = operand(node), operand(node, 1)
    if has_domain(weight):
        return None
    out = LETTERS[: len(shape(node))]
    return joined([(source, out[:-1] + "K")], out, shape(node), independent=out[:-1])


def matmul(node: Node) -> Domain | None:
    a, b = operand(node), operand(node, 1)
    if len(shape(a)) < 2 or len(shape(b)) < 2:
        return None
    return _product(a, b, shape(node))


def _product(a: Node, b: Node, size: Sequence[int]) -> Domain:
    out = LETTERS[: len(size)]
    first = letters_of(shape(a)[:-2], size[:-2]) + out[-2] + "K"
    second = letters_of(shape(b)[:-2], size[:-2]) + "K" + out[-1]
    kept = [
        n for n, w in ((a, first), (b, second)) if has_domain(n) and not kept_places(layout(n), w, out, size).is_global
    ]
    return joined([(a, first), (b, second)], out, size, lead=kept[0] if kept else None)


def add_product(node: Node) -> Domain | None:
    bias, a, b = (
        argument(node, n)
        for n in ("self", *(("mat1", "mat2") if "addmm" in str(node.target) else ("batch1", "batch2")))
    )
    if has_domain(bias):
        return None
    return _product(a, b, shape(node))


def einsum(node: Node) -> Domain | None:
    equation, tensors = node.args[:2]
    assert isinstance(equation, str)
    left, _, out = equation.replace(" ", "").partition("->")
    words = left.split(",")
    if "." in equation or "->" not in equation or any(len(set(w)) < len(w) for w in words):
        return None
    pairs = list(zip(tensors, words, strict=True))  # type: ignore[arg-type]
    kept = [n for n, w in pairs if has_domain(n) and not kept_places(layout(n), w, out, shape(node)).is_global]
    return joined(pairs, out, shape(node), lead=kept[0] if kept else None)


def attention(node: Node) -> Domain | None:
    q, k, v, mask = (argument(node, n) for n in ("query", "key", "value", "attn_mask"))
    size = shape(node)
    out = LETTERS[: len(size)]
    batch = out[:-2]
    words = [(q, batch + out[-2] + "K"), (k, letters_of(shape(k)[:-2], size[:-2]) + "SK")]
    words.append((v, letters_of(shape(v)[:-2], size[:-2]) + "S" + out[-1]))
    if mask is not None:
        score = (*size[:-1], shape(k)[-2])
        words.append((mask, letters_of(shape(mask), score).replace(out[-1], "S")))
    if argument(node, "is_causal"):
        return None
    return joined(words, out, size, lead=q, independent=out[:-1])


JOINS: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE, pointwise),
    **dict.fromkeys(("batch_norm", "prelu", "channel_shuffle", "native_channel_shuffle"), by_channel),
    **dict.fromkeys(
        ("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "logcumsumexp", "cumprod"), along_dim
    ),
    **dict.fromkeys(("layer_norm", "rms_norm"), layer_norm),
    **dict.fromkeys(("group_norm", "instance_norm"), group_norm),
    "glu": glu,
    **dict.fromkeys(REDUCE, reduce),
    **dict.fromkeys(("topk", "sort"), select_along),
    "linear": linear,
    **dict.fromkeys(("matmul", "bmm", "mm"), matmul),
    **dict.fromkeys(("addmm", "baddbmm"), add_product),
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
}
"""The rules of this file by ATen name, without overload."""
