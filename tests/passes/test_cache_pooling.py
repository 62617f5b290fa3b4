"""Pooling in tiles: max, average, ceil mode, padding counted or not, adaptive."""

from collections.abc import Callable

import pytest
import torch
from expecttest import assert_expected_inline
from torch import nn

from fluxcompile.passes.cache_pooling import cache_pooling
from tests.helpers import Do, assert_left_alone, assert_streams, masked, text_of

SHAPE = (1, 4, 17, 24)


def test_rewrites() -> None:
    module = masked(nn.MaxPool2d(3, 2, 1), SHAPE)
    assert cache_pooling(module) == 1
    assert_expected_inline(
        text_of(module, "tiles", "pool"),
        """\
%cache_max_pool2d: f32[1x4x9x12] = cache
%tiles: i64[4x2] = flux.tiles(%miss_window, %fresh, size=[9, 12], tile=[8, 8])
%halo_gather: f32[4x4x17x17] = flux.halo_gather(%merge, %tiles, dims=[2, 3], step=[16, 16], start=[-1, -1], extent=[17, 17], fill=-inf, clamp=False)
%max_pool2d_1: f32[4x4x8x8] = aten.max_pool2d(%halo_gather, kernel_size=[3, 3], stride=[2, 2], padding=[0, 0], dilation=[1, 1])
%max_pool2d: f32[1x4x9x12] = flux.tile_scatter(%max_pool2d_1, %cache_max_pool2d, %tiles, dims=[2, 3], size=[8, 8])
return [%max_pool2d]""",
    )
    assert_left_alone(cache_pooling, module)


def test_rewrites_where_the_border_divides_by_fewer() -> None:
    module = masked(nn.AvgPool2d(3, 2, 1, count_include_pad=False), SHAPE)
    assert cache_pooling(module) == 1
    assert_expected_inline(
        text_of(module, "tiles", "pool"),
        """\
%cache_avg_pool2d: f32[1x4x9x12] = cache
%tiles: i64[4x2] = flux.tiles(%miss_window, %fresh, size=[9, 12], tile=[8, 8])
%resample: f32[4x4x8x8] = flux.resample(%merge, %tiles, @taps_9_17, @weights_9_17, @taps_12_24, @weights_12_24, tile=[8, 8])
%avg_pool2d: f32[1x4x9x12] = flux.tile_scatter(%resample, %cache_avg_pool2d, %tiles, dims=[2, 3], size=[8, 8])
return [%avg_pool2d]""",
    )
    assert_left_alone(cache_pooling, module)


BLOCKED: dict[str, nn.Module] = {
    "max": nn.MaxPool2d(2),
    "max, ceil": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "max, dilated": nn.MaxPool2d(3, 1, 1, 2),
    "max of negative values": Do(lambda x, pool: pool(x - 10), nn.MaxPool2d(3, 2, 1)),
    "max, uneven": nn.MaxPool2d((1, 3), (2, 1)),
    "max of a batch": Do(lambda x, pool: pool(x.transpose(0, 1)), nn.MaxPool2d(3, 2, 1)),
    "mean": nn.AvgPool2d(2),
    "mean, overlapping": nn.AvgPool2d(3, 1, 1),
    "mean, ceil": nn.AvgPool2d(3, 2, ceil_mode=True),
    "mean, ceil and padding": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "mean, padding not counted": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "mean, own divisor": nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=5),
    "adaptive": nn.AdaptiveAvgPool2d((5, 6)),
    "adaptive, uneven": nn.AdaptiveAvgPool2d((7, 9)),
    "adaptive, larger": nn.AdaptiveAvgPool2d((20, 30)),
    "adaptive, one column": nn.AdaptiveAvgPool2d((17, 1)),
    "a row": Do(lambda x, pool: pool(x.mean(2, keepdim=True)), nn.MaxPool2d((1, 2))),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_equal_numbers(name: str) -> None:
    module = masked(BLOCKED[name], SHAPE)
    assert cache_pooling(module) == 1
    assert_streams(BLOCKED[name], module)


LEFT: dict[str, Callable[..., object]] = {
    "indices": lambda x: torch.nn.functional.max_pool2d(x, 2, return_indices=True)[0],
    "adaptive max": lambda x: torch.nn.functional.adaptive_max_pool2d(x, (3, 4)),
    "the border of a batch": lambda x: torch.nn.functional.avg_pool2d(
        x.transpose(0, 1), 3, 2, 1, count_include_pad=False
    ),
    "opaque": lambda x: torch.nn.functional.max_pool2d(x.reshape(1, 4, 24, 17), 2),
    "no place": lambda x: torch.nn.functional.avg_pool2d(x.mean((2, 3), keepdim=True), 1),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    model = Do(LEFT[name])
    module = masked(model, SHAPE)
    assert_left_alone(cache_pooling, module)
    assert_streams(model, module)
