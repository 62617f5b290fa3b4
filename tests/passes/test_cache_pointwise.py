"""Element-wise ops and norms along channels, in tiles and rows."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile.passes.cache_pointwise import POINTWISE, cache_pointwise
from tests.helpers import Do, assert_left_alone, assert_streams, masked, seeded, text_of

SHAPE = (1, 4, 9, 12)
TABLE, COLUMN = torch.rand(9, 12), torch.rand(1, 4, 1, 12)


def test_rewrites() -> None:
    module = masked(nn.SiLU(), SHAPE)
    assert cache_pointwise(module) == 1
    assert_expected_inline(
        text_of(module, "tiles", "silu"),
        """\
%cache_silu: f32[1x4x9x12] = cache
%tiles: i64[4x2] = flux.tiles(%miss_input, %fresh, size=[9, 12], tile=[8, 8])
%halo_gather: f32[4x4x8x8] = flux.halo_gather(%merge, %tiles, dims=[2, 3], step=[8, 8], start=[0, 0], extent=[8, 8], fill=0.0, clamp=False)
%silu_1: f32[4x4x8x8] = aten.silu(%halo_gather)
%silu: f32[1x4x9x12] = flux.tile_scatter(%silu_1, %cache_silu, %tiles, dims=[2, 3], size=[8, 8])
return [%silu]""",
    )
    assert_left_alone(cache_pointwise, module)


def test_rewrites_tokens() -> None:
    module = masked(Do(lambda x, norm: norm(x.flatten(2).mT), nn.LayerNorm(4)), SHAPE)
    assert cache_pointwise(module) == 1
    assert_expected_inline(
        text_of(module, "rows", "norm"),
        """\
%cache_layer_norm: f32[1x108x4] = cache
%rows: i64[108] = flux.rows(%miss_input, %fresh, layout="1 y9.x12 1", dim=1)
%index_select: f32[1x108x4] = aten.index_select(%m_t, dim=1, %rows)
%layer_norm_1: f32[1x108x4] = aten.layer_norm(%index_select, normalized_shape=[4], @parts.0.weight, @parts.0.bias, eps=1e-05, cudnn_enable=False)  # parts.0
%layer_norm: f32[1x108x4] = flux.row_scatter(%layer_norm_1, %cache_layer_norm, %rows, dim=1)
return [%layer_norm]""",
    )
    assert_left_alone(cache_pointwise, module)


BLOCKED: dict[str, Callable[..., Tensor]] = {
    "of two maps": lambda x: torch.add(x, x.transpose(0, 0), alpha=2),
    "channels broadcast": lambda x: torch.mul(x, x[:, :1]),
    "a scale of its own": lambda x: torch.mul(x, x.mean((2, 3), keepdim=True)),
    "a number": lambda x: torch.rsub(x, 3),
    "a table of places": lambda x: torch.mul(x, TABLE),
    "a table of columns": lambda x: torch.mul(x, COLUMN),
    "a map turned": lambda x: torch.add(x[..., :9], x[..., :9].transpose(2, 3)),
    "softmax of channels": lambda x: torch.softmax(x, 1),
    "glu": lambda x: F.glu(x, 1),
    "batch norm": lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4) * 3),
    "where": lambda x: torch.where(x > 0.5, x, 2.0),
    "prelu": lambda x: F.prelu(x - 0.5, torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "windows": lambda x: torch.sigmoid(x.unflatten(3, (3, 4)).unflatten(2, (3, 3)).permute(0, 2, 4, 1, 3, 5)),
    "channels last": lambda x: torch.softmax(x.permute(0, 2, 3, 1), -1),
    "of a row": lambda x: torch.sigmoid(x.mean(2, keepdim=True)),
    "a cast": lambda x: x.double(),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_equal_numbers(name: str) -> None:
    model = Do(BLOCKED[name])
    module = masked(model, SHAPE)
    assert cache_pointwise(module) >= 1
    assert_streams(model, module)


NOT_BY_ITSELF = {"clamp", "clip", "where", "glu", "dropout", "contiguous", "clone", "_to_copy"}
"""Need a bound or another argument, halve the channels, or are identities."""


def unary() -> list[str]:
    """The names in the table that take one tensor and nothing else."""
    found = []
    for name in sorted(POINTWISE):
        schema = getattr(getattr(torch.ops.aten, name, None), "default", None)
        required = [a for a in schema._schema.arguments if not a.has_default_value()] if schema is not None else []
        if [str(a.type) for a in required] == ["Tensor"] and name not in NOT_BY_ITSELF:
            found.append(name)
    return found


@pytest.mark.parametrize("name", [n for n in unary() if not n.startswith(("bitwise", "special"))])
def test_every_activation(name: str) -> None:
    model = Do(lambda x: getattr(torch.ops.aten, name).default(x * 0.9))
    module = masked(model, SHAPE)
    assert cache_pointwise(module) == 2
    assert_streams(model, module)


LEFT: dict[str, Callable[..., Tensor]] = {
    "no place": lambda x: torch.sigmoid(x.mean((2, 3))),
    "opaque": lambda x: torch.sigmoid(x.reshape(1, 4, 12, 9)),
    "norms over places": lambda x: F.group_norm(x, 2),
    "softmax of places": lambda x: x.flatten(2).softmax(-1),
    "moves": lambda x: x.permute(0, 2, 3, 1),
    "expand": lambda x: x[:, :1].expand(1, 4, 9, 12),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    model = Do(LEFT[name])
    module = masked(model, SHAPE)
    assert_left_alone(cache_pointwise, module)
    assert_streams(model, module)


def test_a_layer_norm_of_a_map() -> None:
    model = seeded(lambda: Do(lambda x, norm: norm(x.permute(0, 2, 3, 1)), nn.LayerNorm(4)))
    module = masked(model, SHAPE)
    assert cache_pointwise(module) == 1
    assert_streams(model, module)
