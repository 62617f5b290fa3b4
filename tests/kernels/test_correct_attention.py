"""Attention corrected by the keys that changed: each variant against numpy in double, and against the op's reference."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcompile.ops import flux
from tests.kernels.compare import VARIANTS, Array, assert_matches, cell_lists, cpu, reals, rows_of, slice_of

QUICK = settings(max_examples=40, deadline=None)


@dataclass
class Case:
    """Keys and values before and after a change, queries, and the state: mean and sums."""

    heads: int
    scale: float
    q: Array
    k: Array
    v: Array
    k_old: Array
    v_old: Array
    changed: Array
    mean: Array
    sums: Array

    def start(self, variant: str) -> "Case":
        """The state of all rows as k_old and v_old give it."""
        keys, rows = (np.arange(x.shape[0] * x.shape[1], dtype=np.int32) for x in (self.k, self.q))
        cpu.attention(
            variant, self.heads, self.scale, self.q, self.k_old, self.v_old, keys[None], self.mean, rows, sums=self.sums
        )
        return self

    def correct(self, variant: str, cells: Array) -> Array:
        poor = np.full(len(cells), 7, np.uint8)
        cpu.correct_attention(
            variant, self.heads, self.scale, self.q, self.k, self.v, self.k_old, self.v_old, self.changed[None],
            self.mean, self.sums, cells, poor,
        )  # fmt: skip
        return poor

    def dense(self) -> tuple[Array, Array]:
        """The mean, and the scores (rows, heads, keys) of k as it is."""
        q, k, v = (
            x.reshape(-1, self.heads, x.shape[2] // self.heads).astype(np.float64) for x in (self.q, self.k, self.v)
        )
        scores = self.scale * np.einsum("rhd,mhd->rhm", q, k)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mean = np.einsum("rhm,mhd->rhd", weights / weights.sum(-1, keepdims=True), v)
        return mean.reshape(*self.q.shape[:2], -1).astype(np.float32), scores


def case_of(
    seed: int,
    heads: int,
    dim: int,
    value_dim: int,
    rows: tuple[int, int],
    keys: int,
    changed: int,
    scale: float,
    margin: int = 0,
) -> Case:
    random = np.random.default_rng(seed)
    moved = np.sort(random.choice(keys, changed, replace=False)).astype(np.int32)
    k_old, v_old = reals(seed + 1, 1, keys, heads * dim), reals(seed + 2, keys, 1, heads * value_dim)
    k, v = k_old.copy(), v_old.copy()
    k[0, moved], v[moved, 0] = reals(seed + 3, changed, heads * dim), reals(seed + 4, changed, heads * value_dim)
    q, k, v, k_old, v_old = (
        slice_of(x, margin, 2 * margin)[0] for x in (reals(seed, *rows, heads * dim), k, v, k_old, v_old)
    )
    mean, _ = slice_of(np.zeros((*rows, heads * value_dim), np.float32), margin, margin)
    return Case(heads, scale, q, k, v, k_old, v_old, moved, mean, np.zeros((*rows, 3 * heads), np.float32))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    one = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    keys = one(1, 2, 13, 14, 15, 49, 64)
    return case_of(
        draw(st.integers(0, 1 << 16)), one(1, 2, 3), one(1, 5, 8, 16, 19, 40), one(1, 7, 16, 33, 48),
        (draw(st.integers(1, 9)), draw(st.integers(1, 11))), keys, draw(st.integers(1, keys)), one(1.0, 0.125), one(0, 3),
    )  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@QUICK
@given(data=st.data())
def test_equals_numpy(variant: str, data: st.DataObject) -> None:
    """Rows that are not poor; the others must say so, and rows that are not listed stay."""
    case = data.draw(cases()).start(variant)
    rows = case.q.shape[0] * case.q.shape[1]
    cells = np.unique(data.draw(cell_lists(rows)))
    before, old_sums = case.mean.copy(), case.sums.copy()
    poor = case.correct(variant, cells)
    want, scores = case.dense()
    good = cells[poor == 0]
    assert_matches(rows_of(case.mean, good), rows_of(want, good))
    sums, was = (s.reshape(rows, case.heads, 3) for s in (case.sums, old_sums))
    assert_matches(sums[good, :, 0], was[good, :, 0])
    total = np.exp(scores - was[:, :, :1]).sum(-1)
    np.testing.assert_allclose(sums[good, :, 1], total[good], rtol=1e-4)
    others = np.setdiff1d(np.arange(rows, dtype=np.int32), cells)
    np.testing.assert_array_equal(rows_of(case.mean, others), rows_of(before, others))
    np.testing.assert_array_equal(sums[others], was[others])
    high = scores[:, :, case.changed].max(-1) - was[:, :, 0]
    left = total / np.maximum(total, was[:, :, 2])
    clear = cells[((high < 7.9) & (left > 0.26)).all(1)[cells]]
    lost = cells[((high > 8.1) | (left < 0.24)).any(1)[cells]]
    assert not poor[np.isin(cells, clear)].any()
    assert poor[np.isin(cells, lost)].all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("keys", [31, 197])
def test_equals_the_reference(variant: str, keys: int) -> None:
    case = case_of(0, 2, 24, 40, (1, 50), keys, 9, 0.2).start(variant)

    def heads(x: Array, dim: int) -> torch.Tensor:
        return torch.from_numpy(x.reshape(1, -1, case.heads, dim).copy()).transpose(1, 2).double()

    q, k, k_old = (heads(x, 24) for x in (case.q, case.k, case.k_old))
    v, v_old, mean = (heads(x, 40) for x in (case.v, case.v_old, case.mean))
    offset, total = (heads(case.sums, 3)[..., i : i + 1] for i in (0, 1))
    nothing, moved = torch.tensor([], dtype=torch.int64), torch.from_numpy(case.changed).long()
    want = flux.correct_attention(
        q, k, v, k_old, v_old, mean * total, total, offset, nothing, moved, moved, torch.tensor(False), 0.2
    )[0]
    assert not case.correct(variant, np.arange(50, dtype=np.int32)).any()
    assert_matches(case.mean, want.transpose(1, 2).reshape(1, 50, 80).float().numpy())


@pytest.mark.parametrize("variant", VARIANTS)
def test_parts_of_a_list_give_the_same_bits(variant: str) -> None:
    """Threads take parts."""
    whole, parts = (case_of(1, 3, 16, 20, (5, 40), 60, 11, 0.25).start(variant) for _ in range(2))
    cells = np.arange(200, dtype=np.int32)
    poor = whole.correct(variant, cells)
    found = [parts.correct(variant, part.copy()) for part in np.array_split(cells, 3)]
    np.testing.assert_array_equal(np.concatenate(found), poor)
    np.testing.assert_array_equal(parts.mean, whole.mean)
    np.testing.assert_array_equal(parts.sums, whole.sums)


@pytest.mark.parametrize("variant", VARIANTS)
def test_many_corrections(variant: str) -> None:
    """As many as a row lives through, each of every fourth key, stay within the tolerance of one attention."""
    case = case_of(2, 2, 32, 32, (1, 100), 80, 20, 32**-0.5).start(variant)
    cells = np.arange(100, dtype=np.int32)
    poor = np.zeros(100, np.uint8)
    for turn in range(64):
        poor |= case.correct(variant, cells)
        case.k_old[:], case.v_old[:] = case.k, case.v
        case.changed = np.arange(turn % 4, 80, 4, dtype=np.int32)
        case.k[0, case.changed], case.v[case.changed, 0] = reals(100 + turn, 20, 64), reals(200 + turn, 20, 64)
    case.k[:], case.v[:] = case.k_old, case.v_old  # what the state holds
    assert poor.sum() < 10
    assert_matches(case.mean[:, poor == 0], case.dense()[0][:, poor == 0])


def poisoned(case: Case, how: str) -> None:
    """Make what the first row holds worthless."""
    if how == "a score far above the offset":
        case.k[0, 3] = 100 * case.q[0, 0]
    elif how == "little is left":
        case.k_old[0, 3] = 100 * case.q[0, 0]
    elif how == "nan in k":
        case.k[0, 3] = np.nan
    else:
        (case.v if how == "infinity in v" else case.v_old)[3, 0, 1] = np.inf


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "how", ["a score far above the offset", "little is left", "nan in k", "infinity in v", "infinity in v as it was"]
)
def test_poor_rows(variant: str, how: str) -> None:
    case = case_of(3, 1, 8, 8, (1, 20), 30, 1, 1.0)
    case.changed = np.array([3], np.int32)
    poisoned(case, how)
    poor = case.start(variant).correct(variant, np.arange(20, dtype=np.int32))
    assert poor[0]


def refused() -> dict[str, tuple[dict[str, Any], str]]:
    floats = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    return {
        "heads": ({"heads": 3}, "correct_attention: 3 heads do not divide"),
        "keys": ({"keys": np.zeros((2, 1), np.int32)}, "the changed keys are one group, not 2"),
        "no keys": ({"keys": np.zeros((1, 0), np.int32)}, "keys must be"),
        "key too far": ({"keys": np.array([[5]], np.int32)}, r"keys\[0, 0\] is 5, k has 5 rows"),
        "k_old": ({"k_old": floats(1, 4, 4)}, r"k_old is \(1, 4, 4\)"),
        "v_old": ({"v_old": floats(1, 5, 2)}, r"v_old is \(1, 5, 2\)"),
        "type of k_old": ({"k_old": np.zeros((1, 5, 4))}, "k_old must be of type float32"),
        "sums": ({"sums": floats(2, 3, 5)}, r"sums must be dense, \(2, 3, 6\)"),
        "rows of sums": ({"sums": floats(1, 6, 6)}, r"sums must be dense, \(2, 3, 6\)"),
        "sums not dense": ({"sums": floats(2, 3, 7)[:, :, :6]}, "sums must be dense"),
        "type of sums": ({"sums": np.zeros((2, 3, 6))}, "sums must be of type float32"),
        "mean": ({"mean": floats(2, 3, 3)}, "v has 4 channels, out has 3"),
        "cells": ({"cells": np.array([6], np.int32), "poor": np.zeros(1, np.uint8)}, r"cells\[0\] is 6"),
        "poor": ({"poor": np.zeros(5, np.uint8)}, "poor must be a dense vector of 6"),
        "type of poor": ({"poor": np.zeros(6, bool)}, "poor must be of type uint8"),
    }


@pytest.mark.parametrize("case", refused())
def test_refuses(case: str) -> None:
    floats = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    given: dict[str, Any] = {
        "heads": 2, "scale": 1.0, "q": floats(2, 3, 4), "k": floats(1, 5, 4), "v": floats(1, 5, 4),
        "k_old": floats(1, 5, 4), "v_old": floats(1, 5, 4), "keys": np.array([[0, 3]], np.int32),
        "mean": floats(2, 3, 4), "sums": floats(2, 3, 6), "cells": np.arange(6, dtype=np.int32),
        "poor": np.zeros(6, np.uint8),
    }  # fmt: skip
    cpu.correct_attention("plain", **given)
    change, message = refused()[case]
    with pytest.raises(ValueError, match=message):
        cpu.correct_attention("plain", **(given | change))


def test_refuses_a_copy_that_is_none() -> None:
    case = case_of(4, 1, 4, 4, (1, 3), 5, 1, 1.0)
    case.k_old = case.k
    with pytest.raises(ValueError, match="k_old overlaps the map it is a copy of"):
        case.correct("plain", np.arange(3, dtype=np.int32))


def test_comparison_can_fail() -> None:
    """The control: a state that was not corrected, or by one key less, is no match."""
    case = case_of(5, 2, 16, 16, (1, 30), 40, 4, 0.25).start("plain")
    with pytest.raises(AssertionError):
        assert_matches(case.mean, case.dense()[0])
    case.changed = case.changed[1:]
    case.correct("plain", np.arange(30, dtype=np.int32))
    with pytest.raises(AssertionError):
        assert_matches(case.mean, case.dense()[0])
