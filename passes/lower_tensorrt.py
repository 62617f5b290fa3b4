"""Lower a program to ONNX for TensorRT: native layers on packed tiles, plugins at the seams, caches as state.

    %tiles: i64[4x2] = flux.tiles(%limit, %fresh, size=[32, 32], tile=[16, 16])
    %g: f32[4x3x33x33] = flux.halo_gather(%merge, %tiles, dims=[2, 3], step=[32, 32], start=[-1, -1], extent=[33, 33])
    %c: f32[4x8x16x16] = aten.conv2d(%g, @w, @b, stride=[2, 2])
    %y: f32[1x8x32x32] = flux.tile_scatter(%c, %moved, %tiles, dims=[2, 3], size=[16, 16])
 ->
    tiles = Cast<INT32>(Transpose(NonZero(Or(MaxPool(limit), fresh))))        int32 [n, 2]
    g = flux.halo_gather<dims = [2, 3], step = [32, 32], ...>(merge, tiles)
    c = Conv<strides = [2, 2]>(g, w, b)
    y = flux.tile_scatter<dims = [2, 3], size = [16, 16]>(c, moved, tiles)

The number of tiles is a dimension that NonZero finds while the engine runs: plugins of TensorRT 8.5 cannot return such
a shape, but take it. A dense region is an If. A radius is built in, as windows are; threshold and gate remain inputs.
With functions, any ONNX runtime runs the model; without them the nodes of domain `flux` are plugins.
"""

from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import helper

from fluxcompile.errors import ExportError
from fluxcompile.ops import TABLE
from fluxcompile.passes import trt_aten, trt_masks, trt_motion, trt_plugins, trt_windows
from fluxcompile.passes.trt_bodies import functions
from fluxcompile.passes.trt_call import Call, Resolver, onnx_type
from fluxcompile.passes.trt_pointwise import Rule
from fluxcompile.passes.trt_writer import BOOL, FLOAT, INT32, IR_VERSION, OPSET, Value, Writer
from fluxcompile.plugin_ops import DOMAIN
from fluxcompile.program import Graph, Input, Op, Program

RULES = {
    "aten": {**trt_aten.RULES, **trt_windows.RULES},
    "flux": {**trt_masks.RULES, **trt_motion.RULES, **trt_plugins.RULES},
}
SETTINGS = {"fresh": INT32, "threshold": FLOAT, "gate": FLOAT}
"""Inputs of one element each, whatever the program has them as: plain tensors for every version's bindings."""


@dataclass(frozen=True)
class Lowered:
    """The model and how to run it: `caches` are (input, output) names, `outputs` the names of the program's results.

    `overflow` names an int32 output that is 1 where a list was too short for a frame, whose outputs and caches then
    mean nothing; it is empty where every list has room. `work` names a float32 output, how many entries each of `lists`
    had, ops of the program; it is empty where there are none.
    """

    model: onnx.ModelProto
    caches: list[tuple[str, str]]
    outputs: list[str]
    overflow: str
    work: str
    lists: list[str]

    def without_functions(self) -> onnx.ModelProto:
        """The model for TensorRT with plugins."""
        found = onnx.ModelProto()
        found.CopyFrom(self.model)
        del found.functions[:]
        return found


def lower_tensorrt(program: Program, radius: int | None = None, capacity: float | None = None) -> Lowered:
    """The program's blocked graph as an ONNX model.

    radius: as in `Policy`. capacity: the share of all tiles or rows that lists have room for, so that shapes are known;
    None for lists as long as what they hold.
    """
    graph = program.graphs["blocked"]
    writer = Writer(capacity=capacity)
    resolver = Resolver(writer, program.constants)
    inputs = [_input(i, writer, resolver) for i in graph.inputs if i.role != "radius"]
    _write_ops(graph, writer, resolver, radius)
    outputs, caches = _outputs(graph, writer, resolver)
    overflow, work = _overflow(writer), _work(writer)
    used = {name for node in writer.nodes for name in _reads(node)}
    model = helper.make_model(
        helper.make_graph(
            writer.nodes,
            "frame",
            inputs,
            [_info(v) for v in {v.name: v for v in (*outputs, *overflow, *work, *(v for _, v in caches))}.values()],
            [t for t in writer.constants.values() if t.name in used],
        ),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        functions=list(functions().values()),
        ir_version=IR_VERSION,
        producer_name="fluxcompile",
    )
    return Lowered(
        model,
        [(c, v.name) for c, v in caches],
        [v.name for v in outputs],
        overflow[0].name if overflow else "",
        work[0].name if work else "",
        list(writer.counts),
    )


def _info(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, value.dtype, value.shape)


def _reads(node: onnx.NodeProto) -> list[str]:
    found = list(node.input)
    for attribute in node.attribute:
        found += [name for inner in attribute.g.node for name in _reads(inner)]
        found += [output.name for output in attribute.g.output]
    return found


