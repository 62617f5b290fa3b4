"""Dense peers: the same model in OpenVINO, ONNX Runtime and torch, in float32, batch 1, on as many threads.

OpenVINO and ONNX Runtime get the .onnx file as it is, or the export of the torch module; torch gets the module, of an
.onnx file our import of it, and of a program that is compiled already its dense graph. Each library is set up as well
as it can be for one frame at a time: that is who we are held against.
"""

import contextlib
import importlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxcompile.errors import OptionError, in_a_line
from fluxcompile.program import Program
from fluxcompile.timing import Run

Array = npt.NDArray[Any]
Infer = Callable[[], Any]
"""Runs the model once, on the frames it was opened with."""

DISAGREEING = 1e-2
"""A peer whose outputs lie further from ours than this share of their range computes something else."""


@dataclass
class Peer:
    """A library with the model open in it, or the reason why it is not."""

    name: str
    version: str | None = None
    infer: Infer | None = None
    reason: str = ""
    max_relative_error: float | None = None


def peer_run(infer: Infer) -> Run:
    """What takes a peer's turns."""
    return Run(lambda given: infer())


class Model:
    """The model in the forms that libraries take, each made when it is first asked for.

    `source` is a module, a path, or None where there is nothing but the program.
    """

    def __init__(self, source: Any, program: Program, frames: Sequence[Array]) -> None:
        self.source, self.program = source, program
        self.frames = tuple(np.ascontiguousarray(frame) for frame in frames)
        self.suffix = source.suffix if isinstance(source, Path) else ""

    @cached_property
    def tensors(self) -> tuple[Any, ...]:
        import torch

        return tuple(torch.from_numpy(frame) for frame in self.frames)

    @cached_property
    def module(self) -> Any:
        """A torch module that gives a flat tuple of tensors."""
        import torch

        if self.suffix == ".onnx":
            return _flat(self._import_onnx())
        if self.suffix == ".pt2":
            return _flat(_module(torch.export.load(self.source)))
        if isinstance(self.source, torch.nn.Module):
            return _flat(self.source)
        return _flat(_dense_graph(self.program, self.tensors))

    @cached_property
    def onnx(self) -> Path | bytes:
        """The file, or what the module is exported as."""
        if self.suffix == ".onnx":
            return Path(self.source)
        import torch

        with _quiet(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(self.module, self.tensors, path, dynamo=False)
            return path.read_bytes()

    @cached_property
    def exported(self) -> Any:
        import torch

        with _quiet():
            return torch.export.export(self.module, self.tensors, strict=False)

    def _import_onnx(self) -> Any:
        import onnx

        from fluxcompile.passes.import_onnx import import_onnx

        graph = onnx.load(str(self.source), load_external_data=False).graph
        weights = {tensor.name for tensor in graph.initializer}
        names = [value.name for value in graph.input if value.name not in weights]
        return import_onnx(self.source, shapes={n: f.shape for n, f in zip(names, self.frames, strict=True)})


def open_peers(
    model: Model, threads: int, ours: Sequence[Array], wanted: Sequence[str] | None = None
) -> Iterator[Peer]:
    """Each peer, run once and held against our outputs. One that is missing is an error only if it was asked for."""
    unknown = [name for name in wanted or () if name not in PEERS]
    if unknown:
        raise OptionError(f"no peer is called {', '.join(unknown)}; there are {', '.join(PEERS)}")
    for name in wanted or PEERS:
        package, opener = PEERS[name]
        peer = Peer(name)
        try:
            peer.version = str(importlib.import_module(package).__version__)
        except ModuleNotFoundError as error:
            if wanted or error.name != package:
                raise
            peer.reason = f"not installed; pip install 'fluxcompile[bench]' brings {package}"
            yield peer
            continue
        try:
            infer = opener(model, threads)
            peer.max_relative_error = difference(arrays(infer()), ours)
            peer.infer = infer
        except Exception as error:  # whatever keeps another library from running the model must not end the benchmark
            peer.reason = in_a_line(error)[:300]
        if peer.max_relative_error is not None and not peer.max_relative_error <= DISAGREEING:
            peer.infer = None
            peer.reason = f"its outputs differ from ours by {peer.max_relative_error:.1e} of their range"
        yield peer


def difference(got: Sequence[Array], want: Sequence[Array]) -> float:
    """The largest difference over the range of the output it is in; of whole numbers, the share that differs."""
    if [x.shape for x in got] != [x.shape for x in want]:
        raise ValueError(f"gives {[x.shape for x in got]}, ours are {[x.shape for x in want]}")
    worst = 0.0
    for one, two in zip(got, want, strict=True):
        if not two.size:
            continue
        if two.dtype.kind != "f":
            worst = max(worst, float((one != two).mean()))
            continue
        spread = float(two.max() - two.min()) or float(np.abs(two).max()) or 1.0
        error = float(np.abs(one.astype(np.float64) - two).max()) / spread
        worst = max(worst, error if error == error else float("inf"))
    return worst


def arrays(tree: Any) -> list[Array]:
    """The arrays of a tree of outputs, in order, as copies."""
    if isinstance(tree, Mapping):
        return [leaf for value in tree.values() for leaf in arrays(value)]
    if isinstance(tree, list | tuple):
        return [leaf for value in tree for leaf in arrays(value)]
    if tree is None:
        return []
    return [np.array(tree.detach().cpu().numpy() if hasattr(tree, "detach") else tree)]


def _openvino(model: Model, threads: int) -> Infer:
    ov: Any = importlib.import_module("openvino")
    core = ov.Core()
    try:
        found = core.read_model(model.onnx if isinstance(model.onnx, bytes) else str(model.onnx))
    except Exception:
        if model.suffix == ".onnx":
            raise
        with _quiet():
            found = ov.convert_model(model.exported)
    found.reshape({port: list(frame.shape) for port, frame in zip(found.inputs, model.frames, strict=True)})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # where a processor has bfloat16 the default is that: another task
        "ENABLE_CPU_PINNING": False,  # nobody else here is tied to a core either
    }
    compiled = core.compile_model(found, "CPU", settings)
    request = compiled.create_infer_request()
    given = dict(enumerate(model.frames))

    def infer() -> Any:
        request.infer(given, share_inputs=True, share_outputs=True)
        return [request.get_output_tensor(i).data for i in range(len(compiled.outputs))]

    return infer


