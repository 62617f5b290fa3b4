"""The mask algebra of a program in ONNX's own words: which rows miss, which tiles and rows to list.

A rule takes the writer and a call of the op it is named after. Masks are bool (rows). Maxima run over
float32, which every version of TensorRT reduces.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fluxcompile.geometry import near_pixels
from fluxcompile.ops import split_letters
from fluxcompile.passes.trt_call import Call
from fluxcompile.passes.trt_rows import Array, dependence, entries, pooling_of, view_of
from fluxcompile.passes.trt_writer import BOOL, FLOAT, INT32, INT64, Value, Writer

LEAST = 16
"""Entries that any list has room for: small maps cost little, and change all over when anything does."""
MOST = 3840
"""Entries that TensorRT's TopK gives."""
LOWEST = float(np.finfo(np.float32).min)
"""What stands where a window reads nothing."""


def rows_any(w: Writer, mask: Value, table: Array) -> Value:
    """bool[len(table)]: whether any of the rows listed for it is set."""
    rows, k = table.shape
    size = mask.shape[0]
    if k == 1 and np.array_equal(table[:, 0], np.arange(size)):
        return mask
    if k == size:
        return everywhere(w, whole(w, mask), rows)
    # not every version gathers booleans
    listed = w.gather(w.cast(mask, FLOAT), int32(w, table if k > 1 else table[:, 0]), 0)
    return w.cast(w.reduce("ReduceMax", listed, [1]) if k > 1 else listed, BOOL)


def whole(w: Writer, mask: Value) -> Value:
    """bool[1]: whether anything of it is set."""
    flat = w.reshape(mask, [-1], [int(np.prod(mask.shape))])
    if flat.shape == (1,):
        return flat
    return w.cast(w.reduce("ReduceMax", w.cast(flat, FLOAT), [0], keepdims=True), BOOL)


def everywhere(w: Writer, mask: Value, rows: int) -> Value:
    return mask if rows == 1 else w.op("Expand", mask, w.ints([rows]), shape=[rows])


def int32(w: Writer, values: Any) -> Value:
    return w.constant(np.asarray(values, np.int32))


def window_max(w: Writer, field: Value, reads: Sequence[Array]) -> Value:
    """float (h, w) -> the largest that each window reads, LOWEST where it reads nothing."""
    pools = [pooling_of(r, n) for r, n in zip(reads, field.shape, strict=True)]
    y, x = pools
    if y is not None and x is not None:
        if (y.kernel, y.stride, x.kernel, x.stride) == (1, 1, 1, 1):
            return field
        out = [len(r) for r in reads]
        pooled = w.op(
            "MaxPool",
            w.unsqueeze(field, [0, 1]),
            shape=[1, 1, *out],
            kernel_shape=[y.kernel, x.kernel],
            strides=[y.stride, x.stride],
            pads=[y.before, x.before, y.after, x.after],
        )
        return w.reshape(pooled, out)
    for axis, table in enumerate(reads):
        n = field.shape[axis]
        edge = list(field.shape)
        edge[axis] = 1
        padded = w.concat([field, w.constant(np.full(edge, LOWEST, np.float32))], axis)
        read = w.gather(padded, int32(w, np.where(table < 0, n, table)), axis)
        field = w.reduce("ReduceMax", read, [axis + 1])
    return field


def window_any(w: Writer, mask: Value, size: Sequence[int], reads: Sequence[Array]) -> Value:
    """bool[rows]: whether a window reads anything that is set of a map of `size` cells."""
    found = window_max(w, w.cast(w.reshape(mask, size), FLOAT), reads)
    return w.reshape(w.op("Greater", found, w.constant(np.float32(0)), dtype=BOOL), [found.shape[0] * found.shape[1]])


# --- misses ---


def miss_input(w: Writer, call: Call) -> Value:
    frame, reference = (seen(w, call[x], call["layout"]) for x in ("frame", "reference"))
    change = w.op("Abs", w.broadcast("Sub", *(w.cast(x, FLOAT) for x in (frame, reference))))
    differs = w.op("Not", w.broadcast("LessOrEqual", change, call["threshold"], dtype=BOOL))
    return w.either(w.any(differs, [0, 2]), call["fresh"])


def seen(w: Writer, x: Value, layout: str) -> Value:
    """The tensor as (outer, rows, inner)."""
    view = view_of(layout)
    turned = w.transpose(w.reshape(x, view.split), view.order) if not view.is_plain else x
    return w.reshape(turned, view.sizes)


def miss_join(w: Writer, call: Call) -> Value:
    words, out = split_letters(call["letters"])
    tables = (dependence(a, b, out, call["out_layout"]) for a, b in zip(words, call["layouts"], strict=True))
    found = [rows_any(w, miss, table) for miss, table in zip(call["misses"], tables, strict=True)]
    return w.either(*dict.fromkeys(found))


def miss_window(w: Writer, call: Call) -> Value:
    return window_any(w, call["miss"], call["size"], [call.table("reads_y"), call.table("reads_x")])


def miss_remap(w: Writer, call: Call) -> Value:
    rows = call.table("rows")
    found = rows_any(w, call["miss"], rows.clip(0)[:, None])
    return found if (rows >= 0).all() else w.broadcast("And", found, w.constant(rows >= 0))


def miss_any(w: Writer, call: Call) -> Value:
    return everywhere(w, w.either(*(whole(w, m) for m in call["misses"])), call["rows"])


