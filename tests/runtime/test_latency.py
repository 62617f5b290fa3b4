"""The latency model: found again in noise, never negative, learnt as a stream runs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcompile.runtime.latency import Curve, Latency, fit


def test_a_curve_and_what_fits_into_a_time() -> None:
    curve = Curve(0.001, 0.2, 5.0)
    assert curve.ms(100) == pytest.approx(35)
    assert curve.most(35) == pytest.approx(100)
    assert curve.most(4) == 0
    assert Curve(0, 0.5, 1).most(3) == pytest.approx(4)
    assert Curve(0, 0, 1).most(3) == math.inf


coefficients = st.tuples(*(st.sampled_from((0.0, *many)) for many in ((1e-5, 1e-3), (1e-3, 0.2), (0.5, 40.0))))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(coefficients, st.integers(0, 99))
def test_a_fit_finds_the_curve_again(abc: tuple[float, float, float], seed: int) -> None:
    blocks = np.random.default_rng(seed).uniform(0, 1600, 20)
    true = Curve(*abc)
    found = fit(blocks, [true.ms(n) for n in blocks])
    most = true.ms(1600)
    assert all(abs(found.curve.ms(n) - true.ms(n)) <= 1e-5 * most for n in (0, 10, 400, 1600))
    assert max(found.residual_ms, found.left_out_ms) <= 1e-5 * most


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 1600), st.floats(0, 100)), min_size=1, max_size=12))
def test_no_coefficient_is_negative(frames: list[tuple[float, float]]) -> None:
    curve = fit(*zip(*frames, strict=True)).curve
    assert min(curve.a, curve.b, curve.c) >= 0


def test_a_fit_is_the_best_of_those_allowed() -> None:
    """Of times that fall with the work, the best that does not fall is their mean."""
    assert fit([0, 100, 200], [9, 6, 3]).curve == Curve(0.0, 0.0, pytest.approx(6.0))


def test_errors_are_those_of_the_noise() -> None:
    random = np.random.default_rng(0)
    blocks = random.uniform(0, 1600, 200)
    found = fit(blocks, [Curve(1e-5, 0.02, 5).ms(n) + random.normal(0, 2) for n in blocks])
    assert 1.7 < found.residual_ms < found.left_out_ms < 2.3


def test_a_stream_learns_its_latency() -> None:
    latency = Latency()
    for n in (0, 10, 20, 30, 5, 15, 25, 35):
        assert latency.most(5) is None
        latency.saw(n, 2 + 0.1 * n)
    assert latency.most(5) in (29, 30)
    assert latency.most(1) == 0
    for n in (0, 10, 20, 30, 5, 15, 25, 35) * 12:  # a slower machine from now on
        latency.saw(n, 4 + 0.2 * n)
    assert latency.most(5) in (4, 5)


def test_one_frame_is_better_than_none() -> None:
    latency = Latency()
    assert latency.predict_ms(100) is None
    assert not latency.known
    latency.saw(1600, 32)
    assert latency.predict_ms(100) == pytest.approx(2)
    assert latency.most(5) is None


def test_a_profile_is_believed_until_frames_were_seen() -> None:
    latency = Latency(Curve(0, 1, 0))
    assert latency.most(5) == 5
    for n in range(8):
        latency.saw(n, 2 * n)
    assert latency.most(5) == 2
