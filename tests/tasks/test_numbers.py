"""Numbers of any kind: relative errors, and maps of numbers that move."""

import numpy as np
import pytest
from hypothesis import given, settings

from fluxcompile.tasks import TASKS
from fluxcompile.tasks.numbers import SAMPLES
from tests.tasks.made import OFFSETS, SIZE

regress = TASKS["regress"]


def test_numbers() -> None:
    one, big = np.array([3.0, 4.0], np.float32), np.ones((1, 2, 300, 300), np.float32)
    result = regress.decode([one, big], SIZE)
    assert [x.size for x in result.values] == [2, 65536]
    assert regress.agreement([result], [result])["likeness"] == 1.0
    worse = regress.decode([one * 1.1, big], SIZE)
    assert regress.agreement([worse], [result])["likeness"] == pytest.approx(0.9)
    lost = regress.decode([np.array([np.nan, 4.0], np.float32), big], SIZE)
    assert regress.agreement([lost], [result])["likeness"] == 0.0
    assert regress.agreement([lost], [lost])["likeness"] == 1.0


def test_maps_are_kept_by_whole_channels() -> None:
    features = np.random.default_rng(0).random((1, 128, *SIZE), np.float32)
    (kept,) = regress.decode([features], SIZE).values
    assert kept.shape == (SAMPLES // (64 * 96), *SIZE)
    np.testing.assert_array_equal(kept[[0, -1]], features[0, [0, -1]])
    whole, flat, odd = regress.decode([features[:, :1], features[0], features[:, :, :7]], SIZE).values
    assert whole.shape == (1, *SIZE)
    assert flat.shape == odd.shape == (SAMPLES,)  # neither lies over the input
    large = np.zeros((1, 2, 640, 640), np.float32)
    assert regress.decode([large], (640, 640)).values[0].shape == (1, 640, 640)


@settings(deadline=None, derandomize=True)
@given(OFFSETS)
def test_numbers_move_there_and_back(offset: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    whole = regress.decode([generator.random((1, 2, *SIZE), np.float32), generator.random((1, 5))], SIZE)
    there = regress.shift(whole, offset)
    back = regress.shift(there, (-offset[0], -offset[1]))
    assert np.isfinite(back.values[0]).sum() == 2 * (SIZE[0] - abs(offset[0])) * (SIZE[1] - abs(offset[1]))
    np.testing.assert_array_equal(back.values[1], whole.values[1])
    assert regress.agreement([back], [whole])["likeness"] == 1.0
    assert regress.agreement([there], [whole])["likeness"] < 0.7 or offset == (0, 0)


def test_what_is_not_finite_is_not_taken_for_unknown() -> None:
    values = np.ones((1, 1, *SIZE), np.float32)
    lost = values.copy()
    lost[0, 0, 5, 5] = np.nan
    one, two = regress.decode([values], SIZE), regress.decode([lost], SIZE)
    assert regress.agreement([two], [one])["likeness"] == 0.0
    assert regress.agreement([one], [regress.shift(one, (9, 9))])["likeness"] == 1.0


def test_whole_numbers_move_too() -> None:
    labels = np.arange(8 * 12).reshape(1, 1, 8, 12)
    (there,) = regress.shift(regress.decode([labels], SIZE), (8, 0)).values
    assert np.isnan(there[0, 0]).all()
    np.testing.assert_array_equal(there[0, 1:], labels[0, 0, :-1])
