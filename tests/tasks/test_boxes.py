"""Boxes of heads and how they are matched and counted; each figure has a control that must fall."""

import numpy as np
import pytest
from hypothesis import given, settings

from fluxcompile.tasks import TASKS, TaskError, match, overlaps
from tests.tasks.made import OFFSETS, SIZE, boxes, head, some_boxes


def test_boxes_of_a_yolo_head() -> None:
    outputs = head(
        (20, 20, 10, 10, 1, 0.9),
        (21, 20, 10, 10, 1, 0.8),  # overlaps the first
        (21, 20, 10, 10, 2, 0.7),  # another class
        (60, 40, 8, 4, 0, 0.25),
        (60, 20, 8, 4, 0, 0.24),  # too low
    )
    found = TASKS["detect"].decode(outputs, SIZE)
    expected = boxes((15, 15, 25, 25, 0.9, 1), (16, 15, 26, 25, 0.7, 2), (56, 38, 64, 42, 0.25, 0))
    np.testing.assert_allclose(found[np.argsort(-found[:, 4])], expected, atol=1e-6)
    assert TASKS["detect"].decode(head(), SIZE).shape == (0, 6)


def test_yolox_is_decoded_once() -> None:
    """Cell (1, 2) of stride 16 comes after the 8 x 12 cells of stride 8."""
    raw = np.zeros((1, 96 + 24 + 6, 8), np.float32)
    raw[0, 96 + 1 * 6 + 2] = 0.5, 0.25, np.log(2), np.log(0.5), 0.9, 0, 1, 0
    (found,) = TASKS["detect"].decode([raw], SIZE)
    cx, cy, w, h = 2.5 * 16, 1.25 * 16, 32, 8
    np.testing.assert_allclose(found, [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, 0.9, 1], rtol=1e-5)
    decoded = raw.copy()
    decoded[0, 96 + 8, :4] = cx, cy, w, h
    np.testing.assert_allclose(TASKS["detect"].decode([decoded], SIZE), [found], rtol=1e-5)
    with pytest.raises(TaskError, match="126 candidates; an input of"):
        TASKS["detect"].decode([raw], (64, 64))


def test_overlaps() -> None:
    one, two = boxes((0, 0, 10, 10, 1, 0)), boxes((0, 0, 10, 5, 1, 0), (5, 5, 15, 15, 1, 0), (20, 0, 30, 10, 1, 0))
    np.testing.assert_allclose(overlaps(one, two), [[0.5, 25 / 175, 0]])
    assert overlaps(boxes((3, 3, 3, 3, 1, 0)), boxes((3, 3, 3, 3, 1, 0))) == 0


def test_boxes_match_one_to_one_within_a_class() -> None:
    two = boxes((0, 0, 10, 10, 0.5, 0), (1, 0, 11, 10, 0.9, 0), (0, 0, 10, 10, 0.9, 1))
    one = boxes((0, 0, 10, 10, 0.9, 0))
    assert match(two, one, 0.5) == [-1, 0, -1]
    assert match(one, two, 0.5) == [0]


def test_a_margin_of_scores() -> None:
    detect = TASKS["detect"]
    clear, faint = boxes((0, 0, 10, 10, 0.45, 0)), boxes((0, 0, 10, 10, 0.26, 0))
    told = detect.agreement([clear], [faint])
    assert (told["f1_50"], told["precision_50"], told["recall_50"], told["boxes"]) == (1.0, 1.0, None, 0)
    assert detect.agreement([faint], [faint])["f1_50"] is None  # neither side has a clear one
    assert detect.agreement([faint], [boxes()])["f1_50"] is None
    assert detect.agreement([clear], [boxes()])["f1_50"] == 0.0
    assert detect.agreement([], []) == {
        "f1_50": None, "precision_50": None, "recall_50": None,
        "f1_75": None, "precision_75": None, "recall_75": None,
        "map": None, "map_50": None, "map_75": None, "boxes": 0, "per_frame": [],
    }  # fmt: skip


def test_figures_are_over_all_boxes_of_a_clip() -> None:
    here, moved = (0, 0, 10, 10, 0.9, 0), (4, 0, 14, 10, 0.9, 0)  # overlap 6 / 14
    shifted = (1.5, 0, 11.5, 10, 0.9, 0)  # 8.5 / 11.5: enough for 0.5, not for 0.75
    told = TASKS["detect"].agreement(
        [boxes(here), boxes(moved), boxes(shifted), boxes()],
        [boxes(here), boxes(here), boxes(here), boxes(here, (50, 0, 60, 10, 0.9, 2))],
    )
    assert told["per_frame"] == [1.0, 0.0, 1.0, 0.0]
    assert (told["precision_50"], told["recall_50"], told["boxes"]) == (2 / 3, 2 / 5, 5)
    assert told["f1_50"] == pytest.approx(4 / 8)
    assert told["f1_75"] == pytest.approx(2 / 8)


@settings(deadline=None, derandomize=True)
@given(some_boxes(), some_boxes())
def test_agreement_of_boxes(one: np.ndarray, two: np.ndarray) -> None:
    detect = TASKS["detect"]
    there = detect.agreement([one], [two])
    back = detect.agreement([two], [one])
    assert there["f1_50"] == back["f1_50"]
    assert there["precision_75"] == back["recall_75"]
    assert there["f1_50"] is None or 0 <= there["f1_50"] <= 1
    if len(one) and (one[:, 4] >= 0.4).any():
        assert detect.agreement([one], [one])["f1_75"] == 1.0
        far = one.copy()
        far[:, :4] += 100
        assert detect.agreement([one], [far])["f1_50"] == 0.0


@settings(deadline=None, derandomize=True)
@given(some_boxes(), OFFSETS)
def test_boxes_move_there_and_back(one: np.ndarray, offset: tuple[int, int]) -> None:
    shift = TASKS["detect"].shift
    there = shift(one, offset)
    np.testing.assert_array_equal(shift(there, (-offset[0], -offset[1])), one)
    np.testing.assert_array_equal(there[:, 4:], one[:, 4:])
    if len(one):
        assert (there[0, 1] - one[0, 1], there[0, 0] - one[0, 0]) == offset


def test_a_move_undone_agrees_again() -> None:
    detect = TASKS["detect"]
    here, there = boxes((10, 10, 20, 30, 0.9, 0)), boxes((14, 3, 24, 23, 0.9, 0))
    assert detect.agreement([detect.shift(there, (7, -4))], [here])["f1_75"] == 1.0
    assert detect.agreement([detect.shift(there, (-4, 7))], [here])["f1_75"] == 0.0
