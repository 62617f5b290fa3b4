"""The flux ops that become plugin nodes: their operands in the order and the views `plugin_ops` asks for."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fluxcompile.passes.trt_call import Call
from fluxcompile.passes.trt_masks import int32, seen, unseen
from fluxcompile.passes.trt_rows import view_of
from fluxcompile.passes.trt_writer import BOOL, FLOAT, INT32, Value, Writer
from fluxcompile.plugin_ops import DOMAIN, PLUGIN_OPS, VERSION


def plugin(
    w: Writer, name: str, inputs: Sequence[Value], outputs: Sequence[tuple[int, Sequence[int]]], **attributes: Any
) -> list[Value]:
    assert attributes.keys() == PLUGIN_OPS[name].attributes.keys()
    return w.write(name, inputs, outputs, domain=DOMAIN, plugin_version=VERSION, plugin_namespace=DOMAIN, **attributes)


def halo_gather(w: Writer, call: Call) -> Value:
    order = _maps_last(call["dims"], len(call["x"].shape))
    x, dims = _turned(w, call["x"], call["dims"], order)
    shape = [call.shape[i] for i in order] if order else call.shape
    (out,) = plugin(
        w,
        "halo_gather",
        [x, call["tiles"]],
        [(x.dtype, shape)],
        dims=dims,
        step=call["step"],
        start=call["start"],
        extent=call["extent"],
        fill=float(call["fill"]),
        clamp=int(call["clamp"]),
    )
    return _turned_back(w, out, order)


def tile_scatter(w: Writer, call: Call) -> Value:
    order = _maps_last(call["dims"], len(call["cache"].shape))
    cache, dims = _turned(w, call["cache"], call["dims"], order)
    tile, _ = _turned(w, w.cast(call["tile"], cache.dtype), dims, order)
    operands = [tile, cache, call["tiles"]]
    (out,) = plugin(w, "tile_scatter", operands, [(cache.dtype, cache.shape)], dims=dims, size=call["size"])
    return _turned_back(w, out, order)


def _maps_last(dims: Sequence[int], rank: int) -> list[int]:
    """The order of dimensions that brings a map's to the end; none where they lie side by side after the batch."""
    y, x = dims
    if y >= 1 and x == y + 1:
        return []
    return [*(i for i in range(rank) if i not in (y, x)), y, x]


def _turned(w: Writer, x: Value, dims: Sequence[int], order: Sequence[int]) -> tuple[Value, list[int]]:
    rank = len(x.shape)
    return (w.transpose(x, order), [rank - 2, rank - 1]) if order else (x, list(dims))


def _turned_back(w: Writer, x: Value, order: Sequence[int]) -> Value:
    return w.transpose(x, [int(i) for i in np.argsort(order)]) if order else x


def row_scatter(w: Writer, call: Call) -> Value:
    cache = call["cache"]
    dim = call["dim"] % len(cache.shape)
    operands = [w.cast(call["row"], cache.dtype), cache, call["rows"]]
    return plugin(w, "row_scatter", operands, [(cache.dtype, cache.shape)], dim=dim)[0]


def _in_view(w: Writer, layout: str, *operands: Value) -> list[Value]:
    """The operands as they are where a view sees them so, else as (outer, rows, inner)."""
    return list(operands) if view_of(layout).is_plain else [seen(w, x, layout) for x in operands]


def motion_reindex(w: Writer, call: Call) -> Value:
    layout = call["layout"]
    (cache,) = _in_view(w, layout, call["cache"])
    view = list(view_of(layout).sizes)
    (moved,) = plugin(
        w, "motion_reindex", [cache, w.cast(call["source"], INT32)], [(cache.dtype, cache.shape)], view=view
    )
    return moved if view_of(layout).is_plain else unseen(w, moved, layout, call.shape)


def gate(w: Writer, call: Call) -> Value:
    layout, miss = call["layout"], call["miss"]
    new, old = _in_view(w, layout, *(w.cast(call[x], FLOAT) for x in ("new", "old")))
    # without a spread, whatever differs at all has changed
    bound = call["gate"] if call["new"].is_float else w.constant(np.zeros(1, np.float32))
    operands = [new, old, w.cast(miss, INT32), bound]
    (changed,) = plugin(w, "gate", operands, [(INT32, miss.shape)], view=list(view_of(layout).sizes))
    return w.cast(changed, BOOL)


def resample(w: Writer, call: Call) -> Value:
    tables = []
    for axis in "yx":
        tables += [int32(w, call.table(f"taps_{axis}")), w.constant(call.table(f"weights_{axis}").astype(np.float32))]
    x = call["x"]
    return plugin(w, "resample", [x, call["tiles"], *tables], [(x.dtype, call.shape)], tile=call["tile"])[0]


def correct_attention(w: Writer, call: Call) -> list[Value]:
    names = ("q", "k", "v", "k_old", "v_old", "numerator", "denominator", "offset", "queries", "keys", "values")
    outputs = [(FLOAT, shape) for _, shape in call.types]
    fresh = w.cast(w.reshape(call["fresh"], [1]), INT32)
    return plugin(w, "correct_attention", [*(call[n] for n in names), fresh], outputs, scale=float(call["scale"]))


RULES: dict[str, Callable[[Writer, Call], Value | list[Value]]] = {
    "halo_gather": halo_gather,
    "tile_scatter": tile_scatter,
    "row_scatter": row_scatter,
    "motion_reindex": motion_reindex,
    "gate": gate,
    "resample": resample,
    "correct_attention": correct_attention,
}
