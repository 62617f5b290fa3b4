"""A value that is scattered and gathered again over the same tiles never needs its map."""

from collections.abc import Callable

import pytest
import torch
from expecttest import assert_expected_inline
from torch import Tensor, nn

from fluxcompile.passes.cache_convolution import cache_convolution
from fluxcompile.passes.cache_pointwise import cache_pointwise
from fluxcompile.passes.cache_projection import cache_projection
from fluxcompile.passes.cancel_scatter_gather import cancel_scatter_gather
from tests.helpers import Do, assert_left_alone, assert_streams, masked, placed, seeded, text_of

SHAPE = (1, 4, 9, 20)


def blocked(model: nn.Module) -> torch.fx.GraphModule:
    module = masked(model, SHAPE)
    cache_convolution(module)
    cache_projection(module)
    cache_pointwise(module)
    return module


def test_rewrites() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.SiLU()))
    module = blocked(model)
    assert cancel_scatter_gather(module) == 1
    assert_expected_inline(
        text_of(module, "cache", "scatter", "gather", "silu"),
        """\
%cache_input_1: f32[1x4x9x20] = cache
%cache_silu: f32[1x8x7x18] = cache
%miss_input: b8[180] = flux.miss_input(%input_1, %cache_input_1, %fresh, %threshold, layout="1 4 y9 x20")
%merge: f32[1x4x9x20] = flux.merge(%input_1, %cache_input_1, %miss_input, layout="1 4 y9 x20")
%halo_gather: f32[3x4x10x10] = flux.halo_gather(%merge, %tiles, dims=[2, 3], step=[8, 8], start=[0, 0], extent=[10, 10], fill=0.0, clamp=False)
%conv2d_1: f32[3x8x8x8] = aten.conv2d(%halo_gather, @0.weight, @0.bias, stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1)  # 0
%silu_1: f32[3x8x8x8] = aten.silu(%conv2d_1)  # 1
%silu: f32[1x8x7x18] = flux.tile_scatter(%silu_1, %cache_silu, %tiles, dims=[2, 3], size=[8, 8])
return [%silu]""",
    )
    assert_left_alone(cancel_scatter_gather, module)
    assert_streams(model, module)


def test_rewrites_rows() -> None:
    model = seeded(lambda: Do(lambda x, a, b: b(a(x.flatten(2).mT).relu()), nn.Linear(4, 8), nn.Linear(8, 4)))
    module = blocked(model)
    assert cancel_scatter_gather(module) == 2
    assert_expected_inline(
        text_of(module, "cache", "scatter", "index", "linear"),
        """\
%cache_x_0: f32[1x4x9x20] = cache
%cache_linear_1: f32[1x180x4] = cache
%miss_input: b8[180] = flux.miss_input(%x_0, %cache_x_0, %fresh, %threshold, layout="1 4 y9 x20")
%merge: f32[1x4x9x20] = flux.merge(%x_0, %cache_x_0, %miss_input, layout="1 4 y9 x20")
%index_select: f32[1x180x4] = aten.index_select(%m_t, dim=1, %rows)
%linear_2: f32[1x180x8] = aten.linear(%index_select, @parts.0.weight, @parts.0.bias)  # parts.0
%relu_1: f32[1x180x8] = aten.relu(%linear_2)
%linear_3: f32[1x180x4] = aten.linear(%relu_1, @parts.1.weight, @parts.1.bias)  # parts.1
%linear_1: f32[1x180x4] = flux.row_scatter(%linear_3, %cache_linear_1, %rows, dim=1)
return [%linear_1]""",
    )
    assert_left_alone(cancel_scatter_gather, module)
    assert_streams(model, module)


CHAINS: dict[str, tuple[Callable[..., Tensor], int]] = {
    "a chain": (lambda x, a, b: b(a(x).relu().sigmoid()).tanh(), 3),
    "a second reader of the map": (lambda x, a, b: b(a(x)) + a(x).relu().amax(1, keepdim=True), 2),
    "a halo": (lambda x, a, b: b(a(x)), 0),
    "an output": (lambda x, a, b: (a(x), a(x).relu()), 1),
}


@pytest.mark.parametrize("name", CHAINS)
def test_equal_numbers(name: str) -> None:
    function, least = CHAINS[name]
    model = seeded(lambda: Do(function, *[nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)]))
    module = blocked(model)
    assert cancel_scatter_gather(module) >= least
    assert_streams(model, module)


def test_other_tiles_are_left_alone() -> None:
    model = Do(lambda x: x.sigmoid().tanh())
    module = placed(model, SHAPE)
    first, second = (n for n in module.graph.nodes if n.op == "call_function")
    first.meta["tile"], second.meta["tile"] = (4, 4), (2, 8)
    module = masked_again(module)
    assert cancel_scatter_gather(module) == 0
    assert_streams(model, module)


def masked_again(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    from fluxcompile.passes.insert_misses import insert_misses

    insert_misses(module)
    cache_pointwise(module)
    return module


def test_caches_nobody_reads_go() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 1), nn.SiLU()))
    module = blocked(model)
    before = len(module.meta["caches"])
    assert cancel_scatter_gather(module) == 3
    assert (before, len(module.meta["caches"])) == (5, 2)
