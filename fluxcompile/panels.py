"""Annotated views of a frame, side by side, and a few of them kept as pictures."""

import numpy as np
import numpy.typing as npt

from fluxcompile.runtime import report
from fluxcompile.runtime.fit import Image, Placement
from fluxcompile.runtime.overlay import Seen, draw_arrows, draw_inset, tinted

WORK = (235, 110, 20)
BOXED = (60, 220, 110)
PANEL_WIDTH = 352
HEADER_HEIGHT = 24
PICTURES = 6


def panel(
    image: Image,
    placement: Placement,
    seen: Seen | None,
    boxes: npt.NDArray[np.float32] | None,
    name: str,
    share: float,
) -> Image:
    """Return one annotated view: blocks in the tint of their cause, boxes, a header that says what it cost."""
    import cv2

    view = placement.crop(image).copy()
    if seen is not None:
        view = tinted(view, seen)
        draw_arrows(view, seen)
    frame = view.shape[:2]
    scale = max(1, round(PANEL_WIDTH / view.shape[1]))
    if scale > 1:
        view = np.asarray(cv2.resize(view, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR), np.uint8)
    for box in boxes if boxes is not None else ():
        left, right = (round(float(scale * (x - placement.left))) for x in box[0:3:2])
        top, bottom = (round(float(scale * (y - placement.top))) for y in box[1:4:2])
        cv2.rectangle(view, (left, top), (right, bottom), BOXED, 2, cv2.LINE_AA)
    if seen is not None:
        draw_inset(view, frame, seen)
    header = np.full((HEADER_HEIGHT, view.shape[1], 3), 24, np.uint8)
    bar = round(view.shape[1] * min(share, 1.0))
    cv2.rectangle(header, (0, HEADER_HEIGHT - 3), (bar, HEADER_HEIGHT), WORK, -1)
    text = f"{name}: {share:.0%} of the work"
    cv2.putText(header, text, (8, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.44, (235, 235, 235), 1, cv2.LINE_AA)
    framed = np.vstack([header, view])
    framed[:, -1] = 24  # a seam between panels that stand side by side
    return framed


class Strip:
    """Keeps a few pictures spread evenly over a clip whose length nobody knows."""

    def __init__(self) -> None:
        self._every = 1
        self._kept: list[tuple[int, Image]] = []

    def offer(self, index: int, picture: Image) -> None:
        if index % self._every:
            return
        self._kept.append((index, picture))
        if len(self._kept) == 4 * PICTURES:
            self._kept = self._kept[::2]
            self._every *= 2

    def pictures(self) -> list[report.Picture]:
        """Return at most PICTURES of them as JPEG, the first and the last kept one included."""
        chosen = sorted({round(position) for position in np.linspace(0, len(self._kept) - 1, PICTURES)})
        return [
            report.Picture(content=jpeg(picture), caption=f"frame {index}")
            for index, picture in (self._kept[position] for position in chosen if self._kept)
        ]


def jpeg(image: Image, quality: int = 85) -> bytes:
    import cv2

    done, content = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return content.tobytes()
