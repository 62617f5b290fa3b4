"""What a plan's builder may pass is checked when its step is added, what a frame may be when it is fed: in words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fluxcompile.kernels import _cpu
from fluxcompile.kernels.pack import pack_conv2d, window_taps
from tests.kernels.compare import Array, reals


def ints(*values: Any) -> Array:
    return np.array(values, np.int32)


def maps(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


class Built:
    """A plan with masks of 6, 6, 4 and 1 rows, an input of 2 x 3 pixels and an output of it."""

    def __init__(self) -> None:
        self.plan: Any = _cpu.Plan("plain", 1)
        self.six, self.other, self.four, self.one = (self.plan.mask(n) for n in (6, 6, 4, 1))
        self.x, self.y = maps(2, 3, 2), maps(2, 3, 2)
        self.input = self.plan.input(self.six, self.x, True, None)
        self.output = self.plan.output(self.six, self.x, np.arange(6), np.array([0, 6]), 12)
        self.frame, self.result = np.ones((2, 2, 3), np.float32), maps(2, 2, 3)

    def join(self, kind: str, table: Any = None, keys: Any = None, first: int = 0, to: int = 0, count: int = 0) -> int:
        return int(self.plan.join(self.four, [(self.six, kind, table, keys, first, to, count)]))

    def window(self, y: Array, x: Array, size: tuple[int, int] = (2, 3), out: int | None = None, near: int = -1) -> int:
        return int(self.plan.window(self.four if out is None else out, self.six, y, x, size, near))

    def conv2d(self, **change: Any) -> int:
        packed = pack_conv2d("plain", np.ones((2, 2, 1, 1), np.float32))
        given = {
            "mask": self.six, "changed": -1, "x": self.x, "weights": packed.weights, "bias": packed.bias,
            "taps": packed.taps, "out": self.y, "groups": 1, "stride": (1, 1), "up": (1, 1), "phase": (0, 0),
            "act": "none", "a": 0.0, "b": 0.0, "slope": None, "residual": None, "residual_first": False,
        }  # fmt: skip
        return int(self.plan.conv2d(**(given | change)))

    def correct_attention(self, **change: Any) -> int:
        given = {
            "mask": self.six, "changed": self.other, "q": self.x, "k": maps(1, 4, 2), "v": maps(1, 4, 2), "out": self.y,
            "heads": 1, "scale": 1.0, "queries": self.six, "keys": (self.four, self.four), "k_old": maps(1, 4, 2),
            "v_old": maps(1, 4, 2), "mean": maps(2, 3, 2), "sums": maps(2, 3, 3),
        }  # fmt: skip
        return int(self.plan.correct_attention(**(given | change)))

    def ready(self) -> None:
        assert self.plan.feed(self.input, self.frame, None)
        self.plan.bind(self.output, self.result)


def test_arguments_are_in_order() -> None:
    """The control: what the cases below change is fine unchanged."""
    b = Built()
    b.join("range", None, None, 1, 0, 4)
    b.join("table", ints(0, -1, 5, 2))
    b.join("group", ints(0, 0, 0, 1, 1, 1), ints(0, 1, 1, 0), count=2)
    b.window(ints([0], [1]), ints([0], [2]))
    b.plan.limit(b.other, b.six, b.six)
    b.plan.reach(b.other, b.six, 3)
    b.conv2d()
    b.correct_attention(out=maps(2, 3, 2))
    b.ready()
    b.plan.run(True, 0, len(b.plan))
    np.testing.assert_array_equal(b.result, b.frame)
    np.testing.assert_array_equal(b.y, np.full((2, 3, 2), 2))


TAPS = window_taps((1, 1), (0, 0))
VECTOR = np.zeros(2, np.float32)
CASES: dict[str, tuple[Callable[[Built], Any], str]] = {
    "variant": (lambda b: _cpu.Plan("sse9", 1), "no variant 'sse9'"),
    "no threads": (lambda b: _cpu.Plan("plain", 0), "Plan: 0 threads"),
    "too many threads": (lambda b: _cpu.Plan("plain", 257), "Plan: 257 threads"),
    "empty mask": (lambda b: b.plan.mask(0), "mask: 0 rows"),
    # masks
    "join out": (lambda b: b.plan.join(9, []), "join: there is no mask 9"),
    "join in": (lambda b: b.plan.join(b.six, [(-1, "any", None, None, 0, 0, 0)]), "join: there is no mask -1"),
    "join itself": (
        lambda b: b.plan.join(b.six, [(b.six, "any", None, None, 0, 0, 0)]),
        "cannot be joined into itself",
    ),
    "join kind": (lambda b: b.join("all"), "kind 'all' is not one of range, table, group, any"),
    "range in": (lambda b: b.join("range", first=3, count=4), r"rows 3 \.\. \+ 4 of 6 cannot become rows 0"),
    "range out": (lambda b: b.join("range", to=1, count=4), r"cannot become rows 1 \.\. of 4"),
    "range count": (lambda b: b.join("range", count=5), "cannot become"),
    "range empty": (lambda b: b.join("range"), "cannot become"),
    "range negative": (lambda b: b.join("range", first=-1, count=1), "cannot become"),
    "range to a negative row": (lambda b: b.join("range", to=-1, count=1), "cannot become"),
    "range far": (lambda b: b.join("range", first=2**31 - 1, count=2**31 - 1), "cannot become"),
    "table missing": (lambda b: b.join("table"), "a table is missing"),
    "table length": (lambda b: b.join("table", ints(0, 1)), "table must be a dense vector of 4"),
    "table type": (lambda b: b.join("table", np.zeros(4, np.int64)), "table must be of type int32"),
    "table strided": (lambda b: b.join("table", np.zeros(8, np.int32)[::2]), "table must be a dense vector of 4"),
    "table far": (lambda b: b.join("table", ints(0, 6, 0, 0)), r"table\[1\] is 6, it must be in \[-1, 6\)"),
    "table negative": (lambda b: b.join("table", ints(0, 0, -2, 0)), r"table\[2\] is -2"),
    "group tables": (lambda b: b.join("group", ints(0, 0, 0, 0, 0, 0), count=1), "needs a table, keys and how many"),
    "group count": (lambda b: b.join("group", ints(0, 0, 0, 0, 0, 0), ints(0, 0, 0, 0)), "how many there are"),
    "group table": (lambda b: b.join("group", ints(0, 0, 0, 0, 0, 1), ints(0, 0, 0, 0), count=1), r"table\[5\] is 1"),
    "group keys": (lambda b: b.join("group", ints(0, 0, 0, 0, 0, 0), ints(0, 0, 0, -1), count=1), r"keys\[3\] is -1"),
    "group rows": (lambda b: b.join("group", ints(0, 0, 0, 0), ints(0, 0, 0, 0), count=1), "dense vector of 6"),
    "window itself": (lambda b: b.window(ints([0], [1]), ints([0], [1], [2]), out=b.six), "are the same mask"),
    "window size": (lambda b: b.window(ints([0], [1]), ints([0], [1]), (2, 4)), "a map of 2 x 4 cells has not 6 rows"),
    "window negative size": (lambda b: b.window(ints([0], [1]), ints([0], [1]), (-2, -3)), "a map of -2 x -3"),
    "window outputs": (lambda b: b.window(ints([0], [1]), ints([0], [1], [2])), "and give 4 rows"),
    "window taps": (lambda b: b.window(np.zeros((2, 0), np.int32), ints([0], [1])), r"must be \(outputs, taps\)"),
    "window vector": (lambda b: b.window(ints(0, 1), ints([0], [1])), r"must be \(outputs, taps\)"),
    "window type": (lambda b: b.window(np.zeros((2, 1)), ints([0], [1])), "reads must be of type int32"),
    "window far": (lambda b: b.window(ints([0], [2]), ints([0], [1])), "a read is 2, the map has 2"),
    "window negative": (lambda b: b.window(ints([0], [1]), ints([0], [-2])), "a read is -2, the map has 3"),
    "window strided": (lambda b: b.window(np.zeros((2, 4), np.int32)[:, ::2], ints([0], [1])), "reads must be dense"),
    "window near": (lambda b: b.window(ints([0], [1]), ints([0], [1]), near=b.six), "mask 0 has 6 rows, the map has 4"),
    "window near itself": (
        lambda b: b.window(ints([0], [1]), ints([0], [1]), near=b.four),
        "near and out are the same",
    ),
    "window near nothing": (lambda b: b.window(ints([0], [1]), ints([0], [1]), near=4), "there is no mask 4"),
    "limit rows": (lambda b: b.plan.limit(b.other, b.six, b.four), "the masks are of 6, 4 and 6 rows"),
    "limit itself": (lambda b: b.plan.limit(b.six, b.six, b.other), "the masks are of"),
    "limit near": (lambda b: b.plan.limit(b.other, b.six, 17), "limit: there is no mask 17"),
    "reach width": (lambda b: b.plan.reach(b.other, b.six, 4), "6 rows are no map 4 cells wide"),
    "reach no width": (lambda b: b.plan.reach(b.other, b.six, 0), "no map 0 cells wide"),
    "reach rows": (lambda b: b.plan.reach(b.four, b.six, 3), "6 rows are no map"),
    "reach itself": (lambda b: b.plan.reach(b.six, b.six, 3), "6 rows are no map"),
    # values
    "conv mask": (lambda b: b.conv2d(mask=b.four), "conv2d: mask 2 has 4 rows, the map has 6"),
    "conv no mask": (lambda b: b.conv2d(mask=-1), "conv2d: there is no mask -1"),
    "conv changed": (lambda b: b.conv2d(changed=b.four), "mask 2 has 4 rows"),
    "conv changed itself": (lambda b: b.conv2d(changed=b.six), "`changed` must be a mask of its own"),
    "conv overlap": (lambda b: b.conv2d(out=b.x), "x and out overlap"),
    "conv weights": (lambda b: b.conv2d(weights=VECTOR), "weights packed for this variant"),
    "conv phase": (lambda b: b.conv2d(phase=(0, 1)), r"phase \(0, 1\) of steps \(1, 1\)"),
    "conv negative phase": (lambda b: b.conv2d(phase=(-1, 0)), r"phase \(-1, 0\)"),
    "conv gated and transposed": (lambda b: b.conv2d(up=(2, 1), changed=b.other), "has no gate"),
    "pool": (lambda b: b.plan.pool2d(b.six, -1, b.x, TAPS, maps(2, 3, 1), "max", (1, 1), 0.0), "x has 2 channels"),
    "pool mask": (lambda b: b.plan.pool2d(b.one, -1, b.x, TAPS, b.y, "max", (1, 1), 0.0), "mask 3 has 1 rows"),
    "resample": (
        lambda b: b.plan.resample2d(b.six, -1, b.x, ints([0], [2]), maps(2, 1), ints([0], [0], [0]), maps(3, 1), b.y),
        "index_y reads 2, x has 2",
    ),
    "pointwise rows": (lambda b: b.plan.pointwise(b.four, -1, b.x, [], b.y), "mask 2 has 4 rows"),
    "pointwise term": (lambda b: b.plan.pointwise(b.six, -1, b.x, [("pow", 0, 0, None)], b.y), "term 'pow'"),
    "layer norm": (lambda b: b.plan.layer_norm(b.six, -1, b.x, reals(0, 3), None, 0.0, b.y), "gamma must be"),
    "softmax": (lambda b: b.plan.softmax(b.six, -1, maps(3, 2, 2), 1.0, b.y), r"x is \(3, 2, 2\)"),
    "attention": (
        lambda b: b.plan.attention(b.six, -1, b.x, b.x, b.x, b.y, 3, 1.0, ints([0]), None, None, None),
        "3 heads do not divide",
    ),
    "attention keys": (
        lambda b: b.plan.attention(b.six, -1, b.x, b.x, b.x, b.y, 1, 1.0, ints([6]), None, None, None),
        r"keys\[0, 0\] is 6",
    ),
    "corrected heads": (lambda b: b.correct_attention(heads=3), "correct_attention: 3 heads do not divide"),
    "corrected mask": (lambda b: b.correct_attention(mask=b.four), "mask 2 has 4 rows, the map has 6"),
    "corrected changed": (lambda b: b.correct_attention(changed=-1), "`changed` is needed"),
    "corrected changed itself": (lambda b: b.correct_attention(changed=b.six), "`changed` must be a mask of its own"),
    "corrected queries": (lambda b: b.correct_attention(queries=b.four), "mask 2 has 4 rows, the map has 6"),
    "corrected keys": (lambda b: b.correct_attention(keys=(b.six, b.four)), "mask 0 has 6 rows, the map has 4"),
    "corrected values": (lambda b: b.correct_attention(keys=(b.four, 9)), "there is no mask 9"),
    "corrected rows of v": (lambda b: b.correct_attention(v=maps(1, 6, 2)), "k has 4 rows, v has 6"),
    "corrected k_old": (lambda b: b.correct_attention(k_old=maps(1, 5, 2)), r"k_old is \(1, 5, 2\)"),
    "corrected v_old": (lambda b: b.correct_attention(v_old=maps(1, 4, 3)), r"v_old is \(1, 4, 3\)"),
    "corrected mean": (lambda b: b.correct_attention(mean=maps(2, 3, 3)), "v has 2 channels, out has 3"),
    "corrected mean in place": (lambda b: b.correct_attention(mean=b.y), "mean and out overlap"),
    "corrected sums": (lambda b: b.correct_attention(sums=maps(2, 3, 2)), r"sums must be dense, \(2, 3, 3\)"),
    "gather overlap": (lambda b: b.plan.gather(b.six, b.x, ints([0]), b.x, True, 0.0), "x and out overlap"),
    "gather table": (
        lambda b: b.plan.gather(b.six, b.x, ints([0], [0]), b.y, True, 0.0),
        r"must be \(1, a divisor of 2",
    ),
    "gather pieces": (lambda b: b.plan.gather(b.six, b.x, ints([0, 0, 0]), b.y, True, 0.0), "a divisor of 2"),
    "gather rows": (
        lambda b: b.plan.gather(b.six, maps(1, 3, 2), ints([0]), b.y, True, 0.0),
        "x has 3 rows, out has 6",
    ),
    "gather beyond a row": (
        lambda b: b.plan.gather(b.six, b.x, ints([1]), b.y, True, 0.0),
        r"table\[0\] is 1, no run of 2",
    ),
    "gather far": (
        lambda b: b.plan.gather(b.six, b.x, ints(*[[12]] * 6), b.y, False, 0.0),
        r"table\[0\] is 12, no run of 2",
    ),
    "gather negative": (lambda b: b.plan.gather(b.six, b.x, ints([-2]), b.y, True, 0.0), r"table\[0\] is -2"),
    "gather type": (
        lambda b: b.plan.gather(b.six, b.x, np.zeros((1, 1)), b.y, True, 0.0),
        "table must be of type int32",
    ),
    "gather strided": (
        lambda b: b.plan.gather(b.six, b.x, np.zeros((1, 4), np.int32)[:, ::2], b.y, True, 0.0),
        "the table must be dense",
    ),
    "gather turned": (
        lambda b: b.plan.gather(b.six, b.x, np.zeros((2, 6), np.int32).T, b.y, False, 0.0),
        "the table must be dense",
    ),
    "gather mask": (lambda b: b.plan.gather(b.four, b.x, ints([0]), b.y, True, 0.0), "mask 2 has 4 rows"),
    "mean": (lambda b: b.plan.mean(b.six, b.x, maps(1, 2, 2)), "out must be one row of 2"),
    "mean overlap": (lambda b: b.plan.mean(b.six, b.x, b.x[:1, :1]), "out must be one row of 2"),
    "mean mask": (lambda b: b.plan.mean(b.one, b.x, maps(1, 1, 2)), "mask 3 has 1 rows, the map has 6"),
    "hold": (lambda b: b.plan.hold(b.one, b.one, b.x, b.y), "x and out must be one row"),
    "hold mask": (
        lambda b: b.plan.hold(b.six, b.one, maps(1, 1, 2), maps(1, 1, 2)),
        "mask 0 has 6 rows, the map has 1",
    ),
    "hold changed": (lambda b: b.plan.hold(b.one, -1, maps(1, 1, 2), maps(1, 1, 2)), "there is no mask -1"),
    "hold itself": (lambda b: b.plan.hold(b.one, b.one, maps(1, 1, 2), maps(1, 1, 2)), "`changed` must be a mask"),
    # frames and results
    "input part": (lambda b: b.plan.input(b.six, maps(2, 3, 4)[:, :, :2], True, None), "out must be dense"),
    "input mask": (lambda b: b.plan.input(b.four, b.y, True, None), "mask 2 has 4 rows, the map has 6"),
    "output rows": (lambda b: b.plan.output(b.six, b.x, np.arange(5), np.arange(2), 12), "int64, dense, 6 of them"),
    "output type": (lambda b: b.plan.output(b.six, b.x, ints(*range(6)), np.arange(2), 12), "offsets must be int64"),
    "output far": (
        lambda b: b.plan.output(b.six, b.x, np.arange(6), np.array([0, 7]), 12),
        "lies at 12 of a tensor of 12",
    ),
    "output negative": (lambda b: b.plan.output(b.six, b.x, np.arange(-1, 5), np.arange(2), 12), "an offset is -1"),
    "output overflow": (
        lambda b: b.plan.output(b.six, b.x, np.full(6, 2**62), np.full(2, 2**62), 12),
        "an element lies at|an offset is",
    ),
    "output mask": (lambda b: b.plan.output(b.one, b.x, np.arange(6), np.arange(2), 12), "mask 3 has 1 rows"),
    "feed nothing": (lambda b: b.plan.feed(99, b.frame, None), "there is no step 99"),
    "feed an output": (lambda b: b.plan.feed(b.output, b.frame, None), "step 1 is no input"),
    "feed size": (lambda b: b.plan.feed(b.input, b.frame[:1], None), "must be dense, of 6 x 2 values"),
    "feed type": (
        lambda b: b.plan.feed(b.input, b.frame.astype(np.float64), None),
        "the frame must be of type float32",
    ),
    "feed strided": (lambda b: b.plan.feed(b.input, b.frame[:, ::-1], None), "must be dense"),
    "feed mask size": (lambda b: b.plan.feed(b.input, b.frame, np.zeros(5, np.uint8)), "the mask must be dense, of 6"),
    "feed mask type": (lambda b: b.plan.feed(b.input, b.frame, np.zeros(6, bool)), "the mask must be of type uint8"),
    "bind nothing": (lambda b: b.plan.bind(-1, b.result), "there is no step -1"),
    "bind an input": (lambda b: b.plan.bind(b.input, b.result), "step 0 is no output"),
    "bind size": (lambda b: b.plan.bind(b.output, maps(2, 3)), "dense, float32, of 12 elements"),
    "bind type": (lambda b: b.plan.bind(b.output, np.zeros((2, 2, 3))), "dense, float32, of 12 elements"),
    "bind strided": (lambda b: b.plan.bind(b.output, maps(3, 2, 2).T), "dense, float32, of 12 elements"),
    "set threshold": (lambda b: b.plan.set(-1.0, 0.0, 0), "threshold is -1"),
    "set NaN": (lambda b: b.plan.set(0.0, float("nan"), 0), "gate is nan"),
    "run unbound": (
        lambda b: (b.plan.feed(b.input, b.frame, None), b.plan.run(True, 0, 2)),
        "output step 1 is not bound",
    ),
    "run unfed": (lambda b: (b.plan.bind(b.output, b.result), b.plan.run(True, 0, 2)), "input step 0 has no frame"),
    "run too far": (lambda b: (b.ready(), b.plan.run(True, 0, 3)), r"steps 0 \.\. 3 of 2"),
    "run backwards": (lambda b: (b.ready(), b.plan.run(True, 2, 1)), r"steps 2 \.\. 1 of 2"),
    # what moves
    "rolls scale": (lambda b: b.plan.rolls(b.x, (0, 1)), r"the scale is \(0, 1\)"),
    "rolls part": (lambda b: b.plan.rolls(maps(2, 3, 4)[:, :, :2], (1, 1)), "the map must be dense"),
    "roll nothing": (lambda b: b.plan.roll(1, 1), "no maps that roll"),
    "roll half a cell": (lambda b: (b.plan.rolls(b.x, (2, 1)), b.plan.roll(1, 0)), "not whole cells of a map"),
    "placed": (lambda b: b.plan.placed(2), "placed: there is no step 2"),
    "bound to nothing": (lambda b: b.plan.bound_to(b.input, None), "step 0 is no reach"),
    "bound to no step": (lambda b: b.plan.bound_to(7, None), "there is no step 7"),
    "bits": (lambda b: b.plan.bits(4), "bits: there is no mask 4"),
    "any": (lambda b: b.plan.any(-1), "any: there is no mask -1"),
    "count": (lambda b: b.plan.count(4), "count: there is no mask 4"),
}


@pytest.mark.parametrize("case", CASES)
def test_plan_refuses(case: str) -> None:
    """And is as it was: no step was added, and the frame runs."""
    b = Built()
    b.ready()
    call, message = CASES[case]
    if case.startswith("run un"):
        b = Built()
    with pytest.raises(ValueError, match=message):
        call(b)
    assert len(b.plan) == 2
    b.ready()
    b.plan.run(True, 0, 2)
    np.testing.assert_array_equal(b.result, b.frame)


def test_bounds_are_of_the_frame() -> None:
    b = Built()
    reach = b.plan.reach(b.other, b.six, 3)
    for given, message in ((np.zeros(5, np.uint8), "of 6 pixels"), (np.zeros(6, np.float32), "must be of type uint8")):
        with pytest.raises(ValueError, match=message):
            b.plan.bound_to(reach, given)
    b.ready()
    b.plan.feed(b.input, b.frame, np.array([1, 0, 0, 0, 0, 0], np.uint8))
    b.plan.bound_to(reach, np.array([0, 0, 0, 0, 1, 0], np.uint8))
    b.plan.run(False, 0, len(b.plan))
    assert list(b.plan.bits(b.other)) == [1, 0, 0, 0, 1, 0]  # what misses may always change


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_refused_frame_is_not_read(bad: float) -> None:
    """Nor kept: the next run reads the frame before it."""
    b = Built()
    broken = b.frame * 3
    broken[1, 0, 2] = bad  # channel 1 of pixel 2
    b.plan.bind(b.output, b.result)
    assert not b.plan.feed(b.input, broken, None)
    with pytest.raises(ValueError, match="has no frame"):
        b.plan.run(True, 0, 2)
    b.ready()
    assert not b.plan.feed(b.input, broken, ints(0, 0, 1, 0, 0, 0).astype(np.uint8))
    del broken
    b.plan.run(True, 0, 2)
    np.testing.assert_array_equal(b.result, b.frame)
    # outside the mask nobody looks
    broken = b.frame * 3
    broken[1, 0, 2] = bad
    assert b.plan.feed(b.input, broken, ints(1, 1, 0, 0, 0, 1).astype(np.uint8))
    b.plan.run(False, 0, 2)
    want = b.frame.copy()
    want.reshape(2, 6)[:, [0, 1, 5]] = 3
    np.testing.assert_array_equal(b.result, want)


def test_what_a_plan_holds_stays_alive() -> None:
    """Frames, results, maps, weights and terms that the builder has let go of."""
    plan = _cpu.Plan("plain", 1)
    mask = plan.mask(6)
    x, y = maps(2, 3, 2), maps(2, 3, 2)
    step = plan.input(mask, x, False, None)
    terms = [("mul", 0.0, 0.0, np.full(2, 3, np.float32)), ("scale", 1.0, 1.0, None)]
    plan.pointwise(mask, -1, x, terms, y)
    terms.clear()
    out = plan.output(mask, y, np.arange(0, 12, 2), np.arange(2), 12)
    result = maps(12)
    plan.feed(step, np.full((2, 3, 2), 2, np.float32), None)
    plan.bind(out, result)
    del x, y
    junk = [np.full(n, -1, np.float32) for n in range(1, 40)]
    plan.run(True, 0, len(plan))
    np.testing.assert_array_equal(result, np.full(12, 7))
    assert len(junk) == 39
