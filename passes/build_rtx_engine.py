"""Build an engine ahead of time with TensorRT for RTX, which needs no GPU and knows no plugins.

    flux.halo_gather(%x, %tiles)  ->  Shape, Gather, Where, ...

Functions are inlined first. Left alone: lists as long as what they hold, which it has no NonZero for; lower with a
capacity.
"""

from dataclasses import dataclass
from typing import Any

import onnx
import onnx.inliner

from fluxcompile.errors import EngineError


@dataclass(frozen=True)
class Built:
    """An engine for one compute capability, and of how many layers the parser made it."""

    engine: bytes
    layers: int


def build_rtx_engine(model: onnx.ModelProto, sm: int) -> Built:
    """Raise EngineError with the parser's or builder's own words where it refuses the model."""
    trt = tensorrt_rtx()
    kept = _Log(trt)
    builder = trt.Builder(kept.logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, kept.logger)
    if not parser.parse(onnx.inliner.inline_local_functions(model).SerializeToString()):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f"TensorRT for RTX {trt.__version__} does not take the graph: {errors}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineError(f"TensorRT for RTX {trt.__version__} built no engine for sm_{sm}: {'; '.join(kept.lines)}")
    return Built(bytes(engine), network.num_layers)


def tensorrt_rtx() -> Any:
    try:
        import tensorrt_rtx
    except ImportError as e:
        raise EngineError(f"TensorRT for RTX is not installed ({e}); pip install fluxcompile[rtx]") from e
    return tensorrt_rtx


class _Log:
    """Keeps what the library has to say of errors."""

    def __init__(self, trt: Any) -> None:
        lines: list[str] = []

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity <= trt.ILogger.Severity.ERROR:
                    lines.append(message)

        self.lines, self.logger = lines, Logger()
