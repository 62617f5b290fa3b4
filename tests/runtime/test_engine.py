"""Streams whose frames an engine computes, with ONNX Runtime in the engine's place, and what a session refuses."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from fluxcompile import Frames, Policy, fluxcompile
from fluxcompile.bundle import read_manifest
from fluxcompile.errors import EngineError, InputError, OptionError
from fluxcompile.golden import Golden
from fluxcompile.net import Net
from fluxcompile.runtime.canvas import centred
from fluxcompile.runtime.cudart import Cuda
from fluxcompile.runtime.engine import library, load_plugins, manifest_of, require_match
from fluxcompile.runtime.engine_stream import EngineStream
from tests.bundles import small_net
from tests.helpers import assert_matches, clip_of, seeded


class InOnnxRuntime:
    """Runs a bundle's golden.onnx as a session would run its engine."""

    def __init__(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        self.manifest: dict[str, Any] = msgspec.to_builtins(manifest)
        self._run = Golden(folder / "golden.onnx", manifest.caches, [*manifest.results, manifest.work])

    def __call__(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        *results, self.counts = self._run(feed)
        return dict(zip(self.manifest["results"], results, strict=True))


@pytest.fixture(scope="module")
def net() -> Net:
    return small_net()


@pytest.fixture(scope="module")
def bundle(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "out"
    net.export("jetson-orin", folder)
    return folder


def streams(net: Net, bundle: Path, policy: Policy | None = None) -> tuple[Any, Any]:
    ours = net.stream(policy, backend="reference")
    return EngineStream(bundle, policy, engine=InOnnxRuntime(bundle)), ours


def test_frames_give_what_the_reference_stream_gives(net: Net, bundle: Path) -> None:
    got, want = streams(net, bundle)
    random = np.random.default_rng(0)
    for at, frame in enumerate(clip_of((1, 3, 48, 64), frames=6)):
        motion = random.integers(-8, 9, (2, 3, 4)) if at % 2 else None
        assert_matches(got(frame, motion=motion), want(frame, motion=motion))
        same_account(got, want)
    got.reset()
    assert_matches(got(frame), want(frame))
    assert isinstance(got(frame.numpy()), np.ndarray)


def test_a_mask_of_new_pixels_is_believed(net: Net, bundle: Path) -> None:
    got, want = streams(net, bundle)
    first, second, *_ = clip_of((1, 3, 48, 64))
    miss = np.zeros((48, 64), np.bool_)
    miss[:, :32] = True
    for frame, mask in ((first, None), (second + 0.5, miss), (first, None)):
        assert_matches(got(frame, miss=mask), want(frame, miss=mask))


def test_blocks_are_looked_at_on_the_host(tmp_path: Path) -> None:
    policy = Policy(exact=False, residual=3.0, radius=8)
    net = fluxcompile(seeded(lambda: torch.nn.Conv2d(3, 4, 3, padding=1)), torch.zeros(1, 3, 64, 64), frames=Frames())
    net.export("rtx", tmp_path / "out", policy=policy)
    got, want = streams(net, tmp_path / "out", policy)
    random = np.random.default_rng(1)
    frame = random.integers(0, 200, (64, 64, 3), np.uint8)
    for _ in range(4):
        frame = frame + random.integers(0, 2, frame.shape, np.uint8)  # noise, which is no reason to compute
        frame[16:24, 8:24] = random.integers(0, 200, (8, 16, 3))
        assert_matches(got(frame), want(frame))
        same_account(got, want)
    assert want.stats.work_share < 0.9


def same_account(got: EngineStream, want: Any) -> None:
    """Both tell the same of a frame: its work layer by layer, its blocks by cause, where it lies."""
    one, other = got.stats, want.stats
    assert one is not None
    assert one.layers == pytest.approx(other.layers)
    assert one.work_share == pytest.approx(other.work_share)
    assert (one.frame, one.dense, one.offset, one.shift, one.roll) == (
        *(other.frame, other.dense, other.offset, other.shift, other.roll),
    )
    for mine, theirs in ((one.causes, other.causes), (one.miss, other.miss)):
        np.testing.assert_array_equal(mine, theirs)


FOLLOWS = Policy(exact=False, residual=2.0, radius=None, anchor=True)


@pytest.fixture(scope="module")
def follower(tmp_path_factory: pytest.TempPathFactory) -> tuple[Net, Path]:
    def make() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, 2, 1), torch.nn.SiLU(), torch.nn.Conv2d(6, 4, 3, 2, 1))

    net = fluxcompile(seeded(make), torch.zeros(1, 3, 192, 256), frames=Frames())
    folder = tmp_path_factory.mktemp("follower") / "out"
    net.export("rtx", folder, policy=FOLLOWS, frames=2)
    return net, folder


def test_frames_follow_the_camera_on_a_canvas(follower: tuple[Net, Path]) -> None:
    """A pan until everything rolls, then a cut; at every frame what dense inference gives where the frame lies."""
    net, folder = follower
    got, want = streams(net, folder, FOLLOWS)
    scene = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    rolled, shares = False, []
    for at in range(12):
        frame = np.ascontiguousarray(scene[40:216, 100 + 3 * at : 340 + 3 * at])
        if at == 11:
            frame = 255 - frame
        outputs = got(frame)
        assert_matches(outputs, want(frame))
        same_account(got, want)
        assert got.stats is not None
        assert_matches(outputs, net.dense(centred(frame, (192, 256), offset=got.stats.offset)))
        rolled |= any(got.stats.roll)
        shares.append(got.stats.work_share)
    assert rolled
    assert shares[0] == shares[-1] == 1
    assert np.mean(shares[1:-1]) < 0.5


def test_a_frame_that_is_left_is_repaired_in_idle_time(follower: tuple[Net, Path]) -> None:
    net, folder = follower
    got = EngineStream(folder, replace(FOLLOWS, dense=1.0), engine=InOnnxRuntime(folder))
    first = np.full((192, 256, 3), 90, np.uint8)
    second = first.copy()
    second[16:40, 24:56] = 200
    assert got.look(first) == 24 * 32
    got.compute()
    assert got.look(second) == 12
    got.leave()
    assert got.refresh(float("inf"), most=5) == 5
    assert got.look(second) == 7
    assert_matches(got.compute(), net.dense(second))


def test_what_is_below_the_threshold_adds_up_to_no_more(net: Net, tmp_path: Path) -> None:
    """The host's reference is the engine's: pixels that changed too little are still the first frame's."""
    policy = Policy(exact=False, threshold=0.1)
    net.export("jetson-orin", tmp_path / "out", policy=policy)
    got, want = streams(net, tmp_path / "out", policy)
    frame = clip_of((1, 3, 48, 64))[0]
    for at in range(6):
        later = frame + 0.03 * at
        mask = np.full((48, 64), at < 5)  # at last nothing is new: the reference is what is computed from
        assert_matches(got(later, miss=mask), want(later, miss=mask))
        same_account(got, want)


def test_a_caller_may_use_his_array_again(follower: tuple[Net, Path]) -> None:
    net, folder = follower
    got = EngineStream(folder, replace(FOLLOWS, anchor=False), engine=InOnnxRuntime(folder))
    frame = np.random.default_rng(0).integers(0, 256, (192, 256, 3), np.uint8)
    got(frame)
    frame[16:40, 24:56] += 100
    assert_matches(got(frame), net.dense(frame))
    assert got.stats is not None
    assert got.stats.miss.any()


def test_what_a_stream_refuses_leaves_its_state(net: Net, bundle: Path) -> None:
    got, want = streams(net, bundle)
    first, second, *_ = clip_of((1, 3, 48, 64))
    for stream in (got, want):
        stream(first)
    spoilt = second.clone()
    spoilt[0, 0, 0, 0] = float("nan")
    for frame, message in ((spoilt, "1 values are NaN"), (second[:, :, :9], "shape"), (second.double(), "dtype")):
        with pytest.raises(InputError, match=message):
            got(frame)
    assert_matches(got(second), want(second))
    with pytest.raises(OptionError, match="built with radius None, the policy has 4"):
        EngineStream(bundle, Policy(exact=False, radius=4), engine=InOnnxRuntime(bundle))
    with pytest.raises(OptionError, match=r'gate_by="mean" looks around each cell, which engines cannot'):
        EngineStream(bundle, Policy(exact=False, gate=0.1, gate_by="mean"), engine=InOnnxRuntime(bundle))


def test_a_machine_without_tensorrt_or_cuda_is_told_what_to_do(bundle: Path) -> None:
    with pytest.raises(EngineError, match=r"run build_engine.py on this machine first"):
        EngineStream(bundle)
    with pytest.raises(EngineError, match=r"tensorrt, a Python package, cannot be loaded.*python3-libnvinfer"):
        library("tensorrt")
    with pytest.raises(EngineError, match=r"CUDA runtime cannot be loaded \(libnone.so\)"):
        Cuda("libnone.so")
    with pytest.raises(EngineError, match="cmake -S plugin"):
        load_plugins(bundle)


def test_engines_are_for_one_machine(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "engine.plan"
    path.write_bytes(b"plan")
    made = {"library": "tensorrt", "version": "10.3.0", "sm": 87, "sha256": {"engine.plan": "0" * 64}}
    with pytest.raises(EngineError, match=r"built with tensorrt 10.3.0, this is 8.5.2"):
        require_match(made, "8.5.2", 87, path)
    with pytest.raises(EngineError, match="built for sm_87, this GPU is sm_86"):
        require_match(made, "10.3.0", 86, path)
    with pytest.raises(EngineError, match="truncated or was altered"):
        require_match(made, "10.3.0", 87, path)
    with pytest.raises(EngineError, match="missing, truncated or altered"):
        manifest_of(tmp_path)
    assert manifest_of(bundle)["target"]["name"] == "jetson-orin"
