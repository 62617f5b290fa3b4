"""A focus stem is a convolution of the picture itself."""

from collections.abc import Callable

import pytest
import torch
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile.ir import text
from fluxcompile.passes.fold_slices import fold_slices
from tests.helpers import Do, assert_equal_numbers, captured, seeded

SHAPE = (1, 3, 12, 18)


def focus(x: Tensor, conv: nn.Module, starts: tuple[tuple[int, int], ...] = ((0, 0), (1, 0), (0, 1), (1, 1))) -> Tensor:
    return conv(torch.cat([x[..., i::2, j::2] for i, j in starts], 1))


def test_fold_slices() -> None:
    module = captured(Do(focus, nn.Conv2d(12, 8, 3, padding=1)), SHAPE)
    assert fold_slices(module) == 1
    assert_expected_inline(
        text(module),
        """\
%x_0: f32[1x3x12x18] = input
%conv2d_1: f32[1x8x6x9] = aten.conv2d(%x_0, @parts_0_weight_sliced, @parts.0.bias, stride=[2, 2], padding=[2, 2])  # parts.0
return [%conv2d_1]""",
    )
    assert fold_slices(module) == 0


FOLDED: dict[str, Callable[[], nn.Module]] = {
    "3 x 3": lambda: Do(focus, nn.Conv2d(12, 8, 3, padding=1)),
    "1 x 1": lambda: Do(focus, nn.Conv2d(12, 8, 1, bias=False)),
    "a stride of its own": lambda: Do(focus, nn.Conv2d(12, 8, 3, 2, (1, 0))),
    "rows before columns": lambda: Do(
        lambda x, conv: conv(torch.cat([x[:, :, i::3][..., j::2] for i in range(3) for j in range(2)], 1)),
        nn.Conv2d(18, 8, 3, padding=1),
    ),
    "a part twice": lambda: Do(lambda x, conv: focus(x, conv, ((0, 0), (1, 1), (0, 0))), nn.Conv2d(9, 8, 3)),
}


@pytest.mark.parametrize("name", FOLDED)
def test_equal_numbers(name: str) -> None:
    model = seeded(FOLDED[name])
    module = captured(model, SHAPE)
    assert fold_slices(module) == 1
    assert "aten.slice" not in text(module)
    assert_equal_numbers(model, module, torch.rand(SHAPE))


LEFT: dict[str, Callable[[], nn.Module]] = {
    "no whole steps": lambda: Do(lambda x, conv: focus(x[..., :11, :], conv, ((1, 0), (1, 1))), nn.Conv2d(6, 8, 3)),
    "a start beyond the step": lambda: Do(
        lambda x, conv: conv(torch.cat([x[..., 2::2, ::2], x[..., 2::2, 1::2]], 1)), nn.Conv2d(6, 8, 3)
    ),
    "several values": lambda: Do(
        lambda x, conv: conv(torch.cat([x[..., ::2, ::2], x.relu()[..., 1::2, ::2]], 1)), nn.Conv2d(6, 8, 3)
    ),
    "grouped": lambda: Do(focus, nn.Conv2d(12, 8, 3, groups=2)),
    "dilated": lambda: Do(focus, nn.Conv2d(12, 8, 3, dilation=2)),
    "one direction": lambda: Do(
        lambda x, conv: conv(torch.cat([x[..., ::2, :], x[..., 1::2, :]], 1)), nn.Conv2d(6, 8, 3)
    ),
    "read elsewhere": lambda: Do(
        lambda x, conv: (conv(cat := torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2]], 1)), cat), nn.Conv2d(6, 8, 3)
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    module = captured(LEFT[name]().eval(), SHAPE)
    before = text(module)
    assert fold_slices(module) == 0
    assert text(module) == before
