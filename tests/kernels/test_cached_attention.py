"""Attention over groups of keys: each variant against numpy in double, over fuzzed shapes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.compare import VARIANTS, Array, assert_matches, cell_lists, cpu, margins, merged, reals, slice_of

QUICK = settings(max_examples=40, deadline=None)


@dataclass
class Case:
    """Queries in groups, keys of each group, and a bias of any of the shapes it may have."""

    heads: int
    q: Array
    k: Array
    v: Array
    keys: Array
    group_of: Array | None
    member_of: Array | None
    bias: Array | None
    scale: float

    def dense(self) -> Array:
        """Row by row, as the struct's comment has it."""
        rows = self.q.shape[0] * self.q.shape[1]
        q, k, v = (
            x.reshape(-1, self.heads, x.shape[2] // self.heads).astype(np.float64) for x in (self.q, self.k, self.v)
        )
        group = np.zeros(rows, int) if self.group_of is None else self.group_of
        member = np.arange(rows) if self.member_of is None else self.member_of
        near = self.keys[group]
        scores = self.scale * np.einsum("rhd,rmhd->rhm", q, k[near])
        if self.bias is not None:
            groups, heads = len(self.keys), self.heads
            shape = (groups, heads, *self.bias.shape[2:])
            scores += np.broadcast_to(self.bias, shape)[group, :, member]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("rhm,rmhd->rhd", weights, v[near])
        return out.reshape(*self.q.shape[:2], -1).astype(np.float32)

    def run(self, variant: str, out: Array, cells: Array, **gate: Any) -> None:
        cpu.attention(
            variant, self.heads, self.scale, self.q, self.k, self.v, self.keys, out, cells,
            group_of=self.group_of, member_of=self.member_of, bias=self.bias, **gate,
        )  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> Case:
    size = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    seed, heads = size(0, 1 << 16), draw(st.sampled_from((1, 2, 3, 8)))
    dim, value_dim = draw(st.sampled_from((1, 5, 8, 16, 19, 32, 40))), draw(st.sampled_from((1, 7, 8, 16, 33, 48)))
    height, width, rows = size(1, 9), size(1, 11), size(1, 70)
    members, groups = draw(st.sampled_from((1, 2, 13, 14, 15, 16, 49, 64))), draw(st.sampled_from((1, 1, 2, 5, 300)))
    queries = height * width
    random = np.random.default_rng(seed)
    lists = {"size": queries, "dtype": np.int32}
    group_of = random.integers(0, groups, **lists) if groups > 1 or draw(st.booleans()) else None
    member_of = random.integers(0, 6, **lists) if draw(st.booleans()) else None
    bias = None
    if draw(st.booleans()):
        shape = (draw(st.sampled_from((1, groups))), draw(st.sampled_from((1, heads))))
        bias = reals(seed, *shape, queries if member_of is None else 6, members)
    return Case(
        heads,
        slice_of(reals(seed, height, width, heads * dim), *[draw(st.integers(0, 3))] * 2)[0],
        slice_of(reals(seed + 1, 1, rows, heads * dim), *[draw(st.integers(0, 3))] * 2)[0],
        slice_of(reals(seed + 2, rows, 1, heads * value_dim), *[draw(st.integers(0, 3))] * 2)[0],
        random.integers(0, rows, (groups, members), dtype=np.int32),
        group_of,
        member_of,
        bias,
        draw(st.sampled_from((1.0, 0.125, 3.0))),
    )


@pytest.mark.parametrize("variant", VARIANTS)
@QUICK
@given(data=st.data())
def test_equals_numpy(variant: str, data: st.DataObject) -> None:
    case = data.draw(cases())
    want, around = case.dense(), data.draw(margins())
    cells = data.draw(cell_lists(want.shape[0] * want.shape[1]))
    cache = reals(9, *want.shape)
    out, whole = slice_of(cache, around.before, around.after)
    expected, _ = slice_of(merged(cache, cells, want), around.before, around.after)
    case.run(variant, out, cells)
    assert_matches(whole, expected.base)


def windows(side: int, window: int, shift: int = 0) -> tuple[Array, Array, Array]:
    """Return keys, group_of and member_of of the windows of a square map."""
    y, x = (np.mgrid[:side, :side] - shift) % side
    group = (y // window * (side // window) + x // window).ravel()
    member = (y % window * window + x % window).ravel()
    keys = np.lexsort((member, group)).reshape(-1, window * window)
    return keys.astype(np.int32), group.astype(np.int32), member.astype(np.int32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_windows_with_relative_bias_and_mask(variant: str) -> None:
    """Shifted windows of 7: cells of a window lie in several lines, and -inf hides keys."""
    keys, group_of, member_of = windows(14, 7, shift=3)
    bias = reals(4, 4, 3, 49, 49)
    bias[1:, :, :, 30:] = -np.inf
    q, k, v = (reals(i, 14, 14, 3 * 32) for i in range(3))
    case = Case(3, q, k, v, keys, group_of, member_of, bias, 32**-0.5)
    cells = np.flatnonzero(np.random.default_rng(0).random(196) < 0.6).astype(np.int32)
    out = np.zeros_like(v)
    case.run(variant, out, cells)
    assert_matches(out, merged(np.zeros_like(v), cells, case.dense()))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tokens", [1, 31, 197, 400])
def test_tokens_equal_torch(variant: str, tokens: int) -> None:
    """q, k and v as slices of one map, as a fused projection leaves them."""
    qkv = reals(0, 1, tokens, 3 * 2 * 64)
    q, k, v = np.split(qkv, 3, axis=2)
    heads = [torch.from_numpy(x).double().reshape(1, tokens, 2, 64).transpose(1, 2) for x in (q, k, v)]
    want = F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(1, tokens, 128).float().numpy()
    keys, out = np.arange(tokens, dtype=np.int32)[None], np.zeros_like(want)
    cpu.attention(variant, 2, 0.125, q, k, v, keys, out, keys[0])
    assert_matches(out, want)


@pytest.mark.parametrize("variant", VARIANTS)
def test_more_rows_than_are_sorted_together(variant: str) -> None:
    keys, group_of, member_of = windows(70, 7)
    q, k, v = (reals(i, 70, 70, 4) for i in range(3))
    case = Case(1, q, k, v, keys, group_of, member_of, None, 1.0)
    out, cells = np.zeros_like(v), np.arange(4900, dtype=np.int32)
    case.run(variant, out, cells)
    assert_matches(out, case.dense())


@pytest.mark.parametrize("variant", VARIANTS)
def test_nan_passes(variant: str) -> None:
    """In q: that row's head; in k: every row of the group, that head; in v: that channel."""
    case = Case(
        2, reals(0, 1, 40, 8), reals(1, 1, 40, 8), reals(2, 1, 40, 6), np.arange(40, dtype=np.int32).reshape(2, 20),
        np.repeat(np.arange(2, dtype=np.int32), 20), None, None, 1.0,
    )  # fmt: skip
    case.q[0, 3, 5] = case.k[0, 27, 1] = case.v[0, 2, 5] = np.nan
    out, changed = np.zeros((1, 40, 6), np.float32), np.zeros(40, np.uint8)
    case.run(variant, out, np.arange(40, dtype=np.int32), gate="largest", bound=1e9, changed=changed)
    want = np.zeros((1, 40, 6), bool)
    want[0, 3, 3:] = want[0, 20:, :3] = want[0, :20, 5] = True
    assert_matches(np.isnan(out).astype(np.float32), want.astype(np.float32))
    assert changed.all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("gate", ["largest", "mean"])
def test_gate(variant: str, gate: str) -> None:
    """The flags run along the cells, though rows are worked on group by group."""
    keys, group_of, member_of = windows(14, 7)
    case = Case(3, *(reals(i, 14, 14, 24) for i in range(3)), keys, group_of, member_of, None, 1.0)
    cells = np.arange(0, 196, 2, dtype=np.int32)
    want = np.zeros((14, 14, 24), np.float32)
    case.run(variant, want, cells)
    moved = cells[np.random.default_rng(1).random(len(cells)) < 0.3]
    cache = want.copy()
    cache.reshape(196, 24)[moved] += 1
    out, changed = cache.copy(), np.full(len(cells), 7, np.uint8)
    case.run(variant, out, cells, gate=gate, bound=0.5, changed=changed)
    np.testing.assert_array_equal(changed, np.isin(cells, moved))
    np.testing.assert_array_equal(out, merged(cache, moved, want))


def refused() -> dict[str, tuple[dict[str, Any], str]]:
    ints = lambda *values: np.array(values, np.int32)  # noqa: E731
    floats = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    shared = floats(2, 3, 8)
    return {
        "heads": ({"heads": 3}, "3 heads do not divide 4 channels of q and 4 of v"),
        "rows of q": ({"q": floats(1, 3, 4)}, "q has 1 x 3 rows, the output map has 2 x 3"),
        "channels of k": ({"k": floats(1, 5, 3)}, "k has 3 channels, q has 4"),
        "channels of v": ({"v": floats(1, 5, 3)}, "v has 3 channels, out has 4"),
        "rows of v": ({"v": floats(1, 4, 4)}, "k has 5 rows, v has 4"),
        "overlap": ({"q": shared[:, :, :4], "out": shared[:, :, 2:6]}, "out overlaps q, k or v"),
        "no keys": ({"keys": np.zeros((1, 0), np.int32)}, "keys must be"),
        "keys": ({"keys": ints(0, 1)}, "keys must be"),
        "keys not dense": ({"keys": np.zeros((2, 4), np.int32)[:, ::2]}, "keys must be dense"),
        "type of keys": ({"keys": np.zeros((1, 2))}, "keys must be of type int32"),
        "key too far": ({"keys": np.array([[0, 1], [4, 5]], np.int32)}, r"keys\[1, 1\] is 5, k has 5 rows"),
        "group": ({"group_of": ints(0, 0, 0, 1, 0, 0)}, r"group_of\[3\] is 1, it must be in 0 .. 0"),
        "groups": ({"group_of": ints(0)}, "group_of must be a dense vector of 6"),
        "member": ({"member_of": ints(0, 0, 0, 0, 0, -1)}, r"member_of\[5\] is -1"),
        "member without bias": ({"member_of": ints(2, 0, 0, 0, 0, 0), "bias": floats(1, 1, 2, 3)}, r"is 2, it must be"),
        "bias": ({"bias": floats(2, 3)}, "bias must be"),
        "shape of bias": ({"bias": floats(2, 1, 6, 3)}, r"bias is \(2, 1, 6, 3\), it must be \(1 or 1, 2 or 1"),
        "members of bias": ({"bias": floats(1, 1, 5, 3)}, "bias has 5 members, the output map has 6 rows"),
        "bias not dense": ({"bias": floats(1, 2, 6, 6)[:, :, :, ::2]}, "bias must be dense"),
        "type of bias": ({"bias": np.zeros((1, 2, 6, 3))}, "bias must be of type float32"),
    }


@pytest.mark.parametrize("case", refused())
def test_refuses(case: str) -> None:
    given: dict[str, Any] = {
        "heads": 2, "scale": 1.0, "q": np.zeros((2, 3, 4), np.float32), "k": np.zeros((1, 5, 4), np.float32),
        "v": np.zeros((1, 5, 4), np.float32), "keys": np.array([[0, 3, 4]], np.int32),
        "out": np.zeros((2, 3, 4), np.float32), "cells": np.arange(6, dtype=np.int32),
    }  # fmt: skip
    cpu.attention("plain", **given)
    change, message = refused()[case]
    with pytest.raises(ValueError, match=message):
        cpu.attention("plain", **(given | change))


def test_comparison_can_fail() -> None:
    """The control: the scale, the bias and the groups all matter."""
    keys, group_of, member_of = windows(14, 7)
    case = Case(2, *(reals(i, 14, 14, 8) for i in range(3)), keys, group_of, member_of, reals(3, 1, 2, 49, 49), 1.0)
    want = case.dense()
    for change in ({"scale": 1.001}, {"bias": None}, {"group_of": None}, {"member_of": np.zeros_like(member_of)}):
        with pytest.raises(AssertionError):
            assert_matches(Case(**(vars(case) | change)).dense(), want)
