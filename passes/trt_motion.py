"""Where content lay in the last frame, in ONNX's own words: shifts of grids, sources of rows, what moved apart.

Lengths are compared in whole units, so that maps of different scales agree exactly.
"""

from collections.abc import Sequence

import numpy as np

from fluxcompile.geometry import parse_layout
from fluxcompile.ops import split_letters
from fluxcompile.passes.trt_call import Call
from fluxcompile.passes.trt_masks import LOWEST, everywhere, int32, rows_any, whole, window_max
from fluxcompile.passes.trt_rows import Array, dependence, in_units
from fluxcompile.passes.trt_writer import BOOL, FLOAT, INT32, Value, Writer


def shift_at(w: Writer, call: Call) -> Value:
    size, scales = call["size"], call["scale"]
    motion = call["motion"]
    at = []
    for n, s, o, blocks in zip(size, scales, call["origin"], motion.shape[1:], strict=True):
        at.append((np.floor((np.arange(n) * s + o) / call["block"])).clip(0, blocks - 1).astype(np.int32))
    field = w.gather(w.gather(motion, int32(w, at[0]), 1), int32(w, at[1]), 2)
    cells, inside = [], []
    for axis, (n, s) in enumerate(zip(size, scales, strict=True)):
        pixels = w.cast(w.gather(field, int32(w, axis), 0), FLOAT)
        cell = w.cast(w.op("Round", w.broadcast("Div", pixels, w.constant(np.float32(s)))), INT32)
        place = np.arange(n, dtype=np.int32).reshape([n, 1] if axis == 0 else [1, n])
        source = w.broadcast("Add", cell, w.constant(place))
        inside += [
            w.broadcast("GreaterOrEqual", source, int32(w, 0), dtype=BOOL),
            w.broadcast("Less", source, int32(w, n), dtype=BOOL),
        ]
        cells.append(cell)
    kept = inside[0]
    for more in inside[1:]:
        kept = w.broadcast("And", kept, more)
    shifts = [w.unsqueeze(w.broadcast("Where", kept, c, int32(w, 0)), [0]) for c in cells]
    return w.reshape(w.concat(shifts, 0), [2, size[0] * size[1]])


def source(w: Writer, call: Call) -> Value:
    shift = call["shift"]
    dy, dx = (w.gather(shift, int32(w, axis), 0) for axis in range(2))
    step = w.broadcast("Add", w.broadcast("Mul", dy, int32(w, call["width"])), dx)
    return w.broadcast("Add", step, int32(w, np.arange(shift.shape[1])))


def chain_source(w: Writer, call: Call) -> Value:
    parts, first = [], 0
    for part in (w.cast(s, INT32) for s in call["sources"]):
        parts.append(w.broadcast("Add", part, int32(w, first)) if first else part)
        first += part.shape[0]
    return w.concat(parts, 0)


def apart_join(w: Writer, call: Call) -> Value:
    words, out = split_letters(call["letters"])
    found = []
    for i, (shift, word, layout) in enumerate(zip(call["shifts"], words, call["layouts"], strict=True)):
        table = dependence(word, layout, out, call["out_layout"])
        places = parse_layout(layout).row_index().shape
        if any(c not in out and n > 1 for c, n in zip(word, places, strict=True)):
            found.append(rows_any(w, moves(w, shift), table))
            continue
        for axis in range(2):
            own_unit, unit = in_units(call["out_scale"][axis], call["scales"][2 * i + axis])
            own = w.unsqueeze(along(w, call["out"], axis, own_unit), [1])
            read = w.gather(along(w, shift, axis, unit), int32(w, table), 0)
            found.append(w.any(w.differ(read, own), [1]))
    return w.either(*found)


def along(w: Writer, shift: Value, axis: int, unit: int) -> Value:
    """int32[rows]: one axis of a shift, in units of which a cell has so many."""
    return w.broadcast("Mul", w.gather(shift, int32(w, axis), 0), int32(w, unit))


def moves(w: Writer, shift: Value) -> Value:
    """bool[rows]: the rows that do not lie where they lay."""
    return w.any(w.differ(shift, int32(w, 0)), [0])


def apart_window(w: Writer, call: Call) -> Value:
    reads = [call.table("reads_y"), call.table("reads_x")]
    size, out_size = call["size"], [len(r) for r in reads]
    found = []
    for axis in range(2):
        own_unit, unit = in_units(call["out_scale"][axis], call["scale"][axis])
        own = w.cast(w.reshape(along(w, call["out"], axis, own_unit), out_size), FLOAT)
        read = w.cast(w.reshape(along(w, call["shift"], axis, unit), size), FLOAT)
        for x, y in ((read, own), (w.op("Neg", read), w.op("Neg", own))):
            most = window_max(w, x, reads)
            apart = w.differ(most, y)
            if any((r < 0).all(1).any() for r in reads):
                apart = w.broadcast("And", apart, w.op("Greater", most, w.constant(np.float32(LOWEST)), dtype=BOOL))
            found.append(apart)
        found.append(_over_other_edge(w, call, axis, reads[axis], out_size))
    return w.reshape(w.either(*found), [out_size[0] * out_size[1]])


def _over_other_edge(w: Writer, call: Call, axis: int, reads: Array, out_size: Sequence[int]) -> Value:
    """bool (h, w): where the window lay over the map's edge in another way than it does now."""
    n, taps = reads.shape
    move = w.reshape(w.gather(call["out"], int32(w, axis), 0), out_size)
    ratio = w.constant(np.float32(call["out_scale"][axis] / call["scale"][axis]))
    cells = w.unsqueeze(w.cast(w.op("Round", w.broadcast("Mul", w.cast(move, FLOAT), ratio)), INT32), [2])
    line = [n, 1] if axis == 0 else [1, n]
    place = w.broadcast("Add", move, int32(w, np.arange(n).reshape(line)))
    place = w.broadcast("Max", w.broadcast("Min", place, int32(w, n - 1)), int32(w, 0))
    was = w.gather(int32(w, reads), place, 0)
    now = reads.reshape(*line, taps)
    differs = w.differ(was, int32(w, now))
    jumped = w.differ(w.broadcast("Sub", was, int32(w, now)), cells)
    outside = w.either(w.broadcast("Less", was, int32(w, 0), dtype=BOOL), w.constant(now < 0))
    at_edge = w.broadcast("And", outside, differs)
    return w.any(w.either(at_edge, w.broadcast("And", w.op("Not", outside), jumped)), [2])


def apart_remap(w: Writer, call: Call) -> Value:
    rows = call.table("rows")
    came = w.gather(w.cast(call["source"], INT32), int32(w, rows.clip(0)), 0)
    came = w.broadcast("Where", w.constant(rows >= 0), came, int32(w, -1))
    return w.differ(came, w.gather(int32(w, rows), call["out"], 0))


def apart_any(w: Writer, call: Call) -> Value:
    return everywhere(w, w.either(*(whole(w, moves(w, s)) for s in call["shifts"])), call["rows"])


RULES = {
    rule.__name__: rule for rule in (shift_at, source, chain_source, apart_join, apart_window, apart_remap, apart_any)
}
