"""Which ops of a net keep more bits than its engine's precision, found on the machine that exports it.

A plan is made from a clip played through the lowered graph; `losses` tells what the bits that it spares cost.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fluxcompile.bundle import Kept
from fluxcompile.errors import ExportError
from fluxcompile.golden import Feed, Golden
from fluxcompile.passes.lower_tensorrt import Lowered
from fluxcompile.passes.quantize_products import quantizable, quantize_products
from fluxcompile.passes.trt_graph import (
    MOVES,
    all_nodes,
    float_tensors,
    inner_graphs,
    neighbours,
    op_of,
    ops_at_the_end,
)
from fluxcompile.program import Op, Program

HALF_MOST = 65504 / 2
"""The largest float16, with room for frames unlike the clip's."""
SUMS = ("layer_norm", "group_norm", "batch_norm", "softmax", "_softmax", "mean", "sum")
"""Ops that sum many values in the type they are in."""
NOISE_MOST = 0.05
MOVING = ("gather", "scatter", "reindex", "resample")
"""Ends of the names of our ops that compare nothing."""


@dataclass(frozen=True)
class Plan:
    """What an engine is built by.

    kept: the ops that have more bits than the rest. ranges: of those of eight bits, the largest magnitude they read.
    """

    kept: dict[str, Kept] = field(default_factory=dict)
    ranges: dict[str, float] = field(default_factory=dict)

    @property
    def floats(self) -> set[str]:
        return {op for op, kept in self.kept.items() if kept.precision == "fp32"}


def plan_precision(
    program: Program, lowered: Lowered, feeds: Sequence[Feed], precision: str, keep: Sequence[str] = ()
) -> Plan:
    """Which ops of a program keep more bits than an engine's precision, by what they are and by what the clip shows.

    keep: modules or ops that stay float32 as well, with their neighbours, by the names that `explain` prints.
    """
    nodes = list(lowered.model.graph.node)
    ops = {op.name: op for op in _all_ops(program.graphs["blocked"].ops)}
    asked = set(_named(ops.values(), keep))
    kept = {name: Kept("fp32", "asked for") for name in asked}
    if precision == "fp32":
        return Plan()
    why: dict[str, str] = {}
    for op in ops.values():
        space, name, *_ = f"{op.op}.".split(".")
        if name in SUMS:
            why[op.name] = "sums many values"
        elif space == "flux" and not name.endswith(MOVING):
            why[op.name] = "compares"
    for node in nodes:
        for inner in inner_graphs(node):
            for name in {op_of(n) for n in all_nodes(inner)}:
                why.setdefault(name, "in a dense region: its ranges are not looked at")
    for name in ops_at_the_end(nodes):
        why.setdefault(name, "no product follows: its numbers are those of results")
    for name in neighbours(lowered.model, asked, lowered.caches):
        why.setdefault(name, "next to a layer that was asked for: its numbers")
    ranges = ranges_over(lowered, feeds)
    for node in nodes:
        name, most = max(
            ((name, ranges[name]) for name in (*node.input, *node.output) if name in ranges),
            key=lambda pair: pair[1],
            default=("", 0.0),
        )
        if most > HALF_MOST:
            why.setdefault(op_of(node), f"too large for float16: {name} reaches {most:.3g}")
    kept = {name: Kept("fp32", reason) for name, reason in why.items() if name in ops} | kept
    if precision == "fp16":
        return Plan(kept)
    reads = {op_of(node): ranges[node.input[0]] for node in quantizable(lowered.model.graph)}
    for name, noise in noise_of_products(lowered, reads, feeds).items():
        if noise > NOISE_MOST:
            kept.setdefault(name, Kept("fp16", f"noise in eight bits: {100 * noise:.1f} % of what it gives"))
    return Plan(kept, {op: most for op, most in reads.items() if op not in kept})


def _all_ops(ops: Iterable[Op]) -> Iterable[Op]:
    for op in ops:
        yield op
        if op.body:
            yield from _all_ops(op.body.ops)


def _named(ops: Iterable[Op], names: Sequence[str]) -> list[str]:
    """The ops of modules, or of those names."""
    ops, found = list(ops), []
    for name in names:
        some = [op.name for op in ops if op.name == name or f"{op.path}.".startswith(f"{name}.")]
        if not some:
            raise ExportError(f"keep: the net has no module or op {name!r}; `fluxcompile explain` prints their names")
        found += some
    return found


