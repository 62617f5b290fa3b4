"""Two nets that run one after the other as the whole does: any net, any cut, any clip, saved and loaded again."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, note
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxcompile import Frames, InputError, Net, OptionError, Policy, ProgramError, fluxcompile, load
from fluxcompile.models import ZOO, build
from fluxcompile.net import Partition, load_partition
from fluxcompile.partition import analysed
from fluxcompile.passes.find_cuts import candidates
from tests.helpers import assert_matches, clip_of, seeded
from tests.nets import clips, nets
from tests.test_exact import quick


def pyramid() -> nn.Module:
    """Three maps of different scales, joined again, and an output on the way."""

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU())
            self.deep, self.deeper = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
            self.head, self.up = nn.Conv2d(24, 4, 3, padding=1), nn.Upsample(scale_factor=2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            a = self.stem(x)
            b = self.deep(a).relu()
            c = self.deeper(b).relu()
            joined = torch.cat([a, self.up(b), self.up(self.up(c))], 1)
            return {"map": self.head(joined), "early": b.mean((2, 3))}

    return seeded(Pyramid)


def run(halves: Partition, edge: Any, cloud: Any, frame: Any, **options: Any) -> Any:
    """The outputs of both streams, one after the other."""
    early = edge(frame) if edge else None
    late = cloud(*early["boundary"] if edge else [frame], **options) if cloud else None
    return halves.outputs(early, late)


def assert_whole(halves: Partition, net: Net, clip: list[Any], **options: Any) -> None:
    """Frame by frame, the streams of both parts give what dense inference of the whole gives."""
    edge, cloud = (part.stream(**options) if part else None for part in (halves.edge, halves.cloud))
    for frame in clip:
        assert_matches(run(halves, edge, cloud, frame), net.dense(frame))


@quick(15)
@given(st.data())
def test_random_cuts_of_random_nets(data: st.DataObject) -> None:
    model, shape = data.draw(nets())
    clip = data.draw(clips(shape))
    net = fluxcompile(model, torch.zeros_like(clip[0][0]))
    cuts = candidates(analysed(net.program))
    at: Any = data.draw(st.sampled_from([*range(len(cuts)), "cloud"]))
    note(f"{model}\n{at}")
    assert_whole(net.partition(at=at), net, [frame for frame, _ in clip])


@pytest.mark.parametrize("name", ["yolo11-mini", "segformer-mini", "detr-mini", "sdpose-mini", "efficientnet-mini"])
def test_zoo(name: str) -> None:
    """On the kernels, cut in the middle."""
    net = fluxcompile(build(name), ZOO[name].example())
    halves = net.partition(at=len(candidates(analysed(net.program))) // 2)
    assert halves.boundary
    assert_whole(halves, net, clip_of(ZOO[name].input_shape), backend="cpu")


@pytest.fixture(scope="module")
def net() -> Net:
    return fluxcompile(pyramid(), torch.zeros(1, 3, 32, 48), frames=Frames())


def frames() -> list[Any]:
    return [(255 * f[0].permute(1, 2, 0)).clamp(0, 255).to(torch.uint8) for f in clip_of((1, 3, 32, 48))]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_maps_of_several_scales_cross(net: Net, backend: str) -> None:
    halves = net.partition(at="deeper")
    assert [(i.shape, i.layout) for i in halves.boundary] == [
        ([1, 8, 16, 24], "1 8 y16 x24"),
        ([1, 8, 8, 12], "1 8 y8 x12"),
        ([1, 8, 4, 6], "1 8 y4 x6"),
    ]
    assert_whole(halves, net, frames(), backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_cloud_takes_a_mask_for_each_map(net: Net, backend: str) -> None:
    """What the receiver knows to be old is not compared; the masks are believed."""
    halves = net.partition(at="deeper")
    assert halves.edge is not None
    assert halves.cloud is not None
    edge, cloud = halves.edge.stream(backend=backend), halves.cloud.stream(backend=backend)
    first, second = frames()[:2]
    run(halves, edge, cloud, first)
    old = [m.numpy() for m in edge(first)["boundary"]]
    new = [m.numpy() for m in edge(second)["boundary"]]
    masks = [(a != b).any((0, 1)) for a, b in zip(old, new, strict=True)]
    want = net.dense(second)["map"]
    kept = np.array(cloud(*new, miss=[np.zeros_like(m) for m in masks])[0])
    assert_matches(kept, np.asarray(net.dense(first)["map"]))
    assert_matches(torch.as_tensor(cloud(*new, miss=[masks[0], None, masks[2]])[0]), want)
    with pytest.raises(InputError, match="a list of 2 masks, the net takes 3 inputs"):
        cloud(*new, miss=masks[:2])


@pytest.mark.parametrize("at", ["stem", "deeper"])
def test_random_masks(net: Net, at: str) -> None:
    """Pixels the caller vouches for are old in both parts, as they are in the whole."""
    halves, random = net.partition(at=at), np.random.default_rng(0)
    assert halves.edge is not None
    assert halves.cloud is not None
    whole, edge, cloud = net.stream(), halves.edge.stream(), halves.cloud.stream()
    for share in (1.0, 0.3, 0.02, 0.0, 0.5):
        frame = random.integers(0, 256, (32, 48, 3), np.uint8)
        miss = random.random((32, 48)) < share
        early = edge(frame, miss=miss)
        assert_matches(halves.outputs(early, cloud(*early["boundary"])), whole(frame, miss=miss))


def test_only_what_changed_at_the_boundary_is_computed(net: Net) -> None:
    halves = net.partition(at="stem")
    assert halves.edge is not None
    assert halves.cloud is not None
    edge, cloud = halves.edge.stream(), halves.cloud.stream()
    frame = frames()[0]
    for _ in range(2):
        run(halves, edge, cloud, frame)
    assert cloud.stats is not None
    assert cloud.stats.work_share == 0
    frame[4:6, 4:6] ^= 64
    run(halves, edge, cloud, frame)
    assert 0 < cloud.stats.work_share < 0.5


def test_the_whole_net_on_one_side(net: Net) -> None:
    for at in ("edge", "cloud", ["stem", "deep", "deeper", "head"]):
        halves = net.partition(at=at)
        assert (halves.edge is None) == (at == "cloud")
        assert halves.boundary == []
        assert_whole(halves, net, frames()[:2])


def test_parts_are_compiled_as_the_whole_was() -> None:
    whole = fluxcompile(pyramid(), torch.zeros(1, 3, 32, 48), without=["fuse_activations"], attention="active")
    halves = whole.partition(at="stem")
    for part in (halves.edge, halves.cloud):
        assert part is not None
        assert part.program.options == {"attention": "active", "without": ["fuse_activations"]}


def test_saved_loaded_and_partitioned_again(net: Net, tmp_path: Path) -> None:
    net.save(tmp_path / "net.flux")
    halves = load(tmp_path / "net.flux").partition(at="stem")
    assert halves.save(tmp_path / "parts") == [tmp_path / "parts" / "edge.flux", tmp_path / "parts" / "cloud.flux"]
    again = load_partition(tmp_path / "parts")
    assert again.boundary == halves.boundary
    assert_whole(again, net, frames()[:2])
    assert again.cloud is not None
    cloud = again.cloud.partition(at="deep")
    assert [i.name for i in cloud.boundary] == [halves.boundary[0].name, "relu"]

    net.partition(at="edge").save(tmp_path / "parts")
    assert load_partition(tmp_path / "parts").cloud is None
    halves.save(tmp_path / "parts")
    net.partition(at="deep").save(tmp_path / "others")
    (tmp_path / "others" / "cloud.flux").replace(tmp_path / "parts" / "cloud.flux")
    with pytest.raises(ProgramError, match="not two parts of one net"):
        load_partition(tmp_path / "parts")
    with pytest.raises(ProgramError, match="holds neither"):
        load_partition(tmp_path / "nothing")


def test_a_frame_that_both_read_crosses_too() -> None:

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(3, 4, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * self.b(x)  # type: ignore[no-any-return]

    net = fluxcompile(seeded(Two), torch.zeros(1, 3, 32, 48), frames=Frames(mean=(0.5,), std=(0.2,)))
    halves = net.partition(at="a")
    assert [(i.dtype, i.layout) for i in halves.boundary] == [("f32", "1 3 y32 x48"), ("f32", "1 4 y32 x48")]
    for backend in ("cpu", "reference"):
        assert_whole(halves, net, frames(), backend=backend)


def test_policies_of_parts() -> None:
    """What looks at pixels is the edge's; the radius is in cells of two pixels."""
    policy = Policy(exact=False, residual=2.0, background=9.0, radius=8, gate=0.1, anchor=True)
    net = fluxcompile(pyramid(), torch.zeros(1, 3, 32, 48), frames=Frames(), policy=policy)
    halves = net.partition(at="stem")
    assert halves.edge is not None
    assert halves.cloud is not None
    assert Policy(**halves.edge.program.policy) == policy
    assert Policy(**halves.cloud.program.policy) == Policy(exact=False, radius=4, gate=0.1)
    exact = fluxcompile(pyramid(), torch.zeros(1, 3, 32, 48)).partition(at="stem").cloud
    assert exact is not None
    assert Policy(**exact.program.policy) == Policy()


