"""Graphs of plugins as TensorRT gets them, run node by node: ONNX's evaluator, and our kernels for the plugins."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fluxcompile import Policy, fluxcompile
from fluxcompile.kernels import _device
from tests.helpers import seeded
from tests.kernels.shim import runner, shimmed
from tests.nets import Attention, Tokens

onnx = pytest.importorskip("onnx")
pytest.importorskip("fluxcompile.plugin_ops", reason="this version exports no graphs for TensorRT")

from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402

from fluxcompile.golden import Reference, apart, made_clip  # noqa: E402
from fluxcompile.passes.lower_tensorrt import Lowered, lower_tensorrt  # noqa: E402
from fluxcompile.plugin_ops import DOMAIN, PLUGIN_OPS  # noqa: E402

pytestmark = shimmed
TYPES = {np.float32: "f32", np.float16: "f16", np.int32: "i32"}
ran: dict[str, int] = {}


def described(array: Any) -> tuple[int, str, tuple[int, ...]]:
    """What TensorRT hands a plugin; a KeyError for a type that no plugin may have."""
    return array.ctypes.data, TYPES[array.dtype.type], array.shape


def run_plugin(name: str, inputs: Any, attributes: dict[str, Any]) -> Any:
    ran[name] = ran.get(name, 0) + 1
    inputs = [np.ascontiguousarray(x) for x in inputs]
    kinds = PLUGIN_OPS[name].attributes
    values = {
        k: ([float(attributes[k])] if kind == "float" else np.atleast_1d(attributes[k]).tolist())
        for k, kind in kinds.items()
    }
    described_inputs = [described(x) for x in inputs]
    types, shapes = [t for _, t, _ in described_inputs], [s for _, _, s in described_inputs]
    made = _device.outputs(name, values, types, shapes)
    outputs = [np.empty(shape, {v: k for k, v in TYPES.items()}[dtype]) for dtype, shape in made]
    workspace = np.empty(_device.workspace_bytes(name, shapes), np.uint8)
    runner(False)(name, values, described_inputs, [described(x) for x in outputs], workspace.ctypes.data)
    return tuple(outputs)


def op_run(name: str) -> type:
    def _run(self: Any, *inputs: Any, **attributes: Any) -> Any:
        return run_plugin(name, inputs, attributes)

    return type(name, (OpRun,), {"op_domain": DOMAIN, "_run": _run})


class Plugins:
    """A lowered graph without its functions, and its caches."""

    def __init__(self, lowered: Lowered) -> None:
        model = lowered.without_functions()
        assert not model.functions
        self._run = ReferenceEvaluator(model, new_ops=[op_run(name) for name in PLUGIN_OPS])
        self._pairs, self._outputs = lowered.caches, lowered.outputs
        sizes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
        self._caches = {name: np.zeros(sizes[name], np.float32) for name, _ in lowered.caches}

    def __call__(self, feed: dict[str, Any]) -> list[Any]:
        names = list(self._run.output_names)
        found = dict(zip(names, self._run.run(names, {**feed, **self._caches}), strict=True))
        self._caches = {cache: found[value] for cache, value in self._pairs}
        return [found[name] for name in self._outputs]


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.SiLU(), nn.Conv2d(4, 4, 3, 1, 1), nn.Upsample(scale_factor=2, mode="bilinear")
    )


def tokens() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), Tokens(8, 8, 8, Attention(8, 2, fused=True), token=True, positions=True)
    )


@pytest.mark.parametrize("capacity", [None, 1.0], ids=["lists as long as they are", "lists filled up"])
@pytest.mark.parametrize("make", [convolutions, tokens])
def test_a_graph_of_plugins_gives_what_the_reference_gives(make: Any, capacity: float | None) -> None:
    program = fluxcompile(seeded(make), torch.zeros(1, 3, 32, 32), attention="incremental").program
    lowered, policy = lower_tensorrt(program, capacity=capacity), Policy()
    plugins, reference = Plugins(lowered), Reference(program, None)
    ran.clear()
    for feed in made_clip(program, policy, count=6):
        for got, want in zip(plugins(feed), reference(feed), strict=True):
            assert apart(got, want) < 1e-4
    nodes = {node.op_type for node in lowered.model.graph.node if node.domain == DOMAIN}
    assert nodes == set(ran)
    assert nodes >= {"halo_gather", "tile_scatter", "motion_reindex", "gate"}


def test_every_plugin_of_a_graph_has_kernels() -> None:
    for name, op in PLUGIN_OPS.items():
        assert name in _device.ops()
        types = ["f32" if port.dtype == "T" else port.dtype for port in (*op.inputs, *op.outputs)]
        assert _device.takes(name, types), name
        assert "b8" not in types  # no plugin may have a tensor of bool
