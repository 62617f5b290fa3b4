"""x * sigmoid(x) is SiLU."""

from collections.abc import Callable

import pytest
import torch
from expecttest import assert_expected_inline
from torch import Tensor

from fluxcompile.ir import text
from fluxcompile.passes.fuse_activations import fuse_activations
from tests.helpers import Do, assert_equal_numbers, captured

SHAPE = (1, 3, 4, 4)


def test_fuse_activations() -> None:
    module = captured(Do(lambda x: x * x.sigmoid()), SHAPE)
    assert fuse_activations(module) == 1
    assert_expected_inline(
        text(module),
        """\
%x_0: f32[1x3x4x4] = input
%silu: f32[1x3x4x4] = aten.silu(%x_0)
return [%silu]""",
    )
    assert fuse_activations(module) == 0
    assert (
        fuse_activations(captured(Do(lambda x: (x + 1) * (x + 1).sigmoid()), SHAPE)) == 0
    )  # two values, however equal


@pytest.mark.parametrize("act", [lambda x: x.sigmoid() * x, lambda x: x * x.sigmoid()])
def test_equal_numbers(act: Callable[[Tensor], Tensor]) -> None:
    module = captured(Do(act), SHAPE)
    assert fuse_activations(module) == 1
    assert_equal_numbers(Do(act), module, torch.randn(SHAPE))


LEFT: dict[str, Callable[[Tensor], object]] = {
    "a second user": lambda x: _twice(x),
    "a gate": lambda x: x[:, :1] * x[:, 1:2].sigmoid(),
    "a sum": lambda x: x + x.sigmoid(),
}


def _twice(x: Tensor) -> tuple[Tensor, Tensor]:
    gate = x.sigmoid()
    return x * gate, gate + 1


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    module = captured(Do(LEFT[name]), SHAPE)
    before = text(module)
    assert fuse_activations(module) == 0
    assert text(module) == before
