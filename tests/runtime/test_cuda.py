"""The GPU's backend but for the GPU: its stream with the kernels run by the shim, and its launches by a pretended driver."""

import ctypes
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, note
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from typer.testing import CliRunner

from fluxcompile import Net, Policy, fluxcompile
from fluxcompile.cli import app
from fluxcompile.errors import DeviceError, OptionError
from fluxcompile.kernels import _device
from fluxcompile.kernels.cuda import CudaRunner, Driver, cuda_device, cuda_kernels
from fluxcompile.kernels.device import kernels
from fluxcompile.kernels.nvrtc import libraries
from fluxcompile.measure.peers import Model, open_peers, peers_of
from fluxcompile.models import ZOO, build
from fluxcompile.ops import TABLE
from fluxcompile.program import Graph, Op
from fluxcompile.runtime.execute import STILL, UNLIMITED, Executor
from fluxcompile.runtime.stream import Stream
from tests.helpers import Do, assert_matches, clip_of, seeded
from tests.kernels.shim import runner, shimmed
from tests.nets import Attention, Tokens, clips, nets
from tests.test_exact import quick

pytestmark = shimmed
Calls = dict[str, Callable[..., Any]]


class Counted:
    """The kernels by the shim, and how often each op ran."""

    def __init__(self) -> None:
        self.count = dict.fromkeys(_device.ops(), 0)
        self.kernels: Calls = {name: partial(self._call, name, one) for name, one in kernels(runner(False)).items()}

    def _call(self, name: str, one: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.count[name] += 1
        return one(*args, **kwargs)


def streams(net: Net, policy: Policy | None = None) -> tuple[Stream, Stream, Counted]:
    """A stream as on a GPU but for the device, the reference's, and what the kernels did."""
    counted = Counted()
    policy = policy or Policy()
    stream = Stream(net.program, policy, kernels=counted.kernels)
    stream._waits = True
    return stream, net.stream(policy, backend="reference"), counted


# --- streams ----------------------------------------------------------------------------------------------------------


@quick(6)
@given(st.data())
def test_a_stream_by_kernels_is_exact(data: st.DataObject) -> None:
    model, shape = data.draw(nets(most=3))
    note(str(model))
    model = model.float()
    stream = streams(fluxcompile(model, torch.zeros(shape)))[0]
    for frame, motion in data.draw(clips(shape, most=4)):
        frame = frame.float()
        with torch.no_grad():
            assert_matches(stream(frame, motion=motion), model(frame))


def vit() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), Tokens(8, 6, 6, Attention(8, 2, fused=True), token=True, positions=True)
        )
    )


def test_attention_is_corrected_by_kernels() -> None:
    stream, reference, counted = streams(fluxcompile(vit(), torch.zeros(1, 3, 24, 24), attention="incremental"))
    for frame in clip_of((1, 3, 24, 24)):
        assert_matches(stream(frame), reference(frame))
        assert stream.stats is not None
        assert reference.stats is not None
        assert stream.stats.work_share == reference.stats.work_share
    assert min(counted.count[name] for name in ("correct_attention", "halo_gather", "row_scatter", "gate")) > 0


@pytest.mark.parametrize(
    "policy", [Policy(), Policy(exact=False, threshold=0.01, gate=0.05, radius=4)], ids=["exact", "near"]
)
def test_a_stream_by_kernels_does_what_the_reference_does(policy: Policy) -> None:
    model = seeded(
        lambda: Do(
            lambda x, a, b, up: (lambda y: [up(b(y)), y.mean((2, 3))])(torch.relu(a(x))),
            nn.Conv2d(3, 4, 3, 2, 1),
            nn.Conv2d(4, 4, 3, 1, 1),
            nn.Upsample(scale_factor=2, mode="bilinear"),
        )
    )
    stream, reference, counted = streams(fluxcompile(model, torch.zeros(1, 3, 24, 32)), policy)
    for i, frame in enumerate(clip_of((1, 3, 24, 32), frames=5)):
        motion = torch.full((2, 2, 2), 2 * (i == 3), dtype=torch.int32)
        assert_matches(stream(frame, motion=motion), reference(frame, motion=motion))
        assert stream.stats is not None
        assert reference.stats is not None
        assert stream.stats.layers == reference.stats.layers
    assert min(counted.count[name] for name in ("halo_gather", "tile_scatter", "motion_reindex", "gate")) > 0


