"""The lowering to ONNX: each op against its reference, whole nets against the reference executor, and what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from fluxcompile import Frames, Policy, fluxcompile
from fluxcompile.errors import ExportError
from fluxcompile.golden import Golden, Reference, apart, made_clip
from fluxcompile.models import ZOO, build
from fluxcompile.ops import TABLE
from fluxcompile.passes.lower_tensorrt import RULES, lower_tensorrt
from fluxcompile.passes.trt_bodies import functions
from fluxcompile.plugin_ops import DOMAIN, PLUGIN_OPS
from fluxcompile.program import Graph, Input, Op, Program
from tests.helpers import TOLERANCE, Do, seeded

TOLERATED = TOLERANCE[torch.float32]
NAMES = {torch.float32: "f32", torch.int64: "i64", torch.int32: "i32", torch.bool: "b8"}
SAMPLES = [
    pytest.param(op, sample, id=f"{op.name}-{i}")
    for op in TABLE.values()
    if op.name in RULES["flux"]
    for i, sample in enumerate(op.samples())
]
TABLES = ("reads_y", "reads_x", "rows", "taps_y", "weights_y", "taps_x", "weights_x")
"""What the lowering takes as constants, by the names of arguments."""


def as_program(op: Any, sample: tuple[Any, ...]) -> tuple[Program, dict[str, Tensor]]:
    """A program of one call, every tensor of it an input but the tables."""
    found: dict[str, Tensor] = {}
    constants: dict[str, Any] = {}

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], Tensor):
            return [plain(v, f"{name}_{i}") for i, v in enumerate(value)]
        if not isinstance(value, Tensor):
            return {"float": str(value)} if value in (float("inf"), float("-inf")) else value
        if name in TABLES and not (op.name == "row_scatter" and name == "rows"):
            constants[name] = value.numpy()
            return {"@": name}
        found[name] = value
        return {"%": name}

    names = [a.name for a in op.overload._schema.arguments]
    args = [plain(v, n) for n, v in zip(names, sample, strict=False)]
    results = op.reference(*sample)
    many = isinstance(results, tuple)
    types = ", ".join(f"{NAMES[r.dtype]}[{'x'.join(map(str, r.shape))}]" for r in (results if many else (results,)))
    ops = [Op("made", f"flux.{op.name}.default", args, type=f"({types})" if many else types)]
    outputs: list[Any] = [{"%": "made"}]
    if many:
        ops += [Op(f"part_{i}", "getitem", [{"%": "made"}, i]) for i in range(len(results))]
        outputs = [{"%": f"part_{i}"} for i in range(len(results))]
    roles = {"fresh": "fresh", "threshold": "threshold"} | ({} if op.name == "gate" else {"gate": "gate"})
    inputs = [Input(n, roles.get(n, "input"), NAMES[v.dtype], list(v.shape)) for n, v in found.items()]
    return Program({"blocked": Graph(inputs, ops, outputs)}, [], 0, constants=constants), found


def fed(lowered: Any, values: dict[str, Tensor]) -> dict[str, Any]:
    """The values as the model's inputs take them."""
    types = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_}
    specs = {i.name: i.type.tensor_type for i in lowered.model.graph.input}
    return {
        n: v.numpy().astype(types[specs[n].elem_type]).reshape([d.dim_value for d in specs[n].shape.dim])
        for n, v in values.items()
    }


@pytest.mark.parametrize(("op", "sample"), SAMPLES)
def test_each_flux_op_equals_its_reference(op: Any, sample: tuple[Any, ...]) -> None:
    radius = None
    if op.name in ("reach", "limit"):
        radius = int(sample[1]) if op.name == "reach" else 1
        if radius < 0:
            pytest.skip("without a radius nothing is limited and no op is written")
    program, values = as_program(op, sample)
    if op.name == "reach":
        spec = next(i for i in program.graphs["blocked"].inputs if i.name == "radius")
        spec.role = "radius"
        del values["radius"]
    lowered = lower_tensorrt(program, radius)
    onnx.checker.check_model(lowered.model)
    found = Golden(lowered.model.SerializeToString(), [], lowered.outputs)(fed(lowered, values))
    wanted = op.reference(*sample)
    for got, want in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        assert apart(got.astype(np.float64), want.numpy().astype(np.float64)) <= TOLERATED


