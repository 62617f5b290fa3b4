"""Products and reductions that keep places, in rows and tiles."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile.passes.cache_projection import cache_projection
from tests.helpers import Do, assert_left_alone, assert_streams, masked, text_of

SHAPE = (1, 4, 9, 12)
WEIGHT, MANY = torch.rand(5, 4), torch.rand(6, 4, 4)


def test_rewrites() -> None:
    module = masked(Do(lambda x, linear: linear(x.flatten(2).mT), nn.Linear(4, 5)), SHAPE)
    assert cache_projection(module) == 1
    assert_expected_inline(
        text_of(module, "rows", "linear"),
        """\
%cache_linear: f32[1x108x5] = cache
%rows: i64[108] = flux.rows(%miss_input, %fresh, layout="1 y9.x12 1", dim=1)
%index_select: f32[1x108x4] = aten.index_select(%m_t, dim=1, %rows)
%linear_1: f32[1x108x5] = aten.linear(%index_select, @parts.0.weight, @parts.0.bias)  # parts.0
%linear: f32[1x108x5] = flux.row_scatter(%linear_1, %cache_linear, %rows, dim=1)
return [%linear]""",
    )
    assert_left_alone(cache_projection, module)


def windows(x: Tensor) -> Tensor:
    """[9 windows, 12 tokens, 4 channels]."""
    return x.unflatten(3, (3, 4)).unflatten(2, (3, 3)).permute(0, 2, 4, 3, 5, 1).reshape(9, 12, 4)


BLOCKED: dict[str, Callable[..., Tensor]] = {
    "linear of a map": lambda x: F.linear(x.permute(0, 2, 3, 1), WEIGHT),
    "linear of windows": lambda x: F.linear(windows(x), WEIGHT),
    "product with a constant": lambda x: x.flatten(2).mT @ WEIGHT.T,
    "constant with a product": lambda x: WEIGHT @ x.flatten(2),
    "queries and keys": lambda x: x.flatten(2).mT @ x.flatten(2),
    "queries and keys of windows": lambda x: windows(x) @ windows(x).mT,
    "a product of one value": lambda x: torch.einsum("bnc,bmc->bnm", *[x.flatten(2).mT] * 2),
    "einsum": lambda x: torch.einsum("bchw,dc->bdhw", x, WEIGHT),
    "a map against itself": lambda x: torch.einsum("bchw,bcij->bhw", x, x),
    "addmm": lambda x: torch.addmm(WEIGHT[:, 0], x.flatten(2)[0].mT, WEIGHT.T),
    "mean of channels": lambda x: x.mean(1, keepdim=True),
    "greatest of channels": lambda x: x.amax(1),
    "sum of a row": lambda x: x.sum(3),
    "best channel": lambda x: x.argmax(1),
    "norm of channels": lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True),
    "patches": lambda x: windows(x).reshape(1, 9, 48) @ torch.ones(48, 5),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_equal_numbers(name: str) -> None:
    model = Do(BLOCKED[name])
    module = masked(model, SHAPE)
    assert cache_projection(module) == 1
    assert_streams(model, module)


LEFT: dict[str, Callable[..., Tensor]] = {
    "mixes every place": lambda x: x.mean((2, 3)),
    "channels by channels": lambda x: x.flatten(2) @ x.flatten(2).mT,
    "no place": lambda x: F.linear(x.mean((2, 3)), WEIGHT),
    "opaque": lambda x: F.linear(x.reshape(1, 27, 4, 4), WEIGHT),
    "computed weights": lambda x: F.linear(x.permute(0, 2, 3, 1), x[0, :, 0, :4]),
    "two results": lambda x: x.max(1)[0],
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    model = Do(LEFT[name])
    module = masked(model, SHAPE)
    assert_left_alone(cache_projection, module)
    assert_streams(model, module)
