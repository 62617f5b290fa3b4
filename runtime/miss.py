"""The miss classifier: which pixels of a frame must be computed anew, told by how far blocks are from the reference."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.kernels import _cpu
from fluxcompile.options import Policy
from fluxcompile.runtime.motion import Alignment, Exposure, Reference, align

Array = npt.NDArray[Any]
BLOCK = 8
"""Frame pixels a side of what is missed or hit together."""


def block_residual(
    frame: Array,
    planar: bool,
    reference: npt.NDArray[np.float32],
    block: int = BLOCK,
    exposure: Exposure | None = None,
) -> Array:
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


@dataclass(frozen=True)
class Classes:
    """What a frame was found to be: the image to take its new pixels from, and which these are.

    `miss` is bool (height, width), None for a frame better run dense: a scene cut, or blocks that miss everywhere.
    """

    frame: Array
    miss: Array | None


class Classifier:
    """Decides for one camera which pixels must be computed anew, by `residual` and `exposure` of its policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._reference: Reference | None = None
        self._changed: Array | None = None
        self._last: Alignment | None = None

    def __call__(self, frame: Array, planar: bool, reference: npt.NDArray[np.float32]) -> Classes:
        """frame and reference as `block_residual` takes them; the reference is what the caches were computed from."""
        h, w, _ = reference.shape
        exposure = None
        if self.policy.exposure:
            self._last = self._aligned(frame, reference)
            exposure = self._last.exposure
        missed = ~(block_residual(frame, planar, reference, exposure=exposure) <= self.policy.residual)
        cut = self._last is not None and self._last.is_cut
        if cut or missed.mean() > self.policy.dense:
            return Classes(frame, None)
        mask: Array = np.ascontiguousarray(missed.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:h, :w])
        return Classes(frame if exposure is None else _lit(frame, planar, mask, exposure), mask)

    def saw(self, miss: Array | None) -> None:
        """The reference has become the frame: where `miss` is set, or (None) everywhere."""
        if miss is None:
            self._reference = None
        self._changed = miss

    def _aligned(self, frame: Array, reference: npt.NDArray[np.float32]) -> Alignment:
        if self._reference is None:
            levels = (0.0, 255.0) if frame.dtype == np.uint8 else (0.0, 1.0)
            self._reference = Reference(reference, levels=levels)
        else:
            self._reference.update(reference, self._changed)
        return align(frame, self._reference, self._last, refine=False)


def _lit(frame: Array, planar: bool, mask: Array, exposure: Exposure) -> Array:
    """The frame in the reference's light where the mask is set."""
    shape = (-1, 1) if planar else (1, -1)
    gain, bias = (np.array(v, dtype=np.float32).reshape(shape) for v in (exposure.gain, exposure.bias))
    found = frame.copy()
    seen = (found[:, mask] if planar else found[mask]) * gain + bias
    if frame.dtype == np.uint8:
        seen = np.rint(seen).clip(0, 255)
    if planar:
        found[:, mask] = seen
    else:
        found[mask] = seen
    return found