def test_every_flux_op_of_a_frame_has_a_rule() -> None:
    assert TABLE.keys() == RULES["flux"].keys()


def test_plugins_have_the_ports_their_bodies_have() -> None:
    assert functions().keys() == PLUGIN_OPS.keys()
    for name, body in functions().items():
        assert list(body.input) == [p.name for p in PLUGIN_OPS[name].inputs]
        assert list(body.output) == [p.name for p in PLUGIN_OPS[name].outputs]
        assert set(body.attribute) == {*PLUGIN_OPS[name].attributes, "plugin_version", "plugin_namespace"}
        assert name in TABLE


def play(program: Program, policy: Policy, capacity: float | None = None, frames: int = 12) -> list[float]:
    """How far apart outputs and caches are at most, frame by frame."""
    radius = None if policy.exact else policy.radius
    lowered = lower_tensorrt(program, radius, capacity)
    onnx.checker.check_model(lowered.model)
    golden = Golden(lowered.model.SerializeToString(), lowered.caches, lowered.outputs)
    reference = Reference(program, radius)
    worst = []
    for feed in made_clip(program, policy, frames):
        pairs = list(zip(golden(feed), reference(feed), strict=True))
        pairs += [(golden.caches[name], value.numpy()) for name, value in reference.caches.items()]
        worst.append(max(apart(got.astype(np.float32), want.astype(np.float32)) for got, want in pairs))
    return worst


NETS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.GELU()
    ),
    "resize": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d((5, 7)), nn.Upsample(scale_factor=2.0, mode="bilinear")
    ),
    "turned": lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2), nn.Hardswish(), nn.AvgPool2d(3, 2, 1)),
    "squeeze": lambda: Do(
        lambda x, c, s: c(x) * s(c(x).mean((2, 3), keepdim=True)).sigmoid(), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
    ),
    "means of rows": lambda: Do(lambda x: x * x.mean(2, keepdim=True) * x.amax(3, keepdim=True)),
    "rolled": lambda: Do(lambda x, c: c(x.roll((2, -3), (2, 3))).flip(3), nn.Conv2d(3, 4, 3, padding=1)),
    "norms": lambda: Do(lambda x, c, g: g(c(x)).flatten(2).mT.softmax(-1), nn.Conv2d(3, 8, 4, 4), nn.GroupNorm(2, 8)),
}


@pytest.mark.parametrize("name", NETS)
def test_lowered_nets_equal_the_reference_over_a_moving_clip(name: str) -> None:
    net = fluxcompile(seeded(NETS[name]), torch.zeros(1, 3, 48, 64))
    assert max(play(net.program, Policy())) <= TOLERATED


@pytest.mark.parametrize("name", ["yolo11-mini", "swin-mini", "resnet-mini"])
def test_zoo_nets_equal_the_reference_over_a_moving_clip(name: str) -> None:
    net = fluxcompile(build(name), ZOO[name].example())
    assert max(play(net.program, Policy(), frames=5)) <= TOLERATED


def test_settings_of_a_policy_reach_the_graph() -> None:
    net = fluxcompile(build("vit-mini"), ZOO["vit-mini"].example(), attention="incremental")
    policy = Policy(exact=False, threshold=0.02, radius=8, gate=0.05)
    assert max(play(net.program, policy)) <= TOLERATED
    loose = {i.name: i for i in lower_tensorrt(net.program, 8).model.graph.input}
    assert {"threshold", "gate"} <= loose.keys()
    assert "radius" not in loose