def _input(spec: Input, writer: Writer, resolver: Resolver) -> onnx.ValueInfoProto:
    if spec.role in SETTINGS:
        given = Value(spec.name, SETTINGS[spec.role], (1,))
        writer.at = spec.name
        resolver.values[spec.name] = writer.cast(given, BOOL) if spec.role == "fresh" else given
    else:
        given = Value(spec.name, onnx_type(spec.dtype, f"input {spec.name}"), tuple(spec.shape))
        resolver.values[spec.name] = given
    return _info(given)


def _write_ops(graph: Graph, writer: Writer, resolver: Resolver, radius: int | None) -> None:
    for op in graph.ops:
        writer.at = op.name
        first = len(writer.nodes)
        if op.op == "getitem":
            source, index = op.args
            found = resolver(source)[index]
        elif op.body:
            found = _region(op, writer, resolver, radius)
        else:
            call = Call(op, _arguments(op), resolver, radius)
            if op.op == "flux.reach.default" and radius is None:
                continue  # nothing is limited
            found = _rule(op)(writer, call)
        # by the op, not by how many nodes were written: graphs with and without a capacity share their caches
        if isinstance(found, Value):
            found = writer.rename(found, op.name, first)
        elif op.op != "getitem":
            found = [writer.rename(value, f"{op.name}.{i}", first) for i, value in enumerate(found)]
        resolver.values[op.name] = found


def _rule(op: Op) -> Rule:
    namespace, name, _ = op.op.split(".")
    rule = RULES.get(namespace, {}).get(name)
    if rule is None:
        where = f" in {op.path}" if op.path else ""
        raise ExportError(
            f"{op.name}: {op.op}{where} has no lowering to ONNX; write it with other operators, "
            "or add a rule to passes/trt_aten.py"
        )
    return rule


def _arguments(op: Op) -> dict[str, Any]:
    """Every argument by name, those left at their default included."""
    namespace, name, overload = op.op.split(".")
    found = TABLE[name].overload if namespace == "flux" else getattr(getattr(torch.ops.aten, name), overload)
    arguments = found._schema.arguments
    given = dict(zip((a.name for a in arguments), op.args, strict=False)) | op.kwargs
    return {a.name: given.get(a.name, a.default_value if a.has_default_value() else None) for a in arguments}


def _region(op: Op, writer: Writer, resolver: Resolver, radius: int | None) -> list[Value]:
    """Ops that run whole, or not at all when nothing they read has changed."""
    assert op.body
    operands, misses, fresh, old = (resolver(a) for a in op.args)
    changed = writer.either(*(trt_masks.whole(writer, m) for m in misses), fresh)
    writer.counts[op.name] = writer.cast(changed, FLOAT)
    inner = Writer(writer)
    inside = Resolver(inner, resolver.constants)
    inside.values = dict(zip((i.name for i in op.body.inputs), operands, strict=True))
    _write_ops(op.body, inner, inside, radius)
    results = [inside(o) for o in op.body.outputs]
    kept = Writer(writer)
    branches = {
        "then_branch": _branch(inner, results, f"{op.name}.anew"),
        "else_branch": _branch(kept, old, f"{op.name}.kept"),
    }
    return writer.write("If", [changed], [(v.dtype, v.shape) for v in old], **branches)


def _branch(writer: Writer, results: list[Value], name: str) -> onnx.GraphProto:
    writer.at = name
    named = [writer.op("Identity", v) for v in results]
    return helper.make_graph(writer.nodes, name, [], [_info(v) for v in named])


def _outputs(graph: Graph, writer: Writer, resolver: Resolver) -> tuple[list[Value], list[tuple[str, Value]]]:
    """The results and the next caches, each a tensor of its own that a node makes."""
    made = {name for node in writer.nodes for name in node.output}
    fed: set[str] = set()

    def own(value: Value, name: str) -> Value:
        if value.name in made and value.name not in fed:
            fed.add(value.name)
            return value
        writer.at = name
        return writer.rename(writer.op("Identity", value), name, len(writer.nodes) - 1)

    caches = [(c, own(_one(resolver.values[v], v), f"next_{c}")) for c, v in graph.caches]
    fed.clear()  # a result may be a cache as well
    return [own(_one(resolver(o), f"output {i}"), f"output_{i}") for i, o in enumerate(graph.outputs)], caches


def _overflow(writer: Writer) -> list[Value]:
    """Whether any list was too short."""
    if not writer.overflows:
        return []
    writer.at = "overflow"
    first = len(writer.nodes)
    return [writer.rename(writer.cast(writer.either(*writer.overflows), INT32), "overflow", first)]


def _work(writer: Writer) -> list[Value]:
    """How many entries each list has."""
    if not writer.counts:
        return []
    writer.at = "work"
    first = len(writer.nodes)
    return [writer.rename(writer.concat(list(writer.counts.values()), 0), "work", first)]


def _one(value: Any, where: str) -> Value:
    if not isinstance(value, Value):
        raise ExportError(f"{where}: is no tensor but {value!r}; an engine's outputs are tensors")
    return value
