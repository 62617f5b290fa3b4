"""The miss classifier: which pixels of a frame must be computed anew, told by how far blocks are from the reference."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.kernels import _cpu
from fluxcompile.options import Policy

Array = npt.NDArray[Any]
BLOCK = 8
"""Frame pixels a side of what is missed or hit together."""


def block_residual(frame: Array, planar: bool, reference: npt.NDArray[np.float32], block: int = BLOCK) -> Array:
    """float32 (blocks_y, blocks_x): the mean absolute difference of each block, over its pixels and channels.

    frame: uint8 or float32 (height, width, channels), planar (channels, height, width). reference: float32 (height,
    width, channels). Blocks at the far edges are what is left of the frame.
    """
    h, w, _ = reference.shape
    found = np.empty((-(-h // block), -(-w // block)), dtype=np.float32)
    _cpu.block_residual(np.ascontiguousarray(frame), planar, reference, block, found)
    return found


def classify(frame: Array, planar: bool, reference: npt.NDArray[np.float32], policy: Policy) -> Array | None:
    """bool (height, width): the pixels of blocks that miss; None where so many do that a dense frame is faster."""
    h, w, _ = reference.shape
    missed = ~(block_residual(frame, planar, reference) <= policy.residual)
    if missed.mean() > policy.dense:
        return None
    mask: Array = missed.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:h, :w]
    return np.ascontiguousarray(mask)
