"""ONNX operators that move elements or make constants: reshape, slice, gather, scatter, shape arithmetic."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fluxcompile.passes.onnx_values import TYPES, Operator, axes_of, constant, ints, known, refuse

_slice = torch.ops.aten.slice.Tensor


def reshape(x: Tensor, shape: Tensor | Sequence[int], *, allowzero: int = 0) -> Tensor:
    wanted = ints(shape, "shape of Reshape")
    if not allowzero:
        wanted = [x.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return x if wanted == list(x.shape) else torch.reshape(x, wanted)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 1 and x.ndim > 1:
        return x if x.ndim == 2 else torch.flatten(x, 1)
    return torch.reshape(x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


def squeeze(x: Tensor, axes: Tensor | Sequence[int] | None = None) -> Tensor:
    dims = [i for i, size in enumerate(x.shape) if size == 1] if axes is None else axes_of(x, axes)
    for dim in dims:
        if x.shape[dim] != 1:
            raise refuse(f"Squeeze of axis {dim} of size {x.shape[dim]}", "the file is inconsistent: re-export it")
    return torch.squeeze(x, dims) if dims else x


def unsqueeze(x: Tensor, axes: Tensor | Sequence[int]) -> Tensor:
    dims = ints(axes, "axes of Unsqueeze")
    for dim in sorted(dim % (x.ndim + len(dims)) for dim in dims):
        x = torch.unsqueeze(x, dim)
    return x


def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    order = list(reversed(range(x.ndim))) if perm is None else list(perm)
    return x if order == list(range(x.ndim)) else torch.permute(x, order)


def expand(x: Tensor, shape: Tensor) -> Tensor:
    target = list(torch.broadcast_shapes(x.shape, ints(shape, "shape of Expand")))
    return x if target == list(x.shape) else x.expand(target)


def tile(x: Tensor, repeats: Tensor) -> Tensor:
    counts = ints(repeats, "repeats of Tile")
    return x if set(counts) <= {1} else torch.tile(x, counts)


def concat(*xs: Tensor, axis: int = 1) -> Tensor:
    return xs[0] if len(xs) == 1 else torch.cat(xs, axis)


def split(
    x: Tensor,
    split: Tensor | Sequence[int] | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    outputs: int,
) -> list[Tensor]:
    size = -(-x.shape[axis] // (num_outputs or outputs))
    parts = torch.split(x, size if split is None else ints(split, "split sizes"), axis)
    return [parts[i] for i in range(outputs)]


def cut(x: Tensor, axis: int, start: int, end: int, step: int = 1) -> Tensor:
    """x[start:end:step] along one axis, by Python's rules for a positive step; nothing where that is all of x."""
    start, end, step = slice(start, end, step).indices(x.shape[axis])
    if (start, step) == (0, 1) and end == x.shape[axis]:
        return x
    part: Tensor = _slice(x, axis, start, max(start, end), step)
    return part


def slice_(
    x: Tensor,
    starts: Tensor | Sequence[int],
    ends: Tensor | Sequence[int],
    axes: Tensor | Sequence[int] | None = None,
    steps: Tensor | Sequence[int] | None = None,
) -> Tensor:
    first, last = ints(starts, "starts of Slice"), ints(ends, "ends of Slice")
    dims = list(range(len(first))) if axes is None else axes_of(x, axes, "axes of Slice")
    strides = [1] * len(first) if steps is None else ints(steps, "steps of Slice")
    for dim, start, end, step in zip(dims, first, last, strides, strict=True):
        if step > 0:
            x = cut(x, dim, start, end, step)
            continue
        taken = range(*slice(start, max(end, -x.shape[dim] - 1), step).indices(x.shape[dim]))
        x = take(x, dim, torch.tensor(taken, dtype=torch.int64))
    return x


