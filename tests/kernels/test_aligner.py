"""The aligner's binding: what it refuses, and its luma and differences against numpy, odd sizes included."""

from typing import Any

import numpy as np
import pytest

from fluxcompile.kernels import _cpu

SIZES = [(1, 1), (7, 9), (16, 16), (33, 50), (129, 143), (64, 200)]


def image(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def luma(rgb: np.ndarray) -> np.ndarray:
    weights = np.array([77, 150, 29], np.int64)
    return ((rgb.astype(np.int64) @ weights + 128) >> 8).astype(np.uint8)


def halved(plane: np.ndarray) -> np.ndarray:
    h, w = plane.shape[0] // 2, plane.shape[1] // 2
    parts = plane[: 2 * h, : 2 * w].reshape(h, 2, w, 2).astype(np.int64)
    return ((parts.sum((1, 3)) + 2) >> 2).astype(np.uint8)


def level(aligner: Any, index: int, height: int, width: int) -> np.ndarray:
    return np.frombuffer(aligner.level(index), np.uint8).reshape(height >> index, width >> index)


def arguments(height: int, width: int, **changes: Any) -> dict[str, Any]:
    blocks = -(-height // 16), -(-width // 16)
    given = {
        "image": image(height, width, seed=1), "planar": False, "scale": 1.0, "offset": 0.0, "last": None,
        "last_shift": (0, 0), "hint": None, "matched": 4.0, "exposure": True, "refine": True, "by_block": True, "reach": 64,
        "vectors": np.zeros((2, *blocks), np.int32), "sad": np.zeros(blocks, np.float32),
        "still": np.zeros(blocks, np.float32),
    }  # fmt: skip
    return given | changes


@pytest.mark.parametrize("variant", _cpu.variants())
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pyramid(variant: str, height: int, width: int) -> None:
    aligner, rgb = _cpu.Aligner(variant, height, width, 3), image(height, width)
    assert aligner.set_reference(rgb, False, 1.0, 0.0, None)
    wanted = luma(rgb)
    for index in range(4):
        np.testing.assert_array_equal(level(aligner, index, height, width), wanted)
        wanted = halved(wanted)


@pytest.mark.parametrize("variant", _cpu.variants())
@pytest.mark.parametrize("planar", [False, True])
def test_floats_are_bytes_to_a_level(variant: str, planar: bool) -> None:
    rgb = image(33, 50)
    floats = rgb.astype(np.float32) / 255
    if planar:
        floats = np.ascontiguousarray(floats.transpose(2, 0, 1))
    aligner = _cpu.Aligner(variant, 33, 50, 3)
    assert aligner.set_reference(floats, planar, 255.0, 0.0, None)
    off = np.abs(level(aligner, 0, 33, 50).astype(int) - luma(rgb))
    assert off.max() <= 1
    assert np.abs(off - 3).max() > 1  # the control: three levels off would show


def test_one_channel_is_its_own_luma() -> None:
    aligner, grey = _cpu.Aligner("plain", 20, 30, 1), image(20, 30, 1)
    assert aligner.set_reference(grey, False, 1.0, 0.0, None)
    np.testing.assert_array_equal(level(aligner, 0, 20, 30), grey[:, :, 0])


def test_only_what_changed_is_done_again() -> None:
    aligner = _cpu.Aligner("plain", 75, 90, 3)
    before, after = image(75, 90), image(75, 90, seed=5)
    aligner.set_reference(before, False, 1.0, 0.0, None)
    changed = np.zeros((75, 90), np.uint8)
    changed[40, 50] = changed[74, 89] = changed[0, 0] = changed[1, 17] = 1
    aligner.set_reference(after, False, 1.0, 0.0, changed)
    wanted = luma(before)
    for y, x in ((2, 3), (4, 5), (0, 0), (0, 1)):
        part = slice(16 * y, 16 * y + 16), slice(16 * x, 16 * x + 16)
        wanted[part] = luma(after)[part]
    for index in range(4):
        np.testing.assert_array_equal(level(aligner, index, 75, 90), wanted)
        wanted = halved(wanted)


@pytest.mark.parametrize("variant", _cpu.variants())
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_differences_are_those_of_the_moved_reference(variant: str, height: int, width: int) -> None:
    """Blocks at the border too, whose source lies outside in part: there nothing moves."""
    aligner, now = _cpu.Aligner(variant, height, width, 3), image(height, width, seed=1)
    then = np.roll(now, (3, -5), (0, 1)) ^ (image(height, width, seed=2) & 3)
    aligner.set_reference(then, False, 1.0, 0.0, None)
    given = arguments(height, width, exposure=False)
    aligner.align(**given)
    vectors = given["vectors"].repeat(16, 1).repeat(16, 2)[:, :height, :width]
    y, x = np.indices((height, width))
    inside = (y + vectors[0] >= 0) & (y + vectors[0] < height) & (x + vectors[1] >= 0) & (x + vectors[1] < width)
    moved = luma(then)[np.where(inside, y + vectors[0], y), np.where(inside, x + vectors[1], x)]
    for what, against in (("sad", moved), ("still", luma(then))):
        difference = np.abs(luma(now).astype(np.float64) - against)
        for by, bx in np.ndindex(given[what].shape):
            mean = difference[16 * by : 16 * by + 16, 16 * bx : 16 * bx + 16].mean()
            assert given[what][by, bx] == pytest.approx(mean, abs=1e-4)
    assert (height, width) != (129, 143) or given["vectors"].any()  # the control: something did move


@pytest.mark.parametrize("variant", _cpu.variants())
def test_variants_agree(variant: str) -> None:
    found = []
    for name in (variant, "plain"):
        aligner, given = _cpu.Aligner(name, 96, 130, 3), arguments(96, 130)
        aligner.set_reference(np.roll(given["image"], (2, 4), (0, 1)), False, 1.0, 0.0, None)
        found.append((aligner.align(**given), given["vectors"].tolist(), given["sad"].tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize("where", [(0, 0, 0), (74, 89, 2), (40, 3, 1)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("variant", _cpu.variants())
def test_what_is_not_finite_is_told(variant: str, value: float, where: tuple[int, int, int]) -> None:
    aligner, floats = _cpu.Aligner(variant, 75, 90, 3), np.zeros((75, 90, 3), np.float32)
    assert aligner.set_reference(floats, False, 255.0, 0.0, None)
    odd = floats.copy()
    odd[where] = value
    assert aligner.align(**arguments(75, 90, image=odd)) is None
    assert aligner.align(**arguments(75, 90, image=floats)) is not None
    assert not aligner.set_reference(odd, False, 255.0, 0.0, None)
    with pytest.raises(ValueError, match="no whole reference"):
        aligner.align(**arguments(75, 90))


SIDES = (75, 90)
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "type": ({"image": np.zeros((75, 90, 3))}, "must be of type float32"),
    "dimensions": ({"image": np.zeros((75, 90), np.uint8)}, "2 dimensions"),
    "size": ({"image": np.zeros((75, 91, 3), np.uint8)}, "made for 75 x 90"),
    "channels": ({"image": np.zeros((75, 90, 1), np.uint8)}, "of 3 channels"),
    "bytes planar": ({"image": np.zeros((3, 75, 90), np.uint8), "planar": True}, "interleaved, its lines dense"),
    "bytes strided": ({"image": np.zeros((75, 180, 3), np.uint8)[:, ::2]}, "interleaved, its lines dense"),
    "scale": ({"scale": 0.0}, "scale is 0"),
    "scale no number": ({"scale": float("nan")}, "scale is nan"),
    "offset": ({"offset": float("inf")}, "offset inf"),
    "last": ({"last": np.zeros((2, 5, 5), np.int32)}, r"last must be dense, \(2, 5, 6\)"),
    "last of floats": ({"last": np.zeros((2, 5, 6), np.float32)}, "last must be of type int32"),
    "last strided": ({"last": np.zeros((2, 5, 12), np.int32)[:, :, ::2]}, "last must be dense"),
    "hint": ({"hint": np.zeros((3, 5, 6), np.int32)}, "hint must be dense"),
    "matched": ({"matched": -1.0}, "matched is -1"),
    "matched no number": ({"matched": float("nan")}, "matched is nan"),
    "reach": ({"reach": -1}, "reach is -1"),
    "vectors": ({"vectors": np.zeros((2, 6, 5), np.int32)}, "vectors must be dense"),
    "sad": ({"sad": np.zeros((5, 5), np.float32)}, "sad must be dense"),
    "still": ({"still": np.zeros((5, 6))}, "still must be of type float32"),
}


@pytest.mark.parametrize("case", CASES)
def test_refuses(case: str) -> None:
    changes, message = CASES[case]
    aligner = _cpu.Aligner("plain", *SIDES, 3)
    aligner.set_reference(image(*SIDES), False, 1.0, 0.0, None)
    aligner.align(**arguments(*SIDES))  # the control
    with pytest.raises(ValueError, match=message):
        aligner.align(**arguments(*SIDES, **changes))


def test_refuses_what_it_cannot_be_made_for() -> None:
    for size in ((0, 4), (4, -1), (1 << 15, 4)):
        with pytest.raises(ValueError, match="sides go from 1"):
            _cpu.Aligner("plain", *size, 3)
    with pytest.raises(ValueError, match="2 channels"):
        _cpu.Aligner("plain", 4, 4, 2)
    with pytest.raises(ValueError, match="no variant"):
        _cpu.Aligner("sse9", 4, 4, 3)


def test_refuses_a_wrong_mask_and_one_without_a_reference() -> None:
    aligner = _cpu.Aligner("plain", *SIDES, 3)
    with pytest.raises(ValueError, match="no reference yet"):
        aligner.set_reference(image(*SIDES), False, 1.0, 0.0, np.ones(SIDES, np.uint8))
    for mask in (np.ones((75, 91), np.uint8), np.ones((90, 75), np.uint8).T, np.ones(75 * 90, np.uint8)):
        with pytest.raises(ValueError, match="changed must be dense"):
            aligner.set_reference(image(*SIDES), False, 1.0, 0.0, mask)
    with pytest.raises(ValueError, match="changed must be of type uint8"):
        aligner.set_reference(image(*SIDES), False, 1.0, 0.0, np.ones(SIDES, np.bool_))
    with pytest.raises(ValueError, match="not in"):
        aligner.level(4)


def test_far_vectors_are_left_out() -> None:
    """Vectors of any size come from outside; none may lead out of memory."""
    aligner = _cpu.Aligner("plain", *SIDES, 3)
    aligner.set_reference(image(*SIDES), False, 1.0, 0.0, None)
    far = np.random.default_rng(0).choice(np.array([-(2**31), 2**31 - 1, 70, -70, 3], np.int32), (2, 5, 6))
    given = arguments(*SIDES, last=far, hint=far[::-1].copy(), last_shift=(2**31 - 1, -(2**31)))
    aligner.align(**given)
    assert np.abs(given["vectors"]).max() <= 64
