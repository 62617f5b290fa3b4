"""What a policy computes and what it leaves: salience, support, edges, freshness, budget, idle time."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxcompile import Frames, Policy, fluxcompile
from fluxcompile.errors import InputError, OptionError
from fluxcompile.kernels import _cpu
from fluxcompile.net import Net
from fluxcompile.options import POLICIES, VIDEO, parse_policy, policy_of
from fluxcompile.runtime.frame import CAUSES
from fluxcompile.runtime.grids import around, near
from fluxcompile.runtime.miss import BACKGROUND, HIT, REFRESHED, SALIENT, STALE
from fluxcompile.runtime.plan import CpuStream
from fluxcompile.runtime.stream import Stream
from tests.helpers import assert_matches, seeded

SIZE = (64, 96)
GRID = (8, 12)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 4, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.silu(self.one(x)))


@pytest.fixture(scope="module")
def net() -> Net:
    return fluxcompile(seeded(Small), torch.zeros(1, 3, *SIZE), frames=Frames())


def left_half(outputs: Any, size: tuple[int, int]) -> np.ndarray:
    """The left half matters."""
    found = np.zeros(GRID, np.float32)
    found[:, : GRID[1] // 2] = 1
    return found


def stream_of(net: Net, **knobs: Any) -> CpuStream:
    knobs = {"exact": False, "residual": 2.0, "background": 20.0, "texture": 0.0, "dense": 1.0, **knobs}
    return CpuStream(net.program, Policy(**knobs), salience=left_half, clock=Clock())


class Clock:
    """Every look is a millisecond later."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-3
        return self.now


def grey(level: int = 100) -> np.ndarray:
    return np.full((*SIZE, 3), level, np.uint8)


def changed(frame: np.ndarray, *blocks: tuple[int, int], by: int = 10) -> np.ndarray:
    """The frame with blocks (y, x) brighter."""
    frame = frame.copy()
    for y, x in blocks:
        frame[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] += by
    return frame


def causes(stream: CpuStream) -> np.ndarray:
    assert stream.stats is not None
    assert stream.stats.causes is not None
    return stream.stats.causes


def test_the_background_is_held_to_another_threshold(net: Net) -> None:
    stream = stream_of(net)
    stream(grey())
    stream(changed(grey(), (2, 2), (2, 9)))  # the same change where it matters and where it does not
    assert causes(stream)[2, 2] == SALIENT
    assert causes(stream)[2, 9] == STALE
    assert (causes(stream) == HIT).sum() == 94
    assert stream.stats is not None
    assert stream.stats.miss.sum() == 64
    stream(changed(changed(grey(), (2, 2)), (2, 9), by=40))
    assert causes(stream)[2, 9] == BACKGROUND


@pytest.mark.parametrize(("weight", "most"), [(1.0, 2), (0.5, 4), (0.125, 16), (0.01, 20)])
def test_what_weighs_less_may_differ_more(net: Net, weight: float, most: int) -> None:
    """By as much as its weight is less, but no more than the background."""
    policy = Policy(exact=False, residual=2.0, background=20.0, texture=0.0, dense=1.0)
    stream = CpuStream(net.program, policy, salience=lambda outputs, size: weight * left_half(outputs, size))
    stream(grey())
    stream(changed(changed(grey(), (2, 2), by=most), (5, 2), by=most + 1))
    assert causes(stream)[2, 2] == HIT
    assert causes(stream)[5, 2] == SALIENT


def test_what_touches_a_miss_of_the_background_is_held_to_the_tight_one(net: Net) -> None:
    stream = stream_of(net)
    stream(grey())
    stream(changed(changed(grey(), (2, 9), by=40), (2, 11), (6, 9)))
    assert causes(stream)[2, 9] == causes(stream)[2, 11] == BACKGROUND
    assert causes(stream)[6, 9] == STALE


def test_support(net: Net) -> None:
    """A block alone is left, a corner of four is not."""
    stream = stream_of(net, support=4)
    stream(grey())
    together = [(y, x) for y in (5, 6) for x in (1, 2)]
    stream(changed(grey(), (1, 1), *together))
    assert causes(stream)[1, 1] == STALE
    assert all(causes(stream)[y, x] == SALIENT for y, x in together)


