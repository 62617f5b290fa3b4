"""Resizes in tiles: nearest, linear, cubic, any factor, corners aligned or not, antialiased."""

from collections.abc import Callable
from typing import Any

import pytest
import torch.nn.functional as F
from expecttest import assert_expected_inline
from torch import nn

from fluxcompile.passes.cache_resize import cache_resize
from tests.helpers import Do, assert_left_alone, assert_streams, masked, text_of

SHAPE = (1, 2, 9, 14)


def test_rewrites() -> None:
    module = masked(nn.Upsample(scale_factor=2), SHAPE)
    assert cache_resize(module) == 1
    assert_expected_inline(
        text_of(module, "tiles", "upsample"),
        """\
%cache_upsample_nearest2d: f32[1x2x18x28] = cache
%tiles: i64[12x2] = flux.tiles(%miss_window, %fresh, size=[18, 28], tile=[8, 8])
%halo_gather: f32[12x2x4x4] = flux.halo_gather(%merge, %tiles, dims=[2, 3], step=[4, 4], start=[0, 0], extent=[4, 4], fill=0.0, clamp=False)
%upsample_nearest2d_1: f32[12x2x8x8] = aten.upsample_nearest2d(%halo_gather, output_size=[8, 8], None)
%upsample_nearest2d: f32[1x2x18x28] = flux.tile_scatter(%upsample_nearest2d_1, %cache_upsample_nearest2d, %tiles, dims=[2, 3], size=[8, 8])
return [%upsample_nearest2d]""",
    )
    assert_left_alone(cache_resize, module)


def test_rewrites_what_is_separable() -> None:
    module = masked(nn.Upsample(scale_factor=2, mode="bilinear"), SHAPE)
    assert cache_resize(module) == 1
    assert_expected_inline(
        text_of(module, "tiles", "upsample"),
        """\
%cache_upsample_bilinear2d: f32[1x2x18x28] = cache
%tiles: i64[12x2] = flux.tiles(%miss_window, %fresh, size=[18, 28], tile=[8, 8])
%resample: f32[12x2x8x8] = flux.resample(%merge, %tiles, @taps_18_9, @weights_18_9, @taps_28_14, @weights_28_14, tile=[8, 8])
%upsample_bilinear2d: f32[1x2x18x28] = flux.tile_scatter(%resample, %cache_upsample_bilinear2d, %tiles, dims=[2, 3], size=[8, 8])
return [%upsample_bilinear2d]""",
    )
    assert_left_alone(cache_resize, module)


BLOCKED: dict[str, dict[str, Any]] = {
    "nearest": {"scale_factor": 2},
    "nearest, by 2 and 3": {"size": (18, 42)},
    "nearest, smaller": {"scale_factor": 0.5},
    "nearest, any size": {"size": (13, 9)},
    "nearest by 1.3": {"scale_factor": 1.3},
    "nearest exact": {"size": (13, 30), "mode": "nearest-exact"},
    "bilinear": {"scale_factor": 2, "mode": "bilinear"},
    "bilinear, smaller": {"size": (4, 5), "mode": "bilinear"},
    "bilinear by 1.7": {"scale_factor": 1.7, "mode": "bilinear"},
    "bilinear by 1.7, recomputed": {"scale_factor": 1.7, "mode": "bilinear", "recompute_scale_factor": True},
    "corners": {"size": (17, 27), "mode": "bilinear", "align_corners": True},
    "bicubic": {"scale_factor": 2, "mode": "bicubic"},
    "bicubic, corners": {"size": (20, 8), "mode": "bicubic", "align_corners": True},
    "antialiased": {"size": (4, 7), "mode": "bilinear", "antialias": True},
    "antialiased, cubic": {"size": (6, 21), "mode": "bicubic", "antialias": True},
    "one output": {"size": (1, 14), "mode": "bilinear"},
}


@pytest.mark.parametrize("name", BLOCKED)
def test_equal_numbers(name: str) -> None:
    model = Do(lambda x: F.interpolate(x, **BLOCKED[name]))
    module = masked(model, SHAPE)
    assert cache_resize(module) == 1
    assert_streams(model, module)


LEFT: dict[str, Callable[..., object]] = {
    "a batch": lambda x: F.interpolate(x.transpose(0, 1), scale_factor=2),
    "opaque": lambda x: F.interpolate(x.reshape(1, 2, 14, 9), scale_factor=2),
    "no place": lambda x: F.interpolate(x.mean((2, 3), keepdim=True), size=(9, 14)),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    model = Do(LEFT[name])
    module = masked(model, SHAPE)
    assert_left_alone(cache_resize, module)
    assert_streams(model, module)
