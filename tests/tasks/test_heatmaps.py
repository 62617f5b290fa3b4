"""Heatmaps: the best cell of each, near dense's or not."""

import numpy as np
import pytest

from fluxcompile.errors import TaskError
from fluxcompile.tasks import TASKS, task_of

task = TASKS["heatmaps"]
SIZE = (64, 48)


def maps(*peaks: tuple[int, int]) -> np.ndarray:
    found = np.zeros((1, len(peaks), 16, 12), np.float32)
    for index, (y, x) in enumerate(peaks):
        found[0, index, y, x] = 2
    return found


def test_figures() -> None:
    dense = task.decode([maps((3, 4), (10, 2), (0, 0))], SIZE)
    np.testing.assert_allclose(dense.points, [[18, 14, 2], [10, 42, 2], [2, 2, 2]])
    near = task.decode([maps((3, 4), (10, 8), (0, 0))], SIZE)
    told = task.agreement([dense, near], [dense, dense])
    assert told["pck"] == pytest.approx(5 / 6)
    assert told["distance"] == pytest.approx(24 / 6)
    assert told["per_frame"] == [1.0, pytest.approx(2 / 3)]


def test_shift() -> None:
    moved = task.shift(task.decode([maps((3, 4))], SIZE), (4, -8))
    np.testing.assert_allclose(moved.points, [[10, 18, 2]])


def test_never_guessed() -> None:
    assert task_of([maps((0, 0), (1, 1))]).name == "segment"
    with pytest.raises(TaskError, match="heatmaps: the outputs are"):
        task.decode([np.zeros((1, 4))], SIZE)
