"""What a whole frame shows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcompile.tasks import TASKS, TaskError
from tests.tasks.made import SIZE

classify = TASKS["classify"]
LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=12, max_size=12)


def decoded(values: list[float]) -> np.ndarray:
    found: np.ndarray = classify.decode([np.array([values], np.float32)], SIZE)
    return found


def test_figures() -> None:
    dense = decoded([9, 8, 7, 6, 5, 4, 3, 2, 1, 0])
    same = classify.agreement([dense], [dense])
    assert (same["top1"], same["top5"], same["likeness"]) == (1, 1, 1)
    turned = classify.agreement([decoded([8, 9, 7, 6, 5, 4, 3, 2, 1, 0])], [dense])
    assert (turned["top1"], turned["top5"]) == (0, 1)
    assert turned["likeness"] == pytest.approx(1 - (dense[0] - dense[1]))
    sixth = classify.agreement([decoded([9, 8, 7, 6, 4, 5, 3, 2, 1, 0]), dense], [dense, dense])
    assert (sixth["top1"], sixth["top5"], sixth["per_frame"]) == (1, 0.9, [1, 1])
    few = classify.agreement([decoded([0, 1, 2])], [decoded([2, 1, 0])])
    assert (few["top1"], few["top5"]) == (0, 0)


def test_probabilities_are_taken_as_they_are() -> None:
    np.testing.assert_allclose(decoded([0.5, 0.25, 0.25]), [0.5, 0.25, 0.25])
    np.testing.assert_allclose(decoded([0.5, 0.25, 0.35]).sum(), 1)
    assert decoded([0.5, 0.25, 0.35])[0] != 0.5


@settings(deadline=None, derandomize=True)
@given(LOGITS, LOGITS)
def test_agreement_is_a_share_and_the_same_both_ways(one: list[float], two: list[float]) -> None:
    there, back = (classify.agreement([decoded(a)], [decoded(b)]) for a, b in ((one, two), (two, one)))
    assert there == back
    assert all(-1e-9 <= there[name] <= 1 for name in ("top1", "top5", "likeness"))
    assert classify.agreement([decoded(one)], [decoded(one)])["likeness"] == 1


def test_what_is_not_finite_agrees_with_nothing_else() -> None:
    lost, found = decoded([np.nan, 1, 2]), decoded([9, 1, 2])
    assert classify.agreement([lost], [found])["top1"] == 0
    assert classify.agreement([lost], [found])["likeness"] == 0
    assert classify.agreement([lost], [lost])["top1"] == 1


def test_it_has_no_place() -> None:
    assert classify.shift(decoded([1, 2]), (4, 4)).tolist() == decoded([1, 2]).tolist()
    with pytest.raises(TaskError, match=r"classify: .*must be one \[1, classes\]"):
        classify.decode([np.zeros((1, 3, 4))], SIZE)
