"""Adaptive average pooling that was written out gets its name back."""

from collections.abc import Callable

import pytest
import torch
from expecttest import assert_expected_inline
from torch import Tensor
from torch.fx import GraphModule

from fluxcompile.ir import text
from fluxcompile.passes.drop_identities import drop_identities
from fluxcompile.passes.fold_constants import fold_constants
from fluxcompile.passes.fuse_adaptive_pooling import fuse_adaptive_pooling
from tests.helpers import Do, assert_equal_numbers, captured

SHAPE = (1, 3, 8, 12)


def spans(n_in: int, n_out: int) -> tuple[Tensor, Tensor]:
    """(the cells of each window, how many of them count), as torch's adaptive pooling has it."""
    low = [i * n_in // n_out for i in range(n_out)]
    high = [-(-(i + 1) * n_in // n_out) for i in range(n_out)]
    most = max(h - a for h, a in zip(high, low, strict=True))
    cells = torch.tensor([[min(a + j, n_in - 1) for j in range(most)] for a in low])
    return cells, torch.tensor([h - a for h, a in zip(high, low, strict=True)])


def even(x: Tensor) -> Tensor:
    rows, columns = spans(8, 4)[0], spans(12, 3)[0]
    found = x.permute(2, 3, 0, 1)[rows.view(4, 2, 1, 1), columns.view(1, 1, 3, 4)]
    return found.permute(4, 5, 0, 1, 2, 3).mean((3, 5))


def uneven(x: Tensor, divisor: int | None = None) -> Tensor:
    """5 x 7 windows: each cell of a window in turn, those that do not count blanked, divided by their number."""
    (rows, tall), (columns, wide) = spans(8, 5), spans(12, 7)
    found = x.permute(2, 3, 0, 1)[rows.view(5, -1, 1, 1), columns.view(1, 1, 7, -1)].permute(4, 5, 0, 1, 2, 3)
    found = torch.where((torch.arange(rows.shape[1]) >= tall[:, None])[:, :, None, None], 0.0, found)
    found = torch.where((torch.arange(columns.shape[1]) >= wide[:, None])[None, None], 0.0, found)
    total = found[:, :, :, 0, :, 0]
    for i in range(rows.shape[1]):
        for j in range(columns.shape[1]):
            if i or j:
                total = total + found[:, :, :, i, :, j]
    return total / (tall[:, None] * wide if divisor is None else torch.full((5, 7), divisor))


def prepared(function: Callable[[Tensor], object]) -> GraphModule:
    """Captured, with the tables of cells as constants."""
    module = captured(Do(function), SHAPE)
    drop_identities(module)
    fold_constants(module)
    return module


def test_fuse_adaptive_pooling() -> None:
    module = prepared(even)
    assert fuse_adaptive_pooling(module) == 1
    assert_expected_inline(
        text(module),
        """\
%x_0: f32[1x3x8x12] = input
%adaptive_avg_pool2d: f32[1x3x4x3] = aten.adaptive_avg_pool2d(%x_0, output_size=[4, 3])
return [%adaptive_avg_pool2d]""",
    )
    assert fuse_adaptive_pooling(module) == 0


@pytest.mark.parametrize("pooling", [even, uneven])
def test_equal_numbers(pooling: Callable[[Tensor], Tensor]) -> None:
    module = prepared(pooling)
    assert fuse_adaptive_pooling(module) == 1
    assert "adaptive_avg_pool2d" in text(module)
    assert "aten.index" not in text(module)
    assert_equal_numbers(Do(pooling), module, torch.rand(SHAPE))


def _read_elsewhere(x: Tensor) -> tuple[Tensor, Tensor]:
    found = x.permute(2, 3, 0, 1)[torch.arange(8).view(4, 2, 1, 1), torch.arange(12).view(1, 1, 3, 4)]
    return found.permute(4, 5, 0, 1, 2, 3).mean((3, 5)), found


LEFT: dict[str, Callable[[Tensor], object]] = {
    "another divisor": lambda x: uneven(x, 4),
    "other cells": lambda x: (
        x.permute(2, 3, 0, 1)[torch.arange(8).flip(0).view(4, 2, 1, 1), torch.arange(12).view(1, 1, 3, 4)]
        .permute(4, 5, 0, 1, 2, 3)
        .mean((3, 5))
    ),
    "an index without a mean": lambda x: x[:, :, torch.arange(4)] / 2,
    "read elsewhere": _read_elsewhere,
    "plain arithmetic": lambda x: (x[:, :, ::2] + x[:, :, 1::2]) / 2,
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    module = prepared(LEFT[name])
    before = text(module)
    assert fuse_adaptive_pooling(module) == 0
    assert text(module) == before
