"""How far each block of a frame is from the reference."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.kernels import _cpu
from fluxcompile.kernels.cpu import best_variant
from fluxcompile.runtime.motion import Exposure

Array = npt.NDArray[Any]


def block_residual(
    frame: Array,
    planar: bool,
    reference: Array,
    block: int,
    exposure: Exposure | None = None,
    variant: str | None = None,
) -> npt.NDArray[np.float32]:
    """float32 (blocks_y, blocks_x): the mean absolute difference of each block, over its pixels and channels.

    frame: uint8 or float32 (height, width, channels), planar (channels, height, width). reference: float32 or as the
    frame, (height, width, channels). Blocks at the far edges are what is left of the frame. exposure: in whose light
    frames are seen.
    """
    h, w, c = reference.shape
    found = np.empty((-(-h // block), -(-w // block)), dtype=np.float32)
    gain, bias = (exposure.gain, exposure.bias) if exposure else ((1.0,) * c, (0.0,) * c)
    gains, biases = (np.array(v * c if len(v) == 1 else v, dtype=np.float32) for v in (gain, bias))
    seen = np.ascontiguousarray(frame)
    _cpu.block_residual(variant or best_variant(), seen, planar, reference, block, gains, biases, found)
    return found
