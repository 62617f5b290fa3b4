"""What runs in threads; without torch, so that `make tsan` watches our code alone."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from fluxcompile.kernels import _cpu
from fluxcompile.kernels.pack import pack_conv2d, window_taps
from tests.kernels.compare import VARIANTS, Array, cpu, reals


@pytest.mark.parametrize("variant", VARIANTS)
def test_threads_share_a_map(variant: str) -> None:
    """Threads take parts of one list, without the GIL; the result is the same to the bit."""
    x, weight = reals(0, 40, 40, 16), reals(1, 24, 16, 3, 3)
    packed, cells = pack_conv2d(variant, weight, padding=(1, 1)), np.arange(1600, dtype=np.int32)
    alone, together = np.zeros((2, 40, 40, 24), np.float32)
    cpu.conv2d(packed, x, alone, cells, act="silu")
    parts = [part.copy() for part in np.array_split(cells, 4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda part: cpu.conv2d(packed, x, together, part, act="silu"), parts))
    np.testing.assert_array_equal(together, alone)


def small_plan(variant: str, threads: int, clip: list[Array]) -> list[Array]:
    """What a plan of every kind of step gives for a clip; its maps are large enough to wake threads."""
    side, c = 24, 16
    plan: Any = _cpu.Plan(variant, threads)
    x, y, z, up = (np.zeros((side, side, n), np.float32) for n in (c, 2 * c, 2 * c, 2 * c))
    pooled, held, vector = (np.zeros((1, 1, 2 * c), np.float32) for _ in range(3))
    attended, normed = np.zeros((2, side, side, c), np.float32)
    rows = side * side
    seen, near, grown, wide = (plan.mask(rows) for _ in range(4))
    changed, one, moved, everything = plan.mask(rows), plan.mask(1), plan.mask(1), plan.mask(rows)
    frame = plan.input(seen, x, False, None)
    reads = window_taps((3, 1), (1, 0))[0] + np.arange(side, dtype=np.int32)[:, None]
    reads = np.where((reads >= 0) & (reads < side), reads, -1).astype(np.int32)
    plan.window(wide, seen, reads, reads, (side, side), -1)
    plan.reach(near, seen, side)
    plan.limit(grown, wide, near)
    packed = pack_conv2d(variant, reals(1, 2 * c, c, 3, 3), padding=(1, 1))
    taps = packed.taps
    plan.conv2d(
        grown, changed, x, packed.weights, packed.bias, taps, y, 1, (1, 1), (1, 1), (0, 0), "silu", 0, 0, None, None, False
    )  # fmt: skip
    plan.pool2d(changed, -1, y, window_taps((1, 1), (0, 0)), z, "max", (1, 1), 0.0)
    plan.layer_norm(seen, -1, x, None, None, 1e-5, normed)
    plan.join(everything, [(seen, "any", None, None, 0, 0, 0)])
    keys = np.arange(rows, dtype=np.int32)[None, ::7].copy()
    plan.attention(everything, -1, normed, normed, x, attended, 2, 0.5, keys, None, None, None)
    plan.mean(changed, z, pooled)
    plan.join(one, [(changed, "any", None, None, 0, 0, 0)])
    plan.softmax(one, -1, pooled, 1.0, vector)
    plan.hold(one, moved, vector, held)
    both = plan.mask(rows)
    plan.join(both, [(changed, "range", None, None, 0, 0, rows), (moved, "any", None, None, 0, 0, 0)])
    plan.pointwise(both, -1, z, [("mul", 0, 0, held.reshape(-1)), ("gelu", 0, 0, None)], up)
    at = np.arange(rows) * (2 * c)
    out, results = plan.output(both, up, at, np.arange(2 * c), rows * 2 * c), []
    other = plan.output(everything, attended, np.arange(rows) * c, np.arange(c), rows * c)
    plan.set(0.0, 0.0, 3)
    for i, image in enumerate(clip):
        plan.feed(frame, image, None)
        for step, size in ((out, rows * 2 * c), (other, rows * c)):
            results.append(np.zeros(size, np.float32) if i == 0 else results[-2].copy())
            plan.bind(step, results[-1])
        plan.run(i == 0, 0, len(plan))
    return results


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_plan_gives_the_same_whatever_its_threads(variant: str) -> None:
    clip = [reals(0, 24, 24, 16)]
    for y, x in ((3, 4), (20, 20), (0, 23), (0, 0)):
        clip.append(clip[-1].copy())
        clip[-1][y : y + 9, x : x + 9] += 1
    alone = small_plan(variant, 1, clip)
    assert not np.array_equal(alone[-2], alone[-4])
    for threads in (2, 4):
        for got, want in zip(small_plan(variant, threads, clip), alone, strict=True):
            np.testing.assert_array_equal(got, want)


def attending_plan(variant: str, threads: int, clip: list[Array]) -> list[Array]:
    """What attention with a state gives for a clip."""
    rows, c = clip[0].shape[1], clip[0].shape[2]
    plan: Any = _cpu.Plan(variant, threads)
    x, out, mean, k_old, v_old = np.zeros((5, 1, rows, c), np.float32)
    seen, everything, changed = (plan.mask(rows) for _ in range(3))
    frame = plan.input(seen, x, False, None)
    plan.join(everything, [(seen, "any", None, None, 0, 0, 0)])
    sums, masks = np.zeros((1, rows, 6), np.float32), (seen, (seen, seen))
    plan.correct_attention(everything, changed, x, x, x, out, 2, 0.2, *masks, k_old, v_old, mean, sums)
    plan.set(0.0, 0.0, -1)
    results = []
    for i, image in enumerate(clip):
        plan.feed(frame, image, None)
        plan.run(i == 0, 0, len(plan))
        results.append(out.copy())
    return results


@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_is_corrected_the_same_whatever_the_threads(variant: str) -> None:
    clip = [reals(0, 1, 300, 32)]
    for first, count in ((5, 1), (40, 90), (0, 0), (200, 33)):
        clip.append(clip[-1].copy())
        clip[-1][:, first : first + count] += 1
    alone = attending_plan(variant, 1, clip)
    assert not np.array_equal(alone[-1], alone[-2])
    for threads in (2, 3):
        for got, want in zip(attending_plan(variant, threads, clip), alone, strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_a_large_frame_comes_in_and_goes_out_by_all_threads(kind: type, planar: bool, named: bool) -> None:
    """The frame, as an output, is what came: whole, or of what differs, or of what is named as new."""
    side, c, threads = 224, 3, 3
    rows = side * side
    plan: Any = _cpu.Plan("plain", threads)
    x, seen = np.zeros((side, side, c), np.float32), plan.mask(rows)
    held = np.zeros((c, side, side) if planar else (side, side, c), np.uint8) if kind is np.uint8 else None
    step = plan.input(seen, x, planar, held)
    out = plan.output(seen, x, np.arange(rows) * c, np.arange(c), rows * c)
    plan.set(0.0, 0.0, -1)
    result, random = np.zeros(rows * c, np.float32), np.random.default_rng(0)
    image = random.integers(0, 200, (side, side, c)).astype(kind)
    for i, (top, left) in enumerate(((0, 0), (3, 5), (70, 100), (150, 0), (215, 215))):
        image = image.copy()
        image[top : top + 80, left : left + 9] += 1
        given = (image != x).any(2).view(np.uint8) if named else None
        missed = int((image != x).any(2).sum()) if i else rows
        assert plan.feed(step, np.ascontiguousarray(image.transpose(2, 0, 1)) if planar else image, given)
        plan.bind(out, result)
        plan.run(i == 0, 0, len(plan))
        assert plan.count(seen) == missed
        np.testing.assert_array_equal(result.reshape(image.shape), image)


def test_plans_come_and_go() -> None:
    """Their threads end with them, asleep or awake, with and without work done."""
    for pause in (0.0, 0.02):
        for _ in range(5):
            plan = _cpu.Plan("plain", 3)
            time.sleep(pause)
            del plan
    small_plan("plain", 4, [reals(0, 24, 24, 16)])


def test_plans_run_side_by_side() -> None:
    """Each with threads of its own, called without the GIL."""
    clip = [reals(0, 24, 24, 16), reals(1, 24, 24, 16)]
    want = small_plan("plain", 1, clip)
    with ThreadPoolExecutor(3) as pool:
        for got in pool.map(lambda threads: small_plan("plain", threads, clip), (1, 2, 3)):
            for a, b in zip(got, want, strict=True):
                np.testing.assert_array_equal(a, b)
