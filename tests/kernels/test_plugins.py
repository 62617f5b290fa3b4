"""The TensorRT plugins through their whole life, against a mock of both interfaces, kernels on the CPU, under ASan and UBSan."""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fluxcompile.kernels import _device
from fluxcompile.kernels.device import TYPES, bind
from fluxcompile.kernels.plugins import plugin_sources
from fluxcompile.ops import TABLE
from tests.helpers import assert_matches
from tests.kernels.shim import MASKS
from tests.kernels.test_sanitizers import without_notice

VERSIONS = ("8.5", "10.3")
OPS = _device.ops()
ARRAYS = {"f32": np.float32, "f16": np.float16, "i32": np.int32}
pytestmark = pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="sanitized in itself; `make test` runs it"
)


def run(*words: str | Path, expect: int = 0) -> str:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, errors="replace")
    assert done.returncode == expect, f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done.stdout + without_notice(done.stderr)


@pytest.fixture(scope="session")
def sources(repo: Path) -> Path:
    return repo / "kernels" / "csrc" / "trt"


def copied(folder: Path) -> None:
    """The plugins' sources as a bundle holds them; what is there and the same keeps its time."""
    wanted = plugin_sources()
    for gone in {path for path in folder.rglob("*") if path.is_file()} - {folder / name for name in wanted}:
        gone.unlink()
    for name, source in wanted.items():
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            shutil.copy(source, copy)


@pytest.fixture(scope="session")
def built(repo: Path, sources: Path) -> Callable[[str], Path]:
    """Return a function from a version to the folder of the plugins, built from a copy, and their driver."""
    if not shutil.which("cmake") or not shutil.which("ninja"):
        pytest.skip("cmake and ninja are needed to build plugins; `make` installs them")

    def build(version: str) -> Path:
        folder = repo / "build" / f"plugins-{version}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:  # other workers of the same run
            fcntl.flock(lock, fcntl.LOCK_EX)
            copied(folder / "plugin")
            options = f"-DMOCK_VERSION={version}", f"-DPLUGINS={folder / 'plugin'}"
            run("cmake", "-G", "Ninja", "-S", sources / "mock", "-B", folder, *options)
            run("cmake", "--build", folder)
        return folder

    return build


def narrow(values: Any) -> Any:
    """As TensorRT has tensors: no int64, bool or uint8."""
    to = {torch.int64: torch.int32, torch.bool: torch.int32, torch.uint8: torch.float32}
    return pytree.tree_map(lambda v: v.to(to.get(v.dtype, v.dtype)) if isinstance(v, Tensor) else v, tuple(values))


class Case:
    """A call of an op as the driver reads it."""

    def __init__(self, folder: Path, name: str, args: Any, *, view: list[int] | None = None) -> None:
        tensors, attributes = bind(TABLE[name], args, {})
        self.inputs = list(narrow(tensors))
        if view:
            attributes = {"view": view}
        self.folder, self.name = folder, name
        types = [TYPES[x.dtype] for x in self.inputs]
        shapes = [tuple(x.shape) for x in self.inputs]
        self.outputs = _device.outputs(name, attributes, types, shapes)
        lines = [f"op {name}"]
        for key, values in attributes.items():
            kind = "floats" if isinstance(values[0], float) else "ints"
            lines.append(" ".join(map(str, (kind, key, *values))))
        for i, x in enumerate(self.inputs):
            (folder / f"in{i}").write_bytes(x.numpy().tobytes())
            lines.append(" ".join(map(str, ("input", types[i], folder / f"in{i}", *x.shape))))
        for i, (dtype, shape) in enumerate(self.outputs):
            lines.append(" ".join(map(str, ("output", dtype, folder / f"out{i}", *shape))))
        self.path = folder / "case"
        self.path.write_text("\n".join(lines) + "\n")

    def live(self, built: Path) -> Any:
        """What the plugin gives."""
        assert run(built / "life_cycle", built / "plugins" / "libflux_plugins.so", self.path) == "lived\n"
        found = []
        for i, (dtype, shape) in enumerate(self.outputs):
            data = np.frombuffer((self.folder / f"out{i}").read_bytes(), ARRAYS[dtype]).copy()
            found.append(torch.from_numpy(data).reshape(shape))
        return found[0] if len(found) == 1 else tuple(found)

    def refuse(self, built: Path) -> str:
        """What it logs when it is given what it must refuse."""
        return run(built / "life_cycle", built / "plugins" / "libflux_plugins.so", self.path, "--faults")