def merge(w: Writer, call: Call) -> Value:
    new = call["new"]
    view = view_of(call["layout"])
    if not view.is_plain:
        spread = w.reshape(call["miss"], [1, view.sizes[1], 1])
        mixed = w.broadcast("Where", spread, *(seen(w, call[x], call["layout"]) for x in ("new", "old")))
        return unseen(w, mixed, call["layout"], new.shape)
    # sizes of the places alone, so that the mask broadcasts against the tensor as it is
    return w.broadcast("Where", w.reshape(call["miss"], call.places("layout")), new, call["old"])


def unseen(w: Writer, x: Value, layout: str, shape: Sequence[int]) -> Value:
    """What `seen` did, undone."""
    view = view_of(layout)
    if view.is_plain:
        return w.reshape(x, shape)
    turned = w.reshape(x, [view.split[i] for i in view.order])
    return w.reshape(w.transpose(turned, [int(i) for i in np.argsort(view.order)]), shape)


def reach(w: Writer, call: Call) -> Value:
    assert call.radius is not None, "without a radius nothing is limited"
    reads = []
    for n in call["size"]:
        taps = np.arange(n)[:, None] + np.arange(-call.radius, call.radius + 1)
        reads.append(np.where((taps >= 0) & (taps < n), taps, -1))
    return window_any(w, call["miss"], call["size"], reads)


def limit(w: Writer, call: Call) -> Value:
    miss: Value = call["miss"]
    if call.radius is None:
        return miss
    reads = []
    for axis in zip(call["size"], call["frame"], call["scale"], call["origin"], strict=True):
        first, last = near_pixels(*axis)
        taps = first[:, None] + np.arange((last - first).max())
        reads.append(np.where(taps < last[:, None], taps, -1))
    near = w.once(
        ("near", call["reach"], *call["size"], *call["scale"], *call["origin"]),
        lambda: window_any(w, call["reach"], call["frame"], reads),
    )
    return w.broadcast("And", miss, near)


# --- lists ---


def tiles(w: Writer, call: Call) -> Value:
    (h, width), tile = call["size"], call["tile"]
    reads = []
    for n, t in ((h, tile[0]), (width, tile[1])):
        taps = np.arange(-(-n // t) * t).reshape(-1, t)
        reads.append(np.where(taps < n, taps, -1))
    count = [len(r) for r in reads]
    mask = w.either(w.reshape(window_any(w, call["miss"], [h, width], reads), [count[0] * count[1]]), call["fresh"])
    index = listed(w, mask)
    y = w.broadcast("Div", index, int32(w, count[1]))
    x = w.broadcast("Sub", index, w.broadcast("Mul", y, int32(w, count[1])))
    return w.concat([w.unsqueeze(y, [1]), w.unsqueeze(x, [1])], 1)


def rows(w: Writer, call: Call) -> Value:
    table = entries(call["layout"], call["dim"])
    mask = w.either(rows_any(w, call["miss"], table), call["fresh"])
    return listed(w, everywhere(w, mask, len(table)) if mask.shape[0] < len(table) else mask)


def listed(w: Writer, mask: Value) -> Value:
    """int32[n]: where the mask is set, in order. With a capacity n is fixed, and places not needed lie past the end."""
    size = mask.shape[0]
    count = w.counts[w.at] = w.reduce("ReduceSum", w.cast(mask, FLOAT), [0], keepdims=True)
    if w.capacity is None:
        places = w.op("NonZero", mask, shape=[1, size], dtype=INT64)
        return w.cast(w.reshape(places, [-1], [size]), INT32)
    most = max(math.ceil(w.capacity * size), min(LEAST, size))
    places = int32(w, np.arange(size))
    if most < size:
        most = min(most, MOST)
        rank = w.broadcast(
            "Where", mask, w.constant(np.arange(size, 0, -1).astype(np.float32)), w.constant(np.float32(0))
        )
        _, first = w.write("TopK", [rank, w.ints([most])], [(FLOAT, [most]), (INT64, [most])], axis=0)
        places = w.cast(first, INT32)
        w.overflows.append(w.broadcast("Greater", count, w.constant(np.float32(most)), dtype=BOOL))
        mask = w.cast(w.gather(w.cast(mask, FLOAT), places, 0), BOOL)
    found = w.broadcast("Where", mask, places, int32(w, size))
    return replace(found, shape=(size,))  # shapes are told as if everything were listed, here as elsewhere


def hold(w: Writer, call: Call) -> Value:
    new: Value = call["new"]
    cache: Value = call["cache"]
    if not new.is_float:
        return new
    flat = [w.reshape(x, [-1], [int(np.prod(x.shape))]) for x in (w.op("Sub", new, cache), new, cache)]
    moved, size, was = (w.reduce("ReduceL2", x, [0], keepdims=True) for x in flat)
    near = w.broadcast("LessOrEqual", moved, w.broadcast("Mul", call["gate"], was), dtype=BOOL)
    # a norm that is no number, or none that float32 holds: what is new is taken
    top = w.constant(np.float32(np.finfo(np.float32).max))
    finite = w.broadcast("And", *(w.broadcast("LessOrEqual", x, top, dtype=BOOL) for x in (size, was)))
    held = w.broadcast("And", w.broadcast("And", near, finite), w.op("Not", call["fresh"]))
    return w.broadcast("Where", held, cache, new)


RULES = {
    rule.__name__: rule
    for rule in (
        miss_input,
        miss_join,
        miss_window,
        miss_remap,
        miss_any,
        merge,
        reach,
        limit,
        tiles,
        rows,
        hold,
    )
}
