"""What passes over a lowered graph ask of it: which op of the program a node is of, types of tensors, what follows."""

from collections.abc import Callable, Iterator, Sequence

import onnx
from onnx import TensorProto, numpy_helper, shape_inference

from fluxcompile.passes.trt_writer import Array

PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Einsum")
"""Where the multiply-adds are."""
MOVES = {
    *("Concat", "Expand", "Gather", "Identity", "MaxPool", "Neg", "Pad", "Relu", "Reshape", "Slice", "Squeeze"),
    *("Transpose", "Unsqueeze", "Where", "halo_gather", "motion_reindex", "row_scatter", "tile_scatter"),
}
"""Nodes whose outputs hold numbers of their inputs and no others, but for a sign or a zero."""
Weights = Callable[[TensorProto], Array]
"""The numbers of an initializer, which may lie in another file."""


def op_of(node: onnx.NodeProto) -> str:
    """The program's op that a node was written for."""
    return node.name.partition("/")[0]


def inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The branches of an If."""
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of branches after the If they belong to."""
    for node in graph.node:
        yield node
        for inner in inner_graphs(node):
            yield from all_nodes(inner)


def float_tensors(model: onnx.ModelProto) -> set[str]:
    """The names of all float32 tensors: inputs, constants and what nodes make, in branches too."""
    inferred = shape_inference.infer_shapes(model).graph
    found: set[str] = set()

    def collect(graph: onnx.GraphProto) -> None:
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                found.add(value.name)
        found.update(t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT)
        for node in graph.node:
            for inner in inner_graphs(node):
                collect(inner)

    collect(inferred)
    return found


def ops_at_the_end(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """The ops that no product follows: they turn what the net found into numbers of its results."""
    followed: set[str] = set()
    ends: dict[str, bool] = {}
    for node in reversed(nodes):
        leads = node.op_type in PRODUCTS or any(name in followed for name in node.output)
        if leads or inner_graphs(node):
            followed.update(node.input)
            leads = True
        ends[op_of(node)] = ends.get(op_of(node), True) and not leads
    return {op for op, is_end in ends.items() if is_end}


def neighbours(model: onnx.ModelProto, ops: set[str], caches: Sequence[tuple[str, str]]) -> set[str]:
    """The ops that make what others read, or read what they make, and those that only move it in between.

    caches: (input, output) names; what a frame leaves in one is moved on in the next.
    """
    nodes = list(model.graph.node)
    made_by = {name: node for node in nodes for name in node.output}
    read_by: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            read_by.setdefault(name, []).append(node)
    after, before = {value: cache for cache, value in caches}, dict(caches)
    found: set[str] = set()
    for ports in ("input", "output"):
        names = [name for node in nodes if op_of(node) in ops for name in getattr(node, ports)]
        seen = set(names)
        while names:
            name = names.pop()
            if ports == "input":
                near = [made_by[name]] if name in made_by else []
                more = [before[name]] if name in before else []
            else:
                near, more = read_by.get(name, []), [after[name]] if name in after else []
            found.update(op_of(node) for node in near)
            more += [n for node in near if node.op_type in MOVES for n in getattr(node, ports)]
            names += [n for n in more if n not in seen]
            seen.update(more)
    return found - ops


def held(tensor: TensorProto) -> Array:
    """The numbers of an initializer that lies in the model itself."""
    return numpy_helper.to_array(tensor)
