"""Objects with masks: prototypes weighed, overlaps of masks, what a move leaves out."""

import numpy as np
import pytest
from hypothesis import given, settings

from fluxcompile.tasks import TASKS, TaskError
from fluxcompile.tasks.instances import Instances, mask_overlaps
from tests.tasks.made import OFFSETS, SIZE, head

instances = TASKS["instances"]
CELLS = (16, 24)


def outputs(*rows: tuple[float, ...], weights: tuple[float, ...] = (1.0, 0.0)) -> list[np.ndarray]:
    """Two prototypes: above 0 everywhere, and above 0 in the left half; all objects weigh them alike."""
    (found,) = head(*rows)
    coefficients = np.zeros((1, 2, found.shape[2]), np.float32)
    coefficients[:] = np.reshape(weights, (1, 2, 1))
    prototypes = np.ones((1, 2, *CELLS), np.float32)
    prototypes[0, 1, :, 12:] = -1
    return [np.concatenate([found, coefficients], 1), prototypes]


def decoded(*rows: tuple[float, ...], weights: tuple[float, ...] = (1.0, 0.0)) -> Instances:
    found: Instances = instances.decode(outputs(*rows, weights=weights), SIZE)
    return found


def test_masks_end_with_their_box() -> None:
    one = decoded((48, 32, 32, 16, 1, 0.9), (48, 32, 30, 16, 1, 0.8), (8, 8, 8, 8, 0, 0.2))
    np.testing.assert_allclose(one.boxes, [[32, 24, 64, 40, 0.9, 1]])
    expected = np.zeros(CELLS, bool)
    expected[6:10, 8:16] = True
    np.testing.assert_array_equal(one.masks, expected[None])
    left = decoded((48, 32, 32, 16, 1, 0.9), weights=(0.0, 1.0))
    expected[:, 12:] = False
    np.testing.assert_array_equal(left.masks, expected[None])


def test_masks_decide_where_boxes_do_not() -> None:
    whole, left = (decoded((48, 32, 32, 16, 1, 0.9), weights=weights) for weights in ((1.0, 0.0), (0.0, 1.0)))
    told = instances.agreement([left], [whole])
    assert (told["f1_50"], told["f1_75"], told["map_50"], told["map_75"]) == (1.0, 0.0, 1.0, 0.0)
    same = instances.agreement([whole], [whole])
    assert (same["f1_75"], same["map"], same["boxes"]) == (1.0, 1.0, 1)
    assert TASKS["detect"].agreement([left.boxes], [whole.boxes])["f1_75"] == 1.0


def test_the_margin_of_scores_holds() -> None:
    clear, faint = (decoded((48, 32, 32, 16, 1, score)) for score in (0.45, 0.26))
    assert instances.agreement([clear], [faint])["f1_75"] == 1.0
    assert instances.agreement([clear], [decoded()])["f1_75"] == 0.0
    assert instances.agreement([faint], [decoded()])["f1_75"] is None


def test_an_object_without_a_cell_is_its_box() -> None:
    one = decoded((48, 32, 32, 16, 1, 0.9), weights=(-1.0, 0.0))
    assert not one.masks.any()
    assert mask_overlaps(one, one) == 1.0
    assert mask_overlaps(one, decoded((48, 32, 32, 16, 1, 0.9))) == 0.0


def test_no_objects() -> None:
    assert decoded().masks.shape == (0, *CELLS)
    assert instances.agreement([decoded()], [decoded()])["map"] is None


@settings(deadline=None, derandomize=True)
@given(OFFSETS)
def test_objects_move_there_and_back(offset: tuple[int, int]) -> None:
    one = decoded((48, 32, 32, 16, 1, 0.9), (20, 50, 16, 8, 0, 0.7))
    there = instances.shift(one, offset)
    back = instances.shift(there, (-offset[0], -offset[1]))
    np.testing.assert_array_equal(back.boxes, one.boxes)
    np.testing.assert_array_equal(back.masks, one.masks & back.known)
    told = instances.agreement([back], [one])
    assert (told["f1_75"], told["map"]) == (1.0, 1.0)
    if max(map(abs, offset)) > 16:
        assert instances.agreement([there], [one])["f1_75"] < 1.0


def test_what_a_move_left_out_is_not_compared() -> None:
    """An object at the upper edge comes down: the rows above it were never seen."""
    one, tall = decoded((48, 8, 32, 16, 1, 0.9)), decoded((48, 12, 32, 24, 1, 0.9))
    there = instances.shift(one, (8, 0))
    assert mask_overlaps(there, tall) == 1.0
    assert mask_overlaps(Instances(there.boxes, there.masks, tall.known, SIZE), tall) == pytest.approx(4 / 6)


def test_either_order_and_no_other_form() -> None:
    made = outputs((48, 32, 32, 16, 1, 0.9))
    np.testing.assert_array_equal(instances.decode(made[::-1], SIZE).masks, instances.decode(made, SIZE).masks)
    for wrong in ([made[0]], [made[0][:, :6], made[1]], [made[0], made[0]]):
        with pytest.raises(TaskError, match=r"must be \[1, 4 \+ classes \+ m, n\] and \[1, m, h, w\]"):
            instances.decode(wrong, SIZE)
