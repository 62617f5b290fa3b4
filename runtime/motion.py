"""Where the content of a frame was in the reference image: a vector per block, one shift of all, a change of light.

The reference is what the caches were computed from, moved as they moved, so that errors never add up. `align` works on
luma, in blocks of 16 x 16 pixels, and decides nothing: what is reused is for a policy to say.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import InputError
from fluxcompile.kernels import _cpu
from fluxcompile.kernels.cpu import best_variant
from fluxcompile.runtime.frame import to_array

Array = npt.NDArray[Any]
BLOCK: int = _cpu.MOTION_BLOCK
"""Frame pixels per motion vector."""
MATCHED = 4.0
"""Levels (of 255) of mean luma difference up to which a block matches."""
REACH = 64
"""Pixels that a vector may be long, down and across."""
CUT = 0.3
"""Share of blocks that match under the best vectors below which the frame has little to do with the reference."""


@dataclass(frozen=True)
class Matched:
    """Shares of blocks that match: as the frame came, in the reference's light, at the shift, at the vectors."""

    plain: float
    still: float
    shift: float
    blocks: float


@dataclass(frozen=True)
class Exposure:
    """frame * gain + bias, per channel and in the frame's own values, has the reference's light."""

    gain: tuple[float, ...]
    bias: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Alignment:
    """A frame against the reference. `sad` and `sad_still` are mean absolute differences per pixel, in levels.

    vectors: int32 (2, blocks_y, blocks_x), (dy, dx) such that pixel p now holds what p + (dy, dx) held; a block's own
    vector beats `shift` clearly, or is it. shift: (0, 0) unless clearly more blocks match there than without.
    exposure: None unless more blocks match in that light; the differences are then taken in it.
    """

    vectors: npt.NDArray[np.int32]
    sad: npt.NDArray[np.float32]
    sad_still: npt.NDArray[np.float32]
    shift: tuple[int, int]
    matched: Matched
    exposure: Exposure | None

    @property
    def is_cut(self) -> bool:
        """Whether hardly anything matches, wherever it is looked for: another scene, or too fast a camera."""
        return self.matched.blocks < CUT


