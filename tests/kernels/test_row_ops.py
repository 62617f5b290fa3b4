"""Pooling, resampling, pointwise chains, layer norm and softmax: each variant against torch over fuzzed shapes."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.compare import (
    VARIANTS,
    Array,
    assert_matches,
    cell_lists,
    cpu,
    gates,
    integers,
    margins,
    merged,
    reals,
    rows_of,
    slice_of,
    some_cells,
)

QUICK = settings(max_examples=40, deadline=None)
CHANNELS = st.sampled_from((1, 2, 7, 8, 9, 16, 31, 64, 67, 130))


def nchw(x: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None]


def nhwc(y: torch.Tensor) -> Array:
    return np.ascontiguousarray(y[0].permute(1, 2, 0).float().numpy())


def check(data: st.DataObject, want: Array, run: Any, x: Array, exact: bool) -> None:
    """Run on slices of wider maps; rows not listed and channels beside the slice stay as they were."""
    cells = data.draw(cell_lists(want.shape[0] * want.shape[1]))
    around_x, around_out = data.draw(margins()), data.draw(margins())
    cache = integers(1, *want.shape)
    out, whole = slice_of(cache, around_out.before, around_out.after)
    expected, _ = slice_of(merged(cache, cells, want), around_out.before, around_out.after)
    run(slice_of(x, around_x.before, around_x.after)[0], out, cells, **data.draw(gates(cells)))
    if exact:
        np.testing.assert_array_equal(whole, expected.base)
    else:
        assert_matches(whole, expected.base)


@pytest.mark.parametrize("variant", VARIANTS)
@QUICK
@given(data=st.data())
def test_pool(variant: str, data: st.DataObject) -> None:
    kernel, stride = (data.draw(st.tuples(*[st.integers(1, most)] * 2)) for most in (4, 3))
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    kind = data.draw(st.sampled_from(("max", "mean", "mean of all", "sum")))
    dilation = data.draw(st.tuples(*[st.integers(1, 3 if kind == "max" else 1)] * 2))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = [data.draw(st.integers(max(1, r - 2 * p), 14)) for r, p in zip(reach, padding, strict=True)]
    x = integers(data.draw(st.integers(0, 99)), *size, data.draw(CHANNELS))
    area = float(kernel[0] * kernel[1])
    dense = {
        "max": lambda: F.max_pool2d(nchw(x), kernel, stride, padding, dilation),
        "mean": lambda: F.avg_pool2d(nchw(x), kernel, stride, padding, count_include_pad=False),
        "mean of all": lambda: F.avg_pool2d(nchw(x), kernel, stride, padding, count_include_pad=True),
        "sum": lambda: F.avg_pool2d(nchw(x), kernel, stride, padding, divisor_override=1),
    }[kind]()
    taps = cpu.window_taps(kernel, padding, dilation)
    options = {"stride": stride, "divisor": area if kind == "mean of all" else 0.0}
    run = lambda x, out, cells, **gate: cpu.pool2d(variant, kind.split()[0], taps, x, out, cells, **options, **gate)  # noqa: E731
    check(data, nhwc(dense), run, x, exact=kind in ("max", "sum"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_pool_of_nothing(variant: str) -> None:
    """A window of which no tap lies in the map is -inf to torch's max_pool2d, and 0 to its avg_pool2d."""
    x, cells = np.ones((1, 1, 5), np.float32), np.zeros(1, np.int32)
    for kind, want in (("max", -np.inf), ("mean", 0), ("sum", 0)):
        out = np.ones_like(x)
        cpu.pool2d(variant, kind, cpu.window_taps((1, 2), (0, 1), (1, 3)), x, out, cells)
        assert out.ravel().tolist() == [want] * 5


@pytest.mark.parametrize("variant", VARIANTS)
def test_pool_keeps_nan(variant: str) -> None:
    x, cells = np.zeros((1, 6, 9), np.float32), np.arange(6, dtype=np.int32)
    x[0, 3, 8] = x[0, 0, 0] = np.nan
    out = np.zeros_like(x)
    cpu.pool2d(variant, "max", cpu.window_taps((1, 3), (0, 1)), x, out, cells)
    np.testing.assert_array_equal(out, nhwc(F.max_pool2d(nchw(x), (1, 3), 1, (0, 1))))
    assert np.isnan(out).sum() == 5


@pytest.mark.parametrize("variant", VARIANTS)
@QUICK
@given(data=st.data())
def test_resample(variant: str, data: st.DataObject) -> None:
    sides = st.tuples(st.integers(1, 9), st.integers(1, 9))
    size, wanted = data.draw(sides), data.draw(sides)
    x = reals(data.draw(st.integers(0, 99)), *size, data.draw(CHANNELS))
    mode, corners = data.draw(st.sampled_from((("nearest", False), ("bilinear", False), ("bilinear", True))))
    options = {} if mode == "nearest" else {"align_corners": corners}
    dense = F.interpolate(nchw(x), size=wanted, mode=mode, **options)
    name = mode.removeprefix("bi")
    tables = [cpu.axis_table(name, i, o, corners) for i, o in zip(size, wanted, strict=True)]
    run = lambda x, out, cells, **gate: cpu.resample2d(variant, *tables, x, out, cells, **gate)  # noqa: E731
    check(data, nhwc(dense), run, x, exact=mode == "nearest")


