"""The text form, and the few ways a pass may build nodes."""

from typing import Any

import pytest
import torch
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile import fluxcompile
from fluxcompile.ir import (
    add_input,
    argument,
    call,
    clean,
    constant,
    constant_value,
    inputs,
    output,
    replace,
    text,
    type_text,
)
from tests.helpers import Do, captured, seeded

SHAPE = (1, 3, 8, 8)
aten = torch.ops.aten


def forward(x: Tensor, conv: nn.Module) -> Any:
    a, b = conv(x).to(torch.float64).chunk(2, 1)
    return {"a": torch.cat([a, b], 1), "b": x.sum((2, 3)).clamp(max=2.0), "none": None}


def test_text() -> None:
    module = captured(Do(forward, nn.Conv2d(3, 4, 3, 2)), SHAPE)
    assert_expected_inline(
        text(module),
        """\
%x_0: f32[1x3x8x8] = input
%conv2d: f32[1x4x3x3] = aten.conv2d(%x_0, @parts.0.weight, @parts.0.bias, stride=[2, 2])  # parts.0
%_assert_tensor_metadata_default: NoneType = aten._assert_tensor_metadata(%conv2d, dtype=f32, device=cpu, layout=torch.strided)
%to: f64[1x4x3x3] = aten.to(%conv2d, dtype=f64)
%chunk: (f64[1x2x3x3], f64[1x2x3x3]) = aten.chunk(%to, chunks=2, dim=1)
%getitem: f64[1x2x3x3] = getitem(%chunk, 0)
%getitem_1: f64[1x2x3x3] = getitem(%chunk, 1)
%cat: f64[1x4x3x3] = aten.cat([%getitem, %getitem_1], dim=1)
%sum_1: f32[1x3] = aten.sum(%x_0, dim=[2, 3])
%clamp: f32[1x3] = aten.clamp(%sum_1, None, max=2.0)
return [%cat, %clamp, None]""",
    )


def test_text_is_deterministic() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.AdaptiveAvgPool2d(1)))
    first, again = (fluxcompile(model, torch.zeros(SHAPE)) for _ in range(2))
    assert first.text() == again.text()
    assert first.program.graphs == again.program.graphs
    assert list(first.program.constants) == list(again.program.constants)


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (torch.zeros(1, 2), "f32[1x2]"),
        (torch.zeros((), dtype=torch.bool), "b8[]"),
        ([torch.zeros(1), torch.zeros(2, dtype=torch.int64)], "(f32[1], i64[2])"),
        (None, "NoneType"),
    ],
)
def test_types(value: Any, want: str) -> None:
    assert type_text(value) == want


def test_arguments_left_at_their_default() -> None:
    module = captured(nn.Conv2d(3, 4, 3, stride=2), SHAPE)
    (conv,) = (n for n in module.graph.nodes if n.op == "call_function")
    assert len(conv.args) == 4
    assert [argument(conv, n) for n in ("stride", "dilation", "groups")] == [[2, 2], [1, 1], 1]
    with pytest.raises(KeyError, match=r"aten\.conv2d has no argument 'output_size'"):
        argument(conv, "output_size")


def test_building_and_replacing() -> None:
    module = captured(nn.Sequential(nn.ReLU()), SHAPE)
    (relu,) = (n for n in module.graph.nodes if n.op == "call_function")
    with module.graph.inserting_before(relu):
        two = constant(module, torch.full((3, 1, 1), 2.0), "a.gain")
        new = call(module, aten.mul.Tensor, relu.args[0], two)
    replace(relu, new)
    assert_expected_inline(
        text(module),
        """\
%input_1: f32[1x3x8x8] = input
%mul: f32[1x3x8x8] = aten.mul(%input_1, @a_gain)  # 0
return [%mul]""",
    )
    assert torch.equal(constant_value(module, two), torch.full((3, 1, 1), 2.0))


def test_equal_constants_of_one_name_are_shared() -> None:
    module = captured(nn.ReLU(), SHAPE)
    values = [torch.ones(2), torch.ones(2), torch.zeros(2), torch.ones(2, dtype=torch.int64), torch.ones(1, 2)]
    nodes = [constant(module, v, "table") for v in values]
    assert [n.target for n in nodes] == ["table", "table", "table_1", "table_2", "table_3"]
    assert nodes[0] is nodes[1]


def test_inputs_by_role_and_cleaning() -> None:
    module = captured(nn.ReLU(), SHAPE)
    cache = add_input(module, "cache_y", torch.zeros(3), "cache")
    assert inputs(module, "cache") == [cache]
    assert [n.name for n in inputs(module)] == ["input_1"]
    with module.graph.inserting_before(output(module)):
        call(module, aten.add.Tensor, cache, constant(module, torch.ones(3), "unused"))
    clean(module)
    assert "unused" not in text(module)
    assert "unused" not in dict(module.named_buffers())
    assert inputs(module, "cache") == [cache]
