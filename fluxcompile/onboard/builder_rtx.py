"""TensorRT for RTX as a builder, of graphs that spell out the plugins: its version, and the GPU that it builds for."""

from __future__ import annotations  # JetPack 5 has Python 3.8

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt_rtx as trt

    from fluxcompile.runtime.cudart import EngineError
else:
    from cudart import EngineError

LIBRARY = "tensorrt_rtx"
GRAPHS = {"engine.plan": "rtx.onnx", "fixed.plan": "rtx_fixed.onnx"}
LEAST = (1, 7)
"""The version whose parser took such graphs where they were made."""


def require_version(target: dict[str, Any], version: str) -> None:
    found = tuple(int(n) for n in version.split(".")[:2])
    if found[0] != LEAST[0] or found < LEAST:
        least = ".".join(map(str, LEAST))
        raise EngineError(
            f"TensorRT for RTX {version} is here, this bundle for {target['name']} takes {least} and later "
            f"{LEAST[0]}.x; pip install 'tensorrt-rtx>={least},<{LEAST[0] + 1}'"
        )


def network_flags(module: Any) -> int:
    """None: types are always those of the graph."""
    return 0


def configure(
    module: Any,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    manifest: dict[str, Any],
    capability: int,
) -> None:
    """Build for the GPU that is here, in whole float32."""
    config.clear_flag(module.BuilderFlag.TF32)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(module.ComputeCapability, f"SM{capability}"), 0)
    if manifest["precision"] == "fp16":
        print("TensorRT for RTX has the types of the graph: this engine is float32, though the bundle is fp16")
