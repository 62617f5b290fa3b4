"""Attention that was written out gets its name; what is no attention does not."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor

from fluxcompile.ir import text
from fluxcompile.passes.fuse_attention import fuse_attention
from tests.helpers import Do, assert_equal_numbers, assert_left_alone, captured

SHAPE = (1, 2, 6, 4)
QKV = [torch.randn(SHAPE) for _ in range(3)]
BIAS = torch.randn(1, 2, 6, 6)

MASK, WINDOWS, FIRST = torch.randn(6, 6), BIAS.reshape(2, 1, 6, 6), BIAS[:, 1:]
NINE = torch.randn(1, 2, 9, 4)
HEADS = torch.tensor([0.5, 2.0]).reshape(1, 2, 1, 1)

Function = Callable[..., Tensor]


def _windows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Two windows of one head; each has a bias and, seen in a shape of five dimensions, a mask of its own."""
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    score = q @ k.mT * 0.5 + FIRST
    score = (score.view(1, 2, 1, 6, 6) + mask).view(2, 1, 6, 6)
    return F.softmax(score, -1) @ v


def _heads_apart(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The products are over heads side by side, as one batch; the bias is told by head."""
    score = torch.bmm(q[0], k[0].mT).view(1, 2, 6, 6) + bias
    return torch.bmm(F.softmax(score.view(2, 6, 6), -1), v[0])


def test_rewrites() -> None:
    model = Do(lambda q, k, v: F.softmax((q @ k.transpose(-2, -1)) * 0.125 + BIAS, -1) @ v)
    module = captured(model, *[SHAPE] * 3)
    assert fuse_attention(module) == 1
    assert_expected_inline(
        text(module),
        """\
%x_0: f32[1x2x6x4] = input
%x_1: f32[1x2x6x4] = input
%x_2: f32[1x2x6x4] = input
%scaled_dot_product_attention: f32[1x2x6x4] = aten.scaled_dot_product_attention(%x_0, %x_1, %x_2, @lifted_tensor_0, scale=0.125)
return [%scaled_dot_product_attention]""",
    )
    assert_equal_numbers(model, module, *QKV)
    assert_left_alone(fuse_attention, module)


FUSED: dict[str, Function] = {
    "plain": lambda q, k, v: F.softmax(q @ k.mT, -1) @ v,
    "divided": lambda q, k, v: F.softmax(q @ k.transpose(2, 3) / 2, 3) @ v,
    "bias first": lambda q, k, v: F.softmax(BIAS + q @ k.mT * 3, -1) @ v,
    "bias for each key": lambda q, k, v: F.softmax(q @ k.mT + BIAS[:, :1, :1], -1) @ v,
    "keys not transposed": lambda q, k, v: F.softmax(q @ k.reshape(1, 2, 4, 6), -1) @ v,
    "scaled before": lambda q, k, v: F.softmax((q * 0.5) @ k.mT, -1) @ v,
    "three dimensions": lambda q, k, v: torch.bmm(F.softmax(torch.bmm(q[0], k[0].mT), -1), v[0]),
    "two biases": lambda q, k, v: F.softmax(q @ k.mT + BIAS + MASK, -1) @ v,
    "a scale for each head": lambda q, k, v: F.softmax(q @ k.mT * HEADS * 2 + BIAS, -1) @ v,
    "windows masked one by one": lambda q, k, v: _windows(q, k, v, WINDOWS),
    "the same mask for all windows": lambda q, k, v: _windows(q, k, v, MASK),
    "heads told apart": lambda q, k, v: _heads_apart(q, k, v, BIAS),
    "matmul by name": lambda q, k, v: torch.matmul(torch.softmax(torch.matmul(q, k.mT), 3), v),
}


@pytest.mark.parametrize("name", FUSED)
def test_fuses(name: str) -> None:
    model = Do(FUSED[name])
    module = captured(model, *[SHAPE] * 3)
    assert fuse_attention(module) == 1
    assert "softmax" not in text(module)
    assert_equal_numbers(model, module, *QKV)


def _shown(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    weights = F.softmax(q @ k.mT, -1)
    return weights @ v, weights


LEFT: dict[str, Callable[..., object]] = {
    "weights with a second user": _shown,
    "something between": lambda q, k, v: F.softmax((q @ k.mT).relu(), -1) @ v,
    "scale after the bias": lambda q, k, v: F.softmax((q @ k.mT + BIAS) * 2, -1) @ v,
    "two biases that are no constants": lambda q, k, v: F.softmax(q @ k.mT + BIAS + q.mean() * BIAS, -1) @ v,
    "a scale for each query": lambda q, k, v: F.softmax(q @ k.mT * BIAS[..., :1], -1) @ v,
    "a scale for each head after the bias": lambda q, k, v: F.softmax((q @ k.mT + BIAS) * HEADS, -1) @ v,
    "keys reshaped into queries": lambda q, k, v: F.softmax((q @ k.mT).reshape(1, 2, 4, 9), -1) @ NINE,
    "softmax over queries": lambda q, k, v: F.softmax(q @ k.mT, -2) @ v,
    "alpha": lambda q, k, v: F.softmax(torch.add(q @ k.mT, BIAS, alpha=2), -1) @ v,
    "two dimensions": lambda q, k, v: F.softmax(q[0, 0] @ k[0, 0].mT, -1) @ v[0, 0],
    "heads broadcast": lambda q, k, v: F.softmax(q @ k[:, :1].mT, -1) @ v,
    "a bias that widens": lambda q, k, v: F.softmax(q[:, :1] @ k[:, :1].mT + BIAS, -1) @ v,
    "no values": lambda q, k, v: F.softmax(q @ k.mT, -1),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    model = Do(LEFT[name])
    module = captured(model, *[SHAPE] * 3)
    assert_left_alone(fuse_attention, module)
    assert_equal_numbers(model, module, *QKV)
