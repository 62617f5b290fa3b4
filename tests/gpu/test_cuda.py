"""On an NVIDIA GPU, with `pytest -m gpu tests/gpu`: kernels and streams against the reference, CUDA graphs, races."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from fluxcompile import Policy, fluxcompile
from fluxcompile.kernels import _device
from fluxcompile.kernels.cuda import cuda_kernels
from fluxcompile.ops import TABLE
from tests.helpers import ON_GPU, assert_matches, clip_of, seeded
from tests.nets import Attention, Tokens

pytestmark = ON_GPU
SAMPLES = [pytest.param(n, s, id=f"{n}-{i}") for n in _device.ops() for i, s in enumerate(TABLE[n].samples())]


@pytest.fixture(autouse=True)
def _whole_floats() -> Iterator[None]:
    """Convolutions in float32, not TF32: the reference is."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def to(device: str, values: Any) -> Any:
    return pytree.tree_map(lambda v: v.to(device) if isinstance(v, torch.Tensor) else v, values)


@pytest.fixture(scope="session")
def kernels(record_testsuite_property: Callable[[str, object], None]) -> dict[str, Callable[..., Any]]:
    """Return the kernels on this GPU; its name goes into the report (`--junitxml`)."""
    record_testsuite_property("gpu", torch.cuda.get_device_name())
    return cuda_kernels(torch.device("cuda", torch.cuda.current_device()))


@pytest.mark.parametrize(("name", "sample"), SAMPLES)
def test_a_kernel_gives_what_the_reference_gives(name: str, sample: Any, kernels: Any) -> None:
    got = kernels[name](*to("cuda", tuple(sample)))
    assert all(x.is_cuda for x in pytree.tree_leaves(got))
    assert_matches(to("cpu", got), TABLE[name].reference(*sample))


@pytest.mark.parametrize(("name", "sample"), SAMPLES)
def test_a_reference_runs_on_the_gpu(name: str, sample: Any) -> None:
    assert_matches(to("cpu", TABLE[name].reference(*to("cuda", tuple(sample)))), TABLE[name].reference(*sample))


def test_large_maps(kernels: Any) -> None:
    """Sizes at which blocks run side by side: a 1080p map, all its tiles, and a gate over all its elements."""
    x = torch.rand(1, 16, 1080, 1920)
    tiles = torch.cartesian_prod(torch.arange(68), torch.arange(120))
    geometry: tuple[Any, ...] = ([2, 3], [16, 16])
    gathered = kernels["halo_gather"](x.cuda(), tiles.cuda(), *geometry, [-1, -1], [18, 18])
    assert_matches(gathered.cpu(), TABLE["halo_gather"].reference(x, tiles, *geometry, [-1, -1], [18, 18]))
    inner = gathered[:, :, 1:-1, 1:-1].contiguous()
    assert torch.equal(kernels["tile_scatter"](inner, torch.zeros_like(x).cuda(), tiles.cuda(), *geometry).cpu(), x)
    layout, miss = "1 16 y1080 x1920", torch.ones(1080 * 1920, dtype=torch.bool)
    old = x.clone()
    old[0, 3, 500, 700] += 9
    found = kernels["gate"](x.cuda(), old.cuda(), miss.cuda(), torch.tensor(2.0).cuda(), layout)
    assert found.nonzero().tolist() == [[500 * 1920 + 700]]


@pytest.mark.parametrize("attention", ["exact", "incremental"])
@pytest.mark.parametrize("policy", [Policy(), Policy(exact=False, residual=4.0, gate=0.02)], ids=["exact", "near"])
def test_a_stream_gives_what_the_reference_gives(attention: str, policy: Policy) -> None:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(16, 16, 4, 4),
            Tokens(16, 8, 8, Attention(16, 2, fused=True), token=True, positions=True),
        )
    )
    net = fluxcompile(model, torch.zeros(1, 3, 64, 64), attention=attention)
    stream, reference = (net.stream(policy, backend=name) for name in ("cuda", "reference"))
    for frame in clip_of((1, 3, 64, 64), frames=6):
        assert_matches(stream(frame), reference(frame))
        assert_matches(to("cpu", stream(frame.cuda())), reference(frame))


def test_kernels_run_in_a_cuda_graph(kernels: Any) -> None:
    x, tiles = torch.rand(1, 8, 64, 64, device="cuda"), torch.tensor([[0, 1], [2, 2]], device="cuda")
    arguments: tuple[Any, ...] = ([2, 3], [16, 16], [-1, -1], [18, 18])
    kernels["halo_gather"](x, tiles, *arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = kernels["halo_gather"](x, tiles, *arguments)
    x.copy_(torch.rand_like(x))
    graph.replay()
    torch.cuda.synchronize()
    assert_matches(out.cpu(), TABLE["halo_gather"].reference(x.cpu(), tiles.cpu(), *arguments))


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("compute-sanitizer"), reason="compute-sanitizer is not here; it comes with the CUDA toolkit"
)
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck", "initcheck"])
def test_compute_sanitizer_finds_nothing(tool: str, repo: Path) -> None:
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "-k", "test_a_kernel_gives"]
    done = subprocess.run(
        ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *tests], cwd=repo, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
