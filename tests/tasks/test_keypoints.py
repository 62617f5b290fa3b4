"""Persons and their keypoints."""

import numpy as np
import pytest

from fluxcompile.tasks import TASKS, TaskError
from tests.tasks.made import SIZE


def test_persons() -> None:
    keypoints = TASKS["keypoints"]
    outputs = np.zeros((1, 5 + 3 * 17, 100), np.float32)
    outputs[0, :5, 0] = 50, 30, 20, 40, 0.8
    outputs[0, 5:, 0] = np.tile([48, 30, 0.9], 17)
    (found,) = keypoints.decode([outputs], SIZE)
    np.testing.assert_allclose(found[:9], [40, 10, 60, 50, 0.8, 0, 48, 30, 0.9])
    assert keypoints.agreement([found[None]], [found[None]])["oks"] == 1.0
    near, far, hidden = found.copy(), found.copy(), found.copy()
    near[6] += 3.9  # one keypoint, just within a tenth of the box's 40 pixels
    far[6] += 4.1
    hidden[8] = 0.1
    assert keypoints.agreement([near[None]], [found[None]])["pck"] == 1.0
    worse = keypoints.agreement([far[None]], [found[None]])
    assert worse["pck"] == pytest.approx(16 / 17)
    assert 16 / 17 < worse["oks"] < 1
    assert keypoints.agreement([far[None]], [hidden[None]])["pck"] == 1.0  # dense does not see that one
    with pytest.raises(TaskError, match=r"must be \[1, 5 \+ 3k, n\]"):
        keypoints.decode([outputs[:, :9]], SIZE)


def test_keypoints_move_with_their_person() -> None:
    keypoints = TASKS["keypoints"]
    person = np.array([[40, 10, 60, 50, 0.8, 0, *([48, 30, 0.9] * 17)]], np.float32)
    moved = keypoints.shift(person, (3, -5))
    np.testing.assert_array_equal(moved[0, :12], np.float32([35, 13, 55, 53, 0.8, 0, 43, 33, 0.9, 43, 33, 0.9]))
    np.testing.assert_array_equal(keypoints.shift(moved, (-3, 5)), person)
    assert keypoints.agreement([moved], [person])["pck"] == 0.0  # 5.8 pixels: more than a tenth of 40
    assert keypoints.agreement([moved], [person])["oks"] < 1.0
