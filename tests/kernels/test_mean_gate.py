"""A plan's gate by mean change against plain loops, over frames in a row. Without torch, for the sanitizers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcompile.kernels import _cpu
from tests.kernels.compare import Array, passed_by_mean

C = 11


class Gated:
    """A plan of one step: y = scale * x, in the cells that miss and whose change its gate lets pass."""

    def __init__(self, height: int, width: int, gate: float, by_mean: bool = True, scale: float = 1.0) -> None:
        self.plan: Any = _cpu.Plan("plain", 1)
        self.x, self.y = np.zeros((2, height, width, C), np.float32)
        miss, self.changed = (self.plan.mask(height * width) for _ in range(2))
        self.frame = self.plan.input(miss, self.x, False, None)
        self.plan.pointwise(miss, self.changed, self.x, [("scale", scale, 0.0, None)], self.y)
        self.plan.set(0.0, gate, -1, by_mean)

    def run(self, frame: Array, miss: Array | None) -> Array:
        """The cells that passed."""
        self.plan.feed(self.frame, frame, None if miss is None else miss.astype(np.uint8).reshape(-1))
        self.plan.run(miss is None, 0, len(self.plan))
        return np.frombuffer(self.plan.bits(self.changed), np.bool_).reshape(frame.shape[:2]).copy()


def frames(seed: int, height: int, width: int) -> list[Array]:
    """Each a little off the one before, here and there more."""
    random = np.random.default_rng(seed)
    found = [random.standard_normal((height, width, C)).astype(np.float32)]
    for _ in range(3):
        strength = random.choice([0.0, 0.1, 1.0], (height, width, 1), p=[0.4, 0.5, 0.1])
        found.append((found[-1] + strength * random.standard_normal((height, width, C))).astype(np.float32))
    return found


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 999), st.sampled_from([(6, 9), (1, 7), (12, 1), (5, 2)]), st.sampled_from([0.05, 0.2, 1.0]))
def test_what_passes_is_written_and_nothing_else(seed: int, size: tuple[int, int], gate: float) -> None:
    first, *others = frames(seed, *size)
    gated, random = Gated(*size, gate), np.random.default_rng(seed)
    assert gated.run(first, None).all()
    held, bound = first.copy(), gate * float(first.std())
    for frame in others:
        miss = random.random(size) < 0.7
        if not miss.any():
            continue
        change = np.abs(frame - held).mean(2)
        want = passed_by_mean(change, miss, bound, neighbours=size[1] > 1)
        assert gated.run(frame, miss).tolist() == want.tolist()
        held[want] = frame[want]
        np.testing.assert_array_equal(gated.y, held)


def test_what_cannot_be_compared_passes_with_its_neighbours() -> None:
    """Infinity less infinity is no number."""
    gated, frame = Gated(5, 5, 1.0, scale=1e38), frames(0, 5, 5)[0]
    gated.run(frame, None)
    frame[4, 0, 3] = 10
    for _ in range(2):
        frame = frame + np.float32(0.001)
        found = gated.run(frame, np.ones((5, 5), np.bool_))
        assert found[3:, :2].all()
        assert not found[0, 4]


@pytest.mark.parametrize("by_mean", [False, True])
def test_the_loops_tell_the_two_gates_apart(by_mean: bool) -> None:
    """The comparison would fail if the plan took the other gate."""
    first, second, *_ = frames(3, 6, 9)
    gated, everything = Gated(6, 9, 0.2, by_mean), np.ones((6, 9), np.bool_)
    gated.run(first, None)
    want = passed_by_mean(np.abs(second - first).mean(2), everything, 0.2 * float(first.std()), neighbours=True)
    assert (gated.run(second, everything).tolist() == want.tolist()) == by_mean
