"""A graph becomes plain data and runs as it did."""

import json

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxcompile.ir import output
from fluxcompile.passes.cache_pooling import cache_pooling
from fluxcompile.passes.emit_program import emit_graph
from fluxcompile.passes.isolate_dense_regions import isolate_dense_regions
from fluxcompile.program import Graph
from fluxcompile.runtime.execute import Executor
from tests.helpers import Do, assert_matches, captured, masked

SHAPE = (1, 3, 8, 8)


def test_data() -> None:
    constants: dict[str, Tensor] = {}
    graph = emit_graph(captured(nn.Conv2d(3, 4, 3, 2), SHAPE), constants)
    assert json.loads(msgspec.json.encode(graph)) == {
        "inputs": [{"name": "input_1", "role": "input", "dtype": "f32", "shape": [1, 3, 8, 8]}],
        "ops": [
            {
                "name": "conv2d",
                "op": "aten.conv2d.default",
                "args": [{"%": "input_1"}, {"@": "weight"}, {"@": "bias"}, [2, 2]],
                "type": "f32[1x4x3x3]",
            }
        ],
        "outputs": [{"%": "conv2d"}],
    }
    assert set(constants) == {"weight", "bias"}


def through_json(graph: Graph) -> Graph:
    return msgspec.json.decode(msgspec.json.encode(graph), type=Graph)


def test_what_json_has_no_word_for() -> None:
    """Types, infinities, nothing, other devices."""

    def forward(x: Tensor) -> list[Tensor]:
        filled = F.pad(x, (1, 1), value=-torch.inf).to(torch.float64)
        return [filled, torch.full_like(x, torch.nan, dtype=torch.int64 if False else torch.float64), x.sum(dim=None)]

    module, x = captured(Do(forward), SHAPE), torch.rand(SHAPE)
    constants: dict[str, Tensor] = {}
    run = Executor(through_json(emit_graph(module, constants)), constants)
    assert_matches(run({run.graph.inputs[0].name: x})[0], forward(x))


def test_caches_layouts_lists_and_regions() -> None:
    module = masked(Do(lambda x, m: m(F.max_pool2d(x, 2).mean((2, 3))), nn.Linear(3, 2)), SHAPE)
    cache_pooling(module)
    isolate_dense_regions(module)
    graph = through_json(emit_graph(module, {}))
    assert {i.role for i in graph.inputs} == {"input", "fresh", "threshold", "cache"}
    assert graph.inputs[0].layout == "1 3 y8 x8"
    assert [c for c, _ in graph.caches] == [i.name for i in graph.inputs if i.role == "cache"]
    (region,) = (op for op in graph.ops if op.body)
    assert region.body is not None
    assert [op.op for op in region.body.ops] == ["aten.mean.dim", "aten.linear.default"]
    assert output(module).args[0]
