"""What a stream did with a frame, drawn over it: a tint for each cause, arrows of motion, the frame on its canvas."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import InputError
from fluxcompile.options import TILE_PIXELS
from fluxcompile.runtime import frame
from fluxcompile.runtime.fit import Image

BLOCK = 8
VECTOR_BLOCK = 16
CAUSES = (*frame.CAUSES, "changed")
"""Why a block was computed anew, or not, by number. A stream that tells no causes has `hit`, `dense` and `changed`."""
HATCH_PERIOD, HATCH_WIDTH = 8, 3
MOST_ARROWS = 240
ARROW_SCALE, LONGEST_ARROW = 2, 16
"""Arrows are so many times as long as the motion, which is a pixel or two; one that would be longer is cut."""
INSET = 56
MARGIN_SHARE = 0.3
"""How much of the inset is margin: to scale, it could not be seen."""
LEGEND_ROW = 20
DARK, LIGHT = (24, 24, 24), (235, 235, 235)


class Tint(NamedTuple):
    """A colour of the palette of Okabe and Ito, which the colour-blind tell apart, and how much of it is mixed in."""

    colour: tuple[int, int, int]
    strength: float
    hatched: bool = False


TINTS = {
    "stale": Tint((60, 60, 60), 0.55, hatched=True),
    "salient": Tint((213, 94, 0), 0.45),
    "background": Tint((86, 180, 233), 0.45),
    "edge": Tint((204, 121, 167), 0.5),
    "refreshed": Tint((0, 158, 115), 0.45),
    "dense": Tint((240, 228, 66), 0.22),
    "changed": Tint((230, 159, 0), 0.45),
}
"""Hits stay clear."""


@dataclass(frozen=True)
class Seen:
    """What is drawn of one frame: `causes` by number for each block of the canvas, `vectors` as of an aligner.

    offset: where the frame lies on the canvas, which is as large as `causes` says. vectors_at: where vectors begin.
    moves: whether frames move there. tells: what a legend explains.
    """

    causes: npt.NDArray[np.uint8]
    vectors: npt.NDArray[np.int32] | None = None
    offset: tuple[int, int] = (0, 0)
    vectors_at: tuple[int, int] = (0, 0)
    moves: bool = False
    tells: tuple[str, ...] = (*CAUSES[1:-1], "moved")

    @classmethod
    def of(cls, stats: Any, size: Sequence[int], place: tuple[int, int] | None = None) -> Self:
        """What a stream says of its last frame; one that tells no causes says which pixels changed.

        place: where the frame lies in what the stream was given; None for a stream that places frames itself.
        """
        offset = stats.offset if place is None else place
        if stats.causes is None:
            miss = np.broadcast_to(np.asarray(stats.miss, bool), tuple(size[:2]))
            return cls(_changed(miss, bool(stats.dense)), None, offset, tells=("changed", "dense"))
        moved = ("moved",) if stats.vectors is not None else ()
        return cls(stats.causes, stats.vectors, offset, stats.offset, place is None, (*CAUSES[1:-1], *moved))

    @property
    def canvas(self) -> tuple[int, int]:
        rows, columns = self.causes.shape
        return rows * BLOCK, columns * BLOCK

    def shares(self) -> list[float]:
        """The share of blocks that each of CAUSES has."""
        counts = np.bincount(self.causes.reshape(-1), minlength=len(CAUSES))
        return [float(count) / max(1, self.causes.size) for count in counts]


def tinted(image: Image, seen: Seen) -> Image:
    """The frame with each block in the tint of its cause."""
    (height, width), (top, left) = image.shape[:2], seen.offset
    whole = seen.causes.repeat(BLOCK, 0).repeat(BLOCK, 1)
    place = whole[top : top + height, left : left + width] if min(top, left) >= 0 else whole[:0]
    if place.shape != (height, width):
        raise InputError(
            f"overlay: causes cover {whole.shape} pixels, the frame is {(height, width)} at {seen.offset}; "
            f"give one for each {BLOCK} x {BLOCK} pixels of the canvas"
        )
    view = image.copy()
    for number, cause in enumerate(CAUSES):
        tint = TINTS.get(cause)
        there = place == number
        if tint is None or not there.any():
            continue
        if tint.hatched:
            y, x = np.ogrid[:height, :width]
            there &= (y + x) % HATCH_PERIOD < HATCH_WIDTH
        mixed = (1 - tint.strength) * view[there] + tint.strength * np.array(tint.colour)
        view[there] = mixed.astype(np.uint8)
    return view


def draw_arrows(view: Image, seen: Seen) -> None:
    """For each block that moved, or every other one of many, an arrow that comes from where it was."""
    import cv2

    if seen.vectors is None:
        return
    moved = np.argwhere(seen.vectors.any(0))
    if len(moved) > MOST_ARROWS:
        moved = moved[moved.sum(1) % 2 == 0]
    for row, column in moved:
        vector = ARROW_SCALE * seen.vectors[:, row, column].astype(np.float64)
        dy, dx = np.rint(vector * min(1.0, LONGEST_ARROW / float(np.hypot(*vector)))).astype(int).tolist()
        begins = (b - o for b, o in zip(seen.vectors_at, seen.offset, strict=True))
        y, x = (VECTOR_BLOCK * int(k) + VECTOR_BLOCK // 2 + b for k, b in zip((row, column), begins, strict=True))
        for colour, thickness in ((DARK, 3), (LIGHT, 1)):
            cv2.arrowedLine(view, (x + dx, y + dy), (x, y), colour, thickness, cv2.LINE_AA, tipLength=0.35)


def draw_inset(view: Image, frame: Sequence[int], seen: Seen) -> None:
    """The canvas in a corner and the frame's place on it, its margin exaggerated; nothing where frames do not move."""
    import cv2

    margins = [canvas - side for canvas, side in zip(seen.canvas, frame, strict=True)]
    if not seen.moves or max(margins) < BLOCK or min(view.shape[:2]) < 2 * INSET:
        return
    height, width = (round(INSET * side / max(seen.canvas)) for side in seen.canvas)
    top, left = 8, view.shape[1] - width - 8
    view[top : top + height, left : left + width] //= 3
    cv2.rectangle(view, (left, top), (left + width, top + height), LIGHT, 1)
    within = [
        round(MARGIN_SHARE * side * at / margin) if margin > 0 else 0
        for side, at, margin in zip((height, width), seen.offset, margins, strict=True)
    ]
    inner = [
        round(side * (1 - (MARGIN_SHARE if margin > 0 else 0)))
        for side, margin in zip((height, width), margins, strict=True)
    ]
    corner = (left + within[1], top + within[0])
    cv2.rectangle(view, corner, (corner[0] + inner[1], corner[1] + inner[0]), TINTS["changed"].colour, 2)


