"""Let products read eight bits: weights by channel, what they are multiplied with by the range it had over a clip.

    y = Conv(x, w, b)
 ->
    x8 = DequantizeLinear(QuantizeLinear(x, x_scale, 0), x_scale, 0)
    w8 = DequantizeLinear(QuantizeLinear(w, w_scale, 0), w_scale, 0)     axis = 0
    y = Conv(x8, w8, b)

Both are symmetric, as TensorRT has them, which folds the nodes around a product into it. Left alone: products of two
computed tensors, ops without a range, what lies in a branch.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fluxcompile.passes.trt_graph import Weights, held, op_of
from fluxcompile.passes.trt_writer import Array

WEIGHT_AXES = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}
"""The products with weights, and the axis of their output channels."""
LEVELS = 127
LEAST = 1e-12
"""Of a range, so that a scale is never zero."""


def quantize_products(model: onnx.ModelProto, ranges: Mapping[str, float], weights: Weights = held) -> int:
    """How many products read eight bits now. ranges: the largest magnitude that an op's product reads, by the op."""
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    writer = _Writer()
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        if op_of(node) in ranges and _is_quantizable(node, constants):
            x, w, axis = node.input[0], node.input[1], WEIGHT_AXES[node.op_type]
            nodes += writer.eight_bits(x, np.array(max(ranges[op_of(node)], LEAST) / LEVELS, np.float32), None)
            nodes += writer.eight_bits(w, _channel_scales(weights(constants[w]), axis), axis)
            node.input[0], node.input[1] = writer.names[x], writer.names[w]
            count += 1
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(writer.made)
    return count


def quantizable(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The products of something computed and weights."""
    constants = {t.name: t for t in graph.initializer}
    return [node for node in graph.node if _is_quantizable(node, constants)]


def _is_quantizable(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    if node.op_type not in WEIGHT_AXES or node.input[0] in constants or node.input[1] not in constants:
        return False
    if node.op_type == "ConvTranspose":  # channels of groups lie along two axes
        return not any(a.name == "group" and a.i != 1 for a in node.attribute)
    return node.op_type == "Conv" or len(constants[node.input[1]].dims) == 2


def _channel_scales(weights: Array, axis: int) -> Array:
    others = tuple(i for i in range(weights.ndim) if i != axis)
    most: Array = np.maximum(np.abs(weights).max(others), LEAST).astype(np.float32)
    return most / np.float32(LEVELS)


class _Writer:
    """Writes the nodes around a tensor once; `names` is what a tensor is called behind them."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.made: list[onnx.TensorProto] = []

    def eight_bits(self, name: str, scale: Array, axis: int | None) -> list[onnx.NodeProto]:
        if name in self.names:
            return []
        self.names[name] = f"{name}.dequantized"
        zero = np.zeros(np.shape(scale), np.int8)
        self.made += [
            numpy_helper.from_array(np.asarray(scale), f"{name}.scale"),
            numpy_helper.from_array(zero, f"{name}.zero"),
        ]
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        by = [f"{name}.scale", f"{name}.zero"]
        return [
            helper.make_node(
                "QuantizeLinear", [name, *by], [f"{name}.quantized"], f"{name}.quantized/Quantize", **attributes
            ),
            helper.make_node(
                "DequantizeLinear",
                [f"{name}.quantized", *by],
                [self.names[name]],
                f"{name}.quantized/Dequantize",
                **attributes,
            ),
        ]
