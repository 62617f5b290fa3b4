"""Masks of blocks: what lies around each."""

import numpy as np
import numpy.typing as npt


def around(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """How many of the 3 x 3 blocks around each are set."""
    cells = mask.view(np.uint8)
    rows = cells.copy()
    rows[1:] += cells[:-1]
    rows[:-1] += cells[1:]
    found = rows.copy()
    found[:, 1:] += rows[:, :-1]
    found[:, :-1] += rows[:, 1:]
    return found


def near(mask: npt.NDArray[np.bool_], distance: int) -> npt.NDArray[np.bool_]:
    """The blocks within a distance of a set one, a square; beyond the grid nothing is set."""
    found = mask.copy()
    for _ in range(distance):
        rows = found.copy()
        rows[1:] |= found[:-1]
        rows[:-1] |= found[1:]
        found = rows.copy()
        found[:, 1:] |= rows[:, :-1]
        found[:, :-1] |= rows[:, 1:]
    return found