def legend(width: int, names: Sequence[str]) -> Image:
    """A strip that says what the tints and arrows mean."""
    import cv2

    font, scale, swatch = cv2.FONT_HERSHEY_SIMPLEX, 0.4, 11
    places, x, row = [], 8, 0
    for name in names:
        wide = swatch + 6 + cv2.getTextSize(name, font, scale, 1)[0][0] + 14
        if x + wide > width and x > 8:
            x, row = 8, row + 1
        places.append((x, row * LEGEND_ROW + 4))
        x += wide
    strip = np.full(((row + 1) * LEGEND_ROW, width, 3), 24, np.uint8)
    for name, (left, top) in zip(names, places, strict=True):
        middle = top + swatch // 2
        if name in TINTS:
            strip[top : top + swatch, left : left + swatch] = _swatch(swatch, name)
        else:
            cv2.arrowedLine(strip, (left, middle), (left + swatch, middle), LIGHT, 1, cv2.LINE_AA, tipLength=0.4)
        cv2.putText(strip, name, (left + swatch + 6, top + 10), font, scale, LIGHT, 1, cv2.LINE_AA)
    return strip


def _swatch(side: int, cause: str) -> Image:
    """A square in the full colour of a cause, or hatched with it."""
    tint = TINTS[cause]
    y, x = np.indices((side, side))
    there = ((y + x) % HATCH_PERIOD < HATCH_WIDTH) | (not tint.hatched)
    return np.where(there[..., None], tint.colour, 170).astype(np.uint8)


def _changed(miss: npt.NDArray[np.bool_], dense: bool) -> npt.NDArray[np.uint8]:
    """Causes of a stream that tells which pixels changed: whole tiles, the unit in which its first layers compute."""
    height, width = miss.shape
    rows, columns = -(-height // TILE_PIXELS), -(-width // TILE_PIXELS)
    padded = np.zeros((rows * TILE_PIXELS, columns * TILE_PIXELS), bool)
    padded[:height, :width] = miss
    tiles = padded.reshape(rows, TILE_PIXELS, columns, TILE_PIXELS).any(axis=(1, 3))
    blocks = tiles.repeat(TILE_PIXELS // BLOCK, 0).repeat(TILE_PIXELS // BLOCK, 1)
    blocks = blocks[: -(-height // BLOCK), : -(-width // BLOCK)]
    return np.where(blocks | dense, CAUSES.index("dense" if dense else "changed"), 0).astype(np.uint8)
