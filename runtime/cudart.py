"""The CUDA runtime, called through ctypes: the dozen calls that moving frames to an engine and back takes.

Neither pycuda, which builds only where there is a CUDA toolkit, nor cuda-python is on a Jetson; the library is. A
bundle has a copy of this file, which stands alone.
"""

from __future__ import annotations  # JetPack 5 has Python 3.8

import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fluxcompile.errors import EngineError as EngineError
else:
    try:
        from fluxcompile.errors import EngineError
    except ImportError:  # on the target, alone

        class EngineError(Exception):
            """An engine cannot be built, loaded or run here."""


CUDA_RUNTIME = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2")
CUDA_FOLDERS = ("", "/usr/local/cuda/lib64/")
TO_DEVICE, TO_HOST = 1, 2
MAJOR, MINOR = 75, 76
"""Of a compute capability, as attributes of a device."""


class Cuda:
    """The few calls of the CUDA runtime that moving frames takes."""

    def __init__(self, library: str = "") -> None:
        names = [library] if library else [folder + name for name in CUDA_RUNTIME for folder in CUDA_FOLDERS]
        self._library = self._loaded(names)
        self.stream = self._pointer("cudaStreamCreate")

    def _loaded(self, names: list[str]) -> ctypes.CDLL:
        for name in names:
            try:
                return ctypes.CDLL(name)
            except OSError:
                continue
        raise EngineError(
            f"the CUDA runtime cannot be loaded ({', '.join(names)}); install CUDA, or set LD_LIBRARY_PATH"
        )

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            say = self._library.cudaGetErrorString
            say.restype = ctypes.c_char_p
            raise EngineError(f"{name}: {(say(code) or b'unknown error').decode()} ({code})")

    def _pointer(self, name: str, *arguments: Any) -> int:
        found = ctypes.c_void_p()
        self.call(name, ctypes.byref(found), *arguments)
        return found.value or 0

    def allocate(self, size: int) -> int:
        """Device memory, all zero."""
        found = self._pointer("cudaMalloc", ctypes.c_size_t(max(size, 1)))
        self.call("cudaMemset", ctypes.c_void_p(found), 0, ctypes.c_size_t(max(size, 1)))
        return found

    def free(self, pointer: int) -> None:
        self.call("cudaFree", ctypes.c_void_p(pointer))

    def copy(self, to: int, source: int, size: int, kind: int) -> None:
        """Begin to copy; `kind` is TO_DEVICE or TO_HOST."""
        pointers = ctypes.c_void_p(to), ctypes.c_void_p(source)
        self.call("cudaMemcpyAsync", *pointers, ctypes.c_size_t(size), kind, ctypes.c_void_p(self.stream))

    def wait(self) -> None:
        self.call("cudaStreamSynchronize", ctypes.c_void_p(self.stream))

    def capability(self) -> int:
        """Of this GPU, 87 for 8.7."""
        found = []
        for attribute in (MAJOR, MINOR):
            value = ctypes.c_int()
            self.call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, 0)
            found.append(value.value)
        return 10 * found[0] + found[1]

    def free_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def begin_capture(self) -> None:
        self.call("cudaStreamBeginCapture", ctypes.c_void_p(self.stream), 2)  # relaxed: TensorRT may allocate

    def end_capture(self) -> int:
        graph = ctypes.c_void_p()
        self.call("cudaStreamEndCapture", ctypes.c_void_p(self.stream), ctypes.byref(graph))
        made = self._pointer("cudaGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))
        self.call("cudaGraphDestroy", graph)
        return made

    def launch(self, graph: int) -> None:
        self.call("cudaGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(self.stream))
