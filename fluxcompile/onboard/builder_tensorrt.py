"""TensorRT as a builder, of graphs with plugins: its version, its flags, and what may run in fewer bits."""

from __future__ import annotations  # JetPack 5 has Python 3.8

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt as trt

    from fluxcompile.runtime.cudart import EngineError
else:
    from cudart import EngineError

LIBRARY = "tensorrt"
GRAPHS = {"engine.plan": "plugin.onnx", "fixed.plan": "fixed.onnx"}


def require_version(target: dict[str, Any], version: str) -> None:
    found, wanted = ([int(n) for n in v.split(".")[:2]] for v in (version, target["tensorrt"]))
    if found[0] != wanted[0] or found < wanted:
        raise EngineError(
            f"TensorRT {version} is here, this bundle is for {target['tensorrt']} and later {wanted[0]}.x; "
            f"export it for a target with {found[0]}.x, or install {target['software']}"
        )


def network_flags(module: Any) -> int:
    """Explicit batch, which is all there is from TensorRT 10 on."""
    if int(module.__version__.split(".")[0]) >= 10:
        return 0
    return 1 << int(module.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)


def configure(
    module: Any,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    manifest: dict[str, Any],
    capability: int,
) -> None:
    """What may run in fewer bits: all but what the manifest keeps. Eight bits are in the graph itself.

    It builds for the GPU that is here, whatever the capability.
    """
    config.clear_flag(module.BuilderFlag.TF32)
    if manifest["precision"] == "fp32":
        return
    config.set_flag(module.BuilderFlag.FP16)
    config.set_flag(module.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    if manifest["precision"] == "int8":
        config.set_flag(module.BuilderFlag.INT8)
    wide = {name for name, kept in manifest["kept"].items() if kept["precision"] == "fp32"}
    for i in range(network.num_layers):
        layer: trt.ILayer = network.get_layer(i)
        outputs = [layer.get_output(j) for j in range(layer.num_outputs)]
        is_float = all(tensor is not None and tensor.dtype == module.float32 for tensor in outputs)
        if layer.name.split("/")[0] in wide and is_float and layer.type != module.LayerType.CONSTANT:
            layer.precision = module.float32
            for j in range(layer.num_outputs):  # or the result would be kept in fewer bits after all
                layer.set_output_type(j, module.float32)
    half = {t["name"] for t in (*manifest["inputs"], *manifest["outputs"]) if t["half"]}
    bound = [network.get_input(i) for i in range(network.num_inputs)]
    bound += [network.get_output(i) for i in range(network.num_outputs)]
    for each in bound:
        tensor: trt.ITensor = each
        if tensor.name in half:
            tensor.dtype = module.float16
            tensor.allowed_formats = 1 << int(module.TensorFormat.LINEAR)
