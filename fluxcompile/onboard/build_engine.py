"""Builds the engines of this bundle on the machine they are to run on.

    python3 build_engine.py
    python3 build_engine.py --rtx

Needs TensorRT's Python package, numpy, and the plugins built: cmake -S plugin -B plugin/build && cmake --build
plugin/build. With --rtx it needs TensorRT for RTX and no plugins. Writes engine.plan, fixed.plan where the bundle has a
capacity, and engine.json, which says what they were built with.
"""

from __future__ import annotations  # JetPack 5 has Python 3.8

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt as trt

    from fluxcompile.runtime.cudart import Cuda, EngineError
    from fluxcompile.runtime.engine import digest, library, load_plugins, manifest_of
else:
    from cudart import Cuda, EngineError
    from engine import digest, library, load_plugins, manifest_of

HERE = Path(__file__).resolve().parent


def main() -> None:
    asked = argparse.ArgumentParser(description="Build this bundle's engines for the GPU that is here.")
    asked.add_argument("--rtx", action="store_true", help="with TensorRT for RTX, which needs no plugins")
    asked.add_argument("--workspace-mib", type=int, default=0, help="memory for tactics, instead of the manifest's")
    asked.add_argument("--force", action="store_true", help="build though the memory seems not to suffice")
    given = asked.parse_args()
    try:
        build(given.rtx, given.workspace_mib << 20, given.force)
    except EngineError as error:
        sys.exit(f"error: {error}")


def build(rtx: bool, workspace_bytes: int, force: bool) -> None:
    manifest = manifest_of(HERE)
    how = importlib.import_module("builder_rtx" if rtx else "builder_tensorrt")
    plans = ["engine.plan", *(["fixed.plan"] if manifest["capacity"] else [])]
    require_graphs(manifest, [how.GRAPHS[name] for name in plans])
    module = library(how.LIBRARY)
    cuda = Cuda()
    capability = cuda.capability()
    how.require_version(manifest["target"], module.__version__)
    require_gpu(manifest["target"], capability)
    require_memory(manifest["memory"], cuda.free_bytes(), force)
    logger: trt.Logger = module.Logger(module.Logger.INFO)
    if not rtx:
        load_plugins(HERE)
    room = workspace_bytes or manifest["memory"]["workspace_bytes"]
    for name in plans:
        plan = plan_of(module, logger, how, how.GRAPHS[name], room, manifest, capability)
        (HERE / name).write_bytes(plan)
        size = f"{len(plan) / 1e6:.1f} MB"
        print(f"wrote {HERE / name} ({size}) for sm_{capability}, {how.LIBRARY} {module.__version__}")
    about = {
        "library": how.LIBRARY,
        "version": module.__version__,
        "sm": capability,
        "precision": manifest["precision"],
        "sha256": {name: digest(HERE / name) for name in plans},
    }
    (HERE / "engine.json").write_text(json.dumps(about, indent=1) + "\n")


def plan_of(
    module: Any,
    logger: trt.Logger,
    how: Any,
    graph: str,
    workspace_bytes: int,
    manifest: dict[str, Any],
    capability: int,
) -> bytes:
    """The engine of a graph, as bytes."""
    builder: trt.Builder = module.Builder(logger)
    network: trt.INetworkDefinition = builder.create_network(how.network_flags(module))
    parser: trt.OnnxParser = module.OnnxParser(network, logger)
    if not parser.parse_from_file(str(HERE / graph)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f"{graph}: {how.LIBRARY} {module.__version__} does not take it: {errors}")
    config: trt.IBuilderConfig = builder.create_builder_config()
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace_bytes)
    how.configure(module, network, config, manifest, capability)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{graph}: {how.LIBRARY} could not build the engine; its log says why")
    return bytes(plan)


def require_graphs(manifest: dict[str, Any], names: list[str]) -> None:
    for name in names:
        if name not in manifest["files"]:
            raise EngineError(
                f"{name}: this bundle for {manifest['target']['name']} has none; export for rtx or rtx-3080, without "
                "incremental attention, or build without --rtx"
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


if __name__ == "__main__":
    main()
