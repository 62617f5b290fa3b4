"""Shifts and moving patches made here, so that every vector is known; then the real clips that the aligner is for."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcompile.errors import InputError
from fluxcompile.ops import flux
from fluxcompile.passes.insert_motion_reindex import BLOCK as PASS_BLOCK
from fluxcompile.runtime.motion import BLOCK, Alignment, Reference, align

Image = np.ndarray[Any, Any]


def texture(height: int, width: int, seed: int = 0) -> Image:
    """Detail at every scale, as real pictures have."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for side in (1, 4, 16, 48):
        part = rng.normal(0, 22, (-(-height // side), -(-width // side), 3))
        total += part.repeat(side, 0).repeat(side, 1)[:height, :width]
    return np.clip(total + 128, 0, 255).astype(np.uint8)


def moved(image: Image, vectors: Image) -> Image:
    """The reference as the caches will be: moved by `flux.motion_reindex`'s own rule."""
    h, w = image.shape[:2]
    shift = flux.shift_at(torch.from_numpy(vectors), [h, w], [1.0, 1.0], [0.0, 0.0], BLOCK)
    return image.reshape(h * w, -1)[flux.source(shift, w).numpy()].reshape(image.shape)


def pan(height: int, width: int, dy: int, dx: int, seed: int = 0) -> tuple[Image, Image]:
    """A reference, and a frame whose pixel p holds what p + (dy, dx) held."""
    margin = 59  # so that the texture's cells lie on no block's edge
    world = texture(height + 2 * margin, width + 2 * margin, seed)
    return world[margin:-margin, margin:-margin], world[margin + dy :, margin + dx :][:height, :width]


def inner(vectors: Image, dy: int, dx: int, height: int, width: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Blocks whose source lies inside the frame as a whole."""
    y, x = (np.arange(n) * BLOCK for n in vectors.shape[1:])
    rows = (y + dy >= 0) & (np.minimum(y + BLOCK, height) + dy <= height)
    columns = (x + dx >= 0) & (np.minimum(x + BLOCK, width) + dx <= width)
    return np.asarray(rows[:, None] & columns)


def test_block_is_that_of_the_pass() -> None:
    assert BLOCK == PASS_BLOCK


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(130, 200), st.integers(130, 260), st.integers(-28, 28), st.integers(-28, 28), st.integers(0, 1 << 16)
)
def test_a_known_shift_is_found(height: int, width: int, dy: int, dx: int, seed: int) -> None:
    then, now = pan(height, width, dy, dx, seed)
    found = align(now, Reference(then))
    assert found.shift == (dy, dx)
    whole = inner(found.vectors, dy, dx, height, width)
    assert (found.vectors[:, whole] == np.array([[dy], [dx]])).all()
    assert not found.sad[whole].any()
    assert found.exposure is None


def with_patch(dy: int, dx: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A scene then and now, in which a patch of 80 x 80 pixels came from (dy, dx)."""
    then = texture(160, 200, seed)
    now = then.copy()
    patch = texture(80, 80, seed + 1)
    then[48 + dy : 128 + dy, 64 + dx : 144 + dx] = patch
    now[48:128, 64:144] = patch
    return then, now


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(-8, 8), st.integers(-8, 8), st.integers(0, 1 << 16))
def test_a_moving_patch_moves_nothing_else(dy: int, dx: int, seed: int) -> None:
    then, now = with_patch(dy, dx, seed)
    found = align(now, Reference(then))
    assert found.shift == (0, 0)
    assert (found.sad <= found.sad_still).all()
    still = (now == then).all(-1)
    for by, bx in np.ndindex(found.sad.shape):
        if still[16 * by : 16 * by + 16, 16 * bx : 16 * bx + 16].all():
            assert not found.vectors[:, by, bx].any()


def test_a_moving_patch_is_found() -> None:
    """A search from what lies near can miss a patch; over many scenes it seldom does."""
    found = []
    for seed in range(40):
        dy, dx = np.random.default_rng(seed).integers(-8, 9, 2)
        then, now = with_patch(int(dy), int(dx), 2 * seed)
        whole = align(now, Reference(then)).vectors[:, 3:8, 4:9]
        found.append((whole == np.array([dy, dx]).reshape(2, 1, 1)).all(0).mean())
    assert np.mean(found) > 0.9
    assert np.median(found) == 1


def test_vectors_say_where_content_was() -> None:
    """The caches moved by them show the frame; turned round, as a wrong sign would be, they do not."""
    then, now = pan(160, 192, 5, -9)
    found = align(now, Reference(then))
    whole = inner(found.vectors, 5, -9, 160, 192).repeat(16, 0).repeat(16, 1)
    np.testing.assert_array_equal(moved(then, found.vectors)[whole], now[whole])
    for wrong in (-found.vectors, found.vectors[::-1].copy(), found.vectors * np.array([[[1]], [[-1]]], np.int32)):
        assert (moved(then, wrong)[whole] != now[whole]).mean() > 0.5


def test_far_border_keeps_what_lies_inside() -> None:
    then, now = pan(160, 160, 0, 8)
    found = align(now, Reference(then))
    assert found.shift == (0, 8)
    assert found.vectors[1, 4].tolist()[:9] == [8] * 9
    assert found.sad[:, -1].min() > found.sad[:, :-1].max()  # half of it was never seen


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (16, 16), (17, 31), (64, 64), (100, 100)])
def test_small_and_odd_sizes(size: tuple[int, int]) -> None:
    image = texture(*size)
    found = align(image, Reference(image))
    assert found.matched.still == found.matched.blocks == 1
    assert not found.vectors.any()
    assert found.vectors.shape == (2, -(-size[0] // 16), -(-size[1] // 16))
    align(texture(*size, seed=9), Reference(image), found)


def test_a_small_frame_shifts() -> None:
    then, now = pan(64, 80, 3, -6)
    assert align(now, Reference(then)).shift == (3, -6)


@pytest.mark.parametrize("level", [0, 90, 255])
def test_flat_images_do_not_move(level: int) -> None:
    flat = np.full((160, 160, 3), level, np.uint8)
    before, now = pan(160, 160, 4, 4)
    last = align(now, Reference(before))
    for reference in (flat, np.full_like(flat, max(0, level - 3))):
        found = align(flat, Reference(reference), last)
        assert found.shift == (0, 0)
        assert not found.vectors.any()


def test_noise_does_not_move() -> None:
    rng = np.random.default_rng(0)
    image = texture(160, 160) // 2 + 60
    first, second = (np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8) for _ in range(2))
    found = align(second, Reference(first))
    assert found.shift == (0, 0)
    assert not found.vectors.any()
    assert found.matched.still == 1


def test_a_cut_is_told_from_a_pan() -> None:
    then, now = pan(240, 320, 7, 20)
    reference = Reference(then)
    assert align(texture(240, 320, seed=77), reference).is_cut
    assert not align(now, reference).is_cut


def test_the_same_twice() -> None:
    then, now = pan(160, 208, 6, 3)
    noise = np.random.default_rng(0).integers(0, 9, now.shape, np.uint8)
    reference = Reference(then)
    first, second = (align(now ^ noise, reference) for _ in range(2))
    assert (first.shift, first.matched, first.exposure) == (second.shift, second.matched, second.exposure)
    np.testing.assert_array_equal(first.vectors, second.vectors)
    np.testing.assert_array_equal(first.sad, second.sad)


def test_threads_wait_for_each_other() -> None:
    then, now = pan(160, 208, 6, 3)
    reference = Reference(then)
    wanted = [align(x, reference).sad.tolist() for x in (now, then)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda i: align((now, then)[i % 2], reference).sad.tolist(), range(40))
    assert list(found) == wanted * 20


def test_something_large_that_passes_is_no_shift() -> None:
    """A car over 45 % of the frame: the camera stays. Over 75 % nothing could tell it from a moving camera."""
    for share, shift in ((0.45, (0, 0)), (0.75, (0, -11))):
        then, now = texture(320, 320), texture(320, 320)
        rows, car = int(320 * share), texture(320, 400, seed=3)
        then[:rows], now[:rows] = car[:rows, 30:350], car[:rows, 19:339]
        found = align(now, Reference(then))
        assert found.shift == shift
        assert (found.vectors[:, :8, 1:-1] == np.array([0, -11]).reshape(2, 1, 1)).mean() > 0.9


def test_a_still_overlay_stays_in_a_pan() -> None:
    then, now = pan(240, 320, 3, 8)
    then, now = then.copy(), now.copy()
    then[32:96, 32:128] = now[32:96, 32:128] = texture(64, 96, seed=5)
    found = align(now, Reference(then))
    assert found.shift == (3, 8)
    assert not found.vectors[:, 2:6, 2:8].any()


GAIN, BIAS = np.array([0.9, 0.94, 0.97]), np.array([22.0, 15.0, 9.0])


def darker(image: Image) -> Image:
    """The reference's light, undone: image = darker * GAIN + BIAS."""
    return np.rint(np.clip((image - BIAS) / GAIN, 0, 255)).astype(np.uint8)


@pytest.mark.parametrize("shift", [(0, 0), (5, -13)])
def test_a_change_of_light_is_found(shift: tuple[int, int]) -> None:
    then, now = pan(240, 320, *shift)
    then, now = (x // 2 + 64 for x in (then, now))
    reference = Reference(then)
    found = align(darker(now), reference)
    assert found.exposure is not None
    np.testing.assert_allclose(found.exposure.gain, GAIN, atol=0.03)
    np.testing.assert_allclose(np.array(found.exposure.gain) * 128 + found.exposure.bias, GAIN * 128 + BIAS, atol=1)
    assert found.shift == shift
    assert found.matched.plain < 0.1
    assert found.matched.blocks > 0.8
    blind = align(darker(now), reference, exposure=False)
    assert blind.exposure is None
    assert blind.matched.blocks < 0.3


def test_light_of_floats_is_in_their_own_values() -> None:
    then, _ = pan(240, 320, 0, 0)
    then = then // 2 + 64
    planes = [np.ascontiguousarray(x.transpose(2, 0, 1), np.float32) / 127.5 - 1 for x in (then, darker(then))]
    reference = Reference(planes[0], levels=(-1.0, 1.0))
    found = align(planes[1], reference)
    assert found.exposure is not None
    lit = planes[1] * np.array(found.exposure.gain).reshape(3, 1, 1) + np.array(found.exposure.bias).reshape(3, 1, 1)
    assert np.abs(lit - planes[0]).mean() < 0.01 < np.abs(planes[1] - planes[0]).mean()


def test_no_light_without_a_change() -> None:
    then, now = pan(240, 320, 0, 0)
    now = now.copy()
    now[:120] = texture(120, 320, seed=8)  # what is new is no change of light
    assert align(now, Reference(then)).exposure is None


def test_kinds_of_image_agree() -> None:
    then, now = pan(160, 160, 2, 7)
    wanted = align(now, Reference(then))
    planar = [np.ascontiguousarray(x.transpose(2, 0, 1)[None], np.float32) / 255 for x in (then, now)]
    tensors = [torch.from_numpy(x) for x in planar]
    rows = [x.astype(np.float32) / 255 for x in (then, now)]
    for reference, frame in (planar, tensors, rows, (then[None], now[None]), (rows[0], now), (then, planar[1])):
        found = align(frame, Reference(reference))
        assert found.shift == wanted.shift
        np.testing.assert_array_equal(found.vectors, wanted.vectors)


def test_update_in_parts_is_a_new_reference() -> None:
    before, after = texture(130, 150), texture(130, 150)
    changed = np.zeros((130, 150), np.bool_)
    changed[20:70, 100:150] = True
    after[changed] = texture(130, 150, seed=4)[changed]
    reference, frame = Reference(before), texture(130, 150, seed=6)
    reference.update(after, changed)
    found, wanted = align(frame, reference), align(frame, Reference(after))
    np.testing.assert_array_equal(found.sad_still, wanted.sad_still)
    np.testing.assert_array_equal(found.vectors, wanted.vectors)
    assert (found.sad_still != align(frame, Reference(before)).sad_still).any()


def test_a_hint_is_tried_and_the_last_vectors_too() -> None:
    """Without a search, what is not said is not found."""
    then, now = texture(160, 160), texture(160, 160)
    patch = texture(64, 64, seed=2)
    then[48:112, 48:112], now[48:112, 61:125] = patch, patch
    field = np.zeros((2, 10, 10), np.int64)
    field[1, 3:7, 4:8] = -13
    reference = Reference(then)
    assert not align(now, reference, refine=False).vectors.any()
    hinted = align(now, reference, hint=field, refine=False)
    assert (hinted.vectors[:, 3:7, 4:7] == np.array([0, -13]).reshape(2, 1, 1)).all()
    again = align(now, reference, hinted, refine=False)
    whole = align(now, reference, by_block=False)
    for axis in (0, 1):
        assert (whole.vectors[axis] == whole.shift[axis]).all()
    np.testing.assert_array_equal(again.vectors, hinted.vectors)
    wrong = align(now, reference, hint=-field, refine=False)  # compared before it is taken
    assert not wrong.vectors[:, 3:7, 4:7].any()


def test_vectors_stay_within_reach() -> None:
    then, now = pan(320, 320, 20, 0)
    assert align(now, Reference(then)).shift == (20, 0)
    found = align(now, Reference(then), reach=10)
    assert found.shift == (0, 0)
    assert np.abs(found.vectors).max() <= 10


FRAME = texture(48, 64)
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "type": (lambda: Reference(FRAME.astype(np.float64)), "dtype float64"),
    "no image": (lambda: Reference("frame.png"), "no array of numbers"),
    "dimensions": (lambda: Reference(FRAME[0]), r"shape \(64, 3\)"),
    "channels": (lambda: Reference(np.zeros((48, 64, 4), np.uint8)), r"shape \(48, 64, 4\)"),
    "bytes planar": (lambda: Reference(np.zeros((3, 48, 64), np.uint8)), "expected .height, width, channels."),
    "empty": (lambda: Reference(np.zeros((0, 64, 3), np.uint8)), r"shape \(0, 64, 3\)"),
    "two frames": (lambda: Reference(np.stack([FRAME, FRAME])), r"shape \(2, 48"),
    "NaN": (lambda: Reference(np.full((48, 64, 3), np.nan, np.float32)), "the reference: .* NaN"),
    "NaN in the frame": (
        lambda: align(np.full((48, 64, 3), np.nan, np.float32), Reference(FRAME)),
        "the frame: .* NaN",
    ),
    "levels": (lambda: Reference(FRAME, levels=(1.0, 1.0)), "white must be the larger"),
    "other size": (lambda: align(FRAME[:40], Reference(FRAME)), r"expected \(48, 64\)"),
    "other channels": (lambda: align(FRAME[:, :, :1], Reference(FRAME)), "shape"),
    "changed": (lambda: Reference(FRAME).update(FRAME, np.ones((3, 4), np.bool_)), r"expected bool \(48, 64\)"),
    "changed of bytes": (lambda: Reference(FRAME).update(FRAME, np.ones((48, 64), np.uint8)), "changed: uint8"),
    "hint": (lambda: align(FRAME, Reference(FRAME), hint=np.zeros((2, 3, 3), np.int32)), r"integers \(2, 3, 4\)"),
    "hint of floats": (lambda: align(FRAME, Reference(FRAME), hint=np.zeros((2, 3, 4))), "hint: float64"),
    "last of another": (
        lambda: align(FRAME, Reference(FRAME), align(texture(96, 96), Reference(texture(96, 96)))),
        "last: int32",
    ),
    "matched": (lambda: align(FRAME, Reference(FRAME), matched=float("nan")), "matched is nan"),
    "reach": (lambda: align(FRAME, Reference(FRAME), reach=-1), "reach is -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        call()


def test_a_refused_frame_changes_nothing_and_a_refused_reference_is_none() -> None:
    reference = Reference(FRAME)
    odd = FRAME.astype(np.float32)
    odd[3, 4, 1] = np.nan
    with pytest.raises(InputError, match="the reference is as it was"):
        align(odd, reference)
    assert align(FRAME, reference).matched.still == 1
    with pytest.raises(InputError, match="NaN"):
        reference.update(odd)
    with pytest.raises(InputError, match="no whole reference"):
        align(FRAME, reference)
    reference.update(FRAME)
    assert align(FRAME, reference).matched.still == 1


def play(path: Path, count: int) -> list[Alignment]:
    from fluxcompile.runtime.video import frames, probe

    clip = probe(path)
    images = list(frames(path, (round(clip.height * 640 / clip.width / 2) * 2, 640), count=count))
    reference, last, found = Reference(images[0]), None, []
    for image in images[1:]:
        last = align(image, reference, last)
        found.append(last)
        reference.update(image)
    return found


def mean(found: list[Alignment], what: str) -> float:
    return float(np.mean([getattr(a.matched, what) for a in found]))


def test_passing_cars_do_not_move_a_fixed_camera(shared: Callable[[str], Path]) -> None:
    found = play(shared("data/clips/static_road_cars.mp4"), 60)
    assert {a.shift for a in found} == {(0, 0)}
    assert mean(found, "still") > mean(found, "plain") + 0.05  # its light changes
    assert mean(found, "blocks") > mean(found, "still") + 0.02


@pytest.mark.parametrize(
    ("name", "still", "shift", "blocks"),
    [("pan_bear", 0.2, 0.6, 0.65), ("pan_paragliding_launch", 0.25, 0.6, 0.7)],
)
def test_a_moving_camera_profits(
    shared: Callable[[str], Path], name: str, still: float, shift: float, blocks: float
) -> None:
    found = play(shared(f"data/clips/{name}.mp4"), 30)
    assert mean(found, "still") < still
    assert mean(found, "shift") > shift
    assert mean(found, "blocks") > blocks
    assert sum(a.shift != (0, 0) for a in found) > 0.8 * len(found)


def test_a_cut_is_seen_once(shared: Callable[[str], Path]) -> None:
    found = play(shared("data/clips/cuts_street_bikes.mp4"), 36)
    assert [i + 1 for i, a in enumerate(found) if a.is_cut] == [30]
