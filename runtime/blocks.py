"""Grids of blocks: how far each is from the reference, what lies around it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.kernels import _cpu
from fluxcompile.runtime.motion import Exposure

Array = npt.NDArray[Any]


def block_residual(
    frame: Array,
    planar: bool,
    reference: npt.NDArray[np.float32],
    block: int,
    exposure: Exposure | None = None,
) -> npt.NDArray[np.float32]:
    """float32 (blocks_y, blocks_x): the mean absolute difference of each block, over its pixels and channels.

    frame: uint8 or float32 (height, width, channels), planar (channels, height, width). reference: float32 (height,
    width, channels). Blocks at the far edges are what is left of the frame. exposure: in whose light frames are seen.
    """
    h, w, c = reference.shape
    found = np.empty((-(-h // block), -(-w // block)), dtype=np.float32)
    gain, bias = (exposure.gain, exposure.bias) if exposure else ((1.0,) * c, (0.0,) * c)
    gains, biases = (np.array(v * c if len(v) == 1 else v, dtype=np.float32) for v in (gain, bias))
    _cpu.block_residual(np.ascontiguousarray(frame), planar, reference, block, gains, biases, found)
    return found


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
