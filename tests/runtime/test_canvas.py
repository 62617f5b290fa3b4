"""Frames that move on the net's input: the anchor follows the camera, exact streams stay exact, what is bad is refused."""

import gc
import weakref
from dataclasses import replace
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
from fluxcompile.net import Net
from fluxcompile.runtime.canvas import Canvas, centred
from tests.helpers import assert_matches, seeded

SIZE = (64, 96)
FOLLOWS = Policy(exact=False, residual=2.0, radius=None, anchor=True)


class Small(nn.Module):
    """Two maps of strides 2 and 4, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = F.silu(self.one(x))
        return self.three(torch.cat([one, F.interpolate(self.two(one), scale_factor=2.0)], 1))


@pytest.fixture(scope="module")
def net() -> Net:
    return fluxcompile(seeded(Small), torch.zeros(1, 3, *SIZE), frames=Frames())


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8).repeat(4, 0).repeat(4, 1)


def view(scene: np.ndarray, y: int, x: int) -> np.ndarray:
    return np.ascontiguousarray(scene[y : y + 48, x : x + 80])


def dense(net: Net, frame: np.ndarray, stream: Any) -> Any:
    return net.dense(centred(frame, SIZE, offset=stream.stats.offset))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("step", [(0, 3), (2, -2), (-1, 0)])
def test_what_stays_in_view_is_reused(step: tuple[int, int], net: Net, scene: np.ndarray, backend: str) -> None:
    """A pan by whole pixels: exact where nothing is bounded, for much less than all, over the edge of the canvas."""
    stream, still = (net.stream(p, backend=backend) for p in (FOLLOWS, replace(FOLLOWS, anchor=False)))
    work, worked, rolled = [], [], False
    for i in range(14):
        frame = view(scene, 40 + step[0] * i, 100 + step[1] * i)
        outputs = stream(frame)
        still(centred(frame, SIZE))
        assert stream.stats is not None
        assert still.stats is not None
        rolled |= any(stream.stats.roll)
        if backend == "reference" or not rolled:  # along the edges a roll keeps what it had
            assert_matches(outputs, dense(net, frame, stream))
        if i:
            assert stream.stats.shift == step
            assert not stream.stats.dense
            work.append(stream.stats.work_share)
            worked.append(still.stats.work_share)
    if backend == "cpu":  # the other lists whole tiles, of which so small a map has few
        assert np.mean(work) < 0.7 * np.mean(worked)


@pytest.mark.parametrize("policy", [Policy(anchor=True), Policy(exact=False, threshold=2, anchor=True)])
def test_what_looks_at_pixels_follows_the_camera_and_stays_exact(net: Net, scene: np.ndarray, policy: Policy) -> None:
    stream, still = net.stream(policy), net.stream(replace(policy, anchor=False))
    rolls, work, worked = 0, [], []
    for i in range(10):
        frame = view(scene, 40, 100 + 3 * i)
        outputs = stream(frame)
        still(centred(frame, SIZE))
        assert stream.stats is not None
        assert still.stats is not None
        rolls += any(stream.stats.roll)
        if policy.exact or not rolls:  # along the edges a roll keeps what it had, where it need not be exact
            assert_matches(outputs, dense(net, frame, stream))
        if i:
            assert stream.stats.dense == (policy.exact and any(stream.stats.roll))
            assert stream.stats.shift == (0, 3)
            work.append(stream.stats.work_share)
            worked.append(still.stats.work_share)
    assert rolls
    assert np.mean(work) < 0.8 * np.mean(worked)


def test_what_looks_at_pixels_takes_only_equal_ones_for_the_same(net: Net, scene: np.ndarray) -> None:
    """A shift at which blocks are near, but not equal, saves an exact stream nothing."""
    stream = net.stream(Policy(anchor=True))
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 4, (48, 80, 1), np.uint8)
        frame = view(scene, 40, 100 + 7 * i) // 2 + noise
        assert_matches(stream(frame), dense(net, frame, stream))
        assert stream.stats is not None
        assert stream.stats.shift == (0, 0)


def test_a_frame_of_another_size_lies_in_the_middle(net: Net, scene: np.ndarray) -> None:
    stream = net.stream(FOLLOWS)
    for size in ((48, 80), (40, 60), SIZE, (1, 1)):
        frame = np.ascontiguousarray(scene[: size[0], : size[1]])
        outputs = stream(frame)
        assert stream.stats is not None
        assert stream.stats.dense
        assert stream.stats.offset == ((SIZE[0] - size[0]) // 2, (SIZE[1] - size[1]) // 2)
        assert_matches(outputs, net.dense(centred(frame, SIZE)))
        stream(frame)
        assert not stream.stats.dense


def test_another_scene_lies_in_the_middle(net: Net, scene: np.ndarray) -> None:
    stream = net.stream(FOLLOWS)
    for i in range(3):
        stream(view(scene, 40, 100 + 2 * i))
    assert stream.stats is not None
    assert stream.stats.offset == (8, 12)
    stream.reset()
    stream(view(scene, 40, 104))
    assert stream.stats.offset == (8, 8)
    stream(view(scene, 40, 106))
    other = 255 - view(scene, 80, 20)
    outputs = stream(other)
    assert stream.stats.dense
    assert stream.stats.offset == (8, 8)
    assert_matches(outputs, net.dense(centred(other, SIZE)))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((65, 96, 3), np.uint8), "does not fit into the net's input"),
        (np.zeros((48, 80, 1), np.uint8), "does not fit"),
        (np.zeros((48, 80), np.uint8), "expected uint8, channels last"),
        (np.zeros((48, 80, 3), np.float32), "expected uint8"),
        (np.zeros((0, 80, 3), np.uint8), "expected uint8"),
    ],
)
def test_refusals(frame: np.ndarray, message: str, net: Net, scene: np.ndarray) -> None:
    """And the stream goes on as if nothing had been shown."""
    stream, other = net.stream(FOLLOWS), net.stream(FOLLOWS)
    for i in range(3):
        good = view(scene, 40, 100 + 2 * i)
        with pytest.raises(InputError, match=message):
            stream(frame)
        assert_matches(stream(good), other(good))


def test_policies_that_cannot_be_followed(net: Net) -> None:
    vectors = fluxcompile(nn.Linear(4, 4).eval(), torch.zeros(1, 4))
    for backend in ("cpu", "reference"):
        with pytest.raises(OptionError, match="one image as input"):
            vectors.stream(FOLLOWS, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_floats_lie_on_a_canvas_too(scene: np.ndarray, backend: str) -> None:
    net = fluxcompile(seeded(Small), torch.zeros(1, 3, *SIZE))
    stream = net.stream(Policy(exact=False, residual=2 / 255, radius=None, anchor=True), backend=backend)
    for i in range(4):
        frame = view(scene, 40, 100 + 2 * i).astype(np.float32) / 255
        outputs = stream(np.ascontiguousarray(frame.transpose(2, 0, 1))[None])
        assert stream.stats is not None
        whole = centred(frame, SIZE, 114 / 255, stream.stats.offset)
        assert_matches(outputs, net.dense(np.ascontiguousarray(whole.transpose(2, 0, 1))[None]))
        assert stream.stats.shift == (0, 2 * (i > 0))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(-40, 40), st.integers(-40, 40)), min_size=1, max_size=8),
    st.sampled_from(((8, 8), (16, 8), None)),
)
def test_places(shifts: list[tuple[int, int]], unit: tuple[int, int] | None) -> None:
    """A frame never leaves the canvas; what it does not move, rolls."""
    canvas = Canvas((64, 96, 3), False, np.uint8, unit)
    canvas.fit(np.zeros((48, 72, 3), np.uint8))
    for shift in shifts:
        before = canvas.offset
        roll = canvas.move(shift)
        if roll is None:
            assert canvas.offset == before
            continue
        assert unit or roll == (0, 0)
        for axis in (0, 1):
            assert 0 <= canvas.offset[axis] <= canvas.size[axis] - canvas.frame[axis]
            assert canvas.offset[axis] == before[axis] + shift[axis] + roll[axis]
            assert roll[axis] % (unit[axis] if unit else 1) == 0
    assert (canvas.image == 114).all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_stream_that_nobody_wants_is_gone_at_once(net: Net, scene: np.ndarray, backend: str) -> None:
    """Its maps are large, and whoever times frames has switched the collector off."""
    gc.collect()
    gc.disable()
    try:
        stream = net.stream(FOLLOWS, backend=backend)
        stream(view(scene, 40, 100))
        gone = weakref.ref(stream)
        del stream
        assert gone() is None
    finally:
        gc.enable()
