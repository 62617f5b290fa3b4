"""The latency model of a stream: how many blocks fit into the time a frame may take."""

import numpy as np

FEWEST = 8
"""Frames seen before anything is said."""
FADE = 0.95
"""Weight of a frame against the one after it."""


class Latency:
    """T(n) = a n + b, milliseconds of a frame by the blocks computed in it: least squares, old frames fading."""

    def __init__(self) -> None:
        self._sums = np.zeros((2, 3))
        self._seen = 0

    def saw(self, blocks: float, took_ms: float) -> None:
        row = np.array([blocks, 1.0])
        self._sums = FADE * self._sums + np.outer(row, [*row, took_ms])
        self._seen += 1

    @property
    def known(self) -> bool:
        """Whether anything was seen."""
        return self._seen > 0

    def predict_ms(self, blocks: float) -> float | None:
        """T(n), not below 0; None before anything was seen."""
        if not self._seen:
            return None
        a, b = self._solved()
        return max(0.0, a * blocks + b)

    def most(self, budget_ms: float) -> int | None:
        """The blocks that fit into the time; None before enough frames were seen."""
        if self._seen < FEWEST:
            return None
        a, b = self._solved()
        return max(0, int((budget_ms - b) / a)) if a > 0 else None

    def _solved(self) -> tuple[float, float]:
        matrix, right = self._sums[:, :2] + np.diag([1e-6, 1e-6]), self._sums[:, 2]
        a, b = np.linalg.solve(matrix, right)
        return float(a), float(b)
