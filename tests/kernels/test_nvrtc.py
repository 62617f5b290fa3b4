"""Each kernel header through NVIDIA's own compiler, for each GPU that we have a target for; a broken one is refused."""

import locale
import re
from pathlib import Path

import pytest

from fluxcompile.errors import DeviceError
from fluxcompile.kernels import _device
from fluxcompile.kernels.nvrtc import SOURCES, Nvrtc, libraries, newest

HEADERS = sorted(p.name for p in SOURCES.glob("*.cuh"))
VERSIONS = {(11, 8): (72, 86, 87, 90), (12, 6): (72, 86, 87, 90)}
"""JetPack 5 has the first, JetPack 6 the second."""


def nvrtc(version: tuple[int, int]) -> Nvrtc:
    for path in libraries():
        one = Nvrtc(path)
        if one.version == version:
            return one
    pytest.skip(f"NVRTC {version[0]}.{version[1]} is not installed: pip install 'fluxcompile[nvrtc]'")


TARGETS = [
    pytest.param(version, sm, id=f"{version[0]}.{version[1]}-sm_{sm}")
    for version, sms in VERSIONS.items()
    for sm in sms
]


def entries(cubin: bytes) -> set[str]:
    """The kernels in a cubin, which is an ELF file with a section of text for each."""
    assert cubin[:4] == b"\x7fELF"
    return {name.decode() for name in re.findall(rb"\0\.text\.(\w+)(?=\0)", cubin)}


@pytest.mark.parametrize(("version", "sm"), TARGETS)
def test_all_kernels_compile(version: tuple[int, int], sm: int) -> None:
    found = entries(nvrtc(version).compile("kernels.cuh", sm))
    assert found == {name for name in _device.kernels() if not name.startswith("fault_")}


@pytest.mark.parametrize("header", HEADERS)
def test_each_header_stands_alone(header: str) -> None:
    one = nvrtc((11, 8))
    listed = set(re.findall(r"ENTRY\((\w+), ", (SOURCES / header).read_text())) - {"name"}  # of the macro itself
    found = entries(one.compile(header, 72))
    assert found == listed or header == "kernels.cuh"
    assert bool(listed) == (header not in ("device.cuh", "rows.cuh", "kernels.cuh"))


ARGUMENTS = re.findall(
    r"ENTRY\((\w+), .*?, (\w+)\)", "".join((SOURCES / h).read_text() for h in HEADERS if h != "kernels.cuh")
)
"""(kernel, structure) of every kernel."""


@pytest.mark.parametrize("more_bytes", [0, 8], ids=["as the host packs them", "control"])
def test_a_gpu_reads_arguments_as_the_host_packs_them(more_bytes: int, tmp_path: Path) -> None:
    """The two compilers lay out each structure in as many bytes."""
    sizes = {structure: _device.argument_bytes(kernel) for kernel, structure in ARGUMENTS if kernel != "name"}
    assert len(sizes) == len(HEADERS) - 3  # device.cuh, rows.cuh and kernels.cuh have none
    lines = [f'static_assert(sizeof(flux::device::{s}) == {n + more_bytes}, "{s}");' for s, n in sizes.items()]
    (tmp_path / "sizes.cuh").write_text("\n".join([f'#include "{SOURCES / "kernels.cuh"}"', *lines]))
    if not more_bytes:
        assert nvrtc((11, 8)).compile("sizes.cuh", 72, tmp_path)
        return
    with pytest.raises(DeviceError) as refused:
        nvrtc((11, 8)).compile("sizes.cuh", 72, tmp_path)
    assert all(f'static assertion failed with "{s}"' in str(refused.value) for s in sizes)


def test_headers_include_nothing_of_the_host() -> None:
    for header in HEADERS:
        for included in re.findall(r"^#include (\S+)", (SOURCES / header).read_text(), re.MULTILINE):
            assert included.strip('"') in HEADERS or included == '"../shim/cuda_on_cpu.h"', header


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_a_broken_kernel_is_refused_with_the_log(version: tuple[int, int], tmp_path: Path) -> None:
    one = nvrtc(version)
    for header in HEADERS:
        (tmp_path / header).write_text((SOURCES / header).read_text())
    whole = (SOURCES / "gate.cuh").read_text()
    broken = whole.replace("real(static_cast<const T*>(a.old)[i])", "real(static_cast<const T*>(a.older)[i])")
    assert broken != whole
    (tmp_path / "gate.cuh").write_text(broken)
    with pytest.raises(DeviceError, match=r"(?s)gate.cuh for sm_86 by NVRTC .*do not compile\n.*gate.cuh.*older"):
        one.compile("gate.cuh", 86, tmp_path)
    (tmp_path / "gate.cuh").write_text(whole)
    assert one.compile("gate.cuh", 86, tmp_path)


def test_a_gpu_that_no_version_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    one = nvrtc((11, 8))
    with pytest.raises(DeviceError, match=r"sm_120 by NVRTC 11.8: it compiles only for .*sm_72"):
        one.compile("gate.cuh", 120)
    with pytest.raises(DeviceError, match=r"none compiles for sm_10; install another"):
        newest(10)
    monkeypatch.setattr("fluxcompile.kernels.nvrtc.libraries", list)
    with pytest.raises(DeviceError, match="NVRTC, which compiles kernels for a GPU, is not installed; install it with"):
        newest(86)


def test_what_is_no_such_library(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="is no NVRTC library that loads here"):
        Nvrtc(tmp_path / "libnvrtc.so.12")


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: f"{v[0]}.{v[1]}")
def test_the_locale_stays(version: tuple[int, int]) -> None:
    """What this thread reads as text afterwards is what it was before."""
    before = locale.getencoding()
    nvrtc(version).compile("gate.cuh", 86)
    assert locale.getencoding() == before
