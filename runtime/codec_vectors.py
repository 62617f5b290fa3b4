"""The motion vectors that a decoder hands out with each frame, as the aligner's field: `align(..., hint=field)`.

An encoder looked for what predicts well, not for what moved, and the decoder does not say which frame a vector leads
to, only whether to an earlier one. So they are hints, which the aligner compares before it takes one. They are right
where each frame is predicted from the one before (a live stream's encoder); with frames predicted from both sides the
distance is taken to be that to the last I or P frame, and motion to be even.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import InputError
from fluxcompile.runtime.fit import Image, Placement
from fluxcompile.runtime.motion import BLOCK
from fluxcompile.runtime.video import Source, VideoError, pictures, quarter_turns, upright

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

CELL = 4
"""Pixels a side of the smallest block that has a vector of its own."""
SAMPLES = 4
"""Points a side at which a block of the aligner asks for the vectors below it."""
EXPORTING = ("h264", "mpeg4")
"""Decoders that hand out vectors; FFmpeg's of HEVC and VP9 do not."""

Field = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class CodecVectors:
    """A frame's vectors to the frame shown before it, float (2, cells_y, cells_x), NaN where the codec has none."""

    cells: npt.NDArray[np.float32]
    height: int
    width: int

    def field(self, placement: Placement | None = None, size: tuple[int, int] | None = None) -> Field:
        """Int32 (2, blocks_y, blocks_x) for an image of `size` on which the frame lies at `placement`.

        Zero where no vector is known. Without a placement the image is the frame; without a size, the frame's part.
        """
        place = placement or Placement(0, 0, self.height, self.width, self.height, self.width)
        height, width = size or (place.top + place.height, place.left + place.width)
        axes = (
            (height, place.top, place.scale_y, self.cells.shape[1]),
            (width, place.left, place.scale_x, self.cells.shape[2]),
        )
        (rows, inside_y), (columns, inside_x) = (_samples(*axis) for axis in axes)
        found = np.where((inside_y[:, None] & inside_x)[None], self.cells[:, rows[:, None], columns], np.nan)
        blocks_y, blocks_x = len(rows) // SAMPLES, len(columns) // SAMPLES
        found = found.reshape(2, blocks_y, SAMPLES, blocks_x, SAMPLES).swapaxes(2, 3).reshape(2, blocks_y, blocks_x, -1)
        found = np.sort(found, axis=-1)  # NaN comes last
        middle = np.maximum(np.isfinite(found).sum(-1) - 1, 0) // 2
        vectors = np.nan_to_num(np.take_along_axis(found, middle[..., None], -1)[..., 0])
        vectors *= np.array([place.scale_y, place.scale_x]).reshape(2, 1, 1)
        return np.ascontiguousarray(np.rint(vectors), np.int32)


def frames_with_vectors(source: Source) -> Iterator[tuple[Image, CodecVectors | None]]:
    """Yield the frames of a file or an address, each with its vectors; None for one predicted from no other."""
    since = 1  # frames since the last one that others are predicted from
    for picture in pictures(source, lambda stream: _exporting(source, stream)):
        yield upright(picture), _vectors(picture, since)
        since = 1 if _kind(picture) in "IPS" else since + 1


def compose(field: Any, before: Any) -> Field:
    """The vectors to where `before` leads, of a frame that `field` takes to the one `before` belongs to.

    For a reference that did not move with the frames since: one vector a block, read where the block's middle was.
    """
    now, then = np.asarray(field), np.asarray(before)
    if now.shape != then.shape or now.ndim != 3 or now.shape[0] != 2 or {now.dtype.kind, then.dtype.kind} - set("iu"):
        raise InputError(
            f"compose: fields {now.dtype} {now.shape} and {then.dtype} {then.shape}, both must be integers "
            "(2, blocks_y, blocks_x)"
        )
    at = [
        np.clip((index * BLOCK + BLOCK // 2 + shift) // BLOCK, 0, n - 1)
        for index, shift, n in zip(np.indices(now.shape[1:]), now, now.shape[1:], strict=True)
    ]
    return np.ascontiguousarray(now + then[:, at[0], at[1]], np.int32)


def _exporting(source: Source, stream: "VideoStream") -> dict[str, str]:
    if stream.codec_context.name not in EXPORTING:
        raise VideoError(
            f"{source}: no motion vectors, the decoder of {stream.codec_context.name} hands out none "
            f"(those of {', '.join(EXPORTING)} do); align without a hint"
        )
    return {"flags2": "+export_mvs"}


def _kind(picture: "VideoFrame") -> str:
    from av.video.frame import PictureType

    return PictureType(picture.pict_type).name


def _vectors(picture: "VideoFrame", since: int) -> CodecVectors | None:
    from av.sidedata import sidedata

    container: Any = sidedata.SideDataContainer  # a picture's own container and the picture keep each other alive
    data = container(picture).get("MOTION_VECTORS")
    if data is None:
        return None
    vectors = data.to_ndarray()
    vectors = vectors[(vectors["source"] < 0) & (vectors["motion_scale"] > 0)]
    cells = np.full((2, -(-picture.height // CELL), -(-picture.width // CELL)), np.nan, np.float32)
    for size in np.unique(vectors[["h", "w"]]):  # a handful
        some = vectors[(vectors["h"] == size["h"]) & (vectors["w"] == size["w"])]
        rows, columns = (_covered(some[f"dst_{axis}"], int(side)) for axis, side in zip("yx", size, strict=True))
        inside = (rows[:, :, None] >= 0) & (rows[:, :, None] < cells.shape[1])
        inside = inside & (columns[:, None] >= 0) & (columns[:, None] < cells.shape[2])
        which, i, j = np.nonzero(inside)
        for part, axis in enumerate("yx"):
            moved = some[f"motion_{axis}"] / some["motion_scale"] / since
            cells[part, rows[which, i], columns[which, j]] = moved[which]
    height, width = picture.height, picture.width
    for _ in range(quarter_turns(picture)):
        cells = np.stack([-np.rot90(cells[1]), np.rot90(cells[0])])
        height, width = width, height
    return CodecVectors(cells, height, width)


def _covered(middle: npt.NDArray[Any], side: int) -> npt.NDArray[np.int64]:
    """The cells, of one axis, of blocks with these middles: (blocks, cells)."""
    first = (middle.astype(np.int64) - side // 2) // CELL
    return np.asarray(first[:, None] + np.arange(max(1, side // CELL)))


def _samples(n: int, first: int, scale: float, cells: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The cells below the points at which the blocks of one axis ask, and which points lie on the frame at all."""
    step = BLOCK / SAMPLES
    pixel = (np.arange(-(-n // BLOCK) * SAMPLES) + 0.5) * step - first
    cell = np.floor(pixel / scale / CELL).astype(np.int64)
    return np.clip(cell, 0, cells - 1), (cell >= 0) & (cell < cells)
