"""What the kernel tests share: maps of small integers, lists of rows, and one comparison.

Products and sums of small integers are exact in float32, whatever their order: linear kernels must then agree exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from fluxcompile.kernels import _cpu, cpu

Array = np.ndarray[Any, Any]

VARIANTS = [
    pytest.param(
        name,
        marks=() if name in cpu.variants() else pytest.mark.skip(reason=f"this processor lacks what {name} needs"),
    )
    for name in _cpu.built()
]

# Rounding against values of about 1: sums in another order, polynomials for exp and erf.
TOLERANCE = {"float32": 4e-6}


def assert_matches(got: Array, want: Array) -> None:
    """The largest error is within the tolerance, relative to the largest value if that is above 1; NaN equals NaN."""
    assert got.shape == want.shape
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    scale = max(1.0, float(np.nanmax(np.abs(want), initial=0)))
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE["float32"] * scale)


def integers(seed: int, *shape: int, most: int = 3) -> Array:
    return np.random.default_rng([seed, *shape]).integers(-most, most + 1, shape).astype(np.float32)


def reals(seed: int, *shape: int) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def rows_of(out: Array, cells: Array) -> Array:
    """The rows of a map (height, width, channels) that a list names."""
    return out[cells // out.shape[1], cells % out.shape[1]]


def merged(cache: Array, cells: Array, fresh: Array) -> Array:
    """The cache with the named rows from `fresh`: what a kernel must leave behind."""
    want = cache.copy()
    want[cells // want.shape[1], cells % want.shape[1]] = rows_of(fresh, cells)
    return want


def slice_of(values: Array, before: int, after: int) -> tuple[Array, Array]:
    """The same map as channels of a wider one, and that wider one: NaN around it must neither be read nor written."""
    wide = np.full((*values.shape[:2], before + values.shape[2] + after), np.nan, np.float32)
    view = wide[:, :, before : before + values.shape[2]]
    view[:] = values
    return view, wide


@dataclass
class Margins:
    """Channels before and after a map in its wider map."""

    before: int
    after: int


def margins() -> st.SearchStrategy[Margins]:
    return st.builds(Margins, *[st.sampled_from((0, 0, 1, 5))] * 2)


@st.composite
def cell_lists(draw: st.DrawFn, rows: int) -> Array:
    """None, one, all, a run, a scatter in order, or a shuffle with doubles."""
    kind = draw(st.sampled_from(("none", "one", "all", "run", "scatter", "shuffle")))
    random = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    first = int(random.integers(rows))
    cells = {
        "none": np.empty(0),
        "one": np.array([first]),
        "all": np.arange(rows),
        "run": np.arange(first, int(random.integers(first, rows)) + 1),
        "scatter": np.flatnonzero(random.random(rows) < 0.4),
        "shuffle": random.integers(0, rows, rows),
    }[kind]
    return cells.astype(np.int32)


@st.composite
def gates(draw: st.DrawFn, cells: Array) -> dict[str, Any]:
    """Arguments of a gate that lets every change pass, so that the map must come out as without it; or of none."""
    gate = draw(st.sampled_from(("none", "none", "largest", "mean")))
    return {} if gate == "none" else {"gate": gate, "bound": 0.0, "changed": np.zeros(len(cells), np.uint8)}


def passed_by_mean(change: Array, miss: Array, bound: float, neighbours: bool) -> Array:
    """The cells of a map that a gate by mean change lets pass, by loops; `change` (h, w) is each cell's own mean."""
    h, w = change.shape
    change = np.where(miss, change, 0)

    def around(values: Array, y: int, x: int, reach: int) -> Array:
        return values[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]

    own = ~(change <= bound)
    if not neighbours:
        return own & miss
    wide = [[not around(change, y, x, 2).sum() / 25 <= 0.4 * bound for x in range(w)] for y in range(h)]
    passes = (own | np.array(wide)) & miss
    return np.array([[around(passes, y, x, 1).any() for x in range(w)] for y in range(h)]) & miss


def some_cells(rows: int) -> Iterator[Array]:
    """The lists of `cell_lists` that matter, for tests that draw nothing."""
    yield np.empty(0, np.int32)
    yield np.arange(rows, dtype=np.int32)
    yield np.arange(1, rows, 3, dtype=np.int32)