class Reference:
    """The image that frames are aligned to, as a pyramid of luma. `update` does again only what changed.

    image: uint8 (height, width, channels), or float32, also (channels, height, width), of one channel or three, a
    leading 1 allowed. levels: the values of black and white in float images.
    """

    def __init__(self, image: Any, *, levels: tuple[float, float] = (0.0, 1.0), variant: str | None = None) -> None:
        black, white = levels
        if not (np.isfinite(levels).all() and white > black):
            raise InputError(f"levels: black is {black}, white is {white}; white must be the larger")
        self._scale = 255.0 / (white - black)
        self._offset = -black * self._scale
        array, planar = _image(image, "the reference", None)
        size = array.shape[1:] if planar else array.shape[:2]
        self.height, self.width = int(size[0]), int(size[1])
        self.channels = int(array.shape[0 if planar else 2])
        self._aligner = _cpu.Aligner(variant or best_variant(), self.height, self.width, self.channels)
        self.update(image)

    @property
    def blocks(self) -> tuple[int, int]:
        """How many blocks there are, down and across."""
        return -(-self.height // BLOCK), -(-self.width // BLOCK)

    def update(self, image: Any, changed: Any = None) -> None:
        """Take the image as the reference; `changed`, bool (height, width), tells where it differs from the last one.

        An image with a NaN is refused, and the next one must be given as a whole.
        """
        array, planar = self._checked(image, "the reference")
        mask = None
        if changed is not None:
            mask = to_array(changed, "changed")
            if mask.dtype != np.bool_ or mask.shape != (self.height, self.width):
                raise InputError(
                    f"changed: {mask.dtype} {mask.shape}, expected bool {(self.height, self.width)}, one for each pixel"
                )
            mask = np.ascontiguousarray(mask).view(np.uint8)
        try:
            finite = self._aligner.set_reference(array, planar, self._scale, self._offset, mask)
        except ValueError as e:
            raise InputError(str(e)) from e
        if not finite:
            raise InputError("the reference: it has values that are NaN or infinite")

    def _align(
        self,
        frame: Any,
        last: Alignment | None,
        hint: Any,
        *,
        matched: float,
        exposure: bool,
        refine: bool,
        by_block: bool,
        reach: int,
    ) -> Alignment:
        array, planar = self._checked(frame, "the frame")
        vectors = np.empty((2, *self.blocks), np.int32)
        sad, still = np.empty(self.blocks, np.float32), np.empty(self.blocks, np.float32)
        try:
            found = self._aligner.align(
                array, planar, self._scale, self._offset,
                None if last is None else self._field(last.vectors, "last"), (0, 0) if last is None else last.shift,
                None if hint is None else self._field(hint, "hint"), matched, exposure, refine, by_block, reach,
                vectors, sad, still,
            )  # fmt: skip
        except ValueError as e:
            raise InputError(str(e)) from e
        if found is None:
            raise InputError("the frame: it has values that are NaN or infinite; drop it, the reference is as it was")
        shift, shares, light = found
        return Alignment(vectors, sad, still, shift, Matched(*shares), self._exposure(light, array.dtype == np.uint8))

    def _checked(self, image: Any, what: str) -> tuple[Array, bool]:
        array, planar = _image(image, what, self.channels)
        wanted = (self.height, self.width)
        size = array.shape[1:] if planar else array.shape[:2]
        if size != wanted or array.shape[0 if planar else 2] != self.channels:
            raise InputError(f"{what}: shape {array.shape}, expected {wanted} pixels of {self.channels} channels")
        return array, planar

    def _field(self, value: Any, what: str) -> npt.NDArray[np.int32]:
        array = to_array(value, what)
        if array.shape != (2, *self.blocks) or array.dtype.kind not in "iu":
            raise InputError(f"{what}: {array.dtype} {array.shape}, expected integers {(2, *self.blocks)}")
        return np.ascontiguousarray(array, np.int32)

    def _exposure(self, light: list[tuple[float, float]], bytes_: bool) -> Exposure | None:
        if not light:
            return None
        scale, offset = (1.0, 0.0) if bytes_ else (self._scale, self._offset)
        gain = tuple(g for g, _ in light)
        return Exposure(gain, tuple(((g - 1) * offset + b) / scale for g, b in light))


def align(
    frame: Any,
    reference: Reference,
    last: Alignment | None = None,
    *,
    hint: Any = None,
    matched: float = MATCHED,
    exposure: bool = True,
    refine: bool = True,
    by_block: bool = True,
    reach: int = REACH,
) -> Alignment:
    """The frame against the reference.

    last: of the frame before, whose vectors are tried first. hint: vectors from elsewhere, as `Alignment.vectors`, a
    decoded stream's. refine: search around what is tried; without, `last`, `hint` and neighbours are all there is.
    by_block: find a vector for each block; without, all have the shift.
    """
    return reference._align(
        frame, last, hint, matched=matched, exposure=exposure, refine=refine, by_block=by_block, reach=reach
    )


def _image(value: Any, what: str, channels: int | None) -> tuple[Array, bool]:
    """The image as an array of three dimensions, and whether its channels come first."""
    array = to_array(value, what)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.dtype not in (np.uint8, np.float32):
        raise InputError(f"{what}: dtype {array.dtype}, expected uint8 or float32")
    known = (1, 3) if channels is None else (channels,)
    planar = array.dtype == np.float32 and array.ndim == 3 and array.shape[0] in known and array.shape[2] not in known
    if array.ndim != 3 or (not planar and array.shape[2] not in known) or 0 in array.shape:
        raise InputError(
            f"{what}: shape {array.shape}, expected (height, width, channels) or, of floats, channels first"
        )
    pixels = (array.itemsize * array.shape[2], array.itemsize)
    return array if array.strides[1:] == pixels else np.ascontiguousarray(array), planar