def _onnxruntime(model: Model, threads: int) -> Infer:
    ort: Any = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or its threads take the next one's time
    given = model.onnx if isinstance(model.onnx, bytes) else str(model.onnx)
    session = ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    named = {port.name: frame for port, frame in zip(session.get_inputs(), model.frames, strict=True)}
    return lambda: session.run(None, named)


def _torch(model: Model, threads: int) -> Infer:
    return _without_gradients(model.module, model.tensors)


def _torch_compile(model: Model, threads: int) -> Infer:
    import torch

    torch._dynamo.reset()
    # freezing: weights are constants, packed once for the layer that uses them
    infer = _without_gradients(torch.compile(model.module, options={"freezing": True}), model.tensors)
    with _quiet():
        infer()
    return infer


PEERS: dict[str, tuple[str, Callable[[Model, int], Infer]]] = {
    "openvino": ("openvino", _openvino),
    "onnxruntime": ("onnxruntime", _onnxruntime),
    "torch.compile": ("torch", _torch_compile),
    "torch": ("torch", _torch),
}
"""What each peer is called, the package it needs, and what opens a model in it."""


def _without_gradients(module: Any, tensors: Sequence[Any]) -> Infer:
    import torch

    def infer() -> Any:
        with torch.no_grad():
            return module(*tensors)

    return infer


def _flat(module: Any) -> Any:
    """A module that gives the leaves of another's outputs: what every exporter understands."""
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *frames: Any) -> Any:
            return tuple(x for x in torch.utils._pytree.tree_leaves(self.module(*frames)) if x is not None)

    flat = Flat()
    flat.training = False  # an exporter would switch the whole back to training when it is done
    return flat


def _dense_graph(program: Program, tensors: Sequence[Any]) -> Any:
    """The dense graph of a program as a plain torch module."""
    import torch

    from fluxcompile.runtime.execute import Executor, constants

    run = Executor(program.graphs["dense"], constants(program))
    names = [i.name for i in program.graphs["dense"].inputs]

    class Graph(torch.nn.Module):
        def forward(self, *frames: Any) -> Any:
            outputs, _ = run(dict(zip(names, frames, strict=True)))
            return tuple(outputs)

    with _quiet():
        return _module(torch.export.export(Graph(), tuple(tensors), strict=False))


def _module(exported: Any) -> Any:
    """A plain module of an exported program: its own one refuses train() and eval(), which exporters call."""
    import torch

    module = exported.module()
    plain = torch.fx.GraphModule(module, module.graph)
    plain.training = False
    return plain


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters print and warn of; what matters of it is in their errors."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