@pytest.mark.parametrize("name", ["yolo11-mini", "efficientnet-mini", "swin-mini", "segformer-mini"])
def test_nets_of_the_zoo_by_kernels(name: str) -> None:
    shape = ZOO[name].input_shape
    stream, reference, counted = streams(fluxcompile(build(name), torch.zeros(shape)))
    for frame in clip_of(shape, frames=2):
        assert_matches(stream(frame), reference(frame))
    used = {"efficientnet-mini": "hold", "segformer-mini": "resample", "swin-mini": "row_scatter"}
    assert counted.count[used.get(name, "tile_scatter")] > 0


def test_a_wrong_kernel_is_seen() -> None:
    """The control of the tests above."""
    model = seeded(lambda: nn.Conv2d(3, 4, 3, 1, 1))
    net = fluxcompile(model, torch.zeros(1, 3, 16, 16))
    wrong: Callable[..., Tensor] = lambda *a, **k: TABLE["halo_gather"].reference(*a, **k) * 1.01  # noqa: E731
    stream = Stream(net.program, Policy(), kernels=Counted().kernels | {"halo_gather": wrong})
    frame = clip_of((1, 3, 16, 16))[0]
    with torch.no_grad(), pytest.raises(AssertionError):
        assert_matches(stream(frame), model(frame))


def test_a_stream_makes_its_tensors_on_its_device() -> None:
    """Tensors made without a device would be of the default one here, which mixes with no other."""
    net = fluxcompile(vit(), torch.zeros(1, 3, 24, 24))
    frames = clip_of((1, 3, 24, 24))
    stream, reference, _ = streams(net, Policy(exact=False, residual=4.0))
    for frame in frames:
        want = reference(frame.numpy())
        with torch.device("meta"):
            got = stream(frame.numpy())
        assert_matches(got, want)


def test_ops_that_make_tensors_make_them_on_the_device() -> None:
    op = Op("made", "aten.full.default", [[2, 3], 1.5])
    (made,), _ = Executor(Graph([], [op], [{"%": "made"}]), {}, device=torch.device("meta"))({})
    assert (made.device.type, made.shape) == ("meta", (2, 3))
    (made,), _ = Executor(Graph([], [op], [{"%": "made"}]), {})({})
    assert torch.equal(made, torch.full((2, 3), 1.5))


MOVES = ["shift_at", *(name for name in TABLE if name.startswith("apart_"))]


@pytest.mark.parametrize("name", MOVES)
def test_where_nothing_moved_nothing_is_apart(name: str) -> None:
    """What is taken for granted is what the reference finds; rows that a window pads or moves stand still here."""
    for sample in TABLE[name].samples():
        if name == "apart_remap":
            rows = sample[2]
            still: Any = (torch.arange(int(rows.max()) + 1), torch.arange(len(rows)), rows)
        else:
            still = pytree.tree_map(
                lambda v: v * 0 if isinstance(v, Tensor) and v.dtype == torch.int32 else v, tuple(sample)
            )
        want = TABLE[name].reference(*still)
        assert not want.any()
        assert_matches(STILL[f"flux.{name}.default"](*still), want)


def test_what_is_taken_for_granted_covers_every_op_of_motion() -> None:
    assert set(STILL) == {f"flux.{name}.default" for name in [*MOVES, "motion_reindex"]}
    stream = streams(fluxcompile(vit(), torch.zeros(1, 3, 24, 24)))[0]
    assert stream._known(None) == {**STILL, **UNLIMITED}
    assert stream._known(torch.zeros(2, 2, 2)) == UNLIMITED
    stream.policy = Policy(exact=False, radius=4)
    assert stream._known(None) == STILL
    stream._waits = False
    assert stream._known(None) == {}


# --- launches ---------------------------------------------------------------------------------------------------------


class PretendedDriver:
    """libcuda as far as `Driver` calls it: kernels run by the shim, on the CPU's memory. `fails`: calls that must."""

    def __init__(self, fails: str = "", loads: bytes = b"a cubin") -> None:
        self.fails, self.loads, self.cubin = fails, loads, b""
        self.names, self.launches = list[str](), list[str]()
        self.streams: set[int] = set()

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *args: 700 if name == self.fails else getattr(self, f"_{name}")(*args)

    def _cuModuleLoadData(self, module: Any, cubin: bytes) -> int:
        assert cubin.startswith(self.loads)
        self.cubin = cubin
        module._obj.value = 77
        return 0

    def _cuModuleGetFunction(self, function: Any, module: Any, name: bytes) -> int:
        assert module.value == 77
        self.names.append(name.decode())
        function._obj.value = len(self.names)
        return 0

    def _cuLaunchKernel(self, function: Any, *rest: Any) -> int:
        *sizes, stream, pointers, extra = rest
        x, y, z, *block, shared_bytes = (s.value for s in sizes)
        assert (z, block, extra) == (1, [_device.THREADS, 1, 1], None)
        name = self.names[function.value - 1]
        self.launches.append(name)
        self.streams.add(stream.value)
        size_bytes = _device.argument_bytes(name)
        arguments = ctypes.string_at(pointers[0], size_bytes)
        _device.launch_on_cpu(name, x, y, shared_bytes, arguments, False)
        return 0

    def _cuMemcpyDtoDAsync_v2(self, to: Any, source: Any, size_bytes: Any, stream: Any) -> int:
        ctypes.memmove(to.value, source.value, size_bytes.value)
        self.streams.add(stream.value)
        return 0

    def _cuGetErrorString(self, status: int, text: Any) -> int:
        text._obj.value = b"an illegal memory access"
        return 0


