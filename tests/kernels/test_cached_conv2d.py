"""Each variant of the convolution against torch in double, and against the plain oracle, over fuzzed shapes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcompile.kernels.pack import pack_conv2d, pack_conv_transpose2d
from tests.kernels.compare import (
    VARIANTS,
    Array,
    Margins,
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
)

QUICK = settings(max_examples=60, deadline=None)

ACTS = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "mish": F.mish,
}
ACTS_OF_A = {"leaky": F.leaky_relu, "elu": F.elu}


@dataclass
class Case:
    """A convolution of integers: input map, weights and window, with the output's size."""

    x: Array
    weight: Array
    bias: Array
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # left, right, top, bottom, as F.pad has it
    dilation: tuple[int, int]
    groups: int
    size: tuple[int, int]

    def packed(self, variant: str) -> Any:
        return pack_conv2d(
            variant,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=(self.padding[2], self.padding[0]),
            dilation=self.dilation,
            groups=self.groups,
        )

    def dense(self) -> Array:
        x = F.pad(torch.from_numpy(self.x).double().permute(2, 0, 1)[None], self.padding)
        weight, bias = torch.from_numpy(self.weight).double(), torch.from_numpy(self.bias).double()
        y = F.conv2d(x, weight, bias, self.stride, 0, self.dilation, self.groups)
        return y[0].permute(1, 2, 0).float().numpy()


@st.composite
def cases(draw: st.DrawFn, depthwise: bool = False) -> Case:
    size = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    groups = size(2, 40) if depthwise else draw(st.sampled_from((1, 1, 1, 2, 3)))
    per_in, per_out = (1, 1) if depthwise else (size(1, 9), draw(st.sampled_from((1, 3, 8, 9, 16, 17, 32, 37))))
    kernel, stride, dilation, extent, before, after = ([], [], [], [], [], [])
    out = []
    for _ in range(2):
        kernel.append(draw(st.sampled_from((1, 3, 3, 2, 5))))
        stride.append(size(1, 3))
        dilation.append(draw(st.sampled_from((1, 1, 2))))
        before.append(size(0, 3))
        after.append(size(0, 3))
        reach = (kernel[-1] - 1) * dilation[-1] + 1
        extent.append(size(max(1, reach - before[-1] - after[-1]), 17))
        out.append((extent[-1] + before[-1] + after[-1] - reach) // stride[-1] + 1)
    seed = size(0, 1 << 16)
    return Case(
        integers(seed, *extent, groups * per_in),
        integers(seed, groups * per_out, per_in, *kernel),
        integers(seed, groups * per_out),
        (stride[0], stride[1]),
        (before[1], after[1], before[0], after[0]),
        (dilation[0], dilation[1]),
        groups,
        (out[0], out[1]),
    )


def check(variant: str, case: Case, cells: Array, around_x: Margins, around_out: Margins, **gate: Any) -> None:
    want = case.dense()
    assert want.shape[:2] == case.size
    cache = integers(1, *want.shape)
    x, _ = slice_of(case.x, around_x.before, around_x.after)
    out, whole = slice_of(cache, around_out.before, around_out.after)
    expected, _ = slice_of(merged(cache, cells, want), around_out.before, around_out.after)
    cpu.conv2d(case.packed(variant), x, out, cells, **gate)
    np.testing.assert_array_equal(whole, expected.base)


@pytest.mark.parametrize("variant", VARIANTS)
@QUICK
@given(data=st.data())
def test_equals_torch(variant: str, data: st.DataObject) -> None:
    case = data.draw(cases())
    cells = data.draw(cell_lists(case.size[0] * case.size[1]))
    check(variant, case, cells, data.draw(margins()), data.draw(margins()), **data.draw(gates(cells)))


@pytest.mark.parametrize("variant", VARIANTS)
@QUICK
@given(data=st.data())
def test_depthwise_equals_torch(variant: str, data: st.DataObject) -> None:
    case = data.draw(cases(depthwise=True))
    cells = data.draw(cell_lists(case.size[0] * case.size[1]))
    check(variant, case, cells, data.draw(margins()), data.draw(margins()), **data.draw(gates(cells)))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 7, 13, 14, 15, 29, 167, 168, 169, 400])
def test_every_length_of_list(variant: str, rows: int) -> None:
    """Each remainder of a tile and of a block of rows."""
    x, weight, bias = integers(0, 20, 20, 5), integers(0, 21, 5, 3, 3), integers(0, 21)
    case = Case(x, weight, bias, (1, 1), (1, 1, 1, 1), (1, 1), 1, (20, 20))
    check(variant, case, np.arange(rows, dtype=np.int32), Margins(0, 0), Margins(0, 0))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("per_in", "per_out"), [(2, 5), (2, 17), (3, 41), (1, 1)])