SAMPLES = [pytest.param(n, s, id=f"{n}-{i}") for n in OPS for i, s in enumerate(TABLE[n].samples())]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("name", "sample"), SAMPLES)
def test_a_plugin_lives(version: str, name: str, sample: Any, built: Callable[[str], Path], tmp_path: Path) -> None:
    got = Case(tmp_path, name, sample).live(built(version))
    want = TABLE[name].reference(*sample)
    assert_matches(got, want.int() if name in MASKS else want)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["halo_gather", "tile_scatter", "row_scatter", "motion_reindex", "gate", "hold"])
def test_a_plugin_of_halves_lives(version: str, name: str, built: Callable[[str], Path], tmp_path: Path) -> None:
    sample = next(TABLE[name].samples())
    half = [x.half() if isinstance(x, Tensor) and x.is_floating_point() and x.dim() else x for x in sample]
    want = TABLE[name].reference(*half)
    assert_matches(Case(tmp_path, name, half).live(built(version)), want.int() if name in MASKS else want)


@pytest.mark.parametrize("version", VERSIONS)
def test_rows_as_a_view(version: str, built: Callable[[str], Path], tmp_path: Path) -> None:
    """As the graph's nodes give them."""
    cache, source = torch.rand(1, 3, 4, 5), torch.randperm(20, generator=torch.Generator().manual_seed(0)).int()
    case = Case(tmp_path, "motion_reindex", (cache, source, "1 3 y4 x5"), view=[3, 20, 1])
    assert_matches(case.live(built(version)), TABLE["motion_reindex"].reference(cache, source.long(), "1 3 y4 x5"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OPS)
def test_a_plugin_refuses(version: str, name: str, built: Callable[[str], Path], tmp_path: Path) -> None:
    """Each field missing, misspelt, of another type or length; a saved plugin truncated anywhere; tensors that do not fit."""
    log = Case(tmp_path, name, next(TABLE[name].samples())).refuse(built(version))
    assert log.startswith("lived\n")
    assert f"flux::{name}: " in log
    for said in ("no fields", "expected", *(["truncated"] if version == "8.5" else [])):
        assert said in log


@pytest.mark.parametrize("version", VERSIONS)
def test_the_driver_sees_a_wrong_plugin(version: str, built: Callable[[str], Path], tmp_path: Path) -> None:
    """The control: a shape, a type or a name that the plugin does not have ends its life."""
    one = built(version)
    words = one / "life_cycle", one / "plugins" / "libflux_plugins.so", tmp_path / "case"
    case = Case(tmp_path, "hold", next(TABLE["hold"].samples()))
    whole = case.path.read_text()
    for right, wrong, says in (
        (r"(output f32 \S+) 2", r"\1 3", "size 0 of output 0"),
        (r"(output f32 \S+) 2", r"\1 2 1", "rank of output 0"),
        ("output f32", "output f16", "types of outputs"),
        ("op hold", "op told", "no creator of this name"),
        ("op hold", "op hold\nints gate 1", "gate is unknown"),
    ):
        case.path.write_text(re.sub(right, wrong, whole))
        assert f"died: {says}" in run(*words, expect=1).replace("told: ", "")
    case.path.write_text(whole)
    assert run(*words) == "lived\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_sanitizer_watches(version: str, built: Callable[[str], Path], tmp_path: Path) -> None:
    """The control: a kernel that writes into memory that is a byte too short is seen."""
    case = Case(tmp_path, "halo_gather", next(TABLE["halo_gather"].samples()))
    words = built(version) / "life_cycle", built(version) / "plugins" / "libflux_plugins.so", case.path, "--short"
    said = run(*words, expect=1)
    assert "AddressSanitizer: heap-buffer-overflow" in said
    assert "halo_gather" in said


# --- the CMake file ---------------------------------------------------------------------------------------------------


def configured(folder: Path, sources: Path, *options: str) -> str:
    """What CMake says of the plugins' own project."""
    words = ["cmake", "-G", "Ninja", "-S", str(sources), "-B", str(folder), *options]
    done = subprocess.run(words, capture_output=True, text=True)
    return re.sub(r"\s+", " ", f"{done.returncode} {done.stdout} {done.stderr}")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 6\n", "TensorRT 8.6: plugin/plugin_v2.cpp"),
        (
            "#define NV_TENSORRT_MAJOR 10 //!< major\n#define NV_TENSORRT_MINOR 3\n",
            "TensorRT 10.3: plugin/plugin_v3.cpp",
        ),
        (
            "#define TRT_MAJOR_ENTERPRISE 10\n#define TRT_MINOR_ENTERPRISE 9\n"
            "#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE\n#define NV_TENSORRT_MINOR TRT_MINOR_ENTERPRISE\n",
            "TensorRT 10.9: plugin/plugin_v3.cpp",
        ),
        (
            "#define NV_TENSORRT_MAJOR 8\n#define NV_TENSORRT_MINOR 4\n",
            "are of TensorRT 8.4; the plugins need 8.5, 8.6 or 10",
        ),
        ("// nothing\n", "does not say which version it is"),
    ],
    ids=["8.6", "10.3", "10.9", "8.4", "none"],
)
def test_the_version_comes_from_the_headers(header: str, says: str, sources: Path, tmp_path: Path) -> None:
    (tmp_path / "NvInferVersion.h").write_text(header)
    (tmp_path / "libnvinfer.so").touch()
    options = (f"-DTENSORRT_INCLUDE={tmp_path}", f"-DTENSORRT_LIBRARY={tmp_path / 'libnvinfer.so'}")
    assert says in configured(tmp_path / "build", sources, *options, f"-DFLUX_SHIM={sources / 'shim'}")