def test_edges(net: Net) -> None:
    stream = stream_of(net, edge=5.0)
    stream(grey())
    stream(changed(grey(), (4, 11), (4, 8)))
    assert CAUSES[causes(stream)[4, 11]] == "edge"
    assert causes(stream)[4, 8] == STALE


def test_texture_seen_half_a_pixel_off_is_no_miss(net: Net) -> None:
    stripes = grey()
    stripes[:, ::2] = 160
    moved = stripes.copy()
    moved[:, 1::2], moved[:, ::2] = 130, 130
    for texture, cause in ((0.0, BACKGROUND), (0.1, BACKGROUND), (0.5, STALE)):
        stream = stream_of(net, texture=texture)
        stream(moved)
        stream(stripes)  # 30 off, and 60 from pixel to pixel
        assert causes(stream)[2, 9] == cause


def test_an_edge_is_no_texture(net: Net) -> None:
    """A block of two halves that gets another edge: as much contrast as stripes, but little of it a pixel apart."""
    edge, other = grey(), grey()
    edge[16:24, 76:80], other[16:20, 72:80] = 160, 160
    stream = stream_of(net, texture=0.5)
    stream(edge)
    stream(other)
    assert causes(stream)[2, 9] == BACKGROUND


def test_freshness_repairs_the_oldest(net: Net) -> None:
    stream = stream_of(net, freshness=1 / 96)
    stream(grey())
    frame = changed(grey(), (2, 9))
    stream(frame)
    stream(changed(frame, (4, 9)))
    assert causes(stream)[2, 9] == REFRESHED
    assert causes(stream)[4, 9] == STALE
    stream(changed(frame, (4, 9)))
    assert causes(stream)[4, 9] == REFRESHED
    assert causes(stream)[2, 9] == HIT


def test_idle_time_is_used_in_slices(net: Net) -> None:
    """All is repaired when there is time, nothing when there is none; then the stream equals dense."""
    stream = stream_of(net, anchor=True, radius=None)
    frame = changed(grey(), (2, 9), (4, 10))
    stream(grey())
    stream(frame)
    assert (causes(stream) == STALE).sum() == 2
    assert stream.refresh(0.5) == 0
    assert stream.refresh(1000) == 2
    assert (causes(stream) == STALE).sum() == 0
    assert stream.refresh(1000) == 0
    assert_matches(stream(frame), net.dense(frame))
    with pytest.raises(OptionError, match="keeps its last frame"):
        stream_of(net).refresh(1)


def test_a_budget_leaves_what_matters_least(net: Net) -> None:
    """The model of the time is learnt; what was left grows old and comes in turn."""
    stream = stream_of(net, budget_ms=1e-3)
    stream(grey())
    for i in range(12):
        stream(changed(grey(), (1, 1), by=10 + 10 * (i % 2)))
    stream(grey())
    assert (causes(stream) >= SALIENT).sum() == 0
    free = stream_of(net)
    free(grey())
    free(changed(grey(), (1, 1)))
    assert (causes(free) >= SALIENT).sum() == 1


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.integers(0, 99))
def test_grids(h: int, w: int, distance: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((h, w)) < 0.2
    wide = np.pad(mask, max(distance, 1))
    off = max(distance, 1) - distance
    for y in range(h):
        for x in range(w):
            here = wide[y + off : y + off + 2 * distance + 1, x + off : x + off + 2 * distance + 1]
            assert near(mask, distance)[y, x] == here.any()
            assert around(mask)[y, x] == mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].sum()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from((3, 8)), st.integers(0, 12), st.integers(0, 99))