def test_lists_with_room_for_everything_equal_the_reference() -> None:
    net = fluxcompile(seeded(NETS["convolutions"]), torch.zeros(1, 3, 48, 64), frames=Frames())
    assert not lower_tensorrt(net.program, capacity=1.0).overflow
    assert max(play(net.program, Policy(), capacity=1.0)) <= TOLERATED
    vit = fluxcompile(build("vit-mini"), ZOO["vit-mini"].example(), attention="incremental")
    assert max(play(vit.program, Policy(), capacity=1.0)) <= TOLERATED


@pytest.mark.parametrize("name", ["resnet-mini", "vit-mini"])
def test_graphs_share_the_names_of_inputs_and_outputs_whatever_their_lists(name: str) -> None:
    """A session swaps buffers between two engines by name; dense regions and attention have several results."""
    program = fluxcompile(build(name), ZOO[name].example(), attention="incremental").program
    one, other = (lower_tensorrt(program, capacity=c) for c in (None, 0.5))
    assert (one.caches, one.outputs, one.work) == (other.caches, other.outputs, other.work)
    bound = [{v.name for v in (*m.model.graph.input, *m.model.graph.output)} for m in (one, other)]
    assert bound[1] - bound[0] == {other.overflow} - {""}


def test_a_frame_that_fits_no_list_says_so_and_others_are_equal() -> None:
    net = fluxcompile(build("vit-mini"), ZOO["vit-mini"].example())
    lowered = lower_tensorrt(net.program, capacity=0.5)
    names = [*lowered.outputs, lowered.overflow]
    golden = Golden(lowered.model.SerializeToString(), lowered.caches, names)
    reference = Reference(net.program, None)
    flags = []
    for feed in made_clip(net.program, Policy()):
        golden.caches = {name: value.numpy() for name, value in reference.caches.items()}
        *outputs, overflow = golden(feed)
        wanted = reference(feed)
        flags.append(int(overflow[0]))
        if not flags[-1]:
            assert max(apart(*pair) for pair in zip(outputs, wanted, strict=True)) <= TOLERATED
    assert flags[0] == 1  # everything is listed
    assert flags[2] == 0  # nothing is


def test_a_control_that_computes_something_else_is_found() -> None:
    net = fluxcompile(seeded(NETS["convolutions"]), torch.zeros(1, 3, 48, 64))
    other = fluxcompile(seeded(NETS["convolutions"], seed=1), torch.zeros(1, 3, 48, 64))
    lowered = lower_tensorrt(net.program)
    golden = Golden(lowered.model.SerializeToString(), lowered.caches, lowered.outputs)
    reference = Reference(other.program, None)
    feed = next(made_clip(net.program, Policy()))
    assert apart(golden(feed)[0], reference(feed)[0]) > 100 * TOLERATED


@pytest.mark.parametrize("fault", [np.nan, np.inf, 1e6])
def test_the_comparer_finds_what_is_not_equal(fault: float) -> None:
    want = np.ones((2, 3), np.float32)
    got = want.copy()
    got[1, 1] = fault
    assert apart(want, want) == 0
    assert apart(got, want) > 1
    assert apart(want, got) > 0.5
    assert apart(want[:1], want) == np.inf


def test_the_graph_for_plugins_differs_by_the_functions_alone() -> None:
    lowered = lower_tensorrt(fluxcompile(seeded(NETS["convolutions"]), torch.zeros(1, 3, 48, 64)).program)
    plugin = lowered.without_functions()
    assert not plugin.functions
    assert plugin.graph == lowered.model.graph
    used = {n.op_type for n in plugin.graph.node if n.domain == DOMAIN}
    assert used == {"halo_gather", "tile_scatter", "motion_reindex", "gate"}


def test_an_op_without_a_rule_is_named() -> None:
    net = fluxcompile(Do(lambda x: x.cumsum(3)).eval(), torch.zeros(1, 3, 16, 16))
    with pytest.raises(ExportError, match=r"cumsum.*has no lowering"):
        lower_tensorrt(net.program)


def test_double_precision_is_refused() -> None:
    net = fluxcompile(seeded(NETS["convolutions"]).double(), torch.zeros(1, 3, 48, 64, dtype=torch.float64))
    with pytest.raises(ExportError, match="f64"):
        lower_tensorrt(net.program)
