"""The graph a target gets, run with the plugins' own kernels: operands, attributes and views are those they expect."""

from typing import Any

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from fluxcompile import Policy, fluxcompile
from fluxcompile.golden import Golden, apart, made_clip
from fluxcompile.kernels import _device
from fluxcompile.kernels.device import describe
from fluxcompile.models import ZOO, build
from fluxcompile.net import Net
from fluxcompile.passes.lower_tensorrt import lower_tensorrt
from fluxcompile.plugin_ops import DOMAIN, PLUGIN_OPS
from tests.bundles import small_net
from tests.kernels.shim import runner, shimmed

pytestmark = shimmed
DTYPES = {"f32": torch.float32, "i32": torch.int32}  # and never bool: no plugin may have a tensor of it
run = runner(backward=False)


def by_kernels(name: str) -> type[OpRun]:
    """The plugin as an op of ONNX's own evaluator: what the plugin classes do with a node, less TensorRT."""

    def call(self: Any, *inputs: Any, **given: Any) -> tuple[Any, ...]:
        tensors = [torch.from_numpy(np.array(x, order="C")) for x in inputs]
        found = {
            k: v if isinstance(v, list | tuple) else [v] for k, v in given.items() if k in PLUGIN_OPS[name].attributes
        }
        attributes = {
            k: [float(n) if PLUGIN_OPS[name].attributes[k] == "float" else int(n) for n in v] for k, v in found.items()
        }
        described = [describe(t) for t in tensors]
        types, shapes = [d[1] for d in described], [d[2] for d in described]
        assert _device.takes(name, types), f"{name} does not take {types}"
        made = _device.outputs(name, attributes, types, shapes)
        outputs = [torch.empty(shape, dtype=DTYPES[dtype]) for dtype, shape in made]
        workspace = torch.empty(_device.workspace_bytes(name, shapes), dtype=torch.uint8)
        run(name, attributes, described, [describe(o) for o in outputs], workspace.data_ptr())
        return tuple(o.numpy() for o in outputs)

    return type(name, (OpRun,), {"op_domain": DOMAIN, "_run": call})


def vit() -> Net:
    return fluxcompile(build("vit-mini"), ZOO["vit-mini"].example(), attention="incremental")


def swin() -> Net:
    return fluxcompile(build("swin-mini"), ZOO["swin-mini"].example())


def resized() -> Net:
    up = torch.nn.Upsample(scale_factor=2.0, mode="bilinear")
    return fluxcompile(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 4), up).eval(), torch.zeros(1, 3, 48, 64))


@pytest.mark.parametrize(
    ("make", "capacity"), [(small_net, None), (small_net, 0.3), (vit, None), (vit, 1.0), (swin, None), (resized, None)]
)
def test_plugins_compute_what_their_functions_say(make: Any, capacity: float | None) -> None:
    net = make()
    policy = Policy(exact=False, gate=0.01)
    lowered = lower_tensorrt(net.program, None, capacity)
    golden = Golden(lowered.model.SerializeToString(), lowered.caches, lowered.outputs)
    names = [o.name for o in lowered.model.graph.output]
    plugins = ReferenceEvaluator(lowered.without_functions(), new_ops=[by_kernels(name) for name in PLUGIN_OPS])
    used = {n.op_type for n in lowered.model.graph.node if n.domain == DOMAIN}
    assert used
    for feed in made_clip(net.program, policy, 5):
        found = dict(zip(names, plugins.run(names, {**feed, **golden.caches}), strict=True))
        wanted = golden(feed)
        for name, want in zip(lowered.outputs, wanted, strict=True):
            assert apart(found[name], want) < 1e-4
        for cache, value in lowered.caches:
            assert apart(found[value], golden.caches[cache]) < 1e-4, cache


def test_every_plugin_has_kernels_for_its_ports() -> None:
    for name, op in PLUGIN_OPS.items():
        types = ["f32" if port.dtype == "T" else port.dtype for port in (*op.inputs, *op.outputs)]
        assert _device.takes(name, types), name
        assert "b8" not in types, name


def test_every_plugin_is_among_them() -> None:
    nets = (small_net(), vit(), swin(), resized())
    models = [lower_tensorrt(n.program).model for n in nets]
    assert {n.op_type for m in models for n in m.graph.node if n.domain == DOMAIN} == set(PLUGIN_OPS)