@pytest.mark.parametrize("name", _device.ops())
def test_a_launch_reaches_the_driver_whole(name: str) -> None:
    pretended = PretendedDriver()
    run = CudaRunner(Driver(pretended), b"a cubin", lambda: 42)
    for sample in TABLE[name].samples():
        assert_matches(kernels(run)[name](*sample), TABLE[name].reference(*sample))
    assert pretended.streams <= {42}
    assert len(set(pretended.names)) == len(pretended.names)  # a function is looked up once
    assert pretended.launches


def test_kernels_are_compiled_for_the_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the GPU's compute capability to its kernels: NVRTC's cubin is loaded, and has what is looked up in it."""
    if not libraries():
        pytest.skip("NVRTC is not installed: pip install 'fluxcompile[nvrtc]'")
    pretended = PretendedDriver(loads=b"\x7fELF")
    monkeypatch.setattr("fluxcompile.kernels.cuda.Driver", lambda: Driver(pretended))
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: SimpleNamespace(cuda_stream=42))
    made = cuda_kernels.__wrapped__(torch.device("cpu"))
    sample = next(TABLE["tile_scatter"].samples())
    assert_matches(made["tile_scatter"](*sample), TABLE["tile_scatter"].reference(*sample))
    assert pretended.names == ["tile_scatter_32"]
    assert b".text.tile_scatter_32" in pretended.cubin
    assert pretended.streams == {42}


@pytest.mark.parametrize("call", ["cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernel", "cuMemcpyDtoDAsync_v2"])
def test_what_the_driver_refuses_is_told(call: str) -> None:
    sample = next(TABLE["tile_scatter"].samples())
    with pytest.raises(DeviceError, match=rf"{call}: an illegal memory access \(CUDA error 700\)"):
        kernels(CudaRunner(Driver(PretendedDriver(call)), b"a cubin", lambda: 0))["tile_scatter"](*sample)


def test_a_missing_driver_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluxcompile.kernels.cuda.DRIVER", "libcuda-that-is-not-here.so.1")
    with pytest.raises(DeviceError, match=r"the CUDA driver does not load \(.*\); install NVIDIA's driver"):
        Driver()


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    net = fluxcompile(nn.Conv2d(3, 4, 3).eval(), torch.zeros(1, 3, 8, 8))
    monkeypatch.setattr("torch.version.cuda", None)
    with pytest.raises(
        DeviceError, match=r"backend 'cuda': this torch \(.*\) is a build without CUDA; install a build"
    ):
        net.stream(backend="cuda")
    monkeypatch.setattr("torch.version.cuda", "12.6")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match="torch finds no NVIDIA GPU and driver here; use backend='cpu'"):
        cuda_device()
    with pytest.raises(OptionError, match="backend is 'gpu'; use cpu, cuda or reference"):
        net.stream(backend="gpu")


@pytest.mark.parametrize("words", [["--activity", "10"], ["--clips", "."]])
def test_the_benchmark_wants_a_gpu_before_it_measures_anything(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.version.cuda", None)
    done = CliRunner().invoke(app, ["bench", "zoo:unet-mini", "--backend", "cuda", *words])
    assert isinstance(done.exception, DeviceError)
    assert "backend 'cuda': this torch" in str(done.exception)


def test_a_gpus_peer_computes_there() -> None:
    assert peers_of("cuda") == ["torch-cuda"]
    assert "torch-cuda" not in peers_of("cpu")
    frame = np.zeros((1, 3, 8, 8), np.float32)
    model = Model(
        seeded(lambda: nn.Conv2d(3, 4, 3)), fluxcompile(nn.Identity().eval(), torch.zeros(1)).program, [frame]
    )
    (peer,) = open_peers(model, 1, [], backend="cuda")
    assert peer.infer is None or torch.cuda.is_available()
    assert peer.reason or torch.cuda.is_available()
