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
    asked.add_argument("--precision", choices=("fp32", "fp16", "int8"), help="instead of the manifest's")
    asked.add_argument("--workspace-mib", type=int, default=0, help="memory for tactics, instead of the manifest's")
    asked.add_argument("--force", action="store_true", help="build though the memory seems not to suffice")
    given = asked.parse_args()
    try:
        build(given.precision, given.workspace_mib << 20, given.force)
    except EngineError as error:
        sys.exit(f"error: {error}")


def build(precision: str | None, workspace_bytes: int, force: bool) -> None:
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
        plan = plan_of(module, logger, graph, precision or manifest["precision"], workspace_bytes, manifest)
        (HERE / name).write_bytes(plan)
        print(f"wrote {HERE / name} ({len(plan) / 1e6:.1f} MB) for sm_{capability}, TensorRT {module.__version__}")
    about = {
        "tensorrt": module.__version__,
        "sm": capability,
        "precision": precision or manifest["precision"],
        "sha256": {name: digest(HERE / name) for name in graphs},
    }
    (HERE / "engine.json").write_text(json.dumps(about, indent=1) + "\n")


def plan_of(
    module: Any, logger: trt.Logger, graph: str, precision: str, workspace_bytes: int, manifest: dict[str, Any]
) -> bytes:
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
    set_precision(module, network, config, precision, manifest)
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
        raise EngineError("the GPU has too little memory free; end other programs, or try --force or fp16")


def set_precision(
    module: Any,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    precision: str,
    manifest: dict[str, Any],
) -> None:
    """What may run in fewer bits. Masks, motion, norms and the reference image stay float32 and exact."""
    config.clear_flag(module.BuilderFlag.TF32)
    if precision == "fp32":
        return
    config.set_flag(module.BuilderFlag.FP16)
    config.set_flag(module.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    exact = set(manifest["float_layers"])
    for i in range(network.num_layers):
        layer: trt.ILayer = network.get_layer(i)
        outputs = [layer.get_output(j) for j in range(layer.num_outputs)]
        is_float = all(tensor is not None and tensor.dtype == module.float32 for tensor in outputs)
        if layer.name.split("/")[0] in exact and is_float and layer.type != module.LayerType.CONSTANT:
            layer.precision = module.float32
    half = {t["name"] for t in (*manifest["inputs"], *manifest["outputs"]) if t["half"]}
    bound = [network.get_input(i) for i in range(network.num_inputs)]
    bound += [network.get_output(i) for i in range(network.num_outputs)]
    for each in bound:
        tensor: trt.ITensor = each
        if tensor.name in half:
            tensor.dtype = module.float16
            tensor.allowed_formats = 1 << int(module.TensorFormat.LINEAR)
    if precision == "int8":
        set_ranges(module, network, config, manifest)


def set_ranges(
    module: Any, network: trt.INetworkDefinition, config: trt.IBuilderConfig, manifest: dict[str, Any]
) -> None:
    """The largest magnitude of each tensor over the clip the bundle was exported with."""
    ranges = manifest["ranges"]
    if not ranges:
        raise EngineError("int8 needs ranges; export again with --precision int8 and --clip, a clip like yours")
    config.set_flag(module.BuilderFlag.INT8)
    for i in range(network.num_inputs):
        _set_range(network.get_input(i), ranges)
    for i in range(network.num_layers):
        layer: trt.ILayer = network.get_layer(i)
        for j in range(layer.num_outputs):
            _set_range(layer.get_output(j), ranges)


def _set_range(tensor: trt.ITensor | None, ranges: dict[str, float]) -> None:
    if tensor is not None and tensor.name in ranges:
        most = ranges[tensor.name]
        tensor.set_dynamic_range(-most, most)


if __name__ == "__main__":
    main()