def test_missing_headers_say_what_to_do(sources: Path, tmp_path: Path) -> None:
    said = configured(tmp_path / "build", sources, f"-DTENSORRT_INCLUDE={tmp_path}")
    assert said.startswith("1 ")
    assert "TensorRT's headers are not here: install libnvinfer-dev, or pass -DTENSORRT_INCLUDE=FOLDER" in said


def test_a_missing_gpu_says_what_to_do(sources: Path, tmp_path: Path) -> None:
    said = configured(tmp_path / "build", sources, f"-DTENSORRT_INCLUDE={sources / 'mock' / '10.3'}")
    assert said.startswith("1 ")
    assert "which GPU? Pass -DCMAKE_CUDA_ARCHITECTURES=86 for RTX 30" in said


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not here")
def test_nvcc_builds_the_plugins(built: Callable[[str], Path], sources: Path, tmp_path: Path) -> None:
    """As on the target, but for the headers, which are the mock's."""
    options = (
        f"-DTENSORRT_INCLUDE={sources / 'mock' / '10.3'}",
        f"-DTENSORRT_LIBRARY={built('10.3') / 'libnvinfer.so'}",
    )
    said = configured(tmp_path / "build", sources, *options, "-DCMAKE_CUDA_ARCHITECTURES=87")
    assert said.startswith("0 "), said
    run("cmake", "--build", tmp_path / "build")
    assert (tmp_path / "build" / "libflux_plugins.so").exists()


def test_a_copy_needs_nothing_else(tmp_path: Path) -> None:
    """What a bundle holds: no shim, no mock, nothing of the checkout."""
    copy = tmp_path / "plugin"
    copied(copy)
    assert {"CMakeLists.txt", "kernels/kernels.cuh", "ops/op.cpp", "plugin/launch_cuda.cu"} <= set(plugin_sources())
    for path in copy.rglob("*.[hc]*"):
        for included in re.findall(r'^#include "(\S+)"', path.read_text(), re.MULTILINE):
            found = (path.parent / included).resolve()
            assert found.is_relative_to(copy), f"{path}: {included}"
            assert found.exists() or "shim" in included, f"{path}: {included}"


INCLUDE = os.environ.get("TENSORRT_INCLUDE", "")


@pytest.mark.skipif(not INCLUDE, reason="TENSORRT_INCLUDE names no folder with TensorRT's own headers")
def test_the_plugins_compile_against_real_headers(sources: Path) -> None:
    version = dict(
        re.findall(
            r"define (?:NV_TENSORRT_|TRT_)(MAJOR)(?:_ENTERPRISE)? +(\d+)",
            (Path(INCLUDE) / "NvInferVersion.h").read_text(),
        )
    )
    which = "plugin_v3.cpp" if int(version["MAJOR"]) >= 10 else "plugin_v2.cpp"
    cuda = os.environ.get("CUDA_INCLUDE", "/usr/local/cuda/include")
    for file in ("core.cpp", which):
        run("g++", "-std=c++17", "-fsyntax-only", "-I", INCLUDE, "-I", cuda, sources / "plugin" / file)
