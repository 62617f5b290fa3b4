"""Identities go, what only looks like one stays."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile.ir import text
from fluxcompile.passes.drop_identities import drop_identities
from tests.helpers import Do, assert_equal_numbers, assert_left_alone, captured

SHAPE = (1, 4, 8, 8)


def test_rewrites() -> None:
    module = captured(nn.Sequential(nn.Dropout(0.1), nn.Identity(), nn.ReLU()), SHAPE)
    assert drop_identities(module) == 1
    assert_expected_inline(
        text(module),
        """\
%input_1: f32[1x4x8x8] = input
%relu: f32[1x4x8x8] = aten.relu(%input_1)  # 2
return [%relu]""",
    )
    assert_left_alone(drop_identities, module)


IDENTITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "clone": lambda x: x.clone(),
    "detach": lambda x: x.detach(),
    "cast to its type": lambda x: x.to(torch.float32),
    "type_as": lambda x: x.type_as(x),
    "reshape to its shape": lambda x: x.reshape(1, 4, 8, 8),
    "flatten one dimension": lambda x: x.flatten(1, 1),
    "expand to its shape": lambda x: x.expand(1, 4, 8, 8),
    "pad by nothing": lambda x: F.pad(x, (0, 0, 0, 0)),
    "roll by nothing": lambda x: x.roll((0, 0), (2, 3)),
    "whole slice": lambda x: x[:, :, 0:8],
    "dropout of channels": lambda x: F.dropout2d(x, 0.5, False),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identities(name: str) -> None:
    model = Do(lambda x: IDENTITIES[name](x.relu()).sigmoid())
    module = captured(model, SHAPE)
    assert drop_identities(module) >= 1
    left = {n.name for n in module.graph.nodes if n.op == "call_function"}
    assert left <= {"relu", "sigmoid", "permute", "permute_1"}
    assert_equal_numbers(model, module, torch.randn(SHAPE))
    assert_left_alone(drop_identities, module)


OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "another type": lambda x: x.to(torch.float64),
    "another shape": lambda x: x.reshape(1, 32, 8),
    "a wider pad": lambda x: F.pad(x, (0, 1)),
    "a roll": lambda x: x.roll(1, 2),
    "part of it": lambda x: x[:, :, 1:],
    "every second": lambda x: x[:, :, ::2],
    "dropout that draws": lambda x: F.dropout(x, 0.5, True),
}


@pytest.mark.parametrize("name", OTHERS)
def test_left_alone(name: str) -> None:
    module = captured(Do(lambda x: OTHERS[name](x.relu())), SHAPE)
    drop_identities(module)  # the assertion export puts before a cast
    assert len([n for n in module.graph.nodes if n.op == "call_function"]) == 2
    assert_left_alone(drop_identities, module)


def test_a_view_becomes_a_reshape() -> None:
    """The copy that made the view possible may go."""
    model = Do(lambda x: x.permute(0, 2, 3, 1).contiguous().view(1, 64, 4))
    module = captured(model, SHAPE)
    assert drop_identities(module) == 2
    assert_expected_inline(
        text(module),
        """\
%x_0: f32[1x4x8x8] = input
%permute: f32[1x8x8x4] = aten.permute(%x_0, dims=[0, 2, 3, 1])
%view: f32[1x64x4] = aten.reshape(%permute, shape=[1, 64, 4])
return [%view]""",
    )
    assert_equal_numbers(model, module, torch.randn(SHAPE))
    assert_left_alone(drop_identities, module)


def test_a_view_as_its_own_shape_goes_at_once() -> None:
    module = captured(Do(lambda x: x.relu().view(1, 4, 8, 8).sigmoid()), SHAPE)
    drop_identities(module)
    assert_left_alone(drop_identities, module)
