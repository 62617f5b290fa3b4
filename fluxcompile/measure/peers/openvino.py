"""A model in OpenVINO, set up for one frame at a time."""

import importlib
from typing import Any

from fluxcompile.measure.peers.model import Model, quiet
from fluxcompile.measure.peers.peer import Infer


def open_openvino(model: Model, threads: int) -> Infer:
    return run(read(model), model, threads)


def read(model: Model) -> Any:
    """OpenVINO's own form of the model, for frames of one shape."""
    ov: Any = importlib.import_module("openvino")
    core = ov.Core()
    try:
        found = core.read_model(model.onnx if isinstance(model.onnx, bytes) else str(model.onnx))
    except Exception:
        if model.suffix == ".onnx":
            raise
        with quiet():
            found = ov.convert_model(model.exported)
    found.reshape({port: list(frame.shape) for port, frame in zip(found.inputs, model.frames, strict=True)})
    return found


def run(found: Any, model: Model, threads: int) -> Infer:
    """What runs OpenVINO's form of the model on its frames."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # where a processor has bfloat16 the default is that: another task
        "ENABLE_CPU_PINNING": False,  # nobody else here is tied to a core either
    }
    compiled = importlib.import_module("openvino").Core().compile_model(found, "CPU", settings)
    request = compiled.create_infer_request()
    given = dict(enumerate(model.frames))

    def infer() -> Any:
        request.infer(given, share_inputs=True, share_outputs=True)
        return [request.get_output_tensor(i).data for i in range(len(compiled.outputs))]

    return infer
