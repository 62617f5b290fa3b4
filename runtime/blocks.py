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
    wide = np.pad(mask.view(np.uint8), 1)
    rows: npt.NDArray[np.uint8] = wide[:-2] + wide[1:-1] + wide[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]


def near(mask: npt.NDArray[np.bool_], distance: int) -> npt.NDArray[np.bool_]:
    """The blocks within a distance of a set one, a square; beyond the grid nothing is set."""
    found = mask
    for axis in (0, 1):
        wide = np.pad(found, [(distance, distance) if a == axis else (0, 0) for a in (0, 1)])
        n = mask.shape[axis]
        found = np.logical_or.reduce([wide.take(range(d, d + n), axis) for d in range(2 * distance + 1)])
    return found
