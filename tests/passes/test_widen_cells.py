"""A resize of one cell repeats it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor

from fluxcompile.ir import text
from fluxcompile.passes.widen_cells import widen_cells
from tests.helpers import Do, assert_equal_numbers, captured

SHAPE = (1, 3, 8, 8)


def pooled(mode: str) -> Callable[[Tensor], Tensor]:
    return lambda x: F.interpolate(x.mean((2, 3), keepdim=True), (4, 6), mode=mode)


def test_widen_cells() -> None:
    module = captured(Do(pooled("bilinear")), SHAPE)
    assert widen_cells(module) == 1
    assert_expected_inline(
        text(module),
        """\
%x_0: f32[1x3x8x8] = input
%mean: f32[1x3x1x1] = aten.mean(%x_0, dim=[2, 3], keepdim=True)
%expand: f32[1x3x4x6] = aten.expand(%mean, size=[1, 3, 4, 6])
return [%expand]""",
    )
    assert widen_cells(module) == 0


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_equal_numbers(mode: str) -> None:
    module = captured(Do(pooled(mode)), SHAPE)
    assert widen_cells(module) == 1
    assert_equal_numbers(Do(pooled(mode)), module, torch.rand(SHAPE))


LEFT: dict[str, Callable[[Tensor], Tensor]] = {
    "a map": lambda x: F.interpolate(x, (4, 6)),
    "a row": lambda x: F.interpolate(x.mean(2, keepdim=True), (4, 16)),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    module = captured(Do(LEFT[name]), SHAPE)
    before = text(module)
    assert widen_cells(module) == 0
    assert text(module) == before
