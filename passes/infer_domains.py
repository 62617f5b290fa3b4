"""Find for every value which frame pixels its cells stand for: the analysis everything later is decided from.

    %x: f32[1x3x64x64]              map 1 3 y64 x64 of 64x64 /1 +0
    %conv2d: f32[1x16x32x32]        map 1 16 y32 x32 of 32x32 /2 +1/2
    %flatten: f32[1x16x1024]        tokens 1 16 y32.x32
    %mean: f32[1x16]                global

No node changes; each gets `meta["domain"]`. An op without a rule, or one that cuts a map in a way no layout can say, is
*opaque*: it runs dense, any change of its operands changes all of it, and its reason is kept for `explain()`.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fluxcompile.geometry import (
    Chain,
    Dim,
    Factor,
    Grid,
    Layout,
    Window,
    free,
    global_layout,
    is_placed,
    map_layout,
    matrix_window,
    strided_window,
    transposed_window,
)
from fluxcompile.ir import argument, op_name, shape
from fluxcompile.passes.flow import Anything, Domain, Join, Remap, Same, WindowFlow, has_domain, layout

aten = torch.ops.aten

Rule = Callable[[Node], "Domain | None"]
RULES: dict[str, Rule] = {}
LETTERS = "abcdefghijklmnop"


def infer_domains(module: GraphModule) -> int:
    """Returns how many values are opaque."""
    opaque = 0
    for node in module.graph.nodes:
        if node.op == "placeholder":
            node.meta["domain"] = _input_domain(node, module.meta.get("frames_layout"))
        elif node.op == "call_function":
            node.meta["domain"] = found = _infer(node)
            opaque += bool(found.opaque)
    return opaque


def _input_domain(node: Node, frames_layout: str | None) -> Domain:
    size = shape(node)
    if frames_layout == "hwc" and len(size) == 3:
        return Domain(map_layout(size, 0, 1))
    if len(size) in (3, 4) and (len(size) == 3 or size[0] == 1):
        return Domain(map_layout(size, len(size) - 2, len(size) - 1))
    return Domain(global_layout(size))


def _infer(node: Node) -> Domain:
    name = op_name(node.target).removeprefix("aten.")
    sources = [n for n in node.all_input_nodes if has_domain(n)]
    if node.target is operator.getitem:
        return layout_of_part(node)
    rule = RULES.get(name)
    if all(layout(n).is_global and not n.meta["domain"].parts for n in sources):
        reason = next((n.meta["domain"].opaque for n in sources if n.meta["domain"].opaque), "")
        return _anything(node, sources, reason)
    found = rule(node) if rule else None
    if found is None:
        what = "has no rule" if rule is None else "cuts across the map"
        return _anything(node, sources, f"{name} {what}: {tuple(shape(n) for n in sources)}")
    return found


def layout_of_part(node: Node) -> Domain:
    source, index = node.args
    assert isinstance(source, Node)
    return source.meta["domain"].parts[index]  # type: ignore[no-any-return]


def _anything(node: Node, sources: Sequence[Node], reason: str) -> Domain:
    value = node.meta["val"]
    flow = Anything(tuple(sources))
    if isinstance(value, Tensor):
        return Domain(global_layout(value.shape), flow, reason)
    parts = tuple(Domain(global_layout(v.shape), flow, reason) for v in value)
    return Domain(global_layout(()), flow, reason, parts)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """The rule of some ATen ops, by name without overload; it may give None for what it cannot follow."""

    def add(f: Rule) -> Rule:
        for name in names:
            RULES[name] = f
        return f

    return add


# --- element-wise dependence -------------------------------------------------------------------------------------------


def _letters(size: Sequence[int], out: Sequence[int]) -> str:
    """The word of an operand broadcast to `out`: capitals where it is widened."""
    skip = len(out) - len(size)
    return "".join(
        LETTERS[skip + i] if s == out[skip + i] else LETTERS[skip + i].upper() for i, s in enumerate(size)
    )


def _tensors(node: Node, names: Sequence[str] | None = None) -> list[Node]:
    if names is None:
        return list(node.all_input_nodes)
    found = [argument(node, n) for n in names]
    return [n for n in found if isinstance(n, Node)]


def _join(
    words: Sequence[tuple[Node, str]], out: str, size: Sequence[int], *, lead: Node | None = None, independent: str = ""
) -> Domain:
    """The domain of an op with element-wise dependence; `lead` names the operand whose places the output keeps."""
    placed = [(n, w) for n, w in words if has_domain(n)]
    constants = tuple((n, w) for n, w in words if not has_domain(n))
    flow = Join(tuple(placed), out, constants, independent or out)
    best: Layout | None = None
    for n, word in sorted(placed, key=lambda p: p[0] is not lead):
        found = _kept(layout(n), word, out, size)
        if best is None or (found.rows > best.rows and lead is None):
            best = found
        if lead is not None and not best.is_global:
            break
    return Domain(best or global_layout(size), flow)


def _kept(source: Layout, word: str, out: str, size: Sequence[int]) -> Layout:
    """The places of an operand that reach the output."""
    dims: list[Dim] = []
    for letter, s in zip(out, size, strict=True):
        at = source.dims[word.index(letter)] if letter in word else free(s)
        dims.append(at if _size(at) == s else free(s))
    lost = [d for d, letter in zip(source.dims, word, strict=True) if is_placed(d) and letter not in out]
    kept = Layout(source.grid, tuple(dims))
    if source.chain and not kept.chain:
        return global_layout(size)
    if not lost:
        return kept
    return kept.simplified() or global_layout(size)


def _size(dim: Dim) -> int:
    return dim.size if isinstance(dim, Chain) else math.prod(f.size for f in dim)


@rule(
    "abs", "add", "addcdiv", "addcmul", "atan2", "bitwise_and", "bitwise_not", "bitwise_or", "ceil", "celu", "clamp",
    "clamp_max", "clamp_min", "clip", "cos", "div", "elu", "eq", "erf", "exp", "expand", "expand_as", "floor",
    "floor_divide", "fmod", "ge", "gelu", "gt", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "isfinite",
    "isinf", "isnan", "le", "leaky_relu", "lerp", "log", "log10", "log1p", "log2", "log_sigmoid", "logical_and",
    "logical_not", "logical_or", "logical_xor", "lt", "masked_fill", "maximum", "minimum", "mish", "mul", "ne", "neg",
    "nan_to_num", "pow", "reciprocal", "relu", "relu6", "remainder", "round", "rsqrt", "rsub", "selu", "sgn", "sigmoid",
    "sign", "silu", "sin", "softplus", "softshrink", "softsign", "sqrt", "square", "sub", "tan", "tanh", "threshold",
    "to", "_to_copy", "true_divide", "trunc", "type_as", "where", "fake_quantize_per_tensor_affine", "broadcast_to",
    "zeros_like", "ones_like", "expm1", "exp2", "sinh", "cosh", "atan", "asin", "acos", "special_erf", "bitwise_xor",
    "max.other", "min.other", "contiguous", "clone", "dropout",
)  # fmt: skip
def pointwise(node: Node) -> Domain | None:
    out = shape(node)
    words = [(n, _letters(shape(n), out)) for n in _tensors(node)]
    if op_name(node.target) in ("aten.expand_as", "aten.type_as", "aten.zeros_like", "aten.ones_like"):
        words = words[:1]
    return _join(words, LETTERS[: len(out)], out)


@rule("batch_norm", "prelu", "channel_shuffle", "native_channel_shuffle")
def by_channel(node: Node) -> Domain | None:
    word = LETTERS[: len(shape(node))]
    return _join([(_source(node), word)], word, shape(node), independent=word.replace("b", ""))


def _source(node: Node) -> Node:
    assert isinstance(node.args[0], Node)
    return node.args[0]


def _dims(node: Node, name: str = "dim") -> list[int]:
    """A dim argument as sorted non-negative numbers; all dimensions where it is missing."""
    rank = len(shape(_source(node)))
    try:
        value = argument(node, name)
    except KeyError:
        value = None
    if value is None or value == []:
        return list(range(rank))
    return sorted(d % rank for d in ([value] if isinstance(value, int) else value))


def _mixed(node: Node, dims: Sequence[int]) -> Domain:
    """An op that keeps its shape and mixes along `dims`."""
    source, size = _source(node), shape(node)
    out = LETTERS[: len(size)]
    word = "".join(c.upper() if i in dims else c for i, c in enumerate(out))
    kept = "".join(c for i, c in enumerate(out) if i not in dims)
    found = Domain(layout(source), Join(((source, word),), out, (), kept))
    return found if shape(source) == size else Domain(global_layout(size), found.flow)


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "logcumsumexp", "cumprod")
def along_dim(node: Node) -> Domain | None:
    return _mixed(node, _dims(node))


@rule("layer_norm", "rms_norm")
def layer_norm(node: Node) -> Domain | None:
    rank = len(shape(node))
    return _mixed(node, range(rank - len(argument(node, "normalized_shape")), rank))


@rule("group_norm", "instance_norm")
def group_norm(node: Node) -> Domain | None:
    return _mixed(node, range(1, len(shape(node))))


@rule("glu")
def glu(node: Node) -> Domain | None:
    (dim,) = _dims(node)
    source = _source(node)
    if is_placed(layout(source).dims[dim]):
        return None
    out = LETTERS[: len(shape(node))]
    word = out[:dim] + out[dim].upper() + out[dim + 1 :]
    return _join([(source, word)], out, shape(node), independent=out.replace(out[dim], ""))


@rule("mean", "sum", "amax", "amin", "prod", "var", "std", "linalg_vector_norm", "norm", "any", "all", "argmax",
      "argmin", "logsumexp", "max", "min", "median")  # fmt: skip
def reduce(node: Node) -> Domain | None:
    value = node.meta["val"]
    if getattr(node.target, "_overloadname", "") == "other":
        return pointwise(node)
    source, dims = _source(node), _dims(node)
    size = value.shape if isinstance(value, Tensor) else value[0].shape
    word = LETTERS[: len(shape(source))]
    kept = "".join(c for i, c in enumerate(word) if i not in dims)
    out = kept if len(size) == len(kept) else "".join(c.upper() if i in dims else c for i, c in enumerate(word))
    found = _join([(source, word)], out, size, independent=kept)
    return found if isinstance(value, Tensor) else replace(found, parts=(found,) * len(value))


@rule("topk", "sort")
def select_along(node: Node) -> Domain | None:
    source, (dim,) = _source(node), _dims(node)
    out = LETTERS[: len(shape(source))]
    word = out[:dim] + out[dim].upper() + out[dim + 1 :]
    size = node.meta["val"][0].shape
    found = _join([(source, word)], out, size, independent=out.replace(out[dim], ""))
    return replace(found, parts=(found, found))


@rule("linear")
def linear(node: Node) -> Domain | None:
    source, weight = node.args[:2]
    assert isinstance(source, Node) and isinstance(weight, Node)
    if has_domain(weight):
        return None
    out = LETTERS[: len(shape(node))]
    return _join([(source, out[:-1] + "K")], out, shape(node), independent=out[:-1])


@rule("matmul", "bmm", "mm")
def matmul(node: Node) -> Domain | None:
    a, b = node.args[:2]
    assert isinstance(a, Node) and isinstance(b, Node)
    if len(shape(a)) < 2 or len(shape(b)) < 2:
        return None
    return _product(a, b, shape(node))


def _product(a: Node, b: Node, size: Sequence[int]) -> Domain:
    out = LETTERS[: len(size)]
    first = _letters(shape(a)[:-2], size[:-2]) + out[-2] + "K"
    second = _letters(shape(b)[:-2], size[:-2]) + "K" + out[-1]
    kept = [n for n, w in ((a, first), (b, second)) if has_domain(n) and not _kept(layout(n), w, out, size).is_global]
    return _join([(a, first), (b, second)], out, size, lead=kept[0] if kept else None)


@rule("addmm", "baddbmm")
def add_product(node: Node) -> Domain | None:
    bias, a, b = (argument(node, n) for n in ("self", *(("mat1", "mat2") if "addmm" in str(node.target) else ("batch1", "batch2"))))
    if has_domain(bias):
        return None
    return _product(a, b, shape(node))


@rule("einsum")
def einsum(node: Node) -> Domain | None:
    equation, tensors = node.args[:2]
    assert isinstance(equation, str)
    left, _, out = equation.replace(" ", "").partition("->")
    words = left.split(",")
    if "." in equation or "->" not in equation or any(len(set(w)) < len(w) for w in words):
        return None
    pairs = list(zip(tensors, words, strict=True))  # type: ignore[arg-type]
    kept = [n for n, w in pairs if has_domain(n) and not _kept(layout(n), w, out, shape(node)).is_global]
    return _join(pairs, out, shape(node), lead=kept[0] if kept else None)


@rule("scaled_dot_product_attention")
def attention(node: Node) -> Domain | None:
    q, k, v, mask = (argument(node, n) for n in ("query", "key", "value", "attn_mask"))
    size = shape(node)
    out = LETTERS[: len(size)]
    batch = out[:-2]
    words = [(q, batch + out[-2] + "K"), (k, _letters(shape(k)[:-2], size[:-2]) + "SK")]
    words.append((v, _letters(shape(v)[:-2], size[:-2]) + "S" + out[-1]))
    if mask is not None:
        score = (*size[:-1], shape(k)[-2])
        words.append((mask, _letters(shape(mask), score).replace(out[-1], "S")))
    if argument(node, "is_causal"):
        return None
    return _join(words, out, size, lead=q, independent=out[:-1])


# --- data movement -----------------------------------------------------------------------------------------------------


@rule("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "reshape_as", "view_as")
def reshape(node: Node) -> Domain | None:
    found = layout(_source(node)).reshape(shape(node))
    return Domain(found, Same(_source(node))) if found else None


def _permuted(node: Node, order: Sequence[int]) -> Domain:
    return Domain(layout(_source(node)).permute(order), Same(_source(node)))


@rule("permute")
def permute(node: Node) -> Domain | None:
    rank = len(shape(node))
    return _permuted(node, [d % rank for d in argument(node, "dims")])


@rule("transpose", "swapaxes", "swapdims", "t", "mT", "adjoint")
def transpose(node: Node) -> Domain | None:
    rank = len(shape(node))
    order = list(range(rank))
    name = op_name(node.target)
    pair = node.args[1:3] if len(node.args) > 2 else ((0, 1) if name == "aten.t" else (-2, -1))
    a, b = (int(d) % rank for d in pair)  # type: ignore[call-overload]
    order[a], order[b] = b, a
    return _permuted(node, order)


@rule("movedim")
def movedim(node: Node) -> Domain | None:
    source = _source(node)
    rank = len(shape(source))
    order = torch.empty(*range(1, rank + 1), device="meta").movedim(*node.args[1:3]).shape  # type: ignore[arg-type]
    return _permuted(node, [s - 1 for s in order])


@rule("pixel_shuffle")
def pixel_shuffle(node: Node) -> Domain | None:
    source, r = _source(node), argument(node, "upscale_factor")
    *b, c, h, w = shape(source)
    n = len(b)
    found = layout(source).reshape((*b, c // r**2, r, r, h, w))
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    found = found.permute(order).reshape(shape(node)) if found else None
    return Domain(found, Same(source)) if found else None


@rule("pixel_unshuffle")
def pixel_unshuffle(node: Node) -> Domain | None:
    source, r = _source(node), argument(node, "downscale_factor")
    *b, c, h, w = shape(source)
    n = len(b)
    found = layout(source).reshape((*b, c, h // r, r, w // r, r))
    found = found.permute([*range(n), n, n + 2, n + 4, n + 1, n + 3]).reshape(shape(node)) if found else None
    return Domain(found, Same(source)) if found else None


def _axis_of(source: Layout, dim: int) -> str | None:
    """ "y" or "x" where a dimension is that whole axis of the grid and nothing else."""
    at = source.dims[dim]
    if isinstance(at, Chain) or len(at) != 1 or not at[0].axis or at[0].step != 1:
        return None
    extent = source.grid.h if at[0].axis == "y" else source.grid.w
    return at[0].axis if at[0].size == extent else None


def _resampled(
    node: Node, source: Node, dim: int, index: Sequence[int], scale: int, start: int, *, turned: bool = False, turn: int = 0
) -> Domain | None:
    """Output index i along `dim` is input index index[i] (-1: a constant); the grid changes with it."""
    was = layout(source)
    axis = _axis_of(was, dim)
    if axis is None:
        return None
    k = 0 if axis == "y" else 1
    g, n = was.grid, len(index)
    scales, origins, turns = list(g.scale), list(g.origin), list(g.turn)
    origins[k] += scales[k] * start
    scales[k] *= scale
    size = (g.h, g.w)[k]
    if turned:
        turns[k] = (turns[k] + turn) % size if turn else turns[k] + 1
    elif turns[k] and n != size:
        turns[k] = 1
    grid = Grid(n if k == 0 else g.h, n if k == 1 else g.w, _pair(scales), _pair(origins), (turns[0], turns[1]))
    if n == 1:
        new_dim: Dim = ()
    else:
        new_dim = (Factor(axis, n),)
    at = np.asarray(index, dtype=np.int64)
    if k == 0:
        rows = np.where(at[:, None] < 0, -1, at[:, None] * g.w + np.arange(g.w))
    else:
        rows = np.where(at[None] < 0, -1, np.arange(g.h)[:, None] * g.w + at[None])
    return Domain(Layout(grid, was.with_dim(dim, new_dim).dims), Remap((source,), rows.reshape(-1)))


def _pair(v: list[Fraction]) -> tuple[Fraction, Fraction]:
    return v[0], v[1]


def _cut(node: Node, source: Node, dim: int, start: int, stop: int, step: int = 1) -> Domain | None:
    """A slice of one dimension."""
    was = layout(source)
    at = was.dims[dim]
    n = len(range(start, stop, step))
    if isinstance(at, Chain):
        return _cut_chain(source, dim, at, start, stop, step)
    if not is_placed(at):
        word = LETTERS[: len(was.dims)]
        return Domain(was.with_dim(dim, free(n)), Join(((source, _other(word, dim)),), word, (), word.replace(word[dim], "")))
    return _resampled(node, source, dim, list(range(start, stop, step)), step, start)


def _other(word: str, dim: int) -> str:
    return word[:dim] + word[dim].upper() + word[dim + 1 :]


def _cut_chain(source: Node, dim: int, chain: Chain, start: int, stop: int, step: int) -> Domain | None:
    segments: list[tuple[int, Grid | None]] = []
    at = 0
    for rows, grid in chain.segments:
        low, high = max(start, at), min(stop, at + rows)
        if low < high:
            if grid and high - low != rows:
                return None
            segments.append((high - low, grid))
        at += rows
    if step != 1:
        return None
    was, flow = layout(source), Remap((source,), np.arange(start, stop, dtype=np.int64))
    if len(segments) == 1 and segments[0][1]:
        grid = segments[0][1]
        cells = Layout(grid, was.with_dim(dim, _row_major(grid)).dims)
        return Domain(cells, flow)
    if stop - start == 1:
        return Domain(Layout(Grid(1, 1), was.with_dim(dim, ()).dims), flow)
    return Domain(was.with_dim(dim, Chain(tuple(segments))), flow)


def _row_major(grid: Grid) -> tuple[Factor, ...]:
    return tuple(f for f in (Factor("y", grid.h), Factor("x", grid.w)) if f.size > 1)


@rule("slice")
def slice_(node: Node) -> Domain | None:
    (dim,) = _dims(node)
    size = shape(_source(node))[dim]
    start, stop, step = argument(node, "start"), argument(node, "end"), argument(node, "step")
    start, stop, step = slice(start, stop, step).indices(size)
    return _cut(node, _source(node), dim, start, stop, step)


@rule("narrow")
def narrow(node: Node) -> Domain | None:
    (dim,) = _dims(node)
    start, length = argument(node, "start"), argument(node, "length")
    return _cut(node, _source(node), dim, start, start + length) if isinstance(start, int) else None


@rule("select")
def select(node: Node) -> Domain | None:
    (dim,) = _dims(node)
    source, index = _source(node), argument(node, "index")
    index %= shape(source)[dim]
    found = _cut(node, source, dim, index, index + 1)
    if found is None:
        return None
    dims = found.layout.dims
    flow = found.flow
    if isinstance(flow, Join):
        ((_, word),) = flow.operands
        flow = Join(((source, word),), flow.out[:dim] + flow.out[dim + 1 :], (), flow.independent)
    grid = found.layout.grid
    return Domain(Layout(grid, dims[:dim] + dims[dim + 1 :]), flow)


@rule("split", "split_with_sizes", "chunk", "unbind", "unsafe_split", "tensor_split", "unsafe_chunk")
def split(node: Node) -> Domain | None:
    (dim,) = _dims(node) if argument(node, "dim") is not None else (0,)
    source, at, parts = _source(node), 0, []
    unbind = op_name(node.target) == "aten.unbind"
    for value in node.meta["val"]:
        n = 1 if unbind else value.shape[dim]
        part = _cut(node, source, dim, at, at + n)
        if part is None:
            return None
        if unbind:
            dims, flow = part.layout.dims, part.flow
            if isinstance(flow, Join):
                flow = Join(flow.operands, flow.out[:dim] + flow.out[dim + 1 :], (), flow.independent)
            part = Domain(Layout(part.layout.grid, dims[:dim] + dims[dim + 1 :]), flow)
        parts.append(part)
        at += n
    return Domain(layout(source), parts[0].flow, "", tuple(parts))


@rule("cat", "concat", "concatenate")
def cat(node: Node) -> Domain | None:
    tensors = list(node.args[0])  # type: ignore[arg-type]
    dim = (argument(node, "dim") or 0) % len(shape(node))
    return _laid_along(node, [t for t in tensors if isinstance(t, Node)], dim)


def _laid_along(node: Node, tensors: list[Node], dim: int) -> Domain | None:
    placed = [t for t in tensors if has_domain(t)]
    out = LETTERS[: len(shape(node))]
    if not any(is_placed(layout(t).dims[dim]) for t in placed):
        words = [(t, _other(out, dim)) for t in tensors]
        return _join(words, out, shape(node), independent=out.replace(out[dim], ""))
    return _chained(node, tensors, dim)


def _chained(node: Node, tensors: list[Node], dim: int) -> Domain | None:
    segments: list[tuple[int, Grid | None]] = []
    rows: list[int] = []
    sources: list[Node] = []
    at = 0
    for t in tensors:
        n = shape(t)[dim]
        if not has_domain(t):
            segments.append((n, None))
            rows += [-1] * n
            continue
        was = layout(t)
        here = was.dims[dim]
        if any(is_placed(d) for i, d in enumerate(was.dims) if i != dim):
            return None
        sources.append(t)
        if isinstance(here, Chain):
            segments += here.segments
            rows += range(at, at + n)
        elif was.is_global:
            segments.append((n, None))
            rows += [at] * n
        elif here == _row_major(was.grid):
            segments.append((n, was.grid))
            rows += range(at, at + n)
        else:
            return None
        at += was.rows
    dims = [free(s) for s in shape(node)]
    chain = Chain(tuple(segments))
    found = Layout(Grid(1, 1), (*dims[:dim], chain, *dims[dim + 1 :]))
    return Domain(found, Remap(tuple(sources), np.asarray(rows, dtype=np.int64)))


@rule("stack")
def stack(node: Node) -> Domain | None:
    tensors = [t for t in node.args[0] if isinstance(t, Node)]  # type: ignore[union-attr]
    size = shape(node)
    dim = (argument(node, "dim") or 0) % len(size)
    out = LETTERS[: len(size)]
    inner = out[:dim] + out[dim + 1 :]
    return _join([(t, inner) for t in tensors], out, size, independent=inner)


@rule("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "reflection_pad1d", "replication_pad1d")
def pad(node: Node) -> Domain | None:
    source = _source(node)
    was = layout(source)
    amounts = list(argument(node, "padding" if "ion_pad" in op_name(node.target) else "pad"))
    name = op_name(node.target)
    mode = argument(node, "mode") if name == "aten.pad" else {"aten.constant_pad_nd": "constant"}.get(name, name[5:].split("ion_")[0])
    rank = len(shape(source))
    spans = [(rank - 1 - i, amounts[2 * i], amounts[2 * i + 1]) for i in range(len(amounts) // 2)]
    spans = [s for s in spans if s[1] or s[2]]
    placed = [s for s in spans if is_placed(was.dims[s[0]])]
    if any(_axis_of(was, s[0]) is None for s in placed):
        return None
    found = Domain(was)
    current_rows: Any = None
    for dim, low, high in placed:
        size = shape(source)[dim]
        index = [_padded(i, size, mode) for i in range(-low, size + high)]
        step = _resampled(node, _Stub(source, found.layout), dim, index, 1, -low)
        if step is None or any(i is None for i in index):
            return None
        assert isinstance(step.flow, Remap)
        rows = step.flow.rows
        current_rows = rows if current_rows is None else np.where(rows < 0, -1, current_rows[rows])
        found = step
    result = found.layout
    for dim, low, high in spans:
        if (dim, low, high) not in placed:
            result = result.with_dim(dim, free(shape(source)[dim] + low + high))
    if current_rows is None:
        word = LETTERS[:rank]
        padded = {s[0] for s in spans}
        own = "".join(c.upper() if i in padded else c for i, c in enumerate(word))
        return Domain(result, Join(((source, own),), word, (), "".join(c for c in own if c.islower())))
    return Domain(result, Remap((source,), current_rows))


class _Stub:
    """A node as `layout` sees it, halfway through a rule of several steps."""

    def __init__(self, node: Node, at: Layout) -> None:
        self.node, self.meta = node, {"domain": Domain(at)}


def _padded(i: int, size: int, mode: str) -> int:
    if 0 <= i < size:
        return i
    if mode.startswith("reflect"):
        return -i if i < 0 else 2 * (size - 1) - i
    if mode.startswith("replic"):
        return min(max(i, 0), size - 1)
    if mode == "circular":
        return i % size
    return -1


@rule("roll")
def roll(node: Node) -> Domain | None:
    source = _source(node)
    shifts, dims = argument(node, "shifts"), argument(node, "dims")
    if not dims:
        return None
    found, rows = Domain(layout(source), Same(source)), None
    for shift, dim in zip(shifts, dims, strict=True):
        dim %= len(shape(source))
        size = shape(source)[dim]
        if not is_placed(found.layout.dims[dim]):
            return None
        index = [(i - shift) % size for i in range(size)]
        step = _resampled(node, _Stub(source, found.layout), dim, index, 1, 0, turned=True, turn=-shift % size)
        if step is None:
            return None
        assert isinstance(step.flow, Remap)
        rows = step.flow.rows if rows is None else rows[step.flow.rows]
        found = step
    return Domain(found.layout, Remap((source,), rows)) if rows is not None else None


@rule("flip")
def flip(node: Node) -> Domain | None:
    source = _source(node)
    found, rows = Domain(layout(source), Same(source)), None
    for dim in _dims(node, "dims"):
        if not is_placed(found.layout.dims[dim]):
            continue
        index = list(range(shape(source)[dim]))[::-1]
        step = _resampled(node, _Stub(source, found.layout), dim, index, 1, 0, turned=True)
        if step is None:
            return None
        assert isinstance(step.flow, Remap)
        rows = step.flow.rows if rows is None else rows[step.flow.rows]
        found = step
    return Domain(found.layout, Remap((source,), rows)) if rows is not None else Domain(found.layout, Same(source))


@rule("repeat", "tile")
def repeat(node: Node) -> Domain | None:
    source, out = _source(node), shape(node)
    size = (1,) * (len(out) - len(shape(source))) + shape(source)
    word = "".join(LETTERS[i] if s == o else LETTERS[i].upper() for i, (s, o) in enumerate(zip(size, out, strict=True)))
    word = word[len(out) - len(shape(source)) :]
    if any(is_placed(d) and c.isupper() for d, c in zip(layout(source).dims, word, strict=True)):
        return None
    letters = LETTERS[: len(out)]
    kept = "".join(c for c in word if c.islower())
    return _join([(source, word)], letters, out, independent=kept)


@rule("repeat_interleave")
def repeat_interleave(node: Node) -> Domain | None:
    dim = argument(node, "dim")
    source = _source(node)
    if dim is None or is_placed(layout(source).dims[dim % len(shape(source))]):
        return None
    out = LETTERS[: len(shape(node))]
    dim %= len(out)
    return _join([(source, _other(out, dim))], out, shape(node), independent=out.replace(out[dim], ""))


@rule("index_select")
def index_select(node: Node) -> Domain | None:
    return _index_free(node, *_dims(node))


@rule("index")
def index(node: Node) -> Domain | None:
    indices = list(node.args[1])  # type: ignore[arg-type]
    used = [i for i, x in enumerate(indices) if x is not None]
    if len(used) != 1 or has_domain(indices[used[0]]):
        return None
    return _index_free(node, used[0])


def _index_free(node: Node, dim: int) -> Domain | None:
    """Picking entries of a dimension without a place."""
    source = _source(node)
    was = layout(source)
    if any(has_domain(n) for n in node.all_input_nodes[1:]) or is_placed(was.dims[dim]):
        return None
    extra = len(shape(node)) - len(shape(source)) + 1
    word = _other(LETTERS[: len(was.dims)], dim)
    new = "".join(LETTERS[len(was.dims) + i] for i in range(extra))
    out = word[:dim] + new + word[dim + 1 :]
    return _join([(source, word)], out, shape(node), independent="".join(c for c in word if c.islower()))


# --- windows -----------------------------------------------------------------------------------------------------------


def _two(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def conv_padding(node: Node) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) of a convolution, also for padding="same" and "valid"."""
    value = argument(node, "padding")
    if not isinstance(value, str):
        (y, x) = _two(value)
        return (y, y), (x, x)
    if value == "valid":
        return (0, 0), (0, 0)
    weight = node.args[1]
    assert isinstance(weight, Node)
    spans = []
    for k, d in zip(shape(weight)[-2:], _two(argument(node, "dilation")), strict=True):
        total = d * (k - 1)
        spans.append((total // 2, total - total // 2))
    return spans[0], spans[1]


def _windowed(node: Node, windows: tuple[Window, Window]) -> Domain | None:
    source = _source(node)
    rank = len(shape(source))
    seen = layout(source).as_map(rank - 2, rank - 1)
    if seen is None or seen.is_global:
        return _from_cell(node, source) if layout(source).is_global else None
    grid = seen.grid.window(*windows)
    size = node.meta["val"].shape if isinstance(node.meta["val"], Tensor) else node.meta["val"][0].shape
    found = Domain(map_layout(size, rank - 2, rank - 1, grid), WindowFlow(source, seen, *windows))
    return found if isinstance(node.meta["val"], Tensor) else replace(found, parts=(found,) * len(node.meta["val"]))


def _from_cell(node: Node, source: Node) -> Domain:
    """A window op on a value without a place has none either."""
    return _anything(node, [source], "")


@rule("conv2d")
def conv2d(node: Node) -> Domain | None:
    weight = node.args[1]
    if not isinstance(weight, Node) or has_domain(weight):
        return None
    kernel, stride, dilation = shape(weight)[-2:], _two(argument(node, "stride")), _two(argument(node, "dilation"))
    padding = conv_padding(node)
    sizes = zip(shape(_source(node))[-2:], shape(node)[-2:], kernel, stride, (p[0] for p in padding), dilation, strict=True)
    y, x = (strided_window(*s) for s in sizes)
    found = _windowed(node, (y, x))
    if found is None and tuple(kernel) == stride == (1, 1) and shape(node)[-2:] == shape(_source(node))[-2:]:
        return across_channels(node)
    return found


def across_channels(node: Node) -> Domain:
    """A 1x1 convolution: every cell by itself, however the other dimensions walk the map."""
    out = LETTERS[: len(shape(node))]
    channel = out[len(out) - len(shape(node.args[1])) + 1]  # type: ignore[arg-type]
    word = out.replace(channel, channel.upper())
    return _join([(_source(node), word)], out, shape(node), independent=out.replace(channel, ""))


@rule("conv_transpose2d")
def conv_transpose2d(node: Node) -> Domain | None:
    weight = node.args[1]
    if not isinstance(weight, Node) or has_domain(weight):
        return None
    kernel, stride, padding, dilation = shape(weight)[-2:], *(_two(argument(node, n)) for n in ("stride", "padding", "dilation"))
    sizes = zip(shape(_source(node))[-2:], shape(node)[-2:], kernel, stride, padding, dilation, strict=True)
    y, x = (transposed_window(*s) for s in sizes)
    return _windowed(node, (y, x))


@rule("conv1d")
def conv1d(node: Node) -> Domain | None:
    weight = node.args[1]
    if not isinstance(weight, Node) or has_domain(weight) or shape(weight)[-1] != 1:
        return None
    return across_channels(node) if shape(node)[-1] == shape(_source(node))[-1] else None


def pool_arguments(node: Node) -> tuple[tuple[int, int], ...]:
    """kernel, stride, padding, dilation of a pooling op."""
    kernel = _two(argument(node, "kernel_size"))
    stride = _two(argument(node, "stride")) if argument(node, "stride") else kernel
    dilation = _two(argument(node, "dilation")) if "max_pool" in op_name(node.target) else (1, 1)
    return kernel, stride, _two(argument(node, "padding")), dilation


@rule("max_pool2d", "avg_pool2d", "max_pool2d_with_indices")
def pool(node: Node) -> Domain | None:
    value = node.meta["val"]
    size = (value if isinstance(value, Tensor) else value[0]).shape[-2:]
    sizes = zip(shape(_source(node))[-2:], size, *pool_arguments(node), strict=True)
    y, x = (strided_window(*s) for s in sizes)
    return _windowed(node, (y, x))


@rule("adaptive_avg_pool2d", "adaptive_max_pool2d", "_adaptive_avg_pool2d")
def adaptive_pool(node: Node) -> Domain | None:
    value = node.meta["val"]
    size = (value if isinstance(value, Tensor) else value[0]).shape
    source = _source(node)
    if tuple(size[-2:]) == (1, 1):
        out = LETTERS[: len(size)]
        word = out[:-2] + out[-2:].upper()
        found = _join([(source, word)], out, size, independent=out[:-2])
        return found if isinstance(value, Tensor) else replace(found, parts=(found, found))
    windows = []
    for n_in, n_out in zip(shape(source)[-2:], size[-2:], strict=True):
        if n_in % n_out == 0:
            windows.append(strided_window(n_in, n_out, n_in // n_out, n_in // n_out))
        else:
            windows.append(matrix_window(adaptive_matrix(n_in, n_out)))
    return _windowed(node, (windows[0], windows[1]))


def adaptive_matrix(n_in: int, n_out: int) -> Any:
    """Adaptive average pooling along one axis as a matrix (n_out, n_in)."""
    eye = torch.eye(n_in, dtype=torch.float64)[:, None]
    return torch.nn.functional.adaptive_avg_pool1d(eye, n_out)[:, 0].T.numpy()


RESIZES = ("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_nearest_exact2d",
           "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")  # fmt: skip


def resize_matrix(node: Node, axis: int) -> Any:
    """A resize op along one axis (0: y, 1: x) as a matrix (n_out, n_in), found by resizing unit vectors."""
    source = _source(node)
    n_in, n_out = shape(source)[2 + axis], shape(node)[2 + axis]
    eye = torch.eye(n_in, dtype=torch.float64)[None, None]
    eye = eye.mT if axis == 0 else eye
    size = [n_out, n_in] if axis == 0 else [n_in, n_out]
    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    name = op_name(node.target).removeprefix("aten.")
    scale = None
    if "scale_factors" in names and argument(node, "scale_factors"):
        scale = argument(node, "scale_factors")[axis]
    elif "scales_h" in names:
        scale = argument(node, "scales_h" if axis == 0 else "scales_w")
    scales = [scale, None] if axis == 0 else [None, scale]
    overload = getattr(aten, name).default
    args = [argument(node, "align_corners")] if "align_corners" in names else []
    out = overload(eye, size, *args, *scales)[0, 0]
    return (out if axis == 0 else out.mT).numpy()


@rule(*RESIZES)
def resize(node: Node) -> Domain | None:
    source = _source(node)
    corners = "align_corners" in [a.name for a in node.target._schema.arguments] and argument(node, "align_corners")  # type: ignore[union-attr]
    windows = []
    for axis in range(2):
        n_in, n_out = shape(source)[2 + axis], shape(node)[2 + axis]
        window = matrix_window(resize_matrix(node, axis))
        if corners and n_out > 1 and n_in > 1:
            window = replace(window, ratio=Fraction(n_in - 1, n_out - 1), offset=Fraction(0))
        windows.append(window)
    if layout(source).is_global:
        return None
    return _windowed(node, (windows[0], windows[1]))


@rule("im2col")
def im2col(node: Node) -> Domain | None:
    source = _source(node)
    kernel, dilation, padding, stride = (_two(argument(node, n)) for n in ("kernel_size", "dilation", "padding", "stride"))
    seen = layout(source).as_map(2, 3)
    if seen is None or len(shape(source)) != 4:
        return None
    windows = []
    for n, k, d, p, s in zip(shape(source)[2:], kernel, dilation, padding, stride, strict=True):
        windows.append(strided_window(n, (n + 2 * p - d * (k - 1) - 1) // s + 1, k, s, p, d))
    grid = seen.grid.window(windows[0], windows[1])
    dims: tuple[Dim, ...] = (free(shape(node)[0]), free(shape(node)[1]), _row_major(grid))
    return Domain(Layout(grid, dims), WindowFlow(source, seen, windows[0], windows[1]))


@rule("unfold")
def unfold(node: Node) -> Domain | None:
    source = _source(node)
    was = layout(source)
    dim = argument(node, "dimension") % len(was.dims)
    size, step = argument(node, "size"), argument(node, "step")
    axis = _axis_of(was, dim)
    if not is_placed(was.dims[dim]):
        word = LETTERS[: len(was.dims)]
        out = word + LETTERS[len(was.dims)]
        kept = word.replace(word[dim], "")
        return _join([(source, _other(word, dim))], out, shape(node), independent=kept)
    if axis is None or was.map_dims is None:
        return None
    n = shape(source)[dim]
    other = was.grid.w if axis == "y" else was.grid.h
    along, across = strided_window(n, shape(node)[dim], size, step), strided_window(other, other, 1)
    y, x = (along, across) if axis == "y" else (across, along)
    grid = was.grid.window(y, x)
    dims = [*was.with_dim(dim, (Factor(axis, shape(node)[dim]),) if shape(node)[dim] > 1 else ()).dims, free(size)]
    return Domain(Layout(grid, tuple(dims)), WindowFlow(source, was, y, x))
