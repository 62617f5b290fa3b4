"""Every mistake a caller can make is a clear error, and a stream that refused a frame goes on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fluxcompile import CaptureError, Frames, InputError, Net, OptionError, Policy, fluxcompile
from tests.helpers import RUNNING, Do, assert_matches, seeded

SHAPE = (1, 3, 16, 32)
X = torch.rand(SHAPE)


@pytest.fixture(scope="module")
def net() -> Net:
    return fluxcompile(seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Sigmoid())), X)


NAN, INF = X.clone(), X.clone()
NAN[0, 1, 3, 4:6] = torch.nan
INF[0, 0, 0, 0] = torch.inf

FRAMES: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "shape": ((X[:, :, 1:],), {}, r"input input_1: shape \(1, 3, 15, 32\), the net was compiled for \(1, 3, 16, 32\)"),
    "rank": ((X[0],), {}, r"shape \(3, 16, 32\)"),
    "batch": ((torch.cat([X, X]),), {}, r"shape \(2, 3, 16, 32\)"),
    "dtype": ((X.double(),), {}, r"dtype float64, the net was compiled for float32"),
    "grey levels": (((X * 255).byte(),), {}, r"dtype uint8"),
    "numpy dtype": ((X.double().numpy(),), {}, r"dtype float64"),
    "nan": ((NAN,), {}, r"2 values are NaN or infinite; drop this frame, the stream goes on"),
    "infinity": ((INF,), {}, r"1 values are NaN or infinite"),
    "nothing": ((), {}, r"the net takes 1 inputs \(input_1\), got 0"),
    "one too many": ((X, X), {}, r"the net takes 1 inputs \(input_1\), got 2"),
    "no numbers": (("frame",), {}, "a frame of type str is no array of numbers"),
    "none": ((None,), {}, "a frame of type NoneType is no array of numbers"),
    "ragged": (([[1.0], [1.0, 2.0]],), {}, "no array of numbers|list"),
    "motion of another shape": ((X,), {"motion": torch.zeros(2, 16, 32, dtype=torch.int32)}, r"motion: .*\(2, 1, 2\)"),
    "motion in fractions": ((X,), {"motion": torch.zeros(2, 1, 2)}, r"motion: float32 .* expected integers"),
    "motion of words": ((X,), {"motion": "left"}, "no array of numbers|motion"),
}


@pytest.mark.parametrize("backend", RUNNING)
@pytest.mark.parametrize("name", FRAMES)
def test_a_refused_frame_leaves_the_stream_as_it_was(name: str, backend: str, net: Net) -> None:
    frames, settings, message = FRAMES[name]
    for warm in (False, True):
        stream = net.stream(backend=backend)
        if warm:
            stream(X)
        with pytest.raises(InputError, match=message):
            stream(*frames, **settings)
        changed = X.clone()
        changed[..., 5, 5] += 1
        assert_matches(stream(changed), net.dense(changed))
        assert stream.stats is not None
        assert stream.stats.dense == (not warm)
        assert_matches(stream(X), net.dense(X))
    if not settings:
        with pytest.raises(InputError, match=message):
            net.dense(*frames)


def test_frames_may_be_arrays(net: Net) -> None:
    stream = net.stream()
    assert_matches(stream(X.numpy()), net.dense(X.numpy()))
    assert_matches(stream(X.numpy()[:, :, ::-1]), net.dense(X.flip(2).numpy()))
    assert_matches(stream(X, motion=np.zeros((2, 1, 2), np.int64)), net.dense(X))


def test_motion_beyond_the_frame_is_safe(net: Net) -> None:
    stream = net.stream()
    stream(X)
    for far in (10_000, -(2**31), 2**31 - 1):
        assert_matches(stream(X + 0.1, motion=torch.full((2, 1, 2), far, dtype=torch.int32)), net.dense(X + 0.1))


def test_camera_frames() -> None:
    net = fluxcompile(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), X, frames=Frames())
    stream = net.stream()
    stream(np.zeros((16, 32, 3), np.uint8))
    for wrong in (np.zeros((3, 16, 32), np.uint8), np.zeros((16, 32, 3), np.float32), np.zeros((16, 32, 4), np.uint8)):
        with pytest.raises(InputError, match="the net was compiled for"):
            stream(wrong)


def test_a_net_that_cannot_follow_motion_says_so() -> None:
    stream = fluxcompile(nn.ReLU().eval(), X, without=["insert_motion_reindex"]).stream()
    with pytest.raises(InputError, match="compiled without insert_motion_reindex"):
        stream(X, motion=torch.zeros(2, 1, 2, dtype=torch.int32))
    assert_matches(stream(X), X.relu())


# --- models -----------------------------------------------------------------------------------------------------------


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else -x


MODELS: dict[str, tuple[Callable[[], Any], Any, str]] = {
    "training mode": (lambda: nn.Sequential(nn.ReLU()), X, r"the model is in training mode; call model\.eval\(\)"),
    "a part in training mode": (
        lambda: _train_last(nn.Sequential(nn.ReLU(), nn.Dropout())),
        X,
        "^1 is in training mode",
    ),
    "control flow": (lambda: nn.Sequential(nn.ReLU(), nn.Sequential(Branch())).eval(), X, r"^1\.0: .*\n.*torch\.where"),
    "batch 2": (lambda: nn.ReLU().eval(), torch.cat([X, X]), "has batch 2; a stream is one camera: use an example"),
    "no example": (lambda: nn.ReLU().eval(), None, "needs an example input"),
    "an example of words": (lambda: nn.ReLU().eval(), "x", "example 0 is a str"),
    "wrong example": (lambda: nn.Conv2d(4, 4, 3).eval(), X, "^Conv2d: torch.export cannot capture it"),
    "a function": (lambda: torch.relu, X, "cannot compile a builtin"),
    "random numbers": (lambda: Do(lambda x: x + torch.rand(32)).eval(), X, "draws random numbers"),
    "no file": (lambda: "no.onnx", None, "no.onnx: no such file"),
}


def _train_last(model: nn.Sequential) -> nn.Sequential:
    model.eval()[-1].train()
    return model


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_compiled(name: str) -> None:
    make, example, message = MODELS[name]
    with pytest.raises(CaptureError, match=message):
        fluxcompile(make(), example)


# --- options ----------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown pass": ({"without": ["fold_norm"]}, "no pass is called fold_norm; there are drop_identities, "),
    "a required pass": ({"without": ["insert_misses"]}, "no pass is called insert_misses"),
    "an unknown attention": ({"attention": "fast"}, "attention is 'fast'; use one of exact, incremental, active"),
    "frames of other channels": ({"frames": Frames(mean=(0.1, 0.2))}, "mean and std have 2 and 1 values, 3 channels"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_mean_nothing(name: str) -> None:
    options, message = OPTIONS[name]
    with pytest.raises(OptionError, match=message):
        fluxcompile(nn.ReLU().eval(), X, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Policy(threshold=0.1),
            "exact=True leaves no room for threshold, radius, gate or residual; pass exact=False",
        ),
        (lambda: Policy(radius=0), "exact=True leaves no room"),
        (lambda: Policy(gate=0.1), "exact=True leaves no room"),
        (lambda: Policy(exact=False, threshold=-1), "must not be negative"),
        (lambda: Policy(exact=False, radius=-1), "must not be negative"),
        (lambda: Policy(exact=False, gate=-0.1), "must not be negative"),
        (lambda: Policy(exact=False, gate=0.1, gate_by="median"), "gate_by is 'median'; use largest or mean"),
        (lambda: Policy(exact=False, threshold=float("nan")), "negative|finite|NaN"),
        (lambda: Policy(residual=2), "exact=True leaves no room"),
        (lambda: Policy(exact=False, residual=-1), "must not be negative"),
        (lambda: Policy(exact=False, residual=2, threshold=3), "give one of them"),
        (lambda: Policy(exact=False, residual=2, dense=1.5), "a share of blocks, from 0 to 1"),
        (lambda: Frames(layout="hcw"), 'layout is \'hcw\'; use "hwc" or "chw"'),
        (lambda: Frames(std=(0.0,)), "scale and std must not be 0"),
        (lambda: Frames(scale=0), "scale and std must not be 0"),
    ],
)
def test_settings_that_contradict(make: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()