def take(x: Tensor, axis: int, index: Tensor) -> Tensor:
    """Entries of one axis by a constant list of places: a slice or a flip where that says the same."""
    places = index.tolist()
    if places and places == list(range(places[0], places[0] + len(places))):
        return cut(x, axis, places[0], places[0] + len(places))
    if places == list(reversed(range(x.shape[axis]))):
        return torch.flip(x, [axis])
    return torch.index_select(x, axis, index)


def gather(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    axis %= x.ndim
    index = _from_front(index, x.shape[axis])
    if known(index) and index.ndim == 0 and not known(x):
        return torch.select(x, axis, int(index.item()))
    if axis == 0 and x.ndim == 2 and not known(index):
        return F.embedding(index, x)
    flat = torch.reshape(index, [-1])
    taken = take(x, axis, flat) if known(index) else torch.index_select(x, axis, flat)
    return torch.reshape(taken, [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]]) if index.ndim != 1 else taken


def _from_front(index: Tensor, size: int) -> Tensor:
    index = index if index.dtype == torch.int64 else index.to(torch.int64)
    if known(index):
        if index.numel() and not -size <= int(index.min()) <= int(index.max()) < size:
            raise refuse(f"an index outside an axis of size {size}", "the file is inconsistent: re-export it")
        return torch.where(index < 0, index + size, index)
    return torch.where(torch.lt(index, 0), torch.add(index, size), index)


def gather_elements(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, _from_front(index, x.shape[axis]))


def _index_tuple(x: Tensor, indices: Tensor, batch_dims: int) -> tuple[Tensor, ...]:
    """The index tensors x[...] takes, out of ONNX index vectors along the last axis."""
    shape = indices.shape[:-1]
    grids = torch.meshgrid(*(torch.arange(size) for size in shape[:batch_dims]), indexing="ij") if batch_dims else ()
    batch = [grid.reshape(*grid.shape, *[1] * (len(shape) - batch_dims)).expand(shape) for grid in grids]
    columns = [torch.select(indices, -1, i) for i in range(indices.shape[-1])]
    return (*batch, *(_from_front(column, x.shape[batch_dims + i]) for i, column in enumerate(columns)))


def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    taken: Tensor = torch.ops.aten.index.Tensor(x, list(_index_tuple(x, indices, batch_dims)))
    return taken


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    if reduction not in ("none", "add"):
        raise refuse(f"reduction={reduction}", "only none and add are supported")
    return torch.index_put(x, _index_tuple(x, indices, 0), updates, accumulate=reduction == "add")


