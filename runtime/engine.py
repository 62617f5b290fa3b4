"""Runs engines on an NVIDIA GPU: buffers bound by name, caches that swap from frame to frame, CUDA graphs.

A bundle has a copy of this file and of cudart.py, which stand alone: they need TensorRT's Python package, numpy and the
CUDA runtime library, which JetPack and every TensorRT installation bring.
"""

from __future__ import annotations  # JetPack 5 has Python 3.8

import ctypes
import hashlib
import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import tensorrt as trt

    from fluxcompile.runtime.cudart import TO_DEVICE, TO_HOST, Cuda, EngineError

    Array = npt.NDArray[Any]
else:
    try:
        from fluxcompile.runtime.cudart import TO_DEVICE, TO_HOST, Cuda, EngineError
    except ImportError:  # on the target, alone
        from cudart import TO_DEVICE, TO_HOST, Cuda, EngineError

DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}
"""Of numpy, by the names of TensorRT; its own table breaks with newer numpys."""
LIBRARIES = {
    "tensorrt": "on a Jetson: sudo apt install python3-libnvinfer; elsewhere: pip install tensorrt, of the version the "
    "manifest names",
    "tensorrt_rtx": "pip install tensorrt-rtx",
}
"""What runs engines, by the package's name, and where it comes from."""


def library(name: str) -> Any:
    """TensorRT's Python package, or that of TensorRT for RTX."""
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise EngineError(f"{name}, a Python package, cannot be loaded ({e}); {LIBRARIES[name]}") from e


def digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle whose files are those it was written with."""
    path = folder / "manifest.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        files = found["files"]
    except (OSError, ValueError, KeyError) as e:
        raise EngineError(f"{path}: is missing, truncated or altered ({e}); export the program again") from e
    for name, was in files.items():
        if not (folder / name).is_file() or digest(folder / name) != was:
            raise EngineError(f"{folder / name}: is missing or was altered; copy or export the bundle again")
    return found


def load_plugins(folder: Path) -> None:
    """Register the plugins, which does itself when their library is loaded."""
    path = folder / "plugin" / "build" / "libflux_plugins.so"
    if not path.is_file():
        raise EngineError(
            f"{path}: is not there; build it: cmake -S plugin -B plugin/build && cmake --build plugin/build"
        )
    try:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as e:
        raise EngineError(f"{path}: cannot be loaded ({e}); build it again, on this machine") from e


def require_match(made: Mapping[str, Any], version: str, capability: int, path: Path) -> None:
    """An engine runs where it was built: the same TensorRT, the same kind of GPU."""
    if made["version"] != version:
        raise EngineError(
            f"{path}: built with {made['library']} {made['version']}, this is {version}; run build_engine.py here"
        )
    if made["sm"] != capability:
        raise EngineError(f"{path}: built for sm_{made['sm']}, this GPU is sm_{capability}; run build_engine.py here")
    if digest(path) != made["sha256"].get(path.name):
        raise EngineError(f"{path}: is truncated or was altered; run build_engine.py again")


class Loaded:
    """An engine and what it runs with. With `recorded`, its work is recorded once for either turn of the buffers."""

    def __init__(self, path: Path, runtime: trt.Runtime, cuda: Cuda, recorded: bool) -> None:
        engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise EngineError(f"{path}: TensorRT cannot load it (its log says why); run build_engine.py again")
        context: trt.IExecutionContext | None = engine.create_execution_context()
        if context is None:
            raise EngineError(f"{path}: TensorRT cannot make room for it; free memory on the GPU")
        self._kept = runtime, engine  # which the context needs for as long as it lives
        self.context: trt.IExecutionContext = context
        self.types: dict[str, tuple[Any, tuple[int, ...]]] = {}
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            dtype: trt.DataType = engine.get_tensor_dtype(name)
            self.types[name] = (np.dtype(DTYPES[dtype.name]), tuple(engine.get_tensor_shape(name)))
        self._path, self._cuda, self._recorded = path, cuda, recorded
        self._graphs: dict[int, int] = {}
        self._runs = 0

    def bind(self, name: str, pointer: int) -> None:
        if name in self.types:
            self.context.set_tensor_address(name, pointer)

    def enqueue(self, turn: int) -> None:
        """Begin a frame; `turn` says which way round the buffers of the caches lie."""
        self._runs += 1
        if turn in self._graphs:
            self._cuda.launch(self._graphs[turn])
            return
        # the first runs are as they are: an engine may still allocate, which cannot be recorded
        if not self._recorded or self._runs <= 2:
            self._run()
            return
        self._cuda.begin_capture()
        try:
            self._run()
        finally:
            self._graphs[turn] = self._cuda.end_capture()
        self._cuda.launch(self._graphs[turn])

    def _run(self) -> None:
        if not self.context.execute_async_v3(self._cuda.stream):
            raise EngineError(f"{self._path}: TensorRT could not run a frame; its log says why")


class Session:
    """One camera on the GPU: engines, buffers, and the state they hold.

    engine.plan takes any frame. fixed.plan, where the bundle has one, has lists of fixed length: nothing waits for the
    host, and the work of a frame is recorded and replayed. It says when a frame does not fit; engine.plan then runs
    that frame again, from the same caches. Every cache has two buffers that swap their parts after each frame: an
    engine may write outputs before it has read all inputs.
    """

    def __init__(self, folder: str | Path, cuda: Cuda | None = None) -> None:
        folder = Path(folder)
        self.manifest = manifest_of(folder)
        names = ["engine.plan", *(["fixed.plan"] if self.manifest["capacity"] else [])]
        for name in (*names, "engine.json"):
            if not (folder / name).is_file():
                raise EngineError(f"{folder / name}: is not there; run build_engine.py on this machine first")
        made = json.loads((folder / "engine.json").read_text())
        module = library(made["library"])
        self.cuda = cuda or Cuda()
        for name in names:
            require_match(made, module.__version__, self.cuda.capability(), folder / name)
        self._logger: trt.Logger = module.Logger(module.Logger.WARNING)
        if made["library"] == "tensorrt":  # the other spells out what they do
            load_plugins(folder)
        runtime: trt.Runtime = module.Runtime(self._logger)
        loaded = [Loaded(folder / name, runtime, self.cuda, name == "fixed.plan") for name in names]
        self._any, self._fixed = loaded[0], (loaded[1] if len(loaded) > 1 else None)
        self._caches = [tuple(pair) for pair in self.manifest["caches"]]
        self._types = {name: kind for each in loaded for name, kind in each.types.items()}
        wanted = {t["name"] for t in (*self.manifest["inputs"], *self.manifest["outputs"])}
        if set(self._any.types) != wanted:
            odd = sorted(set(self._any.types) ^ wanted)
            raise EngineError(f"the engine's inputs and outputs are not the manifest's: {odd}; build it again")
        self._make_buffers()
        self.frame = 0
        self.overflows = 0

    def _make_buffers(self) -> None:
        """Memory on the device for every tensor, and on the host for what comes from there or goes there."""
        cached = {name for name, _ in self._caches}
        self._fed = [t["name"] for t in self.manifest["inputs"] if t["name"] not in cached]
        self._results = list(dict.fromkeys(self.manifest["results"]))
        self._counts = [self.manifest["work"]] if self.manifest["work"] else []
        self._fresh = next((t["name"] for t in self.manifest["inputs"] if t["role"] == "fresh"), "")
        told = [self.manifest[n] for n in ("overflow", "work") if self.manifest[n]]
        self._host = {n: np.zeros(self._types[n][1], self._types[n][0]) for n in (*self._fed, *self._results, *told)}
        self._device: dict[str, int] = {}
        for name in self._types:
            self._place(name, self.cuda.allocate(self._bytes(name)))

    def _place(self, name: str, pointer: int) -> None:
        self._device[name] = pointer
        for each in (self._any, self._fixed):
            if each is not None:
                each.bind(name, pointer)

    def _bytes(self, name: str) -> int:
        dtype, shape = self._types[name]
        return int(np.prod(shape)) * int(dtype.itemsize)

    @property
    def counts(self) -> Array:
        """How many entries each list of the last frame had; `layers` of the manifest says what they are of."""
        return self._host[self._counts[0]] if self._counts else np.zeros(0, np.float32)

    @property
    def state_bytes(self) -> int:
        """Device memory of the caches."""
        return sum(self._bytes(name) for pair in self._caches for name in pair)

    def __call__(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """The results of a frame, copies; `feed` holds every input that is no cache."""
        for name in self._fed:
            host = self._host[name]
            np.copyto(host, feed[name].reshape(host.shape), casting="same_kind")
            self.cuda.copy(self._device[name], host.ctypes.data, host.nbytes, TO_DEVICE)
        if self._fixed is None or (self._fresh and feed[self._fresh].any()) or not self._fits(self._fixed):
            self._any.enqueue(self.frame % 2)
            self._fetch([*self._results, *self._counts])
        found = {name: self._host[name].copy() for name in self._results}
        for cache, value in self._caches:  # what this frame left is what the next one finds
            one, other = self._device[cache], self._device[value]
            self._place(cache, other)
            self._place(value, one)
        self.frame += 1
        return found

    def _fits(self, fixed: Loaded) -> bool:
        """Run the frame with lists of fixed length; whether they were long enough."""
        fixed.enqueue(self.frame % 2)
        flag = self.manifest["overflow"]
        self._fetch([*self._results, *self._counts, *([flag] if flag else [])])
        if flag and self._host[flag].any():
            self.overflows += 1
            return False
        return True

    def _fetch(self, names: list[str]) -> None:
        for name in names:
            host = self._host[name]
            self.cuda.copy(host.ctypes.data, self._device[name], host.nbytes, TO_HOST)
        self.cuda.wait()

    def close(self) -> None:
        for pointer in self._device.values():
            self.cuda.free(pointer)
        self._device = {}


if __name__ == "__main__":
    sys.exit("this is a library; run.py and build_engine.py are the programs")
