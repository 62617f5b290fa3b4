"""The latency model of a net on a device: milliseconds of a frame by the blocks that are computed in it.

    T(n) = a n^2 + b n + c,    a, b, c >= 0

One model for the budget of a stream, the scheduler of paths and the simulator. What a block is, is up to who counts;
a profile counts `BLOCK` frame pixels a side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BLOCK = 16
"""Frame pixels a side of a block of a profile, as the paper's vectors have."""
FEWEST = 8
"""Frames seen before a stream's own latency is believed."""
FADE = 0.95
"""Weight of a frame against the one after it."""
PLAINEST_FIRST = ((1,), (2,), (0,), (1, 2), (0, 2), (0, 1), (0, 1, 2))
"""Sets of coefficients: time by the block, a constant, ..."""
EQUAL = 1e-13
"""Share of the sum of squares by which fits may differ and be equally good."""


@dataclass(frozen=True)
class Curve:
    """T(n) = a n^2 + b n + c, milliseconds."""

    a: float
    b: float
    c: float

    def ms(self, blocks: float) -> float:
        return self.a * blocks * blocks + self.b * blocks + self.c

    def most(self, budget_ms: float) -> float:
        """The blocks that fit into the time: 0 where not even an empty frame fits, infinite where blocks are free."""
        spare = budget_ms - self.c
        if spare <= 0:
            return 0.0
        root = math.sqrt(self.b * self.b + 4 * self.a * spare) + self.b
        return 2 * spare / root if root else math.inf


class Fit(NamedTuple):
    """A curve and how far it is off: root mean square over the frames it was fitted to, and over each when left out."""

    curve: Curve
    residual_ms: float
    left_out_ms: float


def fit(blocks: Sequence[float], took_ms: Sequence[float]) -> Fit:
    """The curve of least squares through frames."""
    n, ms = np.asarray(blocks, np.float64), np.asarray(took_ms, np.float64)
    terms = _terms(n, ms)
    curve = _solved(terms.sum(0))
    left_out = [_solved(terms.sum(0) - terms[i]).ms(n[i]) - ms[i] for i in range(len(n))]
    return Fit(curve, _rms([curve.ms(x) - y for x, y in zip(n, ms, strict=True)]), _rms(left_out))


class Latency:
    """The curve of a stream as it runs, old frames fading, and what a dense frame takes: no frame should take longer.

    start, dense_ms: a profile's, until enough was seen.
    """

    def __init__(self, start: Curve | None = None, dense_ms: float | None = None) -> None:
        self._start, self._dense_ms = start, dense_ms
        self._sums = np.zeros((3, 4))
        self._seen = 0

    def saw(self, blocks: float, took_ms: float, dense: bool = False) -> None:
        if dense:
            self._dense_ms = took_ms if self._dense_ms is None else (self._dense_ms + took_ms) / 2
            return
        self._sums = FADE * self._sums + _terms(np.array([blocks], np.float64), np.array([took_ms]))[0]
        self._seen += 1

    @property
    def known(self) -> bool:
        """Whether anything is known."""
        return self.curve is not None or self._dense_ms is not None

    @property
    def curve(self) -> Curve | None:
        """What is known by now: of few frames little, but more than nothing."""
        if self._seen >= FEWEST or (self._seen and self._start is None):
            return _solved(self._sums)
        return self._start

    def predict_ms(self, blocks: float) -> float | None:
        """T(n), a dense frame's time at most; None before anything is known."""
        curve, dense_ms = self.curve, self._dense_ms
        if curve is None:
            return dense_ms
        return curve.ms(blocks) if dense_ms is None else min(curve.ms(blocks), dense_ms)

    def most(self, budget_ms: float) -> int | None:
        """The blocks that fit into the time; None where that is not known well, or all do."""
        curve = self.curve if self._seen >= FEWEST else self._start
        most = math.inf if curve is None else curve.most(budget_ms)
        return None if math.isinf(most) else int(most)


def _terms(blocks: Array, took_ms: Array) -> Array:
    """Each frame's part of the normal equations, (frames, 3, 4): products of (n^2, n, 1) with themselves and ms."""
    powers = np.stack([blocks**2, blocks, np.ones_like(blocks)], 1)
    return np.asarray(powers[:, :, None] * np.concatenate([powers, took_ms[:, None]], 1)[:, None, :])


def _solved(sums: Array) -> Curve:
    """The coefficients of least squares none of which is negative: the best of all sets, the plainest of equals."""
    matrix, right = sums[:, :3], sums[:, 3]
    scale = np.sqrt(np.maximum(np.diag(matrix), np.finfo(np.float64).tiny))
    matrix, right = matrix / np.outer(scale, scale), right / scale
    best, least = np.zeros(3), 0.0
    for some in PLAINEST_FIRST:
        part = np.linalg.lstsq(matrix[np.ix_(some, some)], right[list(some)], rcond=None)[0]
        found = np.zeros(3)
        found[list(some)] = part
        error = float(found @ matrix @ found - 2 * found @ right)
        if (part >= 0).all() and error < least - EQUAL * abs(least):
            best, least = found, error
    return Curve(*(float(v) for v in best / scale))


def _rms(errors: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(errors)))) if len(errors) else 0.0
