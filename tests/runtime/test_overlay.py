"""An overlay tints the blocks of a cause and no other, wherever the frame lies on its canvas."""

import numpy as np
import pytest

from fluxcompile.errors import InputError
from fluxcompile.runtime.fit import Image
from fluxcompile.runtime.overlay import (
    BLOCK,
    CAUSES,
    LEGEND_ROW,
    LONGEST_ARROW,
    MOST_ARROWS,
    TINTS,
    Seen,
    draw_arrows,
    draw_inset,
    legend,
    tinted,
)

GREY = 100


def grey(height: int = 64, width: int = 96) -> Image:
    return np.full((height, width, 3), GREY, np.uint8)


def touched(view: Image) -> np.ndarray:
    """Blocks with a pixel that is not as it was."""
    rows, columns = view.shape[0] // BLOCK, view.shape[1] // BLOCK
    return (view != GREY).any(2).reshape(rows, BLOCK, columns, BLOCK).any((1, 3))


class Stats:
    """What a stream says that tells no causes."""

    def __init__(self, miss: np.ndarray, dense: bool = False) -> None:
        self.miss, self.dense = miss, dense
        self.causes, self.vectors, self.offset = None, None, (0, 0)


@pytest.mark.parametrize("cause", CAUSES)
def test_exactly_the_blocks_of_a_cause_are_tinted(cause: str) -> None:
    there = np.random.default_rng(0).random((8, 12)) < 0.3
    causes = np.where(there, CAUSES.index(cause), 0).astype(np.uint8)
    image = grey()
    view = tinted(image, Seen(causes))
    np.testing.assert_array_equal(touched(view), there & (cause != "hit"))
    assert (image == GREY).all()
    if cause in TINTS and not TINTS[cause].hatched:
        tint = TINTS[cause]
        expected = (1 - tint.strength) * GREY + tint.strength * np.array(tint.colour)
        inside = view[there.repeat(BLOCK, 0).repeat(BLOCK, 1)]
        np.testing.assert_array_equal(inside, np.broadcast_to(expected.astype(np.uint8), inside.shape))


def test_tints_can_be_told_apart() -> None:
    assert set(TINTS) == set(CAUSES) - {"hit"}
    colours = [tint.colour for tint in TINTS.values()]
    assert all(np.abs(np.subtract(a, b)).max() > 40 for k, a in enumerate(colours) for b in colours[:k])


def test_causes_lie_on_the_canvas() -> None:
    """The frame lies at (8, 16) on a canvas larger by 32: a block of the canvas is seen that much further up and left."""
    causes = np.zeros((12, 16), np.uint8)
    causes[3, 5] = causes[0, 0] = CAUSES.index("edge")
    there = touched(tinted(grey(), Seen(causes, offset=(8, 16))))
    np.testing.assert_array_equal(np.argwhere(there), [[2, 3]])


def test_a_frame_that_is_not_on_the_canvas() -> None:
    for offset in ((8, 0), (-8, 0)):
        with pytest.raises(InputError, match=r"causes cover \(64, 96\) pixels, the frame is \(64, 96\) at"):
            tinted(grey(), Seen(np.zeros((8, 12), np.uint8), offset=offset))


def test_odd_sizes() -> None:
    causes = np.zeros((7, 9), np.uint8)
    causes[-1, -1] = CAUSES.index("salient")
    changed = (tinted(grey(50, 70), Seen(causes)) != GREY).any(2)
    np.testing.assert_array_equal(np.argwhere(changed), [[y, x] for y in (48, 49) for x in range(64, 70)])


@pytest.mark.parametrize("shape", [(64, 96), (50, 70), (1, 1)])
def test_without_causes_whole_tiles_that_changed(shape: tuple[int, int]) -> None:
    miss = np.zeros(shape, bool)
    assert Seen.of(Stats(miss), shape).shares()[0] == 1
    miss[-1, -1] = True
    seen = Seen.of(Stats(miss), shape)
    assert seen.causes.shape == (-(-shape[0] // BLOCK), -(-shape[1] // BLOCK))
    assert seen.causes[-1, -1] == CAUSES.index("changed")
    np.testing.assert_array_equal(np.argwhere(seen.causes).min(0), [(side - 1) // 32 * 4 for side in shape])
    assert Seen.of(Stats(miss, dense=True), shape).shares()[CAUSES.index("dense")] == 1
    assert seen.tells == ("changed", "dense")


def test_shares_are_of_all_blocks() -> None:
    causes = np.array([[0, 0, 1], [2, 2, 2]], np.uint8)
    assert Seen(causes).shares() == pytest.approx([2 / 6, 1 / 6, 3 / 6, 0, 0, 0, 0, 0])


def test_arrows_are_drawn_where_blocks_moved() -> None:
    vectors = np.zeros((2, 4, 6), np.int32)
    view = grey()
    draw_arrows(view, Seen(np.zeros((8, 12), np.uint8), vectors))
    assert (view == GREY).all()
    vectors[:, 2, 3] = (0, -5)  # its content came from 5 pixels further left; arrows are longer
    draw_arrows(view, Seen(np.zeros((8, 12), np.uint8), vectors))
    rows, columns = np.nonzero((view != GREY).any(2))
    assert (rows.min() + rows.max()) / 2 == pytest.approx(40, abs=2)
    assert (columns.min(), columns.max()) == (pytest.approx(56 - 10, abs=3), pytest.approx(56, abs=3))


def test_the_longest_arrow() -> None:
    vectors = np.zeros((2, 16, 16), np.int32)
    vectors[:, 8, 8] = (100, 0)
    view = grey(256, 256)
    draw_arrows(view, Seen(np.zeros((32, 32), np.uint8), vectors))
    rows = np.nonzero((view != GREY).any((1, 2)))[0]
    assert rows.max() - rows.min() == pytest.approx(LONGEST_ARROW, abs=4)


def test_of_many_arrows_every_other_one() -> None:
    rows = columns = 16
    assert rows * columns > MOST_ARROWS
    vectors = np.ones((2, rows, columns), np.int32)
    view = grey(256, 256)
    draw_arrows(view, Seen(np.zeros((32, 32), np.uint8), vectors))
    drawn = (view != GREY).any(2).reshape(rows, 16, columns, 16).any((1, 3))
    assert drawn[0, 0]
    assert not drawn[0, 1]


def test_inset_shows_where_the_frame_lies() -> None:
    def corner(offset: tuple[int, int]) -> tuple[int, int]:
        view = grey(320, 320)
        draw_inset(view, (320, 320), Seen(np.zeros((44, 44), np.uint8), offset=offset, moves=True))
        rows, columns = np.nonzero((view == TINTS["changed"].colour).all(2))
        return int(rows.min()), int(columns.min())

    (top, left), (below, right) = corner((0, 0)), corner((32, 32))
    assert below > top
    assert right > left
    assert corner((16, 0)) == (pytest.approx((top + below) / 2, abs=1), left)


def test_no_inset_without_a_margin() -> None:
    view = grey(321, 321)
    draw_inset(view, (321, 321), Seen(np.zeros((41, 41), np.uint8), moves=True))
    assert (view == GREY).all()


def test_legend_wraps() -> None:
    wide, narrow = (legend(width, (*CAUSES[1:], "moved")) for width in (900, 200))
    assert wide.shape == (LEGEND_ROW, 900, 3)
    assert narrow.shape[0] >= 4 * LEGEND_ROW
    colours = {tuple(map(int, pixel)) for pixel in wide.reshape(-1, 3)}
    assert all(tint.colour in colours for tint in TINTS.values())