def scatter_elements(x: Tensor, index: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    index = _from_front(index, x.shape[axis])
    if reduction == "none":
        return torch.scatter(x, axis, index, updates)
    kinds = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return torch.scatter_reduce(x, axis, index, updates, kinds[reduction])


def pad_index(size: int, begin: int, end: int, mode: str) -> Tensor:
    """Which places of an axis a padded axis shows."""
    kept = np.arange(size)[max(0, -begin) : size + min(0, end)]
    kinds = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    return torch.from_numpy(np.pad(kept, (max(0, begin), max(0, end)), mode=kinds[mode]))  # type: ignore[call-overload]


def pad(
    x: Tensor,
    pads: Tensor | Sequence[int],
    value: Tensor | float | None = 0.0,
    axes: Tensor | Sequence[int] | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    amounts = ints(pads, "pads of Pad")
    dims = list(range(x.ndim)) if axes is None else axes_of(x, axes, "axes of Pad")
    begin, end = [0] * x.ndim, [0] * x.ndim
    for i, dim in enumerate(dims):
        begin[dim], end[dim] = amounts[i], amounts[i + len(dims)]
    padded = [i for i in range(x.ndim) if begin[i] or end[i]]
    if not padded:
        return x
    if mode == "constant":
        given = value if isinstance(value, (float, int)) or value is None else constant(value, "fill of Pad").item()
        return F.pad(x, spread(begin[padded[0] :], end[padded[0] :]), "constant", given or 0)
    if mode not in ("reflect", "edge", "wrap"):
        raise refuse(f"mode={mode}", "only constant, reflect, edge and wrap are supported")
    inside = all(max(begin[i], end[i]) < x.shape[i] and min(begin[i], end[i]) >= 0 for i in padded)
    if mode != "wrap" and inside and 3 <= x.ndim <= 5 and padded[0] >= 2 and x.dtype.is_floating_point:
        return F.pad(x, spread(begin[2:], end[2:]), "reflect" if mode == "reflect" else "replicate")
    for i in padded:
        x = take(x, i, pad_index(x.shape[i], begin[i], end[i], mode))
    return x


def spread(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Padding as F.pad takes it: pairs, last axis first."""
    return [amount for pair in zip(reversed(begin), reversed(end), strict=True) for amount in pair]


def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    blocks = torch.reshape(x, [n, blocksize, blocksize, c // blocksize**2, h, w])
    rows = torch.permute(blocks, [0, 3, 4, 1, 5, 2])
    return torch.reshape(rows, [n, c // blocksize**2, h * blocksize, w * blocksize])


def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "CRD":
        return F.pixel_unshuffle(x, blocksize)
    n, c, h, w = x.shape
    blocks = torch.reshape(x, [n, c, h // blocksize, blocksize, w // blocksize, blocksize])
    return torch.reshape(
        torch.permute(blocks, [0, 3, 5, 1, 2, 4]), [n, c * blocksize**2, h // blocksize, w // blocksize]
    )


def trilu(x: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    diagonal = 0 if k is None else int(constant(k, "k of Trilu").item())
    return (torch.triu if upper else torch.tril)(x, diagonal)


def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


def constant_of_shape(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    fill = torch.zeros(1) if value is None else value
    return torch.full(ints(shape, "shape of ConstantOfShape"), fill.item(), dtype=fill.dtype)


def constant_node(
    *,
    value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Tensor:
    if value is not None:
        return value
    floats, integers = (
        value_floats if value_float is None else value_float,
        value_ints if value_int is None else value_int,
    )
    return torch.tensor(floats, dtype=torch.float32) if integers is None else torch.tensor(integers, dtype=torch.int64)


def range_(start: Tensor, limit: Tensor, delta: Tensor, *, stash_type: int = 1) -> Tensor:
    first, last, step = (constant(x, "a bound of Range").item() for x in (start, limit, delta))
    count = max(0, math.ceil((last - first) / step))
    return torch.add(torch.mul(torch.arange(count).to(start.dtype), step), first).to(start.dtype)


def one_hot(index: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    classes = int(constant(depth, "depth of OneHot").item())
    off, on = constant(values, "values of OneHot")
    axis = axis % (index.ndim + 1)
    places = torch.arange(classes).reshape([-1 if i == axis else 1 for i in range(index.ndim + 1)])
    hot = torch.eq(torch.unsqueeze(_in_range(index, classes), axis), places)
    return torch.where(hot, on, off)


def _in_range(index: Tensor, size: int) -> Tensor:
    """Negative indices count from the end; those outside [-size, size) match nothing."""
    index = index if index.dtype == torch.int64 else index.to(torch.int64)
    return torch.where(torch.lt(index, 0), torch.add(index, size), index)


def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    rows, columns = x.shape
    ones = torch.diag_embed(torch.ones(rows + columns + abs(k)), k)
    return ones[:rows, :columns].to(x.dtype if dtype is None else TYPES[dtype])


def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(constant(x, "NonZero: how many places it finds")).t()


LAYOUT: dict[str, Operator] = {
    "Concat": concat,
    "Constant": constant_node,
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "EyeLike": eye_like,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "NonZero": non_zero,
    "OneHot": one_hot,
    "Pad": pad,
    "Range": range_,
    "Reshape": reshape,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Shape": shape,
    "Size": lambda x: torch.tensor(math.prod(x.shape), dtype=torch.int64),
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": trilu,
    "Unsqueeze": unsqueeze,
}