# --- what a clip shows ---


def ranges_over(lowered: Lowered, feeds: Sequence[Feed]) -> dict[str, float]:
    """The largest magnitude over a clip of the floats that a frame brings, weights hold or nodes make."""
    model = _copied(lowered)
    floats = float_tensors(model)
    moved = {name for n in model.graph.node if n.op_type in MOVES for name in n.output}
    inside = [i.name for i in model.graph.input] + [name for n in model.graph.node for name in n.output]
    watched = [name for name in inside if name in floats and name not in moved]
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(np.finfo(np.float32).max, np.float32), "probe.top"),
            numpy_helper.from_array(np.zeros(1, np.float32), "probe.none"),
            numpy_helper.from_array(np.array([-1], np.int64), "probe.flat"),
        ]
    )
    for name in watched:
        # what is not finite counts as nothing, and so does a tensor without elements
        _append(model, "Abs", [name], f"{name}.abs")
        _append(model, "LessOrEqual", [f"{name}.abs", "probe.top"], f"{name}.finite")
        _append(model, "Where", [f"{name}.finite", f"{name}.abs", "probe.none"], f"{name}.clean")
        _append(model, "Reshape", [f"{name}.clean", "probe.flat"], f"{name}.line")
        _append(model, "Concat", [f"{name}.line", "probe.none"], f"{name}.some", axis=0)
        _append(model, "ReduceMax", [f"{name}.some"], f"{name}.most", keepdims=0)
    found = dict.fromkeys(watched, 0.0)
    for told in _told(model, lowered, [f"{name}.most" for name in watched], feeds):
        for name, most in zip(watched, told, strict=True):
            found[name] = max(found[name], most)
    for tensor in lowered.model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            value = np.abs(numpy_helper.to_array(tensor))
            found[tensor.name] = float(value[np.isfinite(value)].max(initial=0.0))
    return _carried(found, lowered.model.graph.node, moved)


def _carried(ranges: dict[str, float], nodes: Iterable[onnx.NodeProto], moved: Collection[str]) -> dict[str, float]:
    """The same and those of what was only moved: the largest of what it came from."""
    for node in nodes:
        for name in node.output:
            if name in moved:
                ranges[name] = max((ranges[source] for source in node.input if source in ranges), default=0.0)
    return ranges


def noise_of_products(lowered: Lowered, ranges: Mapping[str, float], feeds: Sequence[Feed]) -> dict[str, float]:
    """What eight bits do to each op that multiplies by weights: its own error over its output, root mean squares."""
    model = _copied(lowered)
    nodes = quantizable(model.graph)
    for node in nodes:
        twin = model.graph.node.add()
        twin.CopyFrom(node)
        twin.name, twin.output[0] = f"{op_of(node)}.twin/", f"{node.output[0]}.twin"
    quantize_products(model, {f"{op}.twin": most for op, most in ranges.items()})
    names = []
    for node in nodes:
        y = node.output[0]
        _append(model, "Sub", [y, f"{y}.twin"], f"{y}.error")
        for name in (f"{y}.error", y):
            _append(model, "ReduceSumSquare", [name], f"{name}.energy", keepdims=0)
            names.append(f"{name}.energy")
    energy = np.sum([*_told(model, lowered, names, feeds)], axis=0).reshape(-1, 2)
    return {
        op_of(node): float(np.sqrt(error / max(whole, 1e-30)))
        for node, (error, whole) in zip(nodes, energy, strict=True)
    }


def _copied(lowered: Lowered) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(lowered.model)
    return model


def _append(model: onnx.ModelProto, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
    model.graph.node.append(helper.make_node(kind, inputs, [output], f"{output}/", **attributes))


def _told(
    model: onnx.ModelProto, lowered: Lowered, names: Sequence[str], feeds: Iterable[Feed]
) -> Iterable[list[float]]:
    """The single numbers of those names, frame by frame."""
    known = {o.name for o in model.graph.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in names if name not in known
    )
    run = Golden(model.SerializeToString(), lowered.caches, names)
    for feed in feeds:
        yield [float(value) for value in run(feed)]
