"""A net measured on this device: what is noted of each frame, and what profile it makes."""

import pytest
import torch
from torch import nn

from fluxcompile import Frames, Net, OptionError, Policy, fluxcompile
from fluxcompile.measure.profiling import ACTIVITIES, DRAWN, Sample, fastest_peer, profile_net, profile_of
from tests.helpers import seeded


@pytest.fixture(scope="module")
def net() -> Net:
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1)]
    return fluxcompile(seeded(lambda: nn.Sequential(*layers)), torch.zeros(1, 3, 128, 128), frames=Frames())


def test_frames_of_chosen_activity(net: Net) -> None:
    done: list[int] = []
    found = profile_net(net, device="here", name="small", rounds=2, on_step=done.append)
    assert done == [*range(1, 2 * DRAWN * (1 + len(ACTIVITIES)) + 1)]
    assert (found.device, found.net, found.frame, found.num_frames) == (
        "here",
        "small",
        (128, 128),
        DRAWN * len(ACTIVITIES),
    )
    assert found.activities[0] == 0
    assert found.activities[-1] == found.blocks == 64
    assert list(found.layers) == [layer.name for layer in net.explain().layers]
    for layer in found.layers.values():
        assert layer.share[0] == 0
        assert layer.share[-1] == 1
        assert layer.share == sorted(layer.share)
        assert min(layer.ms) >= 0
    assert found.left_out_ms is not None
    assert found.residual_ms is not None
    assert 0 < found.residual_ms <= found.left_out_ms


def test_frames_of_a_clip(net: Net, shared) -> None:
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    clip = str(shared("data/clips/static_garden_dog.mp4"))
    found = profile_net(net, device="here", name="small", clips=[clip], policy=Policy(exact=False), frames=12, rounds=1)
    assert found.num_frames == 11
    assert set(found.beside_ms) == {"look", "h264", "jpeg", "raw", "decode"}
    assert found.source == "measured on 1 clips, policy equal pixels, 1 threads, the fastest of 1 rounds"
    assert 0 < found.activities[0] <= found.activities[-1] <= 64


def samples(count: int, dense: int = 1) -> list[Sample]:
    sparse = [Sample(n, 2.0 + 0.5 * n, False, {"stem": 0.1 * n}, {"stem": n / 40}) for n in range(count)]
    return [Sample(40, 30.0 + i, True, {"stem": 9.0}, {"stem": 1.0}) for i in range(dense)] + sparse


def test_what_frames_make() -> None:
    found = profile_of(samples(36, dense=3), device="d", net="n", source="s", frame=(64, 160))
    assert (found.a, found.b, found.c) == (pytest.approx(0, abs=1e-9), pytest.approx(0.5), pytest.approx(2))
    assert found.dense_ms == 31
    assert found.activities == [1.5 + 4 * i for i in range(9)]
    assert found.layers["stem"].ms == pytest.approx([0.1 * n for n in found.activities])
    assert found.layers["stem"].share == pytest.approx([n / 40 for n in found.activities])


@pytest.mark.parametrize(("count", "dense"), [(7, 1), (20, 0)])
def test_too_few_frames_are_refused(count: int, dense: int) -> None:
    with pytest.raises(OptionError, match="a curve needs 8 or more, and one that is dense"):
        profile_of(samples(count, dense), device="d", net="n", source="s", frame=(64, 64))


def test_a_net_without_a_plan_is_refused() -> None:
    net = fluxcompile(nn.Conv2d(3, 4, 3).double().eval(), torch.zeros(1, 3, 16, 16, dtype=torch.float64))
    with pytest.raises(OptionError, match="no plan for the CPU"):
        profile_net(net, device="d", name="n")


def test_the_fastest_dense_runtime(net: Net) -> None:
    """What is noted of it is the time of one of those that ran; one that cannot run the net is told."""
    found = profile_net(net, device="here", name="small", rounds=1, peer=fastest_peer(net, None, None, ["torch"]))
    assert found.peer == "torch"
    assert found.peer_ms is not None
    assert found.of_best_dense.dense_ms == min(found.dense_ms, found.peer_ms)
    assert profile_net(net, device="here", name="small", rounds=1).of_best_dense.dense_ms > 0
    with pytest.raises(OptionError, match="no peer is called magic"):
        fastest_peer(net, None, None, ["magic"])
