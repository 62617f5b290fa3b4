"""Dense peers: the same model in OpenVINO, ONNX Runtime and torch, in float32, batch 1, on as many threads.

OpenVINO and ONNX Runtime get the .onnx file as it is, or the export of the torch module; torch gets the module, of an
.onnx file our import of it, and of a program that is compiled already its dense graph. Each library is set up as well
as it can be for one frame at a time: that is who we are held against. On a GPU that is torch, from host memory to host
memory, as a stream's frames come and go.
"""

import copy
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fluxcompile.errors import OptionError, in_a_line
from fluxcompile.measure.peers.model import Array, Model, quiet
from fluxcompile.measure.peers.openvino import open_openvino
from fluxcompile.measure.peers.peer import Infer, Peer, arrays, difference, peer_run

__all__ = ["PEERS", "Array", "Infer", "Model", "Peer", "arrays", "difference", "open_peers", "peer_run", "peers_of"]

DISAGREEING = 1e-2
"""A peer whose outputs lie further from ours than this share of their range computes something else."""


def open_peers(
    model: Model, threads: int, ours: Sequence[Array], wanted: Sequence[str] | None = None, backend: str = "cpu"
) -> Iterator[Peer]:
    """Each peer, run once and held against our outputs. One that is missing is an error only if it was asked for.

    backend: of the stream they are timed beside, whose peers are opened where none are asked for.
    """
    unknown = [name for name in wanted or () if name not in PEERS]
    if unknown:
        raise OptionError(f"no peer is called {', '.join(unknown)}; there are {', '.join(PEERS)}")
    for name in wanted or peers_of(backend):
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
    with quiet():
        infer()
    return infer


def _torch_cuda(model: Model, threads: int) -> Infer:
    import torch

    device = torch.device("cuda", torch.cuda.current_device())
    run = _without_gradients(copy.deepcopy(model.module).to(device), ())

    def infer() -> Any:
        return [x.cpu() for x in run(*(tensor.to(device) for tensor in model.tensors))]

    return infer


PEERS: dict[str, tuple[str, Callable[[Model, int], Infer]]] = {
    "openvino": ("openvino", open_openvino),
    "onnxruntime": ("onnxruntime", _onnxruntime),
    "torch.compile": ("torch", _torch_compile),
    "torch": ("torch", _torch),
    "torch-cuda": ("torch", _torch_cuda),
}
"""What each peer is called, the package it needs, and what opens a model in it."""


def peers_of(backend: str) -> list[str]:
    """Those that compute where a backend does."""
    return [name for name in PEERS if name.endswith("-cuda") == (backend == "cuda")]


def _without_gradients(module: Any, tensors: Sequence[Any]) -> Infer:
    import torch

    def infer(*given: Any) -> Any:
        with torch.no_grad():
            return module(*(given or tensors))

    return infer
