"""The graphs of a bundle, which share their weights, and the samples that its own golden.onnx gives.

*golden.onnx* has functions, *plugin.onnx* is the same without; *fixed.onnx* has lists of fixed length. *rtx.onnx* and
*rtx_fixed.onnx* are for TensorRT for RTX, which needs nothing compiled and knows neither plugins nor lists found while
it runs: functions are inlined, lists have room for everything or for the capacity.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from fluxcompile.golden import Feed, Golden
from fluxcompile.passes.lower_tensorrt import Lowered, lower_tensorrt
from fluxcompile.passes.quantize_products import quantize_products
from fluxcompile.program import Program
from fluxcompile.rounding import Plan

RTX, RTX_FIXED = "rtx.onnx", "rtx_fixed.onnx"


def write_graphs(folder: Path, lowered: Lowered, plan: Plan) -> None:
    """golden.onnx and plugin.onnx, which share their weights."""
    model = onnx.ModelProto()
    model.CopyFrom(lowered.model)
    convert_model_to_external_data(model, location="weights.bin", size_threshold=1024)
    onnx.save(model, str(folder / "golden.onnx"))
    (folder / "weights.bin").touch(0o644)  # made, if nothing was large enough to lie outside
    (folder / "weights.bin").chmod(0o644)
    golden = onnx.load(str(folder / "golden.onnx"), load_external_data=False)
    (folder / "plugin.onnx").write_bytes(plugin_graph(golden, plan.ranges, folder).SerializeToString())


def plugin_graph(golden: onnx.ModelProto, ranges: Mapping[str, float], folder: Path) -> onnx.ModelProto:
    """What TensorRT is given for a graph with functions, whose weights lie in a folder."""
    model = onnx.ModelProto()
    model.CopyFrom(golden)
    del model.functions[:]
    quantize_products(model, ranges, lambda tensor: numpy_helper.to_array(tensor, str(folder)))
    return model


def quantized(model: onnx.ModelProto, ranges: Mapping[str, float]) -> onnx.ModelProto:
    """A copy with int8's nodes; without ranges there are none."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    quantize_products(found, ranges)
    return found


def write_rtx(
    folder: Path, program: Program, radius: int | None, capacity: float | None, ranges: Mapping[str, float]
) -> None:
    """What TensorRT for RTX is given; nothing for a net whose attention lists keys, which it has no NonZero for."""
    for name, share in ((RTX, 1.0), (RTX_FIXED, capacity)):
        if share is None:
            continue
        lowered = lower_tensorrt(program, radius, share)
        if any(node.op_type == "correct_attention" for node in lowered.model.graph.node):
            return
        write_beside(folder, name, onnx.inliner.inline_local_functions(quantized(lowered.model, ranges)))


def write_beside(folder: Path, name: str, model: onnx.ModelProto) -> None:
    """A graph that reads the weights it shares where golden.onnx has them."""
    golden = onnx.load(str(folder / "golden.onnx"), load_external_data=False)
    outside = {t.name: t for t in golden.graph.initializer if t.external_data}
    weights = np.fromfile(folder / "weights.bin", np.uint8)
    for tensor in model.graph.initializer:
        shared = outside.get(tensor.name)
        if shared is None or shared.dims != tensor.dims:
            continue
        place = {e.key: int(e.value) for e in shared.external_data if e.key in ("offset", "length")}
        held = weights[place.get("offset", 0) :][: place["length"]]
        if tensor.raw_data == held.tobytes():
            tensor.CopyFrom(shared)
    (folder / name).write_bytes(model.SerializeToString())


def write_samples(folder: Path, program: Program, lowered: Lowered, feeds: list[Feed]) -> dict[str, int]:
    """Frames, and what golden.onnx makes of them; the levels of the inputs that are kept as bytes."""
    golden = Golden(folder / "golden.onnx", lowered.caches, lowered.outputs)
    levels = {
        i.name: n
        for i in program.graphs["blocked"].inputs
        if i.role == "input"
        for n in (1, 255)
        if all(
            np.array_equal(np.rint(f[i.name] * n).clip(0, 255).astype(np.float32) / np.float32(n), f[i.name])
            for f in feeds
        )
    }
    kept: Feed = {}
    for at, feed in enumerate(feeds):
        for name, value in feed.items():
            whole = name in levels
            kept[f"{name}.{at}"] = np.rint(value * levels[name]).astype(np.uint8) if whole else value
        for name, value in zip(lowered.outputs, golden(feed), strict=True):
            kept[f"{name}.{at}"] = value
    np.savez_compressed(folder / "samples.npz", **kept)  # type: ignore[arg-type]
    return levels
