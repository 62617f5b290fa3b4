"""Batch norm folds into the convolution that feeds it and into nothing else."""

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import nn

from fluxcompile.ir import text
from fluxcompile.passes.fold_batch_norm import fold_batch_norm
from tests.helpers import Do, assert_equal_numbers, assert_left_alone, captured, seeded, state_of

SHAPE = (1, 4, 9, 9)
X = torch.randn(SHAPE)


def test_rewrites() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()))
    before = state_of(model)
    module = captured(model, SHAPE)
    assert fold_batch_norm(module) == 1
    assert_expected_inline(
        text(module),
        """\
%input_1: f32[1x4x9x9] = input
%conv2d_1: f32[1x8x7x7] = aten.conv2d(%input_1, @0_weight, @0_bias)  # 0
%relu: f32[1x8x7x7] = aten.relu(%conv2d_1)  # 2
return [%relu]""",
    )
    assert_equal_numbers(model, module, X)
    assert_left_alone(fold_batch_norm, module)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


FOLDED = {
    "bias": lambda: nn.Conv2d(4, 8, 3, 2, 1),
    "groups": lambda: nn.Conv2d(4, 8, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 8, 3, 2),
    "transposed, groups": lambda: nn.ConvTranspose2d(4, 8, 2, 2, groups=2, bias=False),
}


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("affine", [True, False])
def test_folds(name: str, affine: bool) -> None:
    model = seeded(lambda: nn.Sequential(FOLDED[name](), nn.BatchNorm2d(8, eps=1e-3, affine=affine)))
    module = captured(model, SHAPE)
    assert fold_batch_norm(module) == 1
    assert_equal_numbers(model, module, X)


def test_two_convolutions_of_one_weight() -> None:
    """Each norm folds into its own copy."""
    model = seeded(
        lambda: Do(
            lambda x, conv, a, b: a(conv(x)) + b(conv(x * 2)), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        )
    )
    module = captured(model, SHAPE)
    assert fold_batch_norm(module) == 2
    assert_equal_numbers(model, module, X)


LEFT = {
    "a second user": lambda: Do(
        lambda x, c, n: n(c(x)) + c(x) * 0 + _both(c(x), n), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)
    ),
    "computed weights": lambda: Do(
        lambda x, n: n(F.conv2d(x, x.mean((2, 3))[:, :, None, None].expand(8, 4, 1, 1))), nn.BatchNorm2d(8)
    ),
    "training mode": lambda: Do(lambda x, c: F.batch_norm(c(x), None, None, training=True), nn.Conv2d(4, 8, 3)),
    "no convolution": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)),
    "something between": lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)),
}


def _both(y: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    return norm(y) + y


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    model = seeded(LEFT[name])
    module = captured(model, SHAPE)
    if name == "a second user":  # its first convolution does fold
        assert fold_batch_norm(module) == 1
        assert_equal_numbers(model, module, X)
    assert_left_alone(fold_batch_norm, module)
