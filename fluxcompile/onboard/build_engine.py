"""Builds the engines of this bundle on the machine they are to run on.

    python3 build_engine.py

Needs TensorRT's Python package, numpy, and the plugins built: cmake -S plugin -B plugin/build && cmake --build
plugin/build. Writes engine.plan, fixed.plan where the bundle has fixed.onnx, and engine.json, which says what they were
built with.
"""

from __future__ import annotations  # JetPack 5 has Python 3.8

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt as trt

    from fluxcompile.runtime.cudart import Cuda, EngineError
    from fluxcompile.runtime.engine import digest, load_plugins, manifest_of, tensorrt
else:
    from cudart import Cuda, EngineError
    from engine import digest, load_plugins, manifest_of, tensorrt

HERE = Path(__file__).resolve().parent


def main() -> None:
    asked = argparse.ArgumentParser(description="Build this bundle's engines for the GPU that is here.")
    asked.add_argument("--workspace-mib", type=int, default=0, help="memory for tactics, instead of the manifest's")
    asked.add_argument("--force", action="store_true", help="build though the memory seems not to suffice")
    given = asked.parse_args()
    try:
        build(given.workspace_mib << 20, given.force)
    except EngineError as error:
        sys.exit(f"error: {error}")


def build(workspace_bytes: int, force: bool) -> None:
    manifest = manifest_of(HERE)
    module = tensorrt()
    cuda = Cuda()
    capability = cuda.capability()
    require_version(manifest["target"], module.__version__)
    require_gpu(manifest["target"], capability)
    require_memory(manifest["memory"], cuda.free_bytes(), force)
    logger: trt.Logger = module.Logger(module.Logger.INFO)
    load_plugins(HERE)
    graphs = {"engine.plan": "plugin.onnx", **({"fixed.plan": "fixed.onnx"} if manifest["capacity"] else {})}
    for name, graph in graphs.items():
        plan = plan_of(module, logger, graph, workspace_bytes, manifest)
        (HERE / name).write_bytes(plan)
        print(f"wrote {HERE / name} ({len(plan) / 1e6:.1f} MB) for sm_{capability}, TensorRT {module.__version__}")
    about = {
        "tensorrt": module.__version__,
        "sm": capability,
        "precision": manifest["precision"],
        "sha256": {name: digest(HERE / name) for name in graphs},
    }
    (HERE / "engine.json").write_text(json.dumps(about, indent=1) + "\n")


def plan_of(module: Any, logger: trt.Logger, graph: str, workspace_bytes: int, manifest: dict[str, Any]) -> bytes:
    """The engine of a graph, as bytes."""
    builder: trt.Builder = module.Builder(logger)
    network: trt.INetworkDefinition = builder.create_network(flags(module))
    parser: trt.OnnxParser = module.OnnxParser(network, logger)
    if not parser.parse_from_file(str(HERE / graph)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f"{graph}: TensorRT {module.__version__} does not take it: {errors}")
    config: trt.IBuilderConfig = builder.create_builder_config()
    room = workspace_bytes or manifest["memory"]["workspace_bytes"]
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, room)
    set_precision(module, network, config, manifest)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{graph}: TensorRT could not build the engine; its log says why")
    return bytes(plan)


def flags(module: Any) -> int:
    """Explicit batch, which is all there is from TensorRT 10 on."""
    if int(module.__version__.split(".")[0]) >= 10:
        return 0
    return 1 << int(module.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)


def require_version(target: dict[str, Any], version: str) -> None:
    found, wanted = ([int(n) for n in v.split(".")[:2]] for v in (version, target["tensorrt"]))
    if found[0] != wanted[0] or found < wanted:
        raise EngineError(
            f"TensorRT {version} is here, this bundle is for {target['tensorrt']} and later {wanted[0]}.x; "
            f"export it for a target with {found[0]}.x, or install {target['software']}"
        )


def require_gpu(target: dict[str, Any], capability: int) -> None:
    if capability not in target["sm"]:
        names = ", ".join(f"sm_{n}" for n in target["sm"])
        raise EngineError(f"this GPU is sm_{capability}, the bundle is for {target['name']} ({names}); export it again")


def require_memory(memory: dict[str, int], free: int, force: bool) -> None:
    needed = sum(memory.values())
    print(f"needs about {needed / 2**20:.0f} MiB on the GPU, {memory['state_bytes'] / 2**20:.0f} of them caches; "
          f"{free / 2**20:.0f} MiB are free")  # fmt: skip
    if needed > free and not force:
        raise EngineError("the GPU has too little memory free; end other programs, try --force, or export in fp16")


def set_precision(
    module: Any, network: trt.INetworkDefinition, config: trt.IBuilderConfig, manifest: dict[str, Any]
) -> None:
    """What may run in fewer bits: all but what the manifest keeps. Eight bits are in the graph itself."""
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


if __name__ == "__main__":
    main()