def test_parts_are_exported_apart(tmp_path: Path) -> None:
    """Each is a bundle of its own; the cloud's takes the boundary maps, and has a radius for several."""
    pytest.importorskip("onnx")
    policy = Policy(exact=False, residual=2.0, radius=8)
    halves = fluxcompile(pyramid(), torch.zeros(1, 3, 32, 48), frames=Frames(), policy=policy).partition(at="deeper")
    assert halves.edge is not None
    assert halves.cloud is not None
    edge = halves.edge.export("jetson-xavier-nx", tmp_path / "edge", frames=2)
    cloud = halves.cloud.export("rtx-3080", tmp_path / "cloud", frames=2)
    assert [i.name for i in cloud.frames_in] == [i.name for i in halves.boundary]
    assert [len(edge.frames_in), len(edge.results), len(cloud.results)] == [1, 4, 1]


def test_what_is_salient_is_told_by_the_cloud(net: Net) -> None:
    """A part knows no task; far from what it was told of, a small change is left."""
    policy = Policy(exact=False, residual=2.0, background=40.0, radius=0)
    halves = net.partition(at="stem")
    assert halves.edge is not None
    frame = np.full((32, 48, 3), 90, np.uint8)
    missed = []
    for salience in (None, np.zeros((4, 6), np.float32), np.ones((4, 6), np.float32)):
        edge = halves.edge.stream(policy, task="detect")
        edge(frame)
        if salience is not None:
            edge.hint(salience)
        edge(frame + np.uint8(10))
        assert edge.stats is not None
        missed.append(edge.stats.miss.any())
    assert missed == [True, False, True]


def test_without_the_compiler_there_are_no_cuts(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "networkx", None)
    for name in ("partition", "cuts", "passes.find_cuts"):
        monkeypatch.delitem(sys.modules, f"fluxcompile.{name}", raising=False)
    with pytest.raises(ProgramError, match=r"needs networkx; pip install fluxcompile\[compile\]"):
        net.partition(at="stem")


def test_after_the_last_layer_all_is_on_the_edge() -> None:
    """A cut is between layers; a net that has none has no cut."""
    model = nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(2)).eval()
    halves = fluxcompile(model, torch.zeros(1, 3, 32, 48)).partition(at="0")
    assert halves.cloud is None
    assert [row.at for row in halves.explain().rows] == ["edge", "cloud"]


def test_what_is_no_cut_is_refused(net: Net) -> None:
    with pytest.raises(OptionError, match=r"no module or layer 'middle'; it has stem\.0, deep, deeper, head"):
        net.partition(at="middle")
    with pytest.raises(OptionError, match="no cut 9; the net can be cut in 3 places"):
        net.partition(at=9)