@pytest.mark.parametrize("variant", VARIANTS)
def test_resample_leaves_out_negative_taps(variant: str) -> None:
    x, out = reals(0, 3, 4, 5), np.zeros((2, 1, 5), np.float32)
    y = (np.array([[0, 1, 2], [2, -1, -1]], np.int32), np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    along = (np.array([[1, -5]], np.int32), np.array([[2, 9]], np.float32))
    cpu.resample2d(variant, y, along, x, out, np.arange(2, dtype=np.int32))
    assert_matches(out[0, 0], 2 * (x[0, 1] + 2 * x[1, 1] + 3 * x[2, 1]))
    assert_matches(out[1, 0], 8 * x[2, 1])


TERMS = {
    "add": lambda v, o: v + o,
    "sub": lambda v, o: v - o,
    "rsub": lambda v, o: o - v,
    "mul": lambda v, o: v * o,
    "max": np.maximum,
    "min": np.minimum,
}


@pytest.mark.parametrize("variant", VARIANTS)
@QUICK
@given(data=st.data())
def test_pointwise(variant: str, data: st.DataObject) -> None:
    side = st.integers(1, 6)
    size = data.draw(st.tuples(side, side, st.sampled_from((1, 3, 8, 19, 513, 1030))))
    x = integers(0, *size)
    want, terms = x, []
    for i, name in enumerate(data.draw(st.lists(st.sampled_from((*TERMS, "scale", "relu", "prelu")), max_size=4))):
        if name == "scale":
            want, term = want * 2 - 1, (name, 2.0, -1.0, None)
        elif name == "relu":
            want, term = np.maximum(want, 0), (name, 0.0, 0.0, None)
        else:
            shapes = ((size[2],),) if name == "prelu" else (size, (*size[:2], 1), (size[2],))
            other = integers(i + 1, *data.draw(st.sampled_from(shapes)), most=2)
            want = np.where(want < 0, want * other, want) if name == "prelu" else TERMS[name](want, other)
            if other.ndim == 3:
                around = data.draw(margins())
                other, _ = slice_of(other, around.before, around.after)
            term = (name, 0.0, 0.0, other)
        terms.append(term)
    run = lambda x, out, cells, **gate: cpu.pointwise(variant, terms, x, out, cells, **gate)  # noqa: E731
    check(data, want, run, x, exact=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pointwise_in_place_divides_and_activates(variant: str) -> None:
    x, other = reals(0, 5, 7, 21), np.abs(reals(1, 5, 7, 21)) + 1
    for cells in some_cells(35):
        out = x.copy()
        cpu.pointwise(variant, [("silu", 0, 0, None), ("div", 0, 0, other)], out, out, cells)
        assert_matches(out, merged(x, cells, F.silu(torch.from_numpy(x)).numpy() / other))


@pytest.mark.parametrize("variant", VARIANTS)
@QUICK
@given(data=st.data())
def test_layer_norm(variant: str, data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 12), st.sampled_from((1, 2, 7, 8, 33, 192, 387))))
    x = integers(data.draw(st.integers(0, 99)), *size, most=9) + 5  # reals of two channels may all but cancel
    channels = size[2]
    gamma, beta = (reals(i, channels) if data.draw(st.booleans()) else None for i in (1, 2))
    tensors = [None if v is None else torch.from_numpy(v).double() for v in (gamma, beta)]
    want = F.layer_norm(torch.from_numpy(x).double(), (channels,), *tensors, eps=1e-5).float().numpy()
    run = lambda x, out, cells, **gate: cpu.layer_norm(variant, gamma, beta, 1e-5, x, out, cells, **gate)  # noqa: E731
    check(data, want, run, x, exact=False)


@pytest.mark.parametrize("variant", VARIANTS)
@QUICK
@given(data=st.data())
def test_softmax(variant: str, data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 12), st.sampled_from((1, 7, 8, 33, 400))))
    x = reals(data.draw(st.integers(0, 99)), *size) * data.draw(st.sampled_from((1, 30, 1000)))
    want = F.softmax(torch.from_numpy(x).double() * 0.5, -1).float().numpy()
    run = lambda x, out, cells, **gate: cpu.softmax(variant, 0.5, x, out, cells, **gate)  # noqa: E731
    check(data, want, run, x, exact=False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gates(variant: str) -> None:
    """Every op that writes rows holds them back alike."""
    x, cells = reals(0, 6, 7, 20), np.arange(42, dtype=np.int32)
    table = [cpu.axis_table("nearest", n, n) for n in (6, 7)]
    runs = {
        "pool": lambda out, **gate: cpu.pool2d(variant, "max", cpu.window_taps((3, 3), (1, 1)), x, out, cells, **gate),
        "resample": lambda out, **gate: cpu.resample2d(variant, *table, x, out, cells, **gate),
        "pointwise": lambda out, **gate: cpu.pointwise(variant, [("relu", 0, 0, None)], x, out, cells, **gate),
        "layer_norm": lambda out, **gate: cpu.layer_norm(variant, None, None, 1e-5, x, out, cells, **gate),
        "softmax": lambda out, **gate: cpu.softmax(variant, 1.0, x, out, cells, **gate),
    }
    for name, run in runs.items():
        want = np.zeros_like(x)
        run(want)
        cache = want.copy()
        cache[::2, :, 7] += 1
        cache[1::2, :, 7] += np.float32(0.25)
        out, changed = cache.copy(), np.full(42, 7, np.uint8)
        run(out, gate="largest", bound=0.5, changed=changed)
        np.testing.assert_array_equal(changed.reshape(6, 7)[:, 0], [1, 0] * 3, err_msg=name)
        np.testing.assert_array_equal(out, merged(cache, cells[changed == 1], want), err_msg=name)
        assert not np.array_equal(rows_of(out, cells[changed == 0]), rows_of(want, cells[changed == 0]))
