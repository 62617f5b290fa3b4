"""Average precision, against counts by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcompile.tasks import TASKS
from fluxcompile.tasks.precision import average_precision
from tests.tasks.made import boxes, some_boxes

detect = TASKS["detect"]
FAR = (200.0, 200.0, 210.0, 210.0)


def test_by_hand() -> None:
    assert average_precision(np.array([True, True]), 2) == 1.0
    assert average_precision(np.array([True, False]), 2) == pytest.approx(51 / 101)  # recalls 0 to 0.5
    assert average_precision(np.array([False, True]), 1) == 0.5
    assert average_precision(np.array([True, False, True]), 2) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert average_precision(np.zeros(0, bool), 3) == 0.0


def test_boxes_are_ranked_over_the_whole_clip() -> None:
    """The false box of the second frame comes before or after the true one of the first."""
    here, truth = boxes((0, 0, 10, 10, 0.6, 0)), boxes((0, 0, 10, 10, 0.9, 0))
    for score, expected in ((0.7, 0.5), (0.5, 1.0)):
        false = boxes((*FAR, score, 0))
        assert detect.agreement([here, false], [truth, boxes()])["map_50"] == expected


def test_classes_count_alike() -> None:
    truth = boxes((0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.9, 0), (40, 0, 50, 10, 0.9, 1))
    told = detect.agreement([truth[:2]], [truth])
    assert told["map_50"] == told["map"] == 0.5
    wrong = truth.copy()
    wrong[2, 5] = 2
    assert detect.agreement([wrong], [truth])["map_50"] == 0.5  # a class that the truth has not is not averaged


def test_overlaps_are_told_apart() -> None:
    truth, aside = boxes((0, 0, 10, 10, 0.9, 0)), boxes((1.5, 0, 11.5, 10, 0.9, 0))  # IoU 0.739
    told = detect.agreement([aside], [truth])
    assert (told["map_50"], told["map_75"], told["map"]) == (1.0, 0.0, pytest.approx(0.5))


def test_a_faint_truth_counts_neither_way() -> None:
    truth = boxes((0, 0, 10, 10, 0.5, 0), (40, 0, 50, 10, 0.39, 0))
    both = boxes((0, 0, 10, 10, 0.5, 0), (40, 0, 50, 10, 0.6, 0))
    assert detect.agreement([both], [truth])["map"] == 1.0
    assert detect.agreement([both], [truth[:1]])["map"] == 0.5
    assert detect.agreement([both], [truth[1:]])["map"] is None


@settings(deadline=None, derandomize=True)
@given(some_boxes(), some_boxes(), st.floats(0.25, 1, width=32))
def test_bounds(one: np.ndarray, two: np.ndarray, score: float) -> None:
    """A false box more never helps, and what dense finds itself is perfect."""
    told = detect.agreement([one], [two])
    same = detect.agreement([two], [two])
    more = detect.agreement([np.concatenate([one, boxes((*FAR, score, 0))])], [two])
    for name in ("map", "map_50", "map_75"):
        if not (two[:, 4] >= 0.4).any():
            assert told[name] is None
            continue
        assert 0 <= more[name] <= told[name] <= 1
        assert same[name] == 1.0
    first = boxes((*FAR, 1.0, two[0, 5])) if len(two) else boxes()
    if same["map"] is not None and two[0, 4] >= 0.4:
        assert detect.agreement([np.concatenate([first, two])], [two])["map"] < 1.0