def test_painted_masks(h: int, w: int, block: int, radius: int, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 4, (-(-h // block), -(-w // block)), np.uint8) // 2 * 2
    levels[levels == 2] = np.random.default_rng(seed + 1).integers(1, 3, (levels == 2).sum())
    miss, bound = np.full((h, w), 7, np.uint8), np.full((h, w), 7, np.uint8)
    _cpu.paint_blocks(levels, block, [radius, 0], miss, bound)
    pixels = levels.repeat(block, 0).repeat(block, 1)[:h, :w]
    np.testing.assert_array_equal(miss, pixels > 0)
    reach = np.pad(np.zeros((h, w), bool), radius)
    for y, x in np.argwhere(pixels == 1):
        reach[y : y + 2 * radius + 1, x : x + 2 * radius + 1] = True
    want = reach[radius : radius + h, radius : radius + w] | (pixels > 0)
    # blocks cut by the frame's end still reach as far as whole ones
    assert (bound >= want).all()
    if h % block == 0 and w % block == 0:
        np.testing.assert_array_equal(bound, want)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize(("h", "w", "block"), [(16, 24, 8), (13, 21, 8), (3, 2, 8), (9, 9, 1)])
def test_gradients(h: int, w: int, block: int, planar: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
    mean, steps = image.mean(2), np.zeros((h, w))
    steps[:-1] += np.abs(np.diff(mean, axis=0))
    steps[:, :-1] += np.abs(np.diff(mean, axis=1))
    blocks = (-(-h // block), -(-w // block))
    expected = np.empty(blocks)
    for y, x in np.ndindex(blocks):
        expected[y, x] = steps[y * block :, x * block :][:block, :block].mean()
    expected[-1, -1] = 0  # differs too little to be looked at
    residual, found = np.full(blocks, 5, np.float32), np.empty(blocks, np.float32)
    residual[-1, -1] = 4
    for dtype in (np.uint8, np.float32):
        frame = np.ascontiguousarray(image.transpose(2, 0, 1) if planar else image, dtype)
        _cpu.block_gradient(frame, planar, block, residual, 4.0, found)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_policies_by_name() -> None:
    assert parse_policy("video") == VIDEO
    assert [parse_policy(name).words for name in POLICIES] == list(POLICIES)
    assert parse_policy("bold,radius=4").words.startswith("video, radius 4, residual")
    assert parse_policy("exact") == Policy()
    assert parse_policy("residual=3, radius=8") == Policy(exact=False, residual=3, radius=8)
    assert parse_policy("video,radius=none,anchor=off").radius is None
    assert not parse_policy("video,radius=none,anchor=off").anchor
    assert isinstance(parse_policy("video,support=5").support, int)
    assert parse_policy("video,gate=0.2,gate_by=mean").words == "video, gate 0.2, gate_by mean"
    assert parse_policy("gate=0.2,gate_by=mean").behind_cut(4).gate_by == "mean"
    assert policy_of("careful") == policy_of(POLICIES["careful"]) == POLICIES["careful"]
    for text, message in (("quick", "is no policy"), ("video,speed=1", "no knob"), ("residual=x", "is no number")):
        with pytest.raises(OptionError, match=message):
            parse_policy(text)


@pytest.mark.parametrize("backend", [CpuStream, Stream])
def test_a_picture_that_is_left(backend: Any) -> None:
    """What was looked at and not computed is stale; idle time repairs it, after which nothing misses."""
    net_ = fluxcompile(seeded(Small), torch.zeros(1, 3, *SIZE), frames=Frames())
    policy = Policy(exact=False, residual=2.0, anchor=True, dense=1.0)
    stream = backend(net_.program, policy, clock=Clock())
    first = np.full((*SIZE, 3), 90, np.uint8)
    second = first.copy()
    second[16:40, 24:56] = 200
    assert stream.look(first) == 96
    stream.compute()
    blocks = stream.look(second)
    assert blocks == 12
    stream.leave()
    assert stream.refresh(float("inf"), most=5) == 5
    assert stream.look(second) == 7
    assert stream.look(second) == 7  # one that is not computed is left by itself
    stream.leave()
    assert stream.refresh(float("inf"), most=100) == 7
    assert stream.look(second) == 0
    outputs = stream.compute()
    assert_matches(outputs, net_.dense(second))
    with pytest.raises(InputError, match="look at one first"):
        stream.compute()


def test_a_cut_that_is_left() -> None:
    """A frame that was to be dense and was not computed leaves nothing to reuse."""
    net_ = fluxcompile(seeded(Small), torch.zeros(1, 3, *SIZE), frames=Frames())
    stream = CpuStream(net_.program, Policy(exact=False, residual=2.0, anchor=True), clock=Clock())
    random = np.random.default_rng(0)
    first, second = random.integers(0, 255, (2, *SIZE, 3), np.uint8)
    stream(first)
    assert stream.look(second) == 96
    stream.leave()
    assert stream.refresh(float("inf")) == 0
    assert_matches(stream(second), net_.dense(second))
    assert stream.stats is not None
    assert stream.stats.dense
