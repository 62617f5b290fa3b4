"""Boxes, heads and results made by hand."""

import numpy as np
from hypothesis import strategies as st

SIZE = (64, 96)
OFFSETS = st.tuples(st.integers(-40, 40), st.integers(-40, 40))


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 6)


def head(*rows: tuple[float, ...], classes: int = 3, count: int = 50) -> list[np.ndarray]:
    """A YOLO head [1, 4 + classes, n] of rows cx, cy, w, h, class, score."""
    found = np.zeros((1, 4 + classes, count), np.float32)
    for at, (cx, cy, w, h, kind, score) in enumerate(rows):
        found[0, :4, at] = cx, cy, w, h
        found[0, 4 + int(kind), at] = score
    return [found]


@st.composite
def some_boxes(draw: st.DrawFn) -> np.ndarray:
    side, score = st.integers(1, 20), st.floats(0.25, 1, width=32)
    rows = draw(st.lists(st.tuples(side, side, side, side, score, st.integers(0, 2)), max_size=6))
    return boxes(*((x, y, x + w, y + h, s, c) for x, y, w, h, s, c in rows))
