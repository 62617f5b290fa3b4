"""Rounding to float16 between nodes: by hand, in ONNX Runtime, and what is left alone."""

import numpy as np
import onnx
import onnx.parser
import pytest

from fluxcompile.golden import Golden
from fluxcompile.passes.round_to_half import round_to_half

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
frame (float[3] x) => (float[3] y, float[3] z)
<float[1] tenth = {0.1}, float[1] big = {3000.0}>
{
    [scaled] a = Mul(x, tenth)
    [moved] y = Identity(a)
    [raised] b = Add(a, big)
    [lowered] z = Sub(b, big)
}
"""
X = np.array([0.1, 1.0, 7.7], np.float32)


def run(kept: set[str]) -> tuple[int, np.ndarray, np.ndarray]:
    model = onnx.parser.parse_model(GRAPH)
    count = round_to_half(model, kept)
    onnx.checker.check_model(model)
    y, z = Golden(model.SerializeToString(), [], ["y", "z"])({"x": X})
    return count, y, z


def half(x: np.ndarray | float) -> np.ndarray:
    return np.float32(np.float16(x))


def test_every_tensor_is_rounded_once() -> None:
    count, y, z = run(set())
    assert count == 6  # x, the two constants, a, b and z; what is only moved is rounded already
    a = half(half(X) * half(0.1))
    b = half(a + half(3000.0))
    np.testing.assert_array_equal(y, a)
    np.testing.assert_array_equal(z, half(b - half(3000.0)))
    assert np.abs(z - X * 0.1).max() > 0.1  # what it is there to show


def test_ops_that_are_kept_read_and_make_all_bits() -> None:
    count, y, z = run({"raised", "lowered"})
    a = half(half(X) * half(0.1))
    assert count == 3
    np.testing.assert_array_equal(y, a)
    np.testing.assert_array_equal(z, (a + np.float32(3000)) - np.float32(3000))


def test_another_op_reads_what_is_kept_rounded() -> None:
    _, y, _ = run({"scaled"})
    np.testing.assert_array_equal(y, half(X * np.float32(0.1)))
    with pytest.raises(AssertionError):  # the control
        np.testing.assert_array_equal(y, X * np.float32(0.1))


def test_all_kept_changes_nothing() -> None:
    model = onnx.parser.parse_model(GRAPH)
    assert round_to_half(model, {"scaled", "moved", "raised", "lowered"}) == 0
    assert model == onnx.parser.parse_model(GRAPH)


def test_branches_are_rounded_and_too_large_a_number_is_lost() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    frame (float[3] x, bool[1] c) => (float[3] y)
    {
        [region] y = If(c) <
            then_branch = anew () => (float[3] t) { [square] s = Mul(x, x) [fourth] t = Mul(s, s) },
            else_branch = kept () => (float[3] e) { [same] e = Identity(x) }
        >
    }
    """
    model = onnx.parser.parse_model(text)
    round_to_half(model, set())
    run = Golden(model.SerializeToString(), [], ["y"])
    (y,) = run({"x": np.array([1.001, 15, 17], np.float32), "c": np.array([True])})
    assert y[0] == half(half(half(1.001) ** 2) ** 2)
    assert y[1:].tolist() == [half(15**4), np.inf]  # 17 to the fourth is beyond 65504
    (y,) = run({"x": np.array([1.001, 15, 17], np.float32), "c": np.array([False])})
    np.testing.assert_array_equal(y, half([1.001, 15, 17]))
