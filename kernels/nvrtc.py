"""NVRTC, NVIDIA's compiler of device code: no toolkit and no GPU, only its library, of whatever versions are installed.

The library comes with torch's CUDA builds or by itself: `pip install nvidia-cuda-nvrtc-cu12`.
"""

import contextlib
import ctypes
import importlib.util
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from fluxcompile.errors import DeviceError
from fluxcompile.kernels import plugins

SOURCES = plugins.SOURCES / "kernels"
"""The kernel headers; `kernels.cuh` has them all."""
INSTALL = "install it with torch's CUDA build, or pip install nvidia-cuda-nvrtc-cu12"


class Nvrtc:
    """One version of the library."""

    def __init__(self, path: str | Path) -> None:
        try:
            # It opens these itself, beside it; under a sanitizer, which opens for it, it would look elsewhere.
            self._builtins = [ctypes.CDLL(str(found)) for found in Path(path).parent.glob("libnvrtc-builtins.so.*")]
            self._library = ctypes.CDLL(str(path))
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        except (OSError, AttributeError) as e:
            raise DeviceError(f"{path} is no NVRTC library that loads here ({e}); {INSTALL}") from e

    @cached_property
    def version(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return major.value, minor.value

    @cached_property
    def architectures(self) -> tuple[int, ...]:
        """The compute capabilities it compiles for, times ten."""
        count = ctypes.c_int()
        self._check(self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        found = (ctypes.c_int * count.value)()
        self._check(self._library.nvrtcGetSupportedArchs(found))
        return tuple(found)

    def compile(self, header: str, architecture: int, folder: Path = SOURCES) -> bytes:
        """A header's kernels as a cubin for this compute capability, times ten; DeviceError has the compiler's log."""
        where = f"{header} for sm_{architecture} by NVRTC {self.version[0]}.{self.version[1]}"
        if architecture not in self.architectures:
            known = ", ".join(f"sm_{a}" for a in self.architectures)
            raise DeviceError(f"{where}: it compiles only for {known}; install another version of it")
        program = ctypes.c_void_p()
        source = f'#include "{header}"\n'.encode()
        self._check(self._library.nvrtcCreateProgram(ctypes.byref(program), source, b"program.cu", 0, None, None))
        try:
            options = [f"--gpu-architecture=sm_{architecture}", "--std=c++17", f"--include-path={folder}"]
            words = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
            with _own_locale():
                status = self._library.nvrtcCompileProgram(program, len(options), words)
            if status:
                log = self._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace").strip()
                raise DeviceError(f"{where}: the kernels do not compile\n{log}")
            return self._read(program, "CUBIN")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        data = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, data))
        return data.raw

    def _check(self, status: Any) -> None:
        if status:
            raise DeviceError(f"NVRTC: {self._library.nvrtcGetErrorString(status).decode()}")


@contextlib.contextmanager
def _own_locale() -> Iterator[None]:
    """NVRTC 11.8 leaves its thread in the C locale, in which Python would read files as ASCII from then on."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "uselocale"):
        yield
        return
    libc.uselocale.restype, libc.uselocale.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    ours = libc.uselocale(None)
    try:
        yield
    finally:
        libc.uselocale(ours)


def libraries() -> list[Path]:
    """The NVRTC libraries that Python packages have installed, newest first."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(p) for p in spec.submodule_search_locations or ()] if spec else []
    found = [p for root in roots for p in root.glob("*/lib/libnvrtc.so.*")]
    return sorted(found, key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)], reverse=True)


def newest(architecture: int) -> Nvrtc:
    """The newest installed version that compiles for this compute capability, times ten."""
    known = [Nvrtc(path) for path in libraries()]
    if not known:
        raise DeviceError(f"NVRTC, which compiles kernels for a GPU, is not installed; {INSTALL}")
    for one in known:
        if architecture in one.architectures:
            return one
    versions = ", ".join("{}.{}".format(*one.version) for one in known)
    raise DeviceError(f"NVRTC {versions}: none compiles for sm_{architecture}; install another version of it")
