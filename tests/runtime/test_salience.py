"""Salience of heads and maps made by hand: where it lies, how far it reaches, what leaves it alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcompile.errors import TaskError
from fluxcompile.runtime import salience
from tests.tasks.made import SIZE, head

ODD = (60, 93)
"""Not a whole number of cells."""


def test_a_box_and_what_is_around_it() -> None:
    found = salience.boxes(head((48, 36, 16, 8, 1, 0.9)), SIZE)  # 40 to 56 and 32 to 40, grown to 28, 68, 20, 52
    expected = np.zeros((8, 12), np.float32)
    expected[2:7, 3:9] = 1
    np.testing.assert_array_equal(found, expected)


def test_a_large_object_weighs_less_and_a_small_one_is_on_top_whatever_the_order() -> None:
    rows = (48, 36, 512, 512, 1, 0.9), (48, 36, 256, 256, 0, 0.3), (16, 12, 16, 8, 2, 0.5), (60, 36, 128, 8, 2, 0.5)
    one, two = (salience.boxes(head(*order), (640, 640)) for order in (rows, rows[::-1]))
    np.testing.assert_array_equal(one, two)
    assert sorted(set(one.reshape(-1).tolist())) == pytest.approx([0, 0.25, 0.5, 1])
    assert one[1, 2] == 1  # the small one lies within the others
    assert one[20, 20] == 0.5
    assert one[35, 35] == 0.25


def test_what_is_scored_low_is_not_salient() -> None:
    assert salience.boxes(head((48, 36, 16, 8, 1, 0.09)), SIZE).max() == 0
    assert salience.boxes(head((48, 36, 16, 8, 1, 0.11)), SIZE).max() == 1


def test_yolox_is_salient_where_its_cells_are() -> None:
    raw = np.zeros((1, 96 + 24 + 6, 8), np.float32)
    raw[0, 96 + 1 * 6 + 2] = 0.5, 0.25, np.log(1), np.log(0.5), 0.9, 0, 1, 0
    expected = salience.boxes(head((40, 20, 16, 8, 1, 0.9)), SIZE)
    assert expected.any()
    np.testing.assert_allclose(salience.boxes([raw], SIZE), expected, rtol=1e-6)
    raw[0, :, 4] *= 0.1
    assert not salience.boxes([raw], SIZE).any()
    with pytest.raises(TaskError, match="126 candidates"):
        salience.boxes([raw], ODD)


def test_persons_and_instances_are_boxes() -> None:
    boxed = head((48, 36, 16, 8, 0, 0.9), classes=1)
    expected = salience.boxes(boxed, SIZE)
    behind = np.full((1, 51, 50), 0.99, np.float32)
    np.testing.assert_array_equal(salience.keypoints([np.concatenate([boxed[0], behind], 1)], SIZE), expected)
    outputs = [np.concatenate([boxed[0], behind[:, :32]], 1), np.ones((1, 32, 16, 24), np.float32)]
    np.testing.assert_array_equal(salience.instances(outputs, SIZE), expected)
    assert (salience.boxes(outputs[:1], SIZE) != expected).any()  # coefficients are no scores


@st.composite
def heads(draw: st.DrawFn) -> np.ndarray:
    number = st.floats(allow_nan=True, width=32) | st.floats(0, 100, width=32)
    rows = draw(st.lists(st.tuples(*[number] * 7), min_size=8, max_size=12))
    return np.array(rows, np.float32).T[None]


@settings(deadline=None, derandomize=True)
@given(heads(), st.tuples(st.integers(1, 90), st.integers(1, 90)))
def test_whatever_a_net_says_it_lies_within_0_and_1(numbers: np.ndarray, size: tuple[int, int]) -> None:
    with np.errstate(all="ignore"):
        found = salience.boxes([numbers], size)
    assert found.shape == (-(-size[0] // 8), -(-size[1] // 8))
    assert found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 95), st.integers(0, 63), st.floats(0.125, 1), st.floats(0.125, 1))
def test_a_box_more_never_takes_away(x: int, y: int, score: float, other: float) -> None:
    alone = salience.boxes(head((48, 36, 16, 8, 1, score)), SIZE)
    both = salience.boxes(head((48, 36, 16, 8, 1, score), (x, y, 10, 10, 0, other)), SIZE)
    assert (both >= alone).all()
    assert both[y // 8, x // 8] == 1


def logits(label: np.ndarray, classes: int = 3) -> np.ndarray:
    return 10 * np.eye(classes, dtype=np.float32)[label].transpose(2, 0, 1)[None]


def two_halves(size: tuple[int, int]) -> np.ndarray:
    label = np.zeros(size, int)
    label[:, size[1] // 2 :] = 2
    return label


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_a_border_and_the_cells_beside_it(scale: int) -> None:
    found = salience.maps([logits(two_halves((64 // scale, 96 // scale)))], SIZE)
    expected = np.zeros((8, 12), np.float32)
    expected[:, 4:8] = 1
    np.testing.assert_array_equal(found, expected)
    assert not salience.maps([logits(two_halves((64, 96)) * 0)], SIZE).any()


@pytest.mark.parametrize("extent", [(60, 93), (15, 23), (4, 6), (2, 3)])
def test_maps_of_any_size(extent: tuple[int, int]) -> None:
    found = salience.maps([logits(two_halves(extent))], ODD)
    assert found.shape == (8, 12)
    assert (found[:, 5] == 1).all()
    assert not found[:, :2].any()


def test_where_two_classes_are_close() -> None:
    values = logits(np.zeros(SIZE, int))
    values[0, 1, :16, :16] = 9
    values[0, 2, 32:48, 32:48] = 4
    for scaled in (values, values * 0.01):  # logits or shares, it is the margin beside the others'
        found = salience.maps([scaled], SIZE)
        assert (found[:2, :2] > 0.7).all()
        assert not found[4:6, 4:6].any()
        assert not found[2:, 2:].any()
    assert (salience.maps([values * 0], SIZE) == 1).all()


def test_several_maps_are_salient_together() -> None:
    plain, halves = logits(two_halves(SIZE) * 0), logits(two_halves(SIZE))
    alone = salience.maps([halves], SIZE)
    np.testing.assert_array_equal(salience.maps([plain, halves], SIZE), alone)
    assert not salience.maps([plain, plain], SIZE).any()


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(allow_nan=True, width=32), min_size=12, max_size=12), st.sampled_from([SIZE, ODD]))
def test_whatever_maps_say_it_lies_within_0_and_1(numbers: list[float], size: tuple[int, int]) -> None:
    with np.errstate(all="ignore"):
        found = salience.maps([np.array(numbers, np.float32).reshape(1, 3, 2, 2)], size)
    assert (found.shape, found.dtype) == ((8, 12), np.float32)
    assert ((found >= 0) & (found <= 1)).all()


def test_whole_numbers_are_scores_too() -> None:
    halves = logits(two_halves(SIZE))
    np.testing.assert_array_equal(salience.maps([halves.astype(np.int8)], SIZE), salience.maps([halves], SIZE))


def test_without_two_classes_all_is_salient() -> None:
    for outputs in ([np.zeros((1, 1, 64, 96), np.float32)], [np.full((1, 2, 64, 96), np.nan, np.float32)]):
        assert (salience.maps(outputs, SIZE) == 1).all()
    assert (salience.everywhere([], ODD) == np.ones((8, 12))).all()


def test_regions_of_a_picture() -> None:
    """Boxes around cells that touch, in the picture's own pixels, cut off where it ends; the largest first."""
    found = np.zeros((10, 12), np.float32)
    found[2:4, 3:6] = 0.5
    found[8, 8] = 0.01  # a large object's weight is small
    found[0, 0] = 1.0  # above the picture
    assert salience.regions(found, (8, 4), (70, 70), 9) == [(8, 20, 16, 24), (56, 60, 8, 8)]
    assert salience.regions(found, (8, 4), (70, 64), 1) == [(8, 20, 16, 24)]
    assert salience.regions(np.zeros_like(found), (0, 0), (80, 96), 9) == []