def test_lines(variant: str, kernel: int, stride: int, per_in: int, per_out: int) -> None:
    """Wide panels and narrow ones take turns over rows in lines, group by group; lines of every length."""
    groups, half = 3 if per_out > 1 else 21, kernel // 2
    x, weight = integers(0, 40, 45, groups * per_in), integers(1, groups * per_out, per_in, kernel, kernel)
    size = (-(-40 // stride), -(-45 // stride))
    case = Case(x, weight, integers(2, groups * per_out), (stride, stride), (half,) * 4, (1, 1), groups, size)
    lines = [y * size[1] + np.arange(min(y, 3), min(2 * y + 1, size[1])) for y in range(size[0])]
    check(variant, case, np.concatenate(lines).astype(np.int32), Margins(0, 0), Margins(0, 0))


@pytest.mark.parametrize("variant", VARIANTS)
@QUICK
@given(data=st.data())
def test_transposed_equals_torch(variant: str, data: st.DataObject) -> None:
    groups, per_in, per_out = (data.draw(st.integers(1, most)) for most in (2, 5, 20))
    axes = []
    for _ in range(2):
        kernel, stride, dilation = (data.draw(st.integers(1, most)) for most in (5, 3, 2))
        padding, inputs = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 7))
        extra = data.draw(st.integers(0, max(stride, dilation) - 1))
        padding = min(padding, ((inputs - 1) * stride + (kernel - 1) * dilation + extra) // 2)
        axes.append((kernel, stride, dilation, padding, inputs, extra))
    kernel, stride, dilation, padding, inputs, extra = zip(*axes, strict=True)
    x, bias = integers(2, *inputs, groups * per_in), integers(4, groups * per_out)
    weight = integers(3, groups * per_in, per_out, *kernel)
    dense = F.conv_transpose2d(
        torch.from_numpy(x).permute(2, 0, 1)[None].double(), torch.from_numpy(weight).double(),
        torch.from_numpy(bias).double(), stride, padding, extra, groups, dilation,
    )  # fmt: skip
    want = dense[0].permute(1, 2, 0).float().numpy()
    cells = data.draw(cell_lists(want.shape[0] * want.shape[1]))
    cache = integers(1, *want.shape)
    around_x, around_out = data.draw(margins()), data.draw(margins())
    out, whole = slice_of(cache, around_out.before, around_out.after)
    expected, _ = slice_of(merged(cache, cells, want), around_out.before, around_out.after)
    packed = pack_conv_transpose2d(
        variant, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    x, _ = slice_of(x, around_x.before, around_x.after)
    cpu.conv_transpose2d(packed, x, out, cells, **data.draw(gates(cells)))
    np.testing.assert_array_equal(whole, expected.base)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("act", [*ACTS, *ACTS_OF_A, "prelu"])
def test_activations(variant: str, act: str) -> None:
    """From far below to far above zero, NaN included, in the convolution and in the depthwise convolution."""
    channels = 19
    x = reals(0, 4, 7, channels)
    x[0, :2] = np.linspace(-100, 100, 2 * channels).reshape(2, channels)
    x[1, 0, :2], x[3, 6, 18] = (0.0, -0.0), np.nan
    x[3, 5, 3] = np.array(0x7FD7F414, np.uint32).view(np.float32)  # a NaN of other bits
    slope = reals(5, channels)
    plain = torch.from_numpy(x).double()
    if act == "prelu":
        want = F.prelu(plain.reshape(-1, channels), torch.from_numpy(slope).double()).reshape(plain.shape)
    elif act in ACTS_OF_A:
        want = ACTS_OF_A[act](plain, 0.2)
    else:
        want = ACTS[act](plain)
    cells = np.arange(28, dtype=np.int32)
    for weight, groups in ((np.ones((channels, 1), np.float32), channels), (np.eye(channels, dtype=np.float32), 1)):
        dense = x if groups > 1 else np.nan_to_num(x)  # the identity matrix spreads a NaN over its row
        out = np.zeros_like(x)
        packed = pack_conv2d(variant, weight.reshape(channels, -1, 1, 1), groups=groups)
        cpu.conv2d(packed, dense, out, cells, act=act, a=0.2, slope=slope if act == "prelu" else None)
        where = np.s_[:] if groups > 1 else np.s_[:3]
        got, expected = out[where], want.float().numpy()[where]
        assert np.isnan(got[np.isnan(expected)]).all()
        error = np.abs(got - expected)[~np.isnan(expected)] / np.maximum(1, np.abs(expected[~np.isnan(expected)]))
        assert error.max() < 2e-6


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("residual_first", [False, True])
@pytest.mark.parametrize("channels", [3, 16, 37])
def test_residual(variant: str, residual_first: bool, channels: int) -> None:
    x, weight, residual = integers(0, 9, 7, 4), integers(1, channels, 4, 3, 3), integers(2, 9, 7, channels)
    y = F.conv2d(torch.from_numpy(x).permute(2, 0, 1)[None], torch.from_numpy(weight), padding=1)[0].permute(1, 2, 0)
    r = torch.from_numpy(residual)
    want = (F.relu(y + r) if residual_first else F.relu(y) + r).numpy()
    out, cells = integers(3, 9, 7, channels), np.arange(5, 50, dtype=np.int32)
    expected = merged(out, cells, want)
    wide, _ = slice_of(residual, 2, 1)
    packed = pack_conv2d(variant, weight, padding=(1, 1))
    cpu.conv2d(packed, x, out, cells, act="relu", residual=wide, residual_first=residual_first)
    np.testing.assert_array_equal(out, expected)
    in_place = residual.copy()
    cpu.conv2d(packed, x, in_place, cells, act="relu", residual=in_place, residual_first=residual_first)
    np.testing.assert_array_equal(in_place, merged(residual, cells, want))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("gate", ["largest", "mean"])
@pytest.mark.parametrize("groups", [1, 21])
def test_gate(variant: str, gate: str, groups: int) -> None:
    """Rows that change too little keep the cache's values to the bit, and are not reported."""
    x, weight = integers(0, 16, 17, 21), integers(1, 21, 21 // groups, 3, 3)
    packed = pack_conv2d(variant, weight, padding=(1, 1), groups=groups)
    want = np.zeros((16, 17, 21), np.float32)
    everything = np.arange(16 * 17, dtype=np.int32)
    cpu.conv2d(packed, x, want, everything)
    moved = np.random.default_rng(0).random((16, 17, 1)) < 0.5
    cache = want + np.where(moved, integers(4, 16, 17, 21, most=2), np.float32(0))
    cells = everything[::2].copy()
    change = np.abs(rows_of(want, cells) - rows_of(cache, cells))
    for bound in (0.0, 1.0):
        passes = (change.max(1) if gate == "largest" else change.mean(1)) > bound
        assert 0 < passes.sum() < len(cells)
        out, changed = cache.copy(), np.full(len(cells), 7, np.uint8)
        cpu.conv2d(packed, x, out, cells, gate=gate, bound=bound, changed=changed)
        np.testing.assert_array_equal(changed, passes)
        np.testing.assert_array_equal(out, merged(cache, cells[passes], want))


@pytest.mark.parametrize("variant", VARIANTS)
def test_nan_passes_every_gate(variant: str) -> None:
    for channels in (3, 40):
        x, cells = np.zeros((1, 3, channels), np.float32), np.arange(3, dtype=np.int32)
        x[0, 1, channels - 1] = np.nan
        out, changed = np.zeros_like(x), np.zeros(3, np.uint8)
        packed = pack_conv2d(variant, np.ones((channels, 1, 1, 1), np.float32), groups=channels)
        cpu.conv2d(packed, x, out, cells, gate="largest", bound=1e9, changed=changed)
        assert changed.tolist() == [0, 1, 0]
        assert np.isnan(out[0, 1, channels - 1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_plain_on_reals(variant: str) -> None:
    x, weight, bias = reals(0, 30, 31, 40), reals(1, 48, 40, 3, 3) / 20, reals(2, 48)
    cells = np.arange(0, 930, 2, dtype=np.int32)
    outs = []
    for which in ("plain", variant):
        outs.append(np.zeros((30, 31, 48), np.float32))
        cpu.conv2d(pack_conv2d(which, weight, bias, padding=(1, 1)), x, outs[-1], cells, act="gelu")
    assert_matches(outs[1], outs[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_linear_over_rows(variant: str) -> None:
    """Tokens are a map of one line: a linear layer over the active ones is a 1x1 convolution."""
    x, weight, bias = integers(0, 1, 50, 24), integers(1, 30, 24), integers(2, 30)
    out, cells = np.zeros((1, 50, 30), np.float32), np.array([0, 3, 49], np.int32)
    cpu.conv2d(pack_conv2d(variant, weight[:, :, None, None], bias), x, out, cells)
    np.testing.assert_array_equal(out, merged(np.zeros_like(out), cells, x @ weight.T + bias))


def test_comparison_can_fail() -> None:
    """The control: one wrong weight, one missing row and one rounding too many are all seen."""
    case = Case(integers(0, 9, 9, 4), integers(0, 8, 4, 3, 3), integers(0, 8), (1, 1), (1, 1, 1, 1), (1, 1), 1, (9, 9))
    cells = np.arange(81, dtype=np.int32)
    out = np.zeros((9, 9, 8), np.float32)
    packed = case.packed("plain")
    cpu.conv2d(packed, case.x, out, cells)
    assert_matches(out, case.dense())
    packed.weights[7] += 1
    cpu.conv2d(packed, case.x, out, cells)
    with pytest.raises(AssertionError):
        assert_matches(out, case.dense())
    packed.weights[7] -= 1
    out[:] = 0
    cpu.conv2d(packed, case.x, out, cells[:-1])
    with pytest.raises(AssertionError):
        assert_matches(out, case.dense())
    with pytest.raises(AssertionError):
        assert_matches(case.dense() * np.float32(1.00001), case.dense())
