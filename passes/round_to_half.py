"""Round what an engine may keep in float16: the graph then gives on any machine what such an engine would give.

    y = Sigmoid(x)
 ->
    y.full = Sigmoid(x)
    y = Cast<FLOAT>(Cast<FLOAT16>(y.full))

Sums stay float32 inside a product, as tensor cores have them. Every tensor between two nodes is rounded, though an
engine keeps some in registers: the error found is the most that rounding makes. Left alone: what ops that are kept
make and read, unless another op reads it too, which then reads it rounded.
"""

from collections.abc import Collection

import onnx
from onnx import TensorProto, helper

from fluxcompile.passes.trt_graph import MOVES, float_tensors, inner_graphs, op_of

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
"""They keep their own scales."""


def round_to_half(model: onnx.ModelProto, kept: Collection[str]) -> int:
    """How many tensors are rounded. kept: the program's ops that stay float32."""
    rounding = _Rounding(float_tensors(model), kept)
    rounding.graph(model.graph)
    return rounding.count


class _Rounding:
    def __init__(self, floats: set[str], kept: Collection[str]) -> None:
        self.count = 0
        self._floats, self._kept = floats, kept
        self._half: set[str] = set()  # what is rounded as it is made
        self._halves: dict[str, str] = {}  # the rounded copy of what is not

    def graph(self, graph: onnx.GraphProto) -> None:
        nodes: list[onnx.NodeProto] = []
        outer = dict(self._halves)  # what a branch adds is not seen outside
        for node in graph.node:
            for inner in inner_graphs(node):
                self.graph(inner)
            if op_of(node) not in self._kept and not inner_graphs(node) and node.op_type not in QUANTIZERS:
                nodes += self._inputs(node)
                nodes += [node, *self._outputs(node)]
            else:
                nodes.append(node)
        del graph.node[:]
        graph.node.extend(nodes)
        self._halves = outer

    def _inputs(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        made = []
        for i, name in enumerate(node.input):
            if name not in self._floats or name in self._half:
                continue
            if name not in self._halves:
                self._halves[name] = f"{name}.half"
                made += self._pair(name, self._halves[name])
            node.input[i] = self._halves[name]
        return made

    def _outputs(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        made = []
        for i, name in enumerate(node.output):
            if name not in self._floats:
                continue
            self._half.add(name)
            if node.op_type not in MOVES:  # which have rounded inputs
                node.output[i] = f"{name}.full"
                made += self._pair(node.output[i], name)
        return made

    def _pair(self, source: str, out: str) -> list[onnx.NodeProto]:
        self.count += 1
        bits = f"{out}.bits"
        return [
            helper.make_node("Cast", [source], [bits], f"{out}/Round", to=TensorProto.FLOAT16),
            helper.make_node("Cast", [bits], [out], f"{out}/Widen", to=TensorProto.FLOAT),
        ]
