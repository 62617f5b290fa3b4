"""The flux ops that are plugins in a TensorRT graph: nodes of domain `flux`, named and ordered as in `ops`.

What an op takes differs from `ops` where a plugin could not take it: lists and masks are int32, as no plugin may have a
tensor of bool, single values are tensors of one element rather than none, and in place of a layout stands `view`:
(outer, rows, inner), the sizes under which the elements of a tensor lie so that [:, r, :] is row r. All other flux ops
are spelled in ONNX's own.

What a list names past the end of its map or tokens is left out: such tiles and rows are neither read from, whatever is
then gathered, nor scattered.

A type is f32, i32 or T, which stands for f32 or f16, the same throughout one node. `n` is a length that only a
frame tells (tiles or rows listed), and may be 0. Every node also carries `plugin_version` and `plugin_namespace`.
"""

from dataclasses import dataclass

DOMAIN = "flux"
"""Of the nodes, and the namespace of the plugins."""
VERSION = "1"
"""Of every plugin; raised when an engine made for an older one would be misread."""


@dataclass(frozen=True)
class Port:
    """An input or output: its type and, dimension by dimension, its shape; "..." stands for any number of them."""

    name: str
    dtype: str
    shape: str


@dataclass(frozen=True)
class PluginOp:
    """One plugin. `attributes` maps a name to its kind: int, float, or how many ints."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    attributes: dict[str, str]


_VIEW = {"view": "3 ints"}
_TILES = Port("tiles", "i32", "n 2")  # (y, x) in tiles

PLUGIN_OPS: dict[str, PluginOp] = {
    op.name: op
    for op in (
        PluginOp(
            # dims: where h and w are, w right after h, neither first. clamp: 0 or 1. fill may be -inf.
            "halo_gather",
            (Port("x", "T", "batch ... h w ..."), _TILES),
            (Port("gathered", "T", "n*batch ... extent_y extent_x ..."),),
            {
                "dims": "2 ints",
                "step": "2 ints",
                "start": "2 ints",
                "extent": "2 ints",
                "fill": "float",
                "clamp": "int",
            },
        ),
        PluginOp(
            "tile_scatter",
            (Port("tile", "T", "n*batch ... size_y size_x ..."), Port("cache", "T", "batch ... h w ..."), _TILES),
            (Port("laid", "T", "batch ... h w ..."),),
            {"dims": "2 ints", "size": "2 ints"},
        ),
        PluginOp(
            # dim: the one that `rows` index.
            "row_scatter",
            (Port("row", "T", "... n ..."), Port("cache", "T", "... d ..."), Port("rows", "i32", "n")),
            (Port("tokens", "T", "... d ..."),),
            {"dim": "int"},
        ),
        PluginOp(
            # moved[:, r, :] = cache[:, source[r], :]; source is never out of range.
            "motion_reindex",
            (Port("cache", "T", "..."), Port("source", "i32", "rows")),
            (Port("moved", "T", "..."),),
            _VIEW,
        ),
        PluginOp(
            # With gate 0 any change passes, NaN included; else the bound is gate times new's standard deviation
            # (unbiased, over all its elements).
            "gate",
            (Port("new", "T", "..."), Port("old", "T", "..."), Port("miss", "i32", "rows"), Port("gate", "f32", "1")),
            (Port("changed", "i32", "rows"),),
            _VIEW,
        ),
        PluginOp(
            # A tap of -1 reads nothing. Rows of the tables beyond the map's last are the last.
            "resample",
            (
                Port("x", "T", "1 c h w"),
                _TILES,
                Port("taps_y", "i32", "out_h taps"),
                Port("weights_y", "f32", "out_h taps"),
                Port("taps_x", "i32", "out_w taps"),
                Port("weights_x", "f32", "out_w taps"),
            ),
            (Port("resampled", "T", "n c tile_y tile_x"),),
            {"tile": "2 ints"},
        ),
        PluginOp(
            "correct_attention",
            (
                Port("q", "T", "1 heads queries channels"),
                Port("k", "T", "1 heads keys channels"),
                Port("v", "T", "1 heads keys values"),
                Port("k_old", "T", "1 heads keys channels"),
                Port("v_old", "T", "1 heads keys values"),
                Port("numerator", "f32", "1 heads queries values"),
                Port("denominator", "f32", "1 heads queries 1"),
                Port("offset", "f32", "1 heads queries 1"),
                Port("changed_queries", "i32", "n"),
                Port("changed_keys", "i32", "n"),
                Port("changed_values", "i32", "n"),
                Port("fresh", "i32", "1"),
            ),
            (
                Port("output", "T", "1 heads queries values"),
                Port("next_numerator", "f32", "1 heads queries values"),
                Port("next_denominator", "f32", "1 heads queries 1"),
                Port("next_offset", "f32", "1 heads queries 1"),
            ),
            {"scale": "float"},
        ),
    )
}
