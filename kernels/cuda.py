"""Device kernels on an NVIDIA GPU: compiled by NVRTC for the GPU found, launched by its driver on streams of torch.

Neither a CUDA toolkit nor a compiler of one's own is needed, only torch's CUDA build.
"""

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from fluxcompile.errors import DeviceError
from fluxcompile.kernels.device import THREADS, Attributes, Described, kernels, plan
from fluxcompile.kernels.nvrtc import newest

DRIVER = "libcuda.so.1"


class Driver:
    """The calls of the CUDA driver that kernels need; the context is the one that torch made current."""

    def __init__(self, library: Any = None) -> None:
        try:
            self._library = library or ctypes.CDLL(DRIVER)
        except OSError as e:
            raise DeviceError(f"the CUDA driver does not load ({e}); install NVIDIA's driver") from e

    def load(self, cubin: bytes) -> ctypes.c_void_p:
        """A module of kernels; the driver keeps it for as long as the process lives."""
        module = ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), cubin)
        return module

    def function(self, module: ctypes.c_void_p, name: str) -> ctypes.c_void_p:
        found = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(found), module, name.encode())
        return found

    def launch(
        self, function: ctypes.c_void_p, blocks: tuple[int, int], shared_bytes: int, arguments: bytes, stream: int
    ) -> None:
        """One kernel of one argument, a structure, which the driver copies."""
        structure = ctypes.create_string_buffer(arguments, len(arguments))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(structure))
        grid, block = (*blocks, 1), (THREADS, 1, 1)
        sizes = [ctypes.c_uint(n) for n in (*grid, *block, shared_bytes)]
        self._call("cuLaunchKernel", function, *sizes, ctypes.c_void_p(stream), pointers, None)

    def copy(self, to: int, source: int, size_bytes: int, stream: int) -> None:
        self._call(
            "cuMemcpyDtoDAsync_v2",
            ctypes.c_uint64(to),
            ctypes.c_uint64(source),
            ctypes.c_size_t(size_bytes),
            ctypes.c_void_p(stream),
        )

    def _call(self, name: str, *args: Any) -> None:
        status = getattr(self._library, name)(*args)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            raise DeviceError(f"{name}: {(text.value or b'unknown error').decode()} (CUDA error {status})")


class CudaRunner:
    """Runs planned steps on the current stream, in order; nothing waits for the GPU."""

    def __init__(self, driver: Driver, cubin: bytes, stream: Callable[[], int]) -> None:
        self._driver, self._stream = driver, stream
        self._module = driver.load(cubin)
        self._functions: dict[str, ctypes.c_void_p] = {}

    def __call__(
        self, op: str, attributes: Attributes, inputs: list[Described], outputs: list[Described], workspace: int
    ) -> None:
        stream = self._stream()
        for step in plan(op, attributes, inputs, outputs, workspace):
            if len(step) == 3:
                self._driver.copy(*step, stream)
                continue
            name, blocks_x, blocks_y, shared_bytes, arguments = step
            if name not in self._functions:
                self._functions[name] = self._driver.function(self._module, name)
            self._driver.launch(self._functions[name], (blocks_x, blocks_y), shared_bytes, arguments, stream)


def cuda_device() -> torch.device:
    """The GPU that torch has chosen; DeviceError where there is none."""
    if not torch.version.cuda:
        raise DeviceError(
            f"backend 'cuda': this torch ({torch.__version__}) is a build without CUDA; install a build with it, "
            "or use backend='cpu'"
        )
    if not torch.cuda.is_available():
        raise DeviceError("backend 'cuda': torch finds no NVIDIA GPU and driver here; use backend='cpu'")
    return torch.device("cuda", torch.cuda.current_device())


@lru_cache
def cuda_kernels(device: torch.device) -> dict[str, Callable[..., Any]]:
    """Every row of the op table that has kernels, by them on this GPU; compiled once a process."""
    major, minor = torch.cuda.get_device_capability(device)
    architecture = 10 * major + minor
    cubin = newest(architecture).compile("kernels.cuh", architecture)
    torch.zeros(1, device=device)  # makes torch's context, into which the driver loads
    return kernels(CudaRunner(Driver(), cubin, lambda: torch.cuda.current_stream(device).cuda_stream))
