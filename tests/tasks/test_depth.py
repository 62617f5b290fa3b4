"""Depth: ratios to dense."""

import numpy as np
import pytest

from fluxcompile.tasks import TASKS, TaskError
from tests.tasks.made import SIZE

depth = TASKS["depth"]


def decoded(values: np.ndarray) -> object:
    return depth.decode([values.astype(np.float32).reshape(1, 1, *SIZE)], SIZE)


def some_depth() -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 10, SIZE)


@pytest.mark.parametrize(
    ("ratio", "strict", "usual"), [(1.0, 1, 1), (1.04, 1, 1), (0.96, 1, 1), (1.1, 0, 1), (0.9, 0, 1), (1.3, 0, 0)]
)
def test_ratios(ratio: float, strict: float, usual: float) -> None:
    told = depth.agreement([decoded(some_depth() * ratio)], [decoded(some_depth())])
    assert (told["delta_105"], told["delta_125"]) == (strict, usual)
    assert told["abs_rel"] == pytest.approx(abs(ratio - 1), abs=1e-6)


def test_where_dense_says_nothing_is_left_out_and_where_we_say_nothing_is_not() -> None:
    dense, ours = some_depth(), some_depth()
    dense[:32] = 0
    dense[32:40] = np.nan
    told = depth.agreement([decoded(ours)], [decoded(dense)])
    assert (told["delta_105"], told["abs_rel"]) == (1.0, 0.0)
    ours[40:52] = 0
    ours[52:64, :48] = np.nan
    assert depth.agreement([decoded(ours)], [decoded(dense)])["delta_125"] == 0.25
    assert depth.agreement([decoded(ours)], [decoded(dense * 0)])["delta_105"] is None


def test_depth_moves() -> None:
    far = some_depth()
    there = depth.shift(decoded(np.roll(far, (-6, 9), (0, 1))), (6, -9))
    told = depth.agreement([there], [decoded(far)])
    assert (told["delta_105"], told["abs_rel"]) == (1.0, 0.0)
    assert depth.compare(there, decoded(far))[3] == 58 * 87
    assert depth.agreement([decoded(np.roll(far, (-6, 9), (0, 1)))], [decoded(far)])["delta_105"] < 0.2


@pytest.mark.parametrize("shape", [(1, 64, 96), (1, 1, 64, 96)])
def test_forms(shape: tuple[int, ...]) -> None:
    assert depth.decode([np.ones(shape, np.float32)], SIZE).values[0].shape == SIZE


@pytest.mark.parametrize("shapes", [[(1, 2, 64, 96)], [(64, 96)], [(2, 64, 96)], [(1, 8, 8), (1, 8, 8)], []])
def test_outputs_that_are_no_depth(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(TaskError, match=r"depth: the outputs are .*must be one \[1, h, w\]"):
        depth.decode([np.zeros(shape) for shape in shapes], SIZE)
