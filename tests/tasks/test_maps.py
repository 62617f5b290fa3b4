"""Maps of classes: counted pixel by pixel, moved, what is unknown left out."""

import numpy as np
import pytest
from hypothesis import given, settings

from fluxcompile.tasks import TASKS, TaskError
from fluxcompile.tasks.maps import UNKNOWN, Maps, moved
from tests.tasks.made import OFFSETS, SIZE


def test_maps() -> None:
    segment = TASKS["segment"]
    logits = np.zeros((1, 3, 4, 4), np.float32)
    logits[0, 1, :2] = 1
    result = segment.decode([logits], SIZE)
    told = segment.agreement([result], [result])
    assert told == {"miou": 1.0, "equal": 1.0, "foreground_iou": 1.0, "foreground": 8, "per_frame": [1.0]}
    logits[0, 2, 0] = 2
    told = segment.agreement([segment.decode([logits], SIZE), result], [result, result])
    assert told["equal"] == pytest.approx(28 / 32)
    assert told["miou"] == pytest.approx((1 + 12 / 16 + 0) / 3)
    assert told["per_frame"] == [pytest.approx((1 + 0.5 + 0) / 3), 1.0]


def test_foreground_is_what_either_side_has_beyond_class_0() -> None:
    segment = TASKS["segment"]
    ours, dense = (Maps([np.array(rows, np.uint8)], (8, 32)) for rows in ([[0, 1, 2, 1]], [[0, 0, 2, 2]]))
    told = segment.agreement([ours], [dense])
    assert (told["foreground_iou"], told["foreground"]) == (pytest.approx(1 / 3), 2)  # the class counts
    nothing = Maps([np.zeros((1, 4), np.uint8)], (8, 32))
    told = segment.agreement([nothing], [nothing])
    assert (told["foreground_iou"], told["foreground"], told["equal"]) == (None, 0, 1.0)


def random_maps(seed: int = 0, classes: int = 3) -> Maps:
    logits = np.random.default_rng(seed).random((1, classes, *SIZE), np.float32)
    result: Maps = TASKS["segment"].decode([logits], SIZE)
    return result


@settings(deadline=None, derandomize=True)
@given(OFFSETS)
def test_maps_move_there_and_back(offset: tuple[int, int]) -> None:
    segment, whole = TASKS["segment"], random_maps()
    back = segment.shift(segment.shift(whole, offset), (-offset[0], -offset[1]))
    known = back.values[0] != UNKNOWN
    np.testing.assert_array_equal(back.values[0][known], whole.values[0][known])
    assert known.sum() == (SIZE[0] - abs(offset[0])) * (SIZE[1] - abs(offset[1]))
    told = segment.agreement([back], [whole])
    assert (told["miou"], told["equal"]) == (1.0, 1.0)
    assert segment.agreement([segment.shift(whole, offset)], [whole])["equal"] < 0.5 or offset == (0, 0)


def test_what_a_move_brings_into_view_is_not_counted() -> None:
    segment, whole = TASKS["segment"], random_maps()
    there = segment.shift(whole, (16, 0))
    assert segment.compare(there, whole).sum() == 48 * 96
    gone = segment.shift(whole, (64, 0))
    assert (gone.values[0] == UNKNOWN).all()
    assert segment.agreement([gone], [whole])["miou"] is None


def test_a_map_of_coarser_cells_moves_by_the_nearest() -> None:
    coarse = np.arange(16 * 24).reshape(16, 24)
    np.testing.assert_array_equal(moved(coarse, (8, -4), SIZE, -1)[2:, :-1], coarse[:-2, 1:])
    np.testing.assert_array_equal(moved(coarse, (1, -1), SIZE, -1), coarse)
    assert (moved(coarse, (8, -4), SIZE, -1)[:2] == -1).all()


def test_many_classes_are_kept_apart() -> None:
    segment = TASKS["segment"]
    logits = np.zeros((1, 300, 4, 6), np.float32)
    logits[0, 299] = 1
    there = segment.shift(segment.decode([logits], SIZE), (16, 0))
    assert there.values[0].tolist() == [[UNKNOWN] * 6] + [[299] * 6] * 3


def test_outputs_that_are_no_maps() -> None:
    with pytest.raises(TaskError, match=r"must be \[1, classes, h, w\]"):
        TASKS["segment"].decode([np.zeros((1, 1000))], SIZE)
