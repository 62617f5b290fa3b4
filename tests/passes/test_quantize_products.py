"""Products read eight bits: by hand, in ONNX Runtime, and which are left alone."""

import numpy as np
import onnx
import onnx.parser
import pytest

from fluxcompile.golden import Golden
from fluxcompile.passes.quantize_products import quantizable, quantize_products

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
frame (float[1, 2] x) => (float[1, 2] y, float[1, 1] z)
<float[2, 2] w = {1.0, 0.5, -0.25, 2.0}>
{
    [linear] y = MatMul(x, w)
    [shape] t = Transpose(x)
    [score] z = MatMul(x, t)
}
"""


def made() -> onnx.ModelProto:
    return onnx.parser.parse_model(GRAPH)


def eight_bits(values: np.ndarray, most: np.ndarray | float) -> np.ndarray:
    step = np.float32(most) / np.float32(127)
    return np.clip(np.rint(values / step), -128, 127) * step


def test_weights_by_channel_and_inputs_by_range() -> None:
    model = made()
    assert quantize_products(model, {"linear": 3.0}) == 1
    assert [(n.op_type, n.name.partition("/")[0]) for n in model.graph.node] == [
        ("QuantizeLinear", "x.quantized"),
        ("DequantizeLinear", "x.quantized"),
        ("QuantizeLinear", "w.quantized"),
        ("DequantizeLinear", "w.quantized"),
        ("MatMul", "linear"),
        ("Transpose", "shape"),
        ("MatMul", "score"),
    ]
    onnx.checker.check_model(model)
    x = np.array([[1.234, -7.0]], np.float32)  # beyond the range: cut off
    w = np.array([[1.0, 0.5], [-0.25, 2.0]], np.float32)
    y, z = Golden(model.SerializeToString(), [], ["y", "z"])({"x": x})
    want = eight_bits(x, 3.0) @ eight_bits(w, np.array([1.0, 2.0]))
    np.testing.assert_allclose(y, want, rtol=1e-6)
    np.testing.assert_allclose(z, x @ x.T)  # of two computed tensors: as it was
    with pytest.raises(AssertionError):  # the control
        np.testing.assert_allclose(y, x @ w, rtol=1e-6)


def test_what_has_no_range_is_left_alone() -> None:
    model = made()
    assert quantize_products(model, {"score": 1.0}) == 0
    assert model == made()
    assert [n.name for n in quantizable(model.graph)] == ["linear"]


def test_channels_of_convolutions_lie_where_they_are() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    frame (float[1, 2, 3, 3] x) => (float[1, 3, 3, 3] a, float[1, 3, 3, 3] b, float[1, 4, 3, 3] c)
    <float[3, 2, 1, 1] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}, float[2, 3, 1, 1] v = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}>
    {
        [conv] a = Conv(x, w)
        [up] b = ConvTranspose(x, v)
        [apart] c = ConvTranspose <group = 2>(x, v)
    }
    """
    model = onnx.parser.parse_model(text.replace("float[1, 4, 3, 3] c", "float[1, 6, 3, 3] c"))
    assert quantize_products(model, {"conv": 1.0, "up": 1.0, "apart": 1.0}) == 2  # groups' channels lie along two axes
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_allclose(scales["w.scale"] * 127, [2, 4, 6], rtol=1e-6)
    np.testing.assert_allclose(scales["v.scale"] * 127, [4, 5, 6], rtol=1e-6)
    assert [n.op_type for n in model.graph.node].count("QuantizeLinear") == 3  # x is quantized once
    onnx.checker.check_model(model)
