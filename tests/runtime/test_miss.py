"""What is missed: blocks that are far from the reference; and streams that go by it, on both backends."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fluxcompile import Frames, Policy, fluxcompile
from fluxcompile.kernels import _cpu
from fluxcompile.kernels.cpu import variants
from fluxcompile.runtime.blocks import block_residual
from fluxcompile.runtime.miss import BLOCK, Classes, Classifier
from fluxcompile.runtime.motion import Exposure
from tests.helpers import RUNNING, seeded

Array = np.ndarray


def slow(frame: Array, reference: Array, block: int) -> Array:
    """Block by block, in double."""
    h, w, _ = reference.shape
    change = np.abs(frame.astype(np.float64) - reference)
    cut = [[change[y : y + block, x : x + block].mean() for x in range(0, w, block)] for y in range(0, h, block)]
    return np.array(cut)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from((1, 3, 4)), st.sampled_from((1, 3, 8, 16)), st.booleans()
)
def test_residual_equals_the_slow_one(h: int, w: int, channels: int, block: int, planar: bool) -> None:
    random = np.random.default_rng(h * 41 + w)
    reference = random.uniform(0, 255, (h, w, channels)).astype(np.float32)
    for frame in (random.integers(0, 256, (h, w, channels), np.uint8), reference + random.normal(size=reference.shape)):
        frame = frame if frame.dtype == np.uint8 else frame.astype(np.float32)
        given_ = np.moveaxis(frame, 2, 0) if planar else frame
        for variant in variants():
            found = block_residual(given_, planar, reference, block, variant=variant)
            np.testing.assert_allclose(found, slow(frame, reference, block), rtol=1e-4, atol=1e-4)
            if frame.dtype == np.uint8:
                as_bytes = reference.astype(np.uint8)
                found = block_residual(given_, planar, as_bytes, block, variant=variant)
                np.testing.assert_allclose(found, slow(frame, as_bytes, block), rtol=1e-4, atol=1e-4)
    with pytest.raises(AssertionError):  # a control
        np.testing.assert_allclose(found, slow(frame + 1, reference, block), rtol=1e-4, atol=1e-4)


def classified(policy: Policy, frame: Array, planar: bool, reference: Array) -> Classes:
    classifier, image = Classifier(policy), reference.astype(np.float32)
    if not classifier.align(frame, planar, image):
        return Classes(frame, None, None)
    return classifier.classify(frame, planar, image)


def classify(frame: Array, reference: Array, **knobs: float) -> Array | None:
    return classified(Policy(exact=False, residual=4, **knobs), frame, False, reference).miss  # type: ignore[arg-type]


def test_classes() -> None:
    reference = np.full((32, 48, 3), 100, np.float32)
    frame = reference.astype(np.uint8)
    frame[8:16, 16:24] += 5
    frame[20, 40] += 40  # one pixel of 64: 0.6 on average
    mask = classify(frame, reference)
    assert mask is not None
    assert mask.sum() == BLOCK * BLOCK
    assert mask[8:16, 16:24].all()
    assert classify(frame + 9, reference) is None
    assert classify(frame, reference, dense=0) is None
    broken = frame.astype(np.float32)
    broken[0, 0] = np.nan
    mask = classify(broken, reference)
    assert mask is not None
    assert mask[:8, :8].all()  # for the stream to refuse


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": np.zeros((8, 9, 3), np.uint8)}, "has size 9 in dimension 1, it must be 8"),
        ({"frame": np.zeros((8, 8, 3), np.int32)}, "must be of type float32"),
        ({"frame": np.zeros((8, 8, 6), np.uint8)[:, :, ::2]}, "must be dense"),
        ({"block": 0}, "blocks of 0 pixels"),
        ({"out": np.zeros((2, 1), np.float32)}, "out has size 2 in dimension 0, it must be 1"),
    ],
)
def test_refusals(change: dict[str, object], message: str) -> None:
    arguments = {
        "variant": "plain",
        "frame": np.zeros((8, 8, 3), np.uint8),
        "planar": False,
        "reference": np.zeros((8, 8, 3), np.float32),
        "block": 8,
        "gain": np.ones(3, np.float32),
        "bias": np.zeros(3, np.float32),
        "out": np.zeros((1, 1), np.float32),
    }
    with pytest.raises(ValueError, match=message):
        _cpu.block_residual(**(arguments | change))  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", RUNNING)
@pytest.mark.parametrize("camera", [False, True])
def test_streams(backend: str, camera: bool) -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)))
    net = fluxcompile(model, torch.zeros(1, 3, 64, 64), frames=Frames() if camera else None)
    level = 1 if camera else 1 / 255
    frame = np.random.default_rng(0).integers(20, 200, (64, 64, 3)).astype(np.uint8)

    def seen(image: Array) -> Array:
        return image if camera else np.moveaxis(image, 2, 0)[None].astype(np.float32) / 255

    stream = net.stream(Policy(exact=False, residual=4 * level, radius=4), backend=backend)
    stream(seen(frame))
    noisy = frame + 2
    np.testing.assert_allclose(
        stream(seen(noisy)), net.dense(seen(frame)), atol=1e-5
    )  # within 4 levels: nothing is new
    assert stream.stats is not None
    assert (stream.stats.work_share, stream.stats.dense) == (0, False)
    moved = noisy.copy()
    moved[24:32, 40:48] = 0
    out = stream(seen(moved))
    assert stream.stats.miss.sum() == 64
    assert 0 < stream.stats.work_share < (0.1 if backend == "cpu" else 0.3)  # cells against tiles
    mixed = frame.copy()  # the reference: new pixels where a block missed
    mixed[24:32, 40:48] = 0
    np.testing.assert_allclose(out[..., 26:30, 42:46], net.dense(seen(mixed))[..., 26:30, 42:46], atol=1e-5)
    np.testing.assert_allclose(out[..., :16, :16], net.dense(seen(frame))[..., :16, :16], atol=1e-5)
    stream(seen(255 - frame))
    assert stream.stats.dense
    np.testing.assert_allclose(stream(seen(255 - frame)), net.dense(seen(255 - frame)), atol=1e-5)


@pytest.mark.parametrize("planar", [False, True])
def test_another_light(planar: bool) -> None:
    """A darker picture with one new block: seen in the reference's light, only that block misses."""
    random = np.random.default_rng(0)
    scene = random.integers(30, 220, (16, 20, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    reference = scene.astype(np.float32)
    frame = np.rint(reference * 0.9 + 10)
    frame[64:72, 80:88] = 250
    frame = frame.astype(np.uint8)
    given_ = np.ascontiguousarray(np.moveaxis(frame, 2, 0)) if planar else frame
    given_ = given_.astype(np.float32) / 255 if planar else given_
    scale = 255 if planar else 1
    plain, lit = (
        classified(
            Policy(exact=False, residual=4 / scale, exposure=exposure, dense=1), given_, planar, reference / scale
        )
        for exposure in (False, True)
    )
    assert plain.miss is not None
    assert lit.miss is not None
    assert plain.miss.mean() > 0.5
    assert lit.miss[64:72, 80:88].all()
    assert lit.miss.sum() == 64
    new = np.moveaxis(lit.image, 0, 2) if planar else lit.image
    want = (250 - 10) / 0.9  # beyond what bytes hold, near their end
    assert np.abs(new[64:72, 80:88].astype(np.float64) * scale - min(want, 1e9 if planar else 255)).max() < 6


def test_light_of_each_channel() -> None:
    reference = np.full((8, 8, 3), 100, np.float32)
    frame = np.stack([np.full((8, 8), v, np.uint8) for v in (50, 90, 100)], 2)
    exposure = Exposure((2.0, 1.0, 1.0), (0.0, 10.0, 0.0))
    assert block_residual(frame, False, reference, BLOCK, exposure=exposure) == pytest.approx(0)
    assert block_residual(frame, False, reference, BLOCK) == pytest.approx(20)


def test_a_cut_is_dense() -> None:
    one, other = np.random.default_rng(0).integers(0, 255, (2, 128, 128, 3)).astype(np.uint8)
    policy = Policy(exact=False, residual=4, exposure=True)
    assert classified(policy, one, False, one).miss is not None
    assert classified(policy, other, False, one).miss is None
