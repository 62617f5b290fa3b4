"""A task of three functions of one's own: what it gives, and how it says no."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fluxcompile.errors import OptionError
from fluxcompile.tasks import Task, TaskError, task_of
from tests.tasks.made import SIZE


def bright(outputs: Any, size: tuple[int, int]) -> Any:
    return outputs[0][0] > 0.5


def near(outputs: Any, dense: Any) -> float:
    return float(np.exp(-np.abs(outputs[0] - dense[0]).mean()))


def rolled(outputs: Any, offset: tuple[int, int]) -> Any:
    return [np.roll(x, (offset[0] // 8, offset[1] // 8), (1, 2)) for x in outputs]


FUNCTIONS: dict[str, Callable[..., Any]] = {"salience": bright, "agreement": near, "shift": rolled}


def made(**functions: Any) -> Task:
    return Task.custom(**{**FUNCTIONS, **functions})


def test_three_functions_make_a_task() -> None:
    task = made()
    values = np.random.default_rng(0).random((1, 8, 12), np.float32)
    assert task_of([values], task) is task
    one = task.decode([values], SIZE)
    two = task.decode([values + 1], SIZE)
    assert task.agreement([one, two], [one, one]) == {
        "agreement": pytest.approx((1 + np.exp(-1)) / 2), "per_frame": [1.0, pytest.approx(np.exp(-1))],
    }  # fmt: skip
    assert task.figures([]) == {"agreement": None}
    found = task.salience([values], SIZE)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values[0] > 0.5)
    there = task.shift(one, (8, -16))
    assert task.agreement([there], [one])["agreement"] < 1
    assert task.agreement([task.shift(there, (-8, 16))], [one])["agreement"] == 1
    values[:] = 0
    assert one[0].any()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_function_of_two(name: str) -> None:
    with pytest.raises(OptionError, match=rf"Task.custom: {name} is 3; it must be a function of \(outputs, "):
        made(**{name: 3})
    with pytest.raises(OptionError, match=rf"Task.custom: {name} takes \(outputs\); it must be a function"):
        made(**{name: lambda outputs: outputs})
    assert made(**{name: lambda outputs, other, more=None: outputs}).name == "custom"
    assert made(**{name: max}).name == "custom"  # it has no signature


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.ones((8, 11)), r"gave float64 \(8, 11\); for an input of \(64, 96\) it must give numbers \(8, 12\)"),
        (np.full((8, 12), "x"), "must give numbers"),
        (np.full((8, 12), 1.5), "gave values from 1.5 to 1.5; they must be from 0 to 1"),
        (np.full((8, 12), np.nan), "from nan to nan"),
    ],
)
def test_salience_that_is_none(found: np.ndarray, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        made(salience=lambda outputs, size: found).salience([], SIZE)


@pytest.mark.parametrize("found", [1.5, -0.1, np.nan, None, [0.5, 0.5], "all"])
def test_agreement_that_is_none(found: object) -> None:
    with pytest.raises(TaskError, match=r"custom: agreement gave .* it must give one number from 0 to 1"):
        made(agreement=lambda outputs, dense: found).compare([], [])


@pytest.mark.parametrize("found", [None, [], [np.zeros((2, 3))], np.zeros((1, 2, 2))])
def test_a_shift_that_is_none(found: object) -> None:
    with pytest.raises(TaskError, match=r"custom: shift gave .* like those it got, \[\(2, 2\)\]"):
        made(shift=lambda outputs, offset: found).shift([np.zeros((2, 2))], (1, 1))
