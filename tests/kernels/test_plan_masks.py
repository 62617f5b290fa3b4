"""The mask steps of a plan against plain loops, over frames in a row: what an earlier frame set must not stay.

Without torch, for the sanitizers; tests/passes/test_plan_masks.py holds the loops against the ops' references.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcompile.kernels import _cpu
from tests.kernels.compare import Array

Bits = list[bool]


class Masks:
    """A plan whose first masks are what a frame says, and gathers that show which rows a mask lists."""

    def __init__(self, *rows: int) -> None:
        self.plan = _cpu.Plan("plain", 1)
        self.given = [self.plan.mask(n) for n in rows]
        self.inputs = [
            self.plan.input(m, np.zeros((n, 1, 1), np.float32), True, np.zeros((1, n, 1), np.uint8))
            for m, n in zip(self.given, rows, strict=True)
        ]
        self.listed: dict[int, tuple[Array, Array]] = {}

    def new(self, rows: int) -> int:
        return int(self.plan.mask(rows))

    def list(self, mask: int, rows: int) -> None:
        """Add a step that copies the rows of a mask."""
        source, target = np.zeros((2, rows, 1, 1), np.float32)
        self.plan.gather(mask, source, np.zeros((1, 1), np.int32), target, True, 0.0)
        self.listed[mask] = source, target

    def run(self, masks: Iterable[Iterable[bool]], *, fresh: bool = False) -> None:
        for step, bits in zip(self.inputs, masks, strict=True):
            flags = np.array(list(bits), np.uint8)
            self.plan.feed(step, np.zeros(len(flags), np.uint8), None if fresh else flags)
        for source, target in self.listed.values():
            source[:], target[:] = 1, 0
        self.plan.run(fresh, 0, len(self.plan))

    def bits(self, mask: int) -> Bits:
        """The mask, after its bits, its count and its list have been found to agree."""
        found = np.frombuffer(self.plan.bits(mask), np.uint8)
        assert set(found.tolist()) <= {0, 1}
        assert (self.plan.count(mask), self.plan.any(mask)) == (int(found.sum()), bool(found.any()))
        if mask in self.listed:
            np.testing.assert_array_equal(self.listed[mask][1].reshape(-1), found)
        return [bool(b) for b in found]


@st.composite
def masks(draw: st.DrawFn, rows: int) -> Bits:
    """Nothing, everything, one row (the first or the last more often than others), a run, or any."""
    kind = draw(st.sampled_from(("none", "all", "first", "last", "one", "run", "any")))
    a, b = sorted(draw(st.integers(0, rows - 1)) for _ in range(2))
    if kind == "any":
        return draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    low, high = {
        "none": (0, 0),
        "all": (0, rows),
        "first": (0, 1),
        "last": (rows - 1, rows),
        "one": (a, a + 1),
        "run": (a, b + 1),
    }[kind]
    return [low <= i < high for i in range(rows)]


def frames(*rows: int) -> st.SearchStrategy[list[list[Bits]]]:
    """Masks of several frames in a row."""
    return st.lists(st.tuples(*map(masks, rows)).map(list), min_size=2, max_size=4)


def check(made: Masks, out: int, want: Callable[..., Bits], clip: list[list[Bits]], rows: int) -> None:
    """Frame by frame the mask is what the loop gives; a fresh frame sets all, and leaves nothing to the next."""
    made.list(out, rows)
    for given_ in clip:
        made.run(given_)
        assert made.bits(out) == want(*given_)
    made.run(clip[0], fresh=True)
    assert made.bits(out) == [True] * rows
    for given_ in ([[False] * len(m) for m in clip[0]], clip[-1]):
        made.run(given_)
        assert made.bits(out) == want(*given_)


SIZES = st.sampled_from(((1, 1), (1, 7), (9, 1), (2, 8), (5, 6), (3, 17)))


# --- join -------------------------------------------------------------------------------------------------------------


@st.composite
def readers(draw: st.DrawFn, rows_in: int, rows: int) -> tuple[tuple[Any, ...], Callable[[Bits, int], bool]]:
    """The arguments of a reader but for its mask, and whether output row r misses by it."""
    kind = draw(st.sampled_from(("range", "table", "group", "any")))
    if kind == "any":
        return (kind, None, None, 0, 0, 0), lambda miss, r: any(miss)
    if kind == "range":
        count = draw(st.integers(1, min(rows_in, rows)))
        first, to = draw(st.integers(0, rows_in - count)), draw(st.integers(0, rows - count))
        return (kind, None, None, first, to, count), lambda miss, r: to <= r < to + count and miss[first + r - to]
    if kind == "table":
        table = draw(st.lists(st.integers(-1, rows_in - 1), min_size=rows, max_size=rows))
        return (kind, np.array(table, np.int32), None, 0, 0, 0), lambda miss, r: table[r] >= 0 and miss[table[r]]
    count = draw(st.integers(1, 4))
    keys_in, keys = (draw(st.lists(st.integers(0, count - 1), min_size=n, max_size=n)) for n in (rows_in, rows))
    return (
        (kind, np.array(keys_in, np.int32), np.array(keys, np.int32), 0, 0, count),
        lambda miss, r: any(m and k == keys[r] for m, k in zip(miss, keys_in, strict=True)),
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_join(data: st.DataObject) -> None:
    rows, (a, b) = data.draw(st.integers(1, 20)), data.draw(st.tuples(*[st.integers(1, 20)] * 2))
    made = Masks(a, b)
    out = made.new(rows)
    found = [(i, *data.draw(readers((a, b)[i], rows))) for i in data.draw(st.lists(st.integers(0, 1), max_size=3))]
    made.plan.join(out, [(made.given[i], *args) for i, args, _ in found])

    def want(*misses: Bits) -> Bits:
        return [any(misses[i] and reads(misses[i], r) for i, _, reads in found) for r in range(rows)]

    check(made, out, want, data.draw(frames(a, b)), rows)


# --- window -----------------------------------------------------------------------------------------------------------


def strided(n: int, outputs: int, kernel: int, stride: int, before: int, dilation: int) -> list[list[int]]:
    reads = [[i * stride - before + dilation * j for j in range(kernel)] for i in range(outputs)]
    return [[r if 0 <= r < n else -1 for r in row] for row in reads]


@st.composite
def reads(draw: st.DrawFn, n: int) -> list[list[int]]:
    """What the outputs of one axis read: a strided, a transposed, an even or any table."""
    kind = draw(st.sampled_from(("strided", "strided", "transposed", "repeat", "split", "any")))
    kernel, stride, dilation = (draw(st.integers(1, m)) for m in (5, 3, 3))
    before, after = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    if kind == "strided":
        outputs = max(1, (n + before + after - dilation * (kernel - 1) - 1) // stride + 1)
        return strided(n, outputs, kernel, stride, before, dilation)
    if kind == "transposed":
        places = [[i + before - dilation * k for k in range(kernel)] for i in range(n * stride)]
        return [[p // stride if p % stride == 0 and 0 <= p < n * stride else -1 for p in row] for row in places]
    if kind == "repeat":  # nearest
        return [[i // stride] for i in range(n * stride)]
    if kind == "split":  # adaptive pooling: pieces of uneven length
        outputs = draw(st.integers(1, n + 2))
        spans = [range(i * n // outputs, -(-(i + 1) * n // outputs)) for i in range(outputs)]
        most = max(map(len, spans))
        return [[*span, *[-1] * (most - len(span))] for span in spans]
    outputs, taps = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    row = st.lists(st.integers(-1, n - 1), min_size=taps, max_size=taps)
    return draw(st.lists(row, min_size=outputs, max_size=outputs))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_window(data: st.DataObject) -> None:
    """An output misses if anything it reads does; where everything misses, so may what reads nothing but padding."""
    h, w = data.draw(SIZES)
    y, x = data.draw(reads(h)), data.draw(reads(w))
    made = Masks(h * w)
    rows = len(y) * len(x)
    out = made.new(rows)
    made.plan.window(out, made.given[0], np.array(y, np.int32), np.array(x, np.int32), (h, w), -1)

    def want(miss: Bits) -> Bits:
        return [all(miss) or any(miss[i * w + j] for i in ys for j in xs if min(i, j) >= 0) for ys in y for xs in x]

    check(made, out, want, data.draw(frames(h * w)), rows)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_window_near(data: st.DataObject) -> None:
    """As a window and a limit: also where every cell reads itself and what misses is all that may."""
    h, w = data.draw(SIZES)
    y, x = data.draw(
        st.one_of(st.tuples(reads(h), reads(w)), st.just(tuple(strided(n, n, 3, 1, 1, 1) for n in (h, w))))
    )
    rows = len(y) * len(x)
    made = Masks(h * w, rows)
    out = made.new(rows)
    miss, near = made.given
    made.plan.window(out, miss, np.array(y, np.int32), np.array(x, np.int32), (h, w), near)

    def want(miss: Bits, near: Bits) -> Bits:
        full = all(miss) and all(near)
        spread = [full or any(miss[i * w + j] for i in ys for j in xs if min(i, j) >= 0) for ys in y for xs in x]
        return [a and b for a, b in zip(spread, near, strict=True)]

    clip = data.draw(frames(h * w, rows))
    if rows == h * w:
        clip.insert(1, [clip[0][0], list(clip[0][0])])
    check(made, out, want, clip, rows)


# --- limit and reach --------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def test_limit(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 30))
    made = Masks(rows, rows)
    out = made.new(rows)
    made.plan.limit(out, *made.given)
    check(made, out, lambda a, b: [x and y for x, y in zip(a, b, strict=True)], data.draw(frames(rows, rows)), rows)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_reach(data: st.DataObject) -> None:
    h, w = data.draw(SIZES)
    radius = data.draw(st.sampled_from((-1, 0, 1, 2, 3, 8, 40, 2**31 - 1)))
    made = Masks(h * w)
    out = made.new(h * w)
    made.plan.reach(out, made.given[0], w)
    made.plan.set(0.0, 0.0, radius)

    def want(miss: Bits) -> Bits:
        found = [(i // w, i % w) for i, m in enumerate(miss) if m]
        near = [[max(abs(y - a), abs(x - b)) <= radius for a, b in found] for y in range(h) for x in range(w)]
        return [radius < 0 or any(n) for n in near]

    check(made, out, want, data.draw(frames(h * w)), h * w)


def test_a_radius_may_change_from_frame_to_frame() -> None:
    made = Masks(25)
    out = made.new(25)
    made.plan.reach(out, made.given[0], 5)
    made.list(out, 25)
    for radius, count in ((1, 9), (-1, 25), (0, 1), (2, 25), (1, 9)):
        made.plan.set(0.0, 0.0, radius)
        made.run([[i == 12 for i in range(25)]])
        assert sum(made.bits(out)) == count


# --- chains of steps --------------------------------------------------------------------------------------------------


def test_the_control_a_wrong_table_is_seen() -> None:
    made = Masks(4)
    out = made.new(4)
    made.plan.join(out, [(made.given[0], "table", np.array([0, 1, 2, 2], np.int32), None, 0, 0, 0)])
    with pytest.raises(AssertionError):
        check(made, out, lambda miss: miss, [[[True, True, False, True]]], 4)


def test_masks_far_apart_in_a_large_map() -> None:
    """The first row and the last: what lies between is cleared when it was set."""
    h, w = 40, 50
    made = Masks(h * w)
    window, reach, both = (made.new(h * w) for _ in range(3))
    y, x = (np.array(strided(n, n, 3, 1, 1, 1), np.int32) for n in (h, w))
    made.plan.window(window, made.given[0], y, x, (h, w), -1)
    made.plan.reach(reach, made.given[0], w)
    made.plan.limit(both, window, reach)
    made.plan.set(0.0, 0.0, 2)
    for m in (window, reach, both):
        made.list(m, h * w)
    for rows in ((0,), (h - 1,), (0, h - 1), (20,), tuple(range(h)), ()):
        miss = np.zeros((h, w), bool)
        miss[list(rows)] = True
        made.run([miss.reshape(-1)])
        near = np.zeros((2, h, w), bool)
        for r in rows:
            for part, by in zip(near, (1, 2), strict=True):
                part[max(0, r - by) : r + by + 1] = True
        for mask, want in ((window, near[0]), (reach, near[1]), (both, near[0])):
            assert made.bits(mask) == want.reshape(-1).tolist()
